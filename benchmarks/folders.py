"""How long a folder of 50,000 small PNGs takes to read, and how fast tasks are drawn from it while it stays on disk.

    PYTHONPATH=. .venv/bin/python benchmarks/folders.py

The images, 28x28 and from the embedded letters, are written to a temporary folder. Prints the results, and stores
them in benchmarks/results/folders.json.
"""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import tensorflow as tf

import meta_keras as mk

RESULTS = Path(__file__).resolve().parent / "results" / "folders.json"
IMAGES, CLASSES, BATCHES = 50_000, 1000, 100


def write_images(folder: Path) -> None:
    """50 PNGs for each of 1,000 classes."""
    pool = mk.load("glyphs")
    for number in range(IMAGES):
        label = number % CLASSES
        path = folder / f"class_{label:04}" / f"{number:05}.png"
        path.parent.mkdir(exist_ok=True)
        row = pool.first[label] + number // CLASSES % pool.counts[label]
        path.write_bytes(tf.io.encode_png(pool.examples[row]).numpy())


def seconds_to_read(folder: Path, **options: object) -> tuple[mk.ClassPool, float]:
    began = time.perf_counter()
    pool = mk.ClassPool.from_folder(folder, **options)
    return pool, round(time.perf_counter() - began, 1)


def episodes_per_second(pool: mk.ClassPool) -> int:
    """Tasks drawn per second: 5-way 1-shot, 15 queries, in batches of 4. The first batch builds the graph."""
    batches = iter(mk.FewShot(pool, meta_batch=4))
    next(batches)
    began = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return round(4 * BATCHES / (time.perf_counter() - began))


def main() -> None:
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder))
        on_disk, results["seconds to list the files"] = seconds_to_read(Path(folder), in_memory=False)
        results["episodes per second from disk"] = episodes_per_second(on_disk)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        episodes_per_second(on_disk)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        results["growth of peak memory over 100 more batches from disk, MB"] = round(grown / 1024)
        in_memory, results["seconds to read the images"] = seconds_to_read(Path(folder))
        results["episodes per second from memory"] = episodes_per_second(in_memory)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    record = {
        "images": f"{IMAGES:,} PNGs of 28x28 in {CLASSES:,} folders",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "tensorflow": importlib.metadata.version("tensorflow"),
        "commit": commit.stdout.strip(),
        "results": results,
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
