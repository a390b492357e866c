"""Multi-task learning compared with training on single tasks, with all hyperparameters selected on validation data.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_04.py          (about 25 minutes on one core)

alphabets: characters of five alphabets (14x14 pixels), a head for each. One alphabet has two training drawings per
character, the other four have ten. Compared on the small alphabet: training on it alone, with and without augmentation,
sharing a trunk, and class means of shifted pixels. Ten drawings of a character are for training, three for validation,
seven for the test. The dropout rate is selected for training alone only.

canvas: a character at a random place of a 24x24 canvas; the tasks are to name it and to locate it. Compared, all with
a narrow trunk: single tasks, and a shared trunk with the average loss, uncertainty weighting and gradient surgery. The
loss weight of the position in the average is selected, too; surgery has the same. During training of a shared trunk,
the cosine of both gradients is recorded.

pairs: images of clothing and captions with spelling mistakes. Five pairs per class have labels, all others do not.
Compared: images alone, images and captions without and with the difference loss, and pseudo-labels from captions.

space: noisy sine curves with known amplitude and phase, inside and outside of the range of the training parameters.
One model for all tasks, one model per task, whose weights shrink toward zero or toward the mean weights of the training
tasks, `generalize`, and a network with the parameters as further inputs.

Learning rates, and the weights of the position and of the difference loss, are better than their neighbors, which are
larger or smaller by a factor of 3. Numbers of steps are the best of several snapshots. Selection uses the seeds 100 and
101, tests use the seeds 0 to 4 (alphabets: 0 to 7). A seed fixes the split, the initialization and the order of the
examples; the test drawings of the canvases are the same for all seeds. There is no batch normalization.

Results are kept in data/results/chapter_04.json; a run that is stopped continues where it was.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from common import climb, halved, unit
from keras import layers
from record import Record, measure_parts

import meta_keras as mk
from meta_keras.multitask import MultiTask, generalize, gradient_cosines, mix_tasks

SELECTION_SEEDS, TEST_SEEDS = (100, 101), tuple(range(5))
FACTOR, STEPS_PER_EPOCH = 3, 50

Data = tuple[np.ndarray, Any]


# Training again and again with one compiled model


class Training:
    """A model that is compiled once and trained many times, each time from a new initialization."""

    def __init__(self, make: Callable[[], MultiTask], **compiled: Any) -> None:
        self.make, self.model = make, make()
        self.model.compile(keras.optimizers.Adam(0.001), steps_per_execution=STEPS_PER_EPOCH, **compiled)

    def begin(self, seed: int, rate: float) -> MultiTask:
        keras.utils.set_random_seed(seed)
        self.model.set_weights(self.make().get_weights())
        for variable in self.model.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        self.model.optimizer.learning_rate.assign(rate)
        return self.model

    def snapshots(
        self, seed: int, rate: float, batches: tf.data.Dataset, steps: Sequence[int], look: Callable[[MultiTask], Any]
    ) -> dict[str, Any]:
        """What `look` sees in the model after each of these numbers of steps."""
        model, found = self.begin(seed, rate), {}

        def after_epoch(epoch: int, logs: Any) -> None:
            if (done := (epoch + 1) * STEPS_PER_EPOCH) in steps:
                found[str(done)] = look(model)

        after = keras.callbacks.LambdaCallback(on_epoch_end=after_epoch)
        epochs = max(steps) // STEPS_PER_EPOCH
        model.fit(batches, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs, callbacks=[after], shuffle=False, verbose=0)
        return found


def selected(
    record: Record, key: str, run: Callable[..., dict[str, float]], start: Sequence[float] = (0.001,)
) -> dict[str, Any]:
    """The learning rate, the weight of a loss if there is one, and the number of steps with the best validation score.

    run: a function of the seed and of the hyperparameters, which returns the validation score for each number of steps.
    start: where the search starts; neighbors have one hyperparameter that is larger or smaller by a factor of 3.
    """

    @functools.cache
    def means(point: tuple[float, ...]) -> dict[str, float]:
        names = (f"{name} {value:.2g}" for name, value in zip(("rate", "weight"), point, strict=False))
        name = ", ".join((key, *names))
        found = [record.measure(f"{name}, seed {s}", functools.partial(run, s, *point)) for s in SELECTION_SEEDS]
        return {steps: float(np.mean([one[steps] for one in found])) for steps in found[0]}

    def rounded(point: Sequence[float]) -> tuple[float, ...]:
        return tuple(float(f"{value:.0e}") for value in point)  # 0.0003 and not 0.000333

    best = rounded(climb(lambda point: max(means(rounded(point)).values()), tuple(start), [FACTOR] * len(start)))
    steps = max(means(best), key=means(best).get)
    return {
        "rate": best[0],
        "weight": best[1] if best[1:] else None,
        "steps": int(steps),
        "score": round(means(best)[steps], 4),
    }


def accuracy(logits: Any, labels: np.ndarray) -> float:
    return round(float(np.mean(np.argmax(logits, axis=-1) == labels)), 4)


# Alphabets of different sizes

SMALL, OTHERS = "Latin", ("Cyrillic", "Fraktur", "Double-struck", "Script")
SHOTS, MANY, ROWS, SNAPSHOTS, ALPHABET_SEEDS = 2, 10, 16, (300, 600, 1200), tuple(range(8))


@functools.cache
def alphabet(name: str) -> Data:
    pool = mk.load("glyphs").split("train")
    x, y = pool.arrays()
    rows = np.array(pool.groupings["alphabet"])[y] == name
    return halved(x[rows]).astype("float32") / 255, np.unique(y[rows], return_inverse=True)[1].astype("int32")


@functools.cache
def divided(name: str, shots: int, seed: int) -> dict[str, Data]:
    """Drawings for training, three per character for validation, and seven for the test."""
    x, y = alphabet(name)
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(np.flatnonzero(y == k)) for k in range(y.max() + 1)])
    parts = {"train": rows[:, :shots], "validation": rows[:, 10:13], "test": rows[:, 13:]}
    return {part: (x[chosen.ravel()], y[chosen.ravel()]) for part, chosen in parts.items()}


def convolutions(dropout: float) -> keras.Model:
    trunk = keras.Sequential([keras.Input((14, 14, 1))])
    for filters in (16, 32, 32):
        trunk.add(layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu"))
    for layer in (layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dropout(dropout)):
        trunk.add(layer)
    return trunk


def augmented(x: tf.Tensor, y: Any) -> tuple[tf.Tensor, Any]:
    """Every image shifted by up to one pixel in each direction."""
    padded = tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    count = tf.shape(x)[0]
    places = tf.random.uniform((count, 2), 0, 3, tf.int32)
    rows, columns = (places[:, k, None] + tf.range(14)[None] for k in (0, 1))
    moved = tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
    return moved, y


def tasks_of(method: str, seed: int) -> dict[str, Data]:
    others = () if method.startswith("alone") else OTHERS
    return {name: divided(name, SHOTS if name == SMALL else MANY, seed)["train"] for name in (SMALL, *others)}


def batches_of(method: str, seed: int) -> tf.data.Dataset:
    batches = mix_tasks(tasks_of(method, seed), rows=ROWS, seed=seed)
    return batches.map(augmented) if method.endswith("augmented") else batches


METHODS = ("alone", "alone, augmented", "shared, augmented")


def nearest_means(train: np.ndarray, labels: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The distances to the class means, negative, after centering and normalizing."""
    center = train.mean(axis=0)
    train, x = (unit(rows - center) for rows in (train, x))
    means = np.stack([train[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
    return -np.linalg.norm(x[:, None] - means[None], axis=2)


def score_on(part: str, seed: int) -> Callable[[MultiTask], float]:
    """The accuracy on the small task."""
    x, y = divided(SMALL, SHOTS, seed)[part]
    return lambda model: accuracy(model(x)[SMALL], y)


@functools.cache
def alphabet_training(names: Sequence[str], dropout: float) -> Training:
    units = {name: int(alphabet(name)[1].max()) + 1 for name in names}
    return Training(lambda: MultiTask(convolutions(dropout), {name: layers.Dense(n) for name, n in units.items()}))


def alphabets(record: Record) -> None:
    for method in METHODS:
        alphabets_by(record, method)
    record.measure(
        "alphabets, test: class means of shifted pixels", lambda: [means_of_pixels(seed) for seed in ALPHABET_SEEDS]
    )


def alphabets_by(record: Record, method: str) -> None:
    alone = method.startswith("alone")

    def run(seed: int, rate: float, dropout: float, steps: Sequence[int], part: str) -> dict[str, float]:
        training = alphabet_training((SMALL,) if alone else (SMALL, *OTHERS), dropout)
        return training.snapshots(seed, rate, batches_of(method, seed), steps, score_on(part, seed))

    def select(dropout: float) -> dict[str, Any]:
        validate = functools.partial(run, dropout=dropout, steps=SNAPSHOTS, part="validation")
        return selected(record, f"alphabets, validation: {method}, dropout {dropout}", validate) | {"dropout": dropout}

    dropouts = (0.0, 0.3) if alone else (0.3,)  # sharing is slower, so it is tuned less
    best = max((select(dropout) for dropout in dropouts), key=lambda found: found["score"])
    rate, steps, dropout = (best[name] for name in ("rate", "steps", "dropout"))
    record.measure(f"alphabets, selected: {method}", best.copy)
    for seed in ALPHABET_SEEDS:
        test = functools.partial(run, seed, rate, dropout, (steps,), "test")
        record.measure(f"alphabets, test: {method}, seed {seed}", lambda test=test: test()[str(steps)])


def means_of_pixels(seed: int) -> float:
    """Of the training images and all their shifts by up to one pixel."""
    data = divided(SMALL, SHOTS, seed)
    (train, labels), (x, y) = data["train"], data["test"]
    padded = np.pad(train, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, row : row + 14, column : column + 14] for row in range(3) for column in range(3)]
    train = np.concatenate(shifted).reshape(9 * len(train), -1)
    return accuracy(nearest_means(train, np.tile(labels, 9), x.reshape(len(x), -1)), y)


# One image, two tasks

SIDE, LETTERS = 24, 20
CANVAS_STEPS, CANVAS_BATCH = (400, 800, 1200), 64
WIDTH, CANVAS_METHODS = 4, ("class alone", "position alone", "average", "uncertainty", "surgery")


@functools.cache
def letters(part: str, seed: int) -> Data:
    """Drawings of twenty letters: twelve of each for training, three for validation, and five for the test, which are
    the same ones for all seeds."""
    x, y = alphabet("Latin")
    rng = np.random.default_rng(seed)
    rows = np.stack([np.flatnonzero(y == k) for k in range(LETTERS)])
    rows[:, :15] = rng.permuted(rows[:, :15], axis=1)
    chosen = {"train": rows[:, :12], "validation": rows[:, 12:15], "test": rows[:, 15:]}[part].ravel()
    return x[chosen], y[chosen]


def on_canvas(images: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count, 24, 24, 1) canvases, which image is on each, and (count, 2) its position, from -1 to 1."""
    rng = np.random.default_rng(seed)
    chosen, free = np.arange(count) % len(images), SIDE - images.shape[1]
    places = rng.integers(0, free + 1, (count, 2))
    canvases = np.zeros((count, SIDE, SIDE, 1), "float32")
    for canvas, image, (row, column) in zip(canvases, images[chosen], places, strict=True):
        canvas[row : row + image.shape[0], column : column + image.shape[1]] = image
    return canvases, chosen, (2 * places / free - 1).astype("float32")


@functools.cache
def canvases(part: str, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Every drawing at several places."""
    images, labels = letters(part, seed)
    x, chosen, position = on_canvas(images, len(images) * (16 if part == "train" else 8), seed)
    return x, {"class": labels[chosen], "position": position}


def canvas_trunk(width: int) -> keras.Model:
    trunk = keras.Sequential([keras.Input((SIDE, SIDE, 1))])
    for filters in (8, 16, 16):
        trunk.add(layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu"))
    trunk.add(layers.Flatten())
    trunk.add(layers.Dense(width, activation="tanh"))
    return trunk


def canvas_heads(method: str) -> dict[str, keras.layers.Layer]:
    heads = {"class": layers.Dense(LETTERS), "position": layers.Dense(2)}
    only = method.removesuffix(" alone")
    return {only: heads[only]} if only in heads else heads


def canvas_batches(seed: int, tasks: Sequence[str]) -> tf.data.Dataset:
    x, y = canvases("train", seed)
    data = tf.data.Dataset.from_tensor_slices((x, {task: y[task] for task in tasks}))
    return data.shuffle(len(x), seed=seed).repeat().batch(CANVAS_BATCH).prefetch(2)


def canvas_scores(part: str, seed: int) -> Callable[[MultiTask], dict[str, float]]:
    """The accuracy of the class, and the root mean squared error of the position in pixels."""
    x, y = canvases(part, seed)

    def look(model: MultiTask) -> dict[str, float]:
        outputs, found = model.predict(x, batch_size=len(x), verbose=0), {}
        if "class" in outputs:
            found["class"] = accuracy(outputs["class"], y["class"])
        if "position" in outputs:
            found["pixels"] = round(float(np.sqrt(np.mean((outputs["position"] - y["position"]) ** 2))) * 5, 4)
        return found

    return look


def as_one(scores: Mapping[str, float]) -> float:
    """What hyperparameters are selected by: the accuracy minus a tenth of the error in pixels."""
    return scores.get("class", 0.0) - scores.get("pixels", 0.0) / 10


def canvas_training(method: str, width: int, weight: float | None) -> Training:
    kind = method if method in ("uncertainty", "surgery") else "average"
    compiled = {} if weight is None else {"loss_weights": {"position": weight}}
    return Training(lambda: MultiTask(canvas_trunk(width), canvas_heads(method), method=kind), **compiled)


def canvas(record: Record) -> None:
    for method in CANVAS_METHODS:
        canvas_by(record, method, WIDTH)


def canvas_by(record: Record, method: str, width: int) -> None:
    @functools.cache
    def training(weight: float | None) -> Training:
        return canvas_training(method, width, weight)

    def run(seed: int, rate: float, weight: float | None) -> dict[str, float]:
        batches, look = canvas_batches(seed, list(canvas_heads(method))), canvas_scores("validation", seed)
        scores = training(weight).snapshots(seed, rate, batches, CANVAS_STEPS, look)
        return {steps: round(as_one(one), 4) for steps, one in scores.items()}

    key = f"canvas, validation: {method}, width {width}"
    if method == "average":
        found = selected(record, key, run, (0.003, 3.0))
        weight = found["weight"]
    else:  # surgery has the loss of the average, and so its weight
        weight = record.results[f"canvas, selected: average, width {width}"]["weight"] if method == "surgery" else None
        found = selected(record, key, functools.partial(run, weight=weight), (0.003,))
    setting = record.measure(f"canvas, selected: {method}, width {width}", (found | {"weight": weight}).copy)
    for seed in TEST_SEEDS:
        test = functools.partial(canvas_test, training(setting["weight"]), method, setting, seed)
        record.measure(f"canvas, test: {method}, width {width}, seed {seed}", test)


def canvas_test(training: Training, method: str, setting: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Test scores, and for two tasks the cosines of their gradients on eight training batches, at eight times."""
    batches, scores = canvas_batches(seed, list(canvas_heads(method))), canvas_scores("test", seed)
    some = list(batches.take(8))

    def look(model: MultiTask) -> Any:
        found = [cosine(model, x, y) for x, y in some] if len(model.heads) == 2 else []
        return (scores(model) if model.optimizer.iterations >= setting["steps"] else {}), found

    times = range(setting["steps"] // 8, setting["steps"] + 1, setting["steps"] // 8)
    looks = training.snapshots(seed, setting["rate"], batches, times, look)
    last, found = looks[str(setting["steps"])][0], np.array([cosines for _, cosines in looks.values()])
    if not found.size:
        return last
    return last | {"cosines": found.mean(axis=1).round(4).tolist(), "negatives": (found < 0).mean(axis=1).tolist()}


def cosine(model: MultiTask, x: Any, y: Any) -> float:
    """The cosine similarity of the gradients of both tasks on a batch."""
    return float(gradient_cosines(model.task_gradients(x, y))[0, 1])


# Images and captions

PAIR_STEPS, PER_CLASS, PAIR_BATCH = (200, 400, 800), 5, (16, 48)
MISTAKES = 0.3
PAIR_METHODS = ("image alone", "without difference", "with difference", "pseudo-labels")


def caption(name: str, rng: np.random.Generator) -> str:
    """The name of a class in which every character is replaced by a random letter with a probability of 0.3."""
    letters = np.array(list(name.lower()))
    wrong = rng.random(len(letters)) < MISTAKES
    letters[wrong] = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), wrong.sum())
    return "".join(letters)


def as_counts(captions: Sequence[str]) -> np.ndarray:
    """(captions, 27 * 27) how often each pair of neighboring characters occurs."""
    counts = np.zeros((len(captions), 27 * 27), "float32")
    for row, text in zip(counts, captions, strict=True):
        codes = [ord(character) - 96 if character.isalpha() else 0 for character in text]
        for first, second in itertools.pairwise([0, *codes, 0]):
            row[27 * first + second] += 1
    return counts


@functools.cache
def clothing(part: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Images and captions, and their classes."""
    pool = mk.load("fashion")
    split = pool.split("test" if part == "test" else "train")
    x, y = split.arrays()
    held_out = np.arange(len(y)) % 4 == 3
    rows = np.flatnonzero({"train": ~held_out, "validation": held_out}.get(part, np.ones(len(y), bool)))
    rng = np.random.default_rng({"train": 0, "validation": 1, "test": 2}[part])
    captions = [caption("".join(c if c.isalpha() else " " for c in split.names[label]), rng) for label in y[rows]]
    return {"image": halved(x[rows]).astype("float32") / 255, "text": as_counts(captions)}, y[rows].astype("int32")


def pair_trunk(weight: float | None) -> keras.Model:
    """Both encoders and the layers that they share; without a weight, that of the images alone."""
    image, text = keras.Input((14, 14, 1), name="image"), keras.Input((27 * 27,), name="text")
    shared = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(10, activation="softmax")])
    encoded = layers.Dense(64, activation="relu")(layers.Dropout(0.2)(layers.Flatten()(image)))
    if weight is None:
        return keras.Model({"image": image}, {"image": shared(encoded)})
    answers = [shared(encoded), shared(layers.Dense(64, activation="relu")(layers.Dropout(0.2)(text)))]
    first, second = mk.multitask.Difference(weight)(answers)
    return keras.Model({"image": image, "text": text}, {"image": first, "text": second})


def pair_training(weight: float | None) -> Training:
    tasks = ("image",) if weight is None else ("image", "text")
    probabilities = dict.fromkeys(tasks, "sparse_categorical_crossentropy")
    return Training(
        lambda: MultiTask(pair_trunk(weight), {task: layers.Identity() for task in tasks}), loss=probabilities
    )


def pair_batches(seed: int, *, alone: bool, guesses: np.ndarray | None = None) -> tf.data.Dataset:
    """Batches of 16 labeled and 48 unlabeled pairs; guesses: labels for the latter."""
    x, y = clothing("train")
    rng = np.random.default_rng(seed)
    labeled = np.concatenate([rng.permutation(np.flatnonzero(y == k))[:PER_CLASS] for k in range(10)])
    known = np.full(len(y), -1, "int32") if guesses is None else guesses.astype("int32")
    known[labeled] = y[labeled]
    tasks = ("image",) if alone else ("image", "text")

    def endless(rows: np.ndarray, size: int) -> tf.data.Dataset:
        data = tf.data.Dataset.from_tensor_slices({task: x[task][rows] for task in tasks} | {"label": known[rows]})
        return data.shuffle(len(rows), seed=seed).repeat().batch(size)

    def joined(one: dict[str, Any], other: dict[str, Any]) -> Any:
        both = {name: tf.concat([one[name], other[name]], axis=0) for name in one}
        return {task: both[task] for task in tasks}, {task: both["label"] for task in tasks}

    rest = np.setdiff1d(np.arange(len(y)), labeled)
    return tf.data.Dataset.zip(endless(labeled, PAIR_BATCH[0]), endless(rest, PAIR_BATCH[1])).map(joined).prefetch(2)


def pair_scores(part: str) -> Callable[[MultiTask], dict[str, float]]:
    x, y = clothing(part)
    return lambda model: {
        task: accuracy(answers, y)
        for task, answers in model.predict({t: x[t] for t in model.heads}, batch_size=500, verbose=0).items()
    }


def pairs(record: Record) -> None:
    for method in PAIR_METHODS:
        pairs_by(record, method, functools.cache(pair_training))


def pairs_by(record: Record, method: str, trainings: Callable[[float | None], Training]) -> None:
    def run(seed: int, rate: float, weight: float | None, steps: Sequence[int], part: str) -> dict[str, Any]:
        guesses = None if method != "pseudo-labels" else captions_guessed(record, seed)
        batches = pair_batches(seed, alone=method in ("image alone", "pseudo-labels"), guesses=guesses)
        return trainings(weight).snapshots(seed, rate, batches, steps, pair_scores(part))

    def validate(seed: int, rate: float, weight: float | None) -> dict[str, float]:
        return {steps: one["image"] for steps, one in run(seed, rate, weight, PAIR_STEPS, "validation").items()}

    key, weight = f"pairs, validation: {method}", {"without difference": 0.0}.get(method)
    if method == "with difference":
        found = selected(record, key, validate, (0.001, 1.0))
        weight = found["weight"]
    else:
        found = selected(record, key, functools.partial(validate, weight=weight))
    rate, steps = found["rate"], found["steps"]
    record.measure(f"pairs, selected: {method}", (found | {"weight": weight}).copy)
    for seed in TEST_SEEDS:
        test = functools.partial(run, seed, rate, weight, (steps,), "test")
        record.measure(f"pairs, test: {method}, seed {seed}", lambda test=test: test()[str(steps)])


@functools.cache
def guesses_of(seed: int, rate: float, steps: int) -> np.ndarray:
    """The classes of all captions, as a model without the difference loss predicts them."""
    model = pair_training(0.0).begin(seed, rate)
    epochs, batches = steps // STEPS_PER_EPOCH, pair_batches(seed, alone=False)
    model.fit(batches, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs, shuffle=False, verbose=0)
    return np.argmax(model.predict(clothing("train")[0], batch_size=500, verbose=0)["text"], axis=1)


def captions_guessed(record: Record, seed: int) -> np.ndarray:
    setting = record.results["pairs, selected: without difference"]
    return guesses_of(seed, setting["rate"], setting["steps"])


# A task space with known parameters

INSIDE = {"amplitude": (1.0, 3.0), "phase": (0.0, 2.0)}
OUTSIDE = {"amplitude": (3.0, 5.0), "phase": (2.0, 3.0)}
SPACE_TASKS, NOISE = 200, 0.5
NETWORK_EPOCHS, META_STEPS = 30, 1500


def space_of(ranges: Mapping[str, tuple[float, float]], tasks: int, seed: int, noise: float = NOISE) -> mk.Sinusoids:
    return mk.Sinusoids(shots=10, queries=10, meta_batch=tasks, seed=seed, noise=noise, **ranges)


def bumps() -> keras.Model:
    """24 Gaussian bumps over the inputs, as features."""
    x = keras.Input((1,))
    return keras.Model(x, keras.ops.exp(-((x - np.linspace(-5.5, 5.5, 24, dtype="float32")) ** 2)))


def drawn(ranges: Mapping[str, tuple[float, float]], seed: int) -> tuple[np.ndarray, mk.Episode, np.ndarray]:
    """300 tasks: their parameters, noisy support sets, and true values at the queries."""
    space = space_of(ranges, 300, seed)
    parameters, episode = space.draw_with_parameters(tf.constant([seed, 0], tf.int64))
    truth = space.curve(episode.query_x[..., 0], parameters)
    return parameters.numpy(), episode, truth.numpy()


def space_errors(predict: Callable[[np.ndarray, mk.Episode], Any], seed: int) -> dict[str, float]:
    """The mean squared errors against the true curves, inside and outside of the training parameters."""
    found = {}
    for name, ranges in (("inside", INSIDE), ("outside", OUTSIDE)):
        parameters, episode, truth = drawn(ranges, seed)
        answers = np.reshape(predict(parameters, episode), truth.shape)
        found[name] = round(float(np.mean((answers - truth) ** 2)), 5)
    return found


def per_task(ridge: float, past: mk.Episode | None = None) -> Callable[[np.ndarray, mk.Episode], Any]:
    """One ridge regression per task, on its ten noisy support points.

    past: tasks toward the mean of whose weights those of a task shrink; otherwise they shrink toward zero.
    """
    features = bumps()

    def describe(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return mk.multitask.describe_tasks(features, x, y, ridge=ridge)

    def values(x: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        rows = tf.reshape(features(tf.reshape(x, (-1, 1))), (*x.shape[:2], -1))
        return tf.einsum("tnm,tm->tn", rows, tf.broadcast_to(weights, (len(x), rows.shape[-1])))

    center = tf.zeros((1, 24))
    if past is not None:
        x, y = (tf.concat(pair, axis=1) for pair in ((past[0], past[2]), (past[1], past[3])))
        center = tf.reduce_mean(describe(x, y), axis=0, keepdims=True)

    def predict(parameters: np.ndarray, episode: mk.Episode) -> Any:
        rest = episode.support_y - values(episode.support_x, center)[..., None]
        return values(episode.query_x, center + describe(episode.support_x, rest))

    return predict


def on_rows(model: keras.Model, kind: str) -> Callable[[np.ndarray, mk.Episode], Any]:
    def predict(parameters: np.ndarray, episode: mk.Episode) -> Any:
        x = np.reshape(episode.query_x, (-1, 1))
        repeated = np.repeat(parameters, len(x) // len(parameters), axis=0)
        inputs = {"one model": x, "with parameters": np.concatenate([x, repeated], axis=1)}.get(kind, [x, repeated])
        return model(inputs)

    return predict


def past_tasks(seed: int) -> tuple[tf.Tensor, mk.Episode]:
    """The training tasks of the networks, with their parameters."""
    return space_of(INSIDE, SPACE_TASKS, seed).draw_with_parameters(tf.constant([seed, 0], tf.int64))


def network_for(kind: str, seed: int, rate: float) -> keras.Model:
    """A network trained on the points of all tasks, without or with their parameters as further inputs."""
    parameters, tasks = past_tasks(seed)
    x, y = (np.concatenate(part, axis=1).reshape(-1, 1) for part in ((tasks[0], tasks[2]), (tasks[1], tasks[3])))
    if kind == "with parameters":
        x = np.concatenate([x, np.repeat(parameters, 20, axis=0)], axis=1)
    model = mk.networks.mlp(1, input_shape=(x.shape[1],), hidden=(64, 64))
    model.compile(keras.optimizers.Adam(rate), loss="mse", steps_per_execution=31)
    model.fit(x, y, batch_size=64, epochs=NETWORK_EPOCHS, verbose=0)
    return model


def space(record: Record) -> None:
    for kind in ("one model per task", "toward the mean", "one model", "with parameters", "generalize"):
        space_by(record, kind)


def space_by(record: Record, kind: str) -> None:
    def run(seed: int, test_seed: int, setting: Sequence[float]) -> dict[str, float]:
        keras.utils.set_random_seed(seed)
        if kind == "one model per task":
            return space_errors(per_task(*setting), test_seed)
        if kind == "toward the mean":
            return space_errors(per_task(*setting, past=past_tasks(seed)[1]), test_seed)
        if kind != "generalize":
            return space_errors(on_rows(network_for(kind, seed, *setting), kind), test_seed)
        sines, (rate, ridge) = space_of(INSIDE, SPACE_TASKS, seed), setting
        model = generalize(sines, bumps(), ridge=ridge, learning_rate=rate, steps=META_STEPS)
        return space_errors(on_rows(model, kind), test_seed)

    def evaluate(point: tuple[float, ...]) -> float:
        key = f"space, validation: {kind}, {', '.join(f'{value:.2g}' for value in point)}"
        found = [record.measure(f"{key}, seed {s}", lambda s=s: run(s, s + 1000, point)) for s in SELECTION_SEEDS]
        return -float(np.mean([one["inside"] for one in found]))

    start = {"one model per task": (0.01,), "toward the mean": (0.03,), "generalize": (0.003, 0.01)}.get(kind, (0.003,))
    setting = climb(evaluate, start, [FACTOR] * len(start))
    record.measure(f"space, selected: {kind}", lambda: list(setting))
    for seed in TEST_SEEDS:
        record.measure(f"space, test: {kind}, seed {seed}", lambda seed=seed: run(seed, seed + 2000, setting))


PARTS = {
    "alphabets": alphabets,
    "canvas": canvas,
    "pairs": pairs,
    "space": space,
}

if __name__ == "__main__":
    measure_parts("chapter_04", PARTS, __doc__)
