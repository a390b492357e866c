"""Meta-training of D3's network against its baselines, at three budgets of training images.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_12.py          (about 20 minutes on two cores)

Every method has D3's network, 14x14 images of the training alphabets, and 120 images per training step. MetaLearner
draws them as four 5-way tasks and adapts by gradient descent (MAML), by one step of a head that starts from zero, or
by prototypes. The classifier learns all training classes; its features are then used for new tasks by the nearest
class mean, by a new head, or by fine-tuning all weights. All hyperparameters are selected on tasks of the validation
alphabets at the middle budget, and no selected number is at the edge of its grid. Every training has three seeds,
and every method is tested on the same tasks of the test alphabets. The results are in data/results/chapter_12.json,
from where the chapter reads them.
"""

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from record import ROOT, Record

import meta_keras as mk

SIDE, WAYS, QUERIES, META_BATCH = 14, 5, 5, 4
PER_STEP = META_BATCH * WAYS * (1 + QUERIES)
BUDGETS = (250, 500, 1000)  # training steps
SELECTION_STEPS, SELECTION_SEED = BUDGETS[1], 100
SEEDS = (0, 1, 2)
INNER_STEPS = (0, 1, 2, 3, 5, 10, 20, 30)
EVALUATION_STEPS, SATURATED = (3, 10, 30, 90, 270), 0.01
TASKS, SLOW_TASKS, SELECTION_TASKS = 600, 200, 200
VALIDATION_SEED, TEST_SEED = 1, 2

Accuracy = Callable[[str, int], mk.Score]


def shrunk(images: np.ndarray) -> np.ndarray:
    """Images of half the height and width, by the mean of each block of 2x2 pixels."""
    rows, height, width, channels = images.shape
    blocks = images.reshape(rows, height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(2, 4)).astype(images.dtype)


@functools.cache
def characters(split: str) -> mk.ClassPool:
    return mk.load("glyphs").map(shrunk).split(split)


def tasks(split: str, pool: mk.ClassPool | None = None, meta_batch: int = 20, **options: str) -> mk.FewShot:
    """The tasks that all methods are selected on (validation) and tested on (test)."""
    seed = {"validation": VALIDATION_SEED, "test": TEST_SEED}[split]
    pool = characters(split) if pool is None else pool
    return mk.FewShot(pool, WAYS, 1, queries=QUERIES, meta_batch=meta_batch, seed=seed, **options)


def d3(classes: int) -> keras.Model:
    return mk.networks.d3(classes, input_shape=(SIDE, SIDE, 1))


def descent(network: keras.Model, rate: float, steps: int) -> mk.MetaLearner:
    """The learner that takes `steps` steps of gradient descent from the weights of the network."""
    return mk.MetaLearner(network=network, rule=mk.rules.GradientDescent(rate, evaluation_steps=steps))


def maml(inner: float) -> mk.MetaLearner:
    """One inner step in meta-training and three in evaluation, until the latter number is selected."""
    return descent(d3(WAYS), inner, 3)


def zero_head(inner: float) -> mk.MetaLearner:
    """One inner step of the head alone, from zero: the outer loop trains the layers below."""
    network = d3(WAYS)
    head = network.get_layer("head")
    head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])
    head.trainable = False
    return mk.MetaLearner(network=network, rule=mk.rules.GradientDescent(inner, layers="head"))


def prototypes(_: float) -> mk.MetaLearner:
    network = d3(WAYS)
    body = keras.Model(network.inputs, network.layers[-2].output)
    return mk.MetaLearner(network=body, rule=mk.rules.Prototypes())


def meta_trained(make: Callable, inner: float, outer: float, seed: int, budgets: Sequence) -> Iterator[mk.MetaLearner]:
    """The learner after each of these numbers of meta-training steps."""
    keras.utils.set_random_seed(seed)
    learner = make(inner)
    learner.compile(keras.optimizers.Adam(outer))
    drawn = mk.FewShot(characters("train"), WAYS, 1, queries=QUERIES, meta_batch=META_BATCH, seed=seed)
    for steps in np.diff(budgets, prepend=0):
        learner.fit(drawn, steps_per_epoch=int(steps), verbose=0)
        yield learner


def classifier(rate: float, seed: int, budgets: Sequence[int]) -> Iterator[keras.Model]:
    """The network as a classifier of all training classes, after each of these numbers of steps."""
    keras.utils.set_random_seed(seed)
    network = d3(len(characters("train")))
    network.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    rows = tf.data.Dataset.from_tensor_slices(characters("train").arrays(scaled=True))
    data = rows.shuffle(len(rows), seed=seed).repeat().batch(PER_STEP)
    for steps in np.diff(budgets, prepend=0):
        network.fit(data, steps_per_epoch=int(steps), verbose=0, shuffle=False)
        yield network


def embeddings(network: keras.Model, split: str) -> dict[str, mk.ClassPool]:
    """Features of the last hidden layer: plain, of unit length, and of unit length around the training mean."""
    body = keras.Model(network.inputs, network.layers[-2].output)
    sample = characters("train").arrays(scaled=True)[0][::8]
    mean = body.predict(sample, batch_size=256, verbose=0).mean(axis=0)

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    plain = characters(split).map(lambda pixels: body.predict(pixels / np.float32(255), batch_size=256, verbose=0))
    return {"plain": plain, "unit": plain.map(unit), "centered unit": plain.map(lambda rows: unit(rows - mean))}


def nearest_class_mean(pool: mk.ClassPool, split: str, count: int) -> mk.Score:
    identity = keras.Sequential([keras.Input(pool.examples.shape[1:]), keras.layers.Flatten()])
    learner = mk.MetaLearner(network=identity, rule=mk.rules.Prototypes())
    return mk.evaluate(learner, tasks(split, pool), count)


def new_head(pool: mk.ClassPool, split: str, rate: float, steps: int, count: int) -> mk.Score:
    """A linear head from zero, trained on the embeddings of the support set."""
    head = keras.Sequential([keras.Input(pool.examples.shape[1:]), keras.layers.Dense(WAYS, "softmax", name="head")])
    head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])
    return mk.evaluate(descent(head, rate, steps), tasks(split, pool), count)


def with_new_head(network: keras.Model) -> keras.Model:
    """The network with a head of five ways that is zero, for fine-tuning."""
    fresh = d3(WAYS)
    head = [np.zeros_like(weight) for weight in fresh.get_weights()[-2:]]
    fresh.set_weights([*network.get_weights()[:-2], *head])
    return fresh


def best_inside(measure: Callable[[float], float], grid: Sequence[float], factor: float = 2) -> float:
    """The best value of a grid, which is extended for as long as the best is at its edge."""
    found = {value: measure(value) for value in grid}
    while True:
        best = max(found, key=found.get)
        if best not in (min(found), max(found)):
            return best
        further = best / factor if best == min(found) else best * factor
        found[further] = measure(further)


def plain(score: mk.Score) -> list[float]:
    """Mean and half width of the interval over tasks."""
    return [score.mean, score.interval]


class Measurements:
    """The measurements of this script, each under a key of its own."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def select_rates(self, name: str, make: Callable, inner_rates: Sequence[float]) -> dict[str, float]:
        """Inner and outer learning rate: the outer one at the middle inner one, then the inner one."""

        def trial(inner: float, outer: float) -> float:
            def measure() -> float:
                (learner,) = meta_trained(make, inner, outer, SELECTION_SEED, [SELECTION_STEPS])
                return mk.evaluate(learner, tasks("validation"), SELECTION_TASKS).mean

            return self.record.measure(f"validation: {name}, inner {inner:g}, outer {outer:g}", measure)

        inner = inner_rates[len(inner_rates) // 2]
        outer = best_inside(lambda rate: trial(inner, rate), (0.001, 0.002, 0.004))
        if len(inner_rates) > 1:
            inner = best_inside(lambda rate: trial(rate, outer), inner_rates)
        return self.record.measure(f"selected: {name}", lambda: {"inner": inner, "outer": outer})

    def select_classifier(self) -> dict[str, object]:
        """Learning rate and normalization of the embeddings, by the nearest class mean."""

        def trial(rate: float) -> dict[str, float]:
            def measure() -> dict[str, float]:
                (network,) = classifier(rate, SELECTION_SEED, [SELECTION_STEPS])
                pools = embeddings(network, "validation")
                return {kind: nearest_class_mean(pool, "validation", TASKS).mean for kind, pool in pools.items()}

            return self.record.measure(f"validation: classifier, learning rate {rate:g}", measure)

        rate = best_inside(lambda rate: max(trial(rate).values()), (0.001, 0.002, 0.004))
        kind = max(trial(rate), key=trial(rate).get)
        return self.record.measure("selected: classifier", lambda: {"learning_rate": rate, "embeddings": kind})

    def select_descent(self, name: str, steps: Sequence[int], rates: Sequence[float], measure: Callable) -> dict:
        """Number of steps and learning rate of a method that trains on the support set."""
        best: dict[float, float] = {}

        def trial(count: float, rate: float) -> float:
            key = f"validation: {name}, {count:g} steps, learning rate {rate:g}"
            return self.record.measure(key, lambda: measure("validation", rate, int(count)).mean)

        def best_of(count: float) -> float:
            best[count] = best_inside(lambda rate: trial(count, rate), rates)
            return trial(count, best[count])

        count = best_inside(best_of, steps, factor=steps[1] / steps[0])
        return self.record.measure(f"selected: {name}", lambda: {"steps": int(count), "learning_rate": best[count]})

    def select_evaluation_steps(self, inner: float, outer: float) -> int:
        """The smallest number of inner steps in evaluation at which the accuracy is saturated: it grows no further."""

        @functools.cache
        def trained() -> keras.Model:
            (learner,) = meta_trained(maml, inner, outer, SELECTION_SEED, [SELECTION_STEPS])
            return learner.network

        def trial(steps: int) -> float:
            def measure() -> float:
                return mk.evaluate(descent(trained(), inner, steps), tasks("validation"), SELECTION_TASKS).mean

            return self.record.measure(f"validation: MAML, {steps} steps in evaluation", measure)

        found = {steps: trial(steps) for steps in EVALUATION_STEPS}
        steps = min(steps for steps in found if found[steps] > max(found.values()) - SATURATED)
        return self.record.measure("selected: MAML, steps in evaluation", lambda: steps)

    def meta_trained(self, name: str, make: Callable, inner_rates: Sequence[float]) -> None:
        """Test accuracy at each budget; after the last, validation accuracy, and what the chapter shows besides."""
        chosen = self.select_rates(name, make, inner_rates)
        inner, outer = chosen["inner"], chosen["outer"]
        steps_in_evaluation = self.select_evaluation_steps(inner, outer) if make is maml else 1

        def tested(learner: mk.MetaLearner, split: str) -> list[float]:
            if make is maml:
                learner = descent(learner.network, inner, steps_in_evaluation)
            return plain(mk.evaluate(learner, tasks(split), TASKS))

        def measure(seed: int) -> dict[str, object]:
            found: dict[str, object] = {}
            learners = meta_trained(make, inner, outer, seed, BUDGETS)
            for steps, learner in zip(BUDGETS, learners, strict=True):
                found[f"{steps} steps"] = tested(learner, "test")
            found["validation"] = tested(learner, "validation")
            if make is maml:
                found["by inner steps"] = by_inner_steps(learner.network, inner)
            if make is zero_head and seed == SEEDS[0]:
                found["opening figure"] = draw(learner)
            return found

        for seed in SEEDS:
            self.record.measure(f"{name}, seed {seed}", lambda s=seed: measure(s))

    def untrained(self, inner: float) -> None:
        """The learning rate of MAML from random weights."""
        for seed in SEEDS:
            keras.utils.set_random_seed(seed)
            network = d3(WAYS)
            self.record.measure(f"untrained, seed {seed}", lambda n=network: by_inner_steps(n, inner))

    def pixels(self) -> None:
        for split in ("validation", "test"):
            pool = characters(split).map(lambda x: np.float32(x) / 255)
            self.record.measure(f"pixels, {split}", lambda p=pool, s=split: plain(nearest_class_mean(p, s, TASKS)))

    def from_scratch(self) -> None:
        def accuracy(split: str, rate: float, steps: int, seed: int = SELECTION_SEED, count: int = 100) -> mk.Score:
            keras.utils.set_random_seed(seed)
            return mk.evaluate(descent(d3(WAYS), rate, steps), tasks(split), count)

        chosen = self.select_descent("from scratch", (10, 30, 90), (0.05, 0.1, 0.2), accuracy)
        rate, steps = chosen["learning_rate"], chosen["steps"]
        for split in ("validation", "test"):
            for seed in SEEDS:
                key = f"from scratch, {split}, seed {seed}"
                self.record.measure(key, lambda s=seed, p=split: plain(accuracy(p, rate, steps, s, SLOW_TASKS)))

    def pretrained(self) -> None:
        chosen = self.select_classifier()
        rate, kind = chosen["learning_rate"], chosen["embeddings"]
        head, all_weights = self.select_fine_tuning(rate, kind)

        def measure(seed: int) -> dict[str, object]:
            found: dict[str, object] = {}
            for steps, network in zip(BUDGETS, classifier(rate, seed, BUDGETS), strict=True):
                pool = embeddings(network, "test")[kind]
                tuned = descent(with_new_head(network), all_weights["learning_rate"], all_weights["steps"])
                found[f"{steps} steps"] = {
                    "nearest class mean": plain(nearest_class_mean(pool, "test", TASKS)),
                    "new head": plain(new_head(pool, "test", head["learning_rate"], head["steps"], TASKS)),
                    "fine-tuning": plain(mk.evaluate(tuned, tasks("test"), SLOW_TASKS)),
                }
            pool = embeddings(network, "validation")[kind]
            found["validation"] = plain(nearest_class_mean(pool, "validation", TASKS))
            return found

        for seed in SEEDS:
            self.record.measure(f"classifier, seed {seed}", lambda s=seed: measure(s))

    def select_fine_tuning(self, rate: float, kind: str) -> tuple[dict, dict]:
        """Steps and learning rates for a new head and for fine-tuning all weights."""

        @functools.cache
        def trained() -> tuple[keras.Model, mk.ClassPool]:
            (network,) = classifier(rate, SELECTION_SEED, [SELECTION_STEPS])
            return network, embeddings(network, "validation")[kind]

        def head(split: str, rate: float, steps: int) -> mk.Score:
            return new_head(trained()[1], split, rate, steps, TASKS)

        def all_weights(split: str, rate: float, steps: int) -> mk.Score:
            return mk.evaluate(descent(with_new_head(trained()[0]), rate, steps), tasks(split), 100)

        heads = self.select_descent("new head", (10, 30, 90), (0.5, 1, 2), head)
        return heads, self.select_descent("fine-tuning", (3, 10, 30), (0.05, 0.1, 0.2), all_weights)


def by_inner_steps(network: keras.Model, rate: float) -> list[list[float]]:
    return [plain(mk.evaluate(descent(network, rate, steps), tasks("test"), SLOW_TASKS)) for steps in INNER_STEPS]


def draw(learner: mk.MetaLearner) -> dict[str, object]:
    """The opening figure of the chapter, chapters/adapted_expert.png, and what it is to be compared with."""
    drawn = mk.FewShot(characters("test"), WAYS, 1, queries=8, meta_batch=1, seed=12, within="alphabet")
    episode = next(iter(drawn))
    answers = learner((episode.support_x, episode.support_y, episode.query_x), training=False)[0]
    figure = mk.report.show_episode(episode, queries=8, scores=answers)
    figure.savefig(ROOT / "chapters" / "adapted_expert.png", bbox_inches="tight", metadata={"Software": None})
    correct = int(np.sum(np.argmax(answers, axis=-1) == episode.query_y[0]))
    average = plain(mk.evaluate(learner, tasks("test", within="alphabet"), TASKS))
    return {"correct": correct, "queries": len(answers), "within an alphabet": average}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    measurements = Measurements(Record("chapter_12", again=parser.parse_args().again))
    measurements.meta_trained("zero head", zero_head, (2.5, 5, 10))
    measurements.meta_trained("prototypes", prototypes, (0,))
    measurements.meta_trained("MAML", maml, (0.2, 0.4, 0.8))
    measurements.pretrained()
    measurements.pixels()
    measurements.from_scratch()
    measurements.untrained(measurements.record.results["selected: MAML"]["inner"])


if __name__ == "__main__":
    main()
