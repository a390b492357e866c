"""Transfer: what a model has learned on one task, used for another."""

from meta_keras.transfer.adapters import with_low_rank, with_residual
from meta_keras.transfer.distillation import Distiller
from meta_keras.transfer.distillation_losses import feature_loss, soft_labels, soft_loss
from meta_keras.transfer.domain_adaptation import DomainAdaptation, pair_domains
from meta_keras.transfer.domain_losses import GradientReversal, RisingWeight, coral_loss
from meta_keras.transfer.features import extract_features, feature_extractor
from meta_keras.transfer.fine_tuning import fine_tune, unfreeze_gradually
from meta_keras.transfer.freezing import Frozen, freeze
from meta_keras.transfer.layer_learning_rates import LayerwiseLearningRates
from meta_keras.transfer.strategy import Strategy
from meta_keras.transfer.strategy_network import StrategyNetwork
from meta_keras.transfer.structure import join_models, same_structure, split_model
from meta_keras.transfer.weights import TransferReport, blend_weights, transfer_weights
from meta_keras.transfer.zero_shot import ZeroShot, calibrated, describe_names, harmonic_mean

__all__ = [
    "Distiller",
    "DomainAdaptation",
    "Frozen",
    "GradientReversal",
    "LayerwiseLearningRates",
    "RisingWeight",
    "Strategy",
    "StrategyNetwork",
    "TransferReport",
    "ZeroShot",
    "blend_weights",
    "calibrated",
    "coral_loss",
    "describe_names",
    "extract_features",
    "feature_extractor",
    "feature_loss",
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
    "unfreeze_gradually",
    "with_low_rank",
    "with_residual",
]
