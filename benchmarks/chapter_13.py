"""Learned transfer strategies against their baselines, each at its own best learning rate.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_13.py          (about 20 minutes on one core)

A source, a small convolutional classifier of 200 characters, is transferred to 5-way 5-shot tasks by a few steps of
gradient descent. Near tasks have characters of other alphabets, far tasks garments. All methods have the same source,
the same random initialization of the trunk, and a head that starts from zero. Those that are meta-trained see the
same tasks. Every learning rate, and every other hyperparameter, is selected on the validation tasks of a replicate of
its own (SELECTION), in grids that are extended while their best value is at the edge. Each replicate in REPLICATES has
a source, an initialization, meta-training tasks and 200 test tasks of its own (after 20 steps, the first 100 of them).
The results are mean accuracies for each replicate. They are in data/results/chapter_13.json, from where the chapter
reads them. The script also draws the opening figure of the chapter, chapters/amount_and_rate.png.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from common import best_inside, first, halved
from matplotlib.figure import Figure
from record import ROOT, Record

import meta_keras as mk
from meta_keras.rules import GradientDescent, Update
from meta_keras.transfer import Strategy, StrategyNetwork

KINDS = ("near", "far")
TRUNK, STEPS, MORE_STEPS = ["conv1", "conv2", "conv3"], 3, 20
SOURCE_STEPS, META_STEPS, META_BATCH = 1200, 100, 4
TASKS, VALIDATION_TASKS, QUERIES = 200, 200, 10
SLOW_TASKS = 100  # the first ones, in validation and test: for 20 steps, and in validation for the large grid
SELECTION, REPLICATES = 100, tuple(range(5))
COEFFICIENTS = tuple(n / 8 for n in range(9))
RATES = tuple(0.003125 * 2**n for n in range(13))
COARSE = tuple(0.00078125 * 4**n for n in range(8))  # learning rates
META_COARSE = (0.00625, 0.025, 0.1, 0.4)  # those of methods that are meta-trained for each one
FAR_TRAINING_IMAGES = 120  # of the 200 per garment; the others are for validation

Grid = Sequence[float]


class Setting(NamedTuple):
    """What a method has chosen: mixing coefficients, learning rates per layer, and the weights that it blends."""

    coefficients: Any
    rates: Any
    network: list[np.ndarray]
    source: list[np.ndarray]


class LayerRates(Update):
    """Gradient descent with one learning rate per layer, on a logarithmic scale, so that the outer loop scales them."""

    def __init__(self, *, learn: bool) -> None:
        super().__init__()
        self.learn = learn

    def prepare(self, network: mk.functional.PureModel, parameters: Sequence[keras.Variable], steps: int) -> None:
        layers = len(parameters) // 2  # each has a kernel and a bias
        self.log_rates = self.add_weight(shape=(layers,), initializer="zeros", trainable=self.learn, name="log_rates")
        self.built = True

    def update(self, gradients: Any, state: Any, parameters: Any, step: Any) -> tuple[Any, Any]:
        rates = tf.exp(tf.convert_to_tensor(self.log_rates))
        return [-rates[place // 2] * gradient for place, gradient in enumerate(gradients)], state


# Data


@functools.cache
def pools() -> dict[str, Any]:
    """The characters of the source; and for each kind and part, the pool of its tasks."""
    characters, garments = mk.load("glyphs").map(halved), mk.load("fashion").map(halved)
    letters, clothes = characters.split("train"), garments.split("train")
    order = np.random.default_rng(0).permutation(len(letters))
    x, y = clothes.arrays()
    early = np.concatenate([np.arange(count) < FAR_TRAINING_IMAGES for count in np.bincount(y)])
    return {
        "source": letters.select(order[:200]),
        "near": {
            "training": letters.select(order[200:]),
            "validation": characters.split("validation"),
            "test": characters.split("test"),
        },
        "far": {
            "training": mk.ClassPool.from_arrays(x[early], y[early]),
            "validation": mk.ClassPool.from_arrays(x[~early], y[~early]),
            "test": garments.split("test"),
        },
    }


def tasks(kind: str, part: str, seed: int, meta_batch: int, queries: int = QUERIES) -> mk.FewShot:
    return mk.FewShot(pools()[kind][part], ways=5, shots=5, queries=queries, meta_batch=meta_batch, seed=seed)


def mixed(seed: int) -> tf.data.Dataset:
    """As many near as far meta-training tasks in every batch."""
    both = [tasks(kind, "training", seed, META_BATCH // 2, 5) for kind in KINDS]
    return tf.data.Dataset.zip(*both).map(joined)


@tf.autograph.experimental.do_not_convert
def joined(near: mk.Episode, far: mk.Episode) -> mk.Episode:
    return mk.Episode(*[tf.concat(parts, axis=0) for parts in zip(near, far, strict=True)])


@functools.cache
def held_out(kind: str, part: str, seed: int) -> mk.Episode:
    count = TASKS if part == "test" else VALIDATION_TASKS
    return next(iter(tasks(kind, part, 10_000 + seed, count)))


# Networks


def network(units: int, seed: int) -> keras.Sequential:
    """Three convolutions and a linear head; a head of five ways starts from zero."""
    keras.utils.set_random_seed(seed)
    trunk = [
        keras.layers.Conv2D(filters, 3, strides, padding="same", activation="relu", name=name)
        for filters, strides, name in zip((8, 16, 16), (2, 2, 1), TRUNK, strict=True)
    ]
    kernel = "zeros" if units == 5 else "glorot_uniform"
    head = [keras.layers.Flatten(), keras.layers.Dense(units, kernel_initializer=kernel, name="head")]
    return keras.Sequential([keras.Input((14, 14, 1)), *trunk, *head])


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@functools.cache
def source(replicate: int) -> tuple[keras.Model, float]:
    """A classifier of 200 characters, and its accuracy on two drawings of each that it was not trained on."""
    x, y = pools()["source"].arrays(scaled=True)
    held_out = np.arange(len(y)) % 20 >= 18
    model = network(200, 500 + replicate)
    model.compile("adam", LOSS, metrics=["accuracy"], steps_per_execution=100)
    rows = tf.data.Dataset.from_tensor_slices((x[~held_out], y[~held_out]))
    rows = rows.shuffle(4000, seed=replicate).repeat().batch(64)
    model.fit(rows, steps_per_epoch=SOURCE_STEPS, shuffle=False, verbose=0)
    return model, model.evaluate(x[held_out], y[held_out], verbose=0)[1]


@functools.cache
def weights(replicate: int) -> dict[str, list[np.ndarray]]:
    """The weights of the source and of the initialization, and two changed versions of them as controls."""
    given, fresh = source(replicate)[0].get_weights(), network(5, replicate).get_weights()
    random = np.random.default_rng(replicate)
    return {
        "source": given,
        "shuffled": [random.permutation(array.ravel()).reshape(array.shape) for array in given],
        "fresh": fresh,
        "zero": [np.zeros_like(array) for array in fresh],
        "source with a new head": [*given[:-2], *fresh[-2:]],
    }


def setting(replicate: int, coefficients: Any, rates: Any, network: str = "fresh", source: str = "source") -> Setting:
    given = weights(replicate)
    return Setting(coefficients, rates, given[network], given[source])


# Adapting, testing and meta-training


def install(learner: mk.MetaLearner, chosen: Setting) -> None:
    """Let the learner adapt from this setting."""
    learner.network.set_weights(chosen.network)
    rates = np.maximum(np.broadcast_to(chosen.rates, len(TRUNK) + 1), 1e-30)
    learner.rule.transform.log_rates.assign(np.log(rates))
    if isinstance(learner.rule, Strategy):
        coefficients = np.clip(np.broadcast_to(chosen.coefficients, len(TRUNK)), 1e-7, 1 - 1e-7)
        learner.rule.omega.assign(np.log(coefficients / (1 - coefficients)))
        learner.rule.source.model.set_weights(chosen.source)


@tf.function
def correct(learner: mk.MetaLearner, episode: mk.Episode) -> tf.Tensor:
    """(tasks,) the fraction of the queries that are classified correctly."""
    answers = tf.argmax(learner(tuple(episode[:3]), training=False), axis=-1, output_type=tf.int32)
    return tf.reduce_mean(tf.cast(answers == episode.query_y, tf.float32), axis=-1)


@functools.cache
def learner(method: str, steps: int = STEPS) -> mk.MetaLearner:
    """A learner that is traced once; `method` says what the outer loop trains."""
    rates = LayerRates(learn=method == "rates")
    if method == "MAML":
        rule = GradientDescent(rates, STEPS)
    else:
        learn = method == "coefficients"
        given = source(SELECTION)[0]
        rule = Strategy(given, rates, STEPS, evaluation_steps=steps, layers=TRUNK, coefficient=0.5, learn=learn)
    made = mk.MetaLearner(network=network(5, 0), rule=rule)
    made.compile(keras.optimizers.Adam(0.001), loss=LOSS, steps_per_execution=10)
    return made


def accuracy(chosen: Setting, episode: mk.Episode, steps: int = STEPS) -> float:
    one = learner("none", steps)
    install(one, chosen)
    return round(float(tf.reduce_mean(correct(one, episode))), 5)


def meta_train(method: str, chosen: Setting, drawn: tf.data.Dataset, outer: float) -> Setting:
    """The setting after meta-training of its coefficients, its learning rates, or its weights (MAML)."""
    one = learner(method)
    install(one, chosen)
    mk.restart(one)
    one.optimizer.learning_rate.assign(outer)
    one.fit(drawn, steps_per_epoch=META_STEPS, verbose=0)
    rates = np.exp(one.rule.transform.log_rates.numpy())
    if method == "MAML":
        return chosen._replace(coefficients=0.0, network=one.network.get_weights(), rates=rates)
    return chosen._replace(coefficients=np.array(list(one.rule.coefficients().values())), rates=rates)


def looking(replicate: int, rate: float, outer: float) -> mk.MetaLearner:
    """A meta-trained strategy network."""
    x, _ = pools()["source"].arrays(scaled=True)
    rule = StrategyNetwork(source(replicate)[0], x[::16], LayerRates(learn=False), STEPS, layers=TRUNK)
    made = mk.MetaLearner(network=network(5, 0), rule=rule)
    made.compile(keras.optimizers.Adam(outer), loss=LOSS, steps_per_execution=10)
    install(made, setting(replicate, 0.5, rate))
    made.fit(mixed(replicate), steps_per_epoch=META_STEPS, verbose=0)
    return made


def nearest_class_mean(replicate: int, normalization: str, episode: mk.Episode, *, fresh: bool = False) -> float:
    """The nearest class mean of the source's features, or of an untrained network's: no training steps."""
    model = network(5, replicate) if fresh else source(replicate)[0]
    body = keras.Model(model.inputs, model.layers[-2].output)
    sample = body([pools()["source"].arrays(scaled=True)[0][::8]])
    center = tf.reduce_mean(sample, axis=0) if normalization == "centered unit" else 0.0

    def embedded(images: tf.Tensor) -> tf.Tensor:
        features = body([tf.reshape(images, (-1, 14, 14, 1))]) - center
        features = features if normalization == "plain" else tf.math.l2_normalize(features, axis=-1)
        return tf.reshape(features, (*images.shape[:2], -1))

    support, queries = embedded(episode.support_x), embedded(episode.query_x)
    means = tf.einsum("tsk,tsd->tkd", tf.one_hot(episode.support_y, 5), support) / 5
    distances = tf.norm(queries[:, :, None] - means[:, None], axis=-1)
    answers = tf.argmin(distances, axis=-1, output_type=tf.int32)
    return round(float(tf.reduce_mean(tf.cast(answers == episode.query_y, tf.float32))), 5)


# Selection


def search(measure: Callable[[float], float], grid: Grid = COARSE) -> float:
    """The best value of a coarse grid of factor four, and then of it, its half and its double."""
    best = best_inside(measure, grid)
    return max((best, best / 2, best * 2), key=measure)


def inner_and_outer(trial: Callable[[float, float], float], inners: Grid, outers: Grid) -> dict[str, float]:
    """The inner learning rate at the middle outer one, the outer one, and the inner one again in finer steps."""
    outer = outers[len(outers) // 2]
    rate = best_inside(lambda value: trial(value, outer), inners)
    if len(outers) > 1:
        outer = best_inside(lambda value: trial(rate, value), outers)
    return {"rate": max((rate, rate / 2, rate * 2), key=lambda value: trial(value, outer)), "outer": outer}


# Method -> mixing coefficient, network, source
FIXED: dict[str, tuple[float, str, str]] = {
    "from scratch": (0.0, "fresh", "source"),
    "coefficient 0.5": (0.5, "fresh", "source"),
    "fine-tuning": (1.0, "fresh", "source"),
    "0.5 x source": (0.5, "zero", "source"),
    "coefficient 0.5, shuffled source": (0.5, "fresh", "shuffled"),
}
# What the outer loop trains
META_TRAINED = {
    "learned coefficients": "coefficients",
    "learned learning rates": "rates",
    "MAML": "MAML",
}


def head_only(rate: float) -> list[float]:
    return [0.0] * len(TRUNK) + [rate]


class Measurements:
    """The measurements of this script, each under a key of its own."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def validate(self, name: str, kind: str, chosen: Callable[[], Setting], steps: int = STEPS) -> float:
        episode = held_out(kind, "validation", SELECTION)
        episode = episode if steps == STEPS else first(episode, SLOW_TASKS)

        def measure() -> float:
            try:
                return accuracy(chosen(), episode, steps)
            except FloatingPointError:  # meta-training diverged
                return 0.0

        return self.record.measure(f"validation, {kind}: {name}", measure)

    def select(self, name: str, kind: str, choose: Callable[[], dict]) -> dict:
        return self.record.measure(f"selected, {kind}: {name}", choose)

    # The grid of the opening figure

    def grid(self, kind: str) -> None:
        def measure() -> list[list[float]]:
            episode = first(held_out(kind, "validation", SELECTION), SLOW_TASKS)
            return [[accuracy(setting(SELECTION, a, rate), episode) for a in COEFFICIENTS] for rate in RATES]

        found = np.array(self.record.measure(f"grid, {kind}", measure))
        row, column = np.unravel_index(found.argmax(), found.shape)
        self.select("searched coefficient", kind, lambda: {"coefficient": COEFFICIENTS[column], "rate": RATES[row]})

    def fixed(self, name: str, kind: str, steps: int) -> float:
        coefficient, fresh, given = FIXED[name]

        def trial(rate: float) -> float:
            key = f"{name}, {steps} steps, rate {rate:g}"
            return self.validate(key, kind, lambda: setting(SELECTION, coefficient, rate, fresh, given), steps)

        return self.select(f"{name}, {steps} steps", kind, lambda: {"rate": search(trial)})["rate"]

    def linear_probe(self, kind: str, steps: int) -> float:
        def trial(rate: float) -> float:
            key = f"linear probe, {steps} steps, rate {rate:g}"
            return self.validate(key, kind, lambda: setting(SELECTION, 1.0, head_only(rate)), steps)

        def choose() -> dict:
            return {"rate": search(trial)}

        return self.select(f"linear probe, {steps} steps", kind, choose)["rate"]

    def discriminative(self, kind: str) -> dict:
        """Fine-tuning with one learning rate for the head and another one for the trunk."""
        best: dict[float, float] = {}

        def trial(factor: float, rate: float) -> float:
            rates = [factor * rate] * len(TRUNK) + [rate]
            key = f"discriminative learning rates, factor {factor:g}, rate {rate:g}"
            return self.validate(key, kind, lambda: setting(SELECTION, 1.0, rates))

        def best_of(factor: float) -> float:
            best[factor] = search(lambda rate: trial(factor, rate))
            return trial(factor, best[factor])

        def choose() -> dict:
            factor = best_inside(best_of, (0.0625, 0.25, 1, 4, 16))
            return {"factor": factor, "rate": best[factor]}

        return self.select("discriminative learning rates", kind, choose)

    def normalization(self, kind: str) -> str:
        def trial(name: str) -> float:
            episode = held_out(kind, "validation", SELECTION)
            return self.record.measure(
                f"validation, {kind}: nearest class mean, {name}", lambda: nearest_class_mean(SELECTION, name, episode)
            )

        choices = ("plain", "unit", "centered unit")
        return self.select("nearest class mean", kind, lambda: {"features": max(choices, key=trial)})["features"]

    def meta_trained(self, name: str, kind: str) -> dict:
        """The (initial) inner learning rate at the middle outer one, then the outer one, then the inner one again."""
        method = META_TRAINED[name]
        outers = (0.001, 0.002, 0.004) if method == "MAML" else (0.05, 0.1, 0.2)

        def trial(rate: float, outer: float) -> float:
            key = f"{name}, rate {rate:g}, outer {outer:g}"
            return self.validate(key, kind, lambda: trained(name, kind, SELECTION, rate, outer))

        def choose() -> dict:
            return inner_and_outer(trial, META_COARSE, outers)

        return self.select(name, kind, choose)

    def prototypes(self, kind: str) -> float:
        def trial(outer: float) -> float:
            episode = held_out(kind, "validation", SELECTION)
            key = f"validation, {kind}: prototypical network, outer {outer:g}"
            return self.record.measure(key, lambda: prototypical_network(kind, SELECTION, outer, episode))

        def choose() -> dict:
            return {"outer": best_inside(trial, (0.001, 0.002, 0.004))}

        return self.select("prototypical network", kind, choose)["outer"]

    def both(self, name: str, accuracies: Callable[..., list[float]], outers: Grid) -> dict:
        """Hyperparameters for a mixture of near and far tasks, by the mean accuracy on both."""

        def trial(rate: float, outer: float) -> float:
            def measure() -> list[float]:
                try:
                    return accuracies(SELECTION, "validation", rate, outer)
                except FloatingPointError:  # meta-training diverged
                    return [0.0, 0.0]

            return float(
                np.mean(self.record.measure(f"validation, both: {name}, rate {rate:g}, outer {outer:g}", measure))
            )

        return self.select(name, "both", lambda: inner_and_outer(trial, META_COARSE, outers))

    # Test

    def test_fixed(self, kind: str, replicate: int) -> None:
        prefix = f"selected, {kind}: "
        results = self.record.results.items()
        chosen = {key.removeprefix(prefix): value for key, value in results if key.startswith(prefix)}

        def measure() -> dict[str, float]:
            episode, found = held_out(kind, "test", replicate), {}
            for steps in (STEPS, MORE_STEPS):
                episode = first(episode, TASKS if steps == STEPS else SLOW_TASKS)
                for name, (coefficient, fresh, given) in FIXED.items():
                    key = f"{name}, {steps} steps"
                    if key in chosen:
                        one = setting(replicate, coefficient, chosen[key]["rate"], fresh, given)
                        found[key] = accuracy(one, episode, steps)
                rate = chosen[f"linear probe, {steps} steps"]["rate"]
                found[f"linear probe, {steps} steps"] = accuracy(
                    setting(replicate, 1.0, head_only(rate)), episode, steps
                )
            episode = held_out(kind, "test", replicate)
            two = chosen["discriminative learning rates"]
            rates = [two["factor"] * two["rate"]] * len(TRUNK) + [two["rate"]]
            found["discriminative learning rates"] = accuracy(setting(replicate, 1.0, rates), episode)
            searched = chosen["searched coefficient"]
            one = setting(replicate, searched["coefficient"], searched["rate"])
            found["searched coefficient"] = accuracy(one, episode)
            found["nearest class mean"] = nearest_class_mean(
                replicate, chosen["nearest class mean"]["features"], episode
            )
            found["nearest class mean, first 100 tasks"] = nearest_class_mean(
                replicate, chosen["nearest class mean"]["features"], first(episode, SLOW_TASKS)
            )
            found["nearest class mean, untrained"] = nearest_class_mean(replicate, "unit", episode, fresh=True)
            return found

        self.record.measure(f"test, {kind}: fixed strategies, replicate {replicate}", measure)

    def test_meta_trained(self, name: str, kind: str, replicate: int, chosen: dict) -> None:
        def measure() -> dict[str, Any]:
            episode = held_out(kind, "test", replicate)
            reached = trained(name, kind, replicate, chosen["rate"], chosen["outer"])
            found = {"accuracy": accuracy(reached, episode)}
            if name != "MAML":
                found["coefficients"] = np.round(np.broadcast_to(reached.coefficients, 3), 4).tolist()
                found["rates"] = np.round(np.broadcast_to(reached.rates, 4), 5).tolist()
            return found

        self.record.measure(f"test, {kind}: {name}, replicate {replicate}", measure)


def trained(name: str, kind: str, replicate: int, rate: float, outer: float) -> Setting:
    """What meta-training reaches on the near, on the far or on both kinds of tasks."""
    method = META_TRAINED[name]
    network = "source with a new head" if method == "MAML" else "fresh"
    start = setting(replicate, 1.0 if method == "rates" else 0.5, rate, network)
    drawn = mixed(replicate) if kind == "both" else tasks(kind, "training", replicate, META_BATCH, 5)
    return meta_train(method, start, drawn, outer)


def prototypical_network(kind: str, replicate: int, outer: float, episode: mk.Episode) -> float:
    """A prototypical network that starts from the source's trunk and is trained on the meta-training tasks."""
    given = source(replicate)[0]
    copy = keras.models.clone_model(given)
    copy.set_weights(given.get_weights())
    body = keras.Model(copy.inputs, copy.layers[-2].output)
    made = mk.MetaLearner(network=body, rule=mk.rules.Prototypes())
    made.compile(keras.optimizers.Adam(outer), loss=LOSS, steps_per_execution=10)
    drawn = tasks(kind, "training", replicate, META_BATCH, 5)
    made.fit(drawn, steps_per_epoch=META_STEPS, verbose=0)
    return round(float(tf.reduce_mean(correct(made, episode))), 5)


def of_network(replicate: int, part: str, rate: float, outer: float) -> list[float]:
    """The accuracy of a strategy network on near and on far tasks."""
    made = looking(replicate, rate, outer)
    return [round(float(tf.reduce_mean(correct(made, held_out(kind, part, replicate)))), 5) for kind in KINDS]


def of_shared_coefficients(replicate: int, part: str, rate: float, outer: float) -> list[float]:
    reached = trained("learned coefficients", "both", replicate, rate, outer)
    return [accuracy(reached, held_out(kind, part, replicate)) for kind in KINDS]


def of_coefficient_half(replicate: int, part: str, rate: float, _: float) -> list[float]:
    return [accuracy(setting(replicate, 0.5, rate), held_out(kind, part, replicate)) for kind in KINDS]


def seen_by_network(replicate: int, rate: float, outer: float) -> dict[str, list[list[float]]]:
    """The mixing coefficients that a strategy network chooses for 40 test tasks of each kind."""
    rule, found = looking(replicate, rate, outer).rule, {}
    choose = tf.function(rule.coefficients_for)
    for kind in KINDS:
        episode = held_out(kind, "test", replicate)
        pairs = zip(episode.support_x[:40], episode.support_y[:40], strict=True)
        found[kind] = [np.round(choose(x, y).numpy(), 4).tolist() for x, y in pairs]
    return found


def draw(grids: dict[str, np.ndarray]) -> Figure:
    """The opening figure of the chapter: accuracy over mixing coefficient and learning rate."""
    with mk.report.figures.in_style():
        figure = Figure(figsize=(8, 3.9), layout="constrained")
        both = figure.subplots(1, 2, sharey=True)
        for axes, (kind, grid) in zip(both, grids.items(), strict=True):
            image = axes.imshow(grid, origin="lower", vmin=0.2, vmax=0.9, aspect="auto", cmap="viridis")
            best = grid.argmax(axis=0)
            axes.plot(range(len(best)), best, "o", color="white", markeredgecolor="black", markersize=5)
            column = grid.max(axis=0).argmax()
            axes.plot(column, best[column], "s", color="none", markeredgecolor="black", markersize=13, mew=2)
            axes.set(title=f"{kind} tasks", xlabel="mixing coefficient of the source")
            axes.set(xticks=range(len(COEFFICIENTS)), xticklabels=[f"{a:g}" for a in COEFFICIENTS])
            axes.set(yticks=range(len(RATES)), yticklabels=[f"{rate:g}" for rate in RATES])
            axes.tick_params(labelsize=8)
            axes.grid(visible=False)
        both[0].set_ylabel("learning rate")
        figure.colorbar(image, ax=both, label="validation accuracy (chance: 0.2)")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    record = Record("chapter_13", again=parser.parse_args().again)
    measurements = Measurements(record)
    chosen: dict[tuple[str, str], Any] = {}
    for kind in KINDS:
        measurements.grid(kind)
        measurements.normalization(kind)
        for steps in (STEPS, MORE_STEPS):
            for name in FIXED:
                if steps == STEPS or name in ("from scratch", "coefficient 0.5", "fine-tuning"):
                    measurements.fixed(name, kind, steps)
            measurements.linear_probe(kind, steps)
        measurements.discriminative(kind)
        for name in META_TRAINED:
            chosen[name, kind] = measurements.meta_trained(name, kind)
        chosen["nearest class mean", kind] = measurements.prototypes(kind)
    mixtures = {
        "strategy network": (of_network, (0.01, 0.02, 0.04)),
        "shared coefficients": (of_shared_coefficients, (0.05, 0.1, 0.2)),
        "coefficient 0.5": (of_coefficient_half, (0,)),
    }
    for name, (accuracies, outers) in mixtures.items():
        chosen[name, "both"] = measurements.both(name, accuracies, outers)
    network = chosen["strategy network", "both"]
    figure = draw({kind: np.array(record.results[f"grid, {kind}"]) for kind in KINDS})
    figure.savefig(ROOT / "chapters" / "amount_and_rate.png", dpi=110, metadata={"Software": None})
    record.measure("network's coefficients", lambda: seen_by_network(0, network["rate"], network["outer"]))
    for replicate in REPLICATES:
        record.measure(f"source, replicate {replicate}", lambda r=replicate: round(source(r)[1], 4))
        for kind in KINDS:
            measurements.test_fixed(kind, replicate)
            for name in META_TRAINED:
                measurements.test_meta_trained(name, kind, replicate, chosen[name, kind])
            record.measure(
                f"test, {kind}: prototypical network, replicate {replicate}",
                lambda k=kind, r=replicate: prototypical_network(
                    k, r, chosen["nearest class mean", k], held_out(k, "test", r)
                ),
            )
        for name, (accuracies, _) in mixtures.items():
            each = chosen[name, "both"]
            record.measure(
                f"test, both: {name}, replicate {replicate}",
                lambda f=accuracies, r=replicate, e=each: f(r, "test", e["rate"], e["outer"]),
            )


if __name__ == "__main__":
    main()
