"""Generated weights against MAML and simple baselines, with tuned hyperparameters and several seeds.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_08.py          (about 50 minutes on one core)
    PYTHONPATH=. .venv/bin/python benchmarks/chapter_08.py glyphs   (one part: glyphs, sines, shared, times, ship)

glyphs: 14x14 pixels, 5-way 1-shot, conv4 with 32 filters. Every method is meta-trained by Adam for 500 steps of four
tasks with 5 support images and 25 queries. The classifier sees as many images, 120 per step, and is followed by the
nearest class mean of its features (centered, of length 1). Learning rates and the inductive policy of batch
normalization (the statistics of the support set, or moving averages) are selected on 300 tasks of the validation
alphabets, with one seed; a grid is extended while its best value is at the edge. Each policy has its own search of the
learning rates, and so has the transductive one. The test: new seeds, 600 tasks of the test alphabets.

sines: what chapter 10 measured, with its tasks, seeds, 1,500 steps of 25 tasks and 1,000 test tasks, so that its
results can be compared with. The outer learning rate is selected on its 500 validation tasks. A conditional neural
process, which generates nothing and reads the description of the task as a further input, is trained on the same tasks;
its number of units per layer is selected from 40 to 320 (more take too long).

shared: one generator for three networks of different shapes and two types of task (sine curves, planes, clusters),
against MAML for each network, with as many meta-training steps per network, and learning rates selected on validation
tasks.

times: seconds to adapt to one task, in turns in one process, as ratios to those of MAML.

ship: data/meta_network.npz, the generator with prototypes of the first seed of "glyphs", meta-trained again.

Results are kept in data/results/chapter_08.json; a run that is stopped continues where it was.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from chapter_01 import align_and_blur
from chapter_10 import TEST, TEST_SEEDS, VALIDATION, batches, kernel_ridge, task_errors
from common import begin_again, best_inside, halved, unit
from record import ROOT, Record, measure_parts

import meta_keras as mk
from meta_keras.rules import Context, CoordinateGenerator, GradientDescent, Prototypes, Rule, WeightGenerator

# Glyphs

STEPS, META_BATCH, SEEDS, SELECTION_SEED, SELECTION_TASKS, TASKS = 500, 4, (0, 1, 2), 100, 300, 600
OUTER, BLURS = (0.001, 0.003, 0.01), (1.0, 1.5, 2.25)
GLYPHS: dict[str, Callable[..., Rule]] = {
    "Prototypes": lambda policy, inner: Prototypes(batch_statistics=policy),
    "generator, prototypes": lambda policy, inner: WeightGenerator(
        per_class=True, prototypes=True, batch_statistics=policy
    ),
    "generator": lambda policy, inner: WeightGenerator(per_class=True, batch_statistics=policy),
    "MAML": lambda policy, inner: GradientDescent(inner, batch_statistics=policy),
}


@functools.cache
def glyphs(split: str) -> mk.ClassPool:
    return mk.load("glyphs").map(halved).split(split)


def episodes(split: str, seed: int, meta_batch: int = 20) -> mk.FewShot:
    return mk.FewShot(glyphs(split), ways=5, shots=1, queries=5, meta_batch=meta_batch, seed=seed)


def conv(units: int | None) -> keras.Model:
    return mk.networks.conv4(units, input_shape=(14, 14, 1), filters=32, downsample="stride")


def held_out(split: str) -> tuple[mk.FewShot, int]:
    return (episodes(split, 2), TASKS) if split == "test" else (episodes(split, 3), SELECTION_TASKS)


def meta_trained(name: str, policy: str, inner: float, outer: float, seed: int) -> mk.MetaLearner:
    keras.utils.set_random_seed(seed)
    network = conv(None if name == "Prototypes" else 5)
    learner = mk.MetaLearner(network=network, rule=GLYPHS[name](policy, inner))
    learner.compile(keras.optimizers.Adam(outer))
    learner.fit(episodes("train", seed, META_BATCH), steps_per_epoch=STEPS, verbose=0)
    return learner


def glyph_accuracy(name: str, policy: str, inner: float, outer: float, seed: int, split: str) -> float:
    return glyph_score(meta_trained(name, policy, inner, outer, seed), split)


def glyph_score(learner: mk.MetaLearner, split: str) -> float:
    return round(float(mk.evaluate(learner, *held_out(split)).mean), 4)


def ship(record: Record) -> None:
    """Write the weights of the generator with prototypes, if it has the accuracy that was recorded."""
    name, seed = "generator, prototypes", SEEDS[0]
    learner = meta_trained(name, **record.results[f"glyphs, selected: {name}"], seed=seed)
    found, recorded = glyph_score(learner, "test"), record.results[f"glyphs, test: {name}, seed {seed}"]
    assert abs(found - recorded) < 0.005, f"an accuracy of {found} instead of {recorded}"
    np.savez_compressed(ROOT / "data" / "meta_network.npz", *learner.get_weights())


def nearest_class_mean(embed: Callable[[np.ndarray], np.ndarray], split: str) -> float:
    """The accuracy of the nearest class mean of embeddings of the images."""
    tasks, count = held_out(split)
    pool = glyphs(split).map(embed)
    network = keras.Sequential([keras.Input(pool.examples.shape[1:]), keras.layers.Flatten()])
    learner = mk.MetaLearner(network=network, rule=Prototypes())
    drawn = mk.FewShot(pool, ways=5, shots=1, queries=5, meta_batch=20, seed=tasks.seed)
    return round(float(mk.evaluate(learner, drawn, count).mean), 4)


def classifier_accuracy(rate: float, seed: int, split: str) -> float:
    """An ordinary classifier of all training characters, and the nearest class mean of its features."""
    keras.utils.set_random_seed(seed)
    network, pool = conv(None), glyphs("train")
    rows = tf.data.Dataset.from_tensor_slices(pool.arrays(scaled=True))
    rows = rows.shuffle(len(rows), seed=seed).repeat()
    model = keras.Sequential([network, keras.layers.Dense(len(pool))])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    model.fit(rows.batch(META_BATCH * 30), steps_per_epoch=STEPS, verbose=0, shuffle=False)

    def embed(pixels: np.ndarray) -> np.ndarray:
        return network.predict(pixels / np.float32(255), batch_size=512, verbose=0)

    mean = embed(pool.examples[::4]).mean(axis=0)
    return nearest_class_mean(lambda pixels: unit(embed(pixels) - mean), split)


def glyph_method(record: Record, name: str) -> None:
    def validated(policy: str, inner: float, outer: float) -> float:
        key = f"glyphs, validation: {name}, {policy}, inner {inner:.3g}, outer {outer:.3g}"
        return record.measure(key, lambda: glyph_accuracy(name, policy, inner, outer, SELECTION_SEED, "validation"))

    def selected(policy: str) -> dict[str, Any]:
        inner = 0.4
        if name == "MAML":
            inner = best_inside(lambda rate: validated(policy, rate, OUTER[1]), (0.2, 0.4, 0.8))
        return {
            "policy": policy,
            "inner": inner,
            "outer": best_inside(lambda rate: validated(policy, inner, rate), OUTER),
        }

    def tested(part: str, chosen: dict[str, Any]) -> None:
        record.measure(f"glyphs, selected{part}: {name}", chosen.copy)
        for seed in SEEDS:
            key = f"glyphs, test{part}: {name}, seed {seed}"
            record.measure(key, lambda seed=seed: glyph_accuracy(name, **chosen, seed=seed, split="test"))

    tested("", max(map(selected, ("moving", "support")), key=lambda one: validated(**one)))
    tested(", transductive", selected("episode"))


def glyph_part(record: Record) -> None:
    for name in GLYPHS:
        glyph_method(record, name)
    rate = best_inside(
        lambda rate: record.measure(
            f"glyphs, validation: classifier, {rate:.3g}",
            lambda: classifier_accuracy(rate, SELECTION_SEED, "validation"),
        ),
        OUTER,
    )
    record.measure("glyphs, selected: classifier", {"outer": rate}.copy)
    for seed in SEEDS:
        record.measure(
            f"glyphs, test: classifier, seed {seed}", lambda seed=seed: classifier_accuracy(rate, seed, "test")
        )
    record.measure("glyphs, test: pixels", lambda: nearest_class_mean(lambda pixels: pixels / 255, "test"))
    aligned_pixels(record)


def aligned_pixels(record: Record) -> None:
    """The strongest baseline without training of chapter 01, on these smaller images."""

    def accuracy(sigma: float, split: str) -> float:
        return nearest_class_mean(lambda images: align_and_blur(images, sigma), split)

    sigma = best_inside(
        lambda sigma: record.measure(
            f"glyphs, validation: aligned pixels, sigma {sigma:.3g}", lambda: accuracy(sigma, "validation")
        ),
        BLURS,
    )
    record.measure("glyphs, selected: aligned pixels", {"sigma": sigma}.copy)
    record.measure("glyphs, test: aligned pixels", lambda: accuracy(sigma, "test"))


# Sine curves, as in chapter 10

SINES = {"generator, head": "head", "generator, all": None}
UNITS = (40, 80, 160, 320)  # of each layer of the conditional neural process


def reset_rule(learner: mk.MetaLearner, make: Callable[[], Rule], seed: int) -> None:
    """New initial weights of the rule, from this seed."""
    keras.utils.set_random_seed(seed)
    fresh = mk.MetaLearner(network=learner.network, rule=make()).rule
    for variable, value in zip(learner.rule.variables, fresh.variables, strict=True):
        variable.assign(value)


class Sines:
    """One generator, compiled once and trained many times."""

    def __init__(self, make: Callable[[], Rule]) -> None:
        self.make = make
        self.learner = mk.MetaLearner(network=mk.networks.mlp(1), rule=make())
        self.learner.compile(keras.optimizers.Adam(0.001), loss="mse", steps_per_execution=50)

    def errors(self, seed: int, outer: float, tasks: mk.Episode) -> float:
        reset_rule(self.learner, self.make, seed)
        begin_again(self.learner, lambda: mk.networks.mlp(1), seed)
        self.learner.optimizer.learning_rate.assign(outer)
        self.learner.fit(batches(seed, "generator"), verbose=0)
        answers = self.learner(tasks[:3], training=False)
        return round(float(task_errors(answers, tasks).mean()), 5)


def conditional_process(units: int) -> keras.Model:
    """A conditional neural process (Garnelo et al., 2018) without a variance: the description of a task is an input."""
    x, y, query_x = (keras.Input((None, 1)) for _ in range(3))
    code = keras.layers.Concatenate()([x, y])
    for layer in (keras.layers.Dense(units, "relu"), keras.layers.Dense(units)):
        code = layer(code)
    code = keras.layers.GlobalAveragePooling1D(keepdims=True)(code)
    hidden = keras.layers.Concatenate()([query_x, keras.ops.ones_like(query_x) @ code])  # the same code for each query
    for layer in (keras.layers.Dense(units, "relu"), keras.layers.Dense(units, "relu"), keras.layers.Dense(1)):
        hidden = layer(hidden)
    return keras.Model((x, y, query_x), hidden)


def errors_when_conditioned(units: int, seed: int, outer: float, tasks: mk.Episode) -> float:
    keras.utils.set_random_seed(seed)
    model = conditional_process(units)
    model.compile(keras.optimizers.Adam(outer), loss="mse", steps_per_execution=50)
    rows = batches(seed, "conditional process").map(lambda task: (task[:3], task[3]))
    model.fit(rows, verbose=0, shuffle=False)
    return round(float(task_errors(model(tasks[:3], training=False), tasks).mean()), 5)


def sine_part(record: Record) -> None:
    for name, layers in SINES.items():
        method = Sines(lambda layers=layers: WeightGenerator(layers))
        sine_test(record, name, method.errors, {"outer": sine_rate(record, name, method.errors)[0]})
    found = {}
    for units in UNITS:
        errors = functools.partial(errors_when_conditioned, units)
        rate, error = sine_rate(record, f"conditional process, {units} units", errors)
        found[error] = {"outer": rate, "units": units}
    selected = found[min(found)]
    errors = functools.partial(errors_when_conditioned, selected["units"])
    sine_test(record, "conditional process", errors, selected)


SineErrors = Callable[[int, float, mk.Episode], float]  # of a seed, an outer learning rate, and tasks


def sine_rate(record: Record, name: str, errors: SineErrors) -> tuple[float, float]:
    """The best outer learning rate, and its error on validation tasks."""

    def validated(rate: float) -> float:
        return -record.measure(f"sines, validation: {name}, outer {rate:.3g}", lambda: errors(0, rate, VALIDATION))

    rate = best_inside(validated, (0.001, 0.002, 0.004))
    return rate, -validated(rate)


def sine_test(record: Record, name: str, errors: SineErrors, selected: dict[str, float]) -> None:
    record.measure(f"sines, selected: {name}", selected.copy)
    for seed in TEST_SEEDS[:3]:
        key = f"sines, test: {name}, seed {seed}"
        record.measure(key, lambda seed=seed: errors(seed, selected["outer"], TEST))


# One generator for several networks

SHARED_STEPS, RATES = 300, (0.002, 0.004, 0.008)
SCALE = {"sine curves": 4.0, "planes": 4.0, "clusters": 1.0}  # about the loss of the best constant answer


class Planes(mk.Tasks):
    """Regression in two dimensions: each task is a plane, given at ten points with noise."""

    def draw(self, seed: tf.Tensor) -> mk.Episode:
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
        x = tf.random.stateless_uniform((self.meta_batch, 20, 2), seeds[0], -2, 2)
        slopes = tf.random.stateless_normal((self.meta_batch, 3, 1), seeds[1])
        y = x @ slopes[:, :2] + slopes[:, 2:]
        noisy = y + 0.5 * tf.random.stateless_normal(y.shape, seeds[2])
        return mk.Episode(x[:, :10], noisy[:, :10], x[:, 10:], y[:, 10:])


class Clusters(mk.Tasks):
    """Classification in two dimensions: each task has three classes, with five support examples and queries each."""

    ways = 3

    def draw(self, seed: tf.Tensor) -> mk.Episode:
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        centers = 2 * tf.random.stateless_normal((self.meta_batch, 1, 3, 2), seeds[0])
        x = centers + tf.random.stateless_normal((self.meta_batch, 10, 3, 2), seeds[1])
        x, y = tf.reshape(x, (self.meta_batch, 30, 2)), tf.tile(tf.range(3), [10])
        y = tf.repeat(y[None], self.meta_batch, axis=0)
        return mk.Episode(x[:, :15], y[:, :15], x[:, 15:], y[:, 15:])


KINDS: dict[str, Callable[..., mk.Tasks]] = {
    "sine curves": lambda meta_batch, seed: mk.Sinusoids(shots=10, queries=10, meta_batch=meta_batch, seed=seed),
    "planes": lambda meta_batch, seed: Planes(meta_batch=meta_batch, seed=seed),
    "clusters": lambda meta_batch, seed: Clusters(meta_batch=meta_batch, seed=seed),
}
SHAPES = {"sine curves": (1, 40, 40, 1), "planes": (2, 20, 1), "clusters": (2, 16, 3)}
NEW_SHAPES = {
    "sine curves": [(1, 30, 30, 1), (1, 80, 80, 1), (1, 40, 1)],
    "planes": [(2, 40, 1)],
    "clusters": [(2, 32, 3)],
}


def chain(shape: tuple[int, ...]) -> keras.Model:
    return mk.networks.mlp(shape[-1], input_shape=shape[:1], hidden=shape[1:-1])


def relative_error(learner: mk.MetaLearner, kind: str, part: str) -> float:
    """The squared error divided by the variance of the targets; for classes the error rate divided by chance's."""
    tasks = next(iter(KINDS[kind](1000, 10_002 if part == "test" else 10_001)))
    answers = learner(tasks[:3], training=False)
    if kind == "clusters":
        wrong = np.argmax(answers, axis=-1) != np.asarray(tasks.query_y)
        return round(float(wrong.mean() / (2 / 3)), 5)
    return round(float(np.mean((answers - tasks.query_y) ** 2) / np.var(tasks.query_y)), 5)


def train_together(learners: dict[str, mk.MetaLearner], outer: float, seed: int, steps: int) -> None:
    """Train what the learners share, by the sum of their losses, each divided by the loss of a constant answer."""
    variables = next(iter(learners.values())).trainable_variables
    optimizer, streams = keras.optimizers.Adam(outer, clipnorm=1.0), []
    for kind, learner in learners.items():
        learner.compile(**({} if kind == "clusters" else {"loss": "mse"}))
        streams.append(iter(KINDS[kind](25, seed)))

    @tf.function(autograph=False)
    def step(*episodes: mk.Episode) -> None:
        total = [tf.zeros_like(variable) for variable in variables]
        for (kind, learner), (*inputs, query_y) in zip(learners.items(), episodes, strict=True):
            *_, (_, gradients) = learner.meta_gradients(tuple(inputs), query_y)
            total = [one + gradient / SCALE[kind] for one, gradient in zip(total, gradients, strict=True)]
        optimizer.apply(total, variables)

    for _ in range(steps):
        step(*map(next, streams))


def trained(kinds: tuple[str, ...], make: Callable[[], Rule], outer: float, seed: int) -> dict[str, mk.MetaLearner]:
    keras.utils.set_random_seed(seed)
    rule = make()
    learners = {kind: mk.MetaLearner(network=chain(SHAPES[kind]), rule=rule) for kind in kinds}
    train_together(learners, outer, seed, SHARED_STEPS)
    return learners


def errors(learners: dict[str, mk.MetaLearner], part: str) -> dict[str, float]:
    return {kind: relative_error(learner, kind, part) for kind, learner in learners.items()}


def new_shapes(rule: Rule) -> dict[str, float]:
    return {
        f"{kind}, {'-'.join(map(str, shape))}": relative_error(
            mk.MetaLearner(network=chain(shape), rule=rule), kind, "test"
        )
        for kind, shapes in NEW_SHAPES.items()
        for shape in shapes
    }


def shared_part(record: Record) -> None:
    shared_method(record, "one generator", tuple(KINDS), lambda inner: CoordinateGenerator())
    record.measure("shared, test: kernel ridge, sine curves", ridge_on_sines)
    record.measure("shared, test: least squares, planes", least_squares)
    record.measure("shared, test: nearest class mean, clusters", nearest_mean_of_points)
    for kind in KINDS:
        shared_method(record, f"MAML, {kind}", (kind,), GradientDescent)


def shared_method(record: Record, name: str, kinds: tuple[str, ...], make: Callable[[float], Rule]) -> None:
    def validated(outer: float, inner: float) -> float:
        def measured() -> dict[str, float]:
            return errors(trained(kinds, lambda: make(inner), outer, SELECTION_SEED), "validation")

        key = f"shared, validation: {name}, outer {outer:.3g}" + (f", inner {inner:.3g}" if inner else "")
        return -float(np.mean(list(record.measure(key, measured).values())))

    inner = 0.0
    if name.startswith("MAML"):
        inner = best_inside(lambda rate: validated(RATES[1], rate), (0.01, 0.03, 0.09))
    outer = best_inside(lambda rate: validated(rate, inner), RATES)
    record.measure(f"shared, selected: {name}", {"outer": outer, "inner": inner}.copy)
    for seed in SEEDS:

        def tested(seed: int = seed) -> dict[str, float]:
            learners = trained(kinds, lambda: make(inner), outer, seed)
            new = new_shapes(next(iter(learners.values())).rule) if len(kinds) > 1 else {}
            return errors(learners, "test") | new

        record.measure(f"shared, test: {name}, seed {seed}", tested)


def ridge_on_sines() -> float:
    """With the settings that chapter 10 selected on its validation tasks for the largest of its smallest ridges."""
    tasks, setting = next(iter(KINDS["sine curves"](1000, 10_002))), mk.report.measured("chapter_10")
    answers = kernel_ridge(tasks, **setting["selected: kernel ridge"]["1e-06"])
    return round(float(np.mean((answers - tasks.query_y) ** 2) / np.var(tasks.query_y)), 5)


def least_squares() -> float:
    tasks = next(iter(KINDS["planes"](1000, 10_002)))

    def rows(x: Any) -> np.ndarray:
        return np.concatenate([x, np.ones_like(x[..., :1])], axis=-1)

    answers = rows(tasks.query_x) @ np.linalg.pinv(rows(tasks.support_x)) @ np.asarray(tasks.support_y)
    return round(float(np.mean((answers - tasks.query_y) ** 2) / np.var(tasks.query_y)), 5)


def nearest_mean_of_points() -> float:
    network = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    return relative_error(mk.MetaLearner(network=network, rule=Prototypes(), ways=3), "clusters", "test")


# Seconds to adapt

REPEATS, CALLS = 30, 20


def adapter(network: keras.Model, rule: Rule, x: tf.Tensor, y: tf.Tensor, ways: int | None) -> Callable[[], Any]:
    """The adaptation to one task as one compiled graph, as `MetaLearner.predictor` runs it."""
    learner = mk.MetaLearner(network=network, rule=rule, ways=ways)
    learner.compile(**({} if ways else {"loss": "mse"}))
    context = Context(learner._loss_of, ways)
    graph = tf.function(lambda x, y: learner.per_task.adapt(context, x, y), autograph=False)
    return lambda: tf.nest.map_structure(lambda one: one.numpy(), graph(x, y))


def seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        function()
    return (time.perf_counter() - began) / CALLS


def ratios(adapters: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Seconds of each, in turns, and the ratio of MAML's to the generator's with its 95 % interval over repeats."""
    for function in adapters.values():
        function()
    found: dict[str, list[float]] = {name: [] for name in adapters}
    for _ in range(REPEATS):
        for name, function in adapters.items():
            found[name].append(seconds(function))
    result: dict[str, Any] = {f"ms: {name}": round(1000 * float(np.median(times)), 3) for name, times in found.items()}
    for name, times in found.items():
        if name.startswith("MAML"):
            ratio = np.array(times) / np.array(found["generator"])
            result[f"ratio: {name}"] = [round(float(one), 3) for one in mk.report.mean_and_interval(ratio)]
    return result


def times_part(record: Record) -> None:
    glyph = next(iter(episodes("test", 0, 1)))
    curve = next(iter(mk.Sinusoids(shots=10, meta_batch=1)))
    maml = {"MAML, 1 step": 1, "MAML, 5 steps": 5}

    def of_glyphs() -> dict[str, Any]:
        task = tf.cast(glyph.support_x[0], tf.float32) / 255, tf.cast(glyph.support_y[0], tf.int32), 5
        generator = WeightGenerator(per_class=True, batch_statistics="support")
        rules = {"generator": generator} | {
            name: GradientDescent(0.4, steps, batch_statistics="support") for name, steps in maml.items()
        }
        return ratios({name: adapter(conv(5), rule, *task) for name, rule in rules.items()})

    def of_curves() -> dict[str, Any]:
        task = curve.support_x[0], curve.support_y[0], None
        rules = {"generator": WeightGenerator("head"), "generator, all": WeightGenerator(None)} | {
            name: GradientDescent(0.01, steps) for name, steps in maml.items()
        }
        return ratios({name: adapter(mk.networks.mlp(1), rule, *task) for name, rule in rules.items()})

    record.measure("times: glyphs", of_glyphs)
    record.measure("times: sine curves", of_curves)


PARTS = {"glyphs": glyph_part, "sines": sine_part, "shared": shared_part, "times": times_part, "ship": ship}


if __name__ == "__main__":
    measure_parts("chapter_08", PARTS, __doc__)
