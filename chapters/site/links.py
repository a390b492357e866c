"""Links in the text of a chapter: to formulas, to the glossary at the first use of a term, to names of the library."""

import re

import book
import docstrings
import library
from nbformat import NotebookNode

# What must stay as it is: code, mathematics, links, images, addresses, roles, HTML, and headings.
KEPT = (
    r"```.*?```",
    r"~~~.*?~~~",
    r"\$\$.*?\$\$",
    r"\$(?:\\.|[^$\\])+\$",
    r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\([^)]*\)",
    r"\{[\w:+.-]+\}`[^`]*`",
    r"`+[^`]+`+",
    r"<[^<>]+>",
    r"https?://\S+",
    r"^#+ [^\n]*$",
)
PIECES = re.compile(f"({'|'.join(KEPT)})", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`]+`")


def link_chapter(notebook: NotebookNode, number: str) -> NotebookNode:
    """Add links to the Markdown cells of a chapter, in place. Its first cell only gets links to names and formulas."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    terms = {term: False for term in book.terms()}
    stated: set[str] = set()
    introduced: dict[int, list[str]] = {}
    for term in terms:
        if (found := book.introduction(term)) is not None and found.number == number:
            introduced.setdefault(found.cell, []).append(book.anchor("introduced", term.names[0]))
    for place, cell in enumerate(cells):
        linked = _with_formulas(link_text(cell.source, terms if place else {}), number, stated)
        cell.source = "".join(f"({anchor})=\n" for anchor in introduced.get(place, [])) + linked
    return notebook


def link_text(markdown: str, used: dict[book.Term, bool]) -> str:
    """The same Markdown with links. Of the terms, those that are not `used` yet are linked once, and marked."""
    return "".join(_kept(piece) if PIECES.fullmatch(piece) else _prose(piece, used) for piece in PIECES.split(markdown))


def _kept(piece: str) -> str:
    """Code that names something of the library as a link, and everything else as it is."""
    # A module without `mk.` may also be a variable, such as `tasks`.
    is_name = CODE.fullmatch(piece) and piece[1:-1] not in library.modules()
    return docstrings.name(piece[1:-1]) if is_name else piece


def _prose(text: str, used: dict[book.Term, bool]) -> str:
    """A piece of plain text. Longer terms come first, because they may contain shorter ones."""
    open_terms = {_words(name): term for term, done in used.items() if not done for name in term.names}
    names = [r"[\s-]+".join(map(re.escape, name.split())) for name in sorted(open_terms, key=len, reverse=True)]
    pattern = rf"(?<![\w-])({'|'.join(names)})(s?)(?![\w-])" if names else "(?!)"

    def link(match: re.Match[str]) -> str:
        term = open_terms[_words(match[1])]
        if used[term]:
            return match[0]
        used[term] = True
        return f"{{term}}`{' '.join(match[0].split())} <{term.names[0]}>`"

    return docstrings.link_formulas(re.sub(pattern, link, text, flags=re.IGNORECASE))


def _words(name: str) -> str:
    """A term in small letters, without the hyphens and line breaks that its words may be joined by."""
    return " ".join(re.split(r"[\s-]+", name.lower()))


def _with_formulas(markdown: str, number: str, stated: set[str]) -> str:
    """Numbers of formulas as links below them, and an anchor where the chapter states a formula for the first time."""
    anchors = []

    def display(match: re.Match[str]) -> str:
        for formula in book.MENTIONED.findall(match[1]):
            if book.home_of(formula) == number and formula not in stated:
                stated.add(formula)
                anchors.append(f"({book.anchor('stated', formula)})=\n")
        tag = book.TAG.search(match[1])
        if tag is None:
            return match[0]
        case = re.sub(r"\}\s*(.*?)\s*\\text\{", r"$\1$", tag[2])
        link = f"[Formula {tag[1]}](#{book.anchor('formula', tag[1])})"
        return f"$${book.TAG.sub('', match[1])}$$\n\n{{.formula-number}}\n({link}{case})\n"

    linked = book.DISPLAY.sub(display, markdown)
    return "".join(anchors) + linked
