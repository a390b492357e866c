"""Where tasks come from: the distribution that they are drawn from, h(x) = rho(x; xi).

Article D2, one of five that the book starts from, calls this distribution the meta-task.
"""

from meta_keras.tasks.curves import Curves, Sinusoids
from meta_keras.tasks.datasets import load
from meta_keras.tasks.episodes import Episode, Tasks
from meta_keras.tasks.few_shot import FewShot
from meta_keras.tasks.pools import ClassPool

__all__ = ["ClassPool", "Curves", "Episode", "FewShot", "Sinusoids", "Tasks", "load"]
