"""Learning without labels: models that learn features from inputs alone, and how useful these features are."""

from meta_keras.unsupervised.contrastive import Contrastive
from meta_keras.unsupervised.protocol import few_shot_score
from meta_keras.unsupervised.rotation import Rotation, rotation_similarity
from meta_keras.unsupervised.vae import VAE

__all__ = ["VAE", "Contrastive", "Rotation", "few_shot_score", "rotation_similarity"]
