"""Transfer: what a model has learned on one task, carried to another."""

from meta_keras.transfer.adapters import with_low_rank, with_residual
from meta_keras.transfer.distill import Distiller
from meta_keras.transfer.domain import DomainAdaptation, GradientReversal, coral_loss
from meta_keras.transfer.features import extract_features, feature_extractor
from meta_keras.transfer.finetune import fine_tune, freeze
from meta_keras.transfer.frozen import Frozen
from meta_keras.transfer.pairing import pair_domains
from meta_keras.transfer.policy import Strategy
from meta_keras.transfer.policy_network import StrategyNetwork
from meta_keras.transfer.soft import soft_labels, soft_loss
from meta_keras.transfer.structure import join_models, same_structure, split_model
from meta_keras.transfer.weights import Transfer, blend_weights, transfer_weights
from meta_keras.transfer.zero_shot import ZeroShot, calibrated, describe_names, harmonic_mean

__all__ = [
    "Distiller",
    "DomainAdaptation",
    "Frozen",
    "GradientReversal",
    "Strategy",
    "StrategyNetwork",
    "Transfer",
    "ZeroShot",
    "blend_weights",
    "calibrated",
    "coral_loss",
    "describe_names",
    "extract_features",
    "feature_extractor",
    "fine_tune",
    "freeze",
    "harmonic_mean",
    "join_models",
    "pair_domains",
    "same_structure",
    "soft_labels",
    "soft_loss",
    "split_model",
    "transfer_weights",
    "with_low_rank",
    "with_residual",
]
