# %% [markdown]
# # Strategy networks: learning how to transfer
#
# **What you will be able to do.** Say what a strategy of transfer is, and what it means to learn one. Work out by
# hand how much of a source to take, and check it by a tape and by the library. Learn an amount for every layer,
# through the adapting. Compare it fairly with training from scratch, D2's half-and-half, and fine-tuning. Let a
# small network look at a task and choose the amounts. Say where all this gains nothing.
#
# **What you need.** Chapter [01](01_learning_to_learn.ipynb) for tasks, and chapter [10](10_maml.ipynb) for
# gradients that go through adapting.
#
# **Time.** About 30 minutes to read; a bit more than a minute to run on two cores.
#
# **From the documents.** D5 1, 2, 3, 4. The [guide](README.md#from-the-documents-to-the-chapters) has the whole
# table.
#
# ![Accuracy over the amount of source and the learning rate, for near and far tasks](amount_and_rate.png)
#
# *How much of a trained network should a new one take? Each field is an amount (from left to right) and a learning
# rate (from bottom to top); dark is good. The more is taken, the smaller the steps must be.*

# %%
import meta_keras as mk  # first, so that TensorFlow starts quietly

import inspect

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from meta_keras.transfer import Strategy, StrategyNetwork, blend_weights, restart

mk.report.style()

# %% [markdown]
# ## A strategy stands between source and target
#
# Somebody has trained a network on one task, the **source task** (源任务). You have another, the **target task**
# (目标任务), with few examples. What both have in common is the **shared knowledge** (共享知识). How you carry it over is
# the **transfer strategy** (迁移策略): which layers, how much of each, how fast to train on.
#
# A person usually chooses the strategy. D5 asks for more: to *learn* it.

# %%
boxes = {
    "source": (0.12, 0.75, "source\na trained network"),
    "fresh": (0.12, 0.2, "fresh start\nrandom weights"),
    "strategy": (0.42, 0.75, "strategy\nhow much of each layer"),
    "start": (0.42, 0.2, "blended start"),
    "adapted": (0.7, 0.2, "adapted\nto the support set"),
    "loss": (0.9, 0.75, "loss\non the queries"),
}
arrows = [
    ("source", "strategy", ""),
    ("strategy", "start", ""),
    ("fresh", "start", ""),
    ("start", "adapted", "steps"),
    ("adapted", "loss", ""),
    ("loss", "strategy", "gradient"),
]
figure = mk.report.diagram(boxes, arrows, marked=["strategy"], size=(8, 2.6))

# %% [markdown]
# D5's words, and what they are in this chapter:
#
# | D5 | in English | here |
# |---|---|---|
# | 源任务 | source task | telling 200 letters apart |
# | 目标任务 | target task | five new letters, or five kinds of garments, from a few pictures |
# | 共享知识 | shared knowledge | weights of the source |
# | 迁移策略 | transfer strategy | an amount for each layer, and then a few steps |
# | 学习策略 | learning strategy | the same, seen as something that can itself be learned |
# | 策略网络 | strategy network | a small network that looks at a task and gives the amounts |
# | 策略优化 | strategy optimization | gradient descent on the amounts, over many tasks |

# %% [markdown]
# D5 writes it in one line. With $D_s$ for the data of the source and $D_t$ for those of the targets:
#
# $$\omega^* = \arg\min_\omega \; L(g_\omega, D_s, D_t) \qquad \text{(Formula 13.1)}$$
#
# D5 calls the parameters of the strategy $\theta$. In this book $\theta$ is the weights of a network, and what a
# rule learns about adapting is $\omega$ (chapter 01). So it is $\omega$ here.
#
# The line leaves open what $L$ is. We read it as chapters 01 and 10 do: the source comes in as a trained network,
# $g_\omega$ makes a start of it and adapts to the support set of a target task, and $L$ is the loss on the
# **queries** of that task, in the mean over many target tasks.

# %% [markdown]
# ## What the printed code does
#
# D5's listing calls a network `PolicyNetwork`. Each round draws 100 source inputs and 100 target inputs, *and all
# their labels*, from a normal distribution, and fits the one network to both. Here it is in Keras, line by line
# (D5's is in PyTorch):


# %%
def as_printed(seed, rounds=100):
    """D5's loop. The loss on new noise before it and after it, and that of the answer 0."""
    keras.utils.set_random_seed(seed)
    policy = mk.networks.mlp(1, input_shape=(10,), hidden=(128,))
    optimizer, normal = keras.optimizers.Adam(), tf.random.normal
    optimizer.build(policy.trainable_variables)

    @tf.function
    def one_round():
        source_data, source_labels = normal((100, 10)), normal((100, 1))
        target_data, target_labels = normal((100, 10)), normal((100, 1))
        with tf.GradientTape() as tape:
            source_loss = tf.reduce_mean((policy(source_data) - source_labels) ** 2)
            target_loss = tf.reduce_mean((policy(target_data) - target_labels) ** 2)
            loss = source_loss + target_loss
        gradients = tape.gradient(loss, policy.trainable_variables)
        optimizer.apply(gradients, policy.trainable_variables)

    new, new_labels = normal((20_000, 10)), normal((20_000, 1))
    before = tf.reduce_mean((policy(new) - new_labels) ** 2)
    for _ in range(rounds):
        one_round()
    after = tf.reduce_mean((policy(new) - new_labels) ** 2)
    return [float(loss) for loss in (before, after, tf.reduce_mean(new_labels**2))]


# %% [markdown]
# What could there be to learn? Nothing in the inputs says anything about the labels. The best answer is their mean,
# 0.

# %%
errors = np.array([as_printed(seed) for seed in range(5)])
names = ["before", "after 100 rounds", "always answering 0"]
scores = {name: mk.report.mean_and_interval(errors[:, place]) for place, name in enumerate(names)}
plt.figure(figsize=(7, 1.8))
for name, (mean, half) in scores.items():
    plt.errorbar(mean, name, xerr=half, marker="o", linestyle="", capsize=3, color=mk.report.PALETTE[0])
plt.gca().set(xlabel="mean squared error on new noise", xlim=(0.95, None), ylim=(2.5, -0.5))
plt.show()

# %%
mean, half = mk.report.mean_and_interval(errors[:, 1] - errors[:, 2])
print(f"the trained network, less the answer 0: {mean:.3f} ± {half:.3f}")
assert mean - half > 0

# %% [markdown]
# It forgets its random beginning, and is still worse than a constant. And that is not the worst of it:
#
# - No strategy comes out. The network takes an example and gives an *answer*; nothing says what to carry over, or
#   how much.
# - Nothing is adapted.
# - Source and target go through the same network into the same sum. Change them about, and every gradient stays as
#   it is.

# %% [markdown]
# The [errata](README.md#errata) have a test for each. What follows is a strategy that is one.

# %% [markdown]
# ## One number a layer
#
# D2 mixes a source and a target network half and half (chapter 03). Let the half become a number, one for each
# layer $l$, and let it be learned. The sigmoid keeps it between 0, the fresh start, and 1, the source:
#
# $$\theta_0^{[l]} = a_l \, \theta_s^{[l]} + (1 - a_l) \, \theta^{[l]}, \qquad a_l = \sigma(\omega_l) = \frac{1}{1 + e^{-\omega_l}}
# \qquad \text{(Formula 13.2)}$$
#
# From this start come $K$ steps on the support set (Formula 10.1), and then the loss on the queries.

# %% [markdown]
# The gradient for $\omega_l$ goes back through all of it. Chapter 10 gave the slope for the start,
# $\nabla_{\theta_0} L_Q(\theta_K)$. A little more $a_l$ moves the start from the fresh weights towards the
# source's. So the chain rule says:
#
# $$\frac{\partial L_Q(\theta_K)}{\partial \omega_l} = a_l (1 - a_l) \, \big(\theta_s^{[l]} - \theta^{[l]}\big) \cdot
# \nabla_{\theta_0^{[l]}} L_Q(\theta_K) \qquad \text{(Formula 13.3)}$$
#
# The dot is the sum over all weights of the layer.

# %% [markdown]
# ## One weight, by hand
#
# One weight again: the answer is $\theta x$. The source has 4, the fresh start 0. Two tasks, whose losses are a
# flat bowl and a steep one, the same for support and queries:
#
# $$L_1(\theta) = (\theta - 2)^2, \qquad L_2(\theta) = 4 (\theta - 7)^2$$
#
# As in chapter 10, one step with $\alpha = 0.1$ leaves $r_1 = 0.8$ of the distance in the flat bowl, and $r_2 =
# 0.2$ in the steep one.

# %% [markdown]
# Take half. Then $\theta_0 = 2$. The first task is solved there. In the second a step leads from 2 to 6, the loss
# is 4, and its slope for the start is $0.2 \cdot 8 \cdot (6 - 7) = -1.6$; in the mean over both tasks $-0.8$.
# Formula 13.3 makes it $0.5 \cdot 0.5 \cdot (4 - 0) \cdot (-0.8) = -0.8$: take more of the source. By a tape:

# %%
source_weight, fresh_weight, alpha = 4.0, 0.0, 0.1
curvatures, centres = tf.constant([1.0, 4.0]), tf.constant([2.0, 7.0])
omega = tf.Variable(0.0)

# %% [markdown]
# The slope of each bowl is known, so one tape will do:

# %%
with tf.GradientTape() as tape:
    start = tf.sigmoid(omega) * source_weight + (1 - tf.sigmoid(omega)) * fresh_weight
    adapted = start - alpha * 2 * curvatures * (start - centres)
    query_loss = tf.reduce_mean(curvatures * (adapted - centres) ** 2)
slope = tape.gradient(query_loss, omega)
print(f"adapted {adapted.numpy()}, slope for omega {slope:.2f}")
assert np.allclose(adapted, [2, 6]) and np.isclose(slope, -0.8)

# %% [markdown]
# Where does it end? After adapting, task $i$ with curvature $c_i$ and centre $m_i$ has the loss $c_i r_i^2
# (\theta_0 - m_i)^2$. The best start is the mean of the centres with the weights $c_i r_i^2$, and the best amount
# is how far it lies on the way from the fresh weight to the source's:
#
# $$a^* = \frac{\bar m - \theta}{\theta_s - \theta}, \qquad \bar m = \frac{\sum_i c_i r_i^2 \, m_i}{\sum_i c_i r_i^2}, \qquad
# r_i = (1 - 2 \alpha c_i)^K \qquad \text{(Formula 13.4)}$$
#
# The weights are $0.64$ and $0.16$, so $\bar m = 0.8 \cdot 2 + 0.2 \cdot 7 = 3$, and $a^* = 3/4$.

# %% [markdown]
# Now by the library: a network of one weight, the rule `Strategy`, and `MetaLearner.fit`. A task with $x = 1, y =
# 2$ has the first loss, one with $x = 2, y = 14$ the second.


# %%
def one_weight(value):
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, name="only")])
    network.set_weights([np.array([[value]])])
    return network


x, y = tf.constant([[[1.0]], [[2.0]]]), tf.constant([[[2.0]], [[14.0]]])
two_tasks = tf.data.Dataset.from_tensors(mk.Episode(x, y, x, y)).repeat()

# %% [markdown]
# The network that the learner gets is the fresh start; the rule gets the source.

# %%
learner = mk.MetaLearner(
    network=one_weight(fresh_weight), rule=Strategy(one_weight(source_weight), alpha)
)
learner.compile(keras.optimizers.SGD(0.1), loss="mse", steps_per_execution=50)
learner.fit(two_tasks, steps_per_epoch=200, verbose=0)
learned = learner.rule.amounts()["only"]
print(f"learned amount {learned:.4f}")
assert np.isclose(learned, 3 / 4, atol=1e-3)
assert learner.network.get_weights()[0] == fresh_weight  # the fresh start has not moved

# %% [markdown]
# What if one does not look through the adapting? Before any step, the steep bowl counts most: the best start would
# be 6, beyond the source, and the best amount 1. The picture shows both losses.

# %%
grid = np.linspace(0, 1, 101)
starts = fresh_weight + grid[:, None] * (source_weight - fresh_weight)
for left, label in ((1, "before adapting"), (1 - 2 * alpha * curvatures.numpy(), "after one step")):
    losses = np.mean(curvatures * (left * (starts - centres)) ** 2, axis=1)
    plt.plot(grid, losses / losses.min(), label=label)
    plt.plot(grid[losses.argmin()], 1, marker="o", color="black")
plt.gca().set(xlabel="amount of the source", ylabel="loss, divided by its least", ylim=(0, 6))
plt.legend()
plt.show()

# %% [markdown]
# ## The library's rule
#
# `Strategy` is `GradientDescent` with another beginning. Here is the blend. `stop_gradient` sees to it that the
# fresh start is not learned; the source is a frozen copy of yours.

# %%
Code(inspect.getsource(Strategy.blend), language="python")

# %%
Code(inspect.getsource(Strategy.adapt), language="python")

# %% [markdown]
# The amounts serve outside of a learner, too: `blend_weights(source, model, rule.amounts())` gives any model of the
# same make that start, to train on with `fit`.

# %%
model = one_weight(fresh_weight)
blend_weights(one_weight(source_weight), model, learner.rule.amounts())
print(f"start {model.get_weights()[0].item():.3f}")
assert np.isclose(model.get_weights()[0].item(), 3, atol=1e-2)

# %% [markdown]
# ## A source, near targets and far ones
#
# The source has learned 200 letters, each drawn 20 times. **Near** targets are five other letters from five
# drawings of each. **Far** targets are five kinds of garments from five pictures of each.
#
# A strategy is learned on *practice* tasks, and examined on others. Near: practice letters are of the source's
# alphabets but not among its 200; exam letters are of alphabets never seen. Far: the same ten garments in other
# pictures. (A strategy of three numbers cannot learn pictures by heart.)

# %%
glyphs, garments = mk.load("glyphs"), mk.load("fashion")
letters = glyphs.split("train")
order = np.random.default_rng(0).permutation(len(letters))
of_source = letters.select(order[:200])
practice = {"near": letters.select(order[200:]), "far": garments.split("test")}
exam = {"near": glyphs.split("test"), "far": garments.split("train")}
assert not set(exam["near"].names) & (set(of_source.names) | set(practice["near"].names))

# %% [markdown]
# One of each: what the source has learned from, what a near target shows, and a far one.

# %%
figure, rows = plt.subplots(3, 10, figsize=(7, 2.4))
for row, (title, pool) in zip(rows, {"source": of_source, **exam}.items(), strict=True):
    shown = pool.first[np.linspace(0, len(pool) - 1, 10).astype(int)]
    for axes, picture in zip(row, pool.examples[shown], strict=True):
        axes.imshow(picture[..., 0])
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    row[0].set_ylabel(title, rotation=0, ha="right", va="center")
plt.show()

# %% [markdown]
# Three convolutions and a head, behind a pooling that halves the height and the width of a picture. (It saves time.)
# The trunk, the three convolutions, will be blended. A head for 200 letters is of no use to a task of five classes,
# so the head always begins fresh.

# %%
TRUNK, STEPS = ["conv1", "conv2", "conv3"], 3


def network(units, seed):
    keras.utils.set_random_seed(seed)
    trunk = [
        keras.layers.Conv2D(filters, 3, strides, padding="same", activation="relu", name=name)
        for filters, strides, name in zip((8, 16, 16), (2, 2, 1), TRUNK, strict=True)
    ]
    head = [keras.layers.Flatten(), keras.layers.Dense(units, name="head")]
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.AveragePooling2D(2), *trunk, *head])


# %%
source = network(200, seed=100)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
source.compile("adam", loss, metrics=["accuracy"], steps_per_execution=50)
drawings, which = of_source.arrays()
batches = tf.data.Dataset.from_tensor_slices((drawings / np.float32(255), which))
batches = batches.shuffle(4000, seed=0).repeat().batch(64)
history = source.fit(batches, steps_per_epoch=400, shuffle=False, verbose=0).history
print(f"accuracy of the source on its 200 letters, while it learned: {history['accuracy'][0]:.2f}")

# %% [markdown]
# ## Amount and rate belong together
#
# Before we learn a strategy, we look at what there is to choose. One learner does for all: its amounts and its
# rates are variables of its rule, and we set them as we please. (`learn_rates="layer"` makes the rates variables;
# they are held still.) There are five fresh starts.

# %%
rule = Strategy(source, 0.1, steps=STEPS, layers=TRUNK, learn_rates="layer")
learner = mk.MetaLearner(network=network(5, seed=0), rule=rule)
learner.compile(keras.optimizers.Adam(0.09), steps_per_execution=15)
for rate in rule.rates:
    rate.trainable = False

# %% [markdown]
# This sets the three things that differ from trial to trial:

# %%
fresh = [network(5, seed).get_weights() for seed in range(5)]


def set_up(amounts, rate, start):
    """Let the learner take these amounts and this rate, from fresh start number so and so."""
    amounts = np.clip(np.broadcast_to(amounts, 3), 1e-7, 1 - 1e-7)
    learner.rule.omega.assign(np.log(amounts / (1 - amounts)))
    for each in learner.rule.rates:
        each.assign(rate)
    learner.network.set_weights(fresh[start])


# %% [markdown]
# The tasks: five classes, five pictures of each to learn from, ten of each to be asked for. Chance is 0.2.


# %%
def tasks_of(pool, seed, shots=5, meta_batch=4):
    return mk.FewShot(pool, ways=5, shots=shots, queries=10, meta_batch=meta_batch, seed=seed)


# %% [markdown]
# What is counted is the share of right answers to the queries of a task.


# %%
@tf.function(reduce_retracing=True)
def right(learner, episode):
    """(tasks,) the share of right answers in each task, after the learner's steps."""
    answers = learner(tuple(episode[:3]))
    found = tf.argmax(answers, axis=-1, output_type=tf.int32) == episode.query_y
    return tf.reduce_mean(tf.cast(found, tf.float32), axis=-1)


# %% [markdown]
# The accuracy of a trial is the mean over its tasks:


# %%
def accuracy(amounts, rate, start, episode):
    set_up(amounts, rate, start)
    return float(tf.reduce_mean(right(learner, episode)))


# %% [markdown]
# Five amounts, the same for all layers, and eight rates, on 10 practice tasks for each field:

# %%
AMOUNTS, RATES = (0.0, 0.25, 0.5, 0.75, 1.0), (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
fields = {}
for kind, pool in practice.items():
    episode = next(iter(tasks_of(pool, seed=99, meta_batch=10)))
    fields[kind] = np.array([[accuracy(a, rate, 0, episode) for a in AMOUNTS] for rate in RATES])

# %% picture="amount_and_rate"
figure, both = plt.subplots(1, 2, figsize=(7.4, 3.4), sharey=True)
for axes, (kind, field) in zip(both, fields.items(), strict=True):
    axes.imshow(field, origin="lower", vmin=0.2, vmax=0.75, aspect="auto", cmap="Blues")
    for (row, column), value in np.ndenumerate(field):
        ink = "white" if value > 0.5 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set(title=f"{kind} targets", xlabel="amount of the source")
    axes.set(xticks=range(5), xticklabels=AMOUNTS, yticks=range(8), yticklabels=RATES)
    axes.grid(False)
both[0].set_ylabel("learning rate")
plt.show()

# %% [markdown]
# There is a ridge from the upper left to the lower right. The trained network has larger weights than the fresh
# ones, and with larger weights come larger gradients: steps that bring a fresh network forward throw a trained one
# off. Whoever compares amounts at one and the same rate compares rates. In the exam, therefore, **every fixed
# amount has its own best rate**, chosen here, on practice tasks. (On near targets a fresh network takes the highest
# that we tried, and is still far behind.)

# %%
kernels = [source.get_layer(name).kernel.numpy() for name in TRUNK], fresh[0][0:6:2]
of_source_kernels, of_fresh_kernels = ([np.std(kernel) for kernel in each] for each in kernels)
assert np.all(np.array(of_source_kernels) > np.array(of_fresh_kernels))
best_rate = {
    kind: dict(zip(AMOUNTS, np.take(RATES, field.argmax(axis=0)).tolist(), strict=True))
    for kind, field in fields.items()
}
rows = [
    {"targets": kind, **{f"amount {a}": rates[a] for a in AMOUNTS}} for kind, rates in best_rate.items()
]
mk.report.Table(rows)

# %% [markdown]
# ## Learning the amounts
#
# The strategy gets no such choice. Its rate is 0.1, for near and for far targets, and it begins with D2's half.
# Then come 15 steps of the optimizer, with four practice tasks each. All it takes is `fit`. We do it for each of
# the five fresh starts; `restart` makes the optimizer forget the one before.

# %%
RATE = 0.1


def learn(tasks, start, steps=15):
    """The amounts after so many steps of learning, from half and half."""
    set_up(0.5, RATE, start)
    restart(learner)
    learner.fit(tasks, steps_per_epoch=steps, verbose=0)
    return list(learner.rule.amounts().values())


# %%
amounts = {
    kind: np.array([learn(tasks_of(pool, seed=start), start) for start in range(5)])
    for kind, pool in practice.items()
}
assert all(np.array_equal(a, b) for a, b in zip(fresh[4], learner.network.get_weights(), strict=True))

# %% [markdown]
# The fresh start is as it was, to the last bit. What was learned is three numbers. The lines are 95 % intervals
# over the five starts; the dashes are D2's half.

# %%
plt.figure(figsize=(6, 2.8))
for shift, (kind, found), color in zip(
    (-0.2, 0.2), amounts.items(), mk.report.PALETTE[2:4], strict=True
):
    mean, half = np.transpose([mk.report.mean_and_interval(column) for column in found.T])
    plt.bar(
        np.arange(3) + shift, mean, 0.36, yerr=half, capsize=3, color=color, label=f"{kind} targets"
    )
plt.axhline(0.5, color="0.4", linewidth=1, linestyle="--")
plt.gca().set(xticks=range(3), xticklabels=TRUNK, ylim=(0, 1), ylabel="amount of the source")
plt.legend(loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# The nearer the targets, the more of the source is taken: here the strategy has found out by itself what "near" and
# "far" mean. We assert it for the mean over the layers.

# %%
near_less_far = mk.report.mean_and_interval(amounts["near"].mean(axis=1) - amounts["far"].mean(axis=1))
print("near less far: {:.3f} ± {:.3f}".format(*near_less_far))
assert near_less_far[0] > near_less_far[1]

# %% [markdown]
# ## The exam
#
# Twelve tasks of each kind, the same for all, from each of the five starts, and three steps for everybody. Fixed
# amounts take their own best rates. *Best on practice* is the darkest field above: the best amount and rate of all
# that we tried. D2's half is there a second time, at the rate that the strategy was given.
#
# Three steps are little for a fresh network. So it takes part once more, with 20 steps. Its rate, too, is the best
# of three on practice tasks.

# %%
long_rule = mk.rules.GradientDescent(0.1, steps=20, learn_rates="layer")
patient = mk.MetaLearner(network=network(5, seed=0), rule=long_rule)


def with_patience(rate, start, episode):
    for each in long_rule.rates:
        each.assign(rate)
    patient.network.set_weights(fresh[start])
    return float(tf.reduce_mean(right(patient, episode)))


# %% [markdown]
# Its rates are looked for on five practice tasks of each kind, from two of the starts:

# %%
patient_rate = {}
for kind, pool in practice.items():
    episode = next(iter(tasks_of(pool, seed=99, meta_batch=5)))
    found = {
        rate: with_patience(rate, 0, episode) + with_patience(rate, 1, episode)
        for rate in (0.1, 0.2, 0.4)
    }
    patient_rate[kind] = max(found, key=found.get)
print(patient_rate)

# %% [markdown]
# What each contestant has chosen, for each of the starts: an amount and a rate.

# %%
FIXED = {"from scratch": 0.0, "half and half": 0.5, "fine-tuning": 1.0}
PATIENT = "scratch, 20 steps"


def choices(kind):
    rate, column = np.unravel_index(fields[kind].argmax(), fields[kind].shape)
    return {
        **{name: [(a, best_rate[kind][a])] * 5 for name, a in FIXED.items()},
        "best on practice": [(AMOUNTS[column], RATES[rate])] * 5,
        f"half, rate {RATE}": [(0.5, RATE)] * 5,
        "learned": [(tuple(a), RATE) for a in amounts[kind]],
    }


# %% [markdown]
# The contest. Where two have chosen alike, the trial is made once.


# %%
def contest(kind, episode, names):
    """For each contestant, its accuracy from the five starts."""
    trials = {
        name: [(*choice, start) for start, choice in enumerate(choices(kind)[name])] for name in names
    }
    different = {trial for five in trials.values() for trial in five}
    found = {trial: accuracy(*trial, episode) for trial in different}
    marks = {name: np.array([found[trial] for trial in five]) for name, five in trials.items()}
    patience = [with_patience(patient_rate[kind], start, episode) for start in range(5)]
    return marks | {PATIENT: np.array(patience)}


# %% [markdown]
# Accuracies with 95 % intervals over the five starts:

# %%
exams = {kind: next(iter(tasks_of(pool, seed=7, meta_batch=12))) for kind, pool in exam.items()}
results = {kind: contest(kind, episode, choices(kind)) for kind, episode in exams.items()}
rows = [
    {"contestant": name, **{kind: mk.Score.of(results[kind][name]) for kind in results}}
    for name in results["near"]
]
mk.report.Table([*rows, {"contestant": "chance", "near": 0.2, "far": 0.2}])

# %% [markdown]
# Starts and tasks were the same for all. So we may compare start by start: *learned less the other*, with the
# interval of that difference.

# %%
lead = {
    kind: {
        name: mk.Score.of(marks["learned"] - values)
        for name, values in marks.items()
        if name != "learned"
    }
    for kind, marks in results.items()
}
for of_kind in lead.values():
    assert all(of_kind[name].mean > 0.05 for name in ("from scratch", "fine-tuning"))
    assert of_kind[PATIENT].mean < of_kind["from scratch"].mean - 0.05

# %% [markdown]
# The lead over training from scratch and over fine-tuning is asserted. Here are all:

# %%
rows = [{"learned less": name, **{kind: lead[kind][name] for kind in lead}} for name in lead["near"]]
mk.report.Table(rows)

# %% [markdown]
# What is left of the lead, once everybody has a rate that suits?
#
# - **Over training from scratch, and over fine-tuning** (amount 1), in the same three steps, it is clear.
# - **Over half and half at its own best rate** there is next to nothing: on near targets the half is even ahead in the
#   mean, on far ones there is a small gain. D2's guess is hard to beat, once a rate has been searched for it.
# - **Over the best of the whole search.** On near targets that is the half. On far ones it is less of the source, and
#   the strategy is clearly ahead of it. What leads by a little on ten practice tasks need not lead in the exam.
# - **At one given rate** learning makes up, on near targets, for a rate that does not suit the half. On far ones the
#   given rate happens to be the half's own best, so there is no more to gain than above.
# - **Patience makes up for most of it.** On far targets twenty steps from scratch cannot be told from three steps after
#   learned blending; on near ones blending keeps a lead, but a small one. What this transfer saves is steps, before
#   all.
#
# So do not learn a strategy where one choice of one number will do. What it saves is the search: the fields above
# took 400 tasks for each kind, the strategy 60.

# %% [markdown]
# ## More labels
#
# Does a strategy that was learned with five labels a class serve with more? Garments have enough for 20 and for
# 100. (Letters have 20 drawings in all, ten of which are asked for.) Nothing is chosen or learned anew: the same
# amounts, the same numbers of steps, and the rates that were chosen with five labels, for the 20 steps from scratch
# too. As there are more pictures to go through, there are fewer tasks.

# %%
labels, shown = {5: results["far"]}, (*FIXED, "best on practice", "learned")
for shots, meta_batch in ((20, 3), (100, 2)):
    episode = next(iter(tasks_of(exam["far"], seed=7, shots=shots, meta_batch=meta_batch)))
    labels[shots] = contest("far", episode, shown)
rows = [
    {"labels a class": shots, **{name: mk.Score.of(marks[name]) for name in (*shown, PATIENT)}}
    for shots, marks in labels.items()
]
assert all(np.mean(marks["learned"] - marks["fine-tuning"]) > 0.05 for marks in labels.values())
mk.report.Table(rows)

# %% [markdown]
# Again the differences, start by start. With two tasks at 100 labels the intervals are wide.

# %%
plt.figure(figsize=(6.5, 2.8))
for shift, name, marker in zip((-0.21, -0.07, 0.07, 0.21), (*FIXED, PATIENT), "so^D", strict=True):
    pairs = [mk.report.mean_and_interval(marks["learned"] - marks[name]) for marks in labels.values()]
    mean, half = np.transpose(pairs)
    plt.errorbar(np.arange(3) + shift, mean, half, marker=marker, linestyle="", capsize=3, label=name)
plt.axhline(0, color="0.4", linewidth=1)
plt.gca().set(
    xticks=range(3), xticklabels=[f"{shots} labels" for shots in labels], ylabel="lead of the learned"
)
plt.legend(title="over", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# A strategy of three numbers does not wear out: learned with five labels a class, it is still ahead of fine-tuning
# with 20 and with 100, and of three steps from scratch. But half and half is not far behind, and twenty steps from
# scratch cannot be told from it at any number of labels. So this says as much about three steps as about the
# strategy. Who has 500 labelled pictures has time for more than three steps, and then chapter 03's fine-tuning is the
# thing to do.

# %% [markdown]
# ## A strategy network
#
# So far near targets have one strategy and far ones another, and somebody has to say which is which. Let both be
# drawn in a mix. Then the strategy must *look* at a task first. That is D5's **strategy network** (策略网络):
#
# $$a_l = \sigma\big(\omega_l + n(c_l; \omega)\big) \qquad \text{(Formula 13.5)}$$
#
# $n$ is a small dense network, one for all layers, with eight hidden units. $c_l$ is what it is told about the
# task: three numbers that compare how the source's layer $l$ answers the support set, and how it answers a sample
# of the source's own data.

# %% [markdown]
# Write $\mu_t, \mu_s$ for the mean answer of the layer to the support set and to the sample, and $s_t, s_s$ for the
# spreads around them: a spread is the root of the mean squared distance from the mean. $s_b$ is the spread of the
# class means of the support set. Then
#
# $$c_l = \Big( \frac{\lVert \mu_t - \mu_s \rVert}{s_s}, \; \; \log \frac{s_t}{s_s}, \; \; \frac{s_b^2}{s_t^2} \Big)
# \qquad \text{(Formula 13.6)}$$
#
# How far away is the task? Is it wider or narrower than what the source knows? Do its classes come apart in this
# layer?

# %%
Code(inspect.getsource(StrategyNetwork.compare), language="python")

# %% [markdown]
# A tiny example: the layer answers the sample with $-1$ and $1$, and the support set with $4, 6$ (class 0) and $8,
# 10$ (class 1). Then $\mu_s = 0$, $s_s = 1$, $\mu_t = 7$, $s_t^2 = (9 + 1 + 1 + 9) / 4 = 5$. The class means are 5
# and 9, so $s_b^2 = 4$. And $c = (7, \log \sqrt 5, 4/5)$.

# %%
tiny = StrategyNetwork(one_weight(1.0), np.array([[-1.0], [1.0]]), alpha)
mk.MetaLearner(network=one_weight(0.0), rule=tiny)
seen = tiny.compare(tf.constant([[4.0], [6.0], [8.0], [10.0]]), tf.constant([0, 0, 1, 1]))
print(seen.numpy().round(3))
assert np.allclose(seen, [[7, np.log(np.sqrt(5)), 4 / 5]], atol=1e-4)

# %% [markdown]
# Two near and two far tasks in every batch. Nothing tells them apart but the pictures.


# %%
def mixed(pools, seed, meta_batch=2):
    """Tasks of both kinds in every batch: first the near ones, then as many far ones."""

    def joined(near, far):
        return mk.Episode(*[tf.concat(parts, axis=0) for parts in zip(near, far, strict=True)])

    both = [tasks_of(pool, seed, meta_batch=meta_batch) for pool in pools.values()]
    return tf.data.Dataset.zip(*both).map(joined)


# %% [markdown]
# The strategy network learns for 30 steps; so does, on the same tasks, a strategy with one set of amounts for all.
# Both begin with half, from the same fresh start.

# %%
rule = StrategyNetwork(source, drawings[::16], RATE, STEPS, layers=TRUNK)
looking = mk.MetaLearner(network=network(5, seed=0), rule=rule)
looking.compile(keras.optimizers.Adam(0.05))
looking.fit(mixed(practice, seed=0), steps_per_epoch=30, verbose=0)
one_for_all = learn(mixed(practice, seed=0), start=0, steps=30)

# %% [markdown]
# Here is what it takes for each of 40 exam tasks:

# %%
episode = next(iter(mixed(exam, seed=7, meta_batch=20)))
taken = [
    list(rule.amounts(x, y).values()) for x, y in zip(episode.support_x, episode.support_y, strict=True)
]
taken = {"near": np.array(taken[:20]), "far": np.array(taken[20:])}
assert np.all(taken["near"].mean(axis=0) > taken["far"].mean(axis=0))

# %% [markdown]
# A dot a task; the dashes are the amounts of the strategy that has one set for all.

# %%
plt.figure(figsize=(6.5, 2.8))
for shift, (kind, found), marker, color in zip(
    (-0.15, 0.15), taken.items(), "o^", mk.report.PALETTE[2:4], strict=True
):
    places = np.arange(3) + shift + np.linspace(-0.08, 0.08, 20)[:, None]
    plt.plot(
        places,
        found,
        marker=marker,
        markersize=4,
        linestyle="",
        color=color,
        label=[f"{kind} targets", *"__"],
    )
plt.hlines(
    one_for_all,
    np.arange(3) - 0.3,
    np.arange(3) + 0.3,
    color="0.3",
    linestyle="--",
    linewidth=1,
    label="one for all",
)
plt.gca().set(xticks=range(3), xticklabels=TRUNK, ylim=(0, 1), ylabel="amount of the source")
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# It tells the kinds apart without having been told that there are two. Does it help? The intervals are over tasks
# here, for each strategy was learned once.

# %%
set_up(one_for_all, RATE, 0)
one, looked = (right(each, episode).numpy() for each in (learner, looking))
halves = {"near": slice(20), "far": slice(20, 40), "both": slice(40)}
gain = {kind: mk.Score.of((looked - one)[part]) for kind, part in halves.items()}
assert gain["far"].mean > gain["far"].interval and gain["both"].mean > 0
rows = [
    {
        "targets": kind,
        "one for all": mk.Score.of(one[part]),
        "strategy network": mk.Score.of(looked[part]),
        "difference": gain[kind],
    }
    for kind, part in halves.items()
]
mk.report.Table(rows)

# %% [markdown]
# In the mix it does help, and it is the far tasks that it helps: one set of amounts for all is a compromise, and
# takes too much for them. If all your tasks are of one kind, there is nothing to look for, and three numbers are
# enough.

# %% [markdown]
# Two warnings. All this is one family of small convolutional networks, one source and two kinds of targets; we
# claim it for these. And a strategy sees many target tasks while it learns. Who has only one target cannot learn a
# strategy from it, and must choose.

# %% [markdown]
# ## Summary
#
# - A strategy of transfer says what to take from a source. It can be learned: by gradients that go back through the
#   adapting, over many target tasks.
# - The smallest one is an amount for each layer. Near targets take more of the source, far ones less.
# - Amount and learning rate belong together. Compared at one rate, a strategy looks better than it is; at its own
#   best rate, half and half does as well on near targets.
# - A strategy network looks at a task first. It gains where tasks differ.
# - D5's printed code is no strategy: it fits noise, and tells source from target by nothing.

# %% [markdown]
# ## Exercises
#
# Each has a check. Run its cell, then call the check with your answer.

# %% [markdown]
# **1. The other way.** Write `omega_for(amount)`: the $\omega$ that makes an amount (Formula 13.2).


# %%
def check_omega_for(omega_for):
    for amount in (0.1, 0.5, 0.9):
        found = 1 / (1 + np.exp(-omega_for(amount)))
        assert np.isclose(found, amount), f"the sigmoid of your answer is {found:.3f}, not {amount}"
    print("Right.")


# %% [markdown]
# **2. The best amount.** Write `best_amount(curvatures, centres, source, fresh, alpha, steps)` (Formula 13.4).


# %%
def check_best_amount(best_amount):
    curvatures, centres = np.array([1.0, 4.0]), np.array([2.0, 7.0])
    assert np.isclose(best_amount(curvatures, centres, 4.0, 0.0, 0.1, 1), 3 / 4), "the example by hand"
    assert np.isclose(best_amount(curvatures, centres, 4.0, 0.0, 0.1, 0), 1.5), (
        "no step, nothing is left out"
    )
    assert np.isclose(best_amount(curvatures, centres, 5.0, 1.0, 0.1, 1), 1 / 2), (
        "from 1 to 5, 3 is half way"
    )
    print("Right.")


# %% [markdown]
# **3. The slope of an amount.** Write `slope(omega, source, fresh, upstream)`: Formula 13.3 for one layer, where
# `upstream` is the gradient for the start, an array like the weights.


# %%
def check_slope(slope):
    random = np.random.default_rng(0)
    source, fresh, aim = random.normal(size=(3, 4, 2))

    def loss(omega):
        amount = 1 / (1 + np.exp(-omega))
        return np.sum((amount * source + (1 - amount) * fresh - aim) ** 2)

    amount = 1 / (1 + np.exp(-0.7))
    upstream = 2 * (amount * source + (1 - amount) * fresh - aim)
    by_differences = (loss(0.7 + 1e-5) - loss(0.7 - 1e-5)) / 2e-5
    assert np.isclose(slope(0.7, source, fresh, upstream), by_differences), (
        f"by differences it is {by_differences:.4f}"
    )
    print("Right.")


# %% [markdown]
# **4. A fixed strategy.** Write `rule(source)`: the strategy that takes a quarter of the layer `"head"`, leaves
# all others fresh, and learns nothing.


# %%
def check_fixed(rule):
    source, network = (mk.networks.mlp(2, hidden=(4,)) for _ in range(2))
    made = rule(source)
    mk.MetaLearner(network=network, rule=made)
    assert made.amounts() == {"head": 0.25}, f"the amounts are {made.amounts()}"
    assert not made.trainable_variables, "it still learns"
    print("Right.")


# %% [markdown]
# ## References
#
# - C. Finn, P. Abbeel, S. Levine, [Model-Agnostic Meta-Learning](https://arxiv.org/abs/1703.03400), 2017: gradients
#   through adapting.
# - J. Yosinski and others, [How transferable are features in deep neural
#   networks?](https://arxiv.org/abs/1411.1792), 2014: layer by layer, near and far.
# - Y. Jang and others, [Learning What and Where to Transfer](https://arxiv.org/abs/1905.05901), 2019: a strategy
#   learned by meta-learning.
# - Y. Guo and others, [SpotTune: Transfer Learning through Adaptive Fine-tuning](https://arxiv.org/abs/1811.08737),
#   2019: a policy network that chooses layers for each example.
#
# Next: [the list of chapters](README.md#chapters).
