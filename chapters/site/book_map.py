"""The map of the book: a drawing (SVG) of all chapters and of what builds on what."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import outline
from map_routes import GAP, HEIGHT, WIDTH, Cell, Routes

HEADING, LINE, LONGEST = 20, 15, 14
CORNER = 4  # the radius of the bends of an arrow


class Place(NamedTuple):
    """The upper left corner of a chapter's box."""

    x: float
    y: float


class Layout(NamedTuple):
    """Where the boxes, the headings of the parts and the arrows are, and the height of the map."""

    places: dict[str, Place]
    headings: list[tuple[outline.Part, float]]
    arrows: dict[tuple[str, str], list[tuple[float, float]]]
    height: float


def both(current: str = "", root: str = "") -> str:
    """The map for wide and for narrow screens; the style sheet shows one of them.

    current: the number of the chapter at which the map appears; on a narrow screen, it is folded there.
    root: the path from the page to the root of the site, such as `../`.
    """
    wide, narrow = draw(6, current, root), draw(3, current, root)
    if current:
        narrow = f"<details><summary>Map of the book</summary>{narrow}</details>"
    maps = f'<div class="book-map wide">{wide}</div><div class="book-map narrow">{narrow}</div>'
    return f'<nav class="book-maps" aria-label="Map of the book">{maps}</nav>'


def draw(columns: int, current: str = "", root: str = "") -> str:
    """The map with this many boxes in a row, as one SVG element."""
    chapters = outline.chapters()
    places, headings, arrows, height = layout(chapters, columns)
    width = columns * (WIDTH + GAP)
    shown = [
        # What concerns the current chapter is drawn last, on top.
        *(_arrow(points, current in ends) for ends, points in sorted(arrows.items(), key=lambda a: current in a[0])),
        *(_heading(part, y, current) for part, y in headings),
        *(_box(chapter, places[number], current, root) for number, chapter in chapters.items()),
    ]
    return (
        f'<svg viewBox="{-GAP / 2 - 2:g} 0 {width + 4} {height:g}" role="group" aria-label="{_description(current)}">'
        f"{''.join(shown)}</svg>"
    )


def layout(chapters: Mapping[str, outline.Chapter], columns: int) -> Layout:
    """The map with this many boxes in a row."""
    cells, first_rows = _cells(chapters, columns)
    routes = Routes(cells, outline.arrows(chapters))
    headings, tops, y = [], [], 0.0
    for row in range(1 + max(cell.row for cell in cells.values())):
        if row in first_rows:
            headings.append((first_rows[row], y))
            y += HEADING
        tops.append(y + routes.room("above", row))
        y = tops[-1] + HEIGHT + routes.room("below", row)
    places = {number: Place(cell.column * (WIDTH + GAP), tops[cell.row]) for number, cell in cells.items()}
    return Layout(places, headings, {ends: routes.points(*ends, tops) for ends in routes.arrows}, y)


def _cells(chapters: Mapping[str, outline.Chapter], columns: int) -> tuple[dict[str, Cell], dict[int, outline.Part]]:
    """The row and column of each chapter, and the part that begins in a row."""
    cells, first_rows, row = {}, {}, 0
    for part in outline.PARTS:
        numbers = [number for number in chapters if part.first <= number <= part.last]
        if numbers:
            first_rows[row] = part
            cells |= {number: Cell(row + n // columns, n % columns) for n, number in enumerate(numbers)}
            row = cells[numbers[-1]].row + 1
    return cells, first_rows


def _description(current: str) -> str:
    here = f" This is chapter {current}." if current else ""
    return f"The chapters of the book; an arrow leads from a chapter to one that builds on it.{here}"


def _arrow(points: Sequence[tuple[float, float]], strong: bool) -> str:
    """A line with round corners through these points, with a head at its end."""
    curve = "M{:g} {:g}".format(*points[0])
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        (x1, y1), (x2, y2) = (_toward(corner, other) for other in (before, after))
        curve += f"L{x1:g} {y1:g}Q{corner[0]:g} {corner[1]:g} {x2:g} {y2:g}"
    x, y = points[-1]
    back = math.copysign(6, points[-2][1] - y)
    curve += f"L{x:g} {y + back / 2:g}M{x - 3.5:g} {y + back:g}L{x:g} {y:g}L{x + 3.5:g} {y + back:g}"
    return f'<path class="arrow{" strong" if strong else ""}" d="{curve}"/>'


def _toward(corner: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """A point near a corner, in the direction of another one."""
    share = min(0.5, CORNER / math.dist(corner, other))
    return corner[0] + share * (other[0] - corner[0]), corner[1] + share * (other[1] - corner[1])


def _heading(part: outline.Part, y: float, current: str) -> str:
    here = " here" if current and outline.part_of(current) == part else ""
    return f'<text class="part{here}" x="0" y="{y + 14:g}">{escape(part.title)}</text>'


def _box(chapter: outline.Chapter, place: Place, current: str, root: str) -> str:
    """A rectangle with the number and the title of a chapter, which links to it."""
    box = f'<rect x="{place.x:g}" y="{place.y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>{_label(chapter, place)}'
    if not chapter.name:
        return f'<g class="chapter planned">{box}</g>'
    here = ' aria-current="page"' if chapter.number == current else ""
    near = current and outline.part_of(chapter.number) == outline.part_of(current)
    state = "current" if here else "near" if near else ""
    return f'<a class="chapter {state}" href="{root}chapters/{chapter.name}.html"{here}>{box}</a>'


def _label(chapter: outline.Chapter, place: Place) -> str:
    lines = textwrap.wrap(chapter.title, LONGEST)[:2]
    x, top = place.x + 8, place.y + HEIGHT / 2 - LINE * (len(lines) + 1) / 2 + 11.5
    number = chapter.number if chapter.name else f"{chapter.number} planned"
    texts = [f'<tspan class="number" x="{x:g}" y="{top:g}">{number}</tspan>']
    texts += [f'<tspan x="{x:g}" y="{top + LINE * n:g}">{escape(line)}</tspan>' for n, line in enumerate(lines, 1)]
    return f"<text>{' '.join(texts)}</text>"
