"""Transfer: what a model has learned on one task, carried to another."""

from meta_keras.transfer.adapters import Frozen, with_low_rank, with_residual
from meta_keras.transfer.features import extract_features, feature_extractor
from meta_keras.transfer.finetune import fine_tune, freeze
from meta_keras.transfer.policy import Strategy
from meta_keras.transfer.policy_network import StrategyNetwork
from meta_keras.transfer.weights import Transfer, blend_weights, transfer_weights

__all__ = [
    "Frozen",
    "Strategy",
    "StrategyNetwork",
    "Transfer",
    "blend_weights",
    "extract_features",
    "feature_extractor",
    "fine_tune",
    "freeze",
    "transfer_weights",
    "with_low_rank",
    "with_residual",
]
