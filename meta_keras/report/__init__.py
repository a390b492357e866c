"""Results with their confidence intervals, as numbers, tables and figures."""

from meta_keras.report.diagrams import diagram
from meta_keras.report.figures import PALETTE, learning_curves, show_episode, style
from meta_keras.report.progress import Lines
from meta_keras.report.results import measured
from meta_keras.report.scores import Score, evaluate, mean_and_interval
from meta_keras.report.tables import Table

__all__ = [
    "PALETTE",
    "Lines",
    "Score",
    "Table",
    "diagram",
    "evaluate",
    "learning_curves",
    "mean_and_interval",
    "measured",
    "show_episode",
    "style",
]
