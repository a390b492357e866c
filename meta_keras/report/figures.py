"""Figures in one style that is legible in print, in grayscale, and for color-blind readers."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meta_keras import checks
from meta_keras.inputs import as_inputs, is_image_shape
from meta_keras.tasks.episodes import Episode

# From dark to light in even steps, so that grayscale keeps the order; hues that color-blind readers can distinguish.
PALETTE = ("#14213d", "#a4302a", "#23828a", "#e0913a", "#a5cde8")
CORRECT, MISCLASSIFIED = PALETTE[2], PALETTE[1]
FRAME_WIDTH = 2.0

STYLE = {
    "figure.figsize": (7.0, 3.2),
    "figure.dpi": 96,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 96,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "image.cmap": "gray_r",
    "image.interpolation": "nearest",
    # The dashes distinguish lines where colors do not.
    "axes.prop_cycle": cycler(color=PALETTE) + cycler(linestyle=["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]),
}


def style() -> None:
    """Draw all further figures in the style of this package (matplotlib's rcParams).

    >>> style()
    >>> bool(plt.rcParams["axes.grid"])
    True
    """
    plt.rcParams.update(STYLE)


@contextlib.contextmanager
def in_style() -> Iterator[None]:
    """The style for one figure. Unlike `plt.rc_context`, it restores only its own settings: a notebook turns on
    interactive drawing with its first figure, and that must last.
    """
    previous = {setting: plt.rcParams[setting] for setting in STYLE}
    plt.rcParams.update(STYLE)
    try:
        yield
    finally:
        plt.rcParams.update(previous)


def show_episode(
    episode: Episode,
    *,
    task: int = 0,
    queries: int = 6,
    scores: np.ndarray | None = None,
    title: str | None = None,
) -> Figure:
    """One task of images: a row per class, with its support examples on the left and some of its queries on the right.

    task: which task of the batch. queries: how many queries per class are shown at most.
    scores: (queries, ways) a learner's logits for the task. Each query then has a frame: solid if it was classified
        correctly, and dashed if it was misclassified, with the predicted class below.

    >>> from meta_keras import FewShot, load
    >>> episode = next(iter(FewShot(load("glyphs"), ways=5, shots=1, queries=4)))
    >>> figure = show_episode(episode, queries=4)
    >>> len(figure.axes)  # five support images and twenty queries
    25
    """
    checks.at_least(0, task=task)
    checks.at_least(1, queries=queries)
    checks.text(title="" if title is None else title)
    support_x, support_y, query_x, query_y = _one_task(episode, task)
    predictions = None if scores is None else _predictions(scores, len(query_y))
    ways = int(support_y.max()) + 1
    shots = int(np.bincount(support_y).max())
    shown = min(queries, int(np.bincount(query_y).max()))
    with in_style():
        figure = plt.figure(figsize=(0.75 * (shots + shown) + 1.1, 0.82 * ways + 0.5))
        left, right = figure.subfigures(1, 2, width_ratios=(shots + 0.6, shown))
        for half, heading, columns in ((left, "support", shots), (right, "query", shown)):
            half.suptitle(heading, fontsize=10)
            half.subplots(ways, columns, squeeze=False)
        for label in range(ways):
            members = np.flatnonzero(support_y == label)
            for axes, image in zip(_row(left, label, shots), support_x[members], strict=False):
                _draw(axes, image)
            _row(left, label, shots)[0].set_ylabel(f"class {label}", rotation=0, ha="right", va="center")
            members = np.flatnonzero(query_y == label)[:shown]
            for axes, member in zip(_row(right, label, shown), members, strict=False):
                _draw(axes, query_x[member])
                if predictions is not None:
                    _frame(axes, predicted=int(predictions[member]), label=label)
        for axes in figure.axes:
            _remove_ticks(axes)
        if title:
            figure.suptitle(title, fontsize=11)
    return figure


def learning_curves(
    curves: Mapping[str, Sequence[float]],
    *,
    ylabel: str = "loss",
    xlabel: str = "epoch",
    level: tuple[str, float] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Named curves over the epochs, each labeled at its end. `level` adds a horizontal line: ("chance", 0.2).

    >>> axes = learning_curves({"training": [1.6, 0.9, 0.7], "validation": [1.7, 1.2, 1.1]}, level=("chance", 1.61))
    >>> axes.get_ylabel()
    'loss'
    """
    _check_curves(curves)
    checks.text(ylabel=ylabel, xlabel=xlabel)
    if level is not None:
        if not isinstance(level, list | tuple) or len(level) != 2:
            raise ValueError(f'level must be a name and a number, such as ("chance", 0.2); got {checks.shown(level)}.')
        checks.text(name=level[0])
        checks.finite(level=level[1])
    if axes is not None and not isinstance(axes, Axes):
        raise ValueError(f"axes must be the axes of a matplotlib figure; got {checks.shown(axes)}.")
    with in_style():
        axes = axes or plt.figure().add_subplot()
        for name, values in curves.items():
            steps = np.arange(1, len(values) + 1)
            (line,) = axes.plot(steps, values, label=name)
            end, beside = (steps[-1], values[-1]), {"textcoords": "offset points", "va": "center"}
            axes.annotate(name, end, (6, 0), color=line.get_color(), **beside)
        if level is not None:
            axes.axhline(level[1], color="0.45", linewidth=1, linestyle=(0, (2, 2)))
            axes.annotate(level[0], (1, level[1]), (0, 4), textcoords="offset points", color="0.35")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel=xlabel, ylabel=ylabel)
    return axes


def _one_task(episode: Any, task: int) -> tuple[np.ndarray, ...]:
    """The four arrays of a single task in a batch, with images from 0 to 1."""
    if not isinstance(episode, Episode):
        raise ValueError(
            "episode must be a batch of tasks, such as next(iter(meta_keras.FewShot(pool))); "
            f"got {checks.shown(episode)}."
        )
    parts = [as_inputs(tf.convert_to_tensor(part)) for part in (episode.support_x, episode.query_x)]
    labels = [np.asarray(part) for part in (episode.support_y, episode.query_y)]
    if not all(len(part.shape) == 5 and is_image_shape(part.shape[2:]) for part in parts):
        raise ValueError(
            "Only images can be shown, (tasks, examples, height, width, channels); the examples have shape "
            f"{tuple(parts[0].shape)}."
        )
    if not all(label.ndim == 2 and label.dtype.kind in "iu" and label.size and label.min() >= 0 for label in labels):
        raise ValueError("Only tasks with integer labels from 0 up can be shown; these have other labels.")
    count = min(len(part) for part in (*parts, *labels))
    if task >= count:
        raise ValueError(f"task must be less than the {count} tasks of the batch; got {task}.")
    return np.asarray(parts[0][task]), labels[0][task], np.asarray(parts[1][task]), labels[1][task]


def _predictions(scores: Any, queries: int) -> np.ndarray:
    """(queries,) the class with the largest logit."""
    checks.numbers(scores=scores)
    scores = np.asarray(scores)
    if scores.ndim != 2 or len(scores) != queries or not scores.size or np.isnan(scores).any():
        raise ValueError(
            f"scores must be logits of shape (queries, ways) for the {queries} queries of this task, without NaN; "
            f"got {checks.shown(scores)}."
        )
    return scores.argmax(axis=-1)


def _check_curves(curves: Any) -> None:
    checks.mapping(curves=curves)
    if not curves:
        raise ValueError("curves must have at least one curve, such as {'training': history['loss']}; got {}.")
    for name, values in curves.items():
        checks.text(name=name)
        checks.numbers(**{name: values})
        if np.ndim(values) != 1 or not len(values):
            raise ValueError(f"curves[{name!r}] must be a list of numbers, one per epoch; got {checks.shown(values)}.")


def _row(part: Figure, row: int, columns: int) -> list[Axes]:
    return part.axes[row * columns : (row + 1) * columns]


def _draw(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, vmin=0, vmax=1)


def _frame(axes: Axes, *, predicted: int, label: int) -> None:
    correct = predicted == label
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=FRAME_WIDTH, color=CORRECT if correct else MISCLASSIFIED)
        if not correct:
            spine.set(linestyle=(0, (2, 1.5)), capstyle="butt")  # the default cap would close the gaps
    if not correct:
        axes.set_xlabel(f"as {predicted}", fontsize=8, color=MISCLASSIFIED, labelpad=2)


def _remove_ticks(axes: Axes) -> None:
    """Remove ticks and grid, and also the frame unless `_frame` has drawn it."""
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(spine.get_linewidth() >= FRAME_WIDTH)
    if not axes.images:
        axes.set_visible(False)
