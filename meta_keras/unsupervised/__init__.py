"""Learning without labels: models that learn features from inputs alone, and how useful these features are."""

from meta_keras.unsupervised.contrastive import Contrastive, contrastive_loss
from meta_keras.unsupervised.protocol import few_shot_score
from meta_keras.unsupervised.rotation import Rotation, rotation_similarity
from meta_keras.unsupervised.vae import VAE, gaussian_kl

__all__ = [
    "VAE",
    "Contrastive",
    "Rotation",
    "contrastive_loss",
    "few_shot_score",
    "gaussian_kl",
    "rotation_similarity",
]
