"""What chapter 10 reports about MAML and its relatives, measured with tuned learning rates and several seeds.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_10.py      (about 45 minutes on two cores)

sine curves: every method is meta-trained for 1,500 batches of the same 25 tasks with the same 20 points per task (10
support and 10 query points; pretraining and Reptile have no query set and use all 20). Its outer learning rate is
selected first, then the best of nine inner learning rates, both by the error on 500 validation tasks; for pretraining,
both jointly for each number of steps at test time. Test errors are those of ten new seeds on 1,000 test tasks, the same
for all methods. Gradients are not clipped. MAML++ and Meta-SGD with five steps diverged too often to be compared; the
record keeps what was tried.

baselines for sine curves, on the same test tasks: predictors without weights from other tasks (kernel ridge regression,
least squares on sine and cosine, interpolation, nearest neighbor), more gradient steps in the test, ridge regression on
pretrained features, and Adam until convergence on each of 500 tasks, from random and from pretrained weights. All
hyperparameters are selected on the validation tasks; those of kernel ridge regression also per task, on the ten support
points alone.

batch normalization: MAML with the three choices of `batch_statistics`, 5-way 1-shot on glyphs, the inner learning rate
of each selected on validation alphabets, five new seeds on 300 tasks from test alphabets.

memory: how much the peak of the resident memory of a fresh process (VmHWM of Linux) rises while it computes the
meta-gradient of one task.

Results are kept in data/results/chapter_10.json; a run that is stopped continues where it was.
"""

import argparse
import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from common import AdjustableRate, begin_again, first
from record import ROOT, Record

import meta_keras as mk
from meta_keras.rules import GradientDescent, ImplicitGradient, LearnedRates, Reptile, Rule, Update

STEPS, META_BATCH = 1500, 25
INNER_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
OUTER_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
TUNING_SEEDS, TEST_SEEDS = (0, 1, 2), tuple(range(100, 110))
PLAIN_STEPS = (1, 2, 5, 10, 100)

BN_STEPS, BN_RATES = 400, (0.03, 0.1, 0.3, 1.0, 3.0)
BN_TUNING_SEEDS, BN_TEST_SEEDS = (0, 1), tuple(range(100, 105))
MEMORY_STEPS = (1, 2, 4, 8)


class Training:
    """A learner that is compiled once and trained many times, each time from a new initialization."""

    def __init__(self, make: Callable[[], keras.Model], rule: Rule, **compiled: Any) -> None:
        self.make, self.learner = make, mk.MetaLearner(network=make(), rule=rule)
        self.learner.compile(keras.optimizers.Adam(0.001), **compiled)

    def reset(self, seed: int, inner: float, outer: float) -> None:
        begin_again(self.learner, self.make, seed)
        transform = self.learner.rule.transform
        for rate in getattr(transform, "rates", [getattr(transform, "rate", None)]):
            if rate is not None:  # pretraining has none
                rate.assign(tf.fill(rate.shape, inner))
        self.learner.optimizer.learning_rate.assign(outer)

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


class Plain:
    """Pretraining on all tasks at once, or no training at all, followed by gradient steps or ridge regression."""

    def __init__(self, name: str) -> None:
        self.name, rule = name, GradientDescent(0.01, steps=0)
        self.training = Training(lambda: mk.networks.mlp(1), rule, loss="mse", steps_per_execution=50)
        self.network = self.training.learner.network
        self.adapted = {f"{n} step{'s' * (n > 1)}": Adapted(self.network, n) for n in PLAIN_STEPS}
        self.outers: Sequence[float] = (0.0,)  # no training
        self.grids: dict[str, Sequence[float]] = dict.fromkeys(self.adapted, INNER_RATES)
        if name == "pretraining":
            self.outers, self.grids["ridge"] = OUTER_RATES, PENALTIES

    def begin(self, seed: int, outer: float) -> None:
        if outer:
            self.training.train(batches(seed, self.name), seed, 0.01, outer)
        else:
            self.training.reset(seed, 0.01, outer)

    def errors(self, key: str, settings: Sequence[float], tasks: mk.Episode) -> list[float | None]:
        """After so many gradient steps at each inner learning rate, or with each penalty of ridge regression."""
        if key != "ridge":
            return self.adapted[key].errors(tasks, settings)
        found = [task_errors(ridge_on_features(self.network, tasks, penalty), tasks).mean() for penalty in settings]
        return [round(float(error), 5) for error in found]

    def validated(self) -> dict[str, list[Any]]:
        """For each number of steps, and for ridge regression: a row of seeds per pair of outer rate and setting."""
        found: dict[str, list[Any]] = {key: [] for key in self.grids}
        for outer in self.outers:
            rows: dict[str, list[Any]] = {key: [] for key in self.grids}
            for seed in TUNING_SEEDS:
                self.begin(seed, outer)
                for key, grid in self.grids.items():
                    rows[key].append(self.errors(key, grid, VALIDATION))
            for key in self.grids:
                found[key] += [list(setting) for setting in zip(*rows[key], strict=True)]
        return found

    def selected(self, tuning: dict[str, list[Any]]) -> dict[str, dict[str, float]]:
        pairs = {key: list(itertools.product(self.outers, grid)) for key, grid in self.grids.items()}
        best = {key: pairs[key][least(rows)] for key, rows in tuning.items()}
        names = {key: "penalty" if key == "ridge" else "inner" for key in best}
        return {key: {"outer": outer, names[key]: setting} for key, (outer, setting) in best.items()}

    def tested(self, selected: dict[str, dict[str, float]]) -> dict[str, list[float | None]]:
        found: dict[str, list[float | None]] = {key: [] for key in selected}
        for seed, outer in itertools.product(TEST_SEEDS, sorted({each["outer"] for each in selected.values()})):
            self.begin(seed, outer)
            for key, each in selected.items():
                if each["outer"] == outer:
                    found[key] += self.errors(key, list(each.values())[1:], TEST)
        return found


def plain(record: Record) -> None:
    """Both learning rates are selected jointly, for each number of steps; so are outer rate and penalty."""
    for name in ("pretraining", "random initialization"):
        method = Plain(name)
        tuning = record.measure(f"validation: {name}", method.validated)
        selected = method.selected(tuning)
        tested = functools.cache(lambda m=method, s=selected: m.tested(s))  # one training serves several settings
        for key, settings in selected.items():
            record.measure(f"selected: {name}, {key}", settings.copy)
            record.measure(f"test: {name}, {key}", lambda k=key, t=tested: t()[k])


# Baselines without meta-training, and extra gradient steps in the test

LENGTHS, RIDGES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0), (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
LENGTHS_PER_TASK = (*LENGTHS, 5.0, 6.0, 8.0)
FLOORS = RIDGES[:3]  # without noise, a smaller ridge is better as long as the numbers have digits
PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0)
TEST_STEPS = (1, 2, 5, 10, 20, 50, 100)
ADAM_RATES = {
    "Adam from scratch": (0.001, 0.003, 0.01, 0.03, 0.1),
    "Adam from pretraining": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
}
ADAM_STEPS = (100, 300, 1000, 3000, 10_000)
ADAM_SEEDS, ADAM_VALIDATION, ADAM_TEST = TEST_SEEDS[:3], 200, 500


def task_errors(predicted: Any, tasks: mk.Episode) -> np.ndarray:
    return np.mean((np.asarray(predicted) - np.asarray(tasks.query_y)) ** 2, axis=(1, 2))


def summary(errors: Sequence[float]) -> list[float] | None:
    """The mean over tasks, and half the width of its 95 % interval; None if it diverged on some task."""
    if not np.isfinite(errors).all():
        return None
    return [round(number, 5) for number in mk.report.mean_and_interval(errors)]


def kernel_ridge(tasks: mk.Episode, length: float, ridge: float) -> np.ndarray:
    """Ridge regression with a Gaussian kernel on the support set of each task, in double precision."""
    x, y, queries = (np.asarray(part, dtype=float) for part in tasks[:3])
    return gaussian_kernel(queries, x, length) @ np.linalg.solve(ridge_matrix(x, length, ridge), y)


def gaussian_kernel(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    return np.exp(-((a - b.swapaxes(1, 2)) ** 2) / (2 * length**2))


def ridge_matrix(x: np.ndarray, length: float, ridge: float) -> np.ndarray:
    return gaussian_kernel(x, x, length) + ridge * np.eye(x.shape[1])


def negative_log_marginal_likelihood(tasks: mk.Episode, length: float, ridge: float) -> np.ndarray:
    """That of each support set under a Gaussian process, up to a constant; the scale of y has its best value."""
    x, y = (np.asarray(part, dtype=float) for part in tasks[:2])
    matrix, count = ridge_matrix(x, length, ridge), x.shape[1]
    scale = np.sum(y * np.linalg.solve(matrix, y), axis=(1, 2)) / count
    return (count * np.log(scale) + np.linalg.slogdet(matrix)[1]) / 2


def leave_one_out_error(tasks: mk.Episode, length: float, ridge: float) -> np.ndarray:
    """The mean squared error when every support point is predicted from the others."""
    x, y = (np.asarray(part, dtype=float) for part in tasks[:2])
    inverse = np.linalg.inv(ridge_matrix(x, length, ridge))
    residuals = (inverse @ y)[..., 0] / np.diagonal(inverse, axis1=1, axis2=2)
    return np.mean(residuals**2, axis=1)


PER_TASK = {"marginal likelihood": negative_log_marginal_likelihood, "leave-one-out": leave_one_out_error}


def kernel_ridge_per_task(tasks: mk.Episode, criterion: str, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Kernel ridge regression whose length scale and ridge are selected on the support set of each task alone.

    The predictions, and the pair that was selected for each task.
    """
    settings = list(itertools.product(LENGTHS_PER_TASK, [ridge for ridge in RIDGES if ridge >= floor]))
    losses = np.stack([PER_TASK[criterion](tasks, *setting) for setting in settings])
    best, predictions = np.argmin(losses, axis=0), np.stack([kernel_ridge(tasks, *setting) for setting in settings])
    return predictions[best, np.arange(len(best))], np.array(settings)[best]


def sine_and_cosine(tasks: mk.Episode) -> np.ndarray:
    """Least squares on sin x and cos x, which span all tasks: what ten points are sufficient for."""
    x, y, queries = (np.asarray(part, dtype=float) for part in tasks[:3])
    known, asked = (np.concatenate([np.sin(part), np.cos(part)], axis=2) for part in (x, queries))
    return asked @ np.linalg.pinv(known) @ y


def linear_interpolation(tasks: mk.Episode) -> np.ndarray:
    """Between neighboring support points; constant beyond the outermost two."""
    x, y, queries = (np.asarray(part)[..., 0] for part in tasks[:3])
    order = np.argsort(x, axis=1)
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    return np.stack([np.interp(*each) for each in zip(queries, x, y, strict=True)])[..., None]


def nearest_neighbor(tasks: mk.Episode) -> np.ndarray:
    x, y, queries = (np.asarray(part)[..., 0] for part in tasks[:3])
    nearest = np.argmin(np.abs(queries[:, :, None] - x[:, None]), axis=2)
    return np.take_along_axis(y, nearest, 1)[..., None]


def without_training(record: Record) -> dict[str, np.ndarray]:
    """Predictors that have no weights from other tasks; the errors of kernel ridge regression, for each selection."""
    tuning = record.measure(
        "validation: kernel ridge",
        lambda: [[summary(task_errors(kernel_ridge(VALIDATION, n, r), VALIDATION)) for r in RIDGES] for n in LENGTHS],
    )

    def best(floor: float) -> dict[str, float]:
        means = np.where(np.array(RIDGES) >= floor, np.array(tuning)[..., 0], np.inf)
        row, column = np.unravel_index(np.argmin(means), means.shape)
        return {"length": LENGTHS[row], "ridge": RIDGES[column]}

    selected = record.measure("selected: kernel ridge", lambda: {f"{floor:g}": best(floor) for floor in FLOORS})
    predictors = {"linear interpolation": linear_interpolation, "nearest neighbor": nearest_neighbor}
    for name, predict in predictors.items():
        record.measure(f"test over tasks: {name}", lambda p=predict: summary(task_errors(p(TEST), TEST)))
    record.measure(
        "test over tasks: sine and cosine",  # rounding is all that is left, so the numbers are not rounded
        lambda: list(mk.report.mean_and_interval(task_errors(sine_and_cosine(TEST), TEST))),
    )
    errors = {}
    for floor, setting in selected.items():
        errors[f"validation, {floor}"] = task_errors(kernel_ridge(TEST, **setting), TEST)
        key = f"test over tasks: kernel ridge, floor {floor}"
        record.measure(key, lambda e=errors[f"validation, {floor}"]: summary(e))
    return errors | selected_per_task(record)


def selected_per_task(record: Record) -> dict[str, np.ndarray]:
    errors = {}
    for criterion, floor in itertools.product(PER_TASK, FLOORS):
        name = f"{criterion}, {floor:g}"
        predictions, selected = kernel_ridge_per_task(TEST, criterion, floor)
        errors[name] = task_errors(predictions, TEST)
        record.measure(f"test over tasks: kernel ridge, {name}", lambda e=errors[name]: summary(e))
        counts = [
            {f"{value:g}": int(np.sum(column == value)) for value in grid}
            for column, grid in zip(selected.T, (LENGTHS_PER_TASK, RIDGES), strict=True)
        ]
        record.measure(f"selected: kernel ridge, {name}", dict(zip(("lengths", "ridges"), counts, strict=True)).copy)
    return errors


def test_steps(record: Record) -> None:
    """More gradient steps in the test than in meta-training, and the difference from kernel ridge on the same tasks."""
    kernels = without_training(record)
    for name in sine_rules():
        if name in ("MAML++, 5 steps", "Meta-SGD, 5 steps"):
            continue  # diverged too often
        trained = int(name.split()[-2])
        counts = [steps for steps in TEST_STEPS if steps >= trained]
        record.measure(
            f"after more steps: {name}", lambda n=name, c=counts: at_test_steps(n, c, record.results, kernels)
        )


def at_test_steps(name: str, counts: Sequence[int], results: dict[str, Any], kernels: dict[str, Any]) -> dict[str, Any]:
    """The error of each seed after each number of steps; over tasks, that of their mean minus that of each kernel."""
    method, rates, learners = Sines(name, sine_rules()[name]()), results[f"selected: {name}"], {}
    for steps in counts:
        method.training.learner.rule.evaluation_steps = steps  # read when the function is traced
        learners[steps] = tf.function(lambda *i: method.training.learner(i, training=False), jit_compile=True)
        learners[steps](*TEST[:3])
    errors: dict[int, list[np.ndarray]] = {steps: [] for steps in counts}
    for seed in TEST_SEEDS:
        method.training.train(batches(seed, name), seed, rates["inner"], rates["outer"])
        for steps, predict in learners.items():
            errors[steps].append(task_errors(predict(*TEST[:3]), TEST))
    return {
        str(steps): {
            "seeds": [round(float(row.mean()), 5) if np.isfinite(row).all() else None for row in rows],
            "minus kernel ridge": {kernel: summary(np.mean(rows, axis=0) - other) for kernel, other in kernels.items()},
        }
        for steps, rows in errors.items()
    }


def ridge_on_features(network: keras.Model, tasks: mk.Episode, penalty: float) -> np.ndarray:
    """The last layer refitted by ridge regression; the penalty is on its distance from the pretrained one."""
    features = keras.Model(network.inputs, network.layers[-2].output)

    def of(x: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
        flat = tf.reshape(x, (-1, 1))
        found = np.asarray(features(flat), dtype=float).reshape(*x.shape[:2], -1)
        ones = np.ones((*found.shape[:2], 1))
        return np.concatenate([found, ones], axis=2), np.asarray(network(flat), dtype=float).reshape(x.shape)

    (known, before), (asked, prior) = of(tasks.support_x), of(tasks.query_x)
    products = known @ known.swapaxes(1, 2) + penalty * np.eye(known.shape[1])
    residual = np.asarray(tasks.support_y, dtype=float) - before
    return prior + asked @ known.swapaxes(1, 2) @ np.linalg.solve(products, residual)


class PerTask:
    """One network per task, trained on its support set alone by Adam, all tasks at once."""

    def __init__(self, tasks: mk.Episode) -> None:
        self.tasks, self._run = tasks, tf.function(self._steps, jit_compile=True, autograph=False)

    @staticmethod
    def _forward(weights: Sequence[tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            x = tf.nn.relu(x @ kernel + bias)
        return x @ weights[-2] + weights[-1]

    def _steps(self, state: Any, begin: tf.Tensor, end: tf.Tensor, rate: tf.Tensor) -> Any:
        def body(step: tf.Tensor, weights: Any, means: Any, squares: Any) -> tuple[Any, ...]:
            with tf.GradientTape() as tape:
                tape.watch(weights)
                errors = self._forward(weights, self.tasks.support_x) - self.tasks.support_y
                loss = tf.reduce_sum(tf.reduce_mean(errors**2, axis=(1, 2)))  # tasks share nothing
            gradients, number = tape.gradient(loss, weights), tf.cast(step + 1, tf.float32)
            means = [0.9 * m + 0.1 * g for m, g in zip(means, gradients, strict=True)]
            squares = [0.999 * s + 0.001 * g**2 for s, g in zip(squares, gradients, strict=True)]
            size = rate * tf.sqrt(1 - 0.999**number) / (1 - 0.9**number)
            moved = [w - size * m / (tf.sqrt(s) + 1e-7) for w, m, s in zip(weights, means, squares, strict=True)]
            return step + 1, moved, means, squares

        return tf.while_loop(lambda step, *_: step < end, body, (begin, *state))[1:]

    def errors(self, weights: list[tf.Tensor], rate: float, last: int = ADAM_STEPS[-1]) -> dict[int, np.ndarray]:
        """The error of each task after each number of steps up to the last."""
        nothing = [tf.zeros_like(weight) for weight in weights]
        state, begin, found = (weights, nothing, nothing), 0, {}
        for end in (steps for steps in ADAM_STEPS if steps <= last):
            state = self._run(state, tf.constant(begin), tf.constant(end), tf.constant(rate))
            found[end], begin = task_errors(self._forward(state[0], self.tasks.query_x), self.tasks), end
        return found


def stacked(networks: Sequence[keras.Model]) -> list[tf.Tensor]:
    """The weights of one network per task, with the tasks along axis 0; biases as rows."""
    weights = [np.stack(each) for each in zip(*(network.get_weights() for network in networks), strict=True)]
    return [tf.constant(w if w.ndim == 3 else w[:, None]) for w in weights]


Initial = Callable[[int, int, float], list[tf.Tensor]]


def until_convergence(record: Record, name: str, initial: Initial, outers: Sequence[float]) -> None:
    """Adam on each task alone; initial: `(seed, tasks, outer rate) -> weights`. All settings are selected together."""
    validation, test = first(VALIDATION, ADAM_VALIDATION), first(TEST, ADAM_TEST)

    def tune(outer: float) -> list[list[float]]:
        each, weights = PerTask(validation), initial(TUNING_SEEDS[0], ADAM_VALIDATION, outer)
        found = [each.errors(weights, rate) for rate in ADAM_RATES[name]]
        return [[round(float(row[steps].mean()), 5) for steps in ADAM_STEPS] for row in found]

    keys = {outer: f"validation: {name}, outer rate {outer}" for outer in outers}
    tuning = np.array([record.measure(key, functools.partial(tune, outer)) for outer, key in keys.items()])
    best = (int(axis) for axis in np.unravel_index(np.nanargmin(tuning), tuning.shape))
    settings = (grid[place] for grid, place in zip((outers, ADAM_RATES[name], ADAM_STEPS), best, strict=True))
    chosen = dict(zip(("outer", "rate", "steps"), settings, strict=True))
    record.measure(f"selected: {name}", chosen.copy)

    def tested() -> list[float] | None:
        each, steps = PerTask(test), chosen["steps"]
        starts = (initial(seed, ADAM_TEST, chosen["outer"]) for seed in ADAM_SEEDS)
        return summary(np.mean([each.errors(start, chosen["rate"], steps)[steps] for start in starts], axis=0))

    record.measure(f"test over tasks: {name}", tested)


def adam(record: Record) -> None:
    """Until convergence, from random and from pretrained weights."""
    pretraining = Plain("pretraining")

    def scratch(seed: int, tasks: int, outer: float) -> list[tf.Tensor]:
        keras.utils.set_random_seed(seed)
        return stacked([mk.networks.mlp(1) for _ in range(tasks)])

    def pretrained(seed: int, tasks: int, outer: float) -> list[tf.Tensor]:
        pretraining.begin(seed, outer)
        return stacked([pretraining.network] * tasks)

    until_convergence(record, "Adam from scratch", scratch, (0.0,))
    until_convergence(record, "Adam from pretraining", pretrained, OUTER_RATES[:5])  # the last is much too large


# The opening figure


def draw(results: dict[str, Any]) -> dict[str, list[float]]:
    """chapters/near_start.png: the first three test tasks adapted from two initializations. Errors after five steps."""
    figure, panels = plt.subplots(2, 3, figsize=(8, 4.6), sharex=True, sharey=True, layout="constrained")
    grid, tasks = np.linspace(-5, 5, 200, dtype="float32")[:, None], first(TEST, 3)
    found = {}
    for row, (label, steps) in zip(panels, (("MAML", "1 step"), ("pretraining", "5 steps")), strict=True):
        rates, seed = results[f"selected: {label}, {steps}"], TEST_SEEDS[0]
        method = Sines(label, GradientDescent(AdjustableRate(0.01), 1) if label == "MAML" else GradientDescent(0.01, 0))
        method.training.train(batches(seed, label), seed, rates["inner"], rates["outer"])
        for task, axes in enumerate(row):
            draw_task(axes, mk.Episode(*(part[task : task + 1] for part in tasks)), grid)
        for steps, (color, dashes) in {0: ("0.45", ":"), 1: ("#d95f02", "--"), 5: ("#1f4e9c", "-")}.items():
            learner = Adapted(method.training.learner.network, steps).learner
            learner.rule.transform.rate.assign(rates["inner"])
            curves = learner((*tasks[:2], np.stack([grid] * 3)), training=False)
            for axes, curve in zip(row, curves, strict=True):
                axes.plot(grid, curve, dashes, color=color, label=f"{steps} step{'s' * (steps != 1)}")
        found[label] = [round(float(e), 4) for e in task_errors(learner(tasks[:3], training=False), tasks)]
        row[0].set_ylabel(f"{label}\ny")
    for axes in panels[1]:
        axes.set_xlabel("x")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    figure.savefig(ROOT / "chapters" / "near_start.png", dpi=110, metadata={"Software": None})
    return found


def draw_task(axes: plt.Axes, task: mk.Episode, grid: np.ndarray) -> None:
    """The support set and the true curve, which is a sin x + b cos x, from all points of the task."""
    x, y = (
        np.concatenate([a[0, :, 0], b[0, :, 0]])
        for a, b in ((task.support_x, task.query_x), (task.support_y, task.query_y))
    )
    (a, b), *_ = np.linalg.lstsq(np.stack([np.sin(x), np.cos(x)], axis=1), y, rcond=None)
    axes.plot(grid, a * np.sin(grid) + b * np.cos(grid), color="0.8", linewidth=5, label="true curve")
    axes.scatter(task.support_x[0], task.support_y[0], color="black", s=16, zorder=3, label="support set")


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
    """MAML with one choice of the statistics of batch normalization."""

    def __init__(self, statistics: str) -> None:
        rule = GradientDescent(AdjustableRate(0.4), 1, batch_statistics=statistics)
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
    for statistics in ("episode", "support", "moving"):
        with_statistics(record, statistics, Glyphs(statistics))


def with_statistics(record: Record, statistics: str, method: Glyphs) -> None:
    tuning = record.measure(
        f"batch norm, validation: {statistics}",
        lambda: [[method.validation(seed, rate) for seed in BN_TUNING_SEEDS] for rate in BN_RATES],
    )
    best = BN_RATES[least(tuning)]
    ways: dict[str, Any] = {"together": None}
    if statistics == "episode":
        ways |= {"one at a time": one_at_a_time, "one class at a time": one_class_at_a_time}

    def tested() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {name: [] for name in ways}
        for seed in BN_TEST_SEEDS:
            method.train(seed, best)
            for name, arranged in ways.items():
                found[name].append(method.accuracy("test", 300, arranged))
        return found

    record.measure(f"batch norm, selected: {statistics}", lambda: best)
    record.measure(f"batch norm, test: {statistics}", tested)


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
    for part in (plain, sines, test_steps, adam, memory, batch_normalization):
        part(record)
    record.measure("opening figure", lambda: draw(record.results))


if __name__ == "__main__":
    main()
