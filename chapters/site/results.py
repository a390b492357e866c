"""Results: the tables of README.md, and every stored measurement with the command that repeats it."""

import ast
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import book
import docstrings
import press
import tables
from project_links import Files, rewritten

STORED = (press.ROOT / "data" / "results", press.ROOT / "benchmarks" / "results")
# Images on this page, by their paths in the project and on the site, with their alternative texts and captions.
IMAGES = {
    "benchmarks/results/speed_scaling.png": (
        "Four plots of dots near straight lines: the time per step increases with the meta-batch and the inner steps",
        "Milliseconds per step for n tasks in a meta-batch (left) and n inner steps (right), with the straight line of "
        "the best fit. Workload S: sine curves. Workload C: conv4 with pooling.",
    )
}
RECORD = re.compile(r"`(?:data|benchmarks)/results/(\w+)\.json`")
LONG = 12  # longer lists of numbers, such as learning curves, are abbreviated
# What a record says about itself, and not a result.
ABOUT = ("script", "commit", "commits", "machine", "versions", "tensorflow", "device", "unit", "seed", "runs")


class Record(NamedTuple):
    """A file of stored measurements, and the script that makes it."""

    path: Path
    content: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def script(self) -> Path:
        return press.ROOT / self.content.get("script", f"benchmarks/{self.name}.py")

    @property
    def chapter(self) -> str:
        return self.name.removeprefix("chapter_") if self.name.startswith("chapter_") else ""

    @property
    def results(self) -> dict[str, Any]:
        return self.content.get("results") or {k: v for k, v in self.content.items() if k not in ABOUT}


def pages() -> dict[str, str]:
    """The page of results, and a page for each record."""
    return {"results": overview()} | {f"results/{record.name}": record_page(record) for record in records()}


def records() -> list[Record]:
    """All stored measurements."""
    paths = [path for folder in STORED for path in sorted(folder.glob("*.json"))]
    return [Record(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def overview() -> str:
    """The results of README.md, then all records."""
    text = commands_below(book.section(book.README, "## Results"))
    results = re.sub("^### ", "## ", site_text(text), flags=re.MULTILINE)
    lines = [[f"{{doc}}`{one.name} </results/{one.name}>`", f"{_about(one)}<br>{_commands(one)}"] for one in records()]
    return (
        f"# Results\n\n{results}\n\n## All measurements\n\nEvery number in a chapter is either printed by the chapter "
        "itself, and `python3 run.py verify` repeats it, or it is read from a record of stored measurements. These are "
        "all records, with the commands that measure them again.\n\n"
        f"{tables.table(['record', 'what was measured, and the command'], lines)}\n"
    )


def commands_below(text: str) -> str:
    """The same tables with the command of a row, their last column, below its first cell, so that they are narrow.

    >>> table = "| problem | error | command |\\n|---|---|---|\\n| sines | 0.3 | `run.py` |\\n| | 0.4 | |"
    >>> commands_below(table).splitlines()
    ['| problem, and the command | error |', '|---|---|', '| sines<br>`run.py` | 0.3 |', '| | 0.4 |']
    """
    blocks = []
    for block in text.split("\n\n"):
        if re.match(r"\|.*\| command \|\n", block):
            block = re.sub(
                r"^\| (.*?) \|(.*) command \|$", r"| \1, and the command |\2", block, count=1, flags=re.MULTILINE
            )
            block = re.sub(r"^(\|---.*)---\|$", r"\1", block, flags=re.MULTILINE)
            block = re.sub(r"^\| (.+?) \|(.*\|) (`.+?`) \|$", r"| \1<br>\3 |\2", block, flags=re.MULTILINE)
            block = re.sub(r"^(\| \|.*\|) \|$", r"\1", block, flags=re.MULTILINE)
        blocks.append(block)
    return "\n\n".join(blocks)


def site_text(text: str) -> str:
    """The text of README.md with links to the pages of the site. An image that it links to is shown below the link."""
    blocks = []
    for block in text.split("\n\n"):
        shown = [path for path in IMAGES if f"]({path})" in block]
        for path in shown:
            block = re.sub(rf"\[([^\[\]]+)\]\({re.escape(path)}\)", r"\1 below", block)
        blocks += [RECORD.sub(r"{doc}`\1.json </results/\1>`", block), *map(_figure, shown)]
    return rewritten("\n\n".join(blocks), press.ROOT, "results", Files())


def _figure(path: str) -> str:
    alternative, caption = IMAGES[path]
    return f"![{alternative}](/{path}){{.plot}}\n\n*{caption}*"


def record_page(record: Record) -> str:
    """One record: how it was measured, and its numbers."""
    chapter = f"Read by {book.chapter_link(record.chapter, f'chapter {record.chapter}')}." if record.chapter else ""
    facts = [f"{key} {compact(record.content[key])}" for key in ABOUT[1:] if key in record.content]
    file = f"Record: `{record.path.relative_to(press.ROOT)}` ({_plain('; '.join(facts))})."
    lines = [[_plain(key), _plain(compact(value))] for key, value in flat(record.results)]
    about = f"# Measurements: {record.name.replace('_', ' ')}\n\n{_about(record)} {chapter}"
    note = f"Lists of more than {LONG} numbers are abbreviated; the record has all of them."
    numbers = tables.table(["key", "value"], lines)
    command = f"```bash\n{_command_block(record)}\n```"
    return "\n\n".join(["---\nnosearch: true\n---", about, command, file, note, numbers]) + "\n"


def flat(content: Any, key: str = "") -> list[tuple[str, Any]]:
    """Nested results as pairs of a key and a value that fits into a line."""
    if isinstance(content, dict) and (len(compact(content)) > 100 or not key):
        return [pair for name, value in content.items() for pair in flat(value, f"{key}, {name}" if key else name)]
    return [(key, content)]


def compact(value: Any) -> str:
    """A value on one line, with four significant digits."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {compact(part)}" for name, part in value.items())
    if isinstance(value, list):
        return _list(value)
    return str(value)


def _list(values: list[Any]) -> str:
    numbers = leaves(values)
    if len(numbers) <= LONG or not all(isinstance(number, int | float) for number in numbers):
        return f"[{', '.join(map(compact, values))}]"
    shape = f"{len(values)} x {len(values[0])}" if isinstance(values[0], list) else str(len(values))
    return f"{shape} numbers from {min(numbers):.4g} to {max(numbers):.4g}"


def leaves(values: Any) -> list[Any]:
    return [leaf for value in values for leaf in leaves(value)] if isinstance(values, list) else [values]


def _plain(text: str) -> str:
    return docstrings.SPECIAL.sub(r"\\\1", text)


def _docstring(record: Record) -> str:
    return ast.get_docstring(ast.parse(record.script.read_text(encoding="utf-8"))) or ""


def _about(record: Record) -> str:
    """The first paragraph of the script's docstring."""
    return docstrings.inline(" ".join(_docstring(record).split("\n\n")[0].split()))


def _command_block(record: Record) -> str:
    """The commands in the script's docstring."""
    lines = [line.strip() for line in _docstring(record).split("\n") if re.match(r"    .*(python|pip)", line)]
    return "\n".join(re.sub(r"\s{2,}\((.*)\)$", r"  # \1", line) for line in lines)


def _commands(record: Record) -> str:
    """The first command that runs the script."""
    commands = [line.partition("  # ")[0] for line in _command_block(record).splitlines()]
    return f"`{next(command for command in commands if record.script.name in command)}`"
