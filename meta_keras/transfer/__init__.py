"""Transfer: what a model has learned on one task, carried to another."""

from meta_keras.transfer.adapters import Frozen, with_low_rank, with_residual
from meta_keras.transfer.distill import Distiller
from meta_keras.transfer.features import extract_features, feature_extractor
from meta_keras.transfer.finetune import fine_tune, freeze
from meta_keras.transfer.soft import soft_labels, soft_loss
from meta_keras.transfer.structure import join_models, same_structure, split_model
from meta_keras.transfer.weights import Transfer, blend_weights, transfer_weights

__all__ = [
    "Distiller",
    "Frozen",
    "Transfer",
    "blend_weights",
    "extract_features",
    "feature_extractor",
    "fine_tune",
    "freeze",
    "join_models",
    "same_structure",
    "soft_labels",
    "soft_loss",
    "split_model",
    "transfer_weights",
    "with_low_rank",
    "with_residual",
]
