"""How many episodes are drawn per second: 5-way 1-shot, 15 queries, 28x28, on the embedded letters.

    PYTHONPATH=. .venv/bin/python benchmarks/episodes.py

Prints the median of several runs for each meta-batch, and stores it in benchmarks/results/episodes.json.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import meta_keras as mk

RESULTS = Path(__file__).resolve().parent / "results" / "episodes.json"
PROBLEMS = {"plain": {}, "within an alphabet": {"within": "alphabet"}, "rotations": {"rotations": True}}
META_BATCHES, RUNS, SECONDS = (1, 4, 16, 32), 5, 2.0


def episodes_a_second(tasks: mk.FewShot) -> float:
    """Draw for a while and count. The first batch is excluded because it builds the graph."""
    batches = iter(tasks)
    next(batches)
    began, drawn = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        next(batches)
        drawn += tasks.meta_batch
    return drawn / (time.perf_counter() - began)


def measure(pool: mk.ClassPool, **options: object) -> dict[str, dict[str, int]]:
    """The median, minimum and maximum over the runs, for each meta-batch."""
    rates = {}
    for meta_batch in META_BATCHES:
        runs = [episodes_a_second(mk.FewShot(pool, meta_batch=meta_batch, seed=run, **options)) for run in range(RUNS)]
        median = round(statistics.median(runs))
        rates[str(meta_batch)] = {"median": median, "least": round(min(runs)), "most": round(max(runs))}
        print(f"  meta-batch {meta_batch:>3}: {median:8,} episodes per second", flush=True)
    return rates


def main() -> None:
    pool = mk.load("glyphs")
    results = {}
    for name, options in PROBLEMS.items():
        print(name)
        results[name] = measure(pool, **options)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    RESULTS.parent.mkdir(exist_ok=True)
    record = {
        "unit": "episodes a second",
        "machine": machine,
        "tensorflow": importlib.metadata.version("tensorflow"),
        "runs": RUNS,
    }
    record |= {"seconds": SECONDS, "commit": commit.stdout.strip(), "results": results}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
