# %% [markdown]
# # Transfer: what one task leaves to the next
#
# **What you will be able to do.** Carry weights, features or a structure from one model to another, each as a whole or
# in part, and say exactly what has moved. Freeze and fine-tune layers, at rates by depth and from the top down. Put a
# small adapter beside a frozen model. Measure whether any of it pays, and see when it does not.
#
# **What you need.** Chapter 02: training a classifier, and what an interval says.
#
# **Time.** About 40 minutes to read; about a minute and a half to run on two cores.
#
# **From the documents.** D1 3.1, 3.1.1, 3.1.2, 3.1.3, 4.1, 4.2, 4.3; D2 3.1.1, 4; D4 3.2; D5 2, 3, 4. The
# [guide](README.md#from-the-documents-to-the-chapters) has the whole table. What D4 says of distilling and splitting is
# in [chapter 05](README.md#chapters), of other domains and unseen classes in chapter 06, and what D5 says of learning
# *how* to transfer in chapter 13.
#
# ![Letters of unseen alphabets as a network sees them, before and after it has learned other letters](transferred_features.png)
#
# *Six letters of alphabets that a network was never trained on, twenty drawings of each, by what its last hidden layer
# says of them. Before it has learned anything (left) they lie across each other. After it has learned the letters of
# other alphabets (right) they begin to part.*

# %%
import meta_keras as mk  # first, so that TensorFlow starts quietly

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from meta_keras import transfer

mk.report.style()
SCRATCH, RANDOM = "structure, full (from scratch)", "features of random weights"
tf.get_logger().setLevel("ERROR")  # it remarks on every new model that is compiled
keras.utils.set_random_seed(0)

# %% [markdown]
# ## What is carried over

# %% [markdown]
# **Transfer learning** (迁移学习) uses what was learned on one task for another. The documents have names for its parts:
#
# | in D5 | here | in this chapter |
# |---|---|---|
# | 源任务, source task | a task with much data, learned first | five kinds of clothing |
# | 目标任务, target task | the task that we care for, with little data | five other kinds |
# | 共享知识, shared knowledge | what helps with both | edges and outlines, we hope |
# | 迁移策略, transfer strategy | how it is carried over | the rest of this chapter |

# %% [markdown]
# D1 names three things that can be carried over, each as a whole (全量) or in part (部分). So there are six ways:

# %%
boxes = {
    "source": (0.1, 0.5, "source task,\nmuch data"),
    "weights": (0.45, 0.85, "parameters\nall layers, or some"),
    "features": (0.45, 0.5, "features\nall of them, or some"),
    "structure": (0.45, 0.15, "structure\nthe whole, or a part"),
    "target": (0.86, 0.5, "target task,\nfew labels"),
}
carried = ("weights", "features", "structure")
arrows = [("source", box, "") for box in carried] + [(box, "target", "") for box in carried]
figure = mk.report.diagram(boxes, arrows, marked=carried, size=(7, 2.8))

# %% [markdown]
# ## Two tasks
#
# The source has five kinds of clothing from Fashion-MNIST, the target the other five. D1 goes from CIFAR-10 to
# CIFAR-100. Set `DATASET = "cifar"` to do the same; `mk.load` says how large the download is. Further down, `"glyphs"`
# goes from the letters of some alphabets to those of others.

# %%
DATASET = "fashion"
SEEDS, STEPS, BATCH = 5, 80, 32
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Pair(NamedTuple):
    source: mk.ClassPool
    target: mk.ClassPool
    shots: tuple[int, ...]  # how many labelled examples of each class, from few to many
    classes: int  # to tell apart in the target
    epochs: int  # of training on the source


# %% [markdown]
# The two pools, by the name of the data:


# %%
def load(name: str) -> Pair:
    if name == "glyphs":
        pool = mk.load("glyphs")
        return Pair(pool.split("train"), pool.split("test"), (5, 15), classes=20, epochs=5)
    if name == "cifar":
        return Pair(mk.load("cifar10"), mk.load("cifar100"), (5, 20, 100), classes=100, epochs=5)
    pool = mk.load("fashion")
    halves = pool.select([0, 3, 4, 7, 8]), pool.select([1, 2, 5, 6, 9])
    return Pair(*halves, (5, 20, 100), classes=5, epochs=12)


# %% [markdown]
# Pixels are brought near zero, by numbers that do not depend on the data (compare chapter 02):


# %%
def prepared(pictures: np.ndarray) -> np.ndarray:
    return pictures.astype("float32") / 127.5 - 1


# %% [markdown]
# Each class of the target is cut in two: the first examples are there to learn from, the others are the exam, and no
# seed ever trains on those. A seed chooses which examples are labelled (and of glyphs, which letters the task is about).
# In a pool the examples of a class stand together, and `first` says where each class begins.


# %%
def deal(pair: Pair, shots: int, seed: int):
    """(x, y) to learn from, so many shots a class, and (x, y) of the exam."""
    random, most = np.random.default_rng(seed), max(pair.shots)
    pool = pair.target.select(random.choice(len(pair.target), pair.classes, replace=False))
    learned, others = [], []
    for first, count in zip(pool.first, pool.counts, strict=True):
        learned.append(first + random.choice(most, shots, replace=False))
        others.append(np.arange(first + most, first + count))
    practice, exam = np.concatenate(learned), np.concatenate(others)
    x, y = prepared(pool.examples), pool.labels
    return (x[practice], y[practice]), (x[exam], y[exam])


# %% [markdown]
# No picture is in both:

# %%
fashion = load(DATASET)
print("source:", fashion.source.names[:5], " target:", fashion.target.names[:5])
(x, y), (exam_x, exam_y) = deal(fashion, shots=5, seed=0)
assert not {row.tobytes() for row in x} & {row.tobytes() for row in exam_x}

# %% [markdown]
# The source in the upper row, the target in the lower:

# %%
figure, axes = plt.subplots(2, 5, figsize=(7, 2.9))
for row, pool in zip(axes, (fashion.source, fashion.target), strict=True):
    for axis, number in zip(row, range(5), strict=True):
        axis.imshow(pool.examples[pool.first[number]].squeeze())
        axis.set_title(pool.names[number], fontsize=9)
        axis.axis("off")
plt.show()

# %% [markdown]
# ## The source model
#
# D2's model has two convolutions and a dense head. Ours has a hidden layer too, and a name for every layer, so that we
# can speak of each. In place of pooling it has strides: the first convolution looks at every fourth place only, which is
# coarse, and fast. Its `head` has one output a class.


# %%
def network(units: int, shape: tuple[int, ...]) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(16, 5, strides=4, padding="same", activation="relu", name="conv1"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="conv2"),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(units, name="head"),
        ]
    )


# %% [markdown]
# It learns from four fifths of each class of the source. The last fifth says how well:


# %%
def trained_on_source(pair: Pair) -> tuple[keras.Model, float]:
    """The source model, and its accuracy on the examples that were kept."""
    keras.utils.set_random_seed(0)
    pool = pair.source
    number = np.concatenate([np.arange(count) for count in pool.counts])  # within its class
    kept = number >= 0.8 * pool.counts[pool.labels]
    x, y = prepared(pool.examples), pool.labels
    model = network(len(pool), x.shape[1:])
    # steps_per_execution: so many steps in one call, which is faster and changes no result
    model.compile(keras.optimizers.Adam(0.003), CROSS_ENTROPY, steps_per_execution=20)
    model.fit(x[~kept], y[~kept], epochs=pair.epochs, batch_size=64, verbose=0)
    return model, accuracy(model, x[kept], y[kept])


def accuracy(model: keras.Model, x, y: np.ndarray) -> float:
    return float(np.mean(np.argmax(model(x), axis=1) == y))


# %%
source, right = trained_on_source(fashion)
classes, shape = fashion.classes, source.input_shape[1:]
print(f"accuracy on the source: {right:.3f}, chance {1 / len(fashion.source):.3f}")

# %% [markdown]
# ## Parameters
#
# **Parameter transfer** (参数迁移) copies weights. For the layers $l$ that are chosen, the target begins with the weights
# of the source, and not with random ones:
#
# $$\theta_{\text{target}}^{(l)} \leftarrow \theta_{\text{source}}^{(l)} \qquad \text{(Formula 3.1)}$$

# %% [markdown]
# *Full* (全量迁移) means all layers that fit. `transfer_weights` says of each what it did, and why. Both of our tasks have
# five classes. To see what happens if they have not, this target gets one output more:

# %%
target = network(classes + 1, shape)
print(transfer.transfer_weights(source, target))

# %% [markdown]
# With five outputs the head would have been copied too. It should not be: its third output means *coat* in the source,
# and something else in the target. So from here on *full* means every layer but the head. *Partial* (部分迁移) means the
# layers that are named, and no others:


# %%
def changed(model: keras.Model, before: dict[str, list[np.ndarray]]) -> list[str]:
    """The layers whose weights are no longer those of `before`."""
    return [
        layer.name
        for layer in model.layers
        if any((a != b).any() for a, b in zip(before[layer.name], layer.get_weights(), strict=True))
    ]


# %%
target = network(classes, shape)
before = {layer.name: layer.get_weights() for layer in target.layers}
report = transfer.transfer_weights(source, target, ["conv1", "conv2"])
print(report)
assert changed(target, before) == list(report.moved) == ["conv1", "conv2"]

# %% [markdown]
# If a layer that was named cannot be moved, an error names the layer and both shapes, and nothing is touched:

# %%
try:
    transfer.transfer_weights(source, network(classes + 2, shape), ["conv1", "head"])
except ValueError as error:
    print(error)

# %% [markdown]
# ## Features
#
# **Feature transfer** (特征迁移) leaves the source as it is and asks what it sees. A picture goes in; what the layer before
# the head computes, $\varphi_s(x)$, comes out and is all that a new small model $h$ learns from:
#
# $$f(x) = h\big(\varphi_s(x)\big) \qquad \text{(Formula 3.2)}$$

# %% [markdown]
# `feature_extractor` is the model up to a layer, and `extract_features` runs data through it, batch by batch. It takes
# arrays and datasets that are larger than memory.

# %%
extractor = transfer.feature_extractor(source)
features = transfer.extract_features(extractor, exam_x)
print(exam_x.shape, "->", features.shape)
whole = source(exam_x[:9])
np.testing.assert_allclose(source.get_layer("head")(features[:9]), whole, rtol=1e-4, atol=1e-4)

# %% [markdown]
# *Full* takes all of these features. *Partial* takes some: a few of the units, or those of an earlier layer, which is
# less bound to the classes of the source.

# %%
half = transfer.feature_extractor(source, units=range(0, 32, 2))
early = transfer.feature_extractor(source, "conv2")
print("half:", half.output_shape, " early:", early.output_shape)
np.testing.assert_allclose(half(exam_x[:9]), features[:9, ::2], rtol=1e-4, atol=1e-4)

# %% [markdown]
# ## Structure
#
# **Structure transfer** (结构迁移) carries over only how the source is built, with fresh weights. It saves the search for
# an architecture, and nothing comes along that the weights have learned. *Full* is the whole network; *partial* is a part of it.

# %%
copy = transfer.same_structure(source)
part = transfer.same_structure(source, layers=["conv1", "conv2"])
shared = {id(v) for v in source.variables} & {id(v) for v in [*copy.variables, *part.variables]}
print("whole:", [layer.name for layer in copy.layers], " part:", [layer.name for layer in part.layers])
assert not shared and not np.array_equal(copy.layers[0].kernel, source.layers[0].kernel)

# %% [markdown]
# ## Fine-tuning
#
# What was carried over is a beginning. **Fine-tuning** (微调) trains on from there, on the target, and the question is
# which layers. In Keras a layer is **frozen** (冻结) by `layer.trainable = False`. That counts from the next `compile` on;
# a model that was compiled before trains on as it was. `freeze` sets it for each layer of a model, and `fine_tune`
# freezes, compiles and fits in one call.

# %% [markdown]
# A frozen layer must be the same afterwards, to the last bit:

# %%
target = network(classes, shape)
transfer.transfer_weights(source, target, ["conv1", "conv2", "hidden"])
before = {layer.name: layer.get_weights() for layer in target.layers}
transfer.fine_tune(target, (x, y), train="head", learning_rate=0.01, epochs=10, verbose=0)
print("no longer the same:", changed(target, before))
assert changed(target, before) == ["head"]

# %% [markdown]
# **Batch normalisation** needs care. It is a layer that shifts and scales what passes through it to mean 0 and spread 1.
# In training it goes by the mean and spread of the batch at hand, and moves two running averages towards them. In use
# (*inference*) it goes by these averages. A few new pictures would overwrite what it has measured on the source.
#
# In Keras a batch normalisation with `trainable = False` runs in inference mode even within `fit`, and `freeze` holds
# all of them unless you say `batch_norm=True`:

# %%
norm = keras.layers.BatchNormalization()
layers = [
    keras.layers.Conv2D(4, 3, strides=4),
    norm,
    keras.layers.Flatten(),
    keras.layers.Dense(classes),
]
normed = keras.Sequential([keras.Input(shape), *layers])
before = norm.moving_mean.numpy()
transfer.fine_tune(normed, (x, y), train="all", verbose=0)
assert (norm.moving_mean.numpy() == before).all(), "its averages should be held"
transfer.freeze(normed, "all", batch_norm=True)
transfer.fine_tune(normed, (x, y), train=None, verbose=0)
assert (norm.moving_mean.numpy() != before).any(), "its averages should move"

# %% [markdown]
# Often one reads another recipe, also in the guide of Keras that is listed below: call the frozen part with
# `training=False` inside a functional model. That does *not* hold in Keras 3.15, with which this book is made. When `fit`
# calls the outer model with `training=True`, Keras hands this on to every layer, whatever the call had said:


# %%
def apart(model: keras.Model) -> float:
    """How far the answers in training are from those in inference."""
    return float(tf.reduce_max(abs(model(x, training=True) - model(x, training=False))))


inner, inputs = mk.networks.conv4(classes, input_shape=shape, filters=8), keras.Input(shape)
by_word = apart(keras.Model(inputs, inner(inputs, training=False)))
by_layer = apart(keras.Model(inputs, transfer.Frozen(inner)(inputs)))
print(f"called with training=False: {by_word:.2f} apart; as a Frozen layer: {by_layer:.2f}")
assert by_word > 0.01 and by_layer == 0

# %% [markdown]
# `Frozen` is a layer that always answers as in inference, dropout and all. The adapters below use it.

# %% [markdown]
# Two refinements come from Howard and Ruder; whether they pay is not measured here. **Rates by depth**: the first layers hold the most general knowledge, so
# they should move least. A layer $d$ places below the head learns at
#
# $$\alpha_d = \alpha \, \eta^{d}, \qquad 0 < \eta \le 1 \qquad \text{(Formula 3.3)}$$

# %% [markdown]
# With $\alpha = 0.001$ and $\eta = 0.5$, the head learns at 0.001, `hidden` at 0.0005, `conv2` at 0.00025. A step of
# plain gradient descent shows it:


# %%
def one_step(decay: float) -> dict[str, float]:
    model = transfer.same_structure(target)
    model.set_weights(target.get_weights())
    data = tf.data.Dataset.from_tensors((x, y))
    optimizer = transfer.LayerwiseLearningRates(keras.optimizers.SGD(0.001), decay)
    transfer.fine_tune(model, data, train="all", optimizer=optimizer, verbose=0)
    names = ("head", "hidden", "conv2", "conv1")
    steps = {n: model.get_layer(n).kernel - target.get_layer(n).kernel for n in names}
    return {name: float(tf.norm(step)) for name, step in steps.items()}


full, slowed = one_step(1.0), one_step(0.5)
shares = {name: round(slowed[name] / full[name], 3) for name in full}
print(shares)
np.testing.assert_allclose(list(shares.values()), [1, 0.5, 0.25, 0.125], rtol=0.01)

# %% [markdown]
# **Gradual unfreezing**: the head trains first, alone, since it knows nothing yet and would send noise down into the
# others. Then one layer more, from the top. With `epochs_per_layer=2` a layer joins every two epochs:


# %%
class Watch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        names = dict.fromkeys(weight.path.split("/")[-2] for weight in self.model.trainable_weights)
        print(f"epoch {epoch + 1}:", ", ".join(names))


# %% [markdown]
# Six epochs are enough for three layers:

# %%
top = ["conv2", "hidden", "head"]
history = transfer.unfreeze_gradually(
    target, (x, y), train=top, epochs_per_layer=2, callbacks=[Watch()], verbose=0
)
assert len(history.history["loss"]) == 6

# %% [markdown]
# ## The six ways, measured
#
# Now all of D1's six ways learn the same target tasks: from few, more and many labelled pictures of each class, or
# **shots** as in chapter 01, with five seeds each. A seed chooses the labelled pictures and all random weights. Every way
# has the same number of steps. Its rate is the best of three on letters of the validation alphabets, which are not used
# in this chapter; half of the features, and random ones, take the rate of all. (For clothing they would be better chosen
# on clothing, but there are no kinds of it to spare.)

# %% [markdown]
# What are they compared with? *From scratch* is the network with fresh weights, and that is just what transfer of the
# whole structure is. So the table has one row for both. Features have a second measure: those of a network with random
# weights, which has learned nothing. What a head can do on these is no merit of the source.

# %% [markdown]
# A **way** is an architecture, what is carried over into it, what it sees of a picture, and a rate:


# %%
class Way(NamedTuple):
    build: Callable[[], keras.Model]
    carry: Callable[[keras.Model], object] = lambda model: None
    sees: Callable = np.asarray  # pictures in, what the architecture is given out
    rate: float = 0.01

    def start(self, seed: int) -> list[np.ndarray]:
        """The weights that training starts from."""
        keras.utils.set_random_seed(seed)
        model = self.build()
        self.carry(model)
        return model.get_weights()


# %% [markdown]
# Compiling takes longer than training here. So there is one model for each architecture, and `restart` puts it back
# before its first step. So what `learn` returns is to be used before its next call, which trains the same model again.


# %%
@cache
def compiled(build: Callable[[], keras.Model], loss) -> keras.Model:
    model = build()
    model.compile(keras.optimizers.Adam(), loss, steps_per_execution=STEPS)
    return model


def learn(way: Way, start: list[np.ndarray], x, y, seed: int, loss=CROSS_ENTROPY, rounds: int = 1):
    """The model of this architecture, trained on these."""
    model = compiled(way.build, loss)
    mk.restart(model, start)
    model.optimizer.learning_rate = way.rate
    rows = tf.data.Dataset.from_tensor_slices((way.sees(x), y))
    batches = rows.shuffle(len(x), seed=seed).repeat().batch(BATCH)
    model.fit(batches, steps_per_epoch=STEPS, epochs=rounds, shuffle=False, verbose=0)
    return model


# %% [markdown]
# With weights carried over, or none, it is the network. With features it is a head alone, on what an extractor sees:


# %%
def ways_with_weights(source: keras.Model, classes: int) -> dict[str, Way]:
    plain = partial(network, classes, source.input_shape[1:])

    def carry(*layers):
        return partial(transfer.transfer_weights, source, layers=layers)

    return {
        "parameters, full": Way(plain, carry("conv1", "conv2", "hidden")),
        "parameters, part (conv1, conv2)": Way(plain, carry("conv1", "conv2"), rate=0.003),
        SCRATCH: Way(plain),
    }


def ways_with_features(source: keras.Model, classes: int) -> dict[str, Way]:
    def head(width):
        return partial(mk.networks.mlp, classes, input_shape=(width,), hidden=())

    whole, half, extract = head(32), head(16), transfer.feature_extractor
    keras.utils.set_random_seed(0)
    random = transfer.same_structure(source)
    return {
        "features, full": Way(whole, sees=extract(source), rate=0.1),
        "features, part (half of them)": Way(
            half, sees=extract(source, units=range(0, 32, 2)), rate=0.1
        ),
        RANDOM: Way(whole, sees=extract(random), rate=0.1),
    }


# %% [markdown]
# The last way has a part of the structure: the convolutions, and a head at once.


# %%
def six_ways(source: keras.Model, classes: int) -> dict[str, Way]:
    def part_of_structure():
        trunk = transfer.same_structure(source, layers=["conv1", "conv2"])
        return keras.Sequential([trunk, keras.layers.Flatten(), keras.layers.Dense(classes)])

    last = {"structure, part (the convolutions)": Way(part_of_structure)}
    return ways_with_weights(source, classes) | ways_with_features(source, classes) | last


# %% [markdown]
# A run through all of them. It keeps every accuracy, so that two ways can be compared seed by seed.


# %%
def compare(pair: Pair, ways: dict[str, Way]) -> dict[str, dict[int, list[float]]]:
    """For each way and number of shots, the accuracy in the exam for every seed."""
    results = {name: {shots: [] for shots in pair.shots} for name in ways}
    for name, way in ways.items():
        for seed in range(SEEDS):
            start = way.start(seed)
            for shots in pair.shots:
                practice, (exam_x, exam_y) = deal(pair, shots, seed)
                model = learn(way, start, *practice, seed)
                results[name][shots].append(accuracy(model, way.sees(exam_x), exam_y))
    return results


ways = six_ways(source, classes)
results = compare(fashion, ways)

# %% [markdown]
# Then the table, and below it how far each way is above *from scratch*. Chapter 01 compared two intervals. Here all ways
# see the same pictures with the same seed, so we can take the difference for each seed, and much of the chance falls
# out. If the interval of the differences holds zero, no difference has been shown. (Of twenty such intervals, about one
# misses the truth by chance. There are eighteen here.)


# %%
def table(results, less: str | None = None) -> mk.report.Table:
    """A row a way, a column for each number of shots; with `less`, the differences from that way."""
    rows = []
    for name, scores in results.items():
        row = {"way": name}
        for shots, values in scores.items():
            row[f"{shots} a class"] = mk.Score.of(
                np.subtract(values, results[less][shots] if less else 0)
            )
        rows.append(row)
    return mk.report.Table([row for row in rows if row["way"] != less])


table(results)

# %%
table(results, less=SCRATCH)

# %% [markdown]
# The table is sobering:
#
# - **Weights that were carried over change little**, two and a half points at most, some up and some down. The network is
#   small and learns what it needs from the target's own pictures. The source, 1,000 pictures of five kinds, has little
#   to teach it.
# - **A head on frozen features is worse than training everything**, from 20 labels a class on, and with more labels more
#   so. The features do hold something of the source, or they would be no better than random ones. But a head cannot
#   learn what they leave out. A transfer that does harm is called *negative transfer* (负迁移).
# - Half of the features do worse than all of them, in the mean.
# - The convolutions with fresh weights and a head at once are about as good as the whole network.
#
# What these numbers carry is asserted:


# %%
def gain(results, name: str, over: str, shots: int) -> tuple[float, float]:
    """The mean of the differences, and half the width of its interval."""
    return mk.report.mean_and_interval(np.subtract(results[name][shots], results[over][shots]))


if DATASET == "fashion":
    for name in ("parameters, full", "parameters, part (conv1, conv2)"):
        for shots in fashion.shots:
            assert abs(gain(results, name, SCRATCH, shots)[0]) < 0.06, f"{name} should change little"
    for name in ("features, full", "features, part (half of them)"):
        mean, half_width = gain(results, name, SCRATCH, 100)
        assert mean + half_width < 0, f"{name} should be worse than from scratch"

# %% [markdown]
# ## Where the source has more to offer
#
# Is transfer of no use, then? It depends on what the source knows. Take letters: the source has the 851 letters of 16
# alphabets, the target 20 letters of alphabets that the source has never seen. There are 20 drawings of each letter, so
# 15 shots are the most that we can have, and 5 drawings of each are the exam.

# %%
letters = load("glyphs")
reader, right = trained_on_source(letters)
print(f"accuracy on the source: {right:.3f}, chance {1 / len(letters.source):.3f}")

# %% [markdown]
# What has the network learned? We look at the features of six letters before and after. The 32 numbers of each drawing
# are laid flat by their two directions of greatest spread (principal components).


# %% picture="transferred_features"
def flat(features: np.ndarray) -> np.ndarray:
    centred = features - features.mean(axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T


six = letters.target.select(range(0, 221, 40))
drawings = prepared(six.examples)
keras.utils.set_random_seed(0)
seen_by = {
    "before: random weights": network(20, (28, 28, 1)),
    "after: trained on other letters": reader,
}
figure, axes = plt.subplots(1, 2, figsize=(7, 3.1))
for axis, (title, model) in zip(axes, seen_by.items(), strict=True):
    places = flat(transfer.extract_features(transfer.feature_extractor(model), drawings))
    for letter, (marker, color) in enumerate(
        zip("osD^vP", [*mk.report.PALETTE[:5], "0.55"], strict=True)
    ):
        axis.scatter(*places[six.labels == letter].T, s=18, marker=marker, color=color)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Drawings of one letter have moved together, although the network was never told that they are one. Now the numbers.
# There is one way more: every layer stays as it is, and a small correction beside it is trained (of *low rank*; the
# section on adapters explains it).


# %%
def low_rank() -> keras.Model:
    way = letter_ways["parameters, full"]
    model = way.build()
    way.carry(model)
    return transfer.with_low_rank(model, rank=2, layers=["conv1", "conv2", "hidden"], train=["head"])


letter_ways = six_ways(reader, letters.classes)
for name in ("features, part (half of them)", "structure, part (the convolutions)"):
    del letter_ways[name]  # they did nothing of their own above, and time is short
letter_ways["parameters, low rank beside them"] = Way(low_rank, rate=0.03)
results = compare(letters, letter_ways)
table(results)

# %%
table(results, less=SCRATCH)

# %%
for shots in letters.shots:
    for name in (SCRATCH, RANDOM):
        mean, half_width = gain(results, "features, full", name, shots)
        assert mean > half_width, f"learned features should beat {name} with {shots} shots"
    means = {name: np.mean(scores[shots]) for name, scores in results.items()}
    assert max(means, key=means.get) == "features, full", "the source is better left alone here"

# %% [markdown]
# On letters the order is reversed: the *frozen* features are best. Random ones are worst, so it is what 851 letters have
# taught that helps. Whatever trains more than a head, be it a correction of low rank or everything, lies between frozen
# features and from scratch: a few drawings a class seem to undo some of what was learned.
#
# Two pairs of tasks prove no rule. But they agree with the usual one: transfer pays when the source is rich, the target
# has few labels, and the two are related. Then try it first with nothing but a new head. And measure it, against the same
# network from scratch.

# %% [markdown]
# (These letters are synthetic; the gain says what is possible, not what your data will give.)

# %% [markdown]
# ## Half and half
#
# D2 does not copy weights, it mixes them: half from the source, half from the target. `blend_weights` mixes in any
# proportion $a$, one for all layers or one for each:
#
# $$\theta^{(l)} = a \, \theta_{\text{source}}^{(l)} + (1 - a) \, \theta_{\text{target}}^{(l)} \qquad \text{(Formula 3.4)}$$

# %% [markdown]
# By hand: a weight 2 in the source, 4 in the target, $a = 0.25$: $0.25 \cdot 2 + 0.75 \cdot 4 = 3.5$. At $a = 0$ and
# $a = 1$ it is the one or the other, to the last bit.

# %%
one, other = (mk.networks.mlp(1, hidden=()) for _ in range(2))
one.set_weights([np.array([[2.0]]), np.array([2.0])])
other.set_weights([np.array([[4.0]]), np.array([4.0])])
transfer.blend_weights(one, other, 0.25)
print(other.get_weights())
assert all((weight == 3.5).all() for weight in other.get_weights())

# %% [markdown]
# When can one mix? Two networks that started from different random weights have put the same knowledge in different
# places: unit 3 of the one may be unit 17 of the other. Their mean is neither of them. If the target was fine-tuned *from*
# the source, its units are still where they were. So we train the target both ways, with 20 shots, and walk from it to
# the source. The head is not mixed, since the source's has other classes: the right end is the source's layers under
# the target's head.


# %%
def walk(way: Way, coefficients: np.ndarray) -> np.ndarray:
    """(seeds, coefficients) the accuracy of a trained target with so much of the source mixed in."""
    curves = []
    for seed in range(SEEDS):
        practice, exam = deal(fashion, fashion.shots[1], seed)
        model = learn(way, way.start(seed), *practice, seed)
        trained = model.get_weights()
        curves.append([])
        for coefficient in coefficients:
            model.set_weights(trained)
            transfer.blend_weights(source, model, coefficient, ["conv1", "conv2", "hidden"])
            curves[-1].append(accuracy(model, *exam))
    return np.array(curves)


# %% [markdown]
# Five amounts, from none of the source to nothing else, D2's half among them:

# %%
coefficients = np.linspace(0, 1, 5)
curves = {
    "fine-tuned from the source": walk(ways["parameters, full"], coefficients),
    "from a start of its own": walk(ways[SCRATCH], coefficients),
}

# %%
for name, marker in zip(curves, "os", strict=True):
    means, halves = zip(*map(mk.report.mean_and_interval, curves[name].T), strict=True)
    plt.errorbar(coefficients, means, halves, marker=marker, capsize=3, label=name)
plt.axhline(1 / classes, color="0.45", linewidth=1, linestyle=":")
plt.annotate("chance", (0.02, 1 / classes), (0, 4), textcoords="offset points", color="0.35")
plt.gca().set(xlabel="mixing coefficient of the source", ylabel="accuracy, not trained further")
plt.ylim(0, 1)
plt.legend(loc="lower left")
plt.show()

# %% [markdown]
# From a common start, much of the source can be mixed in at a small cost, until at 1 the head meets features that it was
# not trained on. From a start of its own, the half already costs much:

# %%
lost = {name: curve[:, 0] - curve[:, 2] for name, curve in curves.items()}  # from nothing to the half
for name, values in lost.items():
    print(f"{name}: {mk.Score.of(values, 'lost')}")
own, tuned = lost["from a start of its own"], lost["fine-tuned from the source"]
more, half_width = mk.report.mean_and_interval(own - tuned)
assert DATASET != "fashion" or more > half_width, "mixing should cost more where the starts differ"

# %% [markdown]
# D2 mixes two models of different starts, and trains on afterwards to mend what the mixing broke. (Its program stops
# before it gets there: it puts a tensor in the place of a parameter, which PyTorch refuses.) That the amount is 0.5, and
# the same for every layer, is a guess. Chapter 13 learns it.

# %% [markdown]
# ## Adapters
#
# D5 writes transfer as a sum. The source $f_s$ stays what it is, and something is added to it:
#
# $$f_{mt}(x) = f_s(x) + f_{ad}(x) \qquad \text{(Formula 3.5)}$$

# %% [markdown]
# D5 calls $f_{ad}$ the transfer strategy; it is a function like $f_s$, and today one says **adapter** (适配器). The code
# that D5 prints does something else: it copies the weights and trains them all. With `with_residual`, $f_s$ stays a part
# of the new model, frozen, and $f_{ad}$ begins at zero, so that learning starts from what the source knows.

# %% [markdown]
# A curve shows what the sum does. The source is one that is well known, from 200 points. The target is the same
# curve with a bump, known at a few points.


# %%
def curve(x: np.ndarray, bump: float) -> np.ndarray:
    return np.sin(2 * x) + 0.5 * x + bump * np.exp(-4 * (x - 1) ** 2)


def points(count: int, bump: float, seed: int):
    random = np.random.default_rng(seed)
    x = random.uniform(-3, 3, (count, 1))
    return x.astype("float32"), (curve(x, bump) + 0.05 * random.normal(size=x.shape)).astype("float32")


def line(hidden=(64, 64)) -> keras.Model:
    return mk.networks.mlp(1, hidden=hidden, activation="tanh")


def fitted(way: Way, x: np.ndarray, y: np.ndarray, seed: int, rounds: int = 2) -> keras.Model:
    return learn(way, way.start(seed), x, y, seed, "mse", rounds)


# %% [markdown]
# The source learns its curve first:

# %%
learned = fitted(Way(line), *points(200, bump=0.0, seed=99), seed=0, rounds=30)
known = line()
known.set_weights(learned.get_weights())
grid = np.linspace(-3, 3, 200)[:, None].astype("float32")
print(f"error of the source on its own curve: {np.mean((known(grid) - curve(grid, 0.0)) ** 2):.4f}")

# %% [markdown]
# Three ways to learn the target: the residual; fine-tuning, which is what D5's code does; and from scratch.


# %%
def residual() -> keras.Model:
    small = line(hidden=(32,))
    small.get_layer("head").kernel.assign(tf.zeros((32, 1)))
    return transfer.with_residual(known, small)


sums = {
    "f_s + f_ad": Way(residual),
    "fine-tuned": Way(line, partial(transfer.transfer_weights, known)),
    "from scratch": Way(line),
}

# %%
before = known.get_weights()
px, py = points(8, bump=1.5, seed=0)
adapted = fitted(sums["f_s + f_ad"], px, py, seed=0)
after = adapted.get_layer("source").model.get_weights()
assert all((a == b).all() for a, b in zip(before, after, strict=True)), "not a bit of f_s has moved"

# %% [markdown]
# The sum has left the source as it was. This is what the three have made of eight points:

# %%
plt.plot(grid, curve(grid, 1.5), color="0.75", linewidth=6, label="the target")
plt.plot(grid, known(grid), color="0.45", linewidth=1, label="f_s alone")
for name, way in sums.items():
    plt.plot(grid, fitted(way, px, py, seed=0)(grid), label=name)
plt.plot(px, py, "ko", markersize=5)
plt.legend(fontsize=8)
plt.gca().set(
    title="eight points of the target, and what is made of them", xlabel="x", ylim=(-3.5, 4.5)
)
plt.show()

# %% [markdown]
# Around -2, where there is no point, both ways of transfer have kept the hill of the source. The network from scratch
# knows nothing of it.
#
# The mean squared error on the whole curve, with 5, 20 and 100 points and five seeds. The last row is the source as it
# is, which knows of no bump.

# %%
truth = curve(grid, 1.5)
errors = {name: {} for name in sums}
for name, way in sums.items():
    starts = [way.start(seed) for seed in range(SEEDS)]
    for count in (5, 20, 100):
        trials = [(start, *points(count, 1.5, seed), seed) for seed, start in enumerate(starts)]
        fits = (learn(way, *trial, "mse", rounds=2)(grid) for trial in trials)
        errors[name][count] = mk.Score.of([np.mean((fit - truth) ** 2) for fit in fits], "error")
rows = [{"way": n} | {f"{c} points": e for c, e in row.items()} for n, row in errors.items()]
alone = f"{np.mean((known(grid) - truth) ** 2):.3f}"
mk.report.Table([*rows, {"way": "f_s alone"} | {f"{count} points": alone for count in (5, 20, 100)}])

# %%
least = {name: row[100].mean for name, row in errors.items()}
assert least["fine-tuned"] < least["f_s + f_ad"] < least["from scratch"], "with 100 points"
assert line().count_params() == 4353 and line(hidden=(32,)).count_params() == 97

# %% [markdown]
# With five points none of the three can be told from $f_s$ alone: some seeds have no point on the bump. With 100 points
# both ways of transfer come closer than a network from scratch. Fine-tuning comes closest, and trains 4,353 numbers for
# it; the adapter has 97. That is what the sum offers: a new target costs 97 numbers more, and without them the model is
# $f_s$ again.
#
# The residual can also live *inside* a layer. There the weights $W_s$ stay frozen, and the product of two thin matrices
# is added to them. With rank $r$, a layer of $m$ inputs and $n$ outputs learns $r (m + n)$ numbers instead of $m n$:
#
# $$W_{mt} = W_s + A B, \qquad A \in \mathbb{R}^{m \times r}, \; B \in \mathbb{R}^{r \times n} \qquad \text{(Formula 3.6)}$$

# %% [markdown]
# This is LoRA, low-rank adaptation. Keras' layers have it built in; `with_low_rank` copies a model, switches it on and
# freezes the rest. It was the last row of the table of letters.


# %%
def trained(model: keras.Model) -> int:
    return sum(int(tf.size(weight)) for weight in model.trainable_weights)


slim, whole = low_rank(), letter_ways["parameters, full"].build()
print(
    f"low rank trains {trained(slim):,} numbers, 660 of them the head; fine-tuning {trained(whole):,}"
)
a, b = slim.get_layer("hidden").lora_kernel_a, slim.get_layer("hidden").lora_kernel_b
assert a.shape == (256, 2) and b.shape == (2, 32) and not b.numpy().any(), "A B is zero at first"
assert trained(slim) < trained(whole) / 5 and trained(slim.get_layer("head")) == 33 * 20 == 660

# %% [markdown]
# ## What the documents' programs do
#
# None of the printed transfer programs runs as it stands. The faults that matter have a row and a test in the
# [errata](README.md#errata).
#
# - **D1 4.1** trains on CIFAR-10 and tests the *same* network on CIFAR-100. Nothing is trained on the target, so the test
#   compares ten kinds of things with a hundred others. The network also has no head: its 1,024 outputs are the features.
#   It tests on pictures that are cropped and flipped by chance, prints its loss every 2,000 batches where an epoch has
#   500, and `inplace` is not defined.
# - **D1 4.2** is the same with two networks. The text says that the source's parameters are synchronised to the target;
#   no line does it. The source's outputs enter no loss, so its optimizer never has a gradient.
# - **D1 4.3**, called meta-optimization, is 4.1 again, with the source's training set under the target's name.
# - **D2 4** flattens to 64 * 64 numbers where there are 28 * 28 * 64, so 64 pictures become 784 rows. It reads a `.device`
#   that modules do not have, extracts features that are never used, and trains on noise for one step.
# - **D5 4** is the one that comes close: `set_weights`, then `fit`. Its data are not defined, and the formula above it
#   is a different method.

# %% [markdown]
# ## Summary
#
# - Weights, features and structure can each be carried over, as a whole or in part. A report says what moved.
# - Frozen means the same to the last bit. Batch normalisation must be frozen with the rest, and calling a part with
#   `training=False` does not do it in this Keras.
# - Fine-tuning can go from the top down, and slower below.
# - Blends need a common start. Adapters keep the source and add to it.
# - Whether transfer pays is a question to measure, against training from scratch, and features against random ones. On
#   two halves of Fashion-MNIST it paid nothing, and a head alone was too little. On letters features were the best of
#   all.

# %% [markdown]
# ## Exercises
#
# Each has a check. Run its cell, then call the check with your answer.
#
# **1. A blend for each layer.** Write `fading(source, target, names)`: the first layer named is taken wholly from the
# source, the last not at all, those between in equal steps.


# %%
def check_fading(fading):
    source, target = (mk.networks.mlp(2, input_shape=(4,), hidden=(3, 3)) for _ in range(2))
    names = [layer.name for layer in source.layers]
    (first, middle, last), old = (
        [layer.kernel.numpy() for layer in m.layers] for m in (source, target)
    )
    fading(source, target, names)
    now = [layer.kernel.numpy() for layer in target.layers]
    assert np.array_equal(now[0], first), "all of the first layer comes from the source"
    assert np.allclose(now[1], (middle + old[1]) / 2, atol=1e-6), "half of the middle one"
    assert np.array_equal(now[2], old[2]), "nothing of the last one"
    print("Right.")


# %% [markdown]
# **2. What trains?** Write `count(model, train)`: how many numbers train after `freeze(model, train)`.


# %%
def check_count(count):
    model = mk.networks.mlp(5, input_shape=(4,), hidden=(3,))
    assert count(model, "head") == 3 * 5 + 5, (
        "a weight for each feature and class, a bias for each class"
    )
    assert count(model, "all") == model.count_params(), "everything"
    assert count(model, [model.layers[0].name]) == 4 * 3 + 3, "the first layer alone"
    print("Right.")


# %% [markdown]
# **3. How small is an adapter?** Write `saving(m, n, r)`: how many times fewer numbers a residual of rank `r` learns than
# the whole matrix.


# %%
def check_saving(saving):
    assert np.isclose(saving(784, 32, 2), 784 * 32 / (2 * 816)), "m n numbers against r (m + n)"
    assert np.isclose(saving(10, 10, 5), 1), "at half the width nothing is saved"
    print("Right.")


# %% [markdown]
# **4. Does it pay?** Write `pays(with_transfer, from_scratch)` for two lists of accuracies, seed by seed: "yes", "no"
# (it hurts) or "cannot tell", by the 95 % interval of the differences.


# %%
def check_pays(pays):
    scratch, steady = np.array([0.5, 0.7, 0.6, 0.4, 0.8]), np.array([0.1, 0.12, 0.08, 0.11, 0.09])
    assert pays(scratch + steady, scratch) == "yes", "a gain with every seed, of about one size"
    assert pays(scratch - steady, scratch) == "no", "a loss with every seed"
    uneven = scratch + [0.3, -0.2, 0.1, -0.3, 0.2]
    assert pays(uneven, scratch) == "cannot tell", "the mean is above zero, but it may be so by chance"
    print("Right.")


# %% [markdown]
# ## References
#
# - J. Yosinski, J. Clune, Y. Bengio, H. Lipson,
#   [How transferable are features in deep neural networks?](https://arxiv.org/abs/1411.1792), 2014.
# - J. Howard, S. Ruder, [Universal Language Model Fine-tuning for Text Classification](https://arxiv.org/abs/1801.06146),
#   2018: gradual unfreezing and rates by depth.
# - E. Hu and others, [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685), 2021.
# - N. Houlsby and others, [Parameter-Efficient Transfer Learning for NLP](https://arxiv.org/abs/1902.00751), 2019.
# - B. Neyshabur, H. Sedghi, C. Zhang, [What is being transferred in transfer learning?](https://arxiv.org/abs/2008.11687),
#   2020: networks with one start lie in one basin.
# - Keras, [Transfer learning and fine-tuning](https://keras.io/guides/transfer_learning/).
#
# Before: [Classical learning](02_classical_learning.ipynb). After: [the list of chapters](README.md#chapters).
