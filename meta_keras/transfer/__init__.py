"""Transfer: what a model has learned on one task, carried to another."""

from meta_keras.transfer.domain import DomainAdaptation, GradientReversal, coral_loss, pair_domains
from meta_keras.transfer.zero_shot import ZeroShot, calibrated, describe_names, harmonic_mean

__all__ = [
    "DomainAdaptation",
    "GradientReversal",
    "ZeroShot",
    "calibrated",
    "coral_loss",
    "describe_names",
    "harmonic_mean",
    "pair_domains",
]
