"""What chapter 10 reports about MAML and its relatives, measured with tuned learning rates and several seeds.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_10.py      (about 35 minutes on two cores)

sine curves: every method is meta-trained for 1,500 batches of the same 25 tasks with the same 20 points per task (10
support and 10 query points; pretraining and Reptile have no query set and use all 20). Its outer learning rate is
selected first, then the best of nine inner learning rates, both by the error on 500 validation tasks. Test errors are
those of ten new seeds on 1,000 test tasks, the same for all methods.

batch normalization: MAML with the three policies of `batch_statistics`, 5-way 1-shot on glyphs, the inner learning rate
of each selected on validation alphabets, five new seeds on 300 tasks from test alphabets.

memory: how much the peak of the resident memory of a fresh process (VmHWM of Linux) rises while it computes the
meta-gradient of one task.

Results are kept in data/results/chapter_10.json; a run that is stopped continues where it was.
"""

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from record import Record

import meta_keras as mk
from meta_keras.rules import GradientDescent, ImplicitGradient, LearnedRates, Reptile, Rule, Update

STEPS, META_BATCH = 1500, 25
INNER_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
OUTER_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
TUNING_SEEDS, TEST_SEEDS = (0, 1, 2), tuple(range(100, 110))
PLAIN_STEPS = (1, 5, 100)

BN_STEPS, BN_RATES = 400, (0.03, 0.1, 0.3, 1.0, 3.0)
BN_TUNING_SEEDS, BN_TEST_SEEDS = (0, 1), tuple(range(100, 105))
MEMORY_STEPS = (1, 2, 4, 8)


class AdjustableRate(Update):
    """Gradient descent at a rate that can be set between trainings, so that one compiled program serves all rates."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.rate = tf.Variable(learning_rate, trainable=False)

    def init(self, parameters: Any) -> tf.Tensor:
        return self.rate.read_value()  # before the loop over the inner steps, in which XLA reads no variable

    def update(self, gradients: Any, rate: tf.Tensor, parameters: Any, step: Any) -> Any:
        return [-rate * gradient for gradient in gradients], rate


class Training:
    """A learner that is compiled once and trained many times, each time from a new initialization."""

    def __init__(self, make: Callable[[], keras.Model], rule: Rule, **compiled: Any) -> None:
        self.make, self.learner = make, mk.MetaLearner(network=make(), rule=rule)
        self.learner.compile(keras.optimizers.Adam(0.001), **compiled)

    def reset(self, seed: int, inner: float, outer: float) -> None:
        keras.utils.set_random_seed(seed)
        self.learner.network.set_weights(self.make().get_weights())
        transform = self.learner.rule.transform
        for rate in getattr(transform, "rates", [getattr(transform, "rate", None)]):
            if rate is not None:  # pretraining has none
                rate.assign(tf.fill(rate.shape, inner))
        for variable in self.learner.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        self.learner.optimizer.learning_rate.assign(outer)
        self.learner.batches_seen.assign(0)

    def train(self, tasks: tf.data.Dataset, seed: int, inner: float, outer: float, **fitted: Any) -> bool:
        """Whether training stayed finite."""
        self.reset(seed, inner, outer)
        try:
            self.learner.fit(tasks, verbose=0, **fitted)
        except FloatingPointError:
            return False
        return True


# Sine curves


def sine_rules() -> dict[str, Callable[[], Rule]]:
    def rate() -> Update:
        return AdjustableRate(0.01)

    rules = {}
    for steps, name in ((1, "1 step"), (5, "5 steps")):
        rules |= {
            f"MAML, {name}": lambda k=steps: GradientDescent(rate(), k),
            f"first-order MAML, {name}": lambda k=steps: GradientDescent(rate(), k, first_order=True),
            f"ANIL, {name}": lambda k=steps: GradientDescent(rate(), k, layers="head"),
            f"Meta-SGD, {name}": lambda k=steps: GradientDescent(LearnedRates(0.01, "weight"), k),
        }
    rules["MAML++, 5 steps"] = lambda: GradientDescent(LearnedRates(0.01, "layer-step"), 5, multi_step=STEPS // 2)
    rules["Reptile, 5 steps"] = lambda: Reptile(rate(), 5, batch_size=10)
    return rules


def batches(seed: int, name: str) -> tf.data.Dataset:
    """The meta-training tasks of a seed: the same 20 points per task for every method."""
    tasks = next(iter(mk.Sinusoids(shots=10, queries=10, meta_batch=META_BATCH, seed=seed).batch(STEPS)))
    x, y = (tf.concat(pair, axis=2) for pair in ((tasks.support_x, tasks.query_x), (tasks.support_y, tasks.query_y)))
    if name == "pretraining":
        tasks = mk.Episode(x[:, :, :1], y[:, :, :1], x, y)  # nothing is adapted, so the support set is not used
    if name.startswith("Reptile"):
        tasks = mk.Episode(x, y, x[:, :, :1], y[:, :, :1])  # the queries are not used
    return tf.data.Dataset.from_tensor_slices(tasks)


def held_out(seed: int, tasks: int) -> mk.Episode:
    return next(iter(mk.Sinusoids(shots=10, queries=50, meta_batch=tasks, seed=seed)))


VALIDATION, TEST = held_out(10_001, 500), held_out(10_002, 1000)


class Sines:
    """One method on sine curves, with a compiled measurement of its error."""

    def __init__(self, name: str, rule: Rule) -> None:
        self.name = name
        self.training = Training(lambda: mk.networks.mlp(1), rule, loss="mse", steps_per_execution=50)
        self._errors = tf.function(self._of, jit_compile=True)

    def _of(self, *episode: tf.Tensor) -> tf.Tensor:
        *inputs, query_y = episode
        return tf.reduce_mean(tf.square(self.training.learner(tuple(inputs), training=False) - query_y))

    def error(self, seed: int, inner: float, outer: float, tasks: mk.Episode) -> float | None:
        """The mean squared error on these tasks after meta-training; None if it diverged."""
        finite = self.training.train(batches(seed, self.name), seed, inner, outer)
        error = float(self._errors(*tasks)) if finite else np.inf
        return round(error, 5) if np.isfinite(error) else None


def least(errors: Sequence[Sequence[float | None]]) -> int:
    """Which setting has the least mean error over the seeds; one that diverged is not eligible."""
    means = [np.inf if None in row else np.mean(row) for row in errors]
    if not np.isfinite(min(means)):
        raise ValueError("Training diverged at every setting; extend the grid.")
    return int(np.argmin(means))


def tuned_outer(record: Record, name: str, method: Sines) -> list[list[float | None]]:
    start = 0.05 if name.startswith("ANIL") else 0.01 if name.endswith("1 step") else 0.005  # the inner rate meanwhile
    return record.measure(
        f"outer: {name}", lambda: [[method.error(seed, start, o, VALIDATION) for seed in (0, 1)] for o in OUTER_RATES]
    )


def tuned_inner(record: Record, name: str, method: Sines, outer: float) -> list[list[float | None]]:
    return record.measure(
        f"validation: {name}",
        lambda: [[method.error(seed, rate, outer, VALIDATION) for seed in TUNING_SEEDS] for rate in INNER_RATES],
    )


def tested(record: Record, key: str, method: Sines, inner: float, outer: float) -> None:
    record.measure(key, lambda: [method.error(seed, inner, outer, TEST) for seed in TEST_SEEDS])


def sines(record: Record) -> None:
    for name, make in sine_rules().items():
        sine_method(record, name, Sines(name, make()))


def sine_method(record: Record, name: str, method: Sines) -> None:
    tuned = tuned_outer(record, name, method)
    if sum(None not in row for row in tuned) < 2:
        return  # Meta-SGD with five steps diverges at all but the smallest outer learning rate
    outer = OUTER_RATES[least(tuned)]
    inner = INNER_RATES[least(tuned_inner(record, name, method, outer))]
    record.measure(f"selected: {name}", lambda: {"outer": outer, "inner": inner})
    tested(record, f"test: {name}", method, inner, outer)
    if name in ("MAML, 1 step", "Meta-SGD, 1 step"):
        tested(record, f"test at 0.01: {name}", method, 0.01, outer)


def times(record: Record) -> None:
    """Milliseconds per meta-training step of the methods that were tested: medians, all methods in turn."""
    names = [name for name in sine_rules() if None not in record.results.get(f"test: {name}", [None])]
    record.measure("milliseconds", lambda: milliseconds(names, record.results))


def milliseconds(names: Sequence[str], results: dict[str, Any], repeats: int = 7) -> dict[str, float]:
    methods = {name: Sines(name, sine_rules()[name]()) for name in names}
    tasks = {name: batches(0, name) for name in names}
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats + 1):
        for name, method in methods.items():
            rates = results[f"selected: {name}"]
            method.training.reset(0, rates["inner"], rates["outer"])
            began = time.monotonic()
            method.training.learner.fit(tasks[name], verbose=0)
            found[name].append(1e3 * (time.monotonic() - began) / STEPS)
    return {name: round(median(each[1:]), 3) for name, each in found.items()}  # the first one compiles


class Adapted:
    """A network adapted by `steps` steps at any rate, with a compiled measurement of its error."""

    def __init__(self, network: keras.Model, steps: int) -> None:
        self.rule = GradientDescent(AdjustableRate(0.01), evaluation_steps=steps)
        self.learner = mk.MetaLearner(network=network, rule=self.rule)
        self._errors = tf.function(self._of, jit_compile=True)

    def _of(self, *episode: tf.Tensor) -> tf.Tensor:
        *inputs, query_y = episode
        return tf.reduce_mean(tf.square(self.learner(tuple(inputs), training=False) - query_y))

    def errors(self, tasks: mk.Episode, rates: Sequence[float] = INNER_RATES) -> list[float | None]:
        """The mean squared error at each of these learning rates; None where adaptation diverged."""
        found = []
        for rate in rates:
            self.rule.transform.rate.assign(rate)
            error = float(self._errors(*tasks))
            found.append(round(error, 5) if np.isfinite(error) else None)
        return found


def plain(record: Record) -> None:
    """Pretraining on all tasks at once, and no training at all, adapted with the best of nine learning rates each."""
    rule = GradientDescent(0.01, steps=0)
    training = Training(lambda: mk.networks.mlp(1), rule, loss="mse", steps_per_execution=50)
    adapted = {steps: Adapted(training.learner.network, steps) for steps in PLAIN_STEPS}

    def begin(name: str, seed: int, outer: float) -> None:
        if name == "pretraining":
            training.train(batches(seed, name), seed, 0.01, outer)
        else:
            training.reset(seed, 0.01, outer)

    def one_step(seed: int, outer: float) -> float | None:
        begin("pretraining", seed, outer)
        return adapted[1].errors(VALIDATION, [0.01])[0]

    def sweep(name: str, seeds: Sequence[int], outer: float, tasks: mk.Episode) -> dict[str, Any]:
        """For each number of steps, a row of seeds per rate."""
        rows: dict[str, list[Any]] = {str(steps): [] for steps in PLAIN_STEPS}
        for seed in seeds:
            begin(name, seed, outer)
            for steps, one in adapted.items():
                rows[str(steps)].append(one.errors(tasks))
        return {steps: [list(rate) for rate in zip(*found, strict=True)] for steps, found in rows.items()}

    def measure(name: str) -> None:
        tuning = record.measure(f"validation: {name}", lambda: sweep(name, TUNING_SEEDS, rate, VALIDATION))
        best = {steps: least(rows) for steps, rows in tuning.items()}
        inner = {steps: INNER_RATES[place] for steps, place in best.items()}
        record.measure(f"selected: {name}", {"outer": rate, "inner": inner}.copy)
        record.measure(
            f"test: {name}", lambda: {s: rows[best[s]] for s, rows in sweep(name, TEST_SEEDS, rate, TEST).items()}
        )

    outer = record.measure("outer: pretraining", lambda: [[one_step(s, rate) for s in (0, 1)] for rate in OUTER_RATES])
    rate = OUTER_RATES[least(outer)]
    for name in ("pretraining", "random initialization"):
        measure(name)


# Batch normalization


def episodes(part: str, seed: int, **more: Any) -> mk.FewShot:
    return mk.FewShot(mk.load("glyphs").split(part), ways=5, shots=1, seed=seed, **more)


@tf.autograph.experimental.do_not_convert
def one_at_a_time(episode: mk.Episode) -> mk.Episode:
    """Every query as a task of its own, with the same support set."""
    return regrouped(episode, 1)


@tf.autograph.experimental.do_not_convert
def one_class_at_a_time(episode: mk.Episode) -> mk.Episode:
    """The queries of each class as a task of their own."""
    order = tf.argsort(episode.query_y, axis=1, stable=True)
    x, y = (tf.gather(part, order, axis=1, batch_dims=1) for part in (episode.query_x, episode.query_y))
    return regrouped(episode._replace(query_x=x, query_y=y), episode.query_y.shape[1] // 5)


def regrouped(episode: mk.Episode, size: int) -> mk.Episode:
    groups = episode.query_y.shape[1] // size
    support = (tf.repeat(part, groups, axis=0) for part in (episode.support_x, episode.support_y))
    queries = (tf.reshape(part, (-1, size, *part.shape[2:])) for part in (episode.query_x, episode.query_y))
    return mk.Episode(*support, *queries)


class Glyphs:
    """MAML with one policy of batch normalization."""

    def __init__(self, policy: str) -> None:
        rule = GradientDescent(AdjustableRate(0.4), 1, batch_statistics=policy)
        self.training = Training(lambda: mk.networks.conv4(5, downsample="stride", filters=16), rule)

    def train(self, seed: int, inner: float) -> bool:
        tasks = episodes("train", seed, queries=5, meta_batch=4, rotations=True)
        return self.training.train(tasks, seed, inner, 0.003, steps_per_epoch=BN_STEPS)

    def validation(self, seed: int, inner: float) -> float | None:
        """The error rate on validation alphabets; None if training diverged."""
        return round(1 - self.accuracy("validation", 300), 4) if self.train(seed, inner) else None

    def accuracy(self, part: str, tasks: int, arranged: Callable[..., mk.Episode] | None = None) -> float:
        """The mean accuracy over these tasks, with the queries of a task together or arranged otherwise."""
        held_out = episodes(part, 10_001, queries=5, meta_batch=20).take(tasks // 20)
        parts = 1 if arranged is None else len(arranged(next(iter(held_out))).query_y) // 20
        held_out = held_out if arranged is None else held_out.map(arranged)
        return round(mk.evaluate(self.training.learner, held_out, tasks * parts).mean, 4)


def batch_normalization(record: Record) -> None:
    for policy in ("episode", "support", "moving"):
        batch_policy(record, policy, Glyphs(policy))


def batch_policy(record: Record, policy: str, method: Glyphs) -> None:
    tuning = record.measure(
        f"batch norm, validation: {policy}",
        lambda: [[method.validation(seed, rate) for seed in BN_TUNING_SEEDS] for rate in BN_RATES],
    )
    best = BN_RATES[least(tuning)]
    ways: dict[str, Any] = {"together": None}
    if policy == "episode":
        ways |= {"one at a time": one_at_a_time, "one class at a time": one_class_at_a_time}

    def tested() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {name: [] for name in ways}
        for seed in BN_TEST_SEEDS:
            method.train(seed, best)
            for name, arranged in ways.items():
                found[name].append(method.accuracy("test", 300, arranged))
        return found

    record.measure(f"batch norm, selected: {policy}", lambda: best)
    record.measure(f"batch norm, test: {policy}", tested)


# Memory

MEMORY_RULES = {
    "MAML": lambda steps: GradientDescent(0.01, steps),
    "first-order MAML": lambda steps: GradientDescent(0.01, steps, first_order=True),
    "iMAML": lambda steps: ImplicitGradient(0.01, steps),
}


def peak() -> float:
    """The highest resident memory of this process so far, in megabytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def rise(name: str, steps: int) -> float:
    """By how many megabytes one meta-gradient, already traced, raises the peak. To be called in a fresh process."""
    learner = mk.MetaLearner(network=mk.networks.conv4(5, filters=32), rule=MEMORY_RULES[name](steps))
    learner.compile()
    task = next(iter(mk.FewShot(mk.load("glyphs"), ways=5, shots=5, queries=5, meta_batch=1)))
    inputs = tuple(task[:3])
    step = tf.function(lambda: learner.meta_gradients(inputs, task.query_y)[2], autograph=False)
    traced = step.get_concrete_function()
    before = peak()
    for _ in range(3):
        traced()
    return round(peak() - before, 1)


def memory(record: Record) -> None:
    for name in MEMORY_RULES:
        for steps in MEMORY_STEPS:
            record.measure(f"megabytes: {name}, {steps} steps", functools.partial(in_a_fresh_process, name, steps))


def in_a_fresh_process(name: str, steps: int) -> float:
    command = [sys.executable, __file__, "--rise", name, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    parser.add_argument("--rise", nargs=2, metavar=("RULE", "STEPS"), help="one measurement of memory, printed")
    options = parser.parse_args()
    if options.rise:
        print(rise(options.rise[0], int(options.rise[1])))
        return
    record = Record("chapter_10", again=options.again)
    for part in (plain, sines, times, memory, batch_normalization):
        part(record)


if __name__ == "__main__":
    main()
