"""The map of the book: a drawing (SVG) of all chapters and of what builds on what."""

import textwrap
from collections.abc import Mapping
from html import escape
from typing import NamedTuple

import outline

WIDTH, HEIGHT, GAP, HEADING, SPACE = 112, 54, 10, 26, 22
LINE, LONGEST = 15, 14


class Place(NamedTuple):
    """The upper left corner of a chapter's box."""

    x: float
    y: float


def both(current: str = "", root: str = "") -> str:
    """The map for wide and for narrow screens; the style sheet shows one of them.

    current: the number of the chapter at which the map appears.
    root: the path from the page to the root of the site, such as `../`.
    """
    sizes = {"wide": 6, "narrow": 3}
    maps = "".join(
        f'<div class="book-map {name}">{draw(columns, current, root)}</div>' for name, columns in sizes.items()
    )
    return f'<nav class="book-maps" aria-label="Map of the book">{maps}</nav>'


def draw(columns: int, current: str = "", root: str = "") -> str:
    """The map with this many boxes in a row, as one SVG element."""
    chapters = outline.chapters()
    places, headings, height = layout(chapters, columns)
    width = columns * (WIDTH + GAP) - GAP
    shown = [
        *(_arrow(places[a], places[b], current in (a, b)) for a, b in outline.arrows(chapters)),
        *(_heading(part, y, current) for part, y in headings),
        *(_box(chapter, places[number], current, root) for number, chapter in chapters.items()),
    ]
    return (
        f'<svg viewBox="-2 0 {width + 4} {height}" role="group" aria-label="{_description(current)}">'
        f"{''.join(shown)}</svg>"
    )


def layout(
    chapters: Mapping[str, outline.Chapter], columns: int
) -> tuple[dict[str, Place], list[tuple[outline.Part, float]], float]:
    """Where the boxes and the headings of the parts are, and the height of the map."""
    places, headings, y = {}, [], 0.0
    for part in outline.PARTS:
        numbers = [number for number in chapters if part.first <= number <= part.last]
        if not numbers:
            continue
        headings.append((part, y))
        y += HEADING
        for start in range(0, len(numbers), columns):
            row = numbers[start : start + columns]
            places |= {number: Place(n * (WIDTH + GAP), y) for n, number in enumerate(row)}
            y += HEIGHT + SPACE
    return places, headings, y - SPACE + 4


def _description(current: str) -> str:
    here = f" This is chapter {current}." if current else ""
    return f"The chapters of the book; an arrow leads from a chapter to one that builds on it.{here}"


def _arrow(start: Place, end: Place, strong: bool) -> str:
    """A curve from one box to another: to a later or earlier row, or over the boxes between them in the same row."""
    down = start.y < end.y
    x1, x2 = start.x + WIDTH / 2, end.x + WIDTH / 2
    y1 = start.y + HEIGHT if down else start.y
    y2 = end.y if start.y <= end.y else end.y + HEIGHT
    bend = 8 + 3 * abs(x2 - x1) / (WIDTH + GAP) if start.y == end.y else min(30, abs(y2 - y1) / 2 + 6)
    leave, arrive = (y1 + bend, y2 - bend) if down else (y1 - bend, y2 - bend if start.y == end.y else y2 + bend)
    tip = -6.5 if start.y <= end.y else 6.5
    curve = f"M{x1:g} {y1:g}C{x1:g} {leave:g} {x2:g} {arrive:g} {x2:g} {y2 + 0.6 * tip:g}"
    head = f"M{x2 - 4:g} {y2 + tip:g}L{x2:g} {y2:g}L{x2 + 4:g} {y2 + tip:g}"
    return f'<path class="arrow{" strong" if strong else ""}" d="{curve}{head}"/>'


def _heading(part: outline.Part, y: float, current: str) -> str:
    here = " here" if current and outline.part_of(current) == part else ""
    return f'<text class="part{here}" x="0" y="{y + 15:g}">{escape(part.title)}</text>'


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
