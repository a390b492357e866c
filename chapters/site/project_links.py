"""Links between files of the project, rewritten to links between pages of the site."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import press

LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
# Pages that show sections of the guide and of the README. Other sections lead to the first page.
SECTIONS = {
    "from-the-documents-to-the-chapters": "guide/articles",
    "notation": "guide/notation",
    "formulas": "guide/formulas",
    "glossary": "guide/glossary",
    "errata": "guide/errata",
    "results": "results",
    "speed": "results",
    "your-own-data": "recipes",
}
FILES, PROSE = "files", "guide"
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


class Files:
    """The files of the project that pages link to; each is shown as a page of its own."""

    def __init__(self) -> None:
        self.found: set[Path] = set()

    def page_of(self, file: Path) -> str:
        """The document that shows a file."""
        self.found.add(file)
        return f"{FILES}/{file.relative_to(press.ROOT).as_posix()}"

    def pages(self) -> dict[str, str]:
        """The documents, with files of Markdown as text and all others as code; the links in them lead to more."""
        pages: dict[str, str] = {}
        while waiting := [file for file in sorted(self.found) if self.page_of(file) not in pages]:
            for file in waiting:
                pages[self.page_of(file)] = self._page(file)
        return pages

    def _page(self, file: Path) -> str:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".md":
            return "---\norphan: true\n---\n" + rewritten(text, file.parent, self.page_of(file), self)
        language = {".py": "python", ".json": "json"}.get(file.suffix, "text")
        name = file.relative_to(press.ROOT).as_posix()
        return f"---\norphan: true\n---\n# {name}\n\n`````{{code-block}} {language}\n{text}\n`````\n"


def rewritten(text: str, folder: Path, document: str, files: Files) -> str:
    """Markdown of the project's `folder` as Markdown of a document of the site; code stays unchanged."""

    def link(match: re.Match[str]) -> str:
        return f"[{match[1]}]({_target(match[2], folder, document, files.page_of)})"

    parts = CODE.split(text)
    # Code within the text of a link must not divide the link, so inline code is put back before links are replaced.
    kept = {f"\0{number}\0": part for number, part in enumerate(parts) if number % 2}
    whole = "".join(f"\0{number}\0" if number % 2 else part for number, part in enumerate(parts))
    whole = LINK.sub(link, whole)
    return re.sub(r"\0\d+\0", lambda match: kept[match[0]], whole)


def prose_pages(files: Files) -> tuple[dict[str, str], set[Path]]:
    """The pages of Markdown beside the chapters, except for the guide, and the images on them."""
    pages, images = {}, set()
    for file in sorted(press.CHAPTERS.glob("[!R]*.md")):
        document = f"{PROSE}/{file.stem}"
        text = rewritten(file.read_text(encoding="utf-8"), file.parent, document, files)
        found = {target: (file.parent / target).resolve() for _, target in IMAGE.findall(text)}
        images |= set(found.values())
        paths = {target: path.relative_to(press.ROOT).as_posix() for target, path in found.items()}
        pages[document] = IMAGE.sub(lambda m, paths=paths: f"![{m[1]}](/{paths[m[2]]}){{.plot}}", text)
    return pages, images


def slug(anchor: str) -> str:
    """The anchor of a heading on the site, from its anchor in Jupyter or on GitHub.

    >>> slug("How-sure-are-we?")
    'how-sure-are-we'
    """
    return re.sub(r"[^\w\- ]", "", anchor.lower()).replace(" ", "-")


def _target(target: str, folder: Path, document: str, page_of: Callable[[Path], str]) -> str:
    """The target of a link on the page of a document."""
    if re.match(r"[a-z]+:", target):
        return target
    name, _, anchor = target.partition("#")
    if not name:
        return f"#{slug(anchor)}"
    file = (folder / name).resolve()
    if not file.is_file() or press.ROOT not in file.parents:
        return target
    end = f"#{slug(anchor)}" if anchor else ""
    if file.suffix == ".ipynb":
        return relative(f"chapters/{file.name}", document) + end
    if file.suffix == ".md" and file.parent == press.CHAPTERS and file.name != "README.md":
        return relative(f"{PROSE}/{file.name}", document) + end
    if file.name == "README.md" and file.parent in (press.ROOT, press.CHAPTERS):
        return relative(SECTIONS.get(anchor, "index"), document) + ".md"
    return relative(page_of(file), document) + ".md" + end


def relative(target: str, document: str) -> str:
    """The path from the page of a document to another document.

    >>> relative("guide/errata", "chapters/10_maml")
    '../guide/errata'
    """
    return os.path.relpath(target, os.path.dirname(document) or ".").replace(os.sep, "/")
