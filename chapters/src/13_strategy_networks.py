# %% [markdown]
# # Strategy networks: learning how to transfer
#
# **Goals.** After this chapter you can formulate transfer as a strategy that can be learned, derive the gradient with respect
# to a mixing coefficient and check it by hand, train coefficients and learning rates through the adaptation, let a small
# network choose them for each task, and compare all of this fairly with strategies that need no training.
#
# **Prerequisites.** Tasks and episodes (chapter [01](01_learning_to_learn.ipynb)), transfer and fine-tuning (chapter
# [03](03_transfer.ipynb)), and gradients through gradient descent (chapter [10](10_maml.ipynb)).
#
# **Time.** About 80 minutes, or one lecture of 90 minutes. The notebook runs in about one minute on two CPU cores.
#
# ![Two heat maps of accuracy over mixing coefficient and learning rate, for near and for far tasks](amount_and_rate.png)
#
# *Validation accuracy after three gradient steps from a blend of a trained source (coefficient 1) and random weights
# (coefficient 0). Dots mark the best learning rate for each coefficient, and the square marks the best cell. The more of the
# source is taken, the smaller the learning rate has to be.*

# %%
import meta_keras as mk  # before TensorFlow, so that TensorFlow starts without log messages

import inspect

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from meta_keras.rules import GradientDescent, Prototypes
from meta_keras.transfer import Strategy, StrategyNetwork, blend_weights

mk.report.style()
stored = mk.report.measured("chapter_13")  # long measurements, made by benchmarks/chapter_13.py

# %% [markdown]
# ## The question
#
# Suppose you have a network that was trained on a **source task** (源任务), and a new **target task** (目标任务) with a few
# labeled images. What both tasks have in common is the **shared knowledge** (共享知识) in the weights of the source. How
# should a network for the target use it? It could copy all layers or only some, freeze them or train them further, quickly
# or slowly, or start from a mixture of the source's weights and random ones. Such a recipe is a **transfer strategy**
# (迁移策略). Usually a person chooses it. This chapter asks whether it can be *learned* from many target tasks, and whether
# the result is better than what a person would have chosen.

# %% [markdown]
# Let $g_\omega$ be a strategy with parameters $\omega$. It turns the source, trained on data $D_s$, and the support set of a
# target task from $D_t$ into a network for this task. A **learning strategy** (学习策略) is chosen to minimize a loss:
#
# $$\omega^* = \arg\min_\omega \; L(g_\omega, D_s, D_t) \qquad \text{(Formula 13.1)}$$
#
# As in chapters 01 and 10, $L$ is the loss on the *queries* of a target task after adaptation to its support set, averaged
# over many target tasks. The support loss would be the wrong choice, because a strategy that merely memorizes the support
# set minimizes it as well.

# %% [markdown]
# We will compare three groups of strategies, all with the same source:
#
# - **fixed** strategies, with hyperparameters selected on validation tasks: fine-tuning, a new head on frozen layers, a blend
#   of source and random weights, and the mean features of each class, which need no gradient step;
# - strategies that are **meta-trained** on other target tasks: mixing coefficients, learning rates per layer, and, as a
#   reference, MAML;
# - a **strategy network** (策略网络), which looks at the support set before it chooses.

# %% [markdown]
# > **In the articles.** D5 ([section 4](README.md#from-the-documents-to-the-chapters)) trains its `PolicyNetwork` on random
# > inputs with random labels, so there is nothing to learn, and its output is an answer rather than a strategy. The
# > [errata](README.md#errata) test this. The formula above is D5's with $\omega$ in place of $\theta$, which denotes the
# > weights of a network in this book.

# %% [markdown]
# ## One mixing coefficient per layer
#
# The simplest strategy with parameters is a blend. Chapter 03 averages the weights of two networks. We replace the one half
# by a **mixing coefficient** $a_l$ for each layer $l$, between 0 (the random initialization $\theta$) and 1 (the source
# $\theta_s$). A sigmoid keeps it in this range:
#
# $$\theta_0^{[l]} = a_l \, \theta_s^{[l]} + (1 - a_l) \, \theta^{[l]}, \qquad a_l = \sigma(\omega_l) = \frac{1}{1 + e^{-\omega_l}}
# \qquad \text{(Formula 13.2)}$$
#
# From $\theta_0$, the network takes $K$ gradient steps on the support set (Formula 10.1), and then the query loss is computed.

# %% [markdown]
# The query loss depends on $\omega_l$ through all of these steps. Chapter 10 derives the meta-gradient $\nabla_{\theta_0}
# L_Q(\theta_K)$, the gradient with respect to the initialization. A small increase of $a_l$ moves $\theta_0^{[l]}$ in the
# direction of the source, and $a_l (1 - a_l)$ is the derivative of the sigmoid. So by the chain rule,
#
# $$\frac{\partial L_Q(\theta_K)}{\partial \omega_l} = a_l (1 - a_l) \, \big(\theta_s^{[l]} - \theta^{[l]}\big) \cdot
# \nabla_{\theta_0^{[l]}} L_Q(\theta_K), \qquad \text{(Formula 13.3)}$$
#
# where the dot is the inner product over all weights of the layer.

# %% [markdown]
# ### One weight, by hand
#
# Consider a network with a single weight, which predicts $\theta x$. The source has $\theta_s = 4$, the initialization is
# $\theta = 0$, and there are two tasks with the losses
#
# $$L_1(\theta) = (\theta - 2)^2, \qquad L_2(\theta) = 4 (\theta - 7)^2,$$
#
# which are the same for support set and queries. A gradient step with $\alpha = 0.1$ multiplies the distance from the minimum
# by $r_1 = 1 - 2\alpha = 0.8$ in the first task, and by $r_2 = 1 - 8\alpha = 0.2$ in the second.

# %% [markdown]
# Let the coefficient be one half, so that $\theta_0 = 2$. This solves the first task, whose derivative is zero. In the second
# task, the step leads from 2 to 6, and the derivative of the query loss with respect to $\theta_0$ is $0.2 \cdot 8 \cdot
# (6 - 7) = -1.6$. The mean over both tasks is $-0.8$, and Formula 13.3 gives $0.5 \cdot 0.5 \cdot (4 - 0) \cdot (-0.8) =
# -0.8$. Because the derivative is negative, gradient descent takes more of the source. Automatic differentiation agrees:

# %%
source_weight, initial_weight, alpha = 4.0, 0.0, 0.1
curvatures, centers = tf.constant([1.0, 4.0]), tf.constant([2.0, 7.0])
omega = tf.Variable(0.0)

with tf.GradientTape() as tape:
    start = tf.sigmoid(omega) * source_weight + (1 - tf.sigmoid(omega)) * initial_weight
    adapted = start - alpha * 2 * curvatures * (start - centers)
    query_loss = tf.reduce_mean(curvatures * (adapted - centers) ** 2)
derivative = tape.gradient(query_loss, omega)
print(f"adapted weights {adapted.numpy()}, derivative {derivative:.2f}")
assert np.allclose(adapted, [2, 6]) and np.isclose(derivative, -0.8)

# %% [markdown]
# Where does gradient descent on $\omega$ converge? After $K$ steps, task $i$ with curvature $c_i$ and center $m_i$ has the
# loss $c_i r_i^2 (\theta_0 - m_i)^2$. The mean loss is smallest at the average of the centers with the weights $c_i r_i^2$,
# and the best coefficient says how far this average is on the line from $\theta$ to $\theta_s$:
#
# $$a^* = \frac{\bar m - \theta}{\theta_s - \theta}, \qquad \bar m = \frac{\sum_i c_i r_i^2 \, m_i}{\sum_i c_i r_i^2}, \qquad
# r_i = (1 - 2 \alpha c_i)^K \qquad \text{(Formula 13.4)}$$
#
# In the example, the weights are $0.64$ and $4 \cdot 0.04 = 0.16$, so $\bar m = 0.8 \cdot 2 + 0.2 \cdot 7 = 3$ and
# $a^* = 3/4$.

# %% [markdown]
# In the library, the strategy is the adaptation rule `Strategy(source, learning_rate, steps)` of a `MetaLearner`, whose own
# network is the random initialization. The two tasks above have the data $(x, y) = (1, 2)$ and $(2, 14)$ under the squared
# error.


# %%
def one_weight(value):
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, name="only")])
    network.set_weights([np.array([[value]])])
    return network


x, y = tf.constant([[[1.0]], [[2.0]]]), tf.constant([[[2.0]], [[14.0]]])
two_tasks = tf.data.Dataset.from_tensors(mk.Episode(x, y, x, y)).repeat()

# %%
rule = Strategy(one_weight(source_weight), alpha)
learner = mk.MetaLearner(network=one_weight(initial_weight), rule=rule)
learner.compile(keras.optimizers.SGD(0.1), loss="mse", steps_per_execution=50)
learner.fit(two_tasks, steps_per_epoch=200, verbose=0)
learned = learner.rule.coefficients()["only"]
print(f"learned coefficient {learned:.4f}")

# %%
assert np.isclose(learned, 3 / 4, atol=1e-3)
assert learner.network.get_weights()[0] == initial_weight  # meta-training changes only omega

# %% [markdown]
# The derivative has to pass through the adaptation. Before any step, the loss of the second task dominates, and the best
# coefficient would be 1; after one step, most of that loss is gone, and the best coefficient is $3/4$.

# %%
grid = np.linspace(0, 1, 101)
starts = initial_weight + grid[:, None] * (source_weight - initial_weight)
factors = {"before adaptation": 1, "after one gradient step": 1 - 2 * alpha * curvatures.numpy()}
for (label, factor), line in zip(factors.items(), ("--", "-"), strict=True):
    losses = np.mean(curvatures * (factor * (starts - centers)) ** 2, axis=1)
    plt.plot(grid, losses / losses.min(), line, label=label)
    plt.plot(grid[losses.argmin()], 1, marker="o", color="black")
plt.gca().set(
    xlabel="mixing coefficient of the source", ylabel="mean query loss / minimum", ylim=(0, 6)
)
plt.legend()
plt.show()

# %% [markdown]
# ### The library's rule
#
# `Strategy` first computes the blend of Formula 13.2 and then behaves like `GradientDescent`, the rule of MAML:

# %%
Code(inspect.getsource(Strategy.adapt), language="python")

# %% [markdown]
# The argument `layers` names the layers that are blended (by default all that match), `coefficient` sets the initial
# coefficients, and `learn=False` keeps them fixed. Learned coefficients can also be used outside of a learner: `blend_weights`
# gives any model with the same layers the blended weights, to be trained with `fit`.

# %%
model = one_weight(initial_weight)
blend_weights(one_weight(source_weight), model, learner.rule.coefficients())
print(f"blended weight {model.get_weights()[0].item():.3f}")
assert np.isclose(model.get_weights()[0].item(), 3, atol=1e-2)

# %% [markdown]
# ## A source, near tasks and far tasks
#
# The source is a classifier of 200 handwritten-style characters from `glyphs` (chapter 01). All target tasks are 5-way 5-shot.
# **Near** tasks ask for five *other* characters: the meta-training tasks use the remaining characters of the training
# alphabets, and validation and test tasks use alphabets of their own. **Far** tasks ask for five kinds of garments from
# Fashion-MNIST (chapter 02). Since there are only ten kinds, meta-training, validation and test share the classes but use
# different images. A method that meta-trains many weights may therefore learn the garments themselves; keep this in mind
# when it does well on far tasks.


# %%
def shrink(images):
    """Images of 14 x 14 pixels, to save time."""
    return images.reshape(len(images), 14, 2, 14, 2, 1).mean(axis=(2, 4)).astype("uint8")


characters, garments = (mk.load(name).map(shrink) for name in ("glyphs", "fashion"))
letters, (x, y) = characters.split("train"), garments.split("train").arrays()
order = np.random.default_rng(0).permutation(len(letters))
of_source = letters.select(order[:200])
early = np.arange(len(y)) % 200 < 120  # of 200 images per garment; the other 80 are for validation

# %%
training = {"near": letters.select(order[200:]), "far": mk.ClassPool.from_arrays(x[early], y[early])}
test = {"near": characters.split("test"), "far": garments.split("test")}
assert not set(test["near"].names) & (set(of_source.names) | set(training["near"].names))
assert np.array_equal(np.bincount(y), [200] * 10)

# %%
figure, rows = plt.subplots(3, 10, figsize=(7, 2.4))
for row, (title, pool) in zip(rows, {"source": of_source, **test}.items(), strict=True):
    shown = pool.first[np.linspace(0, len(pool) - 1, 10).astype(int)]
    for axes, image in zip(row, pool.examples[shown], strict=True):
        axes.imshow(image[..., 0])
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    row[0].set_ylabel(title, rotation=0, ha="right", va="center")
plt.show()

# %% [markdown]
# The network has three convolutions, which together are called its **trunk**, and a linear head. The head of the source has
# 200 outputs and is useless for a task with five classes, so only the trunk is transferred. The new head starts from zero, as in
# chapter 12. Otherwise, random weights in the head would send random gradients into the trunk, and three steps are too few to
# recover from that. There is no batch normalization.

# %%
TRUNK, STEPS = ["conv1", "conv2", "conv3"], 3


def network(units, seed):
    keras.utils.set_random_seed(seed)
    trunk = [
        keras.layers.Conv2D(filters, 3, strides, padding="same", activation="relu", name=name)
        for filters, strides, name in zip((8, 16, 16), (2, 2, 1), TRUNK, strict=True)
    ]
    start = "zeros" if units == 5 else "glorot_uniform"
    head = [keras.layers.Flatten(), keras.layers.Dense(units, kernel_initializer=start, name="head")]
    return keras.Sequential([keras.Input((14, 14, 1)), *trunk, *head])


# %% [markdown]
# The outputs of the head are **logits**, which a softmax turns into probabilities (chapter 02). The source minimizes the
# cross-entropy with Adam for 1,200 steps of 64 images. Two of the 20 drawings of each character are held out.

# %%
images, labels = of_source.arrays(scaled=True)
held_out = np.arange(len(labels)) % 20 >= 18
rows = tf.data.Dataset.from_tensor_slices((images[~held_out], labels[~held_out]))
rows = rows.shuffle(4000, seed=0).repeat().batch(64)

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
source = network(200, seed=500)
source.compile("adam", loss, metrics=["accuracy"], steps_per_execution=100)
source.fit(rows, steps_per_epoch=1200, shuffle=False, verbose=0)
known = source.evaluate(images[held_out], labels[held_out], verbose=0)[1]
print(f"accuracy on held-out drawings of the 200 characters: {known:.2f} (chance {1 / 200})")

# %% [markdown]
# ## Fixed strategies
#
# We first need strong baselines. Every fixed strategy takes three gradient steps on the 25 support images. Its learning rate
# was selected on 200 validation tasks, separately for near and far tasks, by a search that was extended until the best value
# was not at the edge. With `learn=False`, a `Strategy` is a blend with a given coefficient: 0 is training from scratch, 1 is
# fine-tuning of all layers, and 1/2 is the blend of chapter 03.


# %%
def selected(name, kind):
    return stored[f"selected, {kind}: {name}"]


def blend(coefficient, rate):
    rule = Strategy(source, rate, STEPS, layers=TRUNK, coefficient=coefficient, learn=False)
    return mk.MetaLearner(network=network(5, seed=0), rule=rule)


# %% [markdown]
# Two baselines leave the features of the source as they are. A **new head** is trained on the frozen trunk. The **nearest
# class mean** assigns a query to the class whose mean support feature, scaled to unit length, is nearest. It takes no
# gradient step, and its only hyperparameter is the normalization of the features.


# %%
def new_head(rate):
    copy = network(5, seed=0)
    copy.set_weights([*source.get_weights()[:-2], *copy.get_weights()[-2:]])
    return mk.MetaLearner(network=copy, rule=GradientDescent(rate, STEPS, layers="head"))


def class_means():
    features = keras.Model(source.inputs, source.layers[-2].output)
    body = keras.Sequential([features, keras.layers.UnitNormalization()])
    return mk.MetaLearner(network=body, rule=Prototypes())


# %% [markdown]
# One live run on 100 test tasks of each kind gives a first impression:


# %%
def tasks_of(pool, seed, meta_batch=4, queries=10):
    return mk.FewShot(pool, ways=5, shots=5, queries=queries, meta_batch=meta_batch, seed=seed)


def test_accuracy(learner, kind):
    return mk.evaluate(learner, tasks_of(test[kind], seed=7, meta_batch=20), 100)


def fixed_strategies(kind):
    rate = {name: selected(f"{name}, 3 steps", kind)["rate"] for name in (*BLENDS, "new head")}
    learners = {name: blend(coefficient, rate[name]) for name, coefficient in BLENDS.items()}
    return learners | {"new head": new_head(rate["new head"]), "class means": class_means()}


# %%
BLENDS = {"from scratch": 0.0, "half": 0.5, "fine-tuning": 1.0}
live = {
    kind: {name: test_accuracy(learner, kind) for name, learner in fixed_strategies(kind).items()}
    for kind in test
}
rows = [{"strategy": name} | {kind: live[kind][name] for kind in test} for name in live["near"]]
mk.report.Table(rows)

# %% [markdown]
# ### Coefficient and learning rate belong together
#
# Why does every coefficient need its own learning rate? The opening figure shows the validation accuracy for nine
# coefficients and thirteen learning rates. Good settings form a ridge from the upper left to the lower right: each step toward
# the source requires smaller learning rates. Comparing coefficients at one common learning rate would therefore compare
# learning rates. The table shows the best learning rate of each column.

# %%
COEFFICIENTS, RATES = np.arange(9) / 8, 0.003125 * 2.0 ** np.arange(13)
best = {kind: np.array(stored[f"grid, {kind}"]).argmax(axis=0) for kind in test}
rows = [
    {"tasks": kind, "": what} | {f"{a:g}": value for a, value in zip(COEFFICIENTS, values, strict=True)}
    for kind in test
    for what, values in {
        "learning rate": [f"{RATES[row]:.3g}" for row in best[kind]],
        "accuracy": [f"{value:.3f}" for value in np.max(stored[f"grid, {kind}"], axis=0)],
    }.items()
]
mk.report.Table(rows)

# %% [markdown]
# The trained weights are larger than the random ones, and we will test below whether a scaled source behaves like a blend.

# %%
for name in TRUNK:
    trained, random = source.get_layer(name).kernel, network(5, seed=0).get_layer(name).kernel
    print(
        f"{name}: standard deviation {np.std(trained):.3f} in the source, {np.std(random):.3f} at random"
    )
    assert np.std(trained) > np.std(random)

# %% [markdown]
# On near tasks, coefficients from 1/2 to 1 differ by less than two percentage points at their best learning rates, so the
# coefficient hardly matters once the learning rate fits. On far tasks it does: 1/4 is the best value for three steps, and
# fine-tuning of the whole source is more than 15 points worse.

# %%
near, far = (np.max(stored[f"grid, {kind}"], axis=0) for kind in ("near", "far"))
assert np.ptp(near[COEFFICIENTS >= 0.5]) < 0.02
assert COEFFICIENTS[far.argmax()] == 0.25 and far.max() - far[-1] > 0.15
assert all(selected("class means", kind)["features"] == "unit" for kind in test)

# %% [markdown]
# ## Learning a strategy
#
# Now the coefficients are learned. Meta-training starts from one half in every layer and takes 100 steps of Adam, each with
# four target tasks, so the strategy sees 400 tasks or 20,000 images in total. Its inner learning rate and Adam's learning rate
# were selected on validation tasks, like those of the baselines. `fit` does everything else:


# %%
def learn_coefficients(kind):
    chosen = selected("learned coefficients", kind)
    rule = Strategy(source, chosen["rate"], STEPS, layers=TRUNK)
    learner = mk.MetaLearner(network=network(5, seed=0), rule=rule)
    learner.compile(keras.optimizers.Adam(chosen["outer"]), loss=loss, steps_per_execution=10)
    learner.fit(tasks_of(training[kind], seed=0, queries=5), steps_per_epoch=100, verbose=0)
    return learner


for kind in test:
    learner = learn_coefficients(kind)
    live[kind]["learned coefficients"] = test_accuracy(learner, kind)
    values = ", ".join(f"{name} {a:.2f}" for name, a in learner.rule.coefficients().items())
    print(f"{kind}: {values}; {live[kind]['learned coefficients']}")

# %% [markdown]
# The same outer loop can learn more. The stored results include three further methods that are meta-trained on the same tasks,
# with the same selection of hyperparameters:
#
# - **learned rates**: the whole source ($a_l = 1$), with one learned learning rate per layer (Antoniou et al., 2019), on a
#   logarithmic scale so that Adam multiplies it;
# - **MAML** (Finn et al., 2017), which changes all weights of the source and of the head;
# - **trained class means**, prototypical networks (Snell et al., 2017) that start from the source's trunk.

# %% [markdown]
# The stored measurements consist of five **replicates**. Each has its own source, random initialization, meta-training tasks
# and 200 test tasks of each kind, so the intervals include the variation of all of them. The next figure shows the learned
# coefficients of every replicate.

# %%
REPLICATES = range(5)
figure, both = plt.subplots(1, 2, figsize=(7.4, 2.8), sharey=True)
for axes, kind in zip(both, test, strict=True):
    runs = [stored[f"test, {kind}: learned coefficients, replicate {n}"] for n in REPLICATES]
    for run, marker in zip(runs, "os^vD", strict=True):
        axes.plot(range(3), run["coefficients"], f"{marker}-", linewidth=0.6, markersize=5)
    rate = selected("learned coefficients", kind)["rate"]
    axes.axhline(0.5, color="0.5", linestyle=":")
    axes.set(
        title=f"{kind} tasks, learning rate {rate:g}", xticks=range(3), xticklabels=TRUNK, ylim=(0, 1)
    )
both[0].set_ylabel("mixing coefficient of the source")
plt.show()

# %% [markdown]
# ## A fair comparison
#
# All methods see the same five replicates. Three strategies join those above: the **searched coefficient** is the best cell of
# the opening figure, **two rates** is fine-tuning with separate learning rates for trunk and head, and the **untrained** class
# means use the features of the random initialization.

# %%
META_TRAINED = ("learned coefficients", "learned rates", "MAML")


def results_of(kind):
    """{method: test accuracy of every replicate}"""
    runs = [dict(stored[f"test, {kind}: fixed strategies, replicate {n}"]) for n in REPLICATES]
    for n, run in enumerate(runs):
        for name in META_TRAINED:
            run[name] = stored[f"test, {kind}: {name}, replicate {n}"]["accuracy"]
        run["trained class means"] = stored[f"test, {kind}: trained class means, replicate {n}"]
    return {name: np.array([run[name] for run in runs]) for name in runs[0]}


results = {kind: results_of(kind) for kind in test}

# %%
FIXED = ["from scratch, 3 steps", "new head, 3 steps", "half, 3 steps", "searched coefficient"]
FIXED += ["fine-tuning, 3 steps", "two rates", "class means", "class means, untrained"]
LEARNED = [*META_TRAINED, "trained class means"]
figure, both = plt.subplots(1, 2, figsize=(8, 4), sharey=True)
for axes, kind in zip(both, test, strict=True):
    for names, marker, color in ((FIXED, "o", "0.35"), (LEARNED, "s", mk.report.PALETTE[0])):
        scores = [mk.Score.of(results[kind][name]) for name in names]
        means, halves = [score.mean for score in scores], [score.interval for score in scores]
        axes.errorbar(means, names, xerr=halves, fmt=marker, color=color, capsize=3)
    axes.set(title=f"{kind} tasks", xlabel="test accuracy (5-way 5-shot)")
both[0].invert_yaxis()
figure.legend(["fixed", "meta-trained"], loc="outside lower center", ncols=2)
plt.show()

# %% [markdown]
# The table adds the validation accuracy at the selected hyperparameters. It belongs to a sixth replicate, with a source and an
# initialization of its own, on which all hyperparameters were selected. The other five use the same hyperparameters.


# %%
def validation(name, kind):
    if name == "searched coefficient":
        return np.max(stored[f"grid, {kind}"])
    settings = selected(name, kind)
    suffix = settings.get("features") or ", ".join(
        f"{key} {value:g}" for key, value in settings.items()
    )
    return stored[f"validation, {kind}: {name}, {suffix}"]


def row_of(name):
    row = {"method": name}
    for kind in test:
        tuned = "" if name == "class means, untrained" else f"{validation(name, kind):.3f}"
        row |= {f"{kind}, validation": tuned, f"{kind}, test": mk.Score.of(results[kind][name])}
    return row


mk.report.Table([row_of(name) for name in FIXED + LEARNED])

# %% [markdown]
# Compare validation and test first. (To be written.)

# %% [markdown]
# Because the methods share replicates and tasks, two of them differ if the interval of the paired differences excludes zero.


# %%
def compare(kind, a, b):
    difference = mk.Score.of(results[kind][a] - results[kind][b])
    verdict = "yes" if abs(difference.mean) > difference.interval else "no"
    return {
        f"{kind}": f"{difference.mean:+.3f} ± {difference.interval:.3f}",
        f"differ ({kind})": verdict,
    }


def compare_all(pairs):
    rows = [
        {"difference": f"{a} - {b}"} | compare("near", a, b) | compare("far", a, b) for a, b in pairs
    ]
    return mk.report.Table(rows)


one = "learned coefficients"
pairs = [(one, other) for other in FIXED + LEARNED if other != one]
compare_all(pairs + [("class means", other) for other in ("class means, untrained", *LEARNED[1:])])

# %% [markdown]
# (To be written.)

# %%
print(len(results["near"]))

# %% [markdown]
# ### Controls
#
# What does a blend contribute: knowledge of the source, or weights of a suitable size? Two controls have the same search for
# their learning rates. In **0.5 x source**, the source is halved without adding random weights. In the **shuffled** blend, the
# weights of the source are permuted within each array, so that they have the same size but no structure.

# %%
half, scaled, shuffled = (
    f"{name}, 3 steps" for name in ("half", "0.5 x source", "half, shuffled source")
)
rows = [
    {"method": name} | {kind: mk.Score.of(results[kind][name]) for kind in test}
    for name in (half, scaled, shuffled)
]
mk.report.Table(rows)

# %%
compare_all([(half, scaled), (half, shuffled), (shuffled, "from scratch, 3 steps")])

# %% [markdown]
# (To be written.)

# %% [markdown]
# ### More steps
#
# Three steps are few. The next table allows the fixed strategies 20 steps, with learning rates selected again. It uses the first
# 100 test tasks of each replicate, also for the class means in its comparison. We have not meta-trained through 20 steps.

# %%
TWENTY = ["from scratch", "new head", "half", "fine-tuning"]
rows = [
    {"method": name}
    | {
        f"{kind}, {steps} steps": mk.Score.of(results[kind][f"{name}, {steps} steps"])
        for kind in test
        for steps in (3, 20)
    }
    for name in TWENTY
]
mk.report.Table(rows)

# %%
compare_all([(f"{name}, 20 steps", "class means, first 100 tasks") for name in TWENTY])

# %% [markdown]
# (To be written.)

# %% [markdown]
# ## A strategy network
#
# So far, each kind of task had its own strategy, and a person had to say which kind a task is. Suppose instead that near and
# far tasks arrive mixed. A single set of coefficients must then compromise, unless the strategy looks at the task first. A
# **strategy network** computes the coefficients of each task from its support set:
#
# $$a_l = \sigma\big(\omega_l + n(c_l; \omega)\big), \qquad \text{(Formula 13.5)}$$
#
# where $n$ is a small dense network with eight hidden units, shared by all layers, and $c_l$ describes how the outputs of the
# source's layer $l$ for the support set compare with its outputs for a sample of source data.

# %%
Code(inspect.getsource(StrategyNetwork.coefficients_for), language="python")

# %% [markdown]
# The comparison consists of three numbers. Let $\mu_t$ and $\mu_s$ be the mean outputs of the layer for the support set and
# for the sample, and $s_t$ and $s_s$ the spreads, that is, the root mean squared distances from these means. Let $s_b$ be the
# spread of the class means of the support set. Then
#
# $$c_l = \Big( \frac{\lVert \mu_t - \mu_s \rVert}{s_s}, \; \; \log \frac{s_t}{s_s}, \; \; \frac{s_b^2}{s_t^2} \Big).
# \qquad \text{(Formula 13.6)}$$
#
# The first number says how far the task is from the source data, the second how large its spread is in comparison, and the
# third which fraction of its variance is between classes.

# %% [markdown]
# For example, let a layer have the outputs $-1$ and $1$ for the sample, $4$ and $6$ for the support images of class 0, and
# $8$ and $10$ for those of class 1. Then $\mu_s = 0$, $s_s = 1$, $\mu_t = 7$ and $s_t^2 = (9 + 1 + 1 + 9) / 4 = 5$. The class
# means are 5 and 9, so $s_b^2 = 4$, and $c = (7, \log \sqrt 5, 4/5)$.

# %%
tiny = StrategyNetwork(one_weight(1.0), np.array([[-1.0], [1.0]]), alpha)
mk.MetaLearner(network=one_weight(0.0), rule=tiny)
compared = tiny.compare(tf.constant([[4.0], [6.0], [8.0], [10.0]]), tf.constant([0, 0, 1, 1]))
print(compared.numpy().round(3))
assert np.allclose(compared, [[7, np.log(np.sqrt(5)), 4 / 5]], atol=1e-4)

# %% [markdown]
# Every batch of meta-training now has two near and two far tasks, and nothing but the images distinguishes them.


# %%
def mixed(seed):
    def joined(near, far):
        return mk.Episode(*[tf.concat(parts, axis=0) for parts in zip(near, far, strict=True)])

    both = [tasks_of(pool, seed, meta_batch=2, queries=5) for pool in training.values()]
    return tf.data.Dataset.zip(*both).map(joined)


chosen = selected("strategy network", "both")
rule = StrategyNetwork(source, images[::16], chosen["rate"], STEPS, layers=TRUNK)
chooser = mk.MetaLearner(network=network(5, seed=0), rule=rule)
chooser.compile(keras.optimizers.Adam(chosen["outer"]), loss=loss, steps_per_execution=10)
chooser.fit(mixed(seed=0), steps_per_epoch=100, verbose=0)
print({kind: str(test_accuracy(chooser, kind)) for kind in test})

# %% [markdown]
# The figure shows which coefficients a strategy network (replicate 0 of the stored measurements) chooses for 40 test tasks of
# each kind.

# %%
plt.figure(figsize=(6.5, 2.8))
for shift, (kind, marker) in zip((-0.15, 0.15), {"near": "o", "far": "^"}.items(), strict=True):
    coefficients = np.array(stored["network's coefficients"][kind])
    places = np.arange(3) + shift + np.linspace(-0.1, 0.1, len(coefficients))[:, None]
    color = mk.report.PALETTE[0 if kind == "near" else 1]
    plt.plot(
        places.ravel(), coefficients.ravel(), marker, markersize=4, color=color, label=f"{kind} tasks"
    )
plt.gca().set(xticks=range(3), xticklabels=TRUNK, ylim=(0, 1))
plt.ylabel("mixing coefficient of the source")
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The network takes less of the first layer for far tasks. Does this improve the accuracy? The stored comparison has the same replicates as before. **One for all**
# learns a single set of coefficients on the same mixed tasks, and **half** keeps one half. Since none of them may know which
# kind a task is, each has a single learning rate, selected for the mean validation accuracy on both kinds.


# %%
def on_mixture(name):
    """(replicates, 2) accuracies on near and on far tasks"""
    if name == "class means":
        return np.stack([results[kind][name] for kind in ("near", "far")], axis=1)
    return np.array([stored[f"test, both: {name}, replicate {n}"] for n in REPLICATES])


def mixture_row(name, values):
    columns = {"near": values[:, 0], "far": values[:, 1], "mean of both": values.mean(axis=1)}
    return {"strategy": name} | {column: mk.Score.of(found) for column, found in columns.items()}


names = ("half", "one for all", "strategy network", "class means")
mk.report.Table([mixture_row(name, on_mixture(name)) for name in names])

# %%
network_gain = {
    name: on_mixture("strategy network") - on_mixture(name)
    for name in names
    if name != "strategy network"
}
mk.report.Table(
    [mixture_row(f"strategy network - {name}", gain) for name, gain in network_gain.items()]
)

# %% [markdown]
# (To be written.)

# %%
print(network_gain["half"].mean())

# %% [markdown]
# All of this holds for one family of small convolutional networks, one type of source and two kinds of target tasks. In
# addition, a learned strategy needs many target tasks. With a single target task, a strategy has to be chosen.

# %% [markdown]
# ## Summary
#
# - To be written.

# %% [markdown]
# ## Exercises
#
# Exercises 1 to 4 have a check: run its cell, then call the check with your function ([solutions](../tests/solutions.py)).
#
# **1. The inverse (warm-up).** Write `omega_for(coefficient)`, the parameter $\omega$ of a mixing coefficient (Formula 13.2).


# %%
def check_omega_for(omega_for):
    for coefficient in (0.1, 0.5, 0.9):
        found = 1 / (1 + np.exp(-omega_for(coefficient)))
        assert np.isclose(found, coefficient), f"its sigmoid is {found:.3f}, not {coefficient}"
    print("Right.")


# %% [markdown]
# **2. The best coefficient.** Write `best_coefficient(curvatures, centers, source, initial, alpha, steps)` (Formula 13.4). What
# happens to it with more steps, and why can it exceed 1?


# %%
def check_best_coefficient(best_coefficient):
    curvatures, centers = np.array([1.0, 4.0]), np.array([2.0, 7.0])
    found = [best_coefficient(curvatures, centers, 4.0, 0.0, 0.1, steps) for steps in (0, 1, 2)]
    assert np.isclose(found[1], 3 / 4), "with one step, this is the example by hand"
    assert np.isclose(found[0], 1.5), "without a step, nothing of a loss is removed"
    assert np.isclose(found[2], 27 / 52), "each step multiplies the distance by r"
    found = best_coefficient(curvatures, centers, 5.0, 1.0, 0.1, 1)
    assert np.isclose(found, 1 / 2), "3 is the midpoint of 1 and 5"
    print("Right.")


# %% [markdown]
# **3. The derivative.** Write `derivative(omega, source, initial, upstream)`, which is Formula 13.3 for one layer. `upstream` is
# the gradient with respect to the blended weights.


# %%
def check_derivative(derivative):
    source, initial, target = np.random.default_rng(0).normal(size=(3, 4, 2))

    def blend(omega):
        coefficient = 1 / (1 + np.exp(-omega))
        return coefficient * source + (1 - coefficient) * initial

    losses = [np.sum((blend(omega) - target) ** 2) for omega in (0.7 + 1e-5, 0.7 - 1e-5)]
    numeric = (losses[0] - losses[1]) / 2e-5
    found = derivative(0.7, source, initial, 2 * (blend(0.7) - target))
    assert np.isclose(found, numeric), f"finite differences give {numeric:.4f}"
    print("Right.")


# %% [markdown]
# **4. A fixed strategy.** Write `rule(source)`, a strategy that takes a quarter of the layer `"head"` from the source, leaves all
# other layers at their random initialization, and learns nothing.


# %%
def check_fixed(rule):
    source, network = (mk.networks.mlp(2, hidden=(4,)) for _ in range(2))
    made = rule(source)
    mk.MetaLearner(network=network, rule=made)
    assert made.coefficients() == {"head": 0.25}, f"the coefficients are {made.coefficients()}"
    assert not made.trainable_variables, "the strategy still learns"
    print("Right.")


# %% [markdown]
# **5. Project: a strategy for every source.** All hyperparameters above were selected once, with one source, and then used with
# five others. Find out how much each strategy gains when its learning rate is selected again for every source, by extending
# the [script](../benchmarks/chapter_13.py) that made the stored measurements. A good report
#
# - states before the experiment which strategies will gain most, and why (2 points);
# - gives every strategy the same number of trials, on validation tasks only, with no best value at the edge of its grid (3 points);
# - reports paired differences with intervals, over at least five replicates and 100 test tasks each (3 points);
# - describes at least one result that contradicts the hypothesis, or a limit of the experiment (2 points).

# %% [markdown]
# ## References
#
# - J. Yosinski and others, [How transferable are features in deep neural networks?](https://arxiv.org/abs/1411.1792), 2014.
# - C. Finn, P. Abbeel, S. Levine, [Model-Agnostic Meta-Learning](https://arxiv.org/abs/1703.03400), 2017.
# - J. Snell, K. Swersky, R. Zemel, [Prototypical Networks for Few-shot Learning](https://arxiv.org/abs/1703.05175), 2017.
# - W.-Y. Chen and others, [A Closer Look at Few-shot Classification](https://arxiv.org/abs/1904.04232), 2019.
# - Y. Wang and others, [SimpleShot](https://arxiv.org/abs/1911.04623), 2019: nearest class means of normalized features.
# - A. Antoniou, H. Edwards, A. Storkey, [How to train your MAML](https://arxiv.org/abs/1810.09502), 2019: learned
#   learning rates per layer.
# - Y. Jang and others, [Learning What and Where to Transfer](https://arxiv.org/abs/1905.05901), 2019: meta-learned transfer.
# - Y. Guo and others, [SpotTune](https://arxiv.org/abs/1811.08737), 2019: a policy network that chooses layers per example.
#
# Next: [the list of chapters](README.md#chapters).
