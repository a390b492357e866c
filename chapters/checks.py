"""Checks of the chapters and of the tables in the guide. Every function returns the problems that it finds.

python chapters/checks.py     check the stored files without running anything
"""

import ast
import functools
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import nbformat
import press
from nbformat import NotebookNode

ROOT, CHAPTERS = press.ROOT, press.CHAPTERS
GUIDE = CHAPTERS / "README.md"
LONGEST_CELL, MEDIAN_CELL, MOST_CELLS, MOST_WORDS, MOST_BYTES = 40, 8, 100, 3000, 1_000_000
MARKDOWN_TO_CODE = (1.2, 1.6)
FORMULA = re.compile(r"Formula (\d+\.\d+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAME = re.compile(r"`([^`]+)`")


def all_problems() -> list[str]:
    """All problems that `run.py check` reports."""
    problems = [problem for source in press.sources() for problem in chapter_problems(source)]
    for page in pages_with_links():
        problems += broken_links(page)
    return problems + table_problems() + formula_problems()


def chapter_problems(source: Path, folder: Path = CHAPTERS) -> list[str]:
    """A stored chapter must match its source, be executed in order, write no errors, and have a readable size."""
    problems = []
    for language, fresh in press.editions(press.load(source)).items():
        file = press.stored_at(source, language, folder)
        if not file.exists():
            problems.append(f"{file.name} is missing; create it with `run.py build {source.stem[:2]}`")
            continue
        stored = nbformat.read(file, 4)
        found = [*stale(fresh, stored), *execution(stored), *press.printed_errors(stored), *proportions(stored)]
        if file.stat().st_size > MOST_BYTES:
            found.append(f"{file.stat().st_size / 1e6:.1f} MB, but at most {MOST_BYTES / 1e6:.0f} MB are allowed")
        for name, png in press.pictures(stored).items():
            if (folder / f"{name}.png").read_bytes() != png:
                found.append(f"{name}.png is not the figure of the chapter; build the chapter again")
        problems += [f"{file.name}: {problem}" for problem in found]
    return problems


def stale(fresh: NotebookNode, stored: NotebookNode) -> list[str]:
    """Whether the stored notebook has exactly the cells of its source."""
    mine, theirs = ([(cell.id, cell.cell_type, cell.source) for cell in book.cells] for book in (fresh, stored))
    if mine == theirs:
        return []
    pairs = zip(mine, theirs, strict=False)
    first = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(mine), len(theirs)))
    return [f"stale: cell {first} differs from the source; build the chapter again"]


def execution(stored: NotebookNode) -> list[str]:
    """Whether every code cell ran, from top to bottom, without an error, and has repeatable output."""
    code = _code(stored)
    problems = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        problems.append("its cells were not executed from top to bottom in a fresh kernel")
    errors = [c.id for c in code for output in c.outputs if output.output_type == "error"]
    addresses = [c.id for c in code if re.search(r" at 0x[0-9a-f]+>", str(c.outputs))]
    return [
        *problems,
        *(f"cell {cell} ended in an error" for cell in errors),
        *(f"cell {cell} shows a memory address, which is different in every build" for cell in addresses),
    ]


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells of a chapter, without the one that installs the library."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not press.is_setup(cell)]


def proportions(stored: NotebookNode) -> list[str]:
    """One H1, short cells, and more prose than code."""
    code = _code(stored)
    prose = [cell for cell in stored.cells if cell.cell_type == "markdown"]
    lines = [len(cell.source.splitlines()) for cell in code]
    problems = [
        f"cell {cell.id} has {count} lines; at most {LONGEST_CELL} are allowed"
        for cell, count in zip(code, lines, strict=True)
        if count > LONGEST_CELL
    ]
    if lines and median(lines) > MEDIAN_CELL:
        problems.append(f"its code cells have a median of {median(lines)} lines; at most {MEDIAN_CELL} are allowed")
    if len(prose) + len(code) > MOST_CELLS:
        problems.append(f"{len(prose) + len(code)} cells; at most {MOST_CELLS} are allowed")
    if (count := words(prose)) > MOST_WORDS:
        problems.append(f"{count} words; at most {MOST_WORDS} are allowed")
    if code and not MARKDOWN_TO_CODE[0] <= len(prose) / len(code) <= MARKDOWN_TO_CODE[1]:
        problems.append(
            f"{len(prose)} Markdown cells and {len(code)} code cells; the ratio must be in {MARKDOWN_TO_CODE}"
        )
    headings = [line for cell in prose for line in cell.source.splitlines() if line.startswith("# ")]
    if len(headings) != 1:
        problems.append(f"{len(headings)} first-level headings; exactly one is needed")
    return problems


def words(prose: list[NotebookNode]) -> int:
    """How many words there are to read, without displayed formulas and the list of references."""
    text = "\n".join(cell.source for cell in prose).split("\n## References")[0]
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    return sum(any(character.isalnum() for character in word) for word in text.split())


def pages_with_links() -> list[Path]:
    """Every page of prose in the project."""
    notebooks = [*CHAPTERS.glob("[0-9]*.ipynb"), *CHAPTERS.glob("*/[0-9]*.ipynb")]  # without the copies in site/_build
    pages = [ROOT / "README.md", GUIDE, ROOT / "data" / "README.md", *sorted(notebooks)]
    return [page for page in pages if page.exists()]


def broken_links(page: Path) -> list[str]:
    """Links to files and headings of the project that do not exist. Web addresses are not checked."""
    problems = []
    for target in LINK.findall(_prose(page)):
        if re.match(r"https?:|mailto:|attachment:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            problems.append(f"{page.relative_to(ROOT)}: the target of the link {target!r} does not exist")
        elif anchor and file.suffix in (".md", ".ipynb") and anchor not in _anchors(file):
            problems.append(f"{page.relative_to(ROOT)}: the link {target!r} names a heading that does not exist")
    return problems


def _prose(page: Path) -> str:
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in nbformat.read(page, 4).cells if cell.cell_type == "markdown")


def _anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them; in notebooks Jupyter's form too."""
    headings = re.findall(r"^#+ (.+)$", _prose(file), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {*plain, *(heading.replace(" ", "-") for heading in headings)}


def tables(page: Path = GUIDE) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row of every table of a page, with the heading of its section."""
    heading, columns = "", []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if not line.startswith("|"):
            columns = []
        elif not columns:
            columns = cells
        elif not re.fullmatch(r"[|\s:\-]+", line):
            yield heading, dict(zip(columns, cells, strict=True))


def table_problems(page: Path = GUIDE) -> list[str]:
    """Rows that name a section of an article, a library name, a test, or a formula that does not exist."""
    checks = {
        "section": missing_sections,
        "name in code": missing_names,
        "test": missing_tests,
        "formula": missing_formulas,
    }
    return [
        f"{page.name}, {heading}: {problem}"
        for heading, row in tables(page)
        for column, look in checks.items()
        if column in row
        for problem in look(row[column])
    ]


def missing_sections(cell: str) -> list[str]:
    """Sections such as "D4 5.2" that do not exist in any document."""
    documents = json.loads((CHAPTERS / "documents.json").read_text(encoding="utf-8"))
    named = re.findall(r"(D\d)((?: \d+(?:\.\d+)*,?)+)", cell)
    if not named:
        return [f"{cell!r} names no section"]
    pairs = [(document, section) for document, sections in named for section in re.findall(r"[\d.]+\d|\d", sections)]
    return [f"no section {d} {section}" for d, section in pairs if section not in documents.get(d, {})]


def missing_names(cell: str) -> list[str]:
    """Names in backticks that `meta_keras`, Keras or the chapters do not have. `FewShot(ways)` names an argument."""
    return [f"no name {name!r}" for name in NAME.findall(cell) if not _resolves(name)]


def _resolves(name: str) -> bool:
    path, _, argument = name.rstrip(")").partition("(")
    first, *rest = path.split(".")
    elsewhere = {"keras": "keras", "tf": "tensorflow"}.get(first)
    found = importlib.import_module(elsewhere or "meta_keras")
    for part in rest if elsewhere else [first, *rest]:
        if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
            return False
        found = getattr(found, part, None)
    return not argument or argument in inspect.signature(found).parameters


def missing_tests(cell: str) -> list[str]:
    """Tests in backticks, `test_file.py::test_name`, that do not exist. The first words of a name are enough."""
    return [f"no test {name!r}" for name in NAME.findall(cell) if not _is_test(name)] or (
        [] if NAME.search(cell) else [f"{cell!r} names no test"]
    )


def _is_test(name: str) -> bool:
    file, _, function = name.partition("::")
    path = ROOT / "tests" / file
    if not path.is_file() or not function:
        return path.is_file()
    return any(f"{found}_".startswith(f"{function}_") for found in _functions(path))


@functools.cache
def stated_formulas() -> set[str]:
    """The numbers of all formulas that the chapters state."""
    return {number for source in press.sources() for number in FORMULA.findall(source.read_text(encoding="utf-8"))}


def missing_formulas(cell: str) -> list[str]:
    """Formula numbers that no chapter states."""
    numbers = re.findall(r"\d+\.\d+", cell)
    return [f"no chapter states Formula {number}" for number in numbers if number not in stated_formulas()]


def formula_problems() -> list[str]:
    """Every formula has one number in the chapter, the docstring and the test."""
    in_chapters = stated_formulas()
    in_code = {n for file in (ROOT / "meta_keras").rglob("*.py") for n in FORMULA.findall(file.read_text("utf-8"))}
    functions = _functions(ROOT / "tests" / "test_formulas.py")
    tested = {f"{m[1]}.{m[2]}" for m in (re.match(r"test_formula_(\d+)_(\d+)", name) for name in functions) if m}
    listed = {row["formula"] for _, row in tables() if "formula" in row}
    return [
        *(f"Formula {n} of the chapters has no test in tests/test_formulas.py" for n in sorted(in_chapters - tested)),
        *(f"Formula {n} has a test but is in no chapter" for n in sorted(tested - in_chapters)),
        *(f"Formula {n} is in a docstring but in no chapter" for n in sorted(in_code - in_chapters)),
        *(f"Formula {n} is not in the list of formulas" for n in sorted(in_chapters - listed)),
    ]


def _functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def main() -> None:
    problems = all_problems()
    print("\n".join(problems) or f"{len(press.sources())} chapters, their links and their tables are in order.")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
