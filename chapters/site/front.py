"""The first page, and with it the order of all pages."""

from collections.abc import Iterable
from pathlib import Path

import book_map
import checks
import outline
import press
import results

HERE = Path(__file__).resolve().parent
GROUPS = {"guide": "Guide", "recipes": "Library", "reference": "Library", "results": "Library"}


def page(language: str, documents: list[str]) -> str:
    """The first page as MyST Markdown. Its text is in front.md, or in front.zh.md for Chinese, if there is one."""
    translated = HERE / f"front.{language}.md"
    text = (translated if translated.exists() else HERE / "front.md").read_text(encoding="utf-8")
    score = headline()
    for name, value in {"map": book_map.both(), **score}.items():
        text = text.replace(f"{{{name}}}", value)
    return "\n\n".join([text, *contents(documents)]) + "\n"


def headline() -> dict[str, str]:
    """The first score in the README's table of results with its command, and what the caption compares it with."""
    row = next(row for _, row in checks.tables(press.ROOT / "README.md") if "accuracy, or error" in row)
    accuracy = row["accuracy, or error"].replace(" ", "\u00a0")
    return {"accuracy": accuracy, "command": row["command"], "tasks": "600", "within": within_an_alphabet()}


def within_an_alphabet() -> str:
    """The accuracy on tasks like the one in the figure, whose characters belong to one alphabet."""
    record = next(record for record in results.records() if record.name == "chapter_01")
    mean, interval = record.results["prototypes, 30000 images, seed 0"]["5-way within an alphabet"]
    return f"{mean:.3f}\u00a0±\u00a0{interval:.3f}"


def contents(documents: list[str]) -> list[str]:
    """The tables of contents: the chapters by parts, then the generated pages by groups."""
    groups: dict[str, list[str]] = {}
    for chapter in outline.chapters().values():
        if chapter.name:
            entry = f"{chapter.number} {chapter.title} <chapters/{chapter.name}>"
            groups.setdefault(outline.part_of(chapter.number).title, []).append(entry)
    for document in documents:
        if not parent(document, documents):
            folder = document.partition("/")[0]
            groups.setdefault(GROUPS.get(folder, folder.capitalize()), []).append(document)
    return [toctree(pages, caption) for caption, pages in groups.items()]


def parent(document: str, documents: Iterable[str]) -> str:
    """The document that is above another one: for `a/b` it is `a/index` or `a`, if there is one, or nothing."""
    folder = document.rpartition("/")[0]
    above = (f"{folder}/index", folder)
    return next((name for name in above if folder and name in documents and name != document), "")


def toctree(pages: list[str], caption: str = "") -> str:
    """A table of contents that only the sidebar shows."""
    lines = "\n".join([":hidden:", *([f":caption: {caption}"] if caption else []), "", *pages])
    return f"```{{toctree}}\n{lines}\n```"
