"""Transfer: what a model has learned on one task, carried to another."""

from meta_keras.transfer.distill import Distiller
from meta_keras.transfer.soft import soft_labels, soft_loss
from meta_keras.transfer.structure import join_models, same_structure, split_model

__all__ = ["Distiller", "join_models", "same_structure", "soft_labels", "soft_loss", "split_model"]
