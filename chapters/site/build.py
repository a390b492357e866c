"""Builds the website of the book from the stored notebooks, without running a chapter.

    python chapters/site/build.py          build the site and print the address of its first page

The source folders of Sphinx and the HTML are written to chapters/site/_build, which git ignores. The first language is
at the root of the site, and every other edition of the chapters (see press.py) in a folder of its own.
"""

import contextlib
import importlib
import io
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import chapter_pages  # noqa: E402
import front  # noqa: E402
import nbformat  # noqa: E402
import press  # noqa: E402
import results  # noqa: E402
from project_links import Files, prose_pages  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.util.console import nocolor  # noqa: E402
from sphinx.util.docutils import docutils_namespace  # noqa: E402

BUILD = HERE / "_build"
# Modules with a function `pages()`, which maps names of documents to MyST Markdown.
GENERATED = ("tables", "recipes", "reference", "results")
NAMES = {"en": "English", "zh": "中文"}
SPHINX_NAMES = {"zh": "zh_CN"}


def build(target: Path = BUILD, chapters: Path = press.CHAPTERS) -> list[str]:
    """Build the site in `target` from the notebooks in the folder `chapters`, and return Sphinx' warnings."""
    warnings = []
    languages = editions(chapters)
    shutil.rmtree(target / "html", ignore_errors=True)  # no page stays that the book no longer has
    for language in languages:
        source = target / "source" / language
        write_sources(source, language, chapters)
        warnings += run_sphinx(source, target, language, languages)
    return warnings


def editions(chapters: Path) -> list[str]:
    """The languages in which there is at least one chapter, the first language first."""
    others = sorted({notebook.parent.name for notebook in chapters.glob("*/[0-9][0-9]_*.ipynb")})
    return [press.FIRST_LANGUAGE, *(language for language in others if language in NAMES)]


def run_sphinx(source: Path, target: Path, language: str, languages: list[str]) -> list[str]:
    """Build one edition."""
    html = target / "html" if language == press.FIRST_LANGUAGE else target / "html" / language
    settings = {
        "language": SPHINX_NAMES.get(language, language),
        "html_context": {"editions": switch(language, languages)},
        "html_extra_path": [str(source / "_extra")],
    }
    warnings = io.StringIO()
    nocolor()
    with docutils_namespace():
        doctrees = target / "doctrees" / language
        sphinx = Sphinx(
            str(source), str(HERE), str(html), str(doctrees), "html", settings, status=None, warning=warnings
        )
        sphinx.build(force_all=True)  # otherwise the index of the search loses entries of pages that did not change
    return warnings.getvalue().splitlines()


def switch(language: str, languages: list[str]) -> list[dict[str, str | bool]]:
    """The entries of the language switch: for each edition its name and the path to it from the root of this one."""
    up = "" if language == press.FIRST_LANGUAGE else "../"
    return [
        {
            "name": NAMES[other],
            "code": other,
            "path": up + ("" if other == press.FIRST_LANGUAGE else f"{other}/"),
            "current": other == language,
        }
        for other in languages
    ]


def write_sources(folder: Path, language: str, chapters: Path) -> None:
    """Write the source folder of Sphinx for one edition: chapters, generated pages, files and the first page."""
    contents = dict(_contents(language, chapters))
    for file, content in contents.items():
        target = folder / file
        # Sphinx reads only what has changed.
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for file in folder.rglob("*"):
        if file.is_file() and file.relative_to(folder).as_posix() not in contents:
            file.unlink()


def _contents(language: str, chapters: Path) -> Iterator[tuple[str, bytes]]:
    """The files of the source folder."""
    files = Files()
    for source in press.sources():
        stored = press.stored_at(source, language, chapters)
        if not stored.exists():
            stored = press.stored_at(source, press.FIRST_LANGUAGE, chapters)
        yield f"_extra/notebooks/{stored.name}", stored.read_bytes()
        page = chapter_pages.page(nbformat.read(stored, 4), source.stem, files)
        yield f"chapters/{stored.name}", nbformat.writes(page).encode()
    for image in chapters.glob("*.png"):
        yield f"chapters/{image.name}", image.read_bytes()
    prose, images = prose_pages(files)
    pages = {**generated_pages(), **prose}
    for image in {*results.IMAGES, *(path.relative_to(press.ROOT).as_posix() for path in images)}:
        yield image, (press.ROOT / image).read_bytes()
    for name, text in {**pages, **files.pages(), "index": front.page(language, list(pages))}.items():
        yield f"{name}.md", text.encode()


def generated_pages() -> Mapping[str, str]:
    """The pages that are written by modules and not by hand; no line ends within `0.9 ± 0.1`."""
    pages: dict[str, str] = {}
    for name in GENERATED:
        if (HERE / f"{name}.py").exists():
            pages |= importlib.import_module(name).pages()
    pages = {document: re.sub(r"(\d) ± (\d)", "\\1\u00a0±\u00a0\\2", text) for document, text in pages.items()}
    for above in {front.parent(document, pages) for document in pages} - {""}:
        below = [f"/{document}" for document in pages if front.parent(document, pages) == above]
        pages[above] += f"\n\n{front.toctree(below)}\n"
    return pages


def main() -> int:
    """Build the site, print Sphinx' warnings and where the site is, and return the exit code."""
    with contextlib.redirect_stdout(io.StringIO()):
        warnings = build()
    print("\n".join([*warnings, f"The book is at {(BUILD / 'html' / 'index.html').as_uri()}"]))
    return 1 if warnings else 0


if __name__ == "__main__":
    sys.exit(main())
