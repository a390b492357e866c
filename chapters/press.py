"""Builds the book: chapters/src/NN_name.py (py:percent) -> executed notebooks.

    python chapters/press.py run [01 ...]     execute chapters and report problems
    python chapters/press.py build [01 ...]   execute chapters, store them as chapters/NN_name.ipynb
    python chapters/press.py verify [01 ...]  execute chapters, compare their results with the stored ones

The sources are the only form that is edited by hand. Markdown cells marked `lang="zh"` (or another language) go
to a separate edition, chapters/zh/NN_name.ipynb, from the same execution; unmarked cells go to every edition. The
first code cell of a stored notebook is not in the source: it installs the library where it is missing.
chapters/site/build.py makes the website from the stored notebooks.
"""

import argparse
import base64
import copy
import functools
import os
import re
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

CHAPTERS = Path(__file__).resolve().parent
ROOT, SOURCES = CHAPTERS.parent, CHAPTERS / "src"
FIRST_LANGUAGE = "en"
SECONDS_A_CELL = 600
AT_A_TIME = 2
RESULT = re.compile(r"(-?\d+(?:\.\d+)?) ± (\d+(?:\.\d+)?)")
# It installs nothing else, so that Colab keeps its versions of TensorFlow, Keras and NumPy.
SETUP = """import importlib.util

if importlib.util.find_spec("meta_keras") is None:  # for example on Colab
    %pip install --quiet --no-deps "{library}"
"""
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class Report(NamedTuple):
    """The outcome for a chapter: how long it took, and its problems, if any."""

    name: str
    title: str
    seconds: float
    problems: list[str]


def sources(numbers: Sequence[str] = ()) -> list[Path]:
    """The chapters' source files in order, or those with these numbers."""
    found = sorted(SOURCES.glob("[0-9][0-9]_*.py"))
    unknown = [number for number in numbers if number not in {source.stem[:2] for source in found}]
    if unknown:
        there = ", ".join(source.stem[:2] for source in found)
        raise SystemExit(f"There is no chapter {', '.join(unknown)}; there are {there}.")
    return [source for source in found if not numbers or source.stem[:2] in numbers]


def load(source: Path) -> NotebookNode:
    """A source as a notebook that has not run: the same source gives the same notebook, cell ids and all."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem[:2]}-{number:03d}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(KERNEL)
    return notebook


def title(notebook: NotebookNode) -> str:
    """The text of the first heading."""
    return next(
        (cell.source.split("\n")[0].lstrip("# ") for cell in notebook.cells if cell.source.startswith("# ")), ""
    )


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run all cells in a fresh kernel, in the folder of the chapters, on the CPU and with a fixed hash seed."""
    client = NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(CHAPTERS)}},
    )
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    settings = {"PYTHONPATH": paths, "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    client.execute(env={**os.environ, **settings})
    notebook.metadata = nbformat.from_dict(KERNEL)
    return notebook


def editions(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """The notebook in each of its languages, always including the first."""
    marked = dict.fromkeys(cell.metadata.get("lang", FIRST_LANGUAGE) for cell in notebook.cells)
    return {language: _edition(notebook, language) for language in {FIRST_LANGUAGE: None, **marked}}


def _edition(notebook: NotebookNode, language: str) -> NotebookNode:
    edition = copy.deepcopy(notebook)
    edition.cells = [cell for cell in edition.cells if cell.metadata.get("lang", language) == language]
    for cell in edition.cells:
        cell.metadata.pop("lang", None)
    code = [number for number, cell in enumerate(edition.cells) if cell.cell_type == "code"]
    if code:
        edition.cells.insert(code[0], setup_cell(edition.cells[code[0]].id[:2]))
    return edition


def setup_cell(number: str) -> NotebookNode:
    """The cell that installs the library where it is missing: from the repository, or else from this project."""
    library = f"git+{repository()}" if repository() else ".."
    cell = nbformat.v4.new_code_cell(SETUP.format(library=library).strip(), metadata={"tags": ["setup"]})
    cell.id = f"{number}-setup"
    return cell


def is_setup(cell: NotebookNode) -> bool:
    """Whether a cell is the one that installs the library. It is not part of the chapter and is not executed here."""
    return "setup" in cell.metadata.get("tags", [])


@functools.cache
def repository() -> str:
    """The address of the repository, which is `Repository` in [project.urls] of pyproject.toml, or nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def stored_at(source: Path, language: str, folder: Path = CHAPTERS) -> Path:
    """The path of the executed notebook of a chapter."""
    return (folder if language == FIRST_LANGUAGE else folder / language) / f"{source.stem}.ipynb"


def printed_errors(notebook: NotebookNode) -> list[str]:
    """The cells that wrote to the error stream."""
    return [
        f"cell {cell.id} wrote to stderr: {output.text[:300]}"
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
    ]


def drift(stored: NotebookNode, fresh: NotebookNode) -> list[str]:
    """Where two executions disagree: results `a ± b` whose intervals do not overlap even at twice their width."""
    old, new = _results(stored), _results(fresh)
    if old.keys() != new.keys():
        return ["the two executions do not print the same number of results; build the chapter again"]
    return [
        f"{place}: {new[place][0]} ± {new[place][1]} now, {old[place][0]} ± {old[place][1]} stored"
        for place in old
        if abs(old[place][0] - new[place][0]) > 2 * (old[place][1] + new[place][1])
    ]


def _results(notebook: NotebookNode) -> dict[str, tuple[float, float]]:
    results = {}
    for cell in notebook.cells:
        texts = [
            output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])
        ]
        for number, (mean, width) in enumerate(RESULT.findall("\n".join(texts))):
            results[f"cell {cell.id}, result {number + 1}"] = (float(mean), float(width))
    return results


def process(source: Path, after: Callable[[Path, NotebookNode], list[str]]) -> Report:
    """Execute one chapter and pass it to `after`, which returns its problems."""
    began = time.monotonic()
    notebook = load(source)
    try:
        execute(notebook)
        problems = printed_errors(notebook) or after(source, notebook)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        problems = [re.sub(r"\x1b\[[\d;]*m", "", str(error))]
    return Report(source.stem, title(notebook), time.monotonic() - began, problems)


def run(source: Path, notebook: NotebookNode) -> list[str]:
    return []


def build(source: Path, notebook: NotebookNode) -> list[str]:
    for language, edition in editions(notebook).items():
        target = stored_at(source, language)
        target.parent.mkdir(exist_ok=True)
        nbformat.validate(edition)
        nbformat.write(edition, target)
    for name, png in pictures(notebook).items():
        (CHAPTERS / f"{name}.png").write_bytes(png)
    return []


def pictures(notebook: NotebookNode) -> dict[str, bytes]:
    """The figures of cells marked `picture="name"`, which pages outside the notebooks show as chapters/name.png."""
    return {
        cell.metadata["picture"]: base64.b64decode(output.data["image/png"])
        for cell in notebook.cells
        if "picture" in cell.metadata
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    }


def verify(source: Path, notebook: NotebookNode) -> list[str]:
    stored = stored_at(source, FIRST_LANGUAGE)
    if not stored.exists():
        return [f"{stored.name} is missing; create it with `run.py build {source.stem[:2]}`"]
    return drift(nbformat.read(stored, 4), notebook)


def press(job: Callable[[Path, NotebookNode], list[str]], chosen: Sequence[Path]) -> int:
    """Process chapters and print one line per finished chapter and a summary. Returns the exit code."""
    print(f"{job.__name__}: {len(chosen)} chapters, at most {AT_A_TIME} at a time", flush=True)
    began, failed = time.monotonic(), 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for report in pool.map(lambda source: process(source, job), chosen):
            result = "FAILED" if report.problems else "ok"
            print(f"  {report.name[:2]}  {report.title:<44.44} {report.seconds:6.1f} s  {result}", flush=True)
            for problem in report.problems:
                print(problem, flush=True)
            failed += bool(report.problems)
    print(
        f"{len(chosen) - failed} of {len(chosen)} chapters ran without problems, in {time.monotonic() - began:.0f} s."
    )
    return 1 if failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute and store the chapters.")
    parser.add_argument("job", choices=["run", "build", "verify"])
    parser.add_argument("numbers", nargs="*", metavar="NN")
    options = parser.parse_args()
    try:
        jobs = {"run": run, "build": build, "verify": verify}
        sys.exit(press(jobs[options.job], sources(options.numbers)))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
