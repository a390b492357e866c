"""The book as data: its parts, its chapters, and which chapter builds on which."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import book
import checks
import press

FIRST_SENTENCE = re.compile(r"\*\*Prerequisites\.\*\*(.*?\.)(?=\s|$)", re.DOTALL)


class Chapter(NamedTuple):
    """A chapter, also a planned one, whose `name` is empty. `needs` are the numbers of chapters it builds on."""

    number: str
    title: str
    name: str
    needs: tuple[str, ...]


class Part(NamedTuple):
    """Consecutive chapters, from the number `first` to the number `last`."""

    title: str
    first: str
    last: str


PARTS = (
    Part("Foundations", "01", "02"),
    Part("Transfer learning", "03", "07"),
    Part("Learning to learn", "08", "13"),
    Part("Going further", "14", "16"),
)
# What is known of a chapter before it is written. An entry has no effect once the chapter exists.
PLANNED = {
    "04": Chapter("04", "Many tasks", "", ("03",)),
    "07": Chapter("07", "Learning without labels", "", ("03",)),
    "14": Chapter("14", "Metric-based learning", "", ("01",)),
    "15": Chapter("15", "Applications", "", ("10",)),
    "16": Chapter("16", "Open problems", "", ("13",)),
}


@functools.cache
def chapters() -> dict[str, Chapter]:
    """All chapters by number, in order: those that exist and those that are planned."""
    names = {source.stem[:2]: source.stem for source in press.sources()}
    known = set(names) | set(PLANNED)
    found = {number: _existing(name, known) for number, name in names.items()}
    planned = {number: plan._replace(needs=tuple(sorted(known & set(plan.needs)))) for number, plan in PLANNED.items()}
    return dict(sorted((planned | found).items()))


def _existing(name: str, known: set[str]) -> Chapter:
    number = name[:2]
    title = _short_titles().get(number, book.heading(number).partition(":")[0])
    return Chapter(number, title, name, needs(book.prose(number)[0], known - {number}))


@functools.cache
def _short_titles() -> dict[str, str]:
    """The titles in the README's table of chapters."""
    rows = [row for _, row in checks.tables(press.ROOT / "README.md") if "chapter" in row and row.get("", "").isdigit()]
    return {row[""]: re.sub(r"\[(.+?)\]\(.*?\)", r"\1", row["chapter"]) for row in rows}


def needs(text: str, known: set[str]) -> tuple[str, ...]:
    """The chapters that the first sentence of a chapter's prerequisites names.

    >>> needs("**Prerequisites.** Adam (chapter [02](02_a.ipynb)) and 95 % intervals. Chapter 03 helps.", {"02", "03"})
    ('02',)
    """
    sentence = FIRST_SENTENCE.search(text)
    numbers = re.findall(r"(?<!\d)\d\d(?![\d_])", sentence[1]) if sentence else []
    return tuple(sorted({number for number in numbers if number in known}))


def part_of(number: str) -> Part:
    """The part that contains a chapter."""
    return next(part for part in PARTS if part.first <= number <= part.last)


def arrows(chapters: Mapping[str, Chapter]) -> list[tuple[str, str]]:
    """Pairs (prerequisite, chapter), without those that follow from others.

    >>> one, two, three = (Chapter(n, "", "", needs) for n, needs in (("1", ()), ("2", ("1",)), ("3", ("1", "2"))))
    >>> arrows({"1": one, "2": two, "3": three})
    [('1', '2'), ('2', '3')]
    """
    return [
        (need, number)
        for number, chapter in chapters.items()
        for need in chapter.needs
        if not any(need in _all_needs(chapters, other) for other in chapter.needs)
    ]


def _all_needs(chapters: Mapping[str, Chapter], number: str) -> set[str]:
    """The chapters that one needs directly or through others; a circle of needs has an end."""
    found: set[str] = set()
    waiting: Sequence[str] = chapters[number].needs
    while waiting:
        found |= set(waiting)
        waiting = [need for one in waiting for need in chapters[one].needs if need not in found]
    return found
