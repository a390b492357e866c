"""A record of measurements that take longer than a chapter may: they can be stopped at any time and continued.

    record = Record("chapter_01")
    accuracy = record.measure("prototypes, 1000 steps, seed 0", lambda: train_and_evaluate(0))

Each measurement is stored as soon as it is finished, in data/results/chapter_01.json, with its commit and the versions
of the packages. A stored measurement is not repeated; `--again` discards the record. Chapters read the results
with `mk.report.measured("chapter_01")`.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results"
PACKAGES = ("keras", "tensorflow", "numpy")


class Record:
    """The measurements of benchmarks/<name>.py.

    again: discard what was measured before.
    data_dir: where tensorflow-datasets has prepared data for these measurements; None is its own folder.
    """

    def __init__(self, name: str, *, again: bool = False, folder: Path = RESULTS, data_dir: str | None = None) -> None:
        self.name, self.path, self.data_dir = name, folder / f"{name}.json", data_dir
        if again:
            self.path.unlink(missing_ok=True)
        stored = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        self.results: dict[str, Any] = stored.get("results", {})

    def measure(self, key: str, function: Callable[[], Any]) -> Any:
        """The stored result of this name, or the result of the function, in a form that JSON can represent."""
        if key not in self.results:
            began = time.monotonic()
            self.results[key] = function()
            self._store()
            print(f"{key}: {self.results[key]} ({time.monotonic() - began:.0f} s)", flush=True)
        return self.results[key]

    def _store(self) -> None:
        content = {
            "script": f"benchmarks/{self.name}.py",
            "commit": _commit(),
            "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
            "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
            "results": self.results,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(
            ".tmp"
        )  # renamed when it is complete, so that an interruption loses one measurement at most
        unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished.replace(self.path)


def measure_parts(
    name: str, parts: Mapping[str, Callable[[Record], Any]], description: str, *, prepared_data: bool = False
) -> None:
    """The command line of benchmarks/<name>.py, whose measurements come in parts: all of them, or those that are named.

    description: the docstring of the script.
    prepared_data: whether a part reads data of tensorflow-datasets; if so, `--data-dir` sets the record's `data_dir`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; by default all")
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    if prepared_data:
        text = "where tensorflow-datasets has prepared its data; by default its own folder"
        parser.add_argument("--data-dir", metavar="FOLDER", help=text)
    options = parser.parse_args()
    unknown = set(options.parts) - set(parts)
    if unknown:
        parser.error(f"There are the parts {', '.join(parts)}; got {', '.join(sorted(unknown))}.")
    logging.getLogger("tensorflow").setLevel("ERROR")  # it warns of every function that is traced again
    record = Record(name, again=options.again, data_dir=getattr(options, "data_dir", None))
    for part in options.parts or parts:
        parts[part](record)


def _commit() -> str:
    """The commit of the code, with "-dirty" if files have been changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
