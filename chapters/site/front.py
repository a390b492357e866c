"""The first page, and with it the order of all pages."""

from pathlib import Path

import book_map
import checks
import outline
import press

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
    """The first score in the README's table of results, what it covers, and its command."""
    row = next(row for _, row in checks.tables(press.ROOT / "README.md") if "accuracy, or error" in row)
    return {"accuracy": row["accuracy, or error"], "command": row["command"], "tasks": "600 such tasks"}


def contents(documents: list[str]) -> list[str]:
    """The tables of contents: the chapters by parts, then the generated pages by groups."""
    written = [chapter for chapter in outline.chapters().values() if chapter.name]
    groups: dict[str, list[str]] = {}
    for chapter in written:
        groups.setdefault(outline.part_of(chapter.number).title, []).append(
            f"{chapter.number} {chapter.title} <chapters/{chapter.name}>"
        )
    for document in documents:
        folder = document.partition("/")[0]
        if f"{folder}/index" in documents and document != f"{folder}/index":
            continue  # the index of a folder lists its pages
        groups.setdefault(GROUPS.get(folder, folder.capitalize()), []).append(document)
    return [_toctree(caption, pages) for caption, pages in groups.items()]


def _toctree(caption: str, pages: list[str]) -> str:
    lines = "\n".join(pages)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```"
