"""Multi-task learning: one network for several tasks, which share a trunk and have a head each."""

from meta_keras.multitask.generalization import describe_tasks, generalize
from meta_keras.multitask.losses import Difference, average_loss, difference_loss
from meta_keras.multitask.model import MultiTask
from meta_keras.multitask.sampling import mix_tasks
from meta_keras.multitask.surgery import gradient_cosines, project_conflicts
from meta_keras.multitask.uncertainty import uncertainty_loss

__all__ = [
    "Difference",
    "MultiTask",
    "average_loss",
    "describe_tasks",
    "difference_loss",
    "generalize",
    "gradient_cosines",
    "mix_tasks",
    "project_conflicts",
    "uncertainty_loss",
]
