"""Figures in one style: legible in print, in greyscale, and to colour-blind readers."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meta_keras.tasks.episodes import Episode

# From dark to light in even steps, so that the order survives a photocopy; hues that no eye mixes up.
PALETTE = ("#14213d", "#a4302a", "#23828a", "#e0913a", "#a5cde8")
RIGHT, WRONG = PALETTE[2], PALETTE[1]
FRAME = 2.0

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
    # A line is told by its dashes too, where colour fails.
    "axes.prop_cycle": cycler(color=PALETTE) + cycler(linestyle=["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]),
}


def style() -> None:
    """Draw every figure from now on in the house style (matplotlib's rcParams)."""
    plt.rcParams.update(STYLE)


@contextlib.contextmanager
def in_style() -> Iterator[None]:
    """The house style for one figure. Unlike `plt.rc_context` it puts back its own settings alone: a notebook turns
    on interactive drawing with its first figure, and that must last.
    """
    kept = {setting: plt.rcParams[setting] for setting in STYLE}
    plt.rcParams.update(STYLE)
    try:
        yield
    finally:
        plt.rcParams.update(kept)


def show_episode(
    episode: Episode,
    *,
    task: int = 0,
    queries: int = 6,
    scores: np.ndarray | None = None,
    title: str | None = None,
) -> Figure:
    """One task of pictures: a row a class, its support examples on the left, some of its queries on the right.

    scores: (queries, ways) a learner's scores for the task. Each query then wears a frame: solid if it was told
        right, dashed if wrong, with the class that it was taken for below.
    """
    support_x, support_y, query_x, query_y = (np.asarray(part[task]) for part in episode)
    if support_x.ndim != 4:
        raise ValueError(f"Only pictures can be shown; an example of this task has shape {support_x.shape[1:]}.")
    guesses = None if scores is None else np.asarray(scores).argmax(axis=-1)
    ways = int(support_y.max()) + 1
    shots = int(np.bincount(support_y).max())
    shown = min(queries, int(np.bincount(query_y).max()))
    with in_style():
        figure = plt.figure(figsize=(0.75 * (shots + shown) + 1.1, 0.82 * ways + 0.5))
        left, right = figure.subfigures(1, 2, width_ratios=(shots + 0.6, shown))
        for part, heading, columns in ((left, "support", shots), (right, "query", shown)):
            part.suptitle(heading, fontsize=10)
            part.subplots(ways, columns, squeeze=False)
        for label in range(ways):
            members = np.flatnonzero(support_y == label)
            for axes, picture in zip(_row(left, label, shots), support_x[members], strict=False):
                _draw(axes, picture)
            _row(left, label, shots)[0].set_ylabel(f"class {label}", rotation=0, ha="right", va="center")
            members = np.flatnonzero(query_y == label)[:shown]
            for axes, member in zip(_row(right, label, shown), members, strict=False):
                _draw(axes, query_x[member])
                if guesses is not None:
                    _frame(axes, guess=int(guesses[member]), truth=label)
        for axes in figure.axes:
            _bare(axes)
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
    """Named curves over the epochs, each labelled at its end. `level` draws one more, flat: ("chance", 0.2)."""
    with in_style():
        axes = axes or plt.figure().add_subplot()
        for name, values in curves.items():
            steps = np.arange(1, len(values) + 1)
            (line,) = axes.plot(steps, values, label=name)
            axes.annotate(
                name,
                (steps[-1], values[-1]),
                (6, 0),
                textcoords="offset points",
                va="center",
                color=line.get_color(),
            )
        if level is not None:
            axes.axhline(level[1], color="0.45", linewidth=1, linestyle=(0, (2, 2)))
            axes.annotate(level[0], (1, level[1]), (0, 4), textcoords="offset points", color="0.35")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel=xlabel, ylabel=ylabel)
    return axes


def _row(part: Figure, row: int, columns: int) -> list[Axes]:
    return part.axes[row * columns : (row + 1) * columns]


def _draw(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, vmin=0, vmax=1)


def _frame(axes: Axes, *, guess: int, truth: int) -> None:
    right = guess == truth
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=FRAME, color=RIGHT if right else WRONG)
        if not right:
            spine.set(linestyle=(0, (2, 1.5)), capstyle="butt")  # the usual cap would close the gaps
    if not right:
        axes.set_xlabel(f"as {guess}", fontsize=8, color=WRONG, labelpad=2)


def _bare(axes: Axes) -> None:
    """Take away ticks and grid, and the frame too where no verdict has thickened it."""
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(spine.get_linewidth() >= FRAME)
    if not axes.images:
        axes.set_visible(False)
