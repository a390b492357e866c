"""Adaptation rules, one per file: how a network adapts to the support set of a task, g(x) = psi(x; omega).

Article D2, one of five that the book starts from, calls an adaptation rule a meta-policy.
"""

from meta_keras.rules.base import Adaptation, Context, Rule
from meta_keras.rules.coordinate_generator import CoordinateGenerator
from meta_keras.rules.gradient_descent import GradientDescent
from meta_keras.rules.implicit import ImplicitGradient
from meta_keras.rules.learned_loss import LearnedLoss
from meta_keras.rules.prototypes import Prototypes
from meta_keras.rules.reptile import Reptile
from meta_keras.rules.update_network import UpdateNetwork
from meta_keras.rules.updates import FixedRate, LearnedRates, Step, Update
from meta_keras.rules.weight_generator import WeightGenerator

__all__ = [
    "Adaptation",
    "Context",
    "CoordinateGenerator",
    "FixedRate",
    "GradientDescent",
    "ImplicitGradient",
    "LearnedLoss",
    "LearnedRates",
    "Prototypes",
    "Reptile",
    "Rule",
    "Step",
    "Update",
    "UpdateNetwork",
    "WeightGenerator",
]
