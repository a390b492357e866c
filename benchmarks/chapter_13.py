"""Learned transfer strategies against their baselines, each at its own best learning rate.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_13.py          (about 40 minutes on one core)

A source, a small convolutional classifier of 200 characters, is transferred to 5-way 5-shot tasks by a few steps of
gradient descent. Near tasks have characters of other alphabets, far tasks garments. All methods have the same source,
the same random initialization of the trunk, and a head that starts from zero. A replicate has a source, an
initialization, meta-training tasks, and 100 validation or test tasks of its own, which are the same for all methods.
Every learning rate, and every other hyperparameter, is selected by the mean accuracy on the validation tasks of three
replicates (SELECTION), in grids that are extended while their best value is at the edge; the results are the test
accuracies of ten others (REPLICATES). They are in data/results/chapter_13.json, from where the chapter reads them. The
script also draws the opening figure of the chapter, chapters/coefficient_and_learning_rate.png.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from common import best_inside, halved
from matplotlib.figure import Figure
from record import ROOT, Record

import meta_keras as mk
from meta_keras.rules import GradientDescent, Update
from meta_keras.transfer import Strategy, StrategyNetwork

KINDS = ("near", "far")
TRUNK, STEPS, MORE_STEPS = ["conv1", "conv2", "conv3"], 3, 20
SOURCE_STEPS, META_STEPS, META_BATCH = 1200, 100, 4
TASKS, QUERIES = 100, 10  # tasks: for validation and for the test, in each replicate
SELECTION, REPLICATES = (100, 101, 102), tuple(range(10))
COEFFICIENTS = tuple(n / 8 for n in range(9))
RATES = tuple(0.0001953125 * 2**n for n in range(15))
COARSE = tuple(0.00078125 * 4**n for n in range(6))  # learning rates
META_RATES = (0.00625, 0.025, 0.1)  # initial ones of methods that are meta-trained for each one
FAR_TRAINING_IMAGES = 120  # of the 200 per garment; the others are for validation

NORMALIZATIONS = ("plain", "unit", "centered unit")  # of features; centered at the mean of source images

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
    return next(iter(tasks(kind, part, 10_000 + seed, TASKS)))


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

OUTER = keras.Variable(0.001, trainable=False, name="outer_learning_rate")


def adam() -> keras.optimizers.Optimizer:
    """Adam, whose learning rate decreases from OUTER to 0 over meta-training along a cosine."""
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(OUTER, META_STEPS))


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


def score(learner: mk.MetaLearner, episode: mk.Episode) -> float:
    return round(float(tf.reduce_mean(correct(learner, episode))), 5)


@functools.cache
def learner(method: str, steps: int = STEPS) -> mk.MetaLearner:
    """A learner that is traced once; `method` says what the outer loop trains."""
    rates = LayerRates(learn=method == "rates")
    if method == "MAML":
        rule = GradientDescent(rates, STEPS)
    else:
        learn = method == "coefficients"
        given = source(SELECTION[0])[0]
        rule = Strategy(given, rates, STEPS, evaluation_steps=steps, layers=TRUNK, coefficient=0.5, learn=learn)
    parallel = "auto" if method == "none" else "unrolled"  # faster for META_BATCH tasks, but not for TASKS
    made = mk.MetaLearner(network=network(5, 0), rule=rule, parallel=parallel)
    made.compile(adam(), loss=LOSS, steps_per_execution=10)
    return made


def accuracy(chosen: Setting, episode: mk.Episode, steps: int = STEPS) -> float:
    one = learner("none", steps)
    install(one, chosen)
    return score(one, episode)


def meta_train(method: str, chosen: Setting, drawn: tf.data.Dataset, outer: float) -> Setting:
    """The setting after meta-training of its coefficients, its learning rates, or its weights (MAML)."""
    one = learner(method)
    install(one, chosen)
    mk.restart(one)
    OUTER.assign(outer)
    one.fit(drawn, steps_per_epoch=META_STEPS, verbose=0)
    rates = np.exp(one.rule.transform.log_rates.numpy())
    if method == "MAML":
        return chosen._replace(coefficients=0.0, network=one.network.get_weights(), rates=rates)
    return chosen._replace(coefficients=np.array(list(one.rule.coefficients().values())), rates=rates)


@functools.cache
def strategy_network(replicate: int) -> tuple[mk.MetaLearner, list[np.ndarray]]:
    """A strategy network and its initial weights."""
    keras.utils.set_random_seed(replicate)
    x, _ = pools()["source"].arrays(scaled=True)
    rule = StrategyNetwork(source(replicate)[0], x[::16], LayerRates(learn=False), STEPS, layers=TRUNK)
    made = mk.MetaLearner(network=network(5, replicate), rule=rule)
    made.compile(adam(), loss=LOSS, steps_per_execution=10)
    return made, [variable.numpy() for variable in rule.trainable_variables]


def looking(replicate: int, rate: float, outer: float) -> mk.MetaLearner:
    """A meta-trained strategy network."""
    made, initial = strategy_network(replicate)
    for variable, value in zip(made.rule.trainable_variables, initial, strict=True):
        variable.assign(value)
    install(made, setting(replicate, 0.5, rate))
    mk.restart(made)
    OUTER.assign(outer)
    made.fit(mixed(replicate), steps_per_epoch=META_STEPS, verbose=0)
    return made


def embedding(replicate: int, of: str, normalization: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Features that nothing adapts to the task, for each task's images: the source's, untrained ones, or the pixels."""
    model = source(replicate)[0] if of == "source" else network(5, replicate)
    body = keras.layers.Flatten() if of == "pixels" else keras.Model(model.inputs[0], model.layers[-2].output)
    center = tf.reduce_mean(body(pools()["source"].arrays(scaled=True)[0][::8]), axis=0)

    def embedded(images: tf.Tensor) -> tf.Tensor:
        features = body(tf.reshape(images, (-1, 14, 14, 1)))
        features = features - center if normalization == "centered unit" else features
        features = features if normalization == "plain" else tf.math.l2_normalize(features, axis=-1)
        return tf.reshape(features, (*images.shape[:2], -1))

    return embedded


def fraction_correct(logits: tf.Tensor, episode: mk.Episode) -> float:
    answers = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return round(float(tf.reduce_mean(tf.cast(answers == episode.query_y, tf.float32))), 5)


def nearest_class_mean(embedded: Callable[[tf.Tensor], tf.Tensor], episode: mk.Episode) -> float:
    """Without training steps."""
    support, queries = embedded(episode.support_x), embedded(episode.query_x)
    means = tf.einsum("tsk,tsd->tkd", tf.one_hot(episode.support_y, 5), support) / 5
    return fraction_correct(-tf.norm(queries[:, :, None] - means[:, None], axis=-1), episode)


def linear_classifier(
    embedded: Callable[[tf.Tensor], tf.Tensor], rate: float, steps: int, episode: mk.Episode
) -> float:
    """Softmax regression from zero, by gradient descent on the cross-entropy."""
    support, queries = embedded(episode.support_x), embedded(episode.query_x)
    targets = tf.one_hot(episode.support_y, 5)
    kernel, bias = tf.zeros((len(support), support.shape[-1], 5)), tf.zeros((len(support), 1, 5))
    for _ in range(steps):
        errors = (tf.nn.softmax(support @ kernel + bias) - targets) / support.shape[1]
        kernel -= rate * tf.matmul(support, errors, transpose_a=True)
        bias -= rate * tf.reduce_sum(errors, axis=1, keepdims=True)
    return fraction_correct(queries @ kernel + bias, episode)


# Selection


def search(measure: Callable[[float], float]) -> float:
    """The best value of a coarse, wide grid (there may be several maxima), and then of it, its half and its double."""
    best = best_inside(measure, COARSE)
    return max((best, best / 2, best * 2), key=measure)


def inner_and_outer(trial: Callable[[float, float], float], outers: Grid) -> dict[str, float]:
    """The inner learning rate at the middle outer one, the outer one, and the inner one again in finer steps."""
    outer = outers[len(outers) // 2]
    rate = best_inside(lambda value: trial(value, outer), META_RATES)
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
IN_GRID = IN_MORE_STEPS = ("from scratch", "coefficient 0.5", "fine-tuning")
NEAREST = {
    "nearest class mean": "source",
    "untrained nearest class mean": "untrained",
    "nearest class mean of pixels": "pixels",
}
# Method -> features, and how they may be normalized
LINEAR: dict[str, tuple[str, Sequence[str]]] = {
    "normalized linear probe": ("source", NORMALIZATIONS[1:]),
    "linear classifier of pixels": ("pixels", NORMALIZATIONS),
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

    def validate(self, name: str, kind: str, accuracy_of: Callable[[int], Any]) -> float:
        """The mean over the replicates of SELECTION (and, for "both", over near and far tasks)."""

        def attempt(replicate: int) -> Any:
            try:
                return accuracy_of(replicate)
            except FloatingPointError:  # meta-training diverged
                return [0.0, 0.0] if kind == "both" else 0.0

        key = f"validation, {kind}: {name}"
        return float(np.mean(self.record.measure(key, lambda: [attempt(replicate) for replicate in SELECTION])))

    def settings(self, name: str, kind: str, chosen: Callable[[int], Setting], steps: int = STEPS) -> float:
        return self.validate(name, kind, lambda r: accuracy(chosen(r), held_out(kind, "validation", r), steps))

    def select(self, name: str, kind: str, choose: Callable[[], dict]) -> dict:
        return self.record.measure(f"selected, {kind}: {name}", choose)

    def grid(self, kind: str) -> np.ndarray:
        """(replicates, learning rates, coefficients) the validation accuracies of the opening figure."""

        def measure(replicate: int) -> list[list[float]]:
            episode = held_out(kind, "validation", replicate)
            return [[accuracy(setting(replicate, a, rate), episode) for a in COEFFICIENTS] for rate in RATES]

        each = [self.record.measure(f"grid, {kind}, replicate {r}", functools.partial(measure, r)) for r in SELECTION]
        found = np.mean(each, axis=0)
        row, column = np.unravel_index(found.argmax(), found.shape)
        self.select("searched coefficient", kind, lambda: {"coefficient": COEFFICIENTS[column], "rate": RATES[row]})
        return np.array(each)

    def fixed(self, name: str, kind: str, steps: int) -> None:
        coefficient, fresh, given = FIXED[name]
        in_grid = steps == STEPS and name in IN_GRID

        def trial(rate: float) -> float:
            key = f"{name}, {steps} steps, rate {rate:g}"
            if in_grid and rate in RATES:
                cells = self.grid(kind)[:, RATES.index(rate), COEFFICIENTS.index(coefficient)]
                return self.validate(key, kind, lambda r: float(cells[SELECTION.index(r)]))
            return self.settings(key, kind, lambda r: setting(r, coefficient, rate, fresh, given), steps)

        def choose() -> dict:
            return {"rate": best_inside(trial, RATES) if in_grid else search(trial)}

        self.select(f"{name}, {steps} steps", kind, choose)

    def linear_probe(self, kind: str, steps: int) -> None:
        def trial(rate: float) -> float:
            key = f"linear probe, {steps} steps, rate {rate:g}"
            return self.settings(key, kind, lambda r: setting(r, 1.0, head_only(rate)), steps)

        self.select(f"linear probe, {steps} steps", kind, lambda: {"rate": search(trial)})

    def discriminative(self, kind: str) -> None:
        """Fine-tuning with one learning rate for the head and another one for the trunk."""
        best: dict[float, float] = {}

        def trial(factor: float, rate: float) -> float:
            rates = [factor * rate] * len(TRUNK) + [rate]
            key = f"discriminative learning rates, factor {factor:g}, rate {rate:g}"
            return self.settings(key, kind, lambda r: setting(r, 1.0, rates))

        def best_of(factor: float) -> float:
            best[factor] = search(lambda rate: trial(factor, rate))
            return trial(factor, best[factor])

        def choose() -> dict:
            factor = best_inside(best_of, (0.0625, 1, 16, 256, 4096))
            factor = max((factor, factor / 4, factor * 4), key=best_of)
            return {"factor": factor, "rate": best[factor]}

        self.select("discriminative learning rates", kind, choose)

    def normalization(self, name: str, kind: str) -> None:
        def trial(features: str) -> float:
            return self.validate(
                f"{name}, {features}",
                kind,
                lambda r: nearest_class_mean(embedding(r, NEAREST[name], features), held_out(kind, "validation", r)),
            )

        self.select(name, kind, lambda: {"features": max(NORMALIZATIONS, key=trial)})

    def linear(self, name: str, kind: str, steps: int) -> None:
        of, normalizations = LINEAR[name]
        best: dict[str, float] = {}

        def trial(features: str, rate: float) -> float:
            return self.validate(
                f"{name}, {steps} steps, {features}, rate {rate:g}",
                kind,
                lambda r: linear_classifier(embedding(r, of, features), rate, steps, held_out(kind, "validation", r)),
            )

        def best_of(features: str) -> float:
            best[features] = search(lambda rate: trial(features, rate))
            return trial(features, best[features])

        def choose() -> dict:
            features = max(normalizations, key=best_of)
            return {"features": features, "rate": best[features]}

        self.select(f"{name}, {steps} steps", kind, choose)

    def meta_trained(self, name: str, kind: str) -> None:
        outers = (0.001, 0.002, 0.004) if name == "MAML" else (0.05, 0.1, 0.2)

        def trial(rate: float, outer: float) -> float:
            key = f"{name}, rate {rate:g}, outer {outer:g}"
            return self.settings(key, kind, lambda r: trained(name, kind, r, rate, outer))

        self.select(name, kind, lambda: inner_and_outer(trial, outers))

    def prototypes(self, kind: str) -> None:
        def trial(outer: float) -> float:
            key = f"prototypical network, outer {outer:g}"
            return self.validate(
                key, kind, lambda r: prototypical_network(kind, r, outer, held_out(kind, "validation", r))
            )

        self.select(
            "prototypical network", kind, lambda: {"outer": best_inside(trial, (0.00025, 0.0005, 0.001, 0.002))}
        )

    def both(self, name: str) -> None:
        """Hyperparameters for a mixture of near and far tasks, by the mean accuracy on both."""
        of, outers = MIXTURES[name]

        def trial(rate: float, outer: float = 0) -> float:
            key = f"{name}, rate {rate:g}, outer {outer:g}"
            return self.validate(key, "both", lambda r: of(r, "validation", rate, outer)["accuracy"])

        def choose() -> dict:
            return inner_and_outer(trial, outers) if outers else {"rate": best_inside(trial, RATES), "outer": 0}

        self.select(name, "both", choose)

    # Test

    def test_fixed(self, kind: str, replicate: int) -> None:
        prefix = f"selected, {kind}: "
        results = self.record.results.items()
        chosen = {key.removeprefix(prefix): value for key, value in results if key.startswith(prefix)}
        episode = held_out(kind, "test", replicate)

        def measure() -> dict[str, float]:
            found = {}
            for steps in (STEPS, MORE_STEPS):
                for name, (coefficient, fresh, given) in FIXED.items():
                    key = f"{name}, {steps} steps"
                    if key in chosen:
                        one = setting(replicate, coefficient, chosen[key]["rate"], fresh, given)
                        found[key] = accuracy(one, episode, steps)
                key = f"linear probe, {steps} steps"
                found[key] = accuracy(setting(replicate, 1.0, head_only(chosen[key]["rate"])), episode, steps)
            two = chosen["discriminative learning rates"]
            rates = [two["factor"] * two["rate"]] * len(TRUNK) + [two["rate"]]
            found["discriminative learning rates"] = accuracy(setting(replicate, 1.0, rates), episode)
            searched = chosen["searched coefficient"]
            one = setting(replicate, searched["coefficient"], searched["rate"])
            found["searched coefficient"] = accuracy(one, episode)
            for name, of in NEAREST.items():
                found[name] = nearest_class_mean(embedding(replicate, of, chosen[name]["features"]), episode)
            for name, (of, _) in LINEAR.items():
                for steps in (STEPS, MORE_STEPS):
                    key = f"{name}, {steps} steps"
                    embedded = embedding(replicate, of, chosen[key]["features"])
                    found[key] = linear_classifier(embedded, chosen[key]["rate"], steps, episode)
            return found

        self.record.measure(f"test, {kind}: fixed strategies, replicate {replicate}", measure)

    def test_meta_trained(self, name: str, kind: str, replicate: int) -> None:
        chosen = self.record.results[f"selected, {kind}: {name}"]

        def measure() -> dict[str, Any]:
            reached = trained(name, kind, replicate, chosen["rate"], chosen["outer"])
            found = {"accuracy": accuracy(reached, held_out(kind, "test", replicate))}
            if name != "MAML":
                found["coefficients"] = np.round(np.broadcast_to(reached.coefficients, 3).astype(float), 4).tolist()
                found["rates"] = np.round(np.broadcast_to(reached.rates, 4).astype(float), 5).tolist()
            return found

        self.record.measure(f"test, {kind}: {name}, replicate {replicate}", measure)

    def test_prototypes(self, kind: str, replicate: int) -> None:
        outer = self.record.results[f"selected, {kind}: prototypical network"]["outer"]
        self.record.measure(
            f"test, {kind}: prototypical network, replicate {replicate}",
            lambda: prototypical_network(kind, replicate, outer, held_out(kind, "test", replicate)),
        )

    def test_both(self, name: str, replicate: int) -> None:
        chosen = self.record.results[f"selected, both: {name}"]
        self.record.measure(
            f"test, both: {name}, replicate {replicate}",
            lambda: MIXTURES[name][0](replicate, "test", chosen["rate"], chosen["outer"]),
        )


def trained(name: str, kind: str, replicate: int, rate: float, outer: float) -> Setting:
    """What meta-training reaches on the near, on the far or on both kinds of tasks."""
    method = META_TRAINED[name]
    network = "source with a new head" if method == "MAML" else "fresh"
    start = setting(replicate, 1.0 if method == "rates" else 0.5, rate, network)
    drawn = mixed(replicate) if kind == "both" else tasks(kind, "training", replicate, META_BATCH, 5)
    return meta_train(method, start, drawn, outer)


@functools.cache
def prototypes(replicate: int) -> mk.MetaLearner:
    """A prototypical network with the source's trunk."""
    copy = keras.models.clone_model(source(replicate)[0])
    body = keras.Model(copy.inputs, copy.layers[-2].output)
    made = mk.MetaLearner(network=body, rule=mk.rules.Prototypes())
    made.compile(adam(), loss=LOSS, steps_per_execution=10)
    return made


def prototypical_network(kind: str, replicate: int, outer: float, episode: mk.Episode) -> float:
    """A prototypical network that starts from the source's trunk and is trained on the meta-training tasks."""
    made = prototypes(replicate)
    made.network.set_weights(source(replicate)[0].get_weights()[:-2])
    mk.restart(made)
    OUTER.assign(outer)
    made.fit(tasks(kind, "training", replicate, META_BATCH, 5), steps_per_epoch=META_STEPS, verbose=0)
    return score(made, episode)


def of_network(replicate: int, part: str, rate: float, outer: float) -> dict[str, Any]:
    """The accuracy of a strategy network on near and on far tasks, and its coefficients for 20 test tasks of each."""
    made = looking(replicate, rate, outer)
    episodes = {kind: held_out(kind, part, replicate) for kind in KINDS}
    found = {"accuracy": [score(made, episode) for episode in episodes.values()]}
    if part == "test":
        found["coefficients"] = {kind: seen(made.rule, episode) for kind, episode in episodes.items()}
    return found


def seen(rule: StrategyNetwork, episode: mk.Episode) -> list[list[float]]:
    """The coefficients for each of the first 20 tasks."""
    pairs = zip(episode.support_x[:20], episode.support_y[:20], strict=True)
    return [np.round(rule.coefficients_for(x, y).numpy().astype(float), 3).tolist() for x, y in pairs]


def of_shared_coefficients(replicate: int, part: str, rate: float, outer: float) -> dict[str, Any]:
    reached = trained("learned coefficients", "both", replicate, rate, outer)
    return of_setting(reached, replicate, part) | {
        "coefficients": np.round(reached.coefficients.astype(float), 3).tolist()
    }


def of_fixed(name: str, replicate: int, part: str, rate: float, _: float) -> dict[str, Any]:
    coefficient, fresh, given = FIXED[name]
    return of_setting(setting(replicate, coefficient, rate, fresh, given), replicate, part)


def of_setting(chosen: Setting, replicate: int, part: str) -> dict[str, Any]:
    return {"accuracy": [accuracy(chosen, held_out(kind, part, replicate)) for kind in KINDS]}


# Method -> its accuracies, and the outer learning rates to begin with if it is meta-trained
MIXTURES: dict[str, tuple[Callable[..., dict[str, Any]], Grid]] = {
    **{name: (functools.partial(of_fixed, name), ()) for name in ("coefficient 0.5", "fine-tuning", "0.5 x source")},
    "shared coefficients": (of_shared_coefficients, (0.05, 0.1, 0.2)),
    "strategy network": (of_network, (0.02, 0.04, 0.08)),
}


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
            axes.set(yticks=range(len(RATES)), yticklabels=[f"{rate:.3g}" for rate in RATES])
            axes.tick_params(labelsize=8)
            axes.grid(visible=False)
        both[0].set_ylabel("learning rate")
        figure.colorbar(image, ax=both, label="validation accuracy (chance: 0.2)")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    measurements = Measurements(Record("chapter_13", again=parser.parse_args().again))
    grids = {kind: measurements.grid(kind).mean(axis=0) for kind in KINDS}
    draw(grids).savefig(ROOT / "chapters" / "coefficient_and_learning_rate.png", dpi=110, metadata={"Software": None})
    for name in MIXTURES:
        measurements.both(name)
    for kind in KINDS:
        for name in NEAREST:
            measurements.normalization(name, kind)
        for steps in (STEPS, MORE_STEPS):
            for name in FIXED if steps == STEPS else IN_MORE_STEPS:
                measurements.fixed(name, kind, steps)
            measurements.linear_probe(kind, steps)
            for name in LINEAR:
                measurements.linear(name, kind, steps)
        measurements.discriminative(kind)
        measurements.prototypes(kind)
        for name in META_TRAINED:
            measurements.meta_trained(name, kind)
    for replicate in REPLICATES:
        measurements.record.measure(f"source, replicate {replicate}", lambda r=replicate: round(source(r)[1], 4))
        for kind in KINDS:
            measurements.test_fixed(kind, replicate)
            for name in META_TRAINED:
                measurements.test_meta_trained(name, kind, replicate)
            measurements.test_prototypes(kind, replicate)
        for name in MIXTURES:
            measurements.test_both(name, replicate)


if __name__ == "__main__":
    main()
