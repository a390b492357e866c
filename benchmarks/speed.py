"""How fast meta-training is, compared with PyTorch and JAX on the same work, all measured in one run.

    python3 -m venv peers
    peers/bin/pip install torch==2.13.0 jax==0.10.2
    PYTHONPATH=. .venv/bin/python benchmarks/speed.py --peers peers/bin/python

Prints the medians and the goals, and stores them in benchmarks/results/speed.json and speed_scaling.png. A
stopped run continues where it stopped; `--fresh` repeats stored measurements, and `--only S,O` selects these parts.
`--quick` tries everything with few iterations of two tasks and stores nothing. A full run takes about half an hour,
during which nothing else should run.

Our library is timed as it is used: `learner.fit`, with data, metrics and callbacks. Only the first fit, which compiles,
is excluded. Every contestant has its own process, and they take turns, round by round.

    PYTHONPATH=. .venv/bin/python benchmarks/speed.py --gpu

measures `fit` on the GPU that TensorFlow finds, with the memory of the GPU and how busy it was, and stores
benchmarks/results/gpu_fit.json. The peers on a GPU are those of benchmarks/gpu_device.py.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from statistics import median
from typing import Any

from gpu_device import WORKLOADS as GPU_WORKLOADS
from speed_report import draw, goals, say, summary

# Neither TensorFlow nor meta_keras is imported here: the peak memory of a child includes the size of its parent.
HERE = Path(__file__).resolve().parent
RESULTS, OURS, PEERS = HERE / "results", HERE / "ours.py", HERE / "peers.py"
CONV = {"support": 5, "rate": 0.4}
SINE = {"network": "mlp", "support": 10, "queries": 10, "tasks": 25, "rate": 0.01}
WORKLOADS = {
    "S": SINE | {"steps": 1},
    "S5": SINE | {"steps": 5},
    "O": CONV | {"network": "stride", "queries": 5, "tasks": 32, "steps": 1},
    "C": CONV | {"network": "pool", "queries": 75, "tasks": 4, "steps": 5},
}
QUICK = {"flags": "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=2"}  # how XLA compiles quickly
ALL, EACH = {"way": "vectorized"}, {"way": "map"}  # all tasks at once, and one after another
LOOPS = {  # in CUDA graphs
    "flags": "--xla_gpu_graph_min_graph_size=1 --xla_gpu_enable_command_buffer="
    "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONDITIONAL,WHILE,DYNAMIC_SLICE_FUSION"
}
GPU_RUNS = (  # of fit on a GPU, in rounds: the programs of a round are compiled side by side
    (
        ("S", "auto", {}),
        ("S", "1000 steps per call", {"together": 1000}),
        ("S", "50 steps per call", {"together": 50}),
        ("S", "one step per call", {"together": 1}),
        ("S", "auto, loops in CUDA graphs", LOOPS),
        ("O", "auto", {}),
        ("O", "one step per call", {"together": 1}),
        ("C28", "auto, quick compiler", QUICK),
        ("C", "map, quick compiler", EACH | QUICK),
        ("C", "map, quick compiler, 9 steps per call", EACH | QUICK | {"together": 9}),
        ("C", "vectorized, quick compiler", ALL | QUICK),
        ("C", "vectorized, quick compiler, 9 steps per call", ALL | QUICK | {"together": 9}),
    ),
    (
        ("S", "auto, quick compiler", QUICK),
        ("O", "auto, quick compiler", QUICK),
        ("O", "map, quick compiler", EACH | QUICK),
        ("C28", "auto", {}),
        ("C", "map", EACH),
        ("C", "vectorized", ALL),
    ),
)
GPU_KEYS = ("gpu", "gpu megabytes", "gpu percent")
GPU_PATIENCE = 240.0  # seconds for compiling the programs of a round
PARTS = (*WORKLOADS, "ways", "memory", "dense", "scaling S", "scaling C")
SLOW = 2.0  # a peer that needs more seconds per iteration is not the best one and is measured in one round only
TOGETHER = 250  # steps per call where a step is so short that the call matters: what "auto" chooses for S and S5
JOB = {"way": "auto", "jit": "auto", "threads": None, "together": 1, "iterations": 10, "limit": 6.0, "epoch": 1}
META_BATCHES, INNER_STEPS = (1, 2, 4, 8, 16, 32), (1, 2, 3, 5, 8)
WIDTHS, DENSE_TASKS, WAYS, PATIENCE = (64, 128, 256, 512, 1024), 16, ("vectorized", "map", "unrolled"), 45.0


def contestants(name: str) -> dict[str, dict[str, Any]]:
    """The contestants for a workload. Where threads matter, every library is measured with both settings."""
    if WORKLOADS[name]["network"] == "mlp":
        ours = {"epoch": 5 * TOGETHER}
        compared = {way: {"way": way, "threads": os.cpu_count()} for way in ("torch loop", "torch vmap")}
        for suffix, threads in (("", {}), (", threads: 1", {"threads": 1})):
            compared |= {
                f"ours, {TOGETHER} steps a call{suffix}": ours | threads | {"together": TOGETHER},
                f"ours, 1 step a call{suffix}": ours | threads,
                f"jax vmap, {TOGETHER} steps a call{suffix}": {"way": "jax vmap", "together": TOGETHER} | threads,
                f"jax vmap, 1 step a call{suffix}": {"way": "jax vmap", "iterations": 300} | threads,
            }
        return compared
    threads = dict.fromkeys((1, os.cpu_count()))
    torch = {f"{w}, threads: {n}": {"way": w, "threads": n} for w in ("torch loop", "torch vmap") for n in threads}
    ours = {"ours, threads: all": {}, "ours, threads: 1": {"threads": 1}}
    return ours | torch | {way: {"way": way} for way in ("jax map", "jax vmap")}


def compare(name: str, run: "Runner") -> dict[str, Any]:
    """Every contestant's times on one workload."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for _ in range(run.rounds(3 if WORKLOADS[name]["network"] == "mlp" else 2)):
        for contestant, job in contestants(name).items():
            theirs, rounds = "way" in job, answers.setdefault(contestant, [])
            if theirs and (not run.peers or (rounds and min(rounds[0]["seconds"]) > SLOW)):
                continue
            rounds += run([{"work": WORKLOADS[name]} | job])
    found = {contestant: summary(rounds) for contestant, rounds in answers.items() if rounds}
    for contestant, times in found.items():
        say(f"{contestant:26}", times)
    return found


def ways(run: "Runner") -> dict[str, Any]:
    """All methods of processing a batch of tasks, whichever "auto" would choose."""
    found: dict[str, Any] = {}
    for name in ("S", "O", "C"):
        own = {"epoch": 5 * TOGETHER, "together": TOGETHER} if name == "S" else {}
        for way in WAYS:
            answers = run([{"work": WORKLOADS[name], "way": way, "iterations": 5} | own], patience=PATIENCE)
            summed = summary(answers) if answers else f"left out: over {PATIENCE:.0f} s with compiling"
            found.setdefault(name, {})[way] = summed
            say(f"{name} {way:24}", summed)
    return found


def memory(run: "Runner") -> dict[str, int]:
    """The peak memory of C in megabytes, with a small and with a large meta-batch."""
    found = {}
    for tasks in (4, 32):
        (answer,) = run([{"work": WORKLOADS["C"] | {"tasks": tasks}, "iterations": 2}])
        found[str(tasks)] = answer["megabytes"]
        say(f"meta-batch {tasks}: {answer['megabytes']} MB")
    return found


def dense(run: "Runner") -> dict[str, Any]:
    """Up to how many weights vectorizing is faster for a dense network, which determines `parallel.SMALL`."""
    found = {}
    for width in WIDTHS[: run.rounds(len(WIDTHS))]:
        work = CONV | {"network": "dense", "width": width, "queries": 25, "tasks": DENSE_TASKS, "steps": 1}
        job = {"work": work, "together": 10, "epoch": 30}
        side, row = run([job | {"way": way} for way in ("vectorized", "map")])
        found[str(width)] = {"weights": side["weights"], "vectorized": summary([side]), "map": summary([row])}
        ratio = median(row["seconds"]) / median(side["seconds"])
        say(f"{side['weights']:8,} weights: vectorized is {ratio:.2f} times as fast as map")
    return found


def scaling(name: str, run: "Runner") -> dict[str, dict[str, float]]:
    """Milliseconds per iteration against the meta-batch, and against the inner steps."""
    own = {"epoch": 5 * TOGETHER, "together": TOGETHER} if name == "S" else {"iterations": 4}
    found = {}
    for kind, field, values in (("meta-batch", "tasks", META_BATCHES), ("inner steps", "steps", INNER_STEPS)):
        values = values[: run.rounds(len(values)) + 1]  # two points at least, or there is no line
        answers = run([{"work": WORKLOADS[name] | {field: value}, "limit": 3.0} | own for value in values])
        pairs = zip(values, answers, strict=True)
        found[kind] = {str(value): 1e3 * median(answer["seconds"]) for value, answer in pairs}
        say(f"{name} by {kind}: " + ", ".join(f"{key}: {value:.3g} ms" for key, value in found[kind].items()))
    return found


def measure_on_gpu(run: "Runner", folder: Path) -> None:
    """`fit` on a GPU with each of the settings, stored as soon as it is measured."""
    record = {"script": "benchmarks/speed.py", "commit": commit_now(), "XLA_FLAGS": os.environ.get("XLA_FLAGS")}
    record |= identity(run) | {"fit": {}}
    for number, settings in enumerate(GPU_RUNS):
        jobs = {}
        for name, setting, changed in settings:
            steps = {"together": "auto", "iterations": 1000, "epoch": {"S": 1000, "O": 200}.get(name, 54), "limit": 4.0}
            jobs[name, setting] = {"work": GPU_WORKLOADS[name], "gpu": True, "waits": True} | steps | changed
        for (name, setting), answer in run.in_turns(jobs, GPU_PATIENCE):
            found: Any = f"no answer: it failed, or had not compiled after {GPU_PATIENCE:.0f} s"
            if answer:
                found = summary([answer]) | {key: answer[key] for key in GPU_KEYS}
                found |= {"round": number, "steps per call": answer["together"]}
            say(f"{name}, {setting}", found)
            record["fit"].setdefault(name, {})[setting] = found
            (folder / "gpu_fit.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


class Runner:
    """Runs jobs, each list of them in one new process, with few iterations of two tasks if this is only a trial."""

    def __init__(self, peers: str | None, quick: bool) -> None:
        self.peers, self.quick = peers, quick

    def rounds(self, wanted: int) -> int:
        return 1 if self.quick else wanted

    def __call__(self, jobs: list[dict[str, Any]], patience: float | None = None) -> list[dict[str, Any]]:
        """One answer per job; none if it takes longer than `patience`."""
        jobs = self._completed(jobs)
        theirs = jobs[0]["way"].startswith(("torch", "jax"))
        command = [self.peers, str(PEERS)] if theirs else [sys.executable, str(OURS)]
        threads = {}
        if jobs[0]["threads"] == 1:  # PyTorch reads it from the job
            threads = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if theirs else {"TF_NUM_INTRAOP_THREADS": "1"}
        try:
            done = subprocess.run(
                [*command, json.dumps(jobs)],
                env=os.environ | threads,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=patience,
            )
        except subprocess.TimeoutExpired:
            return []
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def in_turns(self, jobs: dict[Any, dict[str, Any]], patience: float) -> Iterator[tuple[Any, dict[str, Any] | None]]:
        """The answer to each of our jobs; None if it failed. They compile side by side and then measure one by one.

        patience: seconds after which those that still compile are given up.
        """
        children, end = {}, time.perf_counter() + patience
        for key, job in jobs.items():
            flags = " ".join([os.environ.get("XLA_FLAGS", ""), job.get("flags", "")]).strip()
            children[key] = subprocess.Popen(
                [sys.executable, str(OURS), json.dumps(self._completed([job]))],
                env=os.environ | {"XLA_FLAGS": flags, "TF_FORCE_GPU_ALLOW_GROWTH": "true"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        with ThreadPoolExecutor(len(jobs)) as pool:
            lines = {key: pool.submit(child.stdout.readline) for key, child in children.items()}
            wait(lines.values(), timeout=end - time.perf_counter())
            ready = {key for key, line in lines.items() if line.done() and line.result()}
            for key in children.keys() - ready:
                children[key].kill()
        for key, child in children.items():
            output = child.communicate("go\n" if key in ready else None)[0]
            answers = [line for line in output.splitlines() if line.startswith("{")]
            yield key, json.loads(answers[0]) if answers else None

    def _completed(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """With the defaults, and smaller if this is only a trial."""
        jobs = [JOB | job for job in jobs]
        if not self.quick:
            return jobs
        short = {"iterations": 2, "limit": 1.0}
        steps = [2 if job["together"] == "auto" else job["together"] for job in jobs]
        return [
            job | short | {"epoch": n, "work": job["work"] | {"tasks": 2}} for job, n in zip(jobs, steps, strict=True)
        ]


def identity(run: Runner) -> dict[str, Any]:
    """The machine and the versions. Parts from another machine are not mixed with these."""
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    if run.peers:
        asked = subprocess.run([run.peers, str(PEERS), "versions"], capture_output=True, text=True, check=True)
        versions |= json.loads(asked.stdout)
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    return {"unit": "ms an iteration", "machine": machine, "versions": versions}


def commit_now() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the Python of an environment with PyTorch and JAX; without it, ours alone")
    parser.add_argument("--only", default=",".join(PARTS), help="these parts, such as S,O, of " + ",".join(PARTS))
    parser.add_argument(
        "--quick", action="store_true", help="few iterations of two tasks, to try it; nothing is stored"
    )
    parser.add_argument("--fresh", action="store_true", help="repeat the selected parts if they are stored")
    parser.add_argument("--gpu", action="store_true", help="measure fit on a GPU, and nothing else")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--only takes parts of {','.join(PARTS)}; {','.join(sorted(unknown))} is none of them.")
    run = Runner(options.peers, options.quick)
    with tempfile.TemporaryDirectory() as trial:
        folder = Path(trial) if options.quick else RESULTS
        if options.gpu:
            measure_on_gpu(run, folder)
        else:
            measure(wanted, run, folder, fresh=options.fresh)
    if options.quick:
        print("This was a trial: its numbers and goals are meaningless.")


def measure(wanted: list[str], run: Runner, folder: Path, *, fresh: bool) -> None:
    """Measure the selected parts that are not yet stored; store each with its commit as soon as it is done."""
    stored = folder / "speed.json"
    record = identity(run) | {"commits": {}, "parts": {}}
    if stored.exists():
        before = json.loads(stored.read_text("utf-8"))
        if all(before.get(key) == record[key] for key in ("unit", "machine", "versions")):
            record = before
    for name in wanted:
        if name in record["parts"] and not fresh:
            continue
        print(name, flush=True)
        began = time.perf_counter()
        if name in WORKLOADS:
            record["parts"][name] = compare(name, run)
        elif name.startswith("scaling"):
            record["parts"][name] = scaling(name.removeprefix("scaling "), run)
        else:
            record["parts"][name] = {"ways": ways, "memory": memory, "dense": dense}[name](run)
        record["commits"][name] = commit_now()
        print(f"  ({time.perf_counter() - began:.0f} s)", flush=True)
        stored.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    record["goals"] = goals(record["parts"], TOGETHER)
    stored.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    curves = {name: record["parts"][f"scaling {name}"] for name in "SC" if f"scaling {name}" in record["parts"]}
    if curves:
        draw(curves, folder / "speed_scaling.png")


if __name__ == "__main__":
    main()
