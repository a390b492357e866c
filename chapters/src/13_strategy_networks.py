# %% [markdown]
# # Strategy networks: learning how to transfer
#
# **Goals.** After this chapter you can derive the gradient with respect to a mixing coefficient, learn coefficients through the
# adaptation, let a small network choose them for each task, and compare learned with fixed strategies fairly.
#
# **Prerequisites.** Tasks and episodes (chapter [01](01_learning_to_learn.ipynb)), transfer and fine-tuning (chapter
# [03](03_transfer.ipynb)), and gradients through gradient descent (chapter [10](10_maml.ipynb)).
#
# **Time.** One lecture of 90 minutes. The notebook runs in about one minute on two CPU cores.
#
# ![Accuracy over mixing coefficient and learning rate](amount_and_rate.png)
#
# *Validation accuracy after three gradient steps from a blend of a trained source (coefficient 1) and random weights
# (coefficient 0). Dots mark the best learning rate for each coefficient, squares the best cell.*

# %%
import meta_keras as mk  # before TensorFlow, so that TensorFlow starts without log messages

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from meta_keras.rules import GradientDescent, Prototypes
from meta_keras.transfer import Strategy, StrategyNetwork, blend_weights

mk.report.style()
tf.get_logger().setLevel("ERROR")  # no warning for each function that is traced again
stored = mk.report.measured("chapter_13")  # long measurements, made by benchmarks/chapter_13.py

# %% [markdown]
# ## The question
#
# Suppose you have a network that was trained on a **source task** (源任务), and a new **target task** (目标任务) with a few
# labeled images. The weights of the source contain **shared knowledge** (共享知识). How should the target use it? It could copy
# all layers or some, freeze them or train them further, or start from a mixture of the source's weights and random ones. Such a
# recipe is a **transfer strategy** (迁移策略). Can it be *learned* from many target tasks, and is the result better than a well
# chosen fixed strategy?

# %% [markdown]
# Let $g_\omega$ be a strategy with parameters $\omega$. It turns the source, trained on data $D_s$, and the support set of a
# target task from $D_t$ into a network for this task. A **learning strategy** (学习策略) minimizes a loss:
#
# $$\omega^* = \arg\min_\omega \; L(g_\omega, D_s, D_t) \qquad \text{(Formula 13.1)}$$
#
# As in chapter 10, $L$ is the loss on the *queries* of a target task after adaptation to its support set, averaged over many tasks.

# %% [markdown]
# We compare three groups of strategies:
#
# - **fixed** strategies: fine-tuning, a new head on frozen layers, a blend of source and random weights, and class means of
#   the source's features, which need no gradient step;
# - strategies **meta-trained** on other target tasks: mixing coefficients, learning rates per layer, and MAML as a reference;
# - a **strategy network** (策略网络), which looks at the support set before it chooses.

# %% [markdown]
# > **In the articles.** D5 ([section 4](README.md#from-the-documents-to-the-chapters)) trains its `PolicyNetwork` on random
# > inputs with random labels, so there is nothing to learn, and its output is an answer rather than a strategy (see the
# > [errata](README.md#errata)). Formula 13.1 is D5's with $\omega$ in place of $\theta$.

# %% [markdown]
# ## One mixing coefficient per layer
#
# The simplest strategy with parameters is a blend, with a **mixing coefficient** $a_l$ for each layer $l$ between 0 (the random
# initialization $\theta$) and 1 (the source $\theta_s$). A sigmoid keeps it in this range:
#
# $$\theta_0^{[l]} = a_l \, \theta_s^{[l]} + (1 - a_l) \, \theta^{[l]}, \qquad a_l = \sigma(\omega_l) = \frac{1}{1 + e^{-\omega_l}}
# \qquad \text{(Formula 13.2)}$$
#
# From $\theta_0$, the network takes $K$ gradient steps on the support set (Formula 10.1), and then the query loss is computed.

# %% [markdown]
# It depends on $\omega_l$ through all of these steps. Chapter 10 derives the meta-gradient $\nabla_{\theta_0} L_Q(\theta_K)$ with
# respect to the initialization. An increase of $a_l$ moves $\theta_0^{[l]}$ in the direction of the source, and $a_l (1 - a_l)$
# is the derivative of the sigmoid. So by the chain rule,
#
# $$\frac{\partial L_Q(\theta_K)}{\partial \omega_l} = a_l (1 - a_l) \, \big(\theta_s^{[l]} - \theta^{[l]}\big) \cdot
# \nabla_{\theta_0^{[l]}} L_Q(\theta_K), \qquad \text{(Formula 13.3)}$$
#
# where the dot is the inner product over all weights of the layer.

# %% [markdown]
# ### One weight, by hand
#
# A network with a single weight predicts $\theta x$. The source has $\theta_s = 4$, the initialization is $\theta = 0$, and two
# tasks have the losses
#
# $$L_1(\theta) = (\theta - 2)^2, \qquad L_2(\theta) = 4 (\theta - 7)^2,$$
#
# which are the same for support set and queries. A gradient step with $\alpha = 0.1$ multiplies the distance from the minimum
# by $r_1 = 1 - 2\alpha = 0.8$ in the first task, and by $r_2 = 1 - 8\alpha = 0.2$ in the second.

# %% [markdown]
# If the coefficient is one half, $\theta_0 = 2$ solves the first task, whose derivative is zero. In the second
# task, the step leads to 6, and the derivative of the query loss with respect to $\theta_0$ is $0.2 \cdot 8 \cdot
# (6 - 7) = -1.6$. The mean over both tasks is $-0.8$, and Formula 13.3 gives $0.5 \cdot 0.5 \cdot (4 - 0) \cdot (-0.8) =
# -0.8$. So gradient descent takes more of the source. Automatic differentiation agrees:

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
# loss $c_i r_i^2 (\theta_0 - m_i)^2$. The mean loss is smallest at the average $\bar m$ of the centers with the weights
# $c_i r_i^2$, so the best coefficient is
#
# $$a^* = \frac{\bar m - \theta}{\theta_s - \theta}, \qquad \bar m = \frac{\sum_i c_i r_i^2 \, m_i}{\sum_i c_i r_i^2}, \qquad
# r_i = (1 - 2 \alpha c_i)^K \qquad \text{(Formula 13.4)}$$

# %% [markdown]
# In the example, the weights are $0.64$ and $4 \cdot 0.04 = 0.16$, so $\bar m = 0.8 \cdot 2 + 0.2 \cdot 7 = 3$ and
# $a^* = 3/4$.

# %% [markdown]
# In the library, the strategy is the adaptation rule `Strategy(source, learning_rate, steps)` of a `MetaLearner`, whose own
# network is the random initialization.

# %% [markdown]
# The two tasks above have the data $(x, y) = (1, 2)$ and $(2, 14)$ under the squared error.


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
assert np.isclose(learned, 3 / 4, atol=1e-3)
assert learner.network.get_weights()[0] == initial_weight  # meta-training changes only omega

# %% [markdown]
# Before adaptation, the loss of the second task dominates, and the best coefficient would be 1. After one step, most of that
# loss is gone, and the best coefficient is $3/4$.

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
# Learned coefficients can also be used outside of a learner: `blend_weights` gives any model with the same layers the blended
# weights, to be trained further with `fit`.

# %%
model = one_weight(initial_weight)
blend_weights(one_weight(source_weight), model, learner.rule.coefficients())
print(f"blended weight {model.get_weights()[0].item():.3f}")
assert np.isclose(model.get_weights()[0].item(), 3, atol=1e-2)

# %% [markdown]
# ## A source, near tasks and far tasks
#
# The source is a classifier of 200 characters from `glyphs` (chapter 01). All target tasks are 5-way 5-shot. **Near** tasks have
# five *other* characters: the meta-training tasks use the remaining characters of the training alphabets, and validation and
# test tasks use alphabets of their own. **Far** tasks have five kinds of garments from Fashion-MNIST (chapter 02). Since there are
# only ten kinds, meta-training, validation and test share them, in different images. A method that meta-trains many weights may
# therefore learn the garments themselves.


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
# The network has three convolutions, its **trunk**, and a linear head, without batch normalization. The head of the source has 200
# outputs and is useless for five classes, so only the trunk is transferred. The new head of every method starts from zero, as in
# chapter 12, because random weights would prefer some classes at random.

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
# The outputs of the head are **logits**, which a softmax turns into probabilities. The source minimizes the cross-entropy with Adam
# (chapter 02) for 1,200 steps of 64 images. Two of the 20 drawings of each character are held out.

# %%
images, labels = of_source.arrays(scaled=True)
held_out = np.arange(len(labels)) % 20 >= 18
rows = tf.data.Dataset.from_tensor_slices((images[~held_out], labels[~held_out]))
rows = rows.shuffle(4000, seed=0).repeat().batch(64)

# %%
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
source = network(200, seed=500)
source.compile("adam", loss, metrics=["accuracy"], steps_per_execution=100)
source.fit(rows, steps_per_epoch=1200, shuffle=False, verbose=0)
known = source.evaluate(images[held_out], labels[held_out], verbose=0)[1]
print(f"accuracy on held-out drawings of the 200 characters: {known:.2f} (chance {1 / 200})")

# %% [markdown]
# ## Fixed strategies
#
# Every fixed strategy takes three gradient steps on the 25 support images. Its learning rate was selected on 200 validation tasks,
# separately for near and far tasks, by a search that was extended until the best value was not at the edge. With
# `learn=False`, a `Strategy` is a blend with a given coefficient: 0 is training from scratch, 1 is fine-tuning of all layers.


# %%
def selected(name, kind):
    return stored[f"selected, {kind}: {name}"]


def blend(coefficient, rate):
    rule = Strategy(source, rate, STEPS, layers=TRUNK, coefficient=coefficient, learn=False)
    return mk.MetaLearner(network=network(5, seed=0), rule=rule)


# %% [markdown]
# Two baselines leave the features of the source as they are. A **new head** is trained on the frozen trunk:


# %%
def new_head(rate):
    copy = network(5, seed=0)
    copy.set_weights([*source.get_weights()[:-2], *copy.get_weights()[-2:]])
    return mk.MetaLearner(network=copy, rule=GradientDescent(rate, STEPS, layers="head"))


# %% [markdown]
# **Class means** (Wang et al., 2019) assign a query to the class whose mean support feature is nearest, without a gradient step.
# Their only hyperparameter is the normalization of the features; unit length was selected.


# %%


def class_means():
    features = keras.Model(source.inputs, source.layers[-2].output)
    body = keras.Sequential([features, keras.layers.UnitNormalization()])
    return mk.MetaLearner(network=body, rule=Prototypes())


# %% [markdown]
# One live run on 100 test tasks of each kind:


# %%
def tasks_of(pool, seed, meta_batch=4, queries=10):
    return mk.FewShot(pool, ways=5, shots=5, queries=queries, meta_batch=meta_batch, seed=seed)


def test_accuracy(learner, kind):
    return mk.evaluate(learner, tasks_of(test[kind], seed=7, meta_batch=20), 100)


# %%


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
# Good settings in the opening figure form a ridge from the upper left to the lower right, so comparing coefficients at one common
# learning rate would compare learning rates. The table shows the best learning rate for each coefficient, on 100 validation
# tasks.

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
# On near tasks, coefficients from 1/2 to 1 differ by less than two percentage points at their best learning rates. On far tasks,
# 1/4 is best for three steps, and fine-tuning of the whole source is more than 15 points worse. (For the largest coefficients,
# the best learning rate may be below the figure; the extended search for fine-tuning chose 0.0008, with an accuracy of 0.48.)

# %%
near, far = (np.max(stored[f"grid, {kind}"], axis=0) for kind in ("near", "far"))
assert np.ptp(near[COEFFICIENTS >= 0.5]) < 0.02
assert COEFFICIENTS[far.argmax()] == 0.25 and far.max() - far[-1] > 0.15
fine_tuning = "validation, far: fine-tuning, 3 steps, rate 0.00078125"
assert (
    selected("fine-tuning, 3 steps", "far")["rate"] == 0.00078125
    and f"{stored[fine_tuning]:.2f}" == "0.48"
)
assert all(selected("class means", kind)["features"] == "unit" for kind in test)

# %% [markdown]
# ## Learning a strategy
#
# Meta-training of the coefficients (策略优化, strategy optimization) starts from one half in every layer and takes 100 steps of
# Adam with four target tasks each, so the strategy sees 400 tasks or 20,000 images. Its inner learning rate and Adam's were
# selected on validation tasks. (Fixed strategies use target tasks for validation only.)


# %%
def learn_coefficients(kind):
    chosen = selected("learned coefficients", kind)
    rule = Strategy(source, chosen["rate"], STEPS, layers=TRUNK)
    learner = mk.MetaLearner(network=network(5, seed=0), rule=rule)
    learner.compile(keras.optimizers.Adam(chosen["outer"]), loss=loss, steps_per_execution=10)
    learner.fit(tasks_of(training[kind], seed=0, queries=5), steps_per_epoch=100, verbose=0)
    return learner


# %%
for kind in test:
    learner = learn_coefficients(kind)
    live[kind]["learned coefficients"] = test_accuracy(learner, kind)
    values = ", ".join(f"{name} {a:.2f}" for name, a in learner.rule.coefficients().items())
    print(f"{kind}: {values}; {live[kind]['learned coefficients']}")

# %% [markdown]
# The stored results include three further methods that are meta-trained on the same tasks, with the same selection of
# hyperparameters:
#
# - **learned rates**: the whole source ($a_l = 1$), with one learned learning rate per layer (Antoniou et al., 2019), on a
#   logarithmic scale so that Adam multiplies it;
# - **MAML** (Finn et al., 2017), which starts from the source and changes all weights;
# - **trained class means**, prototypical networks (Snell et al., 2017) that start from the source's trunk.

# %% [markdown]
# The stored measurements consist of five **replicates**, each with its own source, random initialization, meta-training tasks and
# 200 test tasks of each kind, so the intervals include the variation of all of them.

# %% [markdown]
# The next figure has one line per replicate. For near tasks, the strategy learns to take almost all of the source. For far tasks,
# it takes less, and the coefficients vary between replicates.

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
        title=f"{kind} tasks, learning rate {rate:g}",
        xticks=range(3),
        xticklabels=TRUNK,
        ylim=(0, 1.05),
    )
both[0].set_ylabel("mixing coefficient of the source")
plt.show()

# %% [markdown]
# ## A fair comparison
#
# Four fixed strategies join those above: the **searched coefficient** is the best cell of the opening figure, **two rates** is
# fine-tuning with separate learning rates for trunk and head, **0.5 x source** halves the weights of the source without adding
# random ones, and **untrained** class means use the features of the random initialization.

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
FIXED += ["fine-tuning, 3 steps", "two rates", "0.5 x source, 3 steps"]
FIXED += ["class means", "class means, untrained"]
LEARNED = [*META_TRAINED, "trained class means"]
figure, both = plt.subplots(1, 2, figsize=(8, 4), sharey=True)
for axes, kind in zip(both, test, strict=True):
    for names, marker, color in ((FIXED, "o", "0.35"), (LEARNED, "s", mk.report.PALETTE[0])):
        scores = [mk.Score.of(results[kind][name]) for name in names]
        means, halves = [score.mean for score in scores], [score.interval for score in scores]
        axes.errorbar(means, names, xerr=halves, fmt=marker, color=color, capsize=3)
    axes.set(title=f"{kind} tasks", xlabel="test accuracy (5-way 5-shot)", xlim=(0.15, 0.9))
both[0].invert_yaxis()
figure.legend(["fixed", "meta-trained"], loc="outside lower center", ncols=2)
plt.show()

# %% [markdown]
# All hyperparameters were selected on the validation tasks of a sixth replicate, with a source and an initialization of its own.
# The table adds its validation accuracy at the selected values.


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
# On far tasks, the searched coefficient falls from 0.635 to 0.414 and training from scratch from 0.525 to 0.329, whereas the
# class means do not fall. In the opening figure, the two settings that fall are next to cells near chance accuracy (0.2). A
# learning rate that is best for one source and initialization is thus not necessarily good for others. With a search
# for every source, some strategies may reach more (exercise 5).

# %% [markdown]
# Two methods differ if the interval of the paired differences over replicates excludes zero.


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
# Four results stand out:
#
# - **Class means are hard to beat.** Without a single gradient step, they are better than learned coefficients by 4 percentage
#   points on near and 12 on far tasks, and no three-step or meta-trained method is significantly better than they are.
# - **For class means, the source helps on near tasks.** There, its features are 22 points better than untrained ones. On far
#   tasks, we find no difference.
# - **Learned coefficients improve on some fixed blends.** On far tasks they are better than one half, 0.5 x source, two rates and
#   the searched coefficient, but not significantly better than fine-tuning. On near tasks they are better than fine-tuning,
#   no different from one half, and worse than 0.5 x source.
# - **MAML is better than learned coefficients on far tasks**, by 10 points, where it can learn the garments themselves, but we
#   find no difference between it and class means there. Learned rates vary most between replicates, and do not differ from
#   learned coefficients significantly.


# %%
def better(kind, a, b):
    mean, half_width = mk.report.mean_and_interval(results[kind][a] - results[kind][b])
    return mean > half_width


for kind in test:
    assert better(kind, "class means", one)
    assert not any(better(kind, name, "class means") for name in FIXED + LEARNED)
    assert not better(kind, one, "learned rates") and not better(kind, "learned rates", one)
assert better("near", "class means", "class means, untrained")
assert not better("far", "class means", "class means, untrained")
fixed = ("half, 3 steps", "0.5 x source, 3 steps", "two rates", "searched coefficient")
assert all(better("far", one, name) for name in fixed) and not better(
    "far", one, "fine-tuning, 3 steps"
)
assert better("near", one, "fine-tuning, 3 steps") and better("near", "0.5 x source, 3 steps", one)
assert better("far", "MAML", one) and not better("near", "MAML", one)

# %% [markdown]
# ### Controls
#
# What does a blend contribute: knowledge of the source, or weights of a suitable size? We compare it with 0.5 x source, and with
# a **shuffled** blend, in which the weights of the source are permuted within each array.

# %%
half, scaled, shuffled = (
    f"{name}, 3 steps" for name in ("half", "0.5 x source", "half, shuffled source")
)
compare_all([(half, scaled), (half, shuffled), (shuffled, "from scratch, 3 steps")])

# %% [markdown]
# The shuffled blend is worse than the true one by 44 and 27 percentage points, and on near tasks even worse than training from
# scratch. So the size of the weights alone does not explain the accuracy of a blend. On the other hand, we find no difference
# between a blend and 0.5 x source, so there is no evidence that the random weights in it contribute anything.

# %% [markdown]
# ### More steps
#
# The next table allows the fixed strategies 20 steps, with learning rates selected again, on the first 100 test tasks of each
# replicate. We have not meta-trained through 20 steps.

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
# With 20 steps, fine-tuning of the whole source improves by 10 points on near and 18 on far tasks. It exceeds the
# class means by 2 points on near and 1 point on far tasks. On near tasks a new head on frozen features is as good, and on far
# tasks the blend of one half. Training from scratch remains far behind.

# %%
for kind, rival in (("near", "new head, 20 steps"), ("far", "half, 20 steps")):
    assert better(kind, "fine-tuning, 20 steps", "class means, first 100 tasks")
    difference = mk.Score.of(results[kind]["fine-tuning, 20 steps"] - results[kind][rival])
    assert abs(difference.mean) < difference.interval

# %% [markdown]
# ## A strategy network
#
# So far, each kind of task had its own strategy. Suppose instead that near and far tasks arrive mixed. A single set of
# coefficients must then compromise, unless the strategy looks at the task first. A **strategy network** computes the
# coefficients of each task from its support set:
#
# $$a_l = \sigma\big(\omega_l + n(c_l; \omega)\big). \qquad \text{(Formula 13.5)}$$

# %% [markdown]
# Here $n$ is a small dense network with eight hidden units, shared by all layers, and $c_l$ describes how the outputs of the
# source's layer $l$ for the support set compare with its outputs for a sample of source data.

# %% [markdown]
# Let $\mu_t$ and $\mu_s$ be the mean outputs of the layer for the support set and
# for the sample, and $s_t$ and $s_s$ the spreads, that is, the root mean squared distances from these means. Let $s_b$ be the
# spread of the class means of the support set. Then
#
# $$c_l = \Big( \frac{\lVert \mu_t - \mu_s \rVert}{s_s}, \; \; \log \frac{s_t}{s_s}, \; \; \frac{s_b^2}{s_t^2} \Big).
# \qquad \text{(Formula 13.6)}$$
#
# The third number is the fraction of the variance that is between classes.

# %% [markdown]
# For example, let a layer have the outputs $-1$, $1$ for the sample, $4$, $6$ for class 0 of the support set, and $8$, $10$ for
# class 1. Then $\mu_s = 0$, $s_s = 1$, $\mu_t = 7$ and $s_t^2 = (9 + 1 + 1 + 9) / 4 = 5$. The class
# means are 5 and 9, so $s_b^2 = 4$, and $c = (7, \log \sqrt 5, 4/5)$.

# %%
tiny = StrategyNetwork(one_weight(1.0), np.array([[-1.0], [1.0]]), alpha)
mk.MetaLearner(network=one_weight(0.0), rule=tiny)
compared = tiny.compare(tf.constant([[4.0], [6.0], [8.0], [10.0]]), tf.constant([0, 0, 1, 1]))
print(compared.numpy().round(3))
assert np.allclose(compared, [[7, np.log(np.sqrt(5)), 4 / 5]], atol=1e-4)

# %% [markdown]
# Every batch of meta-training now has two near and two far tasks, which only their images distinguish.


# %%
def mixed(seed):
    def joined(near, far):
        return mk.Episode(*[tf.concat(parts, axis=0) for parts in zip(near, far, strict=True)])

    both = [tasks_of(pool, seed, meta_batch=2, queries=5) for pool in training.values()]
    return tf.data.Dataset.zip(*both).map(joined)


# %%
chosen = selected("strategy network", "both")
rule = StrategyNetwork(source, images[::16], chosen["rate"], STEPS, layers=TRUNK)
chooser = mk.MetaLearner(network=network(5, seed=0), rule=rule)
chooser.compile(keras.optimizers.Adam(chosen["outer"]), loss=loss, steps_per_execution=10)
chooser.fit(mixed(seed=0), steps_per_epoch=100, verbose=0)
print({kind: str(test_accuracy(chooser, kind)) for kind in test})

# %% [markdown]
# The figure shows the coefficients that a stored strategy network (replicate 0) chooses for 40 test tasks of each kind.

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
# In every layer, the network takes more of the source for near tasks than for far ones, although it does not
# know the kinds. Does this improve the accuracy? **One for all** learns a single set of coefficients on the same mixed
# tasks, and **half** keeps one half. Each method has a single learning rate, selected for the mean accuracy on both kinds.


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
# Averaged over both kinds, the strategy network has a higher mean accuracy (0.684) than one for all (0.663) and one half (0.674),
# but every interval of these paired differences includes zero, on near tasks, on far tasks and on both together. So the network
# distinguishes the kinds, but we cannot claim that this improves the accuracy. Class means are 11 points better.

# %%
for name in ("half", "one for all"):
    for difference in (*network_gain[name].T, network_gain[name].mean(axis=1)):
        mean, half_width = mk.report.mean_and_interval(difference)
        assert abs(mean) < half_width
mean, half_width = mk.report.mean_and_interval(-network_gain["class means"].mean(axis=1))
assert mean - half_width > 0 and round(mean, 2) == 0.11
near, far = (np.array(stored["network's coefficients"][kind]) for kind in ("near", "far"))
assert np.all(near.min(axis=0) > far.max(axis=0))

# %% [markdown]
# All of this holds for small convolutional networks, one type of source and two kinds of target tasks. Moreover, a learned
# strategy needs many target tasks; for a single one, a strategy has to be chosen.

# %% [markdown]
# ## Summary
#
# - A transfer strategy, such as one mixing coefficient per layer, can be learned from many target tasks, by gradients through
#   the adaptation.
# - The more of the source is taken, the smaller the learning rate has to be, so compare coefficients only at their own learning
#   rates. Those at the edge of divergence do not carry over reliably to another source.
# - With three steps, learned coefficients improve on some fixed blends, but class means of the source's features, which need no
#   gradient step, are better on both kinds of tasks. With 20 steps, fine-tuning exceeds the class means by 1 to 2 points.
# - On far tasks, we found no difference between class means of the source's features and of untrained ones.
# - A strategy network takes less of the source for far tasks. We could not establish that this improves its accuracy.

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
# **2. The best coefficient.** Write `best_coefficient(curvatures, centers, source, initial, alpha, steps)` (Formula 13.4).


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
# the gradient for the blended weights.


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
# **4. A fixed strategy.** Write `rule(source)`, a strategy that takes a quarter of the layer `"head"` from the source,
# leaves all other layers at random, and learns nothing.


# %%
def check_fixed(rule):
    source, network = (mk.networks.mlp(2, hidden=(4,)) for _ in range(2))
    made = rule(source)
    mk.MetaLearner(network=network, rule=made)
    assert made.coefficients() == {"head": 0.25}, f"the coefficients are {made.coefficients()}"
    assert not made.trainable_variables, "the strategy still learns"
    print("Right.")


# %% [markdown]
# **5. Project: a strategy for every source.** Above, all hyperparameters were selected with one source and
# used with five others. How much does each strategy gain if its learning rate is selected again for every source? Extend the
# [script](../benchmarks/chapter_13.py) of the stored measurements. A good report
#
# - predicts before the experiment which strategies will gain most (2 points);
# - gives every strategy equally many trials, on validation tasks only, with no best value at the edge of its grid (3 points);
# - reports paired differences with intervals over at least five replicates (3 points);
# - describes a result that contradicts the prediction, or a limit of the experiment (2 points).

# %% [markdown]
# ## References
#
# - C. Finn, P. Abbeel, S. Levine, [Model-Agnostic Meta-Learning](https://arxiv.org/abs/1703.03400), 2017.
# - J. Snell, K. Swersky, R. Zemel, [Prototypical Networks for Few-shot Learning](https://arxiv.org/abs/1703.05175), 2017.
# - Y. Wang and others, [SimpleShot](https://arxiv.org/abs/1911.04623), 2019: class means of normalized features.
# - A. Antoniou, H. Edwards, A. Storkey, [How to train your MAML](https://arxiv.org/abs/1810.09502), 2019: learned rates.
# - Y. Jang and others, [Learning What and Where to Transfer](https://arxiv.org/abs/1905.05901), 2019.
# - Y. Guo and others, [SpotTune](https://arxiv.org/abs/1811.08737), 2019: a policy network chooses layers per example.
#
# Next: [the list of chapters](README.md#chapters).
