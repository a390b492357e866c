"""What the chapters and the guide contain: their Markdown, their formulas, and the terms of the glossary."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import checks
import press

README, GUIDE = press.ROOT / "README.md", checks.GUIDE
MENTIONED = re.compile(r"Formulas? (\d+\.\d+)")
DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
# The number of a formula at the end of a display, and possibly for which case it is: "(Formula 10.3 for K steps)".
TAG = re.compile(r"\s*(?:\\qquad|\\quad)?\s*\\text\{\(Formula (\d+\.\d+)([^$]*)\)\}\s*$")

# A sentence with fewer words is quoted with the one before it.
SHORT = 10


class Term(NamedTuple):
    """A term of the glossary, from all rows that list it."""

    names: tuple[str, ...]
    note: str
    chinese: str
    symbol: str
    code: str
    chapters: str


@functools.cache
def titles() -> dict[str, str]:
    """The titles of the chapters, by their numbers."""
    return {source.stem[:2]: heading(source.stem[:2]) for source in press.sources()}


def heading(number: str) -> str:
    """The first-level heading of a chapter."""
    return prose(number)[0].partition("\n")[0].lstrip("# ")


def page_of(number: str) -> str:
    """The document of a chapter on the site, such as `chapters/10_maml`."""
    return f"chapters/{press.sources([number])[0].stem}"


def chapter_link(number: str, text: str = "") -> str:
    """A link to a chapter, if it exists."""
    return f"{{doc}}`{text or number} </{page_of(number)}>`" if number in titles() else text or number


def chapter_links(numbers: Iterable[str]) -> str:
    return ", ".join(chapter_link(number) for number in numbers)


@functools.cache
def prose(number: str) -> tuple[str, ...]:
    """The Markdown cells of a chapter, in its first language."""
    edition = press.editions(press.load(press.sources([number])[0]))[press.FIRST_LANGUAGE]
    return tuple(cell.source for cell in edition.cells if cell.cell_type == "markdown")


def section(page: Path, heading: str) -> str:
    """The text below a heading of a page, up to the next heading of the same level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = page.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    if not found:
        raise ValueError(f"{page.name} has no heading {heading!r}.")
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()


def rows(heading: str) -> list[dict[str, str]]:
    """The rows of the guide's tables below a heading."""
    return [row for where, row in checks.tables() if where == heading]


def anchor(kind: str, name: str) -> str:
    """The anchor of a formula or of a term, such as `formula-10-3`."""
    return f"{kind}-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def home_of(formula: str) -> str:
    """The number of the chapter that states a formula."""
    return f"{int(formula.partition('.')[0]):02d}"


@functools.cache
def statements(formula: str) -> tuple[str, ...]:
    """The displays of a formula in its chapter, in TeX, without its number where it is at the end."""
    if home_of(formula) not in titles():
        return ()
    displays = [tex for cell in prose(home_of(formula)) for tex in DISPLAY.findall(cell)]
    found = [tex for tex in displays if re.search(rf"Formula {re.escape(formula)}\b(?!\.\d)", tex)]
    return tuple(TAG.sub("", tex).strip() for tex in found)


@functools.cache
def terms() -> tuple[Term, ...]:
    """The glossary, with one entry for each term."""
    found: dict[str, Term] = {}
    for row in (row for row in rows("Glossary") if "中文" in row):
        term = Term(*_names(row["term"]), row["中文"], row["symbol"], row["name in code"], row["chapter"])
        names = term.names
        if names[0] in found:
            term = _merged(found[names[0]], term)
        found[names[0]] = term
    return tuple(sorted(found.values(), key=lambda term: term.names[0].lower()))


@functools.cache
def definitions() -> dict[str, str]:
    """What terms mean, by their first names, where the sentence that introduces them does not say it."""
    return {row["term"]: row["definition"] for row in rows("Glossary") if "definition" in row}


def _names(cell: str) -> tuple[tuple[str, ...], str]:
    """The names in a cell, and what it says about them: in parentheses, or after "in D1"."""
    notes = re.findall(r"\(([^()]*)\)|, (in D\d .*)", cell)
    bare = re.sub(r" \([^()]*\)|, in D\d .*", "", cell)
    names = (bare,) if " and " in bare else re.split(r"[,;] ", bare)
    return tuple(names), "; ".join("".join(note) for note in notes)


def _merged(first: Term, second: Term) -> Term:
    def both(one: str, other: str, between: str = ", ") -> str:
        return between.join(dict.fromkeys(part for part in (*one.split(between), *other.split(between)) if part))

    names = tuple(dict.fromkeys((*first.names, *second.names)))
    return Term(names, both(first.note, second.note, "; "), *map(both, first[2:], second[2:]))


class Introduction(NamedTuple):
    """Where a term is introduced: the chapter, the place of the Markdown cell in it, and the sentence."""

    number: str
    cell: int
    sentence: str


@functools.cache
def introduction(term: Term) -> Introduction | None:
    """The sentence that introduces a term: with its Chinese name, else with its English one in bold or at all."""
    chinese = [re.escape(word) for word in re.split(r", (?:also |in D\d )?", term.chinese) if word]
    english = [re.escape(name) for name in term.names]
    wanted = (
        "|".join(rf"(?<![\w\u4e00-\u9fff]){word}(?![\u4e00-\u9fff])" for word in chinese),
        "|".join(rf"\*\*{name}s?\*\*" for name in english),
        "|".join(rf"(?<![\w-]){name}s?(?![\w-])" for name in english),
    )
    listed = [number for number in re.findall(r"\d\d", term.chapters) if number in titles()]
    for pattern in filter(None, wanted):
        for number in dict.fromkeys((*listed, *titles())):
            for found in _sentences(number):
                if re.search(pattern, found.sentence, re.IGNORECASE):
                    return found
    return None


@functools.cache
def _sentences(number: str) -> tuple[Introduction, ...]:
    """The sentences of a chapter's paragraphs and list items, without tables, headings and displays."""
    found = []
    for place, cell in enumerate(prose(number)):
        text = DISPLAY.sub("\n\n", re.sub(r"^(#.*|\|.*|!\[.*)$", "", cell, flags=re.MULTILINE))
        text = re.sub(r"^> ?", "", text, flags=re.MULTILINE)
        for block in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) ", "\n" + text) if place else ():
            flat = re.sub(r"^(?:[-*]|\d+\.) ", "", " ".join(block.split()))
            before = ""
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z*$`])", flat):
                whole = f"{before} {sentence}" if before and len(sentence.split()) < SHORT else sentence
                found.append(Introduction(number, place, re.sub(r"[:;]$|(?<=\w)$", " ...", whole)))
                before = sentence
    return tuple(found)
