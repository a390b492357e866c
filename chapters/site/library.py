"""The public names of the library: where each has its entry in the reference, and which chapters use it."""

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import press

import meta_keras

# What is defined in none of these modules is on the page of the learners.
LEARNERS = "learners"
WRITTEN = re.compile(r"(?:(?:mk|meta_keras)\.)?([A-Za-z_][\w.]*?)(\(.*\))?", re.DOTALL)


class Entry(NamedTuple):
    """A public name: as it is written after `mk.`, what it is, and the page with its entry."""

    name: str
    found: Any
    page: str

    @property
    def anchor(self) -> str:
        return f"meta_keras.{self.name}"


def _offered(module: ModuleType) -> dict[str, Any]:
    return {name: getattr(module, name) for name in module.__all__}


@functools.cache
def modules() -> dict[str, ModuleType]:
    """The modules that users see as `mk.rules` and so on, and `tasks`, whose names are in `mk` itself."""
    public = {name: found for name, found in _offered(meta_keras).items() if isinstance(found, ModuleType)}
    return dict(sorted({**public, "tasks": meta_keras.tasks}.items()))


@functools.cache
def entries() -> dict[str, Entry]:
    """All public names. What `mk` and one of its modules both offer has one entry, with the short name."""
    found = {}
    for name, value in _offered(meta_keras).items():
        if name not in modules():
            home = value.__module__.split(".")[1]
            found[name] = Entry(name, value, home if home in modules() else LEARNERS)
    short = {id(entry.found) for entry in found.values()}
    for module, content in modules().items():
        for name, value in _offered(content).items():
            if id(value) not in short:
                found[f"{module}.{name}"] = Entry(f"{module}.{name}", value, module)
    return found


@functools.cache
def _aliases() -> dict[str, Entry]:
    """Other ways to write a name: without its module, or with one although it also has a short name."""
    names: dict[str, list[Entry]] = {}
    for entry in entries().values():
        names.setdefault(entry.name.rpartition(".")[2], []).append(entry)
    bare = {name: found[0] for name, found in names.items() if len(found) == 1}
    by_value = {id(entry.found): entry for entry in entries().values()}
    long = {f"{m}.{n}": by_value[id(v)] for m, content in modules().items() for n, v in _offered(content).items()}
    return bare | long | entries()


def resolve(written: str) -> str | None:
    """The anchor of the entry that code such as `mk.FewShot(ways=5)` or `Rule.adapt` names, if there is one."""
    match = WRITTEN.fullmatch(written.strip())
    if match is None:
        return None
    parts = match[1].split(".")
    for count in range(len(parts), 0, -1):
        entry = _aliases().get(".".join(parts[:count]))
        if entry is not None:
            return _member(entry, parts[count:])
    return f"meta_keras.{match[1]}" if match[1] in modules() and not match[2] else None


def _member(entry: Entry, path: list[str]) -> str | None:
    """The anchor of a method, that of the class for other attributes, and nothing for what does not exist."""
    if not path:
        return entry.anchor
    fields = getattr(entry.found, "__annotations__", {})
    if len(path) > 1 or not (hasattr(entry.found, path[0]) or path[0] in fields):
        return entry.anchor if inspect.isclass(entry.found) and path[0] in _assigned(entry.found) else None
    homes = [home for home in (entry, *bases(entry.found)) if path[0] in members(home.found)]
    return f"{homes[0].anchor}.{path[0]}" if homes else entry.anchor


def _assigned(kind: type) -> set[str]:
    """The attributes that a class assigns to `self`."""
    return set(re.findall(r"self\.(\w+)", inspect.getsource(kind)))


def bases(kind: Any) -> list[Entry]:
    """The public classes of this library that a class extends."""
    by_value = {id(entry.found): entry for entry in entries().values()}
    return [by_value[id(base)] for base in kind.__mro__[1:] if id(base) in by_value] if inspect.isclass(kind) else []


def members(kind: Any) -> dict[str, Any]:
    """The documented public methods and properties of a class, without those of the public classes that it extends."""
    found: dict[str, Any] = {}
    elsewhere = {entry.found for entry in bases(kind)}
    for base in kind.__mro__ if inspect.isclass(kind) else ():
        if base.__module__.startswith("meta_keras") and not any(issubclass(other, base) for other in elsewhere):
            for name, value in vars(base).items():
                function = getattr(value, "__func__", getattr(value, "fget", value))
                if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
                    found.setdefault(name, value)
    return found


@functools.cache
def users() -> dict[str, list[str]]:
    """For each public name, the numbers of the chapters whose code uses it."""
    found: dict[str, list[str]] = {name: [] for name in entries()}
    for source in press.sources():
        for name in dict.fromkeys(_used(source)):
            found[name].append(source.stem[:2])
    return found


def _used(source: Path) -> Iterator[str]:
    """The public names in the code of a chapter."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    imported = {"mk": "", "meta_keras": ""}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("meta_keras"):
            inner = node.module.partition(".")[2]
            imported |= {one.asname or one.name: f"{inner}.{one.name}".lstrip(".") for one in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            path = ".".join(filter(None, [imported.get(first), *rest])) if first in imported else ""
            # A module of a package may be named, too: from meta_keras.rules.prototypes import Prototypes.
            entry = _aliases().get(path) or (None if rest else _aliases().get(path.rpartition(".")[2]))
            if entry is not None:
                yield entry.name
