"""Learning without labels: models that learn features from inputs alone, and how useful these features are."""

from meta_keras.unsupervised.cactus import cluster_classes
from meta_keras.unsupervised.clustering import Clusters, k_means
from meta_keras.unsupervised.contrastive import Contrastive, contrastive_loss
from meta_keras.unsupervised.coverage import DensityCoverage, density_and_coverage, effective_classes
from meta_keras.unsupervised.gan import GAN, gan_losses
from meta_keras.unsupervised.protocol import few_shot_score
from meta_keras.unsupervised.rotation import Rotation, rotation_similarity
from meta_keras.unsupervised.umtra import UMTRA
from meta_keras.unsupervised.vae import VAE, gaussian_kl

__all__ = [
    "GAN",
    "UMTRA",
    "VAE",
    "Clusters",
    "Contrastive",
    "DensityCoverage",
    "Rotation",
    "cluster_classes",
    "contrastive_loss",
    "density_and_coverage",
    "effective_classes",
    "few_shot_score",
    "gan_losses",
    "gaussian_kl",
    "k_means",
    "rotation_similarity",
]
