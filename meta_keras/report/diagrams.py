"""Diagrams of boxes and arrows, which show how parts are connected before any code does."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meta_keras import checks
from meta_keras.report.figures import PALETTE, in_style

FILLS = {"plain": "#eef1f5", "marked": "#fbe6cf"}
Box = tuple[float, float, str]
Arrow = tuple[str, str, str]


def diagram(
    boxes: Mapping[str, Box],
    arrows: Sequence[Arrow],
    *,
    marked: Sequence[str] = (),
    size: tuple[float, float] = (7.0, 2.6),
) -> Figure:
    """A figure of boxes with text, and arrows between them.

    boxes: for each name `(x, y, text)`, with x and y from 0 to 1. arrows: `(from, to, label)`, where an empty label
        is none. marked: the names of boxes to highlight. size: width and height in inches.

    >>> figure = diagram({"a": (0.2, 0.5, "task"), "b": (0.8, 0.5, "answer")}, [("a", "b", "learn")])
    """
    _check_boxes(boxes)
    _check_arrows(boxes, arrows)
    if not isinstance(marked, list | tuple) or not all(isinstance(name, str) and name in boxes for name in marked):
        raise ValueError(f"marked must be a list of names from {list(boxes)}; got {checks.shown(marked)}.")
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError(f"size must be (width, height) in inches; got {checks.shown(size)}.")
    checks.positive(width=size[0], height=size[1])
    with in_style():
        figure = plt.figure(figsize=tuple(size))
        axes = figure.add_subplot()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.axis("off")
        drawn = {name: _draw_box(axes, *box, marked=name in marked) for name, box in boxes.items()}
        for start, end, label in arrows:
            _draw_arrow(axes, boxes[start], boxes[end], label, patches=(drawn[start], drawn[end]))
    return figure


def _draw_box(axes: Axes, x: float, y: float, text: str, *, marked: bool) -> Any:
    frame = {
        "boxstyle": "round,pad=0.5",
        "facecolor": FILLS["marked" if marked else "plain"],
        "edgecolor": PALETTE[0],
    }
    return axes.text(x, y, text, ha="center", va="center", bbox=frame, zorder=3).get_bbox_patch()


def _draw_arrow(axes: Axes, start: Box, end: Box, label: str, *, patches: tuple[Any, Any]) -> None:
    line = {"arrowstyle": "-|>", "color": PALETTE[0], "shrinkA": 2, "shrinkB": 2}
    line |= {"patchA": patches[0], "patchB": patches[1]}
    axes.annotate("", xy=end[:2], xytext=start[:2], arrowprops=line)
    if label:
        middle = [(a + b) / 2 for a, b in zip(start[:2], end[:2], strict=True)]
        axes.text(*middle, label, ha="center", va="center", fontsize=9, color="0.3", backgroundcolor="white")


def _check_boxes(boxes: Any) -> None:
    checks.mapping(boxes=boxes)
    for name, box in boxes.items():
        if not isinstance(box, list | tuple) or len(box) != 3:
            raise ValueError(
                f"boxes[{name!r}] must be (x, y, text), such as (0.5, 0.5, 'task'); got {checks.shown(box)}."
            )
        checks.finite(x=box[0], y=box[1])
        checks.text(text=box[2])


def _check_arrows(boxes: Mapping[str, Box], arrows: Any) -> None:
    listed = isinstance(arrows, list | tuple)
    if not listed or not all(isinstance(arrow, list | tuple) and len(arrow) == 3 for arrow in arrows):
        raise ValueError(f"arrows must be a list of (from, to, label); got {checks.shown(arrows)}.")
    for start, end, label in arrows:
        checks.text(start=start, end=end, label=label)
        for name in (start, end):
            if name not in boxes:
                raise ValueError(f"Arrows connect the boxes {', '.join(boxes)}; there is no box {name!r}.")
