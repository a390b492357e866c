"""skeleton"""
from meta_keras.unsupervised.base import Unlabeled


class VAE(Unlabeled):
    """To be written."""
