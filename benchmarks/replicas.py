"""How much faster two workers are than one: two processes with one core each, against one process on one core.

    PYTHONPATH=. .venv/bin/python benchmarks/replicas.py

Both train on workload C of benchmarks/speed.py, four tasks per step, of which each worker takes two. The processes take
turns, round by round. Prints the tasks per second and the cost of the all-reduce, and stores them with
the plot in benchmarks/results/replicas.json and replicas.png. Two cores are needed, and nothing else should run.

The plot shows what more workers would reach: this is computed, not measured. Each worker keeps its two tasks and
takes as long for them as here. A ring all-reduce of n workers sends 2 (n - 1) messages one after another, each with
1 / n of the numbers. Latency and bandwidth are those measured here, between two processes of one machine.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS, EPOCHS, STEPS, REPEATS = 2, 5, 4, 30
SIZES = (1, 10_000, 1_000_000)  # numbers in an all-reduce
WORKERS = (1, 2, 4, 8, 16, 32, 64)
GOAL = 1.8


def child(number: int, quick: bool) -> None:
    """Train in this process, alone (-1) or as worker `number`, and print the seconds per step of every epoch."""
    os.sched_setaffinity(0, {max(number, 0)})  # before TensorFlow starts its threads
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import ours
    import speed
    import tensorflow as tf

    epochs, steps = (1, 2) if quick else (EPOCHS, STEPS)
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if number >= 0 else tf.distribute.get_strategy()
    work = speed.WORKLOADS["C"]
    job = speed.JOB | {"work": work | {"tasks": 2, "queries": 5, "steps": 1} if quick else work}
    with strategy.scope():
        learner = ours.learner_for(job)
    tasks = tf.data.Dataset.from_tensors(ours.mk.Episode(*map(tf.constant, ours.episodes(job["work"])))).repeat()
    learner.fit(tasks, steps_per_epoch=1, verbose=0)  # which traces
    clock = ours.Clock(limit=60.0)
    learner.fit(tasks, steps_per_epoch=steps, epochs=epochs, callbacks=[clock], verbose=0)
    seconds = [(end - start) / steps for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
    found = {"seconds": seconds, "weights": learner.network.count_params(), "reduce": {}}
    if number >= 0:
        answers = job["work"]["tasks"] * job["work"]["queries"] * 5
        sizes = {"step": found["weights"] + answers + 1} | {str(size): size for size in SIZES}
        found["reduce"] = {name: reducing(learner.replicas, size) for name, size in sizes.items()}
    print(json.dumps(found), flush=True)


def reducing(replicas: Any, size: int) -> float:
    """Seconds of an all-reduce of so many numbers."""
    import tensorflow as tf

    reduce = tf.function(lambda values: replicas.sum([values]), autograph=False)
    values, seconds = [tf.ones(size)], []
    for _ in range(REPEATS):
        began = time.perf_counter()
        reduce(values)[0].numpy()
        seconds.append(time.perf_counter() - began)
    return median(seconds[5:])


def processes(numbers: list[int], quick: bool) -> list[dict[str, Any]]:
    """What the processes with these numbers print; they run at the same time."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in numbers]
    cluster = {"worker": [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]}
    for one in sockets:
        one.close()
    started = []
    for number in numbers:
        config = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": number}})}
        environment = os.environ | {"TF_NUM_INTRAOP_THREADS": "1"} | (config if number >= 0 else {})
        command = [sys.executable, __file__, "--child", str(number), *(["--quick"] if quick else [])]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return [json.loads(one.communicate(timeout=120)[0].splitlines()[-1]) for one in started]


def measure(quick: bool) -> dict[str, Any]:
    one, two, reduce = [], [], []
    for _ in range(1 if quick else ROUNDS):
        (alone,) = processes([-1], quick)
        first, second = processes([0, 1], quick)
        one += alone["seconds"]
        two += [max(pair) for pair in zip(first["seconds"], second["seconds"], strict=True)]
        reduce.append(first["reduce"])
    costs = {name: median(one[name] for one in reduce) for name in reduce[0]}
    return {"one": one, "two": two, "reduce": costs, "weights": alone["weights"]}


def computed(found: dict[str, Any]) -> dict[int, float]:
    """Tasks per second of more workers, with two tasks each: see the head of this file."""
    small, large = (found["reduce"][str(size)] for size in (SIZES[0], SIZES[-1]))
    latency, per_number = small / 2, max(large - small, 0.0) / SIZES[-1]
    own = median(found["two"]) - found["reduce"]["step"]
    numbers = found["weights"] + 1

    def seconds(workers: int) -> float:
        rounds = 2 * (workers - 1)
        return own + rounds * latency + rounds / workers * per_number * numbers

    return {workers: 2 * workers / seconds(workers) for workers in WORKERS}


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    more = computed(found)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(list(more), [w * more[1] for w in more], ":", color="gray", label="proportional to the workers")
    axes.plot(list(more), list(more.values()), "--o", mfc="none", label="computed, two tasks per worker")
    measured = [4 / median(found[name]) for name in ("one", "two")]
    axes.plot([1, 2], measured, "s", label="measured, four tasks in all")
    axes.set(xscale="log", yscale="log", xlabel="workers, one core each", ylabel="tasks per second")
    axes.set_xticks(WORKERS, list(map(str, WORKERS)))
    axes.minorticks_off()
    axes.set_title("Workload C; more than two workers are computed, not measured", fontsize=10)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two steps of little work, to try it; nothing is stored")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.quick)
        return
    found = measure(options.quick)
    one, two = median(found["one"]), median(found["two"])
    print(f"one process: {4 / one:.2f} tasks per second; two: {4 / two:.2f}, {one / two:.2f} times (goal: {GOAL})")
    print(f"all-reduce of a step: {1e3 * found['reduce']['step']:.2f} ms of {1e3 * two:.0f} ms")
    if not options.quick:
        import speed

        (RESULTS / "replicas.json").write_text(
            json.dumps(
                speed.identity(speed.Runner(None, False))
                | {"unit": "seconds", "commit": speed.commit_now(), "times": one / two, "goal": GOAL}
                | found
                | {"computed tasks per second": computed(found)},
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )
        draw(found, RESULTS / "replicas.png")


if __name__ == "__main__":
    main()
