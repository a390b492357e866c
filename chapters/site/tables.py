"""The guide's tables as pages: notation, formulas, glossary, errata, and from the articles to the chapters."""

import re

import book
import docstrings
import library


def pages() -> dict[str, str]:
    """The pages of the guide."""
    return {
        "guide/articles": articles(),
        "guide/notation": notation(),
        "guide/formulas": formulas(),
        "guide/glossary": glossary(),
        "guide/errata": errata(),
    }


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def linked(cell: str) -> str:
    """A cell with its code as links to the reference."""
    return docstrings.CODE.sub(lambda match: docstrings.name(match[0][1:-1]), cell)


def articles() -> str:
    """The five articles, and the chapters that cover their sections."""
    first, *rest = book.section(book.GUIDE, "## From the documents to the chapters").split("\n\n")
    documents = next(block for block in rest if block.startswith("| article |"))
    covered = [
        [row["section"], _chapters(row["chapter"]), linked(row["name in code"])]
        for row in book.rows("From the documents to the chapters")
        if "section" in row
    ]
    introduction = first.replace("; `documents.json` lists the headings of their sections", "")
    return (
        f"# From the articles to the chapters\n\n{introduction}\n\n{documents}\n\n"
        "The {doc}`errata </guide/errata>` list errors in the articles and their corrections.\n\n"
        f"## Sections\n\n{table(['section', 'chapter', 'names in code'], covered)}\n"
    )


def _chapters(cell: str) -> str:
    return re.sub(r"\d\d", lambda match: book.chapter_link(match[0]), cell)


def notation() -> str:
    rows = [[row["symbol"], row["meaning"], linked(row["name in code"])] for row in book.rows("Notation")]
    text = "The symbols of the book, in the order of the chapters that introduce them, and their names in the library."
    return f"# Notation\n\n{text}\n\n{table(['symbol', 'meaning', 'name in code'], rows)}\n"


def formulas() -> str:
    """Every formula with its meaning, its chapter, and the names of the library that compute it."""
    parts = [
        "# Formulas",
        "A formula has the same number in its chapter, in its test and, where this library rather than Keras computes "
        "it, in the {doc}`reference </reference/index>`. For example, `test_formula_1_5` in `tests/test_formulas.py` "
        "tests Formula 1.5.",
    ]
    chapter = ""
    for row in book.rows("Formulas"):
        number = row["formula"]
        if book.home_of(number) != chapter:
            chapter = book.home_of(number)
            parts.append(f"## {book.chapter_link(chapter, f'{chapter} {book.titles().get(chapter, chapter)}')}")
        parts.append(_formula(number, row["meaning"]))
    return "\n\n".join(parts) + "\n"


def _formula(number: str, meaning: str) -> str:
    displays = "\n\n".join(f"$${tex}$$" for tex in book.statements(number))
    where = f"{{ref}}`chapter {book.home_of(number)} <{book.anchor('stated', number)}>`" if displays else ""
    names = [entry.name for entry in library.entries().values() if number in _documented(entry.found)]
    facts = [f"Stated in {where}" if where else "", f"tested by `test_formula_{number.replace('.', '_')}`"]
    facts.append(f"in the library: {', '.join(map(docstrings.name, names))}" if names else "")
    others = [n for n in book.titles() if n != book.home_of(number) and number in _mentioned(n)]
    facts.append(f"used in chapter {book.chapter_links(others)}" if others else "")
    heading = f"({book.anchor('formula', number)})=\n### Formula {number}"
    sentence = meaning[0].upper() + meaning[1:]
    found = f"```{{index}} single: {number}\n```"  # the search finds the number alone
    return f"{heading}\n\n{sentence}.\n\n{found}\n\n{displays}\n\n{'; '.join(filter(None, facts))}."


def _documented(found: object) -> list[str]:
    """The formulas in the docstrings of a public name and of its methods."""
    texts = [getattr(found, "__doc__", "") or "", *((value.__doc__ or "") for value in library.members(found).values())]
    return book.MENTIONED.findall("\n".join(texts))


def _mentioned(number: str) -> set[str]:
    return set(book.MENTIONED.findall("\n".join(book.prose(number))))


def glossary() -> str:
    """Every term in English and Chinese, with what it means and the sentence that introduces it."""
    entries = "\n\n".join(map(_entry, book.terms()))
    return (
        "# Glossary\n\nEvery term of the book in English and Chinese, with its definition, the sentence of the chapter "
        "that introduces it, or both. At its first use in a chapter, a term is linked to this page.\n\n"
        f"``````{{glossary}}\n{entries}\n``````\n"
    )


def _entry(term: book.Term) -> str:
    chinese, note = docstrings.link_articles(term.chinese), docstrings.link_articles(term.note)
    lines = [f"[]{{#{book.anchor('term', _short(term))}}}{chinese}"] if _short(term) else [chinese]
    if note:
        lines[0] += f" ({note})"
    facts = [term.symbol, linked(term.code), f"chapter {_chapters(term.chapters)}" if term.chapters else ""]
    lines[0] += "".join(f" · {fact}" for fact in facts if fact)
    lines.append(docstrings.link_articles(book.definitions().get(term.names[0], "")))
    if (found := book.introduction(term)) is not None:
        place = f"{{ref}}`Chapter {found.number} <{book.anchor('introduced', term.names[0])}>`"
        lines.append(f"{place}: {_quoted(found.sentence)}")
    body = "\n\n".join(f"  {line}" for line in lines if line)
    return "\n".join(term.names) + f"\n{body}"


def _short(term: book.Term) -> str:
    """The word that the library uses for a set: `support` for the support set."""
    return next((name.removesuffix(" set") for name in term.names if name.endswith(" set")), "")


def _quoted(sentence: str) -> str:
    """A sentence of a chapter, without links, which are relative to the chapter."""
    return re.sub(r"\[([^\[\]]+)\]\([^)]*\)", r"\1", docstrings.link_formulas(sentence))


def errata() -> str:
    """Errors in the articles, each with the correction and its test."""
    first = book.section(book.GUIDE, "## Errata").split("\n\n")[0]
    for word, other in (("table", "page"), ("row", "entry")):
        first = first.replace(word, other)
    parts = ["# Errata", first]
    article = ""
    for row in book.rows("Errata"):
        if row["section"][:2] != article:
            article = row["section"][:2]
            parts.append(f"## {article}")
        where, test = row["section"], row["test"].strip("`").partition("::")[2]
        parts.append(f"**{where}** ({_covering(where)}). {row['statement']}")
        parts.append(f"*Correction.* {linked(row['correction'])} *Test:* `{test}`")
    return "\n\n".join(parts) + "\n"


def _covering(where: str) -> str:
    """The chapters that cover the sections of an article, or the nearest sections above them."""
    article, *sections = where.replace(",", "").split()
    found: dict[str, None] = {}
    for section in sections:
        while section:
            rows = [row for row in book.rows("From the documents to the chapters") if "section" in row]
            near = [r["chapter"] for r in rows if r["section"][:2] == article and section in _sections(r)]
            found |= dict.fromkeys(number for cell in near for number in re.findall(r"\d\d", cell))
            section = "" if near else section.rpartition(".")[0]
    return f"chapter {book.chapter_links(sorted(found))}" if found else "in no chapter"


def _sections(row: dict[str, str]) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)*", re.sub(r"^D\d|\(.*\)", "", row["section"]))
