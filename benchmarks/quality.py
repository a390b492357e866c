"""The quality of MAML: sine curves by the paper's settings, and letters of unseen alphabets.

    PYTHONPATH=. .venv/bin/python benchmarks/quality.py          (about half an hour on two cores)
    PYTHONPATH=. .venv/bin/python benchmarks/quality.py --only sines

Every score is a mean over 1,000 tasks with its 95 % interval, in benchmarks/results/quality.json. A stopped
training run continues where it was: its states are kept in benchmarks/results/backup until it is finished.
"""

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import keras

import meta_keras as mk

RESULTS = Path(__file__).resolve().parent / "results"
TASKS, SELECTION_TASKS = 1000, 200
SINE_STEPS, LETTER_STEPS = 70_000, {1: 2000, 5: 800}
SCRATCH_RATES, SCRATCH_STEPS = (0.3, 1.0, 3.0), {1: (30, 90), 5: (30,)}


def train(
    name: str, learner: mk.MetaLearner, tasks: mk.Tasks, steps: int, epochs: int = 20, **compiled: object
) -> None:
    """`steps` steps of meta-training with Adam at 0.001, saved at the end of each epoch."""
    learner.compile(optimizer=keras.optimizers.Adam(0.001), **compiled)
    backup = keras.callbacks.BackupAndRestore(str(RESULTS / "backup" / name))
    print(f"{name}: {learner.parallel}", flush=True)
    callbacks = [backup, mk.report.Lines()]
    learner.fit(tasks, steps_per_epoch=steps // epochs, epochs=epochs, verbose=0, callbacks=callbacks)


def adapted(network: keras.Model, rate: float, steps: int, test: mk.Tasks, tasks: int = TASKS) -> mk.Score:
    """The score of a network after `steps` steps of plain gradient descent on each support set."""
    rule = mk.rules.GradientDescent(rate, evaluation_steps=steps)
    return mk.evaluate(mk.MetaLearner(network=network, rule=rule), test, tasks)


def best_rate(network: keras.Model, rates: Sequence[float], steps: int, validation: mk.Tasks, sign: int) -> float:
    """The best inner learning rate of a baseline on validation tasks."""
    return max(rates, key=lambda rate: sign * adapted(network, rate, steps, validation, SELECTION_TASKS).mean)


def sines() -> dict[str, str]:
    """MAML's first example: 10 shots and one inner step of 0.01 in training, 5 shots in the test."""
    test = mk.Sinusoids(shots=5, queries=100, seed=1000)
    validation = mk.Sinusoids(shots=5, queries=100, seed=2000)
    keras.utils.set_random_seed(0)
    network, pretrained = mk.networks.mlp(1), mk.networks.mlp(1)
    fast = {"loss": "mse", "steps_per_execution": 50}
    maml = mk.MetaLearner(network=network, rule=mk.rules.GradientDescent(0.01))
    train("sines maml", maml, mk.Sinusoids(shots=10, queries=10), SINE_STEPS, **fast)
    pretraining = mk.MetaLearner(network=pretrained, rule=mk.rules.GradientDescent(0.01, steps=0))
    train("sines pretrained", pretraining, mk.Sinusoids(shots=10, queries=20), SINE_STEPS, **fast)
    rate = best_rate(pretrained, (0.001, 0.003, 0.01, 0.03), 10, validation, sign=-1)
    scores = {"pretrained, inner rate": str(rate)}
    for steps in (0, 1, 5, 10):
        scores[f"maml, {steps} steps"] = str(adapted(network, 0.01, steps, test))
        scores[f"pretrained, {steps} steps"] = str(adapted(pretrained, rate, steps, test))
    return scores


def letters(shots: int) -> dict[str, str]:
    """5-way letters of unseen alphabets, by the paper's settings for Omniglot, at a meta-batch of 16."""
    pool = mk.load("glyphs")
    training = mk.FewShot(pool.split("train"), 5, shots, queries=5, meta_batch=16, rotations=True)
    test = mk.FewShot(pool.split("test"), 5, shots, queries=15, seed=1000)
    network, _ = letter_networks()
    maml = mk.MetaLearner(network=network, rule=mk.rules.GradientDescent(0.4, steps=1, evaluation_steps=3))
    train(f"letters {shots} shots maml", maml, training, LETTER_STEPS[shots])
    return {
        "maml, 0 steps": str(adapted(network, 0.4, 0, test)),
        "maml, 1 step": str(adapted(network, 0.4, 1, test)),
        "maml, 3 steps": str(adapted(network, 0.4, 3, test)),
        "chance": "0.2",
        "steps of training": str(LETTER_STEPS[shots]),
    }


def letters_from_scratch(shots: int) -> dict[str, str]:
    """The same network without meta-training, at the learning rate and number of steps of the validation alphabets."""
    pool = mk.load("glyphs")
    validation = mk.FewShot(pool.split("validation"), 5, shots, queries=5, seed=2000)
    test = mk.FewShot(pool.split("test"), 5, shots, queries=15, seed=1000)
    _, network = letter_networks()
    scores = {
        (rate, steps): adapted(network, rate, steps, validation, SELECTION_TASKS).mean
        for rate in SCRATCH_RATES
        for steps in SCRATCH_STEPS[shots]
    }
    rate, steps = max(scores, key=scores.__getitem__)
    if rate in (SCRATCH_RATES[0], SCRATCH_RATES[-1]):
        raise ValueError(f"The best learning rate, {rate}, is at the edge of the grid: {scores}.")
    return {
        "validation": ", ".join(f"{rate:g} for {steps} steps: {score:.3f}" for (rate, steps), score in scores.items()),
        "selected": f"learning rate {rate:g}, {steps} steps",
        "accuracy": str(adapted(network, rate, steps, test)),
        "chance": "0.2",
    }


def letter_networks() -> tuple[keras.Model, keras.Model]:
    """Two networks of the same architecture with different initial weights."""
    keras.utils.set_random_seed(0)
    network, other = (mk.networks.conv4(5, downsample="stride") for _ in range(2))
    return network, other


PROBLEMS = {
    "sines": sines,
    "letters 1 shot": lambda: letters(1),
    "letters 5 shots": lambda: letters(5),
    "letters 1 shot from scratch": lambda: letters_from_scratch(1),
    "letters 5 shots from scratch": lambda: letters_from_scratch(5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PROBLEMS, help="one of the problems")
    chosen = parser.parse_args().only
    path = RESULTS / "quality.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in [chosen] if chosen else PROBLEMS:
        record[name] = PROBLEMS[name]()
        print(json.dumps(record[name], indent=1), flush=True)
        record["machine"] = {"cores": os.cpu_count(), "python": platform.python_version()}
        record["tensorflow"] = importlib.metadata.version("tensorflow")
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
