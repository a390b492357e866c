"""Rules of adaptation, one a file: D2's meta-policy g(x) = psi(x; omega)."""

from meta_keras.rules.base import Rule
from meta_keras.rules.metric import Prototypes

__all__ = ["Prototypes", "Rule"]
