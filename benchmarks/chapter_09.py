"""What chapter 09 reports about learned learning rates, schedules and losses.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_09.py      (about 25 minutes on one core)

rates: MAML at one tuned learning rate, and with learned rates per layer and step, and per weight. Sine
curves (10-shot, five inner steps, 1,000 batches of 25 tasks) and glyphs of 14x14 pixels (5-way 1-shot, three inner
steps, 600 batches of 16 tasks, a network of dense layers).

losses: the learned inner loss against the plain one and against a tuned robust one, all at tuned learning rates: sine
curves of which a fifth of the support targets are replaced by random numbers (Huber loss), glyphs of which three in
ten support labels are wrong (5-way 5-shot, label smoothing), and the same without errors.

schedules: one learning rate per step for a network of dense layers that is trained on 10-way glyphs of 7x7 pixels for
100 steps on minibatches of eight: learned with hypergradients through segments of ten or all 100 steps, and tuned
(constant, exponential and cosine decay, and the hypergradient descent of Baydin et al., 2018).

Every setting is selected on validation tasks: first the outer learning rate, then the others, in grids that are
extended for as long as the best value is at an edge. Test results are those of five new seeds on new tasks.
Results are kept in data/results/chapter_09.json; a run that is stopped continues where it was.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from common import AdjustableRate, begin_again, best_inside, halved
from record import Record, measure_parts

import meta_keras as mk
from meta_keras.rules import GradientDescent, LearnedLoss, LearnedRates, Update

SINE_STEPS, GLYPH_STEPS, DECAY_STEPS = 1000, 600, 10
OUTER, INNER = (0.005, 0.01, 0.02), {"sines": (0.005, 0.01, 0.02), "glyphs": (0.05, 0.1, 0.2)}
TUNING_SEEDS, TEST_SEEDS = (0, 1), tuple(range(100, 105))
WAYS = 5


class Robust(GradientDescent):
    """An inner loss that is robust to outliers, with a setting that can be changed between trainings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setting = tf.Variable(1.0, trainable=False)

    def adapt(self, *task: Any) -> Any:
        self.now = self.setting.read_value()
        return super().adapt(*task)


class Huber(Robust):
    """Squared error up to `setting`, linear beyond."""

    def support_loss(self, y: tf.Tensor, answers: tf.Tensor, context: Any) -> tf.Tensor:
        distance = tf.abs(y - answers)
        inside = tf.minimum(distance, self.now)
        return tf.reduce_mean(inside**2 + 2 * self.now * (distance - inside))


class Smoothed(Robust):
    """Cross-entropy with `setting` of the probability moved from the label to all classes alike."""

    def support_loss(self, y: tf.Tensor, answers: tf.Tensor, context: Any) -> tf.Tensor:
        target = (1 - self.now) * tf.one_hot(y, WAYS) + self.now / WAYS
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, answers))


# Tasks


def with_outliers(tasks: mk.Episode, seed: int, fraction: float) -> mk.Episode:
    """This fraction of the support targets is replaced by numbers between -10 and 10."""
    generator, y = np.random.default_rng(seed), tasks.support_y.numpy()
    replaced = generator.random(y.shape) < fraction
    noise = generator.uniform(-10, 10, y.shape).astype(y.dtype)
    return tasks._replace(support_y=tf.constant(np.where(replaced, noise, y)))


class SineTasks:
    """Sine curves. share: of the support targets that are replaced by random numbers."""

    kind, steps, batches = "sines", 5, SINE_STEPS

    def __init__(self, share: float = 0.0) -> None:
        self.share = share
        self.validation, self.test = self.held_out(10_001, 300), self.held_out(10_002, 1000)

    def held_out(self, seed: int, tasks: int) -> mk.Episode:
        drawn = next(iter(mk.Sinusoids(shots=10, queries=50, meta_batch=tasks, seed=seed)))
        return with_outliers(drawn, seed, self.share)

    def training(self, seed: int) -> tf.data.Dataset:
        drawn = next(iter(mk.Sinusoids(shots=10, queries=10, meta_batch=25, seed=seed).batch(SINE_STEPS)))
        return tf.data.Dataset.from_tensor_slices(with_outliers(drawn, seed, self.share)).repeat()

    def network(self) -> keras.Model:
        return mk.networks.mlp(1)

    def error(self, right: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.square(answers - right), axis=(1, 2))


class GlyphTasks:
    """Glyphs of 14x14 pixels. share: of the support labels that are wrong."""

    kind, steps, batches = "glyphs", 3, GLYPH_STEPS
    pool = mk.load("glyphs").map(halved)

    def __init__(self, shots: int, share: float = 0.0) -> None:
        self.shots, self.share = shots, share
        self.validation, self.test = self.held_out("validation", 10_001, 300), self.held_out("test", 10_002, 600)

    def held_out(self, split: str, seed: int, tasks: int) -> mk.Episode:
        return next(iter(self.drawn(split, seed, tasks, queries=5)))

    def training(self, seed: int) -> tf.data.Dataset:
        return self.drawn("train", seed, 16, queries=5)

    def drawn(self, split: str, seed: int, tasks: int, queries: int) -> tf.data.Dataset:
        part = self.pool.split(split)
        episodes = mk.FewShot(part, ways=WAYS, shots=self.shots, queries=queries, meta_batch=tasks, seed=seed)
        return episodes.enumerate().map(lambda number, episode: self.with_wrong_labels(episode, seed, number))

    def with_wrong_labels(self, episode: mk.Episode, seed: int, number: tf.Tensor) -> mk.Episode:
        y, seeds = episode.support_y, tf.stack([tf.cast(number, tf.int32), seed])
        wrong = tf.random.stateless_uniform(tf.shape(y), seeds) < self.share
        further = tf.random.stateless_uniform(tf.shape(y), seeds + 1, 1, WAYS, dtype=tf.int32)
        return episode._replace(support_y=tf.where(wrong, (y + tf.cast(further, y.dtype)) % WAYS, y))

    def network(self) -> keras.Model:
        return mk.networks.mlp(WAYS, input_shape=(14, 14, 1), hidden=(64, 64))

    def error(self, right: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
        hits = tf.cast(tf.argmax(answers, axis=-1, output_type=right.dtype) == right, tf.float32)
        return 1 - tf.reduce_mean(hits, axis=1)


# Meta-training


class Training:
    """A learner that is compiled once and trained many times, each time from a new initialization."""

    def __init__(self, tasks: Any, make_rule: Callable[[Any, int], Any], per: str | None = None) -> None:
        self.tasks = tasks
        rate = AdjustableRate(0.01) if per is None else LearnedRates(0.01, per, logarithmic=True)
        self.rule, self.network = make_rule(rate, tasks.steps), tasks.network()
        self.learner = mk.MetaLearner(network=self.network, rule=self.rule)
        loss = "mse" if tasks.kind == "sines" else None
        optimizer = keras.optimizers.Adam(0.001, global_clipnorm=10.0)
        self.learner.compile(optimizer, loss=loss, metrics=[], steps_per_execution=50)
        self._errors = tf.function(self._of, jit_compile=True)

    def _of(self, *episode: tf.Tensor) -> tf.Tensor:
        *inputs, query_y = episode
        return self.tasks.error(query_y, self.learner(tuple(inputs), training=False))

    def train(self, seed: int, inner: float, outer: float, setting: float = 0.0) -> bool:
        """Whether training stayed finite."""
        begin_again(self.learner, self.tasks.network, seed)
        if isinstance(self.rule, LearnedLoss):
            fresh = LearnedLoss(0.01)
            fresh.prepare(self.learner.pure)
            for variable, first in zip(self.rule.loss_weights, fresh.loss_weights, strict=True):
                variable.assign(first)
        transform = self.rule.transform
        for rate in getattr(transform, "rates", []):
            rate.assign(tf.fill(rate.shape, float(np.log(inner))))
        if isinstance(transform, AdjustableRate):
            transform.rate.assign(inner)
        if isinstance(self.rule, Robust):
            self.rule.setting.assign(setting)
        decay = keras.callbacks.LearningRateScheduler(
            lambda epoch: outer * (1 + np.cos(np.pi * epoch / DECAY_STEPS)) / 2
        )
        per_epoch = self.tasks.batches // DECAY_STEPS
        try:
            self.learner.fit(
                self.tasks.training(seed), epochs=DECAY_STEPS, steps_per_epoch=per_epoch, callbacks=[decay], verbose=0
            )
        except FloatingPointError:
            return False
        return True

    def error(self, seed: int, tasks: mk.Episode, **settings: float) -> float:
        """The mean error on these tasks after meta-training; infinite if it diverged."""
        finite = self.train(seed, **settings)
        error = float(tf.reduce_mean(self._errors(*tasks))) if finite else np.inf
        return round(error, 5) if np.isfinite(error) else float("inf")


def select(
    training: Training, start: dict[str, float], grids: dict[str, Sequence[float]], seeds: Sequence[int]
) -> dict[str, Any]:
    """One setting after another, the best of its grid on the validation tasks; and all errors that were measured."""
    chosen, tried = dict(start), {}
    for name, grid in grids.items():

        def measure(value: float, name: str = name) -> float:
            settings = chosen | {name: value}
            error = np.mean([training.error(seed, training.tasks.validation, **settings) for seed in seeds])
            tried.setdefault(name, {})[f"{value:.4g}"] = round(float(error), 5) if np.isfinite(error) else None
            return -error

        chosen[name] = float(f"{best_inside(measure, grid):.4g}")
    return {"selected": chosen, "tried": tried}


def compare(
    record: Record,
    title: str,
    training: Training,
    grids: dict[str, Sequence[float]],
    seeds: Sequence[int] = TUNING_SEEDS,
) -> dict[str, Any]:
    """Select the settings of a method, and test it with five seeds. What it has learned is kept for figures."""
    kind = training.tasks.kind
    start = {name: grid[1] for name, grid in grids.items()}
    found = record.measure(f"{title}: settings", lambda: select(training, start, grids, seeds))
    for seed in TEST_SEEDS:
        record.measure(f"{title}: seed {seed}", lambda s=seed: tested(training, s, found["selected"], kind))
    return found


def tested(training: Training, seed: int, settings: dict[str, float], kind: str) -> dict[str, Any]:
    error, transform = training.error(seed, training.tasks.test, **settings), training.rule.transform
    result: dict[str, Any] = {"error": error}
    if getattr(transform, "per", None) in ("layer", "layer-step"):
        result["rates"] = {name: np.round(np.float64(value), 5).tolist() for name, value in transform.values().items()}
    elif getattr(transform, "per", None) == "weight":
        marks = (5, 25, 50, 75, 95)
        result["percentiles"] = {
            n: np.percentile(np.float64(v), marks).round(5).tolist() for n, v in transform.values().items()
        }
    return result


def grids_for(kind: str, **more: Sequence[float]) -> dict[str, Sequence[float]]:
    return {"outer": OUTER, "inner": INNER[kind]} | more


def rates(record: Record) -> None:
    for tasks, name in ((SineTasks(), "sines"), (GlyphTasks(1), "glyphs")):
        for per in (None, "layer-step", "weight"):
            training = Training(tasks, GradientDescent, per)
            compare(record, f"rates, {name}, {per or 'one rate'}", training, grids_for(tasks.kind), TUNING_SEEDS[:1])


# Losses


def losses(record: Record) -> None:
    noisy_sines, noisy_glyphs = SineTasks(0.2), GlyphTasks(5, 0.3)
    for tasks, name, robust, grid in (
        (noisy_sines, "sines with outliers", Huber, (0.3, 1.0, 10 / 3)),
        (SineTasks(), "sines", None, ()),  # the plain loss is "rates, sines, one rate"
        (noisy_glyphs, "glyphs with wrong labels", Smoothed, (0.2, 0.4, 0.8)),
    ):
        kinds = (
            {"plain": GradientDescent, "learned": LearnedLoss, "robust": robust} if robust else {"learned": LearnedLoss}
        )
        for kind, rule in kinds.items():
            training = Training(tasks, rule)
            more = {"setting": grid} if kind == "robust" else {}
            compare(record, f"loss, {name}, {kind}", training, grids_for(tasks.kind, **more))
            if name == "sines with outliers" and kind == "learned":
                record.measure("weights of examples", lambda t=training: weights_of_examples(t))
    record.measure("loss, glyphs with wrong labels, pixels", lambda: nearest_mean(noisy_glyphs.test))


def weights_of_examples(training: Training) -> dict[str, Any]:
    """Residual and weight of every support example of 40 test tasks, after the last inner step."""
    rule, learner = training.rule, training.learner
    tasks = mk.Episode(*(part[:40] for part in training.tasks.test))
    clean = mk.Episode(*(part[:40] for part in SineTasks().test))
    answers = learner((tasks.support_x, tasks.support_y, tasks.support_x), training=False)
    rows = []
    for y, a in zip(tasks.support_y, answers, strict=True):
        weights, _ = rule.judgments(y, a, tf.square(y - a)[:, 0])
        rows.append(1 + np.tanh(weights))
    return {
        "residual": np.round(np.float64(np.ravel(tasks.support_y - answers)), 3).tolist(),
        "weight": np.round(np.float64(np.ravel(rows)), 3).tolist(),
        "replaced": np.ravel(tasks.support_y != clean.support_y).tolist(),
    }


def nearest_mean(tasks: mk.Episode) -> float:
    """The error of the nearest class mean of the pixels."""
    errors = []
    for x, y, query_x, query_y in zip(*(part.numpy() for part in tasks), strict=True):
        means = np.stack([x[y == label].mean(axis=0) if (y == label).any() else 1e9 + x[0] for label in range(WAYS)])
        distances = ((query_x[:, None] - means) ** 2).sum(axis=(2, 3, 4))
        errors.append(np.mean(distances.argmin(axis=1) != query_y))
    return round(float(np.mean(errors)), 5)


# Schedules

RUN_STEPS, BATCH_SIZE, META_STEPS, HORIZONS = 100, 8, 150, (100, 10)
KINDS = ("constant", "exponential", "cosine")


class HypergradientDescent(Update):
    """Baydin et al., 2018: the rate grows while successive gradients agree: alpha += beta * g_k . g_(k-1)."""

    def __init__(self, rates: Sequence[float], beta: float) -> None:
        super().__init__()
        self.start, self.beta = tf.Variable(rates, trainable=False), tf.Variable(beta, trainable=False)

    def init(self, parameters: Any) -> Any:
        runs = parameters[0].shape[0]  # the networks of UnrolledTraining, side by side
        beta, start = (tf.fill((runs,), one.read_value()) for one in (self.beta, self.start))
        return start, beta, [tf.zeros_like(one) for one in parameters]

    def update(self, gradients: Any, state: Any, parameters: Any, step: Any) -> Any:
        rate, beta, before = state
        agreement = tf.add_n([tf.reduce_sum(one * other) for one, other in zip(gradients, before, strict=True)])
        rate = tf.maximum(rate + beta * agreement, 0)
        return [-rate * gradient for gradient in gradients], (rate, beta, gradients)


def ten_ways(split: str, runs: int, seed: int) -> mk.FewShot:
    pool = GlyphTasks.pool.map(halved).split(split)
    return mk.FewShot(pool, ways=10, shots=15, queries=5, meta_batch=runs, seed=seed)


def unrolled(update: Update, truncation: int = RUN_STEPS, seed: int = 0, meta_rate: float = 0.1) -> Any:
    """Training runs of a small network. The decay of the outer learning rate averages out noise of meta-gradients."""
    keras.utils.set_random_seed(seed)
    network = mk.networks.mlp(10, input_shape=(7, 7, 1), hidden=(32,))
    training = mk.UnrolledTraining(
        network, update, steps=RUN_STEPS, truncation=truncation, batch_size=BATCH_SIZE, seed=seed
    )
    decay = keras.optimizers.schedules.CosineDecay(meta_rate, META_STEPS)
    training.compile(keras.optimizers.Adam(decay), jit_compile=True)
    return training


def shape_of(kind: str, rate: float, decay: float) -> np.ndarray:
    """A schedule of 100 rates from `rate` on. decay: what is left of it at the end."""
    place = np.arange(RUN_STEPS) / RUN_STEPS
    if kind == "exponential":
        return rate * decay**place
    return rate * (decay + (1 - decay) * (1 + np.cos(np.pi * place)) / 2 if kind == "cosine" else np.ones(RUN_STEPS))


class Schedules:
    """Training runs at given schedules, on fixed tasks and with fixed initial weights and minibatches."""

    def __init__(self) -> None:
        self.rates = LearnedRates(0.1, "step", logarithmic=True)
        self.training = unrolled(self.rates)

    def losses(self, schedule: Any, split: str, seed: int) -> np.ndarray:
        """(runs, steps) losses."""
        self.rates.rates[0].assign(np.log(np.maximum(schedule, 1e-9)))
        return self.training.learning_curves(ten_ways(split, 64, seed))

    def validation(self, schedule: Any) -> float:
        return float(self.losses(schedule, "validation", 1).mean())


def schedules(record: Record) -> None:
    measured, found = Schedules(), {}
    for kind in KINDS:
        selected = record.measure(f"schedule, {kind}: settings", lambda k=kind: tuned_schedule(measured, k))["selected"]
        found[kind] = [np.round(shape_of(kind, *selected), 5).tolist()] * len(TEST_SEEDS)
    meta_rate = record.measure("schedule, learned: settings", lambda: tuned_meta_rate(measured))["selected"]
    for horizon in HORIZONS:
        found[f"learned, horizon {horizon}"] = [
            record.measure(
                f"schedule, horizon {horizon}: seed {seed}", lambda h=horizon, s=seed: learned(h, s, meta_rate)
            )
            for seed in TEST_SEEDS
        ]
    for name, rates_by_seed in found.items():
        record.measure(f"schedule, {name}: test", lambda r=rates_by_seed: tested_schedules(measured, r))
    selected = record.measure("schedule, hypergradient descent: settings", tuned_hypergradient)["selected"]
    record.measure("schedule, hypergradient descent: test", lambda: tested_hypergradient(*selected))


def tuned_schedule(measured: Schedules, kind: str) -> dict[str, Any]:
    """The best initial rate for each decay, and the best decay."""
    tried: dict[str, Any] = {}

    def of(rate: float, decay: float) -> float:
        loss = measured.validation(shape_of(kind, rate, decay))
        tried[f"{rate:.4g}, {decay:.4g}"] = round(loss, 5)
        return -loss

    def best_rate(decay: float) -> float:
        return best_inside(lambda rate: of(rate, decay), (0.8, 0.8 * 2**0.5, 1.6))

    if kind == "constant":
        return {"selected": [best_rate(1.0), 1.0], "tried": tried}
    decay = best_inside(lambda decay: of(best_rate(decay), decay), (0.05, 0.1, 0.2))
    return {"selected": [best_rate(decay), decay], "tried": tried}


def learned(horizon: int, seed: int, meta_rate: float) -> list[float]:
    """The schedule after meta-training from a constant rate of 0.1.

    No loss of a segment comes after its last update, so the rate of the step before is used for it, too.
    """
    rates = LearnedRates(0.1, "step", logarithmic=True)
    unrolled(rates, horizon, seed, meta_rate).fit(ten_ways("train", 8, seed), steps_per_epoch=META_STEPS, verbose=0)
    values = rates.values()["all"].copy()
    values[horizon - 1 :: horizon] = values[horizon - 2 :: horizon]
    return np.round(np.float64(values), 5).tolist()


def tuned_meta_rate(measured: Schedules) -> dict[str, Any]:
    tried: dict[str, float] = {}

    def of(rate: float) -> float:
        tried[f"{rate:.4g}"] = round(measured.validation(learned(RUN_STEPS, TUNING_SEEDS[0], rate)), 5)
        return -tried[f"{rate:.4g}"]

    return {"selected": best_inside(of, (0.03, 0.1, 0.3)), "tried": tried}


def summary(losses: list[np.ndarray]) -> dict[str, Any]:
    return {
        "mean": [round(float(one.mean()), 5) for one in losses],
        "end": [round(float(one[:, -10:].mean()), 5) for one in losses],
        "curve": np.mean(np.float64(losses), axis=(0, 1)).round(4).tolist(),
    }


def tested_schedules(measured: Schedules, by_seed: list[list[float]]) -> dict[str, Any]:
    """The loss along training and in its last ten steps: the schedule of each seed, on 64 test tasks of this seed."""
    return summary([measured.losses(one, "test", seed) for one, seed in zip(by_seed, TEST_SEEDS, strict=True)])


def tuned_hypergradient() -> dict[str, Any]:
    """The best initial rate for each beta, and the best beta."""
    update, tried = HypergradientDescent(0.5, 0.01), {}
    training = unrolled(update)

    def of(rate: float, beta: float) -> float:
        update.start.assign(rate), update.beta.assign(beta)
        loss = training.learning_curves(ten_ways("validation", 64, 1)).mean()
        tried[f"{rate:.4g}, {beta:.4g}"] = round(float(loss), 5)
        return -loss

    def best_rate(beta: float) -> float:
        return best_inside(lambda rate: of(rate, beta), (0.4, 0.4 * 2**0.5, 0.8))

    beta = best_inside(lambda beta: of(best_rate(beta), beta), (0.003, 0.01, 0.03))
    return {"selected": [best_rate(beta), beta], "tried": tried}


def tested_hypergradient(rate: float, beta: float) -> dict[str, Any]:
    training = unrolled(HypergradientDescent(rate, beta))
    return summary([training.learning_curves(ten_ways("test", 64, seed)) for seed in TEST_SEEDS])


PARTS = {"rates": rates, "losses": losses, "schedules": schedules}


if __name__ == "__main__":
    measure_parts("chapter_09", PARTS, __doc__)
