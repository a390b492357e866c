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
    restart,
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
# random order, with a rate that falls to zero. Every training begins with fresh weights, and that is already the first of
# the four things: **the same structure** with weights of its own. D1 calls it *transfer of structure*. `same_structure`
# copies a whole network, or named layers of a chain.


# %%
def prepared(model, rate=0.003, steps=200):
    """Compiled once, trained often. A Distiller brings its own loss."""
    loss = (
        {}
        if isinstance(model, Distiller)
        else {"loss": mk.networks.default_loss(model, tf.constant(0))}
    )
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    model.compile(optimizer=optimizer, steps_per_execution=100, jit_compile=False, **loss)
    optimizer.build(model.trainable_variables)
    return model


def batches(x, y, seed, steps=200, size=32):
    rng, rounds = np.random.default_rng(seed), steps * size // len(x) + 1
    rows = np.concatenate([rng.permutation(len(x)) for _ in range(rounds)])
    rows = rows[: steps * size].reshape(steps, size)
    return tf.data.Dataset.from_tensor_slices((x[rows], y[rows]))


@functools.cache
def drawn(network, seed):
    """Fresh weights for a network of this structure, always the same for one seed."""
    keras.utils.set_random_seed(seed)
    return same_structure(network).get_weights()


def train(model, x, y, *, fresh, seed, steps=200):
    """Train with fresh weights in the network `fresh`, and an optimizer that remembers nothing."""
    fresh.set_weights(drawn(fresh, seed))
    restart(model)
    model.fit(batches(x, y, seed, steps), shuffle=False, verbose=0)


# %% [markdown]
# An accuracy is measured on the 500 test pictures. Where it stands with an interval, the interval is over five
# **seeds**: five fresh starts, each with other labelled pictures. Two methods are compared by the *differences* that
# they have with the same seed. Their mean with its interval says more than two intervals side by side, because what
# the two methods share (the same few pictures, say) cancels.


# %%
SEEDS = range(5)


def accuracy(model, x=x_test, y=y_test):
    return float(np.mean(np.argmax(model(x), axis=1) == y))


def gain(these, those):
    return mk.Score.of(np.subtract(these, those), "difference")


def some(count, seed, labels=y_train):
    """The rows of `count` pictures of each class."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.permutation(np.flatnonzero(labels == k))[:count] for k in np.unique(labels)]
    )


# %% [markdown]
# ## Teacher and student
#
# **Distillation** (模型蒸馏, also 知识蒸馏) has three steps in D4: train a large model, extract what it knows, train a small
# model with that. The large model is the **teacher** (教师模型), here a dense network of 270,000 weights. It learns from all
# 2,000 labelled pictures, and from their mirror images.

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
mirrored = np.concatenate([x_train, x_train[:, :, ::-1]])
prepared(teacher, steps=900)
train(teacher, mirrored, np.tile(y_train, 2), fresh=teacher, seed=0, steps=900)

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
# Here is what our teacher says of four test pictures: of four classes, among the pictures that it gets right, the one in the
# middle from the least sure to the most.

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
# The dark bar is the right class. At temperature 20 all classes are nearly alike, yet their order is still there.

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
        loss = soft_loss(*pair, temperature)
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
# $\lambda$; 4 and 0.9 are their defaults, and we keep them. This is its loss:

# %%
Code(inspect.getsource(Distiller.distil), language="python")

# %% [markdown]
# The optimizer gets the weights of the student alone, and the teacher runs as in a test, without dropout. After a training
# with 20 pictures of each class, the teacher is the same to the last bit, and calling the distiller is calling the
# student:

# %%
distiller = prepared(Distiller(student, teacher, temperature=4.0, soft=0.9))
before = teacher.get_weights()
rows = some(20, seed=0)
train(distiller, x_train[rows], y_train[rows], fresh=student, seed=0)
assert all(np.array_equal(a, b) for a, b in zip(before, teacher.get_weights(), strict=True))
assert np.array_equal(distiller(x_test), distiller.student(x_test))
print(f"student, from 20 pictures of each class: {accuracy(student):.3f}")

# %% [markdown]
# ## Does it help?
#
# Three students have the same structure, the same steps, and the same pictures. One sees them with their **true labels**,
# alone, as from scratch. One sees them with the **hard answers** of the teacher: its most likely class, as if that were the
# label (伪标签, pseudo-labels). And one is **distilled**: soft answers, and the true labels for a share of 0.1.

# %% [markdown]
# At 200 pictures of each class, all that there are, the distilled student gets soft answers *only*: `soft=1.0`, and no
# true label. So this row can be read in another way: somebody has 5 labelled pictures of each class and 1,950 without
# labels, and the teacher speaks about all of them.

# %%
alone = prepared(same_structure(student))
answers = np.argmax(teacher(x_train), axis=1)
without_labels = prepared(Distiller(student, teacher, temperature=4.0, soft=1.0))
reached = {}
for count in (5, 20, 100, 200):
    for seed in SEEDS:
        rows = some(count, seed)
        taught = distiller if count < 200 else without_labels
        for name, model, labels in (
            ("alone", alone, y_train),
            ("hard", alone, answers),
            ("soft", taught, y_train),
        ):
            fresh = alone if model is alone else student
            train(model, x_train[rows], labels[rows], fresh=fresh, seed=seed)
            reached.setdefault((name, count), []).append(accuracy(fresh))

# %% [markdown]
# The accuracy of the student, for so many pictures of each class. Chance is 0.1.

# %%
counts = (5, 20, 100, 200)
columns = {"alone": "true labels, alone", "hard": "teacher's hard answers", "soft": "distilled"}
rows = [
    {"pictures": count, **{title: mk.Score.of(reached[name, count]) for name, title in columns.items()}}
    for count in counts
]
mk.report.Table(rows)

# %% [markdown]
# And the gain of distilling over each of the others, by pairs with the same seed:

# %%
gains = {count: gain(reached["soft", count], reached["alone", count]) for count in counts}
over_hard = {count: gain(reached["soft", count], reached["hard", count]) for count in counts}
assert gains[5].mean > 0
rows = [
    {"pictures": count, "over true labels": gains[count], "over hard answers": over_hard[count]}
    for count in counts
]
mk.report.Table(rows)

# %% [markdown]
# The first table as a picture:

# %%
for (name, title), marker, aside in zip(columns.items(), "osD", (0.96, 1, 1.04), strict=True):
    scores = [mk.Score.of(reached[name, count]) for count in counts]
    means, halves = [s.mean for s in scores], [s.interval for s in scores]
    plt.errorbar(aside * np.array(counts), means, halves, marker=marker, capsize=3, label=title)
plt.axhline(accuracy(teacher), color="0.5", linewidth=1, linestyle=":", label="the teacher")
plt.xscale("log")
plt.xticks(counts, counts)
plt.minorticks_off()
plt.gca().set(
    xlabel="pictures of each class that the student sees", ylabel="test accuracy of the student"
)
plt.legend(loc="lower right")
plt.show()

# %% [markdown]
# With 5 pictures of each class, soft answers are worth more than labels: each picture comes with ten numbers in place of
# one. At 20 the gain is small and hardly certain, at 100 chance can make as much, and with all 200 it is gone: the distilled
# student, which gets no true label there, falls a little behind. Nor is it clear that soft answers beat the teacher's *hard*
# ones at any size, and with 200 these are ahead. Hard answers are a baseline to be taken seriously.

# %% [markdown]
# Be fair about where the gain comes from. The teacher saw 2,000 labelled pictures. With few labels, distilling carries
# *their* knowledge over; no knowledge is made. It is worth having where that data is gone, secret, or too much to train
# on again. And if there are plenty of pictures without labels, the teacher can label them all:

# %%
taught_by_all = reached["soft", 200]
for count in (5, 20, 100):
    more = gain(taught_by_all, reached["alone", count])
    print(
        f"{count:>3} true labels of each class, or none and 2,000 pictures: {more.mean:+.3f} ± {more.interval:.3f}"
    )
    assert count > 5 or more.mean - more.interval > 0

# %% [markdown]
# Size and accuracy side by side. The interval of the teacher, which was trained once, is over the 500 pictures; those of
# the student are over the five seeds.

# %%
right = np.argmax(teacher(x_test), axis=1) == y_test
entries = {
    "teacher": (teacher, mk.Score.of(right)),
    "student, taught without labels": (student, mk.Score.of(taught_by_all)),
    "student, alone, all labels": (student, mk.Score.of(reached["alone", 200])),
    "student, alone, 5 of each class": (student, mk.Score.of(reached["alone", 5])),
}
rows = [{"model": n, "weights": m.count_params(), "accuracy": s} for n, (m, s) in entries.items()]
mk.report.Table(rows)

# %% [markdown]
# ## Which temperature?
#
# We kept the default, 4. What would others have done, at 5 pictures of each class? The curve is drawn *after* all
# results above, so nothing was chosen by it.

# %%
rows_of = {seed: some(5, seed) for seed in SEEDS}
by_temperature = {4: reached["soft", 5]}
for temperature in (1, 2, 20):
    model = prepared(Distiller(student, teacher, temperature=temperature, soft=0.9))
    by_temperature[temperature] = []
    for seed, rows in rows_of.items():
        train(model, x_train[rows], y_train[rows], fresh=student, seed=seed)
        by_temperature[temperature].append(accuracy(student))

# %%
order = sorted(by_temperature)
differences = [gain(by_temperature[t], reached["alone", 5]) for t in order]
plt.errorbar(
    order, [d.mean for d in differences], [d.interval for d in differences], marker="o", capsize=3
)
plt.axhline(0, color="0.5", linewidth=1, linestyle=":")
plt.xscale("log")
plt.xticks(order, order)
plt.minorticks_off()
plt.gca().set(xlabel="temperature", ylabel="gain over true labels")
for temperature, difference in zip(order, differences, strict=True):
    assert difference.mean > 0
    print(f"T = {temperature:>2}: {difference.mean:+.3f} ± {difference.interval:.3f}")

# %% [markdown]
# All four gain in the mean, and their intervals overlap. With $T^2$ in the loss, the choice is not a delicate one.

# %% [markdown]
# ## What the teacher sees
#
# An answer is ten numbers. On its way to them the teacher makes a row of 256, and these hold more. Romero and others let
# the student learn such **features** (特征) too: its hidden layer $h_s$ is asked to give, through a linear map $W$ that is
# learned with it, what a layer $h_t$ of the teacher gives:
#
# $$L_\text{features} = \frac1d \, \lVert W h_s - h_t \rVert^2 \qquad \text{(Formula 5.5)}$$
#
# with $d$ numbers in $h_t$. The map is needed because the widths differ, here 16 and 256. It is thrown away afterwards.

# %%
seeing = prepared(Distiller(student, teacher, features=("hidden", "late")))
start = seeing.bridge.get_weights()
with_features = []
for seed, rows in rows_of.items():
    seeing.bridge.set_weights(start)
    train(seeing, x_train[rows], y_train[rows], fresh=student, seed=seed)
    with_features.append(accuracy(student))
more = gain(with_features, reached["soft", 5])
print(f"features on top of soft answers: {more.mean:+.3f} ± {more.interval:.3f}")
assert more.mean < more.interval

# %% [markdown]
# Here they gain nothing. Sixteen units are too few to tell what 256 see, and the effort is lost for the
# answers. FitNets, as the paper calls them, are students *deeper* and thinner than their teacher, in which a hint half way
# helps training along.

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
# Now a second task for the same pictures: *where is it worn?* Above, below, on the feet, or is it carried? We train a
# network for the first task (what is it?) on all 2,000 labels. Then we cut it, keep the trunk as it is, and train a new
# head for the second task on few labels. It gets rows of 64 numbers, which we compute once. Being a single layer, it
# takes larger steps: its rate begins at 0.01, that of the others at 0.003.

# %%
NAMES = {"above": (0, 2, 4, 6), "below": (1, 3), "on the feet": (5, 7, 9), "carried": (8,)}
group_of = np.array(
    [next(n for n, kinds in enumerate(NAMES.values()) if k in kinds) for k in range(10)]
)
where_train, where_test = group_of[y_train], group_of[y_test]
prepared(whole)
starts = {}
for seed in SEEDS:
    train(whole, x_train, y_train, fresh=whole, seed=seed)
    starts[seed] = whole.get_weights()

# %% [markdown]
# The baselines are chance (one in four) and a network of the same structure that learns the second task from scratch, on
# the same labels:

# %%
new_head = prepared(keras.Sequential([keras.Input((64,)), layers.Dense(4, name="head")]), rate=0.01)
from_scratch = same_structure(whole, layers=["flat", "first", "second"])  # all but the head
from_scratch.add(layers.Dense(4, name="head"))
prepared(from_scratch)
worn = {}
for seed in SEEDS:
    whole.set_weights(starts[seed])
    seen_train, seen_test = trunk(x_train).numpy(), trunk(x_test)
    for count in (5, 20, 100):
        rows = some(count, seed, where_train)
        train(new_head, seen_train[rows], where_train[rows], fresh=new_head, seed=seed)
        train(from_scratch, x_train[rows], where_train[rows], fresh=from_scratch, seed=seed)
        worn.setdefault(("trunk", count), []).append(accuracy(new_head, seen_test, where_test))
        worn.setdefault(("scratch", count), []).append(accuracy(from_scratch, x_test, where_test))

# %% [markdown]
# The accuracy in the second task, for so many labels of each group:

# %%
rows = []
for count in (5, 20, 100):
    more = gain(worn["trunk", count], worn["scratch", count])
    assert more.mean > 0 or count == 100
    both = {"new head on the trunk": worn["trunk", count], "from scratch": worn["scratch", count]}
    entries = {name: mk.Score.of(values) for name, values in both.items()}
    rows.append({"labels": count, "chance": 0.25, **entries, "difference": more})
mk.report.Table(rows)

# %% [markdown]
# And now the recombining. One trunk, two heads, a plain Keras model with a dictionary of answers. The answer to the first
# task is still that of the whole network, to the bit, since nothing that it needs was trained:

# %%
both = join_models(trunk, {"what": head, "where": new_head})
answers = both(x_test)
assert np.array_equal(answers["what"], whole(x_test))
assert accuracy(new_head, seen_test, where_test) == np.mean(
    answers["where"].numpy().argmax(1) == where_test
)
two_networks = whole.count_params() + from_scratch.count_params()
print(f"two tasks: {both.count_params():,} weights; two networks would have {two_networks:,}")

# %% [markdown]
# One call, two answers for each picture:

# %%
figure, axes = plt.subplots(1, 6, figsize=(7.4, 1.7))
places = list(NAMES)
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
    restart(whole, weights)
    whole.fit(batches(x_train, y_train, seed), shuffle=False, verbose=0)
    return whole.get_weights()


networks = {("A", seed): starts[seed] for seed in SEEDS}
for seed in SEEDS:
    networks["B", seed] = again_from(drawn(whole, 100 + seed), 100 + seed)
    networks["C", seed] = again_from(drawn(whole, seed), 200 + seed)

# %% [markdown]
# `front` and `back` share the weights of `one` and `other`, so it is enough to join them once, and to set the weights of
# the whole networks:

# %%
one, other = same_structure(whole), same_structure(whole)
front, _ = split_model(one, "first")
_, back = split_model(other, "first")
mixed = join_models(front, back)
met = {}
for seed in SEEDS:
    one.set_weights(networks["A", seed])
    for name in "ABC":
        other.set_weights(networks[name, seed])
        met.setdefault(f"{name}, whole", []).append(accuracy(other))
        met.setdefault(f"front of A, back of {name}", []).append(accuracy(mixed))
mk.report.Table([{"network": name, "accuracy": mk.Score.of(values)} for name, values in met.items()])

# %% [markdown]
# Two good networks, joined, are at chance (0.1) if they began apart. If they began together, they nearly fit.

# %%
strangers, siblings = (mk.Score.of(met[f"front of A, back of {name}"]) for name in "BC")
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
# depends on where it began.

# %%
weights = list(networks["A", 0])
one.set_weights(weights)
shuffle = np.random.default_rng(0).permutation(64)
weights[0], weights[1], weights[2] = weights[0][:, shuffle], weights[1][shuffle], weights[2][shuffle]
other.set_weights(weights)
assert np.allclose(one(x_test), other(x_test), atol=1e-4)
print(f"front of a network, back of the same one, shuffled: {accuracy(mixed):.3f}")

# %% [markdown]
# The next picture compares the first hidden layers of two networks, unit by unit. A dark spot says that the two units go
# up and down together over the test pictures. Networks that began together have a dark diagonal: unit 7 of one still does
# what unit 7 of the other does. Between strangers there is none.


# %%
def likeness(these, those):
    """The correlation of each unit of one front with each of another."""
    seen = []
    for weights in (these, those):
        one.set_weights(weights)
        units = front(x_test).numpy()
        seen.append((units - units.mean(axis=0)) / (units.std(axis=0) + 1e-6))
    return seen[0].T @ seen[1] / len(x_test)


figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
partners = {"C": "same start", "B": "another start"}
for axis, (name, title) in zip(axes, partners.items(), strict=True):
    alike = likeness(networks["A", 0], networks[name, 0])
    axis.imshow(alike[:32, :32], vmin=0, vmax=1)
    axis.set(title=f"{title}: {np.diag(alike).mean():.2f} on the diagonal", ylabel="unit of A")
    axis.set_xlabel(f"unit of {name}")
    axis.grid(False)

# %% [markdown]
# ## A stitch
#
# What is missing between strangers is a translator. Put one small layer between the front of $A$ and the back of $B$, and
# train nothing else: a **stitching layer** (缝合层), after Lenc and Vedaldi.
#
# $$\varphi(x) = \varphi_{B,2}\big(M \varphi_{A,1}(x) + m\big) \qquad \text{(Formula 5.8)}$$
#
# By hand: if $B$ is $A$ with its two units exchanged, $M = \begin{pmatrix} 0 & 1 \\ 1 & 0 \end{pmatrix}$ and $m = 0$ mend it.
#
# Front and back are frozen, so what the front sees is computed once for each network. The baselines learn from the same
# labelled pictures: the front of $A$ with a **fresh back**, which asks whether the back of $B$ brings anything of its own,
# and a network **from scratch**. The stitch is a single layer, and takes a rate of 0.01, as the new head did.

# %%
stitch = keras.Sequential([keras.Input((64,)), layers.Dense(64, name="stitch")])
front.trainable, back.trainable = False, False
stitched = prepared(join_models(stitch, back), rate=0.01)
fresh_back = prepared(same_structure(back))
models = {
    "stitched": (stitched, stitch),
    "fresh back": (fresh_back, fresh_back),
    "scratch": (whole, whole),
}
mended = {}
for seed in SEEDS:
    one.set_weights(networks["A", seed])
    other.set_weights(networks["B", seed])
    seen_train, seen_test = front(x_train).numpy(), front(x_test)
    for count in (5, 20, 100):
        rows = some(count, seed)
        for name, (model, fresh) in models.items():
            given, asked = (x_train, x_test) if model is whole else (seen_train, seen_test)
            train(model, given[rows], y_train[rows], fresh=fresh, seed=seed)
            mended.setdefault((name, count), []).append(accuracy(model, asked))
assert np.allclose(join_models(front, stitch, back)(x_test), stitched(seen_test), atol=1e-4)
assert all(np.array_equal(a, b) for a, b in zip(one.get_weights(), networks["A", 4], strict=True))
assert all(np.array_equal(a, b) for a, b in zip(other.get_weights(), networks["B", 4], strict=True))

# %% [markdown]
# Nothing but the stitch was trained: front and back are the same to the bit. The accuracy for so many labels of each class:

# %%
rows = []
for count in (5, 20, 100):
    entry = {name: mk.Score.of(mended[name, count]) for name in models}
    for than in ("fresh back", "scratch"):
        entry[f"stitched less {than}"] = gain(mended["stitched", count], mended[than, count])
    rows.append({"labels": count} | entry)
mk.report.Table(rows)

# %% [markdown]
# With five labels of each class, the stitch is far from chance, and ahead of a network from scratch:

# %%
fewest = rows[0]
ahead = fewest["stitched less scratch"]
assert ahead.mean - ahead.interval > 0 and fewest["stitched"].mean > 5 * strangers.mean

# %% [markdown]
# As a picture, with the whole network above and the bare joint below:

# %%
for name, marker, aside in zip(models, "osD", (0.96, 1, 1.04), strict=True):
    scores = [mk.Score.of(mended[name, count]) for count in (5, 20, 100)]
    means, halves = [s.mean for s in scores], [s.interval for s in scores]
    places = aside * np.array([5, 20, 100])
    plt.errorbar(places, means, halves, marker=marker, capsize=3, label=name)
plt.axhline(np.mean(met["A, whole"]), color="0.4", linewidth=1, linestyle="-", label="A, whole")
plt.axhline(strangers.mean, color="0.4", linewidth=1, linestyle=":", label="without a stitch")
plt.xscale("log")
plt.xticks((5, 20, 100), (5, 20, 100))
plt.minorticks_off()
plt.gca().set(xlabel="labelled pictures of each class", ylabel="test accuracy", ylim=(0, 0.9))
plt.legend(loc="center right")
plt.show()

# %% [markdown]
# From chance to three quarters, by one linear layer and five labels of each class: the back of $B$ can *read* what the front
# of $A$ sees. The two had learned nearly the same, and wrote it down in another order. But look at the fresh back as well.
# It does as well as the stitch, so what helps with few labels is the front of $A$, which has seen 2,000 of them. Stitching
# is a way to compare networks. To gain by it, one needs a back that knows more than the labels at hand can teach.
#
# What holds for D4's recombining, then: train the modules *to the same joint*, as the two heads above, or begin them
# together, or put a trained layer between them.

# %% [markdown]
# ## Summary
#
# - **Same structure**, new weights: a plan is taken over, and no knowledge.
# - **Distilling** teaches a small network what a large one says of every class. The temperature makes the small chances
#   visible; $T^2$ keeps the slope at its size. It helps most where the student sees few pictures, and what it brings is
#   the teacher's data in another form.
# - **Splitting** shares weights. A trunk with several heads does several tasks in little more space than one.
# - **Joining** parts of strangers fails, since hidden units have no order. Parts fit if they began together, if they were
#   trained to the same trunk, or with a stitch between.

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
