"""skeleton"""
from meta_keras.unsupervised.base import Unlabeled


class Contrastive(Unlabeled):
    """To be written."""
