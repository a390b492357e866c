"""A Sphinx extension that links what the text only names: formulas, terms of the glossary and names of the library."""

import re
from collections.abc import Callable, Iterator

import book
import library
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

STATED = re.compile(r"\\text\{\(Formula (\d+\.\d+)")
MENTIONED = re.compile(r"Formulas? \d+\.\d+(?:(?:, | and | to )\d+\.\d+)*")
NUMBER = re.compile(r"(?:Formulas? )?(\d+\.\d+)")
UNLINKED = (nodes.reference, nodes.title, nodes.literal, nodes.FixedTextElement, nodes.math, nodes.raw, nodes.target)
Replace = Callable[[str], Iterator[nodes.Node]]


class StatedFormulas(SphinxTransform):
    """Gives the statement of a formula in a chapter the anchor `formula-10-3`, and the search an entry for it."""

    default_priority = 400

    def apply(self) -> None:
        """Mark the first statement of every formula."""
        if not self.env.docname.startswith("chapters/"):
            return
        found = set()
        for display in list(self.document.findall(nodes.math_block)):
            for number in STATED.findall(display.astext()):
                if number in found:
                    continue
                found.add(number)
                anchor = book.anchor("formula", number)
                entry = ("single", f"Formula {number}", anchor, "", None)
                target = nodes.target("", "", ids=[anchor])
                display.parent.insert(display.parent.index(display), [addnodes.index(entries=[entry]), target])


def resolve(app: Sphinx, document: nodes.document, name: str) -> None:
    """Add the links to a page, when all pages are known."""
    pages = _Pages(app, name)
    if name.startswith("chapters/"):
        for target in list(document.findall(nodes.target)):
            if target["ids"] and target["ids"][0].startswith("formula-"):
                _link_to_list(target, pages)
        _replace_text(document, _Terms(pages))
    _replace_text(document, lambda text: _formulas(text, pages))
    for literal in list(document.findall(nodes.literal)):
        target = pages.library(literal.astext())
        if target and not _within(literal, (nodes.reference, nodes.title, addnodes.desc_signature)):
            literal.replace_self(nodes.reference("", "", literal.deepcopy(), refuri=target, internal=True))


class _Pages:
    """Addresses of other pages, relative to a page."""

    def __init__(self, app: Sphinx, name: str) -> None:
        self.app, self.name = app, name

    def address(self, document: str, anchor: str) -> str | None:
        """The address of an anchor, unless it is this page itself or there is no such document."""
        if document not in self.app.env.all_docs or document == self.name:
            return None
        return f"{self.app.builder.get_relative_uri(self.name, document)}#{anchor}"

    def library(self, code: str) -> str | None:
        """The address of the entry for a name of the library."""
        anchor = library.resolve(code)
        found = self.app.env.get_domain("py").data["objects"].get(anchor)
        return self.address(found.docname, found.node_id) if found else None

    def formula(self, number: str) -> str | None:
        """The address of the statement of a formula in its chapter."""
        home = book.home_of(number)
        return self.address(book.page_of(home), book.anchor("formula", number)) if home in book.titles() else None


class _Terms:
    """Links the first use of every term of the glossary on a page."""

    def __init__(self, pages: _Pages) -> None:
        self.pages = pages
        self.open = {name.lower(): book.anchor("term", term.names[0]) for term in book.terms() for name in term.names}
        names = sorted(map(re.escape, self.open), key=len, reverse=True)
        self.pattern = re.compile(rf"(?<![\w-])({'|'.join(names)})s?(?![\w-])", re.IGNORECASE)
        self.used: set[str] = set()

    def __call__(self, text: str) -> Iterator[nodes.Node]:
        """The text with links for terms that were not used before."""
        start = 0
        for match in self.pattern.finditer(text):
            anchor = self.open[match[1].lower()]
            address = self.pages.address("guide/glossary", anchor)
            if anchor not in self.used and address:
                self.used.add(anchor)
                yield nodes.Text(text[start : match.start()])
                yield nodes.reference("", match[0], refuri=address, internal=True, classes=["term"])
                start = match.end()
        yield nodes.Text(text[start:])


def _formulas(text: str, pages: _Pages) -> Iterator[nodes.Node]:
    """The text with a link for every mentioned formula."""
    start = 0
    for mention in MENTIONED.finditer(text):
        for match in NUMBER.finditer(text, mention.start(), mention.end()):
            address = pages.formula(match[1])
            if address:
                yield nodes.Text(text[start : match.start()])
                yield nodes.reference("", match[0], refuri=address, internal=True)
                start = match.end()
    yield nodes.Text(text[start:])


def _replace_text(document: nodes.document, replace: Replace) -> None:
    for text in list(document.findall(nodes.Text)):
        if _within(text, UNLINKED):
            continue
        parts = [part for part in replace(text.astext()) if part.astext()]
        if len(parts) > 1 or any(isinstance(part, nodes.reference) for part in parts):
            text.parent.replace(text, parts)


def _within(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def _link_to_list(target: nodes.target, pages: _Pages) -> None:
    """A link from the statement of a formula to its row in the list of formulas."""
    anchor = target["ids"][0]
    address = pages.address("guide/formulas", anchor)
    if address:
        number = anchor.removeprefix("formula-").replace("-", ".")
        link = nodes.reference("", f"{number} in the list of formulas", refuri=address, internal=True)
        target.parent.insert(target.parent.index(target) + 1, nodes.paragraph("", "", link, classes=["formula-link"]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_transform(StatedFormulas)
    app.connect("doctree-resolved", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
