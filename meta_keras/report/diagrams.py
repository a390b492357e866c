"""Boxes and arrows: how things hang together, before any code."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from meta_keras.report.figures import PALETTE, in_style

FILLS = {"plain": "#eef1f5", "marked": "#fbe6cf"}


def diagram(
    boxes: Mapping[str, tuple[float, float, str]],
    arrows: Sequence[tuple[str, str, str]],
    *,
    marked: Sequence[str] = (),
    size: tuple[float, float] = (7.0, 2.6),
) -> Figure:
    """A figure of boxes with text, and arrows between them.

    boxes: for each name its place, x and y between 0 and 1, and its text. arrows: from, to, and a word beside it.
    marked: the names of boxes to set off from the others.

    >>> figure = diagram({"a": (0.2, 0.5, "task"), "b": (0.8, 0.5, "answer")}, [("a", "b", "learn")])
    """
    unknown = [name for start, end, _ in arrows for name in (start, end) if name not in boxes]
    if unknown:
        raise ValueError(f"Arrows join boxes {', '.join(boxes)}; there is no {unknown[0]!r}.")
    with in_style():
        figure = plt.figure(figsize=size)
        axes = figure.add_subplot()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.axis("off")
        drawn = {
            name: axes.text(
                x,
                y,
                text,
                ha="center",
                va="center",
                bbox={
                    "boxstyle": "round,pad=0.5",
                    "facecolor": FILLS["marked" if name in marked else "plain"],
                    "edgecolor": PALETTE[0],
                },
                zorder=3,
            )
            for name, (x, y, text) in boxes.items()
        }
        for start, end, word in arrows:
            axes.annotate(
                "",
                xy=boxes[end][:2],
                xytext=boxes[start][:2],
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": PALETTE[0],
                    "patchA": drawn[start].get_bbox_patch(),
                    "patchB": drawn[end].get_bbox_patch(),
                    "shrinkA": 2,
                    "shrinkB": 2,
                },
            )
            middle = [(a + b) / 2 for a, b in zip(boxes[start][:2], boxes[end][:2], strict=True)]
            if word:
                axes.text(*middle, word, ha="center", va="center", fontsize=9, color="0.3", backgroundcolor="white")
    return figure
