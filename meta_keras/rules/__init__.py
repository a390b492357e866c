"""Rules of adaptation, one a file: D2's meta-policy g(x) = psi(x; omega)."""

from meta_keras.rules.base import Rule
from meta_keras.rules.gradient import GradientDescent
from meta_keras.rules.implicit import ImplicitGradient
from meta_keras.rules.metric import Prototypes
from meta_keras.rules.reptile import Reptile

__all__ = ["GradientDescent", "ImplicitGradient", "Prototypes", "Reptile", "Rule"]
