"""Builds the website of the book from the stored notebooks, without running a chapter.

    python chapters/site/build.py          build the site and print the address of its first page

The generated source folder of Sphinx and the HTML are in chapters/site/_build, which git ignores.
"""

import importlib
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import press  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

BUILD = HERE / "_build"
# Modules with a function `pages()`, which maps names of documents to MyST Markdown.
GENERATED = ("reference", "recipes", "tables", "results")


def generated_pages() -> dict[str, str]:
    """The pages that are written by modules and not by hand."""
    pages = {}
    for name in GENERATED:
        if (HERE / f"{name}.py").exists():
            pages |= importlib.import_module(name).pages()
    return pages


def front(documents: list[str]) -> str:
    """The first page."""
    entries = "\n".join(documents)
    return f"# Learning to learn in Keras\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"


def write_sources(folder: Path) -> None:
    """Write the source folder of Sphinx: chapters, generated pages and the first page."""
    (folder / "chapters").mkdir(parents=True, exist_ok=True)
    pages = generated_pages()
    chapters = [f"chapters/{source.stem}" for source in press.sources()]
    for source in press.sources():
        shutil.copy2(press.stored_at(source, press.FIRST_LANGUAGE), folder / "chapters")
    for image in press.CHAPTERS.glob("*.png"):
        shutil.copy2(image, folder / "chapters")
    for name, text in {**pages, "index": front([*chapters, *pages])}.items():
        file = folder / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def main() -> int:
    """Build the site and return the exit code of Sphinx."""
    source, html = BUILD / "source", BUILD / "html"
    write_sources(source)
    app = Sphinx(str(source), str(HERE), str(html), str(BUILD / "doctrees"), "html", status=None)
    app.build()
    print(f"The book is at {html / 'index.html'}")
    return app.statuscode


if __name__ == "__main__":
    sys.exit(main())
