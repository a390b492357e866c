# %% [markdown]
# # Crossing domains
#
# **What you will be able to do.** Say why a classifier fails on pictures taken in another way. Adapt it to them without
# a single label, by two methods, and say when that does harm. Recognise classes of which no example was ever seen, by
# their descriptions. Measure both with honest baselines.
#
# **What you need.** Chapters 01 and 02. What $\pm$ means stands in chapter 01, under
# [How sure are we?](01_learning_to_learn.ipynb#How-sure-are-we?)
#
# **Time.** About 25 minutes to read; about a minute and a half to run on two cores.
#
# **From the documents.** D4 3.2, its items 2 and 3: zero-shot learning (零样本学习) and cross-domain transfer (跨域迁移学习). The
# [guide](README.md#from-the-documents-to-the-chapters) has the whole table.
#
# ![Features of two domains, apart before adapting and together after](domains_merge.png)
#
# *What a network makes of pictures from two domains. Learned from the source alone, the domains lie apart; with CORAL they
# lie together.*

# %%
import meta_keras as mk  # first, so that TensorFlow starts quietly

import inspect
import unicodedata

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from meta_keras.transfer import DomainAdaptation, GradientReversal, ZeroShot, coral_loss
from meta_keras.transfer import calibrated, describe_names, harmonic_mean, pair_domains

mk.report.style()
SEEDS = range(5)

# %% [markdown]
# ## Two domains
#
# A **domain** (领域) is a way in which data come about. In the **source domain** (源领域) we have pictures with labels.
# In the **target domain** (目标领域) the classes are the same, the pictures look different, and nobody has labelled them.
#
# Our source is Fashion-MNIST. Our target is other pictures of the same set, seen through a patchy haze: 60 % picture
# and 40 % of a smooth texture, another one for each picture.

# %%
DATASET = "fashion"
pool = mk.load(DATASET)
x_train, y_train = pool.split("train").arrays()
x_test, y_test = pool.split("test").arrays()


# %% [markdown]
# The texture is noise without its fine detail:


# %%
def texture(count, side, rng):
    """Noise without its fine detail, from 0 to 1."""
    fine = np.fft.fft2(rng.normal(size=(count, side, side)))
    waves = np.fft.fftfreq(side)
    smooth = np.exp(-88 * (waves[:, None] ** 2 + waves**2))
    rows = np.fft.ifft2(fine * smooth).real
    rows -= rows.min(axis=(1, 2), keepdims=True)
    return (rows / rows.max(axis=(1, 2), keepdims=True))[..., None]


# %% [markdown]
# And the haze is a mixture:


# %%
def haze(pictures, rng, clear=0.6):
    mixed = clear * pictures + (1 - clear) * texture(len(pictures), pictures.shape[1], rng)
    return mixed.astype("float32")


# %% [markdown]
# You can still say what the pictures below show. We know what haze is, and see through it.

# %%
shown = [x_train[y_train == label][0] / 255 for label in range(len(pool))]
hazy = haze(np.stack(shown), np.random.default_rng(0))
figure, axes = plt.subplots(2, len(pool), figsize=(8, 2))
for row, pictures in zip(axes, (shown, hazy), strict=True):
    for axis, picture in zip(row, pictures, strict=True):
        axis.imshow(picture.squeeze(), vmin=0, vmax=1)
        axis.axis("off")
figure.suptitle("above: the source; below: the target", fontsize=10)
plt.show()

# %% [markdown]
# For each of five seeds we draw 100 pictures of each class, with labels, for the source, 100 *others* without labels for
# the target, and put haze over the test pictures for the exam. The target's labels are used in the exam, and nowhere else.


# %%
def draw(seed, clear=0.6, classes=range(10)):
    """Source pictures and labels, target pictures, and the exam: target pictures and labels."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(y_train == label))[:200] for label in range(10)]
    ours = np.concatenate([members[:100] for members in rows])
    theirs = np.concatenate([rows[label][100:] for label in classes])
    exam = rng.permutation(np.flatnonzero(np.isin(y_test, classes)))[:500]
    target, exam_x = (haze(x / 255, rng, clear) for x in (x_train[theirs], x_test[exam]))
    return x_train[ours] / np.float32(255), y_train[ours], target, exam_x, y_test[exam]


# %% [markdown]
# ## Making features alike
#
# A network turns a picture into **features** (特征), the outputs of a layer, and features into scores. If the features of
# both domains are spread in the same way, what was learned from the source should hold for the target. So training gets
# a second loss $D$, which needs no labels. It says how far the features $F_s$ and $F_t$ lie apart, and $w$ says how much
# that counts:
#
# $$L = L_{\text{source}} + w \, D(F_s, F_t) \qquad \text{(Formula 6.2)}$$

# %% [markdown]
# This is **domain adaptation** (领域适应). The simplest $D$ is that of *Deep CORAL*: the squared distance between the two
# covariances $C_s$ and $C_t$ of $d$ features.
#
# $$D_{\text{CORAL}} = \frac{1}{4 d^2} \lVert C_s - C_t \rVert^2 \qquad \text{(Formula 6.1)}$$

# %% [markdown]
# By hand: one feature, source $1, 3$ and target $2, 6$. The variances are $2$ and $8$, so $D = (2 - 8)^2 / 4 = 9$.

# %%
source, target = tf.constant([[1.0], [3.0]]), tf.constant([[2.0], [6.0]])
assert coral_loss(source, target) == 9
assert coral_loss(source, source + 5) == 0  # where the features lie is not looked at
Code(inspect.getsource(coral_loss), language="python")

# %% [markdown]
# The other method lets a second network, the *critic*, learn to tell the domains apart by the features, and trains the
# features *against* it. With $B$ for the critic's cross-entropy (domain 0 or 1), $f$ for the network up to the features,
# $h$ for its last part, and $c$ for the critic:
#
# $$\min_{f, h} \; L_{\text{source}}(f, h) - w \, B(f, c), \qquad \min_{c} \; B(f, c) \qquad \text{(Formula 6.4)}$$

# %% [markdown]
# One layer between features and critic does both in a single step. Forward it changes nothing. Backward it turns the
# gradient around, so that what the critic would like to have more of, the features give less of. This is **gradient
# reversal** (梯度反转), with a strength $s$:
#
# $$R(x) = x, \qquad \frac{\partial R}{\partial x} := -s \qquad \text{(Formula 6.3)}$$

# %% [markdown]
# By hand: $R(x)^2$ at $x = 3$ with $s = 0.5$ is $9$, and its gradient $-0.5 \cdot 2 \cdot 3 = -3$.

# %%
x = tf.Variable(3.0)
with tf.GradientTape() as tape:
    height = GradientReversal(0.5)(x) ** 2
assert height == 9 and tape.gradient(height, x) == -3
Code(inspect.getsource(GradientReversal.call), language="python")

# %% [markdown]
# ## Three learners
#
# `DomainAdaptation` wraps any Keras network and is trained by `fit` on pairs of batches. With `method=None` it learns
# from the source alone. The weights $w$ were chosen beforehand, with other seeds, on training pictures that were put aside
# for it. That choice did use their labels.


# %%
def network():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(x_train.shape[1:]),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="features"),
            layers.Dense(len(pool)),
        ]
    )


# %% [markdown]
# Three of them, on the same network:

# %%
learners = {
    "source only": DomainAdaptation(network(), layer="features", method=None),
    "CORAL": DomainAdaptation(network(), layer="features", method="coral", weight=30),
    "reversal": DomainAdaptation(network(), layer="features", method="reversal", weight=0.1),
}

# %% [markdown]
# Each is compiled once and trained five times. `begin_anew` gives it fresh weights, and an optimizer that remembers
# nothing.


# %%
def ready(learner, rate=0.002):
    learner.compile(keras.optimizers.Adam(rate), steps_per_execution=25)
    learner.optimizer.build(learner.trainable_variables)
    return learner


# %% [markdown]
# Fresh weights come from a copy that is made of the learner's settings:


# %%
def begin_anew(learner, seed):
    keras.utils.set_random_seed(seed)
    fresh = type(learner).from_config(learner.get_config())
    learner.set_weights(fresh.get_weights())
    rate = float(learner.optimizer.learning_rate)
    for variable in learner.optimizer.variables:
        variable.assign(tf.zeros_like(variable))
    learner.optimizer.learning_rate = rate


# %% [markdown]
# Now all fifteen trainings, each of 200 steps. After every 50 steps we look at the exam. We only look: nothing is chosen by it.

# %%
curves, kept = {name: [] for name in learners}, {}
for name, learner in learners.items():
    ready(learner)
    for seed in SEEDS:
        source_x, source_y, target_x, *exam = draw(seed)
        begin_anew(learner, seed)
        history = learner.fit(
            pair_domains(source_x, source_y, target_x, batch_size=32, seed=seed),
            epochs=4,
            steps_per_epoch=50,
            validation_data=tuple(exam),
            validation_batch_size=500,
            verbose=0,
        ).history
        curves[name].append(history["val_accuracy"])
        kept[name, seed] = learner.get_weights()

# %% [markdown]
# The mean over the seeds, while they learn:

# %%
means = {name: np.mean(runs, axis=0) for name, runs in curves.items()}
for name, mean in means.items():
    plt.plot(50 * np.arange(1, 5), mean, marker="o", label=name)
plt.axhline(0.1, color="0.5", linewidth=1, linestyle=":", label="chance")
plt.gca().set(xlabel="step", ylabel="accuracy on the target", ylim=(0, 1), xticks=50 * np.arange(1, 5))
plt.legend(loc="lower right", ncols=2)
plt.show()

# %% [markdown]
# Two methods are compared by the **paired difference**: seed by seed, what one reached less what the other did. If its
# interval does not hold zero, the difference is no accident of the draw.


# %%
def score(values):
    return mk.Score("accuracy", *mk.report.mean_and_interval(values), np.array(values))


# %% [markdown]
# Here they are, each over the five seeds:

# %%
last = {name: np.array(runs)[:, -1] for name, runs in curves.items()}
gains = {
    name: score(runs - last["source only"]) for name, runs in last.items() if name != "source only"
}
assert gains["CORAL"].mean - gains["CORAL"].interval > 0
rows = [{"learner": name, "on the target": score(runs)} for name, runs in last.items()]
rows += [{"learner": f"{name} less source only", "on the target": gain} for name, gain in gains.items()]
mk.report.Table(rows)

# %% [markdown]
# Without one label of the target, both methods gain. How the domains come together can be seen: here are the
# features of both, drawn in the two directions in which they vary most (principal components, by the singular value
# decomposition).


# %%
def in_two_numbers(*parts):
    rows = np.concatenate(parts)
    rows = rows - rows.mean(axis=0)
    *_, directions = np.linalg.svd(rows, full_matrices=False)
    return np.split(rows @ directions[:2].T, [len(parts[0])])


# %% [markdown]
# Three classes of ten, so that it can be read. Open circles are the source, filled triangles the target.

# %% picture="domains_merge"
source_x, source_y, _, exam_x, exam_y = draw(0)
figure, axes = plt.subplots(1, 3, figsize=(8.5, 3))
chosen = {1: "trouser", 7: "sneaker", 8: "bag"} if DATASET == "fashion" else {1: "1", 7: "7", 8: "8"}
for axis, (name, learner) in zip(axes, learners.items(), strict=True):
    learner.set_weights(kept[name, 0])
    features = [learner.with_features.predict(x, verbose=0)[0] for x in (source_x[::2], exam_x)]
    for places, y, marker in zip(in_two_numbers(*features), (source_y[::2], exam_y), "o^", strict=True):
        for color, label in zip(mk.report.PALETTE[1:4], chosen, strict=True):
            fill = color if marker == "^" else "none"
            members = places[y == label].T
            axis.scatter(
                *members, marker=marker, s=22, edgecolors=color, facecolors=fill, linewidths=0.9
            )
    axis.set(title=name, xticks=[], yticks=[])
for marker, word, fill in (("o", "source", "none"), ("^", "target", "black")):
    axes[0].scatter([], [], marker=marker, edgecolors="black", facecolors=fill, label=word)
for color, word in zip(mk.report.PALETTE[1:4], chosen.values(), strict=True):
    axes[0].scatter([], [], marker="s", color=color, label=word)
figure.legend(loc="outside lower center", ncols=5, fontsize=9)
plt.show()

# %% [markdown]
# ## What are labels worth?
#
# Labels of the target are the other way. Here they are given to an ordinary network: 5, 20 and 100 of each class, either
# from scratch, or to **fine-tune** (微调) the weights that were learned on the source.

# %%
plain = network()
entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
plain.compile(keras.optimizers.Adam(0.002), entropy, metrics=["accuracy"], steps_per_execution=25)
plain.optimizer.build(plain.trainable_variables)


# %% [markdown]
# The few are drawn again and again, so that every size is trained for the same number of steps.


# %%
def with_labels(each, seed, start=None):
    *_, target_x, exam_x, exam_y = draw(seed)
    labels = np.arange(10).repeat(each)
    few = target_x.reshape(10, 100, *target_x.shape[1:])[:, :each].reshape(-1, *target_x.shape[1:])
    begin_anew(plain, seed)
    if start is not None:
        plain.set_weights(start)
    rows = np.random.default_rng(seed).integers(len(few), size=32 * 75)
    plain.fit(few[rows], labels[rows], batch_size=32, shuffle=False, verbose=0)
    return plain.evaluate(exam_x, exam_y, batch_size=500, verbose=0)[1]


# %% [markdown]
# 75 steps for each, five seeds. That is less than the 200 steps of the learners above, and holds the rows with labels
# low, most of all those from scratch: compare along a row, and take the difference between the rows with care.

# %%
rows = []
for each in (5, 20, 100):
    scratch = score([with_labels(each, seed) for seed in SEEDS])
    tuned = score([with_labels(each, seed, kept["source only", seed]) for seed in SEEDS])
    rows.append({"labels a class": each, "from scratch": scratch, "fine-tuned": tuned})
rows.insert(0, {"labels a class": 0, "from scratch": 0.1, "fine-tuned": score(last["source only"])})
rows.insert(1, {"labels a class": "0, CORAL", "from scratch": "", "fine-tuned": score(last["CORAL"])})
assert last["CORAL"].mean() > rows[2]["from scratch"].mean
mk.report.Table(rows)

# %% [markdown]
# ## When it does harm
#
# To make the features of both domains alike makes sense if both hold the same classes in the same proportions. Suppose
# they do not: the target is trousers and nothing else, in a thinner haze, and the source still has all ten classes. A
# critic then sees the domains apart by what is a trouser. To deceive it, the features of trousers must look like those of
# everything else.

# %%
alone = {"source only": [], "CORAL": [], "reversal": []}
for seed in SEEDS:
    source_x, source_y, target_x, exam_x, exam_y = draw(seed, clear=0.85, classes=[1])
    pairs = pair_domains(source_x, source_y, target_x, batch_size=32, seed=seed)
    for name, learner in learners.items():
        if name == "source only":
            learner.set_weights(kept[name, seed])  # it never looked at the target
        else:
            begin_anew(learner, seed)
            learner.fit(pairs, steps_per_epoch=200, verbose=0)
        alone[name].append(learner.evaluate(exam_x, exam_y, batch_size=500, verbose=0)[1])

# %% [markdown]
# Judged on trousers in thin haze. (We tried several such targets, and not each of them shows harm. This is one that does.)

# %%
less = {name: score(np.subtract(alone[name], alone["source only"])) for name in ("CORAL", "reversal")}
assert less["reversal"].mean < 0
rows = [{"learner": name, "on the target": score(values)} for name, values in alone.items()]
rows += [{"learner": f"{name} less source only", "on the target": gain} for name, gain in less.items()]
mk.report.Table(rows)

# %% [markdown]
# Here reversal *hurts*, and CORAL is not shown to help. No loss that can be computed without labels of the target
# shows it. So before adapting, ask whether the classes come in like proportions, and label at least a few pictures to
# check.

# %% [markdown]
# ## Classes never seen
#
# Now the pictures look as before, and the *classes* are new. D4 says of **zero-shot learning** (零样本学习) that a model
# trained on many tasks is applied to unknown classes with no further training. Something is missing there: how the
# model is told what the new classes *are*. Name the unseen classes 1 and 2, or 2 and 1: a model that is told no more
# cannot know which is meant. It scores chance, whatever it was trained on. (The [errata](README.md#errata) have a test.)

# %% [markdown]
# What is needed is a **description** (描述) $a$ of each class, in words that the seen classes share. The picture, through an
# encoder $\varphi$, is projected among the descriptions; the nearer it comes to one, the higher the score:
#
# $$F(x, a) = \big(W \varphi(x; \theta) + b\big) \cdot a \qquad \text{(Formula 6.5)}$$
#
# $W$, $b$ and $\theta$ are trained by cross-entropy over the seen classes. Then any description may be put in.
# By hand: a picture projected to $(2, -1, 1)$ scores $3$ with the description $(1, 0, 1)$, and $1$ with $(1, 1, 0)$.

# %%
projected = np.array([2, -1, 1])
assert (np.array([[1, 0, 1], [1, 1, 0]]) @ projected == [3, 1]).all()
Code(inspect.getsource(ZeroShot.call), language="python")

# %% [markdown]
# ## A script whose names are descriptions
#
# A cell of Braille is up to eight dots, in two columns of four. Its Unicode name says which, as in "BRAILLE PATTERN
# DOTS-134", and its number has one bit for each dot. So we can describe a cell that nobody has drawn. Our glyphs have
# 26 cells of three dots each, 20 drawings a cell.

# %%
glyphs = mk.load("glyphs")
alphabets = np.array(glyphs.groupings["alphabet"])
braille = glyphs.select(np.flatnonzero(alphabets == "Braille"))
numbers = np.array([ord(name) - 0x2800 for name in braille.names])
dots = (numbers[:, None] >> np.arange(8) & 1).astype("float32")
assert all(
    unicodedata.name(name).endswith("DOTS-" + "".join(map(str, np.flatnonzero(row) + 1)))
    for name, row in zip(braille.names, dots, strict=True)
)
# %% [markdown]
# Some of them, with the numbers of their dots:

# %%
figure, axes = plt.subplots(1, 8, figsize=(8, 1.3))
for axis, cell in zip(axes, range(0, 24, 3), strict=True):
    axis.imshow(braille.examples[braille.labels == cell][0].squeeze())
    axis.set_title("".join(map(str, np.flatnonzero(dots[cell]) + 1)), fontsize=9, loc="center")
    axis.set(xticks=[], yticks=[])

# %% [markdown]
# By a seed, 8 cells are put aside and 18 are seen. Every dot must occur among the seen: what no seen class has, no
# training can teach. Of each seen cell, 15 drawings are trained on and 5 kept.


# %%
def split(descriptions, unseen, seed):
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(descriptions))
        seen, new = np.sort(order[unseen:]), np.sort(order[:unseen])
        if descriptions[seen].any(axis=0).all():
            return seen, new


# %% [markdown]
# Pictures with labels, for any list of classes:


# %%
def drawings(pool, classes, part=slice(None)):
    """Drawings of these classes, and for each the place of its class in the list."""
    pictures = np.stack([pool.examples[pool.labels == label][part] for label in classes])
    labels = np.arange(len(classes)).repeat(pictures.shape[1])
    return np.concatenate(pictures).astype("float32") / 255, labels


# %% [markdown]
# And training, from fresh weights, on any descriptions:


# %%
def practise(learner, x, y, descriptions, seed, steps=200):
    begin_anew(learner, seed)
    learner.descriptions.assign(descriptions)
    rows = np.random.default_rng(seed).integers(len(x), size=32 * steps)
    learner.fit(x[rows], y[rows], batch_size=32, shuffle=False, verbose=0)


# %% [markdown]
# Five splits. For comparison the same answers are judged with the descriptions shuffled among the unseen cells. And an ordinary
# classifier is trained from scratch on 5 and on 15 labelled drawings of each of the 8 cells. (It is the same class: with
# $a$ a one-hot vector, Formula 6.5 is a plain last layer.)


# %%
def encoder():
    layers = keras.layers
    steps = [layers.Conv2D(n, 3, strides=2, padding="same", activation="relu") for n in (8, 16)]
    dense = layers.Dense(64, activation="relu")
    return keras.Sequential([keras.Input((28, 28, 1)), *steps, layers.Flatten(), dense])


# %% [markdown]
# Both are compiled once:

# %%
reader, ordinary = ready(ZeroShot(encoder(), dots[:18])), ready(ZeroShot(encoder(), np.eye(8)))
read = {
    "zero-shot": [],
    "descriptions shuffled": [],
    "5 labels, from scratch": [],
    "15 labels, from scratch": [],
}
for seed in SEEDS:
    seen, new = split(dots, 8, seed)
    practise(reader, *drawings(braille, seen, slice(15)), dots[seen], seed)
    x, y = drawings(braille, new)
    chosen = reader.classify(x, dots[new])
    read["zero-shot"].append((chosen == y).mean())
    rng = np.random.default_rng(seed)
    read["descriptions shuffled"].append(
        np.mean([(rng.permutation(8)[chosen] == y).mean() for _ in range(200)])
    )
    for each in (5, 15):
        practise(ordinary, *drawings(braille, new, slice(each)), np.eye(8), seed, steps=75)
        x, y = drawings(braille, new, slice(15, 20))
        read[f"{each} labels, from scratch"].append((ordinary.classify(x, np.eye(8)) == y).mean())

# %% [markdown]
# (Shuffling descriptions shuffles the answers and nothing else, which is why 200 shuffles cost nothing.) Chance is 1/8.

# %%
rows = [{"learner": name, "8 unseen cells": score(values)} for name, values in read.items()]
assert rows[0]["8 unseen cells"].mean - rows[0]["8 unseen cells"].interval > 2.5 / 8
assert abs(rows[1]["8 unseen cells"].mean - 1 / 8) < 0.03
mk.report.Table([*rows, {"learner": "chance", "8 unseen cells": 1 / 8}])

# %% [markdown]
# Cells of which it has seen no drawing are read, far above chance. Where labels can be had they are worth more: five
# drawings of each cell do better than its description.

# %% [markdown]
# ## Names say much, or nothing
#
# Where nobody has written descriptions, there are names. `describe_names` counts the letters, or the words, of each
# name. In Canadian syllabics (for Cree, Inuktitut and others), a name such as SHII says a consonant and a vowel; the
# shape says the consonant, its direction the vowel, and dots say more. 174 of them have such names. We put 20 aside.

# %%
PATTERN = r"CANADIAN SYLLABICS (WEST-CREE )?[B-DF-HJ-NP-TV-Z]*(AA|A|E|II|I|OO|O)"
names = np.array([unicodedata.name(name) for name in glyphs.names])
named = np.flatnonzero(tf.strings.regex_full_match(names, PATTERN))
syllabics = glyphs.select(named)
short = [name.removeprefix("CANADIAN SYLLABICS ").replace("WEST-CREE ", "·") for name in names[named]]
letters, alphabet = describe_names(short, by="letters")
print(len(short), "syllables, such as", ", ".join(short[40:46]), "| letters:", "".join(alphabet))
# %% [markdown]
# Five times, with other syllables put aside:

# %%
speller, spelled = ready(ZeroShot(encoder(), letters[: len(letters) - 20])), []
for seed in SEEDS:
    seen, new = split(letters, 20, seed)
    practise(speller, *drawings(syllabics, seen), letters[seen], seed, steps=300)
    x, y = drawings(syllabics, new)
    spelled.append((speller.classify(x, letters[new]) == y).mean())
# %% [markdown]
# Chance is 1 in 20:

# %%
spelling = score(spelled)
assert spelling.mean - spelling.interval > 4 / 20
mk.report.Table(
    [
        {"20 unseen syllables": "zero-shot", "accuracy": spelling},
        {"20 unseen syllables": "chance", "accuracy": 1 / 20},
    ]
)

# %% [markdown]
# Fashion-MNIST has names too, and there they say next to nothing: "bag" and "coat" share no word with the rest. So we
# write descriptions by hand, twelve yes-or-no questions. Each square says yes:

# %%
clothes = mk.load("fashion")
attributes = {
    "on the feet": "0000010101",
    "on the torso": "1011101000",
    "covers the legs": "0101000000",
    "has sleeves": "1010101000",
    "has long sleeves": "0010101000",
    "opens in front": "0000101000",
    "has straps or laces": "0000010100",
    "covers the ankle": "0000000001",
    "is carried": "0000000010",
    "is open": "0000010000",
    "has two legs": "0100000000",
    "has a collar": "0000101000",
}
# %% [markdown]
# As a figure, and beside it the names as words, for comparison:

# %%
written = np.array([list(answers) for answers in attributes.values()], dtype="float32").T
in_words, _ = describe_names([name.replace("/", " ") for name in clothes.names])
plt.figure(figsize=(6, 3.2))
plt.imshow(written.T, cmap="Greys", vmax=1.5)
plt.xticks(range(10), clothes.names, rotation=50, ha="right", fontsize=8)
plt.yticks(range(12), attributes, fontsize=8)
plt.grid(False)
plt.show()

# %% [markdown]
# Two classes are put aside, eight are seen. We do it for fifteen pairs, drawn by chance: five to choose a setting by,
# which is needed further down, and ten for the exam. The scores are kept, over all ten classes, for the test pictures.

# %%
every_pair = [(a, b) for a in range(10) for b in range(a)]
pairs = np.random.default_rng(0).permutation(every_pair)[:15]
# %% [markdown]
# The test pictures are those of all ten classes:

# %%
clothes_x, clothes_y = clothes.split("test").arrays()
clothes_x = clothes_x / np.float32(255)


def scores_of_pairs(descriptions, numbers):
    learner, kept_scores = ready(ZeroShot(encoder(), descriptions[:8])), {}
    for number in numbers:
        pair = pairs[number]
        seen = np.setdiff1d(range(10), pair)
        x, y = drawings(clothes.split("train"), seen)
        practise(learner, x, y, descriptions[seen], seed=number, steps=100)
        kept_scores[number] = learner.scores(clothes_x, descriptions)
    return kept_scores


# %% [markdown]
# Once with the questions as descriptions, once with the names:

# %%
by_questions = scores_of_pairs(written, range(15))
by_names = scores_of_pairs(in_words, range(5, 15))


def which_of_two(scores, pair):
    new = np.isin(clothes_y, pair)
    return (pair[scores[new][:, pair].argmax(axis=1)] == clothes_y[new]).mean()


# %% [markdown]
# If only the two unseen classes can come, chance is one half. With names alone, the interval holds it:

# %%
exam = range(5, 15)
told = {"twelve questions": by_questions, "names alone": by_names}
rows = [
    {"descriptions": name, "which of two": score([which_of_two(scores[n], pairs[n]) for n in exam])}
    for name, scores in told.items()
]
assert rows[0]["which of two"].mean > 0.6
mk.report.Table([*rows, {"descriptions": "chance", "which of two": 0.5}])

# %% [markdown]
# ## Seen and unseen together
#
# In life, seen classes come too. Then nearly everything is taken for one of them: training has taught the scores of seen
# classes to be high. This is **generalised zero-shot learning** (广义零样本学习). Two accuracies count, on pictures of
# seen classes and of unseen ones, and their **harmonic mean** (调和平均) is small if either is:
#
# $$H = \frac{2 A_{\text{seen}} A_{\text{unseen}}}{A_{\text{seen}} + A_{\text{unseen}}} \qquad \text{(Formula 6.6)}$$

# %% [markdown]
# A simple cure is to **calibrate** (校准) the scores: take a constant $\delta$ from those of all seen classes.
#
# $$F'(x, k) = F(x, a_k) - \delta \cdot [k \text{ was seen}] \qquad \text{(Formula 6.7)}$$

# %% [markdown]
# By hand: $A_{\text{seen}} = 0.9$ and $A_{\text{unseen}} = 0.1$ give $H = 0.18$. Scores $(2, 1.5)$, the first of a seen
# class, become $(1, 1.5)$ with $\delta = 1$, and the answer changes.

# %%
assert np.isclose(harmonic_mean(0.9, 0.1), 0.18)
assert np.allclose(calibrated(np.array([[2.0, 1.5]]), [0], 1.0), [[1.0, 1.5]])


# %% [markdown]
# The two accuracies of a pair, at some $\delta$:


# %%
def both_accuracies(number, penalty):
    pair = pairs[number]
    seen, new = np.setdiff1d(range(10), pair), np.isin(clothes_y, pair)
    right = calibrated(by_questions[number], seen, penalty).argmax(axis=1) == clothes_y
    return right[~new].mean(), right[new].mean()


# %% [markdown]
# The constant is chosen on the first five pairs, and judged on the other ten:

# %%
penalties = np.linspace(0, 8, 41)
means = {p: np.mean([harmonic_mean(*both_accuracies(n, p)) for n in range(5)]) for p in penalties}
best = max(means, key=means.get)
results = {p: np.array([both_accuracies(n, p) for n in exam]) for p in penalties}
# %% [markdown]
# What the constant does:

# %%
for column, name in enumerate(("seen classes", "unseen classes")):
    plt.plot(penalties, [results[p][:, column].mean() for p in penalties], label=name)
plt.plot(
    penalties,
    [np.mean([harmonic_mean(*r) for r in results[p]]) for p in penalties],
    label="harmonic mean",
)
plt.axvline(best, color="0.5", linewidth=1, linestyle=":", label="chosen")
plt.gca().set(xlabel="taken from the scores of seen classes", ylabel="accuracy", ylim=(0, 1))
plt.legend(ncols=2)
plt.show()

# %% [markdown]
# In numbers, over ten pairs:

# %%
rows, means = [], []
for name, penalty in (("as trained", 0.0), ("calibrated", best)):
    harmonic = np.array([harmonic_mean(*pair) for pair in results[penalty]])
    means.append(harmonic)
    seen, new = (score(column) for column in results[penalty].T)
    rows.append({"scores": name, "seen": seen, "unseen": new, "harmonic mean": score(harmonic)})
gain = score(means[1] - means[0])
assert gain.mean > 0.1 and rows[0]["unseen"].mean < rows[1]["unseen"].mean - 0.2
print(f"harmonic mean, calibrated less as trained: {gain.mean:.3f} ± {gain.interval:.3f}")
mk.report.Table(rows)

# %% [markdown]
# ## Summary
#
# - A classifier may fail on pictures that a person finds easy, because their features lie elsewhere.
# - Domain adaptation makes the features of both domains alike, without labels of the target: CORAL by their covariances,
#   gradient reversal by a critic that is trained against.
# - It can do harm where classes come in other proportions, and no loss on the source will say so.
# - A class that was never seen must be described. Without a description, the answer is chance.
# - Names are descriptions as far as they say what a thing looks like.
# - Asked among all classes, unseen ones are missed; take a constant from the scores of the seen ones.

# %% [markdown]
# ## Exercises
#
# Each has a check. Run its cell, then call the check with your answer.

# %% [markdown]
# **1. CORAL in numpy.** Write `coral(a, b)`, Formula 6.1, for two arrays (rows, d). (`np.cov` helps.)


# %%
def check_coral(coral):
    a, b = np.array([[1.0, 0.0], [3.0, 1.0]]), np.array([[2.0, 0.0], [6.0, 1.0], [4.0, 5.0]])
    expected = ((np.cov(a, rowvar=False) - np.cov(b, rowvar=False)) ** 2).sum() / 16
    assert np.isclose(coral(a, b), expected), "the squared distance of the covariances, over 4 d^2"
    assert np.isclose(coral(a, a + 9), 0), "where the features lie does not count"
    print("Right.")


# %% [markdown]
# **2. What is missing.** Write `missing(descriptions, seen)`: the numbers of the columns that no seen class has. What they
# stand for cannot be learned.


# %%
def check_missing(missing):
    descriptions = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]])
    assert list(missing(descriptions, [0, 1])) == [2], "only the third class has the third sign"
    assert list(missing(descriptions, [0, 2])) == [], "here every sign occurs"
    print("Right.")


# %% [markdown]
# **3. Calibrate.** Write `best_penalty(scores, y, seen, penalties)`: the penalty with the highest harmonic mean of the
# accuracies on rows of seen and of unseen classes.


# %%
def check_best_penalty(best_penalty):
    scores = np.array([[3.0, 0.0, 2.5], [0.0, 4.0, 1.0], [2.0, 0.0, 1.0], [1.0, 3.0, 0.5]])
    y, penalties = np.array([0, 1, 2, 2]), [0.0, 1.5, 5.0]
    assert best_penalty(scores, y, [0, 1], penalties) == 1.5, "half of the seen, half of the unseen"
    print("Right.")


# %% [markdown]
# ## References
#
# - B. Sun, K. Saenko, [Deep CORAL: Correlation Alignment for Deep Domain Adaptation](https://arxiv.org/abs/1607.01719),
#   2016.
# - Y. Ganin, V. Lempitsky, [Unsupervised Domain Adaptation by Backpropagation](https://arxiv.org/abs/1409.7495), 2015.
# - Z. Akata, F. Perronnin, Z. Harchaoui, C. Schmid,
#   [Label-Embedding for Image Classification](https://arxiv.org/abs/1503.08677), 2015; first in 2013, for attributes.
# - B. Romera-Paredes, P. Torr,
#   [An embarrassingly simple approach to zero-shot learning](https://proceedings.mlr.press/v37/romera-paredes15.html), 2015.
# - Y. Xian, C. Lampert, B. Schiele, Z. Akata,
#   [Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly](https://arxiv.org/abs/1707.00600),
#   2017.
# - W.-L. Chao, S. Changpinyo, B. Gong, F. Sha,
#   [An Empirical Study and Analysis of Generalized Zero-Shot Learning](https://arxiv.org/abs/1605.04253), 2016.
#
# Before: [Learning to learn](01_learning_to_learn.ipynb). After: [the list of chapters](README.md#chapters).
