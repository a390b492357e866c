"""Docstrings and signatures of the library as MyST Markdown."""

import ast
import builtins
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import book
import library

CODE = re.compile(r"(`[^`]+`)")
SPECIAL = re.compile(r"([\\*_<\[\]$~{|^])")
IMPORTS = ("import ", "from ")


def markdown(found: Any, parameters: Sequence[str] = (), *, examples: bool = True) -> str:
    """The docstring of something: paragraphs, formulas, parameters, and the examples as code."""
    parts, code = [], []
    for paragraph in re.split(r"\n\s*\n", inspect.getdoc(found) or ""):
        if paragraph.lstrip().startswith(">>>"):
            code.append(textwrap.dedent(paragraph))
        elif all(line.startswith("    ") for line in paragraph.splitlines()):
            parts.append(_formulas(textwrap.dedent(paragraph)))
        else:
            parts.append(_text(paragraph, parameters))
    if code and examples:
        parts.append(f"**Example**\n\n```python\n{example(chr(10).join(code), found)}\n```")
    return "\n\n".join(part for part in parts if part)


def summary(found: Any) -> str:
    """The first sentence of a docstring, on one line."""
    first = " ".join((inspect.getdoc(found) or "").split("\n\n")[0].split())
    return inline(re.split(r"(?<=[.:]) (?=[A-Z])", first)[0].rstrip(":"))


def inline(text: str) -> str:
    """Plain text of a docstring as Markdown: code that names something, formulas and articles are links."""
    pieces = [name(piece[1:-1]) if CODE.fullmatch(piece) else _plain(piece) for piece in CODE.split(text)]
    return "".join(pieces) if "Formula" not in text else "".join(map(link_formulas, pieces))


def name(code: str) -> str:
    """Code as a link to its entry in the reference, or as plain code."""
    anchor, line = library.resolve(code), " ".join(code.split())
    return f"{{py:obj}}`{line} <{anchor}>`" if anchor and not set(line) & set("<`") else f"`{code}`"


def _plain(text: str) -> str:
    return link_articles(SPECIAL.sub(r"\\\1", text))


def link_articles(text: str) -> str:
    """Mentions of the articles D1 to D5 as links to the page that says what they are."""
    return re.sub(r"\bD[1-5]\b", "{doc}`\\g<0> </guide/articles>`", text)


def link_formulas(text: str) -> str:
    """Mentions of formulas as links to the guide."""
    return book.MENTIONED.sub(lambda match: f"[{match[0]}](#{book.anchor('formula', match[1])})", text)


def _formulas(block: str) -> str:
    """Formulas in plain text, with links to the guide, which shows them as mathematics."""
    numbers = dict.fromkeys(book.MENTIONED.findall(block))
    linked = ", ".join(f"[Formula {number}](#{book.anchor('formula', number)})" for number in numbers)
    return f"```text\n{block}\n```" + (f"\n\n{linked} in the guide." if linked else "")


def _text(paragraph: str, parameters: Sequence[str]) -> str:
    """A paragraph, or a list if it describes parameters: `name: ...` or `name, other: ...`."""
    flat = " ".join(paragraph.split())
    known = "|".join(map(re.escape, parameters))
    one = rf"(?:^|(?<=[.;)] ))((?:{known})(?:, (?:{known}))*): "
    if not parameters or not re.match(one, flat):
        return inline(flat)
    _, *pieces = re.split(one, flat)
    return "\n".join(
        f"- **{', '.join(f'`{word}`' for word in names.split(', '))}**: {inline(text.strip())}"
        for names, text in zip(pieces[::2], pieces[1::2], strict=True)
    )


def example(session: str, found: Any) -> str:
    """A doctest as a program that can be pasted anywhere: imports first, and what it shows as comments."""
    lines, is_code = [], False
    for line in session.splitlines():
        is_code = line.startswith(">>>") or (is_code and line.startswith("..."))
        lines.append(line[4:] if is_code else f"# {line}")
    code = "\n".join(line for line in lines if not line.startswith(IMPORTS))
    code = re.sub(r"\n( +\S.*)\n(?=[^ \n])", r"\n\1\n\n", code)  # a blank line after a definition
    own = [line for line in lines if line.startswith(IMPORTS)]
    first = "\n".join(sorted({*own, *needed("\n".join(lines), inspect.getmodule(found))}, key=_order))
    return f"{first}\n\n{code}" if first else code


def _order(line: str) -> tuple[bool, bool, str]:
    """Imports of this library first, so that TensorFlow starts without log messages."""
    return "meta_keras" not in line, line.startswith("from "), line


def needed(code: str, module: ModuleType | None) -> Iterator[str]:
    """The imports that an example lacks because its doctest has these names from its module."""
    public: dict[str, list[str]] = {}
    for word in free_names(code):
        value = getattr(module, word)
        if isinstance(value, ModuleType):
            full = value.__name__
            yield f"import {full}" if full == word else f"import {full} as {word}"
        else:
            anchor = library.resolve(word) or f"{module.__name__}.{word}"
            public.setdefault(anchor.rpartition(".")[0], []).append(word)
    yield from (f"from {home} import {', '.join(sorted(words))}" for home, words in public.items())


def free_names(code: str) -> Iterator[str]:
    """The names that a program uses without defining or importing them."""
    tree = ast.parse(code)
    defined = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            defined.add(node.id)
    loaded = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    yield from (word for word in dict.fromkeys(loaded) if word not in defined)


def _definition(found: Any) -> ast.FunctionDef | ast.ClassDef:
    return ast.parse(textwrap.dedent(inspect.getsource(found))).body[0]


def signature(found: Any) -> tuple[str, list[str]]:
    """A signature as it is written in the source, without `self` and private arguments, and its arguments' names."""
    if inspect.isclass(found) and hasattr(found, "_fields"):
        fields = [node for node in _definition(found).body if isinstance(node, ast.AnnAssign)]
        return f"({', '.join(map(ast.unparse, fields))})", list(found._fields)
    function = found.__init__ if inspect.isclass(found) else getattr(found, "__func__", found)
    if not inspect.isfunction(function):
        return "()", []
    node = _definition(function)
    arguments = node.args
    arguments.args = [one for one in arguments.args if one.arg not in ("self", "cls")]
    if arguments.kwarg and arguments.kwarg.arg == "kwargs":
        arguments.kwarg = None
    names = [one.arg for one in (*arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg) if one]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and not inspect.isclass(found) else ""
    return f"({ast.unparse(arguments)}){returns}", names
