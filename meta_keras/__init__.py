"""meta_keras: learn, teach and use learning to learn (元学习) in Keras.

Document D2 describes meta-learning by three functions, and they correspond to the parts of this library:

    f(x) = phi(x; theta)   meta-knowledge, what is learned          meta_keras.networks
    g(x) = psi(x; omega)   meta-policy, how it adapts to a task     meta_keras.rules
    h(x) = rho(x; xi)      meta-task, where tasks come from         meta_keras.tasks

`MetaLearner` combines them.
"""

from meta_keras.startup import start_tensorflow

start_tensorflow()

from meta_keras import classical, functional, multitask, networks, report, rules, transfer, unsupervised  # noqa: E402
from meta_keras.copies import restart  # noqa: E402
from meta_keras.learned_optimizer import LearnedOptimizer  # noqa: E402
from meta_keras.learner import MetaLearner  # noqa: E402
from meta_keras.loop import maml_loop  # noqa: E402
from meta_keras.report import Score, evaluate  # noqa: E402
from meta_keras.tasks import ClassPool, Curves, Episode, FewShot, Sinusoids, Tasks, load  # noqa: E402
from meta_keras.unrolled_training import UnrolledTraining  # noqa: E402
from meta_keras.version import __version__  # noqa: E402, F401

__all__ = [
    "ClassPool",
    "Curves",
    "Episode",
    "FewShot",
    "LearnedOptimizer",
    "MetaLearner",
    "Score",
    "Sinusoids",
    "Tasks",
    "UnrolledTraining",
    "classical",
    "evaluate",
    "functional",
    "load",
    "maml_loop",
    "multitask",
    "networks",
    "report",
    "restart",
    "rules",
    "transfer",
    "unsupervised",
]
