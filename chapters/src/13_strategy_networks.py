# %% [markdown]
# # Strategy networks: learning how to transfer
#
# **What you will be able to do.** Say what a strategy of transfer is, and what it means to learn one. Work out by
# hand how much of a source to take, and check it by a tape and by the library. Learn an amount for every layer,
# through the adapting. Compare it fairly with training from scratch, D2's half-and-half, and fine-tuning, in few
# steps and in more. Let a small network look at a task and choose the amounts. Say where a learned strategy gains
# nothing.
#
# **What you need.** Chapter [01](01_learning_to_learn.ipynb) for tasks, chapter [03](03_transfer.ipynb) for transfer,
# half-and-half and fine-tuning, and chapter [10](10_maml.ipynb) for gradients that go through adapting.
#
# **Time.** About 30 minutes to read; about a minute and a half to run on two cores.
#
# **From the documents.** D5 1, 2, 3, 4. The [guide](README.md#from-the-documents-to-the-chapters) has the whole
# table.
#
# ![Accuracy over the amount of source and the learning rate, for near and far tasks](amount_and_rate.png)
#
# *How much of a trained network should a new one take? Each cell is an amount (from left to right) and a learning
# rate (from bottom to top); dark is good. The more is taken, the smaller the steps must be.*

# %%
import meta_keras as mk  # first, so that TensorFlow starts quietly

import inspect

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from meta_keras.transfer import Strategy, StrategyNetwork, blend_weights

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
for name, (mean, half_width) in scores.items():
    plt.errorbar(
        mean, name, xerr=half_width, marker="o", linestyle="", capsize=3, color=mk.report.PALETTE[0]
    )
plt.gca().set(xlabel="mean squared error on new noise", xlim=(0.95, None), ylim=(2.5, -0.5))
plt.show()

# %%
mean, half_width = mk.report.mean_and_interval(errors[:, 1] - errors[:, 2])
print(f"the trained network, less the answer 0: {mean:.3f} ± {half_width:.3f}")
assert mean - half_width > 0

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
# $a_l (1 - a_l)$ is the slope of the sigmoid. The dot multiplies weight by weight, and adds up over the layer.

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
# Formula 13.3 makes it $0.5 \cdot 0.5 \cdot (4 - 0) \cdot (-0.8) = -0.8$: take more of the source. By a tape (one
# will do, as the slope of each bowl is known):

# %%
source_weight, fresh_weight, alpha = 4.0, 0.0, 0.1
curvatures, centres = tf.constant([1.0, 4.0]), tf.constant([2.0, 7.0])
omega = tf.Variable(0.0)

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
rule = Strategy(one_weight(source_weight), alpha)
learner = mk.MetaLearner(network=one_weight(fresh_weight), rule=rule)
learner.compile(keras.optimizers.SGD(0.1), loss="mse", steps_per_execution=50)
learner.fit(two_tasks, steps_per_epoch=200, verbose=0)
learned = learner.rule.coefficients()["only"]
print(f"learned coefficient {learned:.4f}")
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
plt.gca().set(
    xlabel="mixing coefficient of the source", ylabel="loss, divided by its least", ylim=(0, 6)
)
plt.legend()
plt.show()

# %% [markdown]
# ## The library's rule
#
# A layer may have several arrays of weights, a kernel and a bias. Formula 13.2 in plain code goes through them:


# %%
def blended(source_arrays, fresh_arrays, coefficient):
    pairs = zip(source_arrays, fresh_arrays, strict=True)
    return [coefficient * given + (1 - coefficient) * own for given, own in pairs]


start = blended([np.array([4.0])], [np.array([0.0])], coefficient=0.75)
assert start == [3.0]

# %% [markdown]
# `Strategy` does so for each layer that has an amount, and then it is `GradientDescent`:

# %%
Code(inspect.getsource(Strategy.adapt), language="python")

# %% [markdown]
# What it can be told:
#
# - `Strategy(source, learning_rate, steps)`: the source is a trained network, of which the rule keeps a frozen copy;
#   the others are those of `GradientDescent`.
# - `layers`: the names of the layers that are blended; if none are named, all that match. Others begin fresh.
# - `coefficient`: where learning begins, one half if nothing is said.
# - `learn=False` keeps it there. D2's blend is `coefficient=0.5, learn=False`.

# %% [markdown]
# The amounts serve outside of a learner, too: `blend_weights(source, model, rule.coefficients())` gives any model with the
# same layers that start, to train on with `fit`.

# %%
model = one_weight(fresh_weight)
blend_weights(one_weight(source_weight), model, learner.rule.coefficients())
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
drawings, which = of_source.arrays()
drawings = drawings / np.float32(255)
kept_back = np.arange(len(which)) % 20 >= 18  # each letter has 20 drawings, one after another
batches = tf.data.Dataset.from_tensor_slices((drawings[~kept_back], which[~kept_back]))
batches = batches.shuffle(4000, seed=0).repeat().batch(64)
assert np.all(np.bincount(which[kept_back]) == 2)

# %% [markdown]
# Two drawings of each letter are kept back, to see what the source knows in the end:

# %%
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
source.compile("adam", loss, steps_per_execution=50)
source.fit(batches, steps_per_epoch=400, shuffle=False, verbose=0)
answers = np.argmax(source(drawings[kept_back]), axis=1)
known = np.mean(answers == which[kept_back])
print(f"accuracy of the source on drawings that it was not trained on: {known:.2f}, chance {1 / 200}")
assert known > 0.3

# %% [markdown]
# The tasks: five classes, five pictures of each to learn from, ten of each to be asked for. Chance is 0.2.


# %%
def tasks_of(pool, seed, shots=5, meta_batch=4):
    return mk.FewShot(pool, ways=5, shots=shots, queries=10, meta_batch=meta_batch, seed=seed)


# %% [markdown]
# What is counted is the share of right answers to the queries of a task. `any_size` leaves the numbers of tasks and
# of pictures open: TensorFlow traces the function once for a learner, and not again for every size.


# %%
@tf.function
def right(learner, episode):
    """(tasks,) the share of right answers in each task, after the learner's steps."""
    answers = learner(tuple(episode[:3]))
    found = tf.argmax(answers, axis=-1, output_type=tf.int32) == episode.query_y
    return tf.reduce_mean(tf.cast(found, tf.float32), axis=-1)


pictures, classes = tf.TensorSpec((None, None, 28, 28, 1)), tf.TensorSpec((None, None), tf.int32)
any_size = mk.Episode(pictures, classes, pictures, classes)

# %% [markdown]
# ## Amount and rate belong together
#
# Before we learn a strategy, we look at what there is to choose. One learner does for all: its amounts and its
# rates are variables of its rule, and we set them as we please. (`LearnedRates(0.1, "layer")` makes the rates variables;
# they are held still.)


# %%
def learner_with(steps):
    rule = Strategy(source, mk.rules.LearnedRates(0.1, "layer"), steps=steps, layers=TRUNK)
    learner = mk.MetaLearner(network=network(5, seed=0), rule=rule)
    for rate in rule.transform.rates:
        rate.trainable = False
    right.get_concrete_function(learner, any_size)
    return learner


quick = learner_with(STEPS)

# %% [markdown]
# There are five fresh starts. This sets the three things that differ from trial to trial:

# %%
fresh = [network(5, seed).get_weights() for seed in range(5)]


def set_up(learner, coefficients, rate, start):
    """Let the learner take these coefficients and this rate, and begin from this fresh start."""
    coefficients = np.clip(np.broadcast_to(coefficients, 3), 1e-7, 1 - 1e-7)
    learner.rule.omega.assign(np.log(coefficients / (1 - coefficients)))
    for each in learner.rule.transform.rates:
        each.assign(rate)
    learner.network.set_weights(fresh[start])


# %% [markdown]
# The accuracy of a trial is the mean over its tasks. Choices are made by the mean over all five starts, each with two
# practice tasks of its own:

# %%
to_choose = {
    kind: list(tasks_of(pool, seed=99, meta_batch=2).take(5)) for kind, pool in practice.items()
}


def accuracy(learner, coefficients, rate, start, episode):
    set_up(learner, coefficients, rate, start)
    return float(tf.reduce_mean(right(learner, episode)))


def on_practice(learner, coefficients, rate, kind, starts=5):
    episodes = enumerate(to_choose[kind][:starts])
    return np.mean([accuracy(learner, coefficients, rate, start, each) for start, each in episodes])


# %% [markdown]
# Five amounts, the same for all layers, and eight rates make a grid of forty cells, for near targets and for far
# ones:

# %%
COEFFICIENTS, RATES = (0.0, 0.25, 0.5, 0.75, 1.0), (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
grids = {
    kind: np.array([[on_practice(quick, a, rate, kind) for a in COEFFICIENTS] for rate in RATES])
    for kind in practice
}

# %% picture="amount_and_rate"
figure, both = plt.subplots(1, 2, figsize=(7.4, 3.4), sharey=True)
for axes, (kind, grid) in zip(both, grids.items(), strict=True):
    axes.imshow(grid, origin="lower", vmin=0.2, vmax=0.75, aspect="auto", cmap="Blues")
    for (row, column), value in np.ndenumerate(grid):
        ink = "white" if value > 0.5 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set(title=f"{kind} targets", xlabel="mixing coefficient of the source")
    axes.set(xticks=range(5), xticklabels=COEFFICIENTS, yticks=range(8), yticklabels=RATES)
    axes.grid(False)
both[0].set_ylabel("learning rate")
plt.show()

# %% [markdown]
# There is a ridge from the upper left to the lower right. The trained network has larger weights than the fresh
# ones, and with larger weights come larger gradients: steps that bring a fresh network forward throw a trained one
# off. In chapter 03 both networks were trained, and their mean was neither. Here one is untrained, so mixing shrinks
# the source's weights, and adds a little noise.

# %%
for name in TRUNK:
    trained, untrained = source.get_layer(name).kernel, quick.network.get_layer(name).kernel
    assert np.std(trained) > np.std(untrained)

# %% [markdown]
# Whoever compares amounts at one and the same rate compares rates. In the exam, therefore, **every fixed amount has
# its own best rate**, chosen here, on practice tasks. (On near targets a fresh network takes the highest that we
# tried, and is still far behind.)

# %%
best_rate = {}
for kind, grid in grids.items():
    best_rate[kind] = {a: RATES[row] for a, row in zip(COEFFICIENTS, grid.argmax(axis=0), strict=True)}
    assert grid.max() == grid[:, COEFFICIENTS.index(0.5)].max()
cells = {kind: {f"coefficient {a}": r for a, r in rates.items()} for kind, rates in best_rate.items()}
mk.report.Table([{"targets": kind, **of_kind} for kind, of_kind in cells.items()])

# %% [markdown]
# The darkest cell stands above one half on both sides: of all that we tried, D2's half at its own best rate is the
# best on practice. The cell above asserts it.

# %% [markdown]
# ## Learning the amounts
#
# The strategy gets no such choice. Its rate is 0.1, for near and for far targets: it is given, not searched for. It
# begins with D2's half. Then come 12 steps of the optimizer, with four practice tasks each. All it takes is `fit`. We
# do it for each of the five fresh starts; `restart` makes the optimizer forget the one before.

# %%
RATE = 0.1
quick.compile(keras.optimizers.Adam(0.09), steps_per_execution=6)


def learn(tasks, start, steps=12):
    """The coefficients after so many steps of learning, from half and half."""
    set_up(quick, 0.5, RATE, start)
    mk.restart(quick)
    quick.fit(tasks, steps_per_epoch=steps, verbose=0)
    return list(quick.rule.coefficients().values())


# %%
coefficients = {
    kind: np.array([learn(tasks_of(pool, seed=start), start) for start in range(5)])
    for kind, pool in practice.items()
}
for before, after in zip(fresh[4], quick.network.get_weights(), strict=True):
    assert np.array_equal(before, after)

# %% [markdown]
# The fresh start is as it was, to the last bit. What was learned is three numbers. The lines are 95 % intervals
# over the five starts; the dashes are D2's half.

# %%
plt.figure(figsize=(6, 2.8))
for shift, kind, color in ((-0.2, "near", mk.report.PALETTE[2]), (0.2, "far", mk.report.PALETTE[3])):
    scores = [mk.Score.of(of_layer) for of_layer in coefficients[kind].T]
    means, half_widths = [score.mean for score in scores], [score.interval for score in scores]
    places = np.arange(3) + shift
    plt.bar(places, means, 0.36, yerr=half_widths, capsize=3, color=color, label=f"{kind} targets")
plt.axhline(0.5, color="0.4", linewidth=1, linestyle="--")
plt.gca().set(
    xticks=range(3), xticklabels=TRUNK, ylim=(0, 1.1), ylabel="mixing coefficient of the source"
)
plt.legend(loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# At the same rate, more of the source is taken for near targets than for far ones, and nobody told the strategy
# which is which. The amounts belong to this rate. On far targets they differ much from start to start, and stay near
# one half in the mean. So we assert the mean over the layers only.

# %%
near_less_far = mk.Score.of(coefficients["near"].mean(axis=1) - coefficients["far"].mean(axis=1))
print(f"near less far: {near_less_far.mean:.3f} ± {near_less_far.interval:.3f}")
assert near_less_far.mean > near_less_far.interval

# %% [markdown]
# ## The exam
#
# Ten tasks of each kind, the same for all, from each of the five starts, and three steps. Fixed amounts take their
# own best rates. D2's half is there a second time, at the rate that the strategy was given. The learned amounts, too,
# are there a second time: their mean, the same in all layers.
#
# Three steps are few. So training from scratch, the half and fine-tuning take part once more, with 20 steps. Their
# rates are chosen on the same practice tasks in the same way, from the first three starts
# only. (It saves time, and is less sure.)

# %%
patient = learner_with(20)
TO_TRY = {
    0.0: (0.05, 0.1, 0.2, 0.4, 0.8),
    0.5: (0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
    1.0: (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
}

# %%
patient_rate = {kind: {} for kind in practice}
for kind, of_kind in patient_rate.items():
    for coefficient, rates in TO_TRY.items():
        found = [on_practice(patient, coefficient, rate, kind, starts=3) for rate in rates]
        of_kind[coefficient] = rates[np.argmax(found)]
        assert of_kind[coefficient] not in (rates[0], rates[-1])
rows = [
    {"20 steps": kind, **{f"coefficient {a}": rates[a] for a in TO_TRY}}
    for kind, rates in patient_rate.items()
]
mk.report.Table(rows)

# %% [markdown]
# No choice is at the edge of what was tried. What each contestant takes:

# %%
FIXED = {"from scratch": 0.0, "half and half": 0.5, "fine-tuning": 1.0}


def choices(kind):
    """For each contestant the learner, and for each of the five starts the coefficients and the rate."""
    chosen = {}
    for name, a in FIXED.items():
        chosen[name] = quick, [(a, best_rate[kind][a])] * 5
    chosen[f"half, rate {RATE}"] = quick, [(0.5, RATE)] * 5
    chosen["learned"] = quick, [(a, RATE) for a in coefficients[kind]]
    chosen["learned, their mean"] = quick, [(a.mean(), RATE) for a in coefficients[kind]]
    for name, a in FIXED.items():
        chosen[f"{name}, 20 steps"] = patient, [(a, patient_rate[kind][a])] * 5
    return chosen


# %% [markdown]
# The contest:


# %%
def trials(learner, five, episode):
    """(5,) the accuracy from each of the five starts, with its coefficients and its rate."""
    return np.array([accuracy(learner, *choice, start, episode) for start, choice in enumerate(five)])


def contest(kind, episode, names):
    """For each contestant, its accuracy from the five starts."""
    chosen = choices(kind)
    return {name: trials(*chosen[name], episode) for name in names}


# %% [markdown]
# Accuracies with 95 % intervals over the five starts. The tasks are the same ten for each start: other tasks would
# shift the numbers.

# %%
exams = {kind: next(iter(tasks_of(pool, seed=7, meta_batch=10))) for kind, pool in exam.items()}
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
def lead(kind, one, other):
    return mk.Score.of(results[kind][one] - results[kind][other])


others = [name for name in results["near"] if name != "learned"]
rows = [
    {"learned less": name, **{kind: lead(kind, "learned", name) for kind in results}} for name in others
]
mk.report.Table(rows)

# %% [markdown]
# The leads that we build on. Those of patient fine-tuning are asserted with their intervals, those of the learned
# strategy in the mean:

# %%
LONG_SCRATCH, LONG_FINE = "from scratch, 20 steps", "fine-tuning, 20 steps"
LEADS = [("learned", "from scratch"), ("learned", "fine-tuning")]
LEADS += [(LONG_FINE, LONG_SCRATCH), (LONG_FINE, "learned")]
rows = []
for one, other in LEADS:
    of_both = {kind: lead(kind, one, other) for kind in results}
    rows.append({"lead of": one, "over": other, **of_both})
    assert all(score.mean > 0.05 for score in of_both.values())
    if one == LONG_FINE:
        assert all(score.mean > score.interval for score in of_both.values())
assert lead("near", "learned", f"half, rate {RATE}").mean > 0.05
mk.report.Table(rows)

# %% [markdown]
# What is left of the strategy's lead, once every fixed amount has its best rate?
#
# - **Over training from scratch, and over fine-tuning** (amount 1), in the same three steps, it stays.
# - **Over half and half at its own best rate** there is next to nothing: on near targets none, on far ones a little
#   in the mean. D2's guess is hard to beat, once a rate has been searched for it.
# - **At one given rate** learning makes up, on near targets, for a rate that does not suit the half. On far ones the
#   given rate happens to be the half's own best, so there is no more to gain than above.
# - **Over their own mean** in all layers, the three amounts have no lead that can be told from chance. One number
#   would have done.
# - **Against patience** it is lost. Fine-tuning, the plain thing, does best of all in the mean, in 20 steps at a small
#   rate; the half comes next. And fine-tuning is far ahead of 20 steps from scratch: the
#   source is worth much to the patient, and all of it. (Against these 20 steps from scratch, three after learned
#   blending are ahead on near targets, and a little behind on far ones, in the mean.)
#
# So a learned strategy is good for very few steps: there the whole source cannot be put to use, and a blend of it
# can. With steps to spend, fine-tune. (Our amounts were learned for three steps. For 20 they would have to be learned
# through 20.)
#
# And where one number, chosen by a small search, does as well, do not learn a strategy. The search tried ten tasks
# forty times; the strategy saw 48 tasks once, for each start, with a gradient back through each. It saves trials, not
# labelled tasks.

# %% [markdown]
# ## What the source knows, or how large it is?
#
# A blend also has larger weights than a fresh start. Is that all? Here is a control: the source's weights are
# shuffled within each array. They are as large as before, and know nothing. Half of them is taken, at the rate that
# is best for them on practice.

# %%
random = np.random.default_rng(1)
true_weights = quick.rule.source.model.get_weights()
shuffled = [random.permutation(array.flatten()).reshape(array.shape) for array in true_weights]
quick.rule.source.model.set_weights(shuffled)
rows = []
for kind, episode in exams.items():
    rate = max(RATES[2:7], key=lambda each: on_practice(quick, 0.5, each, kind))
    marks = trials(quick, [(0.5, rate)] * 5, episode)
    less = mk.Score.of(results[kind]["half and half"] - marks)
    assert less.mean > less.interval
    rows.append(
        {"targets": kind, "half of a shuffled source": mk.Score.of(marks), "behind the half": less}
    )
quick.rule.source.model.set_weights(true_weights)
mk.report.Table(rows)

# %% [markdown]
# It is far behind the half of the true source: what is carried over is knowledge above all. (Against training from
# scratch, larger weights do a little good in the mean on near targets, and a little harm on far ones.)

# %% [markdown]
# ## More labels
#
# Does it stay so with more labels? Garments have enough for 20 and for 100. (Letters have 20 drawings in all, ten of
# which are asked for.) Nothing is chosen or learned anew: the same amounts, the same numbers of steps, and the rates
# that were chosen with five labels. As there are more pictures to go through, there are fewer tasks, two for each
# number: other tasks would shift these numbers even more.

# %%
SHOWN = ("half and half", "learned", LONG_SCRATCH, LONG_FINE)
labels = {5: results["far"]}
for shots in (20, 100):
    episode = next(iter(tasks_of(exam["far"], seed=7, shots=shots, meta_batch=2)))
    labels[shots] = contest("far", episode, SHOWN)
rows = [
    {"labels a class": shots, **{name: mk.Score.of(marks[name]) for name in SHOWN}}
    for shots, marks in labels.items()
]
for marks in labels.values():
    assert np.mean(marks[LONG_FINE] - marks["learned"]) > 0.05
mk.report.Table(rows)

# %% [markdown]
# Again the differences, start by start: how far each is ahead of the learned strategy.

# %%
plt.figure(figsize=(6.5, 2.8))
for shift, name, marker in (
    (-0.14, "half and half", "s"),
    (0, LONG_SCRATCH, "o"),
    (0.14, LONG_FINE, "D"),
):
    scores = [mk.Score.of(marks[name] - marks["learned"]) for marks in labels.values()]
    means, half_widths = [score.mean for score in scores], [score.interval for score in scores]
    places = np.arange(3) + shift
    plt.errorbar(places, means, half_widths, marker=marker, linestyle="", capsize=3, label=name)
plt.axhline(0, color="0.4", linewidth=1)
plt.gca().set(xticks=range(3), xticklabels=[f"{shots} labels" for shots in labels])
plt.ylabel("ahead of the learned")
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Patient fine-tuning is ahead with every number of labels (asserted in the mean, as two tasks are few). The half stays
# close to the learned amounts. Twenty steps from scratch are ahead of them a little with 5 and with 20
# labels, and behind with 100, in the mean: it is steps *and* the source that help. Who has 500 labelled pictures has
# time for more than three steps, and then chapter 03's fine-tuning is the thing to do.

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
# of the source's own data. In the library's code:

# %%
Code(inspect.getsource(StrategyNetwork.coefficients_for), language="python")

# %% [markdown]
# Write $\mu_t, \mu_s$ for the mean answer of the layer to the support set and to the sample, and $s_t, s_s$ for the
# spreads around them: a spread is the root of the mean squared distance from the mean. $s_b$ is the spread of the
# class means of the support set. Then
#
# $$c_l = \Big( \frac{\lVert \mu_t - \mu_s \rVert}{s_s}, \; \; \log \frac{s_t}{s_s}, \; \; \frac{s_b^2}{s_t^2} \Big)
# \qquad \text{(Formula 13.6)}$$
#
# How far away is the task? Is it wider or narrower than what the source knows? Do its classes come apart in this
# layer? In the library's code the three are `apart`, `wider`, and what `_between` gives; $\mu_s$ and $s_s$ were
# computed once, from the sample.

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
# The strategy network learns for 30 steps; so does, on the same tasks and with the same optimizer, a strategy with
# one set of amounts for all. Both begin with half, from the same fresh start.

# %%
rule = StrategyNetwork(source, drawings[::16], RATE, STEPS, layers=TRUNK)
looking = mk.MetaLearner(network=network(5, seed=0), rule=rule)
looking.compile(keras.optimizers.Adam(0.05))
looking.fit(mixed(practice, seed=0), steps_per_epoch=30, verbose=0)
quick.optimizer.learning_rate.assign(0.05)
one_for_all = learn(mixed(practice, seed=0), start=0, steps=30)

# %% [markdown]
# Here is what the network takes for each of 40 exam tasks:

# %%
episode = next(iter(mixed(exam, seed=7, meta_batch=20)))
take = tf.function(rule.coefficients_for)
taken = np.array([take(x, y) for x, y in zip(episode.support_x, episode.support_y, strict=True)])
taken = {"near": taken[:20], "far": taken[20:]}
assert np.all(taken["near"].mean(axis=0) > taken["far"].mean(axis=0) + 0.05)

# %% [markdown]
# A dot a task; the dashes are the amounts of the strategy that has one set for all.

# %%
plt.figure(figsize=(6.5, 2.8))
spread = np.linspace(-0.08, 0.08, 20)
for layer in range(3):
    near, far = taken["near"][:, layer], taken["far"][:, layer]
    plt.plot(layer - 0.15 + spread, near, "o", markersize=4, color=mk.report.PALETTE[2])
    plt.plot(layer + 0.15 + spread, far, "^", markersize=4, color=mk.report.PALETTE[3])
    plt.hlines(one_for_all[layer], layer - 0.3, layer + 0.3, color="0.3", linestyle="--", linewidth=1)
plt.gca().set(
    xticks=range(3), xticklabels=TRUNK, ylim=(0, 1), ylabel="mixing coefficient of the source"
)
plt.legend(["near targets", "far targets", "one for all"], loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# It tells the kinds apart without having been told that there are two. Does it help? D2's half at the same rate is
# there for reference. The intervals are over tasks here, for each strategy was learned once, from one start.

# %%
set_up(quick, 0.5, RATE, start=0)
half = right(quick, episode).numpy()
set_up(quick, one_for_all, RATE, start=0)
one = right(quick, episode).numpy()
looked = right(looking, episode).numpy()

# %%
parts = {"near": slice(20), "far": slice(20, 40), "both": slice(40)}
contestants = {"half": half, "one for all": one, "network": looked}
contestants |= {"network less one": looked - one, "network less half": looked - half}
rows = [
    {"targets": kind, **{name: mk.Score.of(marks[part]) for name, marks in contestants.items()}}
    for kind, part in parts.items()
]
mk.report.Table(rows)

# %%
near, far = parts["near"], parts["far"]
gain = mk.Score.of(looked[near] - half[near])
assert gain.mean > gain.interval
assert one[near].mean() > half[near].mean() and one[far].mean() < half[far].mean()
assert looked.mean() > one.mean() and looked.mean() > half.mean()

# %% [markdown]
# The one set gains on near targets, against the half, and in the mean it loses on far ones: in two
# layers it stands between what the network takes for the two kinds, and in the first it takes more than either. The
# network gains as much on near ones, and loses nothing on far ones. Over both together it is ahead, in the
# mean. If all your tasks are of one kind, there is nothing to look for, and a number or three are enough.

# %% [markdown]
# Two warnings. All this is one family of small convolutional networks, one source and two kinds of targets; we
# claim it for these. And a strategy sees many target tasks while it learns. Who has only one target cannot learn a
# strategy from it, and must choose.

# %% [markdown]
# ## Summary
#
# - A strategy of transfer says what to take from a source. It can be learned: by gradients that go back through the
#   adapting, over many target tasks.
# - The smallest one is an amount for each layer. At one rate, near targets take more of the source, far ones less.
# - Amount and learning rate belong together. Compared at one rate, a strategy looks better than it is, here on near
#   targets; at its own best rate, half and half does about as well.
# - It is good for very few steps. With 20, plain fine-tuning at a small rate is best, and far ahead of training from
#   scratch.
# - A strategy network looks at a task first. It gains where tasks differ.
# - D5's printed code is no strategy: it fits noise, and tells source from target by nothing.

# %% [markdown]
# ## Exercises
#
# Each has a check. Run its cell, then call the check with your answer.

# %% [markdown]
# **1. The other way.** Write `omega_for(coefficient)`: the $\omega$ that makes an amount (Formula 13.2).


# %%
def check_omega_for(omega_for):
    for coefficient in (0.1, 0.5, 0.9):
        found = 1 / (1 + np.exp(-omega_for(coefficient)))
        assert np.isclose(found, coefficient), (
            f"the sigmoid of your answer is {found:.3f}, not {coefficient}"
        )
    print("Right.")


# %% [markdown]
# **2. The best amount.** Write `best_coefficient(curvatures, centres, source, fresh, alpha, steps)` (Formula 13.4).


# %%
def check_best_coefficient(best_coefficient):
    curvatures, centres = np.array([1.0, 4.0]), np.array([2.0, 7.0])
    assert np.isclose(best_coefficient(curvatures, centres, 4.0, 0.0, 0.1, 1), 3 / 4), (
        "the example by hand"
    )
    assert np.isclose(best_coefficient(curvatures, centres, 4.0, 0.0, 0.1, 0), 1.5), (
        "no step, nothing is left out"
    )
    assert np.isclose(best_coefficient(curvatures, centres, 5.0, 1.0, 0.1, 1), 1 / 2), (
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
        coefficient = 1 / (1 + np.exp(-omega))
        return np.sum((coefficient * source + (1 - coefficient) * fresh - aim) ** 2)

    coefficient = 1 / (1 + np.exp(-0.7))
    upstream = 2 * (coefficient * source + (1 - coefficient) * fresh - aim)
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
    assert made.coefficients() == {"head": 0.25}, f"the coefficients are {made.coefficients()}"
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
