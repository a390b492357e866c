"""Three inner loops for D3's network against their baselines, after 30,000 training images.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_12.py          (about 30 minutes on one core)

Every network is D3's, and every image has 14x14 pixels. Networks that are trained see 250 batches of 120 images of the
training alphabets: MetaLearner as four 5-way tasks, which it solves by gradient descent on all weights (MAML), by
gradient descent on a zero-initialized head ("zero head"), or by prototypes; the classifier as a batch of all training
classes, after which new tasks are solved by the nearest class mean or by a zero-initialized head. The same inner loops
also start from random weights. Nearest class means of pixels, and of aligned and blurred pixels, need no network.

Every hyperparameter is selected on tasks of the validation alphabets. The learning rates move to the best neighbor
(half or twice the learning rate) until no neighbor is better, so none is at the edge of a grid; where a method takes
gradient steps in evaluation, each point counts with the best of 1, 3, 10 and 30 steps. With the selected learning
rates, the number of steps is then selected from one grid for all methods, 1 to 810: the smallest one that is less than
0.01 below the best. From scratch, every number of steps has its own learning rate. The normalization of embeddings is
selected, too. In the test, seed n has its own initialization, training tasks and 200 test tasks, which are the same for
all methods, so intervals over seeds include the variation of tasks.

Trained with an inner learning rate of twice the number of ways, a zero-initialized head differs from prototypes only in
that it omits the squared norms of the prototypes. "with norms" and "without norms" are evaluations that include or omit
them, whichever of the two the network was trained with.
The results are in data/results/chapter_12.json, from where the chapter reads them.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from chapter_01 import GAIN, align_and_blur
from common import Point, best_inside, climb, halved, unit
from record import ROOT, Record

import meta_keras as mk

SIDE, WAYS, QUERIES, META_BATCH = 14, 5, 5, 4
PER_STEP = META_BATCH * WAYS * (1 + QUERIES)
STEPS = 250  # of training
SEEDS, SELECTION_SEED = 5, 100
FEW_STEPS = (1, 3, 10, 30)  # while learning rates are selected
ALL_STEPS = (*FEW_STEPS, 90, 270, 810)  # with the selected learning rates
TYPICAL_STEPS = 90  # what most methods select; the head on the classifier is tested with them, too
BLURS = (1, 1.5, 2.25, 3.375)  # standard deviations of the blur of aligned images, in pixels
TASKS, SLOW_SELECTION_TASKS = 200, 100
VALIDATION_SEED, TEST_SEED = 1, 1000

Pools = dict[str, mk.ClassPool]


@functools.cache
def characters(split: str) -> mk.ClassPool:
    return mk.load("glyphs").map(halved).split(split)


def tasks(split: str, seed: int = 0, pool: mk.ClassPool | None = None, **options: str) -> mk.FewShot:
    """The tasks that all methods are selected on (validation), or that they are tested on with this seed (test)."""
    seed = {"validation": VALIDATION_SEED, "test": TEST_SEED + seed}[split]
    pool = characters(split) if pool is None else pool
    return mk.FewShot(pool, WAYS, 1, queries=QUERIES, meta_batch=20, seed=seed, **options)


def d3(classes: int, *, zero_head: bool = False) -> keras.Model:
    network = mk.networks.d3(classes, input_shape=(SIDE, SIDE, 1))
    if zero_head:
        head = network.get_layer("head")
        head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])
    return network


def backbone(network: keras.Model) -> keras.Model:
    """The network up to its last hidden layer."""
    return keras.Model(network.inputs, network.layers[-2].output)


def descent(network: keras.Model, rate: float, steps: int) -> mk.MetaLearner:
    """The learner that takes `steps` steps of gradient descent from the weights of the network."""
    return mk.MetaLearner(network=network, rule=mk.rules.GradientDescent(rate, evaluation_steps=steps))


def maml(inner: float) -> mk.MetaLearner:
    return descent(d3(WAYS), inner, 1)


def zero_head(inner: float) -> mk.MetaLearner:
    """One inner step of the head alone, from zero: the outer loop trains the layers below."""
    network = d3(WAYS, zero_head=True)
    network.get_layer("head").trainable = False
    return mk.MetaLearner(network=network, rule=mk.rules.GradientDescent(inner, layers="head"))


def prototypes() -> mk.MetaLearner:
    return mk.MetaLearner(network=backbone(d3(WAYS)), rule=mk.rules.Prototypes())


def meta_trained(make: Callable, inner: Sequence[float], outer: float, seed: int, steps: int) -> keras.Model:
    """The network after this number of meta-training steps."""
    keras.utils.set_random_seed(seed)
    learner = make(*inner)
    learner.compile(keras.optimizers.Adam(outer))
    drawn = mk.FewShot(characters("train"), WAYS, 1, queries=QUERIES, meta_batch=META_BATCH, seed=seed)
    learner.fit(drawn, steps_per_epoch=steps, verbose=0)
    return learner.network


def classifier(_: Sequence[float], rate: float, seed: int, steps: int) -> keras.Model:
    """The backbone of a classifier of all training classes, after this number of training steps."""
    keras.utils.set_random_seed(seed)
    network = d3(len(characters("train")))
    network.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    rows = tf.data.Dataset.from_tensor_slices(characters("train").arrays(scaled=True))
    data = rows.shuffle(len(rows), seed=seed).repeat().batch(PER_STEP)
    network.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False)
    return backbone(network)


def plain_embeddings(below: keras.Model, split: str) -> mk.ClassPool:
    return characters(split).map(lambda pixels: below.predict(pixels / np.float32(255), batch_size=256, verbose=0))


def embeddings(below: keras.Model, split: str) -> Pools:
    """Embeddings: plain, of unit length, and of unit length around the training mean."""
    sample = characters("train").arrays(scaled=True)[0][::8]
    mean = below.predict(sample, batch_size=256, verbose=0).mean(axis=0)

    plain = plain_embeddings(below, split)
    return {"plain": plain, "unit": plain.map(unit), "centered unit": plain.map(lambda rows: unit(rows - mean))}


def nearest_class_mean(support_x: tf.Tensor, support_y: tf.Tensor, query_x: tf.Tensor) -> np.ndarray:
    """Minus the squared distances between queries and class means."""
    means = np.eye(WAYS)[np.asarray(support_y)].T @ np.asarray(support_x)  # one image per class
    return -np.square(np.asarray(query_x)[:, None] - means).sum(axis=-1)


def head_from_zero(rate: float, steps: int) -> Callable:
    """Gradient descent on the cross-entropy of a head that starts from zero, on embeddings."""

    def logits(support_x: tf.Tensor, support_y: tf.Tensor, query_x: tf.Tensor) -> np.ndarray:
        x = np.pad(np.asarray(support_x, float), ((0, 0), (0, 1)), constant_values=1)  # the last input is the bias
        weights, right = np.zeros((x.shape[1], WAYS)), np.eye(WAYS)[np.asarray(support_y)]
        for _ in range(steps):
            scores = np.exp(x @ weights - np.max(x @ weights, axis=1, keepdims=True))
            weights -= rate * x.T @ (scores / scores.sum(axis=1, keepdims=True) - right) / len(x)
        return np.asarray(query_x, float) @ weights[:-1] + weights[-1]

    return logits


def by_distances(below: keras.Model, split: str, seed: int = 0, kinds: Sequence[str] = ()) -> dict[str, float]:
    """Accuracy of the nearest class mean, for each normalization."""
    pools = embeddings(below, split)
    return {
        kind: mk.evaluate(nearest_class_mean, tasks(split, seed, pool), TASKS).mean
        for kind, pool in pools.items()
        if kind in (kinds or pools)
    }


def by_head(
    below: keras.Model, rate: float, split: str, seed: int, steps: Sequence[int], kind: str = "plain"
) -> dict[str, float]:
    """Accuracy of a head from zero on embeddings with this normalization, for each number of steps."""
    drawn = tasks(split, seed, plain_embeddings(below, split) if kind == "plain" else embeddings(below, split)[kind])
    return {str(count): mk.evaluate(head_from_zero(rate, count), drawn, TASKS).mean for count in steps}


def by_descent(network: keras.Model, rate: float, split: str, seed: int, steps: Sequence[int]) -> dict[str, float]:
    """Accuracy after gradient descent on all weights, for each number of steps."""
    drawn = tasks(split, seed)
    return {str(count): mk.evaluate(descent(network, rate, count), drawn, TASKS).mean for count in steps}


def norms(below: keras.Model, split: str, seed: int) -> dict[str, float]:
    """Accuracy of class means by squared distances, and of the same logits without the norms of the class means."""
    return {
        "with norms": by_distances(below, split, seed, ["plain"])["plain"],
        "without norms": by_head(below, 2 * WAYS, split, seed, [1])["1"],
    }


class Measurements:
    """The measurements of this script, each under a key of its own."""

    def __init__(self, record: Record, seeds: int) -> None:
        self.record, self.seeds = record, range(seeds)

    def rates(self, name: str, train: Callable, tried: Callable, start: Point) -> Point:
        """The learning rates with the best validation accuracy.

        train: (inner learning rates, outer learning rate, seed, training steps) -> network.
        tried: (network, *inner learning rates) -> validation accuracy for each choice in evaluation.
        """

        def trial(point: Point) -> dict[str, float]:
            *inner, outer = point

            def measure() -> dict[str, float]:
                try:
                    return tried(train(inner, outer, SELECTION_SEED, STEPS), *inner)
                except (FloatingPointError, ValueError):  # training diverged: its predictions are not finite
                    return {"diverged": 0}

            return self.record.measure(f"validation: {name}, " + ", ".join(f"{x:g}" for x in point), measure)

        return climb(lambda point: max(trial(point).values()), start)

    def steps(self, name: str, measure: Callable[[Sequence[int]], dict[str, float]]) -> str:
        """The smallest number of steps of the common grid beyond which no larger number gains GAIN or more."""
        found = self.record.measure(f"validation: {name}, steps", lambda: measure(ALL_STEPS))
        return min((n for n in found if round(max(found.values()) - found[n], 6) < GAIN), key=int)

    def test(self, name: str, train: Callable[[int], keras.Model], tested: Callable) -> None:
        for seed in self.seeds:
            self.record.measure(f"{name}, seed {seed}", lambda s=seed: tested(train(s), s))

    def by_steps(
        self, name: str, make: Callable[..., mk.MetaLearner], accuracy: Callable[..., dict[str, float]], start: Point
    ) -> tuple[Callable[[int], keras.Model], float]:
        """Meta-training, and adaptation by a selected number of steps: the trained networks and the inner rate."""
        train = functools.partial(meta_trained, make)
        inner, outer = point = self.rates(
            name, train, lambda network, rate: accuracy(network, rate, "validation", 0, FEW_STEPS), start
        )
        trained = functools.cache(lambda seed: train([inner], outer, seed, STEPS))
        choice = self.steps(name, lambda n: accuracy(trained(SELECTION_SEED), inner, "validation", 0, n))
        self.record.measure(f"selected: {name}", lambda: {"rates": point, "choice": choice})
        steps = sorted({1, int(choice)})
        self.test(name, trained, lambda network, seed: accuracy(network, inner, "test", seed, steps))
        return trained, inner

    def maml(self) -> None:
        self.by_steps("MAML", maml, by_descent, (0.2, 0.002))

    def zero_head(self) -> None:
        def accuracy(network: keras.Model, *settings: Any) -> dict[str, float]:
            return by_head(backbone(network), *settings)

        trained, inner = self.by_steps("zero head", zero_head, accuracy, (5.0, 0.002))
        self.record.measure("opening figure", lambda: draw(trained(0), inner))

    def by_distances(self, name: str, train: Callable, tested: Callable) -> None:
        (rate,) = self.rates(name, train, lambda below: by_distances(below, "validation"), (0.002,))
        kinds = self.record.results[f"validation: {name}, {rate:g}"]
        kind = max(kinds, key=kinds.get)
        self.record.measure(f"selected: {name}", lambda: {"rates": [rate], "choice": kind})
        self.test(name, lambda seed: train([], rate, seed, STEPS), functools.partial(tested, kind))

    def prototypes(self) -> None:
        """Prototypes, and in the same way a zero-initialized head that differs from them in nothing but the norms."""

        def tested(kind: str, below: keras.Model, seed: int) -> dict[str, float]:
            return by_distances(below, "test", seed, [kind]) | norms(below, "test", seed)

        self.by_distances("prototypes", functools.partial(meta_trained, prototypes), tested)
        (rate,) = self.record.results["selected: prototypes"]["rates"]
        self.test(
            "trained without norms",
            lambda seed: backbone(meta_trained(zero_head, [2 * WAYS], rate, seed, STEPS)),
            lambda below, seed: norms(below, "test", seed),
        )

    def classifier(self) -> None:
        """The nearest class mean, and a zero-initialized head, on the embeddings of an ordinary classifier."""
        self.by_distances(
            "classifier", classifier, lambda kind, below, seed: by_distances(below, "test", seed, ["plain", kind])
        )
        trained = functools.cache(lambda rate, seed: classifier([], rate, seed, STEPS))

        def accuracy(kind: str, inner: float, below: keras.Model, n: Sequence[int]) -> dict[str, float]:
            return by_head(below, inner, "validation", 0, n, kind)

        best = {}  # after more than one step, as the predictions after the first do not depend on its learning rate
        for kind, start in (("plain", 2.0), ("unit", 16.0), ("centered unit", 16.0)):
            name = f"classifier, zero head, {kind}"
            point = self.rates(
                name,
                lambda inner, outer, seed, _: trained(outer, seed),
                lambda below, inner, k=kind: accuracy(k, inner, below, FEW_STEPS[1:]),
                (start, 0.002),
            )
            key = f"validation: {name}, " + ", ".join(f"{x:g}" for x in point)
            best[kind, *point] = max(self.record.results[key].values())
        kind, inner, outer = max(best, key=best.get)
        choice = self.steps("classifier, zero head", lambda n: accuracy(kind, inner, trained(outer, SELECTION_SEED), n))
        chosen = {"rates": [inner, outer], "embeddings": kind, "choice": choice}
        self.record.measure("selected: classifier, zero head", lambda: chosen)
        self.test(
            "classifier, zero head",
            lambda seed: trained(outer, seed),
            lambda below, seed: by_head(below, inner, "test", seed, sorted({int(choice), TYPICAL_STEPS}), kind),
        )

    def random_backbone(self) -> None:
        """A zero-initialized head and the nearest class mean on the embeddings of a network with random weights."""

        def random(seed: int) -> keras.Model:
            keras.utils.set_random_seed(seed)
            return backbone(d3(WAYS))

        def head(rate: float, steps: Sequence[int]) -> dict[str, float]:
            return by_head(random(SELECTION_SEED), rate, "validation", 0, steps)

        name = "random backbone, zero head"
        (rate,) = climb(
            lambda point: max(
                self.record.measure(f"validation: {name}, {point[0]:g}", lambda: head(*point, FEW_STEPS)).values()
            ),
            (4.0,),
        )
        steps = self.steps(name, lambda n: head(rate, n))
        self.record.measure(f"selected: {name}", lambda: {"rate": rate, "choice": steps})
        self.test(name, random, lambda below, seed: by_head(below, rate, "test", seed, [int(steps)])[steps])

        self.nearest("random backbone", random)

    def nearest(self, name: str, network: Callable[[int], keras.Model]) -> None:
        """The nearest class mean of what an untrained network computes."""
        kinds = self.record.measure(
            f"validation: {name}, nearest class mean", lambda: by_distances(network(SELECTION_SEED), "validation")
        )
        kind = max(kinds, key=kinds.get)
        self.record.measure(f"selected: {name}, nearest class mean", lambda: kind)
        self.test(
            f"{name}, nearest class mean",
            network,
            lambda below, seed: by_distances(below, "test", seed, [kind])[kind],
        )

    def pixels(self) -> None:
        """The nearest class mean of pixels, and of aligned and blurred pixels as in chapter 01."""
        flat = keras.Sequential([keras.Input((SIDE, SIDE, 1)), keras.layers.Flatten()])
        self.nearest("pixels", lambda seed: flat)

        def accuracy(sigma: float, split: str, seed: int = 0) -> float:
            vectors = characters(split).map(lambda images: align_and_blur(images, sigma))
            return mk.evaluate(nearest_class_mean, tasks(split, seed, vectors), TASKS).mean

        def trial(sigma: float) -> float:
            return self.record.measure(
                f"validation: aligned pixels, sigma {sigma:g}", lambda: accuracy(sigma, "validation")
            )

        sigma = best_inside(trial, BLURS)
        self.record.measure("selected: aligned pixels", lambda: {"sigma": sigma})
        self.test("aligned pixels", lambda seed: sigma, lambda sigma, seed: accuracy(sigma, "test", seed))

    def from_scratch(self) -> None:
        """Gradient descent on all weights from random weights; number of steps, learning rate and head are selected."""

        def accuracy(steps: int, rate: float, *, zero: bool, split: str, seed: int, count: int) -> float:
            keras.utils.set_random_seed(seed)
            drawn = tasks(split, seed if split == "test" else 0)
            return mk.evaluate(descent(d3(WAYS, zero_head=zero), rate, steps), drawn, count).mean

        def trial(steps: int, rate: float, zero: bool = False) -> float:
            head = "from scratch, zero head" if zero else "from scratch"
            return self.record.measure(
                f"validation: {head}, {steps} steps, learning rate {rate:g}",
                lambda: accuracy(
                    steps, rate, zero=zero, split="validation", seed=SELECTION_SEED, count=SLOW_SELECTION_TASKS
                ),
            )

        found: dict[tuple, float] = {}
        for steps in (10, 30, 90, 270):
            (rate,) = climb(lambda point, s=steps: trial(s, *point), (0.1,))
            found[steps, rate, False] = trial(steps, rate)
        steps, rate, _ = max(found, key=found.get)
        (zero_rate,) = climb(lambda point: trial(steps, *point, zero=True), (rate,))
        found[steps, zero_rate, True] = trial(steps, zero_rate, zero=True)
        steps, rate, zero = max(found, key=found.get)
        chosen = {"steps": steps, "rate": rate, "zero head": zero}
        self.record.measure("selected: from scratch", lambda: chosen)
        for seed in self.seeds:
            self.record.measure(
                f"from scratch, seed {seed}",
                lambda s=seed: accuracy(steps, rate, zero=zero, split="test", seed=s, count=TASKS),
            )


def draw(network: keras.Model, inner: float) -> dict[str, object]:
    """The opening figure, chapters/adapted_network.png: the task whose accuracy is closest to the mean."""
    rule = mk.rules.GradientDescent(inner, layers="head")
    learner = mk.MetaLearner(network=network, rule=rule)
    drawn = mk.FewShot(characters("test"), WAYS, 1, queries=8, meta_batch=1, seed=12, within="alphabet")
    score = mk.evaluate(learner, drawn, TASKS)
    number = int(np.argmin(np.abs(score.values - score.mean)))
    episode = next(iter(drawn.skip(number)))
    answers = learner((episode.support_x, episode.support_y, episode.query_x), training=False)[0]
    figure = mk.report.show_episode(episode, queries=8, scores=answers)
    figure.savefig(ROOT / "chapters" / "adapted_network.png", bbox_inches="tight", metadata={"Software": None})
    correct = int(np.sum(np.argmax(answers, axis=-1) == episode.query_y[0]))
    return {"correct": correct, "queries": len(answers), "task": number, "mean": score.mean, "interval": score.interval}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("methods", nargs="*", help="measure these methods only")
    options = parser.parse_args()
    measurements = Measurements(Record("chapter_12", again=options.again), options.seeds)
    methods = {
        "pixels": measurements.pixels,
        "random": measurements.random_backbone,
        "zero-head": measurements.zero_head,
        "prototypes": measurements.prototypes,
        "classifier": measurements.classifier,
        "scratch": measurements.from_scratch,
        "MAML": measurements.maml,
    }
    for method in options.methods or methods:
        methods[method]()


if __name__ == "__main__":
    main()
