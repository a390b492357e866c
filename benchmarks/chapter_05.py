"""Distillation, new heads and recombined networks on Fashion-MNIST in four orientations, with selected hyperparameters.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_05.py          (about 25 minutes on one core)

Images have 14x14 pixels. Of the 200 training images per class, every fourth is a validation image; of the other 150,
each seed gives 75 to its teachers and 75 to its students. Every image is used in all four orientations, and there are
two tasks, to recognize the class and the orientation. All networks are dense, without batch normalization, and trained
by Adam at a constant learning rate, with 32 images per step. Every method may train for 12800 steps: the number of
steps (early stopping), the learning rate and what else a method has are those with the highest validation accuracy, on
average over three seeds. Only the teachers, which all methods share, train for a fixed number of 3200 steps. If the
best learning rate, temperature, smoothing or weight of the feature loss is at the edge of its grid, it is extended.
Test accuracies are those of ten other seeds. A seed fixes the split, the initialization and the order of the images,
and is the same for all methods. The networks of all seeds and settings are trained side by side: their weights have two
more axes, and Adam treats every weight alone.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from common import RatePerNetwork
from record import Record

import meta_keras as mk
from meta_keras.classical import preprocess_data

SELECTION_SEEDS, TEST_SEEDS = range(100, 103), range(10)
BATCH, SNAPSHOTS, TEACHER_STEPS = 32, (200, 400, 800, 1600, 3200, 6400, 12800), 3200
HINT_STEPS = 800  # the first stage of hints in two stages; the second has the rest of the steps
RATES = (0.0003, 0.001, 0.003, 0.01)
FACTORS = {
    "rate": 3,
    "hint_rate": 3,
    "temperature": 2,
    "smoothing": 2,
    "feature_weight": 10,
}  # by which a grid is extended
PIXELS, STUDENT, WHOLE = 196, (16, 16), (64, 64)
CLASS, ORIENTATION = slice(0, 10), slice(10, 14)
PER_CLASS = (5, 20, 75)

Weights = list[Any]  # kernels (settings, seeds, inputs, units) and biases (settings, seeds, 1, units)
Setting = dict[str, float]


class Data(NamedTuple):
    """Every image in four orientations: row `turn * images + image`."""

    x: np.ndarray
    y: np.ndarray  # (rows, 2) class and orientation


@functools.cache
def fashion() -> dict[str, Data]:
    pool = mk.load("fashion").map(lambda images: images.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4)).astype("uint8"))
    images, labels = pool.split("train").arrays()
    held_out = np.arange(len(labels)) % 4 == 3
    _, standard = preprocess_data(images[~held_out])

    def turned(images: np.ndarray, labels: np.ndarray) -> Data:
        x = preprocess_data(images, standard)[0]
        x = np.concatenate([np.rot90(x, turn, axes=(1, 2)) for turn in range(4)])
        y = np.stack([np.tile(labels, 4), np.repeat(np.arange(4), len(labels))], axis=1)
        return Data(x.reshape(len(x), -1), y.astype("int32"))

    return {
        "train": turned(images[~held_out], labels[~held_out]),
        "validation": turned(images[held_out], labels[held_out]),
        "test": turned(*pool.split("test").arrays()),
    }


# Which rows are used


def images_of(who: str, per_class: int, seed: int) -> np.ndarray:
    """So many training images per class: of the teacher's 75, of the student's 75, or of all 150."""
    rng, labels = np.random.default_rng(seed), fashion()["train"].y[:1500, 0]
    shuffled = np.stack([rng.permutation(np.flatnonzero(labels == label)) for label in range(10)])
    first = {"teacher": 0, "student": 75, "all": 0}[who]
    return shuffled[:, first : first + per_class].ravel()


def batches(who: str, per_class: int, seeds: Sequence[int], steps: int, order: int = 0) -> tf.Tensor:
    """(steps, seeds, batch) rows of training examples, shuffled in every epoch."""
    found = []
    for seed in seeds:
        rows = (images_of(who, per_class, seed)[:, None] + 1500 * np.arange(4)).ravel()
        rng = np.random.default_rng(1000 * order + seed)
        epochs = [rng.permutation(rows) for _ in range(-(-steps * BATCH // len(rows)))]
        found.append(np.concatenate(epochs)[: steps * BATCH].reshape(steps, BATCH))
    return tf.constant(np.stack(found, axis=1))


# Networks side by side


def initial(sizes: Sequence[int], seeds: Sequence[int]) -> list[np.ndarray]:
    """Glorot's initialization, as in Keras: kernels (seeds, inputs, units) and biases (seeds, 1, units)."""
    weights = []
    for number, (inputs, units) in enumerate(itertools.pairwise(sizes)):
        limit = np.sqrt(6 / (inputs + units))
        drawn = [np.random.default_rng([number, seed]).uniform(-limit, limit, (inputs, units)) for seed in seeds]
        weights += [np.float32(drawn), np.zeros((len(seeds), 1, units), "float32")]
    return weights


def layers(weights: Weights, x: Any, *, stitched: bool = False) -> list[tf.Tensor]:
    """The outputs of every layer, (settings, seeds, rows, units): hidden ones after the ReLU, then the logits.

    stitched: the first layer is a stitching layer, which is linear.
    """
    outputs: list[tf.Tensor] = []
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        x = tf.matmul(x, kernel) + bias
        last, linear = 2 * len(outputs) == len(weights) - 2, stitched and not outputs
        x = x if last or linear else tf.nn.relu(x)
        outputs.append(x)
    return outputs


def train(
    start: Sequence[np.ndarray],
    loss: Callable[[list[tf.Tensor], tf.Tensor], tf.Tensor],
    settings: Sequence[Setting],
    rows: tf.Tensor,
    *,
    inputs: np.ndarray | None = None,
    snapshots: Sequence[int],
    frozen: Sequence[int] = (),
    extra: int = 0,
    stitched: bool = False,
    dropout: float = 0.0,
) -> Iterator[list[np.ndarray]]:
    """The weights after each of these numbers of steps, for every setting and every seed.

    start: (seeds, ...) or (settings, seeds, ...) weights. loss: from the outputs of the layers and the rows to
    (settings, seeds, batch). inputs: (seeds, rows, units), if they are not the images. frozen: numbers of weights.
    extra: so many of the last weights are no layers of the network; the loss gets them after the outputs.
    """
    shape = (len(settings), rows.shape[1])
    start = [np.broadcast_to(w, (*shape, *w.shape[-2:])) for w in start]
    weights = [keras.Variable(w) for w in start]
    trained = [w for number, w in enumerate(weights) if number not in frozen]
    optimizer = keras.optimizers.Adam(RatePerNetwork([setting["rate"] for setting in settings]))
    optimizer.build(trained)
    data = tf.constant(fashion()["train"].x if inputs is None else inputs)

    @tf.function
    def run(first: tf.Tensor, last: tf.Tensor) -> None:
        for step in tf.range(first, last):
            x = tf.gather(data, rows[step], batch_dims=0 if inputs is None else 1)
            with tf.GradientTape() as tape:
                values = [w.value for w in weights]
                if dropout:
                    outputs = _dropped(values, x, dropout)
                else:
                    outputs = layers(values[: len(values) - extra], x, stitched=stitched)
                outputs += values[len(values) - extra :]
                total = tf.reduce_sum(loss(outputs, rows[step])) / BATCH
            optimizer.apply(tape.gradient(total, [w.value for w in trained]), trained)

    for first, last in itertools.pairwise([0, *snapshots]):
        run(tf.constant(first), tf.constant(last))
        yield [w.numpy() for w in weights]


def _dropped(weights: Weights, x: tf.Tensor, fraction: float) -> list[tf.Tensor]:
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = tf.nn.dropout(tf.nn.relu(tf.matmul(x, kernel) + bias), fraction)
    return [tf.matmul(x, weights[-2]) + weights[-1]]


def accuracies(
    weights: Weights, part: str, tasks: Sequence[slice], inputs: np.ndarray | None = None, *, stitched: bool = False
) -> np.ndarray:
    """(settings, seeds, tasks) the fraction of examples classified correctly."""
    x, y = fashion()[part]
    logits = layers(weights, x if inputs is None else inputs, stitched=stitched)[-1].numpy()
    answers = [logits[..., _within(task, tasks)].argmax(axis=-1) for task in tasks]
    truth = [y[:, 0 if task == CLASS else 1] for task in tasks]
    return np.stack([(a == t).mean(axis=-1) for a, t in zip(answers, truth, strict=True)], axis=-1)


def _within(task: slice, tasks: Sequence[slice]) -> slice:
    """Where the logits of a task are, in a network for these tasks only."""
    before = sum(t.stop - t.start for t in tasks if t.start < task.start)
    return slice(before, before + task.stop - task.start)


def column(settings: Sequence[Setting], name: str, default: float = 0.0) -> tf.Tensor:
    return tf.constant([setting.get(name, default) for setting in settings], tf.float32)[:, None, None]


def label_loss(tasks: Sequence[slice], settings: Sequence[Setting], labels: np.ndarray) -> Callable:
    """Cross-entropy with labels (seeds, rows, 2), smoothed by the setting."""
    labels, smoothing = tf.constant(labels), column(settings, "smoothing")

    def loss(outputs: list[tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
        y, total = tf.gather(labels, rows, batch_dims=1), 0.0
        for task in tasks:
            log_q = tf.nn.log_softmax(outputs[-1][..., _within(task, tasks)])
            one_hot = tf.one_hot(y[..., 0 if task == CLASS else 1], task.stop - task.start)
            of_label = tf.reduce_sum(one_hot * log_q, axis=-1)
            total -= (1 - smoothing) * of_label + smoothing * tf.reduce_mean(log_q, axis=-1)
        return total

    return loss


def distillation_loss(tasks: Sequence[slice], settings: Sequence[Setting], logits: np.ndarray) -> Callable:
    """Formula 5.4, with the logits (seeds, rows, 14) of the teachers."""
    hard, teacher = label_loss(tasks, settings, true_labels(logits.shape[0])), tf.constant(logits)
    soft, temperature = column(settings, "soft"), column(settings, "temperature", 1.0)

    def loss(outputs: list[tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
        z, total = tf.gather(teacher, rows, batch_dims=1), 0.0
        for task in tasks:
            log_p = tf.nn.log_softmax(z[..., task] / temperature[..., None])
            log_q = tf.nn.log_softmax(outputs[-1][..., _within(task, tasks)] / temperature[..., None])
            total += temperature**2 * tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)
        return soft * total + (1 - soft) * hard(outputs, rows)

    return loss


def true_labels(seeds: int) -> np.ndarray:
    return np.stack([fashion()["train"].y] * seeds)


def grid(**values: Sequence[float]) -> list[Setting]:
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


# Selecting and testing


def beyond(tried: Sequence[Setting], reached: np.ndarray) -> list[Setting]:
    """Settings beyond the grid, with all combinations of the others, if the best value of something is at its edge."""
    best = tried[reached.max(axis=0).argmax()]
    for name in [name for name in FACTORS if name in best]:
        values, factor = {setting[name] for setting in tried}, FACTORS[name]
        edges = {min(values): best[name] / factor, max(values): best[name] * factor}
        if best[name] in edges and len(values) > 1:
            further = float(f"{edges[best[name]]:.3g}")
            return [{**setting, name: further} for setting in tried if setting[name] == best[name]]
    return []


class Measurements:
    """The measurements of this script, each under a key of its own."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def tuned(
        self, name: str, run: Callable, settings: Sequence[Setting], snapshots: Sequence[int] = SNAPSHOTS
    ) -> None:
        """Select the setting and the number of steps by validation accuracy, and test them with other seeds.

        run: from seeds, settings, the name of a part and snapshots to (snapshots, settings, seeds, tasks) accuracies.
        """

        def validated(settings: Sequence[Setting]) -> np.ndarray:
            return np.mean(run(SELECTION_SEEDS, settings, "validation", snapshots), axis=(2, 3))

        def selected() -> dict[str, Any]:
            tried, reached = list(settings), validated(settings)
            while further := beyond(tried, reached):
                tried, reached = tried + further, np.concatenate([reached, validated(further)], axis=1)
            step, best = np.unravel_index(reached.argmax(), reached.shape)
            profile = {"steps": dict(zip(map(str, snapshots), reached.max(axis=1).round(4).tolist(), strict=True))}
            for key in tried[0]:
                values = sorted({setting[key] for setting in tried})
                columns = [[n for n, setting in enumerate(tried) if setting[key] == value] for value in values]
                best_of = [round(float(reached[:, c].max()), 4) for c in columns]
                profile[key] = dict(zip(map(str, values), best_of, strict=True))
            return {"setting": tried[best], "steps": snapshots[step], "validation": profile}

        found = self.record.measure(f"{name}, selected", selected)

        def tested() -> list[list[float]]:
            reached = run(TEST_SEEDS, [found["setting"]], "test", [found["steps"]])[0][0]
            return np.round(reached.T, 4).tolist()  # a list per task, with an accuracy per seed

        self.record.measure(f"{name}, test", tested)

    # Distillation

    def teachers(self) -> None:
        def run(seeds: Sequence[int], settings: Sequence[Setting], part: str, _: Sequence[int]) -> np.ndarray:
            weights = teacher_weights(tuple(seeds), tuple(setting["rate"] for setting in settings))
            return accuracies(weights, part, (CLASS, ORIENTATION))[None]

        self.tuned("teacher", run, grid(rate=RATES[:3]), [TEACHER_STEPS])

    def teacher_outputs(self, seeds: Sequence[int]) -> list[np.ndarray]:
        """What the selected teachers compute on the training images: first hidden layer, second, logits."""
        chosen = self.record.results["teacher, selected"]
        weights = teacher_weights(tuple(seeds), (chosen["setting"]["rate"],))
        return [output[0].numpy() for output in layers(weights, fashion()["train"].x)]

    def students(self, tasks: Sequence[slice], per_class: int, methods: dict[str, list[Setting]]) -> None:
        who = "all" if per_class == 150 else "student"
        outputs = sum(task.stop - task.start for task in tasks)

        def runs(method: str) -> Callable:
            def run(
                seeds: Sequence[int], settings: Sequence[Setting], part: str, snapshots: Sequence[int]
            ) -> np.ndarray:
                uses_teacher = method not in ("true labels", "label smoothing")
                logits = self.teacher_outputs(seeds)[-1] if uses_teacher else np.zeros(0)
                if method == "pseudo-labels":
                    answers = np.stack([logits[..., task].argmax(axis=-1) for task in (CLASS, ORIENTATION)], axis=-1)
                    loss = label_loss(tasks, settings, answers)
                elif method.startswith("distilled"):
                    loss = distillation_loss(tasks, settings, logits)
                else:
                    loss = label_loss(tasks, settings, true_labels(len(seeds)))
                start = initial((PIXELS, *STUDENT, outputs), seeds)
                rows = batches(who, per_class, seeds, snapshots[-1])
                found = train(start, loss, settings, rows, snapshots=snapshots)
                return np.stack([accuracies(w, part, tasks) for w in found])

            return run

        which = "both tasks" if len(tasks) == 2 else "one task"
        for method, settings in methods.items():
            self.tuned(f"{which}: {method}, {per_class} per class", runs(method), settings)

    def hints(self, per_class: int) -> None:
        """Distillation with hints from the first hidden layer: trained jointly, and in two stages as in FitNets."""
        chosen = self.record.results[f"one task: distilled, {per_class} per class, selected"]["setting"]
        chosen = {name: chosen[name] for name in ("soft", "temperature")}
        sizes = (PIXELS, *STUDENT, 10)

        def jointly(
            seeds: Sequence[int], settings: Sequence[Setting], part: str, snapshots: Sequence[int]
        ) -> np.ndarray:
            hint, _, logits = self.teacher_outputs(seeds)
            distilled = distillation_loss((CLASS,), [{**s, **chosen} for s in settings], logits)
            hints, weight = tf.constant(hint), column(settings, "feature_weight")

            def loss(outputs: list[tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
                wanted = tf.gather(hints, rows, batch_dims=1)
                squared = tf.reduce_mean((tf.matmul(outputs[0], outputs[-1]) - wanted) ** 2, axis=-1)
                return distilled(outputs[:-1], rows) + weight * squared

            start = [*initial(sizes, seeds), initial((STUDENT[0], 256), seeds)[0]]
            rows = batches("student", per_class, seeds, snapshots[-1])
            found = train(start, loss, settings, rows, extra=1, snapshots=snapshots)
            return np.stack([accuracies(w[:-1], part, (CLASS,)) for w in found])

        def in_stages(
            seeds: Sequence[int], settings: Sequence[Setting], part: str, snapshots: Sequence[int]
        ) -> np.ndarray:
            hint, _, logits = self.teacher_outputs(seeds)
            hints, rows = tf.constant(hint), batches("student", per_class, seeds, snapshots[-1])

            def regression(outputs: list[tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
                return tf.reduce_mean((tf.nn.relu(outputs[-1]) - tf.gather(hints, rows, batch_dims=1)) ** 2, axis=-1)

            start = initial((PIXELS, STUDENT[0], 256), seeds)
            first = [{"rate": setting["hint_rate"]} for setting in settings]
            stage_1 = next(train(start, regression, first, rows[:HINT_STEPS], snapshots=[HINT_STEPS]))
            loss = distillation_loss((CLASS,), [{**s, **chosen} for s in settings], logits)
            start = [*stage_1[:2], *initial(sizes, seeds)[2:]]
            rest = [steps - HINT_STEPS for steps in snapshots]
            found = train(start, loss, settings, rows[HINT_STEPS:], snapshots=rest)
            return np.stack([accuracies(w, part, (CLASS,)) for w in found])

        joint = grid(rate=RATES[1:], feature_weight=(0.0001, 0.001, 0.01, 0.1, 1))
        self.tuned(f"hints: jointly, {per_class} per class", jointly, joint)
        staged = grid(rate=RATES[1:], hint_rate=(0.0001, 0.0003, 0.001, 0.003, 0.01))
        in_two = [steps for steps in SNAPSHOTS if steps > HINT_STEPS]
        self.tuned(f"hints: in stages, {per_class} per class", in_stages, staged, in_two)

    # New heads and recombined networks

    def whole_networks(self) -> None:
        for name, task in (("class", CLASS), ("orientation", ORIENTATION)):

            def run(
                seeds: Sequence[int],
                settings: Sequence[Setting],
                part: str,
                snapshots: Sequence[int],
                task: slice = task,
            ) -> np.ndarray:
                loss = label_loss((task,), settings, true_labels(len(seeds)))
                start = initial((PIXELS, *WHOLE, task.stop - task.start), seeds)
                found = train(start, loss, settings, batches("all", 150, seeds, snapshots[-1]), snapshots=snapshots)
                return np.stack([accuracies(w, part, (task,)) for w in found])

            self.tuned(f"{name} network", run, grid(rate=RATES))

    @functools.cache  # noqa: B019
    def network(self, name: str, seeds: tuple[int, ...], begin: int = 0, order: int = 0) -> list[np.ndarray]:
        """(seeds, ...) the weights of the network with its selected setting, and without a head if it is untrained."""
        task = {"class": CLASS, "orientation": ORIENTATION, "untrained": CLASS}[name]
        start = initial((PIXELS, *WHOLE, task.stop - task.start), [seed + begin for seed in seeds])
        if name == "untrained":
            return start
        chosen = self.record.results[f"{name} network, selected"]
        loss = label_loss((task,), [chosen["setting"]], true_labels(len(seeds)))
        rows = batches("all", 150, seeds, chosen["steps"], order)
        (found,) = train(start, loss, [chosen["setting"]], rows, snapshots=[chosen["steps"]])
        return [weight[0] for weight in found]

    def new_heads(self, per_class: int) -> None:
        """The class of an image, learned by a new head on a network for its orientation, frozen or fine-tuned."""

        def on(name: str) -> Callable:
            def run(
                seeds: Sequence[int], settings: Sequence[Setting], part: str, snapshots: Sequence[int]
            ) -> np.ndarray:
                weights, cuts = self.network(name, tuple(seeds)), sorted({s["cut"] for s in settings})
                rows, reached = batches("student", per_class, seeds, snapshots[-1]), []
                for cut in cuts:
                    of_cut = [setting for setting in settings if setting["cut"] == cut]
                    data = {key: _outputs(weights, fashion()[key].x, int(cut)) for key in ("train", part)}
                    loss = label_loss((CLASS,), of_cut, true_labels(len(seeds)))
                    start = initial((data["train"].shape[-1], 10), seeds)
                    found = train(start, loss, of_cut, rows, inputs=data["train"], snapshots=snapshots)
                    reached.append(np.stack([accuracies(w, part, (CLASS,), data[part]) for w in found]))
                return np.concatenate(reached, axis=1)

            return run

        def whole(name: str) -> Callable:
            def run(
                seeds: Sequence[int], settings: Sequence[Setting], part: str, snapshots: Sequence[int]
            ) -> np.ndarray:
                rows = batches("student", per_class, seeds, snapshots[-1])
                loss = label_loss((CLASS,), settings, true_labels(len(seeds)))
                start = [*self.network(name, tuple(seeds))[:4], *initial((PIXELS, *WHOLE, 10), seeds)[4:]]
                found = train(start, loss, settings, rows, snapshots=snapshots)
                return np.stack([accuracies(w, part, (CLASS,)) for w in found])

            return run

        def grid_of(*cuts: int) -> list[Setting]:  # sorted by the cut, as the results are
            return grid(cut=cuts, rate=RATES)

        methods = {
            "trained backbone": (on("orientation"), grid_of(1, 2)),
            "untrained backbone": (on("untrained"), grid_of(1, 2)),
            "orientation logits": (on("orientation"), grid_of(3)),
            "pixels": (on("orientation"), grid_of(0)),
            "fine-tuned": (whole("orientation"), grid(rate=RATES)),
            "from scratch": (whole("untrained"), grid(rate=RATES)),
        }
        for method, (run, settings) in methods.items():
            self.tuned(f"new head: {method}, {per_class} per class", run, settings)
        self.record.measure(f"new head: lookup table, {per_class} per class, test", lambda: self.lookup(per_class))

    def lookup(self, per_class: int) -> list[list[float]]:
        """The most frequent class of the labeled examples for every orientation that the old network predicts."""
        reached, weights = [], self.network("orientation", tuple(TEST_SEEDS))
        old = {part: _outputs(weights, fashion()[part].x, 3).argmax(axis=-1) for part in ("train", "test")}
        for number, seed in enumerate(TEST_SEEDS):
            rows = (images_of("student", per_class, seed)[:, None] + 1500 * np.arange(4)).ravel()
            counts = np.zeros((4, 10))
            np.add.at(counts, (old["train"][number][rows], fashion()["train"].y[rows, 0]), 1)
            answers = counts.argmax(axis=1)[old["test"][number]]
            reached.append(round(float((answers == fashion()["test"].y[:, 0]).mean()), 4))
        return [reached]

    def stitches(self, per_class: int) -> None:
        """The front of a network for orientations before the back of one for classes, with a trained layer between."""

        def before(back: str) -> Callable:
            def run(
                seeds: Sequence[int], settings: Sequence[Setting], part: str, snapshots: Sequence[int]
            ) -> np.ndarray:
                front = self.network("orientation", tuple(seeds), 1000, 3)
                data = {key: _outputs(front, fashion()[key].x, 1) for key in ("train", part)}
                kind = "class" if back == "trained" else "untrained"
                behind = self.network(kind, tuple(seeds), 500, 1)[2:]
                stitch, fresh = initial((64, 64), seeds), back == "fresh"
                start, frozen = (behind, ()) if fresh else ([*stitch, *behind], (2, 3, 4, 5))
                loss = label_loss((CLASS,), settings, true_labels(len(seeds)))
                rows = batches("student", per_class, seeds, snapshots[-1])
                options = {"inputs": data["train"], "snapshots": snapshots, "frozen": frozen, "stitched": not fresh}
                found = train(start, loss, settings, rows, **options)
                return np.stack([accuracies(w, part, (CLASS,), data[part], stitched=not fresh) for w in found])

            return run

        for back in ("trained", "untrained", "fresh"):
            self.tuned(f"stitch: {back} back, {per_class} per class", before(back), grid(rate=RATES))

    def joints(self) -> None:
        """Fronts of several networks before the back of one, as they are, matched, and mapped by least squares."""
        seeds = tuple(TEST_SEEDS)
        fronts = {
            "the same network": ("class", 500, 1),
            "same initialization": ("class", 500, 2),
            "another initialization": ("class", 0, 0),
            "other task, same initialization": ("orientation", 500, 2),
            "other task, another initialization": ("orientation", 1000, 3),
            "untrained": ("untrained", 1500, 0),
        }

        def measured() -> dict[str, dict[str, list[float]]]:
            network = self.network("class", seeds, 500, 1)
            return {name: _joined(self.network(kind, seeds, *how), network) for name, (kind, *how) in fronts.items()}

        self.record.measure("joints", measured)
        pair = [self.network("untrained", seeds, begin) for begin in (1500, 2000)]
        self.record.measure("joints, both untrained", lambda: _joined(*pair))


def _outputs(weights: list[np.ndarray], x: np.ndarray, cut: int) -> np.ndarray:
    """(seeds, rows, units) what networks compute after so many layers."""
    return np.stack([x] * len(weights[0])) if cut == 0 else layers(weights, x)[cut - 1].numpy()


def _joined(front: list[np.ndarray], network: list[np.ndarray]) -> dict[str, list[float]]:
    """Test accuracies of a front before the back of a network, and correlations of units, a value per seed."""
    found: dict[str, list[float]] = {"as is": [], "matched": [], "least squares": [], "correlation": []}
    train, test = ([_outputs(w, fashion()[part].x, 1) for w in (front, network)] for part in ("train", "test"))
    for seed in range(len(front[0])):
        (given, wanted), (of_test, wanted_test) = ((part[0][seed], part[1][seed]) for part in (train, test))
        order = matching(correlations(given, wanted))
        ones = [np.column_stack([units, np.ones(len(units), "float32")]) for units in (given, of_test)]
        mapped = ones[1] @ np.linalg.lstsq(ones[0], wanted, rcond=1e-6)[0]
        back = [weight[seed] for weight in network[2:]]
        for name, units in (("as is", of_test), ("matched", of_test[:, order]), ("least squares", mapped)):
            reached = (layers(back, units)[-1].numpy().argmax(axis=-1) == fashion()["test"].y[:, 0]).mean()
            found[name].append(round(float(reached), 4))
        pairs = correlations(of_test[:, order], wanted_test).diagonal()
        found["correlation"].append(round(float(pairs.mean()), 4))
    return found


def correlations(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """(units, units) the correlation of each unit of a network with each of another, on the same examples."""
    scaled = [(u - u.mean(axis=0)) / (u.std(axis=0) + 1e-6) for u in (these, those)]
    return scaled[0].T @ scaled[1] / len(these)


def matching(correlation: np.ndarray) -> np.ndarray:
    """One unit of the first network for each of the second: the pair with the highest correlation first."""
    correlation, order = correlation.copy(), np.zeros(len(correlation), int)
    for _ in order:
        first, second = np.unravel_index(correlation.argmax(), correlation.shape)
        order[second] = first
        correlation[first], correlation[:, second] = -np.inf, -np.inf
    return order


@functools.cache
def teacher_weights(seeds: tuple[int, ...], rates: tuple[float, ...]) -> list[np.ndarray]:
    """Teachers for both tasks, with dropout, trained on their 75 images per class."""
    tf.random.set_seed(0)
    tasks, settings = (CLASS, ORIENTATION), grid(rate=rates)
    loss = label_loss(tasks, settings, true_labels(len(seeds)))
    start = initial((PIXELS, 256, 256, 14), seeds)
    rows = batches("teacher", 75, seeds, TEACHER_STEPS)
    return next(train(start, loss, settings, rows, snapshots=[TEACHER_STEPS], dropout=0.3))


TEMPERATURES = (1, 2, 4, 8, 16)
METHODS = {
    "true labels": grid(rate=RATES),
    "label smoothing": grid(rate=RATES, smoothing=(0.05, 0.1, 0.2, 0.4, 0.6, 0.8)),
    "pseudo-labels": grid(rate=RATES),  # the teacher's predictions, as hard labels
    "distilled": grid(rate=RATES[1:], soft=(0.25, 0.5, 0.75, 1.0), temperature=TEMPERATURES),
    "distilled without labels": grid(rate=RATES[1:], soft=(1.0,), temperature=TEMPERATURES),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard the stored results")
    m = Measurements(Record("chapter_05", again=parser.parse_args().again))
    m.teachers()
    for per_class in PER_CLASS:
        m.students((CLASS,), per_class, METHODS)
        m.hints(per_class)
    m.students((CLASS,), 150, {"true labels": METHODS["true labels"]})
    m.students((CLASS, ORIENTATION), 20, METHODS)
    m.whole_networks()
    for per_class in PER_CLASS:
        m.new_heads(per_class)
        m.stitches(per_class)
    m.joints()


if __name__ == "__main__":
    main()
