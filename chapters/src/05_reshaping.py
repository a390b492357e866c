# %% [markdown]
# # Reshaping models: distillation, splitting and recombining
#
# **What you will be able to do.** Let a small network learn from a large one, with labels or without. Say what soft
# labels hold, what the temperature does to them, and where the factor $T^2$ comes from. Take a network apart at any
# layer, train its parts for different tasks, and put parts together again. Say when parts of different networks fit
# each other, when they do not, and how to mend it.
#
# **What you need.** Chapter 02 for training and the softmax. What $\pm$ means stands in chapter 01, under
# [How sure are we?](01_learning_to_learn.ipynb#How-sure-are-we?)
#
# **Time.** About 30 minutes to read; a bit more than a minute to run on two cores.
#
# **From the documents.** D4 3, 3.1, with its first two algorithms. (The third, to pretrain and fine-tune, is the subject
# of chapter 03.) The [guide](README.md#from-the-documents-to-the-chapters) has the whole table.
#
# ![What a large network says of four pictures, at three temperatures](soft_labels.png)
#
# *What a large network says of four pieces of clothing. At temperature 1 it is quite sure. At higher ones it tells what else
# they look like, and that is what a small network can learn from it.*

# %%
import meta_keras as mk  # first, so that TensorFlow starts quietly

import functools
import inspect

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from keras import layers
from meta_keras.classical import preprocess_data
from meta_keras.transfer import (
    Distiller,
    join_models,
    same_structure,
    soft_labels,
    soft_loss,
    split_model,
)

mk.report.style()
keras.utils.set_random_seed(1)

# %% [markdown]
# ## Four things to do with a network
#
# D4 calls algorithms that change the structure or the weights of a model, so that it does well on other tasks,
# **model adaptation** (模型自适应算法). A trained network is more than a function that answers. It can be a *teacher* of
# another network, a *plan* for one, or a *store of parts*:

# %%
boxes = {
    "whole": (0.12, 0.5, "a trained\nnetwork"),
    "teach": (0.47, 0.92, "teach a smaller one"),
    "copy": (0.47, 0.64, "same structure, new weights"),
    "split": (0.47, 0.36, "split into parts"),
    "join": (0.47, 0.08, "join parts"),
    "Distiller": (0.85, 0.92, "Distiller"),
    "same_structure": (0.85, 0.64, "same_structure"),
    "split_model": (0.85, 0.36, "split_model"),
    "join_models": (0.85, 0.08, "join_models"),
}
ways = {"teach": "Distiller", "copy": "same_structure", "split": "split_model", "join": "join_models"}
arrows = [("whole", way, "") for way in ways] + [(way, name, "") for way, name in ways.items()]
figure = mk.report.diagram(boxes, arrows, marked=list(ways.values()), size=(7.2, 3.2))

# %% [markdown]
# The pictures are those of chapter 02: ten kinds of clothing, 200 pictures of each to train on, 50 to test with,
# standardised by the training pictures.

# %%
DATASET = "fashion"
pool = mk.load(DATASET)
x_train, y_train = pool.split("train").arrays()
x_test, y_test = pool.split("test").arrays()
x_train, standard = preprocess_data(x_train)
x_test, _ = preprocess_data(x_test, standard)

# %% [markdown]
# We shall train many small networks, so we do it in the same way each time: 200 steps of Adam, each on 32 pictures in
# random order, with a rate that falls to zero. Every training begins with fresh weights. That is already one of the four
# things, and the simplest: **the same structure** with weights of its own. D1 calls it *transfer of structure*.
# `same_structure` copies a whole network, or named layers of a *chain*, which is a network whose layers follow one
# another in a single line.


# %%
def compiled(model, rate=0.003, steps=200):
    """Compiled once, trained often."""
    loss = None  # a Distiller brings its own
    if not isinstance(model, Distiller):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    falling = keras.optimizers.schedules.CosineDecay(rate, steps)
    optimizer = keras.optimizers.Adam(falling)
    model.compile(optimizer=optimizer, loss=loss, steps_per_execution=100, jit_compile=False)
    return model


def batches(x, y, seed, steps=200, size=32):
    rng, rounds = np.random.default_rng(seed), steps * size // len(x) + 1
    order = np.concatenate([rng.permutation(len(x)) for _ in range(rounds)])
    order = order[: steps * size].reshape(steps, size)
    return tf.data.Dataset.from_tensor_slices((x[order], y[order]))


@functools.cache
def fresh_weights(network, seed):
    """For a network of this structure, always the same for one seed."""
    keras.utils.set_random_seed(seed)
    return same_structure(network).get_weights()


def train(model, x, y, *, fresh, seed, steps=200):
    """Train with fresh weights in the network `fresh`, and an optimizer that remembers nothing."""
    fresh.set_weights(fresh_weights(fresh, seed))
    mk.restart(model)
    model.fit(batches(x, y, seed, steps), shuffle=False, verbose=0)


# %% [markdown]
# An accuracy is measured on the 500 test pictures. Intervals are over five **seeds**: five fresh starts, each with other
# labelled pictures (where not all are used). The teacher, which comes next, is trained once, so no interval says what
# another teacher would have done. We compare two methods seed by seed, by the *difference* of their accuracies. The mean
# of the differences with its interval says more than two intervals side by side, because what the two methods share
# (the same few pictures, say) cancels.


# %%
SEEDS, COUNTS = range(5), (5, 20, 100)


def accuracy(model, x=x_test, y=y_test):
    return float(np.mean(np.argmax(model(x), axis=1) == y))


def gain(these, those):
    return mk.Score.of(np.subtract(these, those), "difference")


def pick(count, seed, labels=y_train):
    """Which pictures: `count` of each class, at random."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.permutation(np.flatnonzero(labels == k))[:count] for k in np.unique(labels)]
    )


# %% [markdown]
# The tables of this chapter have a row for each method, and then rows for the differences of two methods. The columns say
# how many pictures of each class were learned from.


# %%
def by_count(values, pairs):
    """A table of values[method, count], one value for each seed; pairs: methods to compare."""
    names = list(dict.fromkeys(name for name, _ in values))
    rows = [
        {"method": name} | {f"{count} of each": mk.Score.of(values[name, count]) for count in COUNTS}
        for name in names
    ]
    for this, that in pairs:
        gains = {f"{n} of each": gain(values[this, n], values[that, n]) for n in COUNTS}
        rows.append({"method": f"{this} less {that}"} | gains)
    return mk.report.Table(rows)


def draw_by_count(values, names, label):
    """The same as curves, each a little aside, so that no interval hides another."""
    for name, marker, aside in zip(names, "osD^", (0.96, 1, 1.04, 1.08), strict=False):
        scores = [mk.Score.of(values[name, count]) for count in COUNTS]
        means, halves = [s.mean for s in scores], [s.interval for s in scores]
        plt.errorbar(aside * np.array(COUNTS), means, halves, marker=marker, capsize=3, label=name)
    plt.xscale("log")
    plt.xticks(COUNTS, COUNTS)
    plt.minorticks_off()
    plt.gca().set(xlabel=label, ylabel="test accuracy")


# %% [markdown]
# ## Teacher and student
#
# **Distillation** (模型蒸馏, also 知识蒸馏) has three steps in D4: train a large model, extract what it knows, train a small
# model with that. The large model is the **teacher** (教师模型), here a dense network of 270,000 weights. It learns from half
# of the training pictures with their labels, 100 of each class, and from their mirror images. The student will only see
# pictures of the *other* half. So what the teacher says of these is no echo of their labels: it has not seen them.

# %%
of_teacher = pick(100, seed=0)
of_student = np.setdiff1d(np.arange(len(x_train)), of_teacher)
x_teacher, y_teacher = x_train[of_teacher], y_train[of_teacher]
x_student, y_student = x_train[of_student], y_train[of_student]
assert np.all(np.bincount(y_student) == 100)

# %% [markdown]
# A dense network with two hidden layers of 256:

# %%
teacher = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten()])
teacher.add(layers.Dense(256, activation="relu", name="early"))
teacher.add(layers.Dropout(0.3))
teacher.add(layers.Dense(256, activation="relu", name="late"))
teacher.add(layers.Dropout(0.3))
teacher.add(layers.Dense(10, name="head"))

# %% [markdown]
# It trains longer than the others will:

# %%
mirrored = np.concatenate([x_teacher, x_teacher[:, :, ::-1]])
compiled(teacher, steps=600)
train(teacher, mirrored, np.tile(y_teacher, 2), fresh=teacher, seed=0, steps=600)

# %% [markdown]
# The **student** (学生模型) has one hidden layer of 16 units. It has a twentieth of the weights:

# %%
student = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten()])
student.add(layers.Dense(16, activation="relu", name="hidden"))
student.add(layers.Dense(10, name="head"))
print(f"teacher: {teacher.count_params():,} weights, test accuracy {accuracy(teacher):.3f}")
print(f"student: {student.count_params():,} weights")
assert teacher.count_params() > 20 * student.count_params()

# %% [markdown]
# The teacher is right on about five test pictures of six. The student has learned nothing yet.

# %% [markdown]
# ## Soft labels
#
# D4 says that knowledge is extracted as a *knowledge representation* (知识表示), and leaves open what that is. Hinton, Vinyals
# and Dean gave an answer in 2015: take what the teacher *says*. A label says "shirt". The teacher says "shirt, and a little
# like a T-shirt, and not at all like a boot". What it holds to be likely beside the right answer is knowledge about how
# things resemble each other.

# %% [markdown]
# A good teacher is often so sure that the rest can hardly be seen. So its scores $z$ are divided by a **temperature** $T$
# (温度) before the softmax. The results are **soft labels** (软标签):
#
# $$p_k(T) = \frac{e^{z_k / T}}{\sum_j e^{z_j / T}} \qquad \text{(Formula 5.1)}$$
#
# By hand: the scores $0$ and $\log 9$ give $\frac{1}{10}$ and $\frac{9}{10}$ at $T = 1$. At $T = 2$ the second is
# $e^{\log 9 / 2} = 3$ against $1$, so they give $\frac14$ and $\frac34$.

# %%
as_it_is = keras.Sequential([keras.Input((2,)), layers.Identity()])
z = np.array([[0.0, np.log(9.0)]])
for temperature, expected in ((1, [0.1, 0.9]), (2, [0.25, 0.75]), (1000, [0.5, 0.5])):
    p = soft_labels(as_it_is, z, temperature).numpy()[0]
    print(f"T = {temperature}: {p.round(3)}")
    assert np.allclose(p, expected, atol=2e-3)

# %% [markdown]
# Some networks end in a softmax and give probabilities. The logarithm of these gives back the scores, up to a number that
# is added to all of them, and no softmax notices such a number. So both kinds can teach and learn.
#
# Here is what our teacher says of four test pictures. For each of four classes we sort the pictures that it gets right by
# how sure it is, and show the middle one.

# %% picture="soft_labels"
said = soft_labels(teacher, x_test).numpy()
shown = []
for k in (6, 2, 3, 7):
    right = np.flatnonzero((y_test == k) & (said.argmax(axis=1) == k))
    shown.append(right[np.argsort(said[right, k])[len(right) // 2]])
figure, axes = plt.subplots(4, 4, figsize=(7.4, 5.6), width_ratios=(1, 1.6, 1.6, 1.6))
for row, picture in zip(axes, shown, strict=True):
    row[0].imshow(x_test[picture].squeeze())
    row[0].set(xticks=[], yticks=[], title=pool.names[y_test[picture]])
    row[0].grid(False)
    for axis, temperature in zip(row[1:], (1, 4, 20), strict=True):
        colors = np.where(np.arange(10) == y_test[picture], mk.report.PALETTE[2], "0.7")
        axis.bar(pool.names, soft_labels(teacher, x_test[[picture]], temperature)[0], color=colors)
        axis.set(ylim=(0, 1), xticks=range(10), xticklabels=[], yticks=(0, 1))
for axis, temperature in zip(axes[0, 1:], (1, 4, 20), strict=True):
    axis.set_title(f"temperature {temperature}")
for axis in axes[-1, 1:]:
    axis.set_xticks(range(10), pool.names, rotation=90, fontsize=7)

# %% [markdown]
# The coloured bar is the right class. At temperature 20 all classes are nearly alike, yet their order is still there.

# %% [markdown]
# ## How far is the student from that?
#
# With $p$ the soft labels of the teacher and $q$ those of the student, both at temperature $T$, the **soft loss** is the
# *Kullback-Leibler divergence* between them, times $T^2$. It is zero if the two agree:
#
# $$L_\text{soft} = T^2 \sum_k p_k \, (\log p_k - \log q_k) \qquad \text{(Formula 5.2)}$$

# %% [markdown]
# By hand: the teacher says $(\frac14, \frac34)$ at $T = 2$ as above, and the student, with two scores of $0$, says
# $(\frac12, \frac12)$. Then $L_\text{soft} = 4 \, (\frac14 \log \frac12 + \frac34 \log \frac32) = 0.523$.

# %%
Code(inspect.getsource(soft_loss), language="python")

# %% [markdown]
# Why $T^2$? Look at the slope, which is what training goes by. Without the factor, the derivative for the student's score
# $s_k$ is $\frac1T (q_k - p_k)$: the softmax has its usual slope $q_k - p_k$, and $1/T$ comes from dividing the scores.
# With it,
#
# $$\frac{\partial L_\text{soft}}{\partial s_k} = T \, (q_k - p_k) \qquad \text{(Formula 5.3)}$$
#
# In the example it is $2 \, (\frac12 - \frac34) = -\frac12$ for the second score. The higher $T$, the nearer are $p$ and
# $q$ to each other: their difference falls as $1/T$. So $T (q_k - p_k)$ neither grows nor vanishes. For very large $T$ it
# becomes $\frac1K (s_k - z_k)$, where $K$ counts the classes and the scores have the mean 0: the student is simply asked
# to match scores. Without $T^2$ the slope would fall as $1/T^2$, and any other part of a loss would drown it out.

# %%
temperatures = np.geomspace(0.5, 100, 30)
rng = np.random.default_rng(0)
pair = [
    tf.constant(scores - scores.mean(axis=1, keepdims=True))
    for scores in 2 * rng.normal(size=(2, 50, 10))
]
sizes = []
for temperature in temperatures:
    with tf.GradientTape() as tape:
        tape.watch(pair[1])
        loss = soft_loss(student=pair[1], teacher=pair[0], temperature=temperature)
    sizes.append(np.abs(tape.gradient(loss, pair[1])).mean())
limit = np.abs(pair[1] - pair[0]).mean() / 10
assert np.isclose(sizes[-1], limit, rtol=0.05)
plt.loglog(temperatures, sizes, label="with T²")
plt.loglog(temperatures, sizes / temperatures**2, label="without")
plt.axhline(limit, color="0.5", linewidth=1, linestyle=":", label="limit of Formula 5.3")
plt.gca().set(xlabel="temperature", ylabel="mean size of the slope")
plt.legend()
plt.show()

# %% [markdown]
# ## The distiller
#
# Where there are labels too, the student listens to both. A share $\lambda$ goes to the teacher, the rest to the
# cross-entropy (Formula 2.3) of the label $y$, at temperature 1 as always:
#
# $$L = \lambda \, L_\text{soft} + (1 - \lambda) \, L(y, \text{student}) + \eta \, L_\text{features}
# \qquad \text{(Formula 5.4)}$$
#
# The last term is for later. `Distiller` is a Keras model around both networks. Its `temperature` is $T$, its `soft` is
# $\lambda$; 4 and 0.9 are their defaults, and we keep them. Its loss follows. Read the lines with `soft_loss` and
# `_hard_loss` now: they are the first two terms. The lines with `features` are the third, whose $\eta$ is
# `feature_weight`; come back to them with Formula 5.5.

# %%
Code(inspect.getsource(Distiller.distil), language="python")

# %% [markdown]
# The optimizer gets the weights of the student alone, and the teacher runs as in a test, without dropout. After a training
# with 20 pictures of each class, the teacher is the same to the last bit, and calling the distiller is calling the
# student:

# %%
distiller = compiled(Distiller(student, teacher, temperature=4.0, soft=0.9))
before = teacher.get_weights()
chosen = pick(20, 0, y_student)
train(distiller, x_student[chosen], y_student[chosen], fresh=student, seed=0)
assert all(np.array_equal(a, b) for a, b in zip(before, teacher.get_weights(), strict=True))
assert np.array_equal(distiller(x_test), distiller.student(x_test))
print(f"student, from 20 pictures of each class: {accuracy(student):.3f}")

# %% [markdown]
# ## Does it help?
#
# One number of one training says little. So we compare three students. They have the same structure, the same fresh weights,
# the same steps, and the same pictures. One sees them with their **true labels**, alone, as from scratch. One sees them
# with the **hard answers** of the teacher: its most likely class, as if that were the label (伪标签, pseudo-labels). And one
# is **distilled**: soft answers, and the true labels for a share of 0.1.

# %%
compiled(student)
hard_answers = np.argmax(teacher(x_student), axis=1)
ways_to_learn = {
    "true labels": (student, y_student),
    "hard answers": (student, hard_answers),
    "distilled": (distiller, y_student),
}
student_accuracy = {}
for count in COUNTS:
    for seed in SEEDS:
        chosen = pick(count, seed, y_student)
        for name, (model, labels) in ways_to_learn.items():
            train(model, x_student[chosen], labels[chosen], fresh=student, seed=seed)
            student_accuracy.setdefault((name, count), []).append(accuracy(student))

# %% [markdown]
# The accuracy of the student, by number of pictures of each class. Chance is 0.1. At 100 of each class these are all
# pictures of the student's half.

# %%
first_gain = gain(student_accuracy["distilled", 5], student_accuracy["true labels", 5])
assert first_gain.mean - first_gain.interval > 0
pairs = [("distilled", "true labels"), ("distilled", "hard answers"), ("hard answers", "true labels")]
by_count(student_accuracy, pairs)

# %% [markdown]
# The upper three rows as a picture:

# %%
draw_by_count(student_accuracy, ways_to_learn, "pictures of each class that the student sees")
plt.axhline(accuracy(teacher), color="0.5", linewidth=1, linestyle=":", label="the teacher")
plt.legend(loc="lower right")
plt.show()

# %% [markdown]
# With 5 pictures of each class, distilling is worth more than the true labels of the same pictures, and more than the hard
# answers. Why, the table does not tell; a reason may be that every picture comes with ten numbers in place of one. At 20 and
# at 100 no difference is shown, neither to labels nor to hard answers. Hard answers are about as good as true labels, within
# a hundredth or so in the mean. None of the three comes up to the teacher in these 200 steps.

# %% [markdown]
# ## Without a label
#
# Somebody has pictures without labels, and a teacher who never saw them. With `soft=1.0` the loss has no place for a label,
# so all 1,000 pictures of the student's half can be learned from as they are:

# %%
without_labels = compiled(Distiller(student, teacher, temperature=4.0, soft=1.0))
untold = np.zeros(len(x_student), int)  # something must stand where labels stand
taught_without = []
for seed in SEEDS:
    train(without_labels, x_student, untold, fresh=student, seed=seed)
    taught_without.append(accuracy(student))

# %% [markdown]
# The difference to a student who has true labels of some of these pictures, and no teacher:

# %%
for count in COUNTS:
    more = gain(taught_without, student_accuracy["true labels", count])
    print(f"less {count:>3} true labels of each class: {more.mean:+.3f} ± {more.interval:.3f}")
    assert count > 5 or more.mean - more.interval > 0

# %% [markdown]
# A teacher and 1,000 pictures without a label are worth more than 5 labels of each class. Beside 20 or 100 labels of each
# class no difference is shown.
#
# Be fair about where the gain comes from. The teacher saw 1,000 labelled pictures, and distilling carries *their* knowledge
# over; no knowledge is made. It is worth having where that data is gone, secret, or too much to train on again.

# %% [markdown]
# Size and accuracy side by side. The interval of the teacher, which was trained once, is over the 500 test pictures; those
# of the student are over the five seeds.

# %%
right = np.argmax(teacher(x_test), axis=1) == y_test
entries = {
    "teacher": (teacher, right),
    "student, taught without labels": (student, taught_without),
    "student, true labels, 100 of each class": (student, student_accuracy["true labels", 100]),
    "student, true labels, 5 of each class": (student, student_accuracy["true labels", 5]),
}
rows = [
    {"model": name, "weights": model.count_params(), "accuracy": mk.Score.of(values)}
    for name, (model, values) in entries.items()
]
mk.report.Table(rows)

# %% [markdown]
# ## Which temperature?
#
# We kept the default, 4. What would others have done, at 5 pictures of each class? This comes *after* all results above,
# so nothing was chosen by it.

# %%
picked = {seed: pick(5, seed, y_student) for seed in SEEDS}
by_temperature = {4: student_accuracy["distilled", 5]}
for temperature in (1, 20):
    model = compiled(Distiller(student, teacher, temperature=temperature, soft=0.9))
    by_temperature[temperature] = []
    for seed, chosen in picked.items():
        train(model, x_student[chosen], y_student[chosen], fresh=student, seed=seed)
        by_temperature[temperature].append(accuracy(student))

# %% [markdown]
# The gain over true labels, at 5 pictures of each class:

# %%
for temperature in sorted(by_temperature):
    more = gain(by_temperature[temperature], student_accuracy["true labels", 5])
    print(f"T = {temperature:>2}: {more.mean:+.3f} ± {more.interval:.3f}")
    assert more.mean > 0

# %% [markdown]
# All three gain in the mean, but their intervals overlap: five seeds cannot tell which is best. $T^2$ stood in the loss each
# time; what happens without it was not tested.

# %% [markdown]
# ## What the teacher sees
#
# An answer is ten numbers. Before them the teacher computes 256 numbers in its last hidden layer, and these may hold more.
# Romero and others let the student learn such **features** (特征) too: its hidden layer $h_s$ is asked to give, through a
# linear map $W$ that is learned with it, what a layer $h_t$ of the teacher gives:
#
# $$L_\text{features} = \frac1d \, \lVert W h_s - h_t \rVert^2 \qquad \text{(Formula 5.5)}$$
#
# with $d$ numbers in $h_t$. The map is needed because the widths differ, here 16 and 256. It is thrown away afterwards.

# %%
keras.utils.set_random_seed(0)  # for the map, which begins at random
seeing = compiled(Distiller(student, teacher, features=("hidden", "late")))
start = seeing.projection.get_weights()
with_features = []
for seed, chosen in picked.items():
    seeing.projection.set_weights(start)
    train(seeing, x_student[chosen], y_student[chosen], fresh=student, seed=seed)
    with_features.append(accuracy(student))
more = gain(with_features, student_accuracy["distilled", 5])
print(f"features on top of soft answers: {more.mean:+.3f} ± {more.interval:.3f}")
assert more.mean < more.interval

# %% [markdown]
# Here no gain is shown. Perhaps sixteen units are too few to tell what 256 see; that was not tested. FitNets, as the paper
# calls them, are students *deeper* and thinner than their teacher, in which a hint half way helps training along.

# %% [markdown]
# ## Cutting a network
#
# D4's second algorithm is **splitting and recombining** (模型拆分与重组): a model is split into modules, each is trained for a
# task of its own, and the modules are put together again. A network that goes from layer to layer is a function made of
# functions, so it can be cut between any two:
#
# $$\varphi(x; \theta) = \varphi_2\big(\varphi_1(x; \theta_1); \theta_2\big) \qquad \text{(Formula 5.6)}$$

# %% [markdown]
# By hand: $\varphi(x) = (2x)^2$ is $\varphi_1(x) = 2x$ and then $\varphi_2(h) = h^2$.
#
# Our network for this part has two hidden layers of 64. The first part of a network is often called its **trunk** (主干),
# the last its **head** (头部).

# %%
whole = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(name="flat")], name="whole")
whole.add(layers.Dense(64, activation="relu", name="first"))
whole.add(layers.Dense(64, activation="relu", name="second"))
whole.add(layers.Dense(10, name="head"))
trunk, head = split_model(whole, "second")
assert np.array_equal(head(trunk(x_test)), whole(x_test))
assert head.trainable_variables[0] is whole.trainable_variables[4]
assert np.array_equal(join_models(trunk, head)(x_test), whole(x_test))

# %% [markdown]
# Parts and whole answer alike, to the bit, and they *share* their weights: training a part trains the whole. If a layer
# further on also needs something from before the cut, the cut is not possible, and the error names that layer:

# %%
entry = keras.Input((4,))
bend = layers.Dense(4, name="bend")(entry)
added = layers.Add(name="add")([entry, bend])
skipping = keras.Model(entry, layers.Dense(1)(added), name="skipping")
try:
    split_model(skipping, "bend")
except ValueError as error:
    print(error)

# %% [markdown]
# ## One trunk, two answers
#
# Now a second task for the same pictures: *where is it worn?* Above the waist only, over the legs (trousers, and a dress as
# well), on the feet, or is it carried? We train a network for the first task (what is it?) on all 2,000 labels. Then we cut
# it, keep the trunk as it is, and train a new head for the second task on few labels. It gets rows of 64 numbers, which we
# compute once. Being a single layer, it takes larger steps: its rate begins at 0.01, that of the others at 0.003.

# %%
PLACES = {"above": (0, 2, 4, 6), "legs": (1, 3), "feet": (5, 7, 9), "carried": (8,)}
group_of = np.array(
    [next(n for n, kinds in enumerate(PLACES.values()) if k in kinds) for k in range(10)]
)
where_train, where_test = group_of[y_train], group_of[y_test]
largest = np.bincount(where_test).max() / len(where_test)
compiled(whole)
networks = {}
for seed in SEEDS:
    train(whole, x_train, y_train, fresh=whole, seed=seed)
    networks["A", seed] = whole.get_weights()
print(f"always answering the largest group: {largest:.2f} right")

# %% [markdown]
# Four things to compare with. Always answering the largest group is right for four kinds of ten. A new head on the
# **untrained trunk** of $A$, with the random weights that it began with, asks whether it matters what the trunk has learned.
# A network of the same structure learns the second task **from scratch**. And each kind has its place, so one can ask the
# **old head** what it is, and look up in the table where that is worn. This takes no label of the second task at all,
# though trunk and old head have seen 2,000 of the first.

# %%
new_head = compiled(keras.Sequential([keras.Input((64,)), layers.Dense(4, name="head")]), rate=0.01)
place_accuracy = {}
for seed in SEEDS:
    trunks = {
        "new head on untrained trunk": fresh_weights(whole, seed),  # A before it learned
        "new head on trunk of A": networks["A", seed],
    }
    for name, weights in trunks.items():
        whole.set_weights(weights)
        seen_train, seen_test = trunk(x_train).numpy(), trunk(x_test)
        for count in COUNTS:
            chosen = pick(count, seed, where_train)
            train(new_head, seen_train[chosen], where_train[chosen], fresh=new_head, seed=seed)
            reached = accuracy(new_head, seen_test, where_test)
            place_accuracy.setdefault((name, count), []).append(reached)

# %% [markdown]
# The other two:

# %%
from_scratch = same_structure(whole, layers=["flat", "first", "second"])  # all but the head
from_scratch.add(layers.Dense(4, name="head"))
compiled(from_scratch)
for seed in SEEDS:
    whole.set_weights(networks["A", seed])
    looked_up = float(np.mean(group_of[np.argmax(whole(x_test), axis=1)] == where_test))
    for count in COUNTS:
        chosen = pick(count, seed, where_train)
        train(from_scratch, x_train[chosen], where_train[chosen], fresh=from_scratch, seed=seed)
        reached = accuracy(from_scratch, x_test, where_test)
        place_accuracy.setdefault(("from scratch", count), []).append(reached)
        place_accuracy.setdefault(("old head and table", count), []).append(looked_up)

# %% [markdown]
# Accuracy by number of labels of each group. The old head needs none, so it stands in every column with the same number:

# %%
others = ("new head on untrained trunk", "from scratch", "old head and table")
fewest = {name: np.mean(place_accuracy[name, 5]) for name in ("new head on trunk of A", *others)}
assert fewest["new head on trunk of A"] > fewest["from scratch"] > largest + 0.2
assert fewest["old head and table"] > fewest["new head on trunk of A"]
by_count(place_accuracy, [("new head on trunk of A", other) for other in others])

# %% [markdown]
# The trunk of $A$ brings something: a new head on it is far ahead of one on an untrained trunk, and with 5 or 20 labels of
# each group it is ahead of a network from scratch. At 100 that is no longer sure. But the old head and the table do better
# still with few labels, and no worse with many. This second task only groups the answers of the first, so one could have
# asked the old head. A new head is for a second task that no table can answer.

# %% [markdown]
# And now the recombining. One trunk, two heads, a plain Keras model with a dictionary of answers. The answer to the first
# task is still that of the whole network, to the bit, since nothing that it needs was trained:

# %%
both = join_models(trunk, {"what": head, "where": new_head})
answers = both(x_test)
assert np.array_equal(answers["what"], whole(x_test))
assert np.array_equal(answers["where"], new_head(trunk(x_test)))
two_networks = whole.count_params() + from_scratch.count_params()
print(f"two tasks: {both.count_params():,} weights; two networks would have {two_networks:,}")

# %% [markdown]
# Half the weights do both. One call, two answers for each picture:

# %%
figure, axes = plt.subplots(1, 6, figsize=(7.4, 1.7))
places = list(PLACES)
for axis, picture in zip(axes, (3, 60, 130, 270, 420, 470), strict=True):
    what, where = (answers[name][picture].numpy().argmax() for name in ("what", "where"))
    axis.imshow(x_test[picture].squeeze())
    axis.set_title(f"{pool.names[what]},\n{places[where]}", fontsize=8, loc="center")
    axis.axis("off")

# %% [markdown]
# This works because both heads were made for the *same* trunk. D4 asks for more: modules that are trained independently
# of each other, and fit together all the same. Do they?

# %% [markdown]
# ## Parts of strangers
#
# We train further networks of the same structure. Each network $A$ from above gets two partners. $B$ learns from another
# start. $C$ learns from the very start of $A$, with other batches. All three are about equally good. Then we put the front
# of $A$ (its first hidden layer) before the back of $B$ or $C$.


# %%
def again_from(weights, seed):
    """Train the whole network from given weights, with batches of its own."""
    mk.restart(whole, weights)
    whole.fit(batches(x_train, y_train, seed), shuffle=False, verbose=0)
    return whole.get_weights()


for seed in SEEDS:
    networks["B", seed] = again_from(fresh_weights(whole, 100 + seed), 100 + seed)
    networks["C", seed] = again_from(fresh_weights(whole, seed), 200 + seed)

# %% [markdown]
# `front` and `back` share the weights of `one` and `other`, so it is enough to join them once, and to set the weights of
# the whole networks:

# %%
one, other = same_structure(whole), same_structure(whole)
front, _ = split_model(one, "first")
_, back = split_model(other, "first")
joint = join_models(front, back)
joined_accuracy = {}
for seed in SEEDS:
    one.set_weights(networks["A", seed])
    for name in "ABC":
        other.set_weights(networks[name, seed])
        joined_accuracy.setdefault(f"{name}, whole", []).append(accuracy(other))
        joined_accuracy.setdefault(f"front of A, back of {name}", []).append(accuracy(joint))
joined = {name: mk.Score.of(values) for name, values in joined_accuracy.items()}
mk.report.Table([{"network": name, "accuracy": score} for name, score in joined.items()])

# %% [markdown]
# Two good networks, joined, are at chance (0.1) if they began apart. If they began together, they nearly fit.

# %%
strangers, siblings = joined["front of A, back of B"], joined["front of A, back of C"]
assert strangers.mean - strangers.interval < 0.1 and strangers.mean + strangers.interval < 0.2
assert siblings.mean - siblings.interval > 0.5

# %% [markdown]
# The reason is that **hidden units have no order**. Shuffle the units of a hidden layer by a permutation $P$, and shuffle
# what the next layer expects in the same way, and no answer changes:
#
# $$W_2 \, \mathrm{relu}(W_1 x + b_1) = W_2 P^\top \, \mathrm{relu}(P W_1 x + P b_1) \qquad \text{(Formula 5.7)}$$
#
# By hand, with two units: the one that sees sleeves may be number 1 and the one that sees heels number 2, or the other way
# round. With 64 units there are $64! \approx 10^{89}$ ways to write one and the same network. Which of them training finds
# depends on where it began, among other things.
#
# We take a network, and give its back to its own front, once with the units of the hidden layer shuffled:


# %%
def reordered(weights, order):
    """The same network, the units of its first hidden layer in another order."""
    kernel, bias, after, *rest = weights
    return [kernel[:, order], bias[order], after[order], *rest]


one.set_weights(networks["A", 0])
other.set_weights(reordered(networks["A", 0], np.random.default_rng(0).permutation(64)))
assert np.allclose(one(x_test), other(x_test), atol=1e-4)
print(f"front of a network, back of the same one, shuffled: {accuracy(joint):.3f}")

# %% [markdown]
# Both networks give the same answers, and yet the front of one with the back of the other is hardly better than chance.
#
# So perhaps $A$ and $B$ learned much the same, in another order. Then it should be possible to find the order. Two units do
# the same if they go up and down together over many pictures, which the *correlation* of their outputs measures: 1 if they
# always do, 0 if they have nothing to do with each other. We look at it over the training pictures, and use no label.


# %%
def likeness(these, those, x):
    """The correlation of each first hidden unit of a network with each of another."""
    seen = []
    for weights in (these, those):
        one.set_weights(weights)
        units = front(x).numpy()
        seen.append((units - units.mean(axis=0)) / (units.std(axis=0) + 1e-6))
    return seen[0].T @ seen[1] / len(x)


def matching(alike):
    """For each unit of B one of A: the two that are most alike first, and nobody twice."""
    alike, order = alike.copy(), np.zeros(len(alike), int)
    for _ in order:
        ours, theirs = np.unravel_index(alike.argmax(), alike.shape)
        order[theirs] = ours
        alike[ours], alike[:, theirs] = -np.inf, -np.inf
    return order


# %% [markdown]
# Each unit of $A$ now goes to where its partner stands in $B$, and the joint is measured again, with nothing trained:

# %%
matched, matched_accuracy = {}, []
for seed in SEEDS:
    order = matching(likeness(networks["A", seed], networks["B", seed], x_train))
    matched[seed] = reordered(networks["A", seed], order)
    one.set_weights(matched[seed])
    other.set_weights(networks["B", seed])
    matched_accuracy.append(accuracy(joint))
in_order = mk.Score.of(matched_accuracy)
assert in_order.mean - in_order.interval > 0.4
print(f"front of A, back of B, as they are: {strangers.mean:.3f} ± {strangers.interval:.3f}")
print(f"front of A, back of B, matched:     {in_order.mean:.3f} ± {in_order.interval:.3f}")

# %% [markdown]
# The next picture shows the correlations over the test pictures, unit by unit, for the networks of the first seed: 32 of the
# 64 units, the darker the more alike. What is below zero is drawn white. The numbers are means over the whole diagonal, all
# 64 units.

# %%
figure, axes = plt.subplots(1, 3, figsize=(7.6, 2.9))
views = {
    "another start": (networks["A", 0], networks["B", 0], "B"),
    "another start, matched": (matched[0], networks["B", 0], "B"),
    "same start": (networks["A", 0], networks["C", 0], "C"),
}
for axis, (title, (ours, theirs, name)) in zip(axes, views.items(), strict=True):
    alike = likeness(ours, theirs, x_test)
    axis.imshow(alike[:32, :32], vmin=0, vmax=1)
    axis.set(xlabel=f"unit of {name}", ylabel="unit of A", xticks=[], yticks=[])
    axis.set_title(f"{title}:\n{np.diag(alike).mean():.2f} on the diagonal", fontsize=9)
    axis.grid(False)

# %% [markdown]
# Between strangers there is no diagonal. If they began together, one can be made out, but not every unit does what its
# namesake does. In the middle the matching has made a diagonal between strangers. It chose by the training pictures, and
# holds for the test pictures as well.
#
# So $A$ and $B$ learned much the same. Put each unit of $A$ where the unit of $B$ stands that is most like it, and the joint
# goes from 0.08 to 0.66, without a label and without a step. Most of the way to 0.82 is a matter of order. The rest is not,
# as far as this search can tell. (It takes the best pair first, and does not look for the best order of all.)

# %% [markdown]
# ## A stitch
#
# Instead of an order, one can also learn a translator. Put one small layer between the front of $A$ and the back of $B$, and
# train nothing else: a **stitching layer** (缝合层), after Lenc and Vedaldi.
#
# $$\varphi(x) = \varphi_{B,2}\big(M \varphi_{A,1}(x) + m\big) \qquad \text{(Formula 5.8)}$$
#
# By hand: if $B$ is $A$ with its two units exchanged, $M = \begin{pmatrix} 0 & 1 \\ 1 & 0 \end{pmatrix}$ and $m = 0$ mend it.
#
# Front and back are frozen, so what the front sees is computed once for each network. Three baselines learn from the same
# labelled pictures. A stitch to **untrained $B$**, which is $B$ with the random weights that it began with, asks whether it
# matters that the back has learned. The front of $A$ with a **fresh back**, which is trained, asks whether a back from
# elsewhere is worth anything. And there is a network **from scratch**. All that stands on the front of $A$ has a rate of
# 0.01, as the new head had.

# %%
stitch = keras.Sequential([keras.Input((64,)), layers.Dense(64, name="stitch")])
front.trainable, back.trainable = False, False
stitched = compiled(join_models(stitch, back), rate=0.01)
fresh_back = compiled(same_structure(back), rate=0.01)
stitch_accuracy = {}


def learn_and_note(name, count, seed, model, fresh, given, asked):
    chosen = pick(count, seed)
    train(model, given[chosen], y_train[chosen], fresh=fresh, seed=seed)
    stitch_accuracy.setdefault((name, count), []).append(accuracy(model, asked))


# %%
for seed in SEEDS:
    one.set_weights(networks["A", seed])
    seen = front(x_train).numpy(), front(x_test)
    for count in COUNTS:
        other.set_weights(fresh_weights(whole, 100 + seed))
        learn_and_note("stitch to untrained B", count, seed, stitched, stitch, *seen)
        other.set_weights(networks["B", seed])
        learn_and_note("stitch to B", count, seed, stitched, stitch, *seen)
        learn_and_note("fresh back", count, seed, fresh_back, fresh_back, *seen)
        learn_and_note("from scratch", count, seed, whole, whole, x_train, x_test)

# %% [markdown]
# Front and back are the same to the bit, and the three parts in a row are as good as the last stitch:

# %%
assert all(np.array_equal(a, b) for a, b in zip(one.get_weights(), networks["A", 4], strict=True))
assert all(np.array_equal(a, b) for a, b in zip(other.get_weights(), networks["B", 4], strict=True))
in_a_row = accuracy(join_models(front, stitch, back))
assert np.isclose(in_a_row, stitch_accuracy["stitch to B", 100][4], atol=0.005)

# %% [markdown]
# Accuracy by number of labels of each class:

# %%
names = ("stitch to untrained B", "fresh back", "from scratch")
ahead = gain(stitch_accuracy["stitch to B", 5], stitch_accuracy["from scratch", 5])
assert ahead.mean - ahead.interval > 0
by_count(stitch_accuracy, [("stitch to B", name) for name in names])

# %% [markdown]
# As a picture, with the whole network above, and the joint without a stitch below:

# %%
draw_by_count(stitch_accuracy, ["stitch to B", *names], "labelled pictures of each class")
plt.axhline(joined["A, whole"].mean, color="0.4", linewidth=1, linestyle="-", label="A, whole")
plt.axhline(in_order.mean, color="0.4", linewidth=1, linestyle="--", label="no stitch, matched")
plt.axhline(strangers.mean, color="0.4", linewidth=1, linestyle=":", label="no stitch")
plt.gca().set(ylim=(0, 0.9))
plt.legend(loc=(0.36, 0.17), ncols=2)
plt.show()

# %% [markdown]
# The stitch mends the joint: with 5 labels of each class it is far above the bare joint, and ahead of a network from scratch.
# But a stitch to a $B$ that never learned does as well, at every number of labels, and so does a fresh back. So the 4,160
# weights of the stitch learn the task by themselves. What these three share, and a network from scratch lacks, is the front
# of $A$, which has seen 2,000 labels.
#
# That a stitch works does not show, then, that two networks learned the same. The matching above shows more, as it learned
# nothing from labels. To gain by a stitch, one needs a back that knows more than the labels at hand can teach.
#
# What holds for D4's recombining, then: train the modules *to the same joint*, as the two heads above, or begin them
# together, or put their units in the same order. If a trained layer goes between them, ask what it has learned by itself.

# %% [markdown]
# ## Summary
#
# - **Same structure**, new weights: the plan is kept, the knowledge is not.
# - **Distilling** teaches a small network what a large one says of every class. The temperature makes small probabilities
#   visible; $T^2$ keeps the slope from shrinking. It helped where the student saw few pictures, and what it brings is the
#   knowledge of the teacher's data.
# - **Splitting** shares weights. A trunk with several heads does several tasks in little more space than one. First ask
#   whether the old head knows the answer already.
# - **Joining** parts of strangers fails, mostly since hidden units have no order: matched unit to unit, they go most of the
#   way. Parts fit if they were trained to the same trunk, and nearly fit if they began together.
# - **Stitching** mends a joint, but the stitch may do the learning: here it needed no back that knew anything.

# %% [markdown]
# ## Exercises
#
# Each has a check. Run its cell, then call the check with your answer.

# %% [markdown]
# **1. Soften.** Write `soften(p, temperature)`: the soft labels (Formula 5.1) of a network that gives probabilities `p` of
# shape (rows, classes), without its scores.


# %%
def check_soften(soften):
    z = np.random.default_rng(0).normal(size=(4, 6))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    for temperature in (1.0, 3.0, 50.0):
        powers = np.exp(z / temperature)
        expected = powers / powers.sum(axis=1, keepdims=True)
        assert np.allclose(soften(p, temperature), expected), f"not at temperature {temperature}"
    print("Right.")


# %% [markdown]
# **2. The slope.** Write `slope(teacher, student, temperature)`, Formula 5.3, for scores of shape (classes,).


# %%
def check_soft_slope(slope):
    teacher, student = np.array([0.0, np.log(9.0)]), np.zeros(2)
    assert np.allclose(slope(teacher, student, 2.0), [0.5, -0.5]), "the example of the text"
    far = slope(teacher, student, 1e4)
    assert np.allclose(far, [0.5 * np.log(3), -0.5 * np.log(3)], rtol=1e-2), (
        "T makes up for the small difference"
    )
    print("Right.")


# %% [markdown]
# **3. Without its head.** Write `embed(model)`: a model that shares the weights of a chain, and ends before its last layer.


# %%
def check_without_head(embed):
    model = mk.networks.mlp(3, input_shape=(4,), hidden=(8, 6))
    shorter = embed(model)
    assert shorter.output_shape == (None, 6), "the last layer but one has 6 units"
    model.layers[0].bias.assign(np.ones(8))
    assert np.allclose(shorter.get_weights()[1], 1), "the weights are shared, not copied"
    print("Right.")


# %% [markdown]
# **4. Undo a shuffle.** Units of a hidden layer were shuffled: `seen_b = seen_a[:, order]`. Write
# `stitch(seen_a, seen_b)`: the matrix $M$ with `seen_a @ M` equal to `seen_b`, found from the two arrays alone.


# %%
def check_stitch(stitch):
    rng = np.random.default_rng(0)
    seen = np.maximum(rng.normal(size=(200, 6)), 0)
    order = rng.permutation(6)
    found = stitch(seen, seen[:, order])
    assert np.allclose(seen @ found, seen[:, order], atol=1e-6), "seen_a @ M must be seen_b"
    new = np.maximum(rng.normal(size=(50, 6)), 0)
    assert np.allclose(new @ found, new[:, order], atol=1e-6), "for new rows, too"
    print("Right.")


# %% [markdown]
# ## References
#
# - G. Hinton, O. Vinyals, J. Dean, [Distilling the Knowledge in a Neural Network](https://arxiv.org/abs/1503.02531), 2015.
# - A. Romero and others, [FitNets: Hints for Thin Deep Nets](https://arxiv.org/abs/1412.6550), 2015.
# - K. Lenc, A. Vedaldi,
#   [Understanding image representations by measuring their equivariance and equivalence](https://arxiv.org/abs/1411.5908),
#   2015.
# - Y. Bansal, P. Nakkiran, B. Barak,
#   [Revisiting Model Stitching to Compare Neural Representations](https://arxiv.org/abs/2106.07682), 2021.
#
# Before: [Classical learning](02_classical_learning.ipynb). After: [the list of chapters](README.md#chapters).
