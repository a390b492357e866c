"""A learned optimizer against tuned ones, where it was trained and where it was not.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_11.py [PART ...]          (about three hours on one core)

A task of the training family: learn to tell 10 characters of one split of the glyphs apart from 15 drawings of each, as
7x7 pixels, with a network of 32 hidden units, in 100 steps on minibatches of 32. The update network (Formula 11.1) is
trained on tasks of the training alphabets, by truncated backpropagation through 50 steps; its own step size and the
learning rate of meta-training are selected on tasks of the validation alphabets with another seed (but not the learning
rate of the Adam with which it begins, 0.08). Each of five seeds has two such trainings; the one with the lower loss on
validation tasks is tested, on tasks of its own. Two cheaper baselines are meta-trained in the same way, each with a
learning rate of its own: the known updates without the network, with schedules and with constant coefficients. Times of
a step are those of benchmarks/learned_optimizer.py.

SGD with momentum, Adam, and both with a cosine decay to zero have the best of nine learning rates, a factor of two
apart (of more if the best is at the edge), each selected by the loss after the last step. They are selected on tasks of
the training alphabets, and again on the training tasks of every other setting (10 times the horizon, 4 times the width,
3 hidden layers, another data set), where the learned optimizer is used as it is. All methods are tested on the same
tasks, with the same initial weights and minibatches.

As a few-shot rule, the update network is compared with MAML on glyphs of 14x14 pixels, 5-way 1-shot, with a small
convolutional network: one inner step in training, 500 meta-steps of 4 tasks, learning rates selected on validation
alphabets for both (for the update network, from where an earlier search ended, which had learned schedules of another
kind), three seeds, 600 test tasks. Prototypes with the same network and as many tasks are the baseline.

The results are in data/results/chapter_11.json, from where the chapter reads them; the update network of the first seed
is stored as data/learned_update.npz.
"""

import functools
import json
import math
from typing import Any, NamedTuple

import keras
import learned_optimizer
import numpy as np
import tensorflow as tf
from common import Point, best_inside, climb, halved
from record import ROOT, Record, measure_parts

import meta_keras as mk
from meta_keras.rules import Step, Update, UpdateNetwork

WAYS, SHOTS, SIDE, STEPS, BATCH, TRUNCATION = 10, 15, 7, 100, 32, 50
SEEDS, STARTS, SELECTION_SEED = 5, 2, 100
META_STEPS, META_BATCH = 600, 8
TASKS = 64
# Of the step size and of the learning rate of meta-training.
GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
LAST = 5  # the loss after the last step is the mean over so many minibatches


class Setting(NamedTuple):
    """What is trained on what, and for how long."""

    data: str = "glyphs"
    hidden: tuple[int, ...] = (32,)
    steps: int = STEPS
    tasks: int = TASKS


SETTINGS = {
    "training family": Setting(),
    "10 times the horizon": Setting(steps=10 * STEPS, tasks=TASKS // 4),
    "4 times the width": Setting(hidden=(128,)),
    "3 hidden layers": Setting(hidden=(32, 32, 32)),
    "clothing": Setting(data="fashion"),
}


@keras.saving.register_keras_serializable(package="chapter_11")
class Cosine(Update):
    """An update with a cosine decay to zero."""

    def __init__(self, inner: Update, steps: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner, self.steps = inner, steps

    def prepare(self, network: Any, parameters: Any, steps: int) -> None:
        self.inner.prepare(network, parameters, steps)
        self.built = True

    def init(self, parameters: Any) -> Any:
        return self.inner.init(parameters)

    def update(self, gradients: Any, state: Any, parameters: Any, step: Step) -> Any:
        moves, state = self.inner.update(gradients, state, parameters, step)
        share = tf.cast(step.number, moves[0].dtype) / self.steps
        return [0.5 * (1 + tf.cos(math.pi * share)) * move for move in moves], state


BASELINES = {"momentum": ("momentum", False), "adam": ("adam", False)}
BASELINES |= {f"{name}, cosine decay": (base, True) for name, (base, _) in BASELINES.items()}
FIRST_RATES = {"momentum": 0.4, "adam": 0.16}


@functools.cache
def pool(data: str, split: str) -> mk.ClassPool:
    """Characters come in three splits of alphabets. Clothing has ten classes, and splits of its images."""
    return mk.load(data).map(halved).map(halved).split(split)


def tasks(setting: Setting, split: str, seed: int, meta_batch: int = 16) -> mk.FewShot:
    return mk.FewShot(pool(setting.data, split), WAYS, SHOTS, queries=5, meta_batch=meta_batch, seed=seed)


def training_of(update: Update, setting: Setting, seed: int = 0, learning_rate: Any = 0.001) -> mk.UnrolledTraining:
    keras.utils.set_random_seed(seed)
    network = mk.networks.mlp(WAYS, input_shape=(SIDE, SIDE, 1), hidden=setting.hidden)
    training = mk.UnrolledTraining(
        network, update, steps=setting.steps, truncation=TRUNCATION, batch_size=BATCH, seed=seed
    )
    training.compile(keras.optimizers.Adam(learning_rate), jit_compile=True)
    return training


def curves(training: mk.UnrolledTraining, setting: Setting, split: str, groups: int = 1) -> np.ndarray:
    """(groups, tasks, steps) losses, on other tasks in each group."""
    seed = {"train": SELECTION_SEED, "validation": SELECTION_SEED, "test": 1000}[split]
    losses = training.learning_curves(tasks(setting, split, seed), batches=groups * setting.tasks // 16)
    return losses.reshape(groups, setting.tasks, setting.steps)


def last(losses: np.ndarray) -> float:
    """The loss after the last step. A run that diverged counts as one that learned nothing."""
    return float(np.nan_to_num(losses[..., -LAST:], nan=np.log(WAYS), posinf=np.log(WAYS)).mean())


# --- The baselines.


class Baseline:
    """A known optimizer, which is an update network with a coefficient instead of a network."""

    def __init__(self, name: str, setting: Setting) -> None:
        base, decays = BASELINES[name]
        self.update, self.setting = UpdateNetwork(1.0, base=base), setting
        self.training = training_of(Cosine(self.update, setting.steps) if decays else self.update, setting)
        self.unit = self.update.coefficients.numpy()

    def curves(self, rate: float, split: str, groups: int = 1) -> np.ndarray:
        self.update.coefficients.assign(rate * self.unit)
        return curves(self.training, self.setting, split, groups)


@functools.lru_cache(maxsize=1)
def baseline_of(name: str, title: str) -> Baseline:
    return Baseline(name, SETTINGS[title])


def best_rate(record: Record, name: str, title: str) -> float:
    """The best of nine learning rates on training tasks, or of more if it is at the edge."""

    def search() -> dict[str, float]:
        baseline, center = baseline_of(name, title), FIRST_RATES[BASELINES[name][0]]
        found: dict[float, float] = {}

        def quality(rate: float) -> float:
            found[rate] = last(baseline.curves(rate, "train"))
            return -found[rate]

        best_inside(quality, [center * 2.0**k for k in range(-4, 5)])
        return {f"{rate:.6g}": loss for rate, loss in sorted(found.items())}

    found = record.measure(f"rates: {name}, {title}", search)
    return float(min(found, key=found.get))


# --- The learned optimizer.


@keras.saving.register_keras_serializable(package="chapter_11")
class KnownUpdates(UpdateNetwork):
    """Formula 11.1 without the network."""

    def own_step(self, features: Any, context: Any, number: Any) -> tf.Tensor:
        return tf.zeros_like(features[0])


KINDS = {"learned": UpdateNetwork, "schedules": KnownUpdates, "coefficients": KnownUpdates}


class Choice(NamedTuple):
    """The hyperparameters of a learned update: see UpdateNetwork, and the learning rate of its training."""

    kind: str = "learned"
    base: str = "adam"
    rate: float = 0.08
    step_size: float = 0.03  # of the network, so without effect on the other kinds
    learning_rate: float = 0.03


def update_of(choice: Choice) -> UpdateNetwork:
    """A new update network. Weights do not have its settings, so training, loading and testing all call this."""
    settings = {"learning_rate": choice.rate, "base": choice.base, "step_size": choice.step_size}
    settings["schedules"] = choice.kind != "coefficients"
    return KINDS[choice.kind](**settings, name="learned_update")


def meta_train(choice: Choice, seed: int) -> tuple[mk.UnrolledTraining, Any]:
    schedule = keras.optimizers.schedules.CosineDecay(choice.learning_rate, META_STEPS)
    training = training_of(update_of(choice), Setting(), seed, schedule)
    family = tasks(Setting(), "train", seed, META_BATCH)
    history = training.fit(family, steps_per_epoch=META_STEPS // 20, epochs=20, verbose=0)
    return training, history.history


def validation_loss(training: mk.UnrolledTraining) -> float:
    """The mean loss on validation tasks, infinite if a run diverges."""
    loss = float(curves(training, Setting(), "validation").mean())
    return loss if math.isfinite(loss) else math.inf


def validated(record: Record, tried: Choice) -> float:
    """The mean loss on validation tasks, infinite also if meta-training fails."""

    def loss() -> float:
        try:
            training, _ = meta_train(tried, SELECTION_SEED)
        except FloatingPointError:  # all training runs of a step have diverged
            return math.inf
        return validation_loss(training)

    settings = f"step size {tried.step_size:g}, learning rate {tried.learning_rate:g}"
    return record.measure(f"selection: {tried.kind}, {settings}", loss)


def selected(record: Record, best: Choice) -> Choice:
    """Coordinate search on validation tasks, until the neighbors of the best values in the grid are worse."""
    names, moved = ("learning_rate", "step_size") if best.kind == "learned" else ("learning_rate",), True

    def loss(choice: Choice) -> float:
        return validated(record, choice)

    while moved:
        before = best
        for name in names:
            place = GRID.index(getattr(best, name))
            for way in (-1, 1):
                while (tried := best._replace(**{name: GRID[place + way]})) and loss(tried) < loss(best):
                    best, place = tried, place + way
                    assert 0 < place < len(GRID) - 1, f"the best {name} is at the edge of the grid"
        moved = best != before
    return best


def started(record: Record, choice: Choice, seed: int, start: int) -> dict[str, Any]:
    """What one meta-training of this seed has learned, and its mean loss on validation tasks."""

    def train() -> dict[str, Any]:
        training, history = meta_train(choice, STARTS * seed + start)
        weights = [one.tolist() for one in training.update.get_weights()]
        config = json.loads(json.dumps(training.update.get_config()))
        kept = {"choice": choice._asdict(), "config": config, "weights": weights}
        return kept | {"history": history, "validation": validation_loss(training)}

    return record.measure(f"meta-training: {choice.kind}, seed {seed}, start {start}", train)


def learned(record: Record, choice: Choice, seed: int) -> UpdateNetwork:
    """The update network of this seed, from the record if it is there: the best start on validation tasks."""

    def best() -> dict[str, Any]:
        return min((started(record, choice, seed, n) for n in range(STARTS)), key=lambda one: one["validation"])

    stored, update = record.measure(f"meta-training: {choice.kind}, seed {seed}", best), update_of(choice)
    trained = stored["choice"], UpdateNetwork.from_config(stored["config"]).get_config()
    assert trained == (choice._asdict(), update.get_config()), f"seed {seed} was meta-trained with {trained}"
    update.build()
    update.set_weights([np.asarray(one, "float32") for one in stored["weights"]])
    return update


# --- The tests.


def summary(losses: np.ndarray) -> dict[str, Any]:
    finite = np.isfinite(losses).all(axis=1)
    shown = np.nan_to_num(losses, nan=np.log(WAYS), posinf=np.log(WAYS))
    every = max(1, losses.shape[1] // STEPS)
    curve = shown.mean(axis=0).reshape(-1, every).mean(axis=1)
    return {"last": last(losses), "diverged": int((~finite).sum()), "curve": [round(float(v), 5) for v in curve]}


def test_learned(record: Record, choice: Choice, title: str) -> None:
    setting = SETTINGS[title]

    def measured() -> list[dict[str, Any]]:
        training, found = training_of(update_of(choice), setting), []
        for seed in range(SEEDS):
            update = learned(record, choice, seed)
            assert update.get_config() == training.update.get_config()  # which set_weights does not compare
            training.update.set_weights(update.get_weights())
            found.append(summary(curves(training, setting, "test", seed + 1)[seed]))
        return found

    record.measure(f"test: {choice.kind}, {title}", measured)


def test_baselines(record: Record, title: str) -> None:
    for name in BASELINES:
        rate = best_rate(record, name, title)

        def measured(name: str = name, rate: float = rate) -> list[dict[str, Any]]:
            return [summary(losses) for losses in baseline_of(name, title).curves(rate, "test", SEEDS)]

        record.measure(f"test: {name}, {title}", measured)


# --- As a few-shot rule.

FEW_SHOT_STEPS, FEW_SHOT_SEEDS, EPISODES = 500, 3, 600


def few_shot_tasks(split: str, seed: int, meta_batch: int = 4) -> mk.FewShot:
    characters = mk.load("glyphs").map(halved).split(split)
    return mk.FewShot(characters, ways=5, shots=1, queries=5, meta_batch=meta_batch, seed=seed)


def rule_of(name: str, rate: float, own_rate: float) -> mk.rules.Rule:
    """own_rate: the learning rate in Formula 11.1, which scales how fast the update network changes."""
    if name == "MAML":
        return mk.rules.GradientDescent(rate, steps=1, evaluation_steps=3)
    if name == "update network":
        update = UpdateNetwork(own_rate, base="sgd", schedules=False)
        update.build()
        update.coefficients.assign(update.coefficients * (rate / own_rate))  # it begins as the rule of MAML
        return mk.rules.GradientDescent(update, steps=1, evaluation_steps=3)
    return mk.rules.Prototypes(batch_statistics="episode")


def few_shot_accuracy(name: str, point: Point, seed: int, split: str, episodes: int) -> float:
    rate, outer, *own_rate = point
    keras.utils.set_random_seed(seed)
    units = None if name == "prototypes" else 5
    network = mk.networks.conv4(units, input_shape=(14, 14, 1), filters=16, downsample="stride")
    learner = mk.MetaLearner(network=network, rule=rule_of(name, rate, *own_rate or (rate,)))
    learner.compile(keras.optimizers.Adam(outer))
    learner.fit(few_shot_tasks("train", seed), steps_per_epoch=FEW_SHOT_STEPS, verbose=0)
    return float(mk.evaluate(learner, few_shot_tasks(split, 1000 + seed, 20), episodes=episodes).mean)


def few_shot(record: Record) -> None:
    """All learning rates by moving to better neighbors until there are none; then the test."""
    climbs = {
        "prototypes": ((0.4, 0.003), (1, 3)),
        "MAML": ((0.4, 0.003), (2, 3)),
        "update network": ((0.2, 0.009, 0.0001), (2, 3, 10)),
    }
    for name, (start, factors) in climbs.items():

        def accuracy(point: Point, name: str = name) -> float:
            key = f"few-shot selection: {name}, " + ", ".join(map("{} {:.3g}".format, ("inner", "outer", "own"), point))
            return record.measure(key, lambda: few_shot_accuracy(name, point, SELECTION_SEED, "validation", 200))

        best = climb(accuracy, start, factors)
        record.measure(f"few-shot choice: {name}", lambda best=best: list(best))
        for seed in range(FEW_SHOT_SEEDS):
            record.measure(
                f"few-shot test: {name}, seed {seed}",
                lambda name=name, best=best, seed=seed: few_shot_accuracy(name, best, seed, "test", EPISODES),
            )


def ship(record: Record, choice: Choice) -> None:
    """data/learned_update.npz, of the first seed."""
    path = ROOT / "data" / "learned_update.npz"
    path.unlink(missing_ok=True)
    learned(record, choice, 0).save(path)


def choices(record: Record) -> list[Choice]:
    found = [selected(record, Choice(kind)) for kind in KINDS]
    for choice in found:
        record.measure(f"choice: {choice.kind}", choice._asdict)
    return found


def meta_training(record: Record) -> None:
    for choice in choices(record):
        for seed in range(SEEDS):
            learned(record, choice, seed)


def optimizers(record: Record) -> None:
    chosen = choices(record)
    for choice in chosen:
        for title in SETTINGS:
            test_learned(record, choice, title)
    for title in SETTINGS:
        test_baselines(record, title)
    ship(record, chosen[0])


def times(record: Record) -> None:
    record.measure("milliseconds of a training step", lambda: learned_optimizer.measured(training=True))


PARTS = {
    "selection": choices,
    "meta_training": meta_training,
    "optimizers": optimizers,
    "times": times,
    "few_shot": few_shot,
}


if __name__ == "__main__":
    measure_parts("chapter_11", PARTS, __doc__)
