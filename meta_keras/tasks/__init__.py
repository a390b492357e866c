"""Where tasks come from: D2's meta-task h(x) = rho(x; xi)."""

from meta_keras.tasks.curves import Curves, Sinusoids
from meta_keras.tasks.datasets import load
from meta_keras.tasks.episodes import Episode, Tasks
from meta_keras.tasks.few_shot import FewShot
from meta_keras.tasks.pools import ClassPool

__all__ = ["ClassPool", "Curves", "Episode", "FewShot", "Sinusoids", "Tasks", "load"]
