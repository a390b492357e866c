"""The reference: every public name of the library with its signature, docstring, example, and chapters."""

import inspect
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import book
import docstrings
import library
import tables
from library import Entry

import meta_keras

TITLES = {
    library.LEARNERS: "Learners",
    "tasks": "Tasks and data",
    "networks": "Networks",
    "rules": "Adaptation rules",
    "transfer": "Transfer learning",
    "multitask": "Multi-task learning",
    "unsupervised": "Learning without labels",
    "report": "Scores, tables and figures",
    "classical": "Classical learning",
    "functional": "Models as functions",
}


def pages() -> dict[str, str]:
    """An overview, and a page for each module."""
    names = sorted({entry.page for entry in library.entries().values()}, key=list(TITLES).index)
    return {"reference/index": overview(names)} | {f"reference/{name}": module_page(name) for name in names}


def entries_of(page: str) -> list[Entry]:
    return [entry for entry in library.entries().values() if entry.page == page]


def overview(names: Iterable[str]) -> str:
    """All names with the first sentence of their docstrings."""
    parts = [
        "# Reference",
        "All public names of the library, generated from its docstrings. The examples in them are run by the tests. "
        "`mk` stands for `meta_keras`, as in `import meta_keras as mk`. To see how the names work together, start with "
        f"{book.chapter_link('01', 'chapter 01')} or the {{doc}}`recipes </recipes>`.",
    ]
    for name in names:
        rows = [[docstrings.name(f"mk.{entry.name}"), _summary(entry)] for entry in entries_of(name)]
        parts.append(f"## {{doc}}`{TITLES[name]} </reference/{name}>`\n\n{tables.table(['name', 'what it is'], rows)}")
    return "\n\n".join(parts) + "\n"


def _summary(entry: Entry) -> str:
    return docstrings.summary(entry.found) if callable(entry.found) else _comment(entry)


def module_page(page: str) -> str:
    """The entries of a page, grouped by the files that define them, those that most chapters use first."""
    parts = [f"# {TITLES[page]}"]
    if page in library.modules():
        module = library.modules()[page]
        parts.append(f"```{{py:module}} meta_keras.{page}\n```\n\n```{{py:currentmodule}} None\n```")
        parts.append(docstrings.markdown(module, examples=False))
    groups: dict[str, list[Entry]] = {}
    for entry in entries_of(page):
        groups.setdefault(getattr(entry.found, "__module__", "") or _home(entry).__name__, []).append(entry)
    for file, group in sorted(groups.items(), key=lambda pair: (-max(map(_uses, pair[1])), pair[0])):
        module = sys.modules[file]
        if len(groups) > 1:
            parts.append(f"## {file.rpartition('.')[2].replace('_', ' ').capitalize()}")
            parts.append(docstrings.markdown(module, examples=False))
        parts += [entry_text(entry) for entry in group]
    return "\n\n".join(part for part in parts if part) + "\n"


def _uses(entry: Entry) -> int:
    return len(library.users()[entry.name])


def entry_text(entry: Entry) -> str:
    """One entry, with its methods nested in it."""
    arguments, names = docstrings.signature(entry.found)
    kind = "class" if inspect.isclass(entry.found) else "function" if callable(entry.found) else "data"
    text = docstrings.markdown(entry.found, names) if callable(entry.found) else _comment(entry)
    extends = ", ".join(docstrings.name(base.name) for base in library.bases(entry.found))
    body = [text, f"Extends {extends}, whose methods it has, too." if extends else "", _chapters(entry)]
    body += [member_text(entry, name, value) for name, value in library.members(entry.found).items()]
    return directive(6, kind, entry.anchor + (arguments if kind != "data" else ""), "\n\n".join(filter(None, body)))


def member_text(entry: Entry, name: str, value: Any) -> str:
    """A method or a property."""
    place = f"{entry.anchor}.{name}"
    if isinstance(value, property):
        return directive(5, "property", place, docstrings.markdown(value))
    arguments, names = docstrings.signature(value)
    option = {classmethod: ":classmethod:\n\n", staticmethod: ":staticmethod:\n\n"}.get(type(value), "")
    text = docstrings.markdown(getattr(value, "__func__", value), names)
    return directive(5, "method", place + arguments, option + text)


def directive(ticks: int, kind: str, signature: str, body: str) -> str:
    fence = "`" * ticks
    return f"{fence}{{py:{kind}}} {signature}\n{body}\n{fence}"


def _chapters(entry: Entry) -> str:
    """The chapters whose code uses this name."""
    numbers = library.users()[entry.name]
    links = [f"{book.chapter_link(number)} ({book.titles()[number].partition(':')[0]})" for number in numbers]
    return f"**Used in** chapter {', '.join(links)}." if links else ""


def _home(entry: Entry) -> ModuleType:
    """The module that assigns a constant, which itself does not know it."""
    prefix, _, name = entry.name.rpartition(".")
    found = [m for key, m in sys.modules.items() if key.startswith(f"meta_keras.{prefix}.") and name in vars(m)]
    return next((m for m in found if f"\n{name} = " in inspect.getsource(m)), meta_keras)


def _comment(entry: Entry) -> str:
    """The comment above a constant, and its value."""
    lines = inspect.getsource(_home(entry)).splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith(f"{entry.name.rpartition('.')[2]} = "))
    comment = lines[place - 1].removeprefix("# ") if lines[place - 1].startswith("# ") else ""
    return f"{docstrings.inline(comment)} `{entry.found!r}`".strip()
