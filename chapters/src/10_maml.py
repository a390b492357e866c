# %% [markdown]
# # MAML: learning an initialization
#
# **What you will learn.** What MAML optimizes, and how its gradient passes through gradient descent. How to train an
# initialization for sine curves and compare it fairly with pretraining and with relatives of MAML. What second
# derivatives cost in time and memory, how batch normalization leaks information between queries, and which three coding
# mistakes change the meta-gradient.
#
# **Prerequisites.** Tasks, support and query sets from chapter [01](01_learning_to_learn.ipynb), gradient descent and
# Adam from chapter [02](02_classical_learning.ipynb), and the chain rule.
#
# **Time.** One lecture of 90 minutes. The code runs in about a minute on two cores.
#
# ![Three new sine curves, predicted before adaptation and after one and five gradient steps, from two initializations](near_start.png)
#
# *Three new sine curves, each known at ten points (dots), and predictions after zero, one and five gradient steps. Top:
# from MAML's initialization. Bottom: from the same network pretrained on all curves jointly.*

# %%
import meta_keras as mk  # first, so that TensorFlow starts quietly

import inspect

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from meta_keras.rules import GradientDescent, ImplicitGradient, inner_loop

mk.report.style()
tf.get_logger().setLevel("ERROR")  # no warning for each function that is traced again
stored = mk.report.measured("chapter_10")  # long measurements, made by benchmarks/chapter_10.py

# %% [markdown]
# ## What MAML optimizes
#
# Gradient descent usually starts from random weights, and from there a handful of examples is not enough to learn a
# task. **MAML**, model-agnostic meta-learning (模型无关元学习; Finn, Abbeel and Levine, 2017), keeps gradient descent
# but learns where it starts: an **initialization** (初始化) $\theta$, shared by all tasks, from which a few steps on a
# few examples lead to a low loss on *other* examples of the same task. It is model-agnostic because it requires only a
# differentiable network and loss.

# %% [markdown]
# Each iteration of meta-training draws a batch of tasks and has two nested loops:
#
# 1. The **inner loop** (内循环) adapts a copy of $\theta$ to each task by a fixed, small number of gradient steps on its
#    support set. The adapted weights $\theta'$ are discarded after the iteration.
# 2. The **outer loop** (外循环) measures the loss of $\theta'$ on the task's queries and updates $\theta$ with the
#    gradient of that loss, averaged over the batch of tasks.

# %% [markdown]
# > **In the articles.** D3 ([sections 3, 3.1](README.md#from-the-documents-to-the-chapters)) lists five steps: initialize (初始化), adapt (适应), predict (预测), optimize (优化) and repeat
# > (重复), but with a random initialization per task, adaptation until a stopping criterion, and no statement of which
# > data the error is measured on. The [errata](README.md#errata) test these points.

# %% [markdown]
# ## A meta-gradient by hand
#
# Consider a network with a single weight, which predicts $\theta x$, and a task with one support example, $x = 1$,
# $y = 2$, and one query, $x = 1$, $y = 3$. (The targets differ as noisy measurements do.) With squared errors, the
# support and query losses are
#
# $$L_S(\theta) = (\theta - 2)^2, \qquad L_Q(\theta) = (\theta - 3)^2.$$

# %% [markdown]
# The inner loop takes $K$ gradient steps on the support loss with the inner learning rate $\alpha$:
#
# $$\theta_{k+1} = \theta_k - \alpha \, \nabla L_S(\theta_k), \qquad \theta_0 = \theta \qquad \text{(Formula 10.1)}$$

# %% [markdown]
# For $\theta = 0$, $\alpha = 0.1$ and one step, the support gradient is $2\,(0 - 2) = -4$, so $\theta' = 0.4$. The
# quantity to be minimized is the query loss at the adapted weight, $L_Q(\theta') = (0.4 - 3)^2 = 6.76$. The
# **meta-gradient** is its derivative with respect to the initialization:
#
# $$\nabla_\theta \, L_Q\big(\theta_K(\theta)\big) \qquad \text{(Formula 10.2)}$$

# %% [markdown]
# The adapted weight $\theta' = \theta - \alpha L_S'(\theta)$ depends on $\theta$ directly and through the support
# gradient, whose derivative is a second derivative. For one step, the chain rule (链式法则) therefore gives
#
# $$\nabla_\theta \, L_Q(\theta') = \big(1 - \alpha \, L_S''(\theta)\big) \; L_Q'(\theta') \qquad \text{(Formula 10.3)}$$
#
# With $L_S'' = 2$ and $L_Q'(\theta') = 2\,(0.4 - 3) = -5.2$, the meta-gradient is $(1 - 0.2) \cdot (-5.2) = -4.16$. For
# a network with many weights, $L_S''$ becomes the **Hessian** (黑塞矩阵, also 海森矩阵), the matrix of all second
# derivatives, and 1 becomes the identity matrix.

# %% [markdown]
# **First-order** (一阶) MAML, or FOMAML, drops the factor with the second derivative:
#
# $$\nabla L_Q(\theta') \qquad \text{(Formula 10.4)}$$
#
# In the example this is $-5.2$. To obtain the exact meta-gradient automatically, we put one gradient tape inside
# another. The outer tape records the inner step, including the inner tape's gradient:

# %%
theta, alpha = tf.Variable(0.0), 0.1
with tf.GradientTape() as outer:
    with tf.GradientTape() as inner:
        support_loss = (theta - 2) ** 2
    adapted = theta - alpha * inner.gradient(support_loss, theta)  # a new tensor; theta is unchanged
    query_loss = (adapted - 3) ** 2
meta_gradient = outer.gradient(query_loss, theta)
print(f"adapted {adapted:.2f}, query loss {query_loss:.2f}, meta-gradient {meta_gradient:.2f}")

# %% [markdown]
# The library computes the same numbers, with one dense unit as the network. `GradientDescent` is the adaptation rule, and
# `meta_gradients` returns the gradients that `fit` passes to the optimizer:


# %%
def one_weight(rule, start=0.0):
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    network.set_weights([np.array([[start]])])
    learner = mk.MetaLearner(network=network, rule=rule, parallel="unrolled")
    learner.compile(loss="mse")
    return learner


one, two, three = (tf.constant([[[number]]]) for number in (1.0, 2.0, 3.0))
for first_order, by_hand in ((False, -4.16), (True, -5.2)):
    learner = one_weight(GradientDescent(0.1, first_order=first_order))
    _, _, (loss, [gradient]) = learner.meta_gradients((one, two, one), three)
    print(f"first_order={first_order}: query loss {loss:.2f}, gradient {gradient.numpy().item():.2f}")
    assert np.isclose(gradient, by_hand) and np.isclose(meta_gradient, -4.16)

# %% [markdown]
# ## Does the second derivative matter?
#
# With several tasks it can change where training converges. Take two tasks whose losses are a flat and a steep
# parabola:
#
# $$L_1(\theta) = \theta^2, \qquad L_2(\theta) = 4\,(\theta - 3)^2$$

# %% [markdown]
# With $\alpha = 0.1$, one step shrinks the distance to the minimum by the factor $1 - 0.1 \cdot 2 = 0.8$ in the flat
# parabola and by $1 - 0.1 \cdot 8 = 0.2$ in the steep one, from any initialization, because the gradient of a parabola is
# proportional to that distance. Adaptation removes most of the steep task's error, so a good initialization should be
# closer to the minimum of the flat task. In our network these are the tasks $x = 1, y = 0$ and $x = 2, y = 6$.

# %%
curvatures, centers, factors = np.array([[1.0, 4.0], [0.0, 3.0], [0.8, 0.2]])


def loss_after_a_step(start):
    distances = np.asarray(start)[..., None] - centers
    return np.mean(curvatures * (factors * distances) ** 2, axis=-1)


# %% [markdown]
# We train with three rules and plain gradient descent in the outer loop. `steps=0` skips adaptation, which turns
# meta-training into ordinary training on all tasks jointly. We call this baseline **pretraining** (预训练).

# %%
rules = {
    "pretraining": GradientDescent(0.1, steps=0),
    "first-order MAML": GradientDescent(0.1, first_order=True),
    "MAML": GradientDescent(0.1),
}


# %%
x, y = tf.constant([[[1.0]], [[2.0]]]), tf.constant([[[0.0]], [[6.0]]])
paths = {name: [2.9] for name in rules}
for name, rule in rules.items():
    learner = one_weight(rule, start=2.9)
    learner.compile(keras.optimizers.SGD(0.1), loss="mse")
    for _ in range(100):
        learner.train_on_batch((x, y, x), y)
        paths[name].append(learner.network.get_weights()[0].item())

# %% [markdown]
# Each method converges to where its own gradient vanishes. With curvature $c_i$, minimum $m_i$ and shrinking factor $r_i$
# of task $i$, that is the average of the $m_i$ with weights $c_i$ for pretraining, $c_i r_i$ for first-order MAML and
# $c_i r_i^2$ for MAML:

# %%
for power, (name, path) in enumerate(paths.items()):
    end, expected = path[-1], np.average(centers, weights=curvatures * factors**power)
    print(f"{name:<16} converges to {end:.3f}; loss after a step {loss_after_a_step(end):.3f}")
    assert np.isclose(end, expected, atol=1e-3)

# %%
grid = np.linspace(-0.3, 3.1, 200)
plt.plot(grid, loss_after_a_step(grid), "-", color="0.6", label="mean loss after one step")
for (name, path), marker, color in zip(paths.items(), "s^o", mk.report.PALETTE[1:], strict=False):
    plt.plot(path, loss_after_a_step(path), marker, markersize=3, color=color)
    plt.plot(path[-1], loss_after_a_step(path[-1]), marker, markersize=10, color=color, label=name)
plt.gca().set(xlabel="initialization θ", ylabel="loss after one step")
plt.legend(loc="upper left", title="large markers: where training converges")
plt.show()

# %% [markdown]
# Only MAML reaches the minimum of the loss after adaptation. Pretraining minimizes the loss *before* adaptation, which
# the steep task dominates. First-order MAML evaluates the query gradient at the right point but ignores how the adapted
# weight depends on the initialization, and converges between the two.

# %% [markdown]
# ## Verifying a meta-gradient
#
# The library's rule adapts as follows. Each step creates new tensors and assigns no variable, so that the outer tape
# can differentiate through it:

# %%
Code(inspect.getsource(GradientDescent.adapt), language="python")

# %% [markdown]
# The gradient of each step comes from an inner tape that watches only the weights that are adapted:

# %%
Code(inspect.getsource(inner_loop.support_gradients), language="python")

# %% [markdown]
# To check that this is the second-order gradient, we compare it with **central differences**: increase and decrease one
# weight of the initialization slightly, adapt again, and divide the change of the query loss by that of the weight. We
# use 19 weights, three inner steps, and double precision, because differences of nearly equal numbers lose digits.


# %%
def set_precision(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


set_precision("float64")
keras.utils.set_random_seed(0)
small = mk.networks.mlp(1, hidden=(6,), activation="tanh")
batch = next(iter(mk.Sinusoids(shots=5, queries=5, meta_batch=3, seed=3)))
*inputs, query_y = (tf.cast(part, tf.float64) for part in batch)


# %%
def meta_gradient_of(rule):
    """A learner with this rule, and its meta-gradient as one vector."""
    learner = mk.MetaLearner(network=small, rule=rule, parallel="map")
    learner.compile(loss="mse")
    _, _, (_, gradients) = learner.meta_gradients(tuple(inputs), query_y)
    return learner, np.concatenate([np.ravel(g) for g in gradients])


def central_differences(learner, h=1e-5):
    """The derivative of the query loss after adaptation for each weight, without differentiation."""
    sizes, found = [int(np.prod(w.shape)) for w in small.weights], []
    start = np.concatenate([np.ravel(w) for w in small.get_weights()])

    @tf.function(autograph=False)
    def meta_loss(flat):
        for variable, part in zip(small.weights, tf.split(flat, sizes), strict=True):
            variable.assign(tf.reshape(part, variable.shape))
        return learner.meta_gradients(tuple(inputs), query_y, training=False)[2][0]

    for e in h * np.eye(start.size):
        found.append(float(meta_loss(start + e) - meta_loss(start - e)) / (2 * h))
    meta_loss(start)  # restores the weights
    return np.array(found)


# %%
learner, second_order = meta_gradient_of(GradientDescent(0.05, steps=3))
_, first_order = meta_gradient_of(GradientDescent(0.05, steps=3, first_order=True))
differences = central_differences(learner)
set_precision("float32")

# %% [markdown]
# Each point below is one weight. On the diagonal, the rule agrees with the differences. This holds for MAML to six digits
# and does not hold for its first-order approximation.

# %%
axes = plt.figure(figsize=(4.4, 3.4)).add_subplot(aspect="equal")
axes.axline((0, 0), slope=1, color="0.7", linewidth=1, linestyle="-")
axes.plot(differences, second_order, "o", label="MAML")
axes.plot(differences, first_order, "x", label="first-order MAML")
axes.set(xlabel="central differences", ylabel="gradient from the rule")
axes.legend()
plt.show()

# %%
assert np.allclose(second_order, differences, rtol=1e-6, atol=1e-8)
assert not np.allclose(first_order, differences, rtol=0.1)

# %% [markdown]
# ## Sine curves
#
# The first experiment of the MAML paper is few-shot regression on the curves $y = A \sin(x - \phi)$, where the amplitude
# $A$ (0.1 to 5) and the phase $\phi$ (0 to $\pi$) distinguish one task from another. The network has two hidden layers
# of 40 units. We use ten support points and ten queries per task, 25 tasks per batch, and 1,500 batches, which is
# about 2 % of the paper's budget. Pretraining uses the same 20 points per task. The learning rates were selected on
# validation tasks, as explained [below](#A-fair-comparison).

# %%
STEPS = 1500
sines = mk.Sinusoids(shots=10, queries=10, meta_batch=25, seed=0)
training_tasks = tf.data.Dataset.from_tensor_slices(next(iter(sines.batch(STEPS))))


def trained(rule, tasks, learning_rate):
    """A learner after meta-training with Adam, always from the same random weights."""
    keras.utils.set_random_seed(0)
    learner = mk.MetaLearner(network=mk.networks.mlp(1), rule=rule)
    learner.compile(keras.optimizers.Adam(learning_rate), loss="mse", steps_per_execution=50)
    learner.fit(tasks, verbose=0)
    return learner


# %%
def all_points(episode):
    x = tf.concat([episode.support_x, episode.query_x], axis=1)
    y = tf.concat([episode.support_y, episode.query_y], axis=1)
    return episode._replace(query_x=x, query_y=y)


rates = {name: stored[f"selected: {name}"] for name in ("MAML, 1 step", "pretraining")}
alpha, plain_alpha = rates["MAML, 1 step"]["inner"], rates["pretraining"]["inner"]["1"]
maml = trained(GradientDescent(alpha), training_tasks, rates["MAML, 1 step"]["outer"])
no_adaptation = GradientDescent(plain_alpha, steps=0)
pretrained = trained(no_adaptation, training_tasks.map(all_points), rates["pretraining"]["outer"])

# %% [markdown]
# We evaluate three initializations, those of MAML and pretraining and a random one, on 600 test tasks with 50 queries
# each. To take more steps than in training, we wrap the network in a new rule:

# %%
test_tasks = next(iter(mk.Sinusoids(shots=10, queries=50, meta_batch=600, seed=10_002)))
keras.utils.set_random_seed(0)
starts = {
    "random": (mk.networks.mlp(1), plain_alpha),
    "pretrained": (pretrained.network, plain_alpha),
    "MAML": (maml.network, alpha),
}


def predict(learner, tasks):
    compiled = tf.function(lambda *inputs: learner(inputs, training=False), autograph=False)
    return compiled(*tasks[:3])


def predictions(name, tasks, steps):
    network, rate = starts[name]
    rule = GradientDescent(rate, evaluation_steps=steps)
    return predict(mk.MetaLearner(network=network, rule=rule), tasks)


def squared_errors(name, tasks, steps):
    return (predictions(name, tasks, steps) - tasks.query_y) ** 2


# %%
ladder = (0, 1, 2, 5, 10)
errors = {
    name: np.mean([squared_errors(name, test_tasks, k) for k in ladder], axis=(2, 3)) for name in starts
}
scores = {name: [mk.Score.of(e, "mean squared error") for e in row] for name, row in errors.items()}
rows = [{"steps": k} | {name: scores[name][row] for name in starts} for row, k in enumerate(ladder)]
mk.report.Table(rows)

# %%
for (name, row), marker, color in zip(scores.items(), "s^o", mk.report.PALETTE[1:], strict=False):
    means, halves = np.array([(score.mean, score.interval) for score in row]).T
    plt.plot(ladder, means, marker=marker, markersize=5, color=color, label=name)
    plt.fill_between(ladder, means - halves, means + halves, color=color, alpha=0.2, linewidth=0)
plt.gca().set(xlabel="gradient steps on ten points", ylabel="mean squared error", xticks=ladder)
plt.ylim(0, None)
plt.legend(title="initialization", bbox_to_anchor=(1, 0.8))
plt.show()

# %% [markdown]
# Intervals are 95 % intervals over test tasks, for one training run per method. One step from MAML's initialization
# gives a lower error than ten steps from either of the others. *Before* adaptation, MAML is not better than
# pretraining, so the benefit appears only through adaptation. Its error continues to fall beyond the single step that it was
# trained for.

# %%
low, high = (
    {n: [s.mean + sign * s.interval for s in row] for n, row in scores.items()} for sign in (-1, 1)
)
assert high["MAML"][1] < min(low["random"] + low["pretrained"])
assert scores["MAML"][0].mean > scores["pretrained"][0].mean
assert high["MAML"][-1] < low["MAML"][1]

# %% [markdown]
# `learner.adapt` returns the adapted network as a plain Keras model, ready to save or serve. The last cell of this section
# draws the opening figure of the chapter.

# %%
x = np.linspace(-5, 5, 200, dtype="float32")[:, None]
three_tasks = mk.Episode(*(part[5:8] for part in test_tasks))._replace(query_x=np.stack([x] * 3))
expert = maml.adapt(three_tasks.support_x[0], three_tasks.support_y[0])
curve = predictions("MAML", three_tasks, 1)[0]
assert np.allclose(expert.predict(x, verbose=0), curve, atol=1e-3)

# %% picture="near_start" jupyter={"outputs_hidden": true}
figure, panels = plt.subplots(2, 3, figsize=(8, 4.4), sharex=True, sharey=True)
looks = {0: ("0.6", ":"), 1: (mk.report.PALETTE[3], "--"), 5: (mk.report.PALETTE[2], "-")}
for row, name in zip(panels, ("MAML", "pretrained"), strict=True):
    row[0].set_ylabel(f"{name}\ny")
    for steps, (color, dashes) in looks.items():
        for axes, curve in zip(row, predictions(name, three_tasks, steps), strict=True):
            axes.plot(x, curve, color=color, linestyle=dashes, label=f"steps: {steps}")
    for task, axes in enumerate(row):
        points = three_tasks.support_x[task], three_tasks.support_y[task]
        axes.scatter(*points, color="black", s=14, zorder=3)
for axes in panels[1]:
    axes.set_xlabel("x")
figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()

# %% [markdown]
# ## Relatives of MAML
#
# The relatives of MAML change which weights adapt, at which learning rates, or whether one differentiates through the
# inner steps at all.

# %% [markdown]
# **ANIL** (almost no inner loop; Raghu et al., 2020) adapts only the last layer: `GradientDescent(0.01, layers="head")`.
# The authors found that the other layers of image classifiers trained by MAML hardly change during adaptation.

# %% [markdown]
# **Meta-SGD** (Li et al., 2017) also learns one inner learning rate per weight, with the same meta-gradient
# (`LearnedRates(0.01, "weight")`). In the formula, $\circ$ multiplies elementwise, and $\alpha$ may become negative.
#
# $$\theta' = \theta - \alpha \circ \nabla L_S(\theta), \qquad \theta \text{ and } \alpha \text{ learned}
# \qquad \text{(Formula 10.5)}$$

# %% [markdown]
# **MAML++** (Antoniou et al., 2019) combines several improvements. We use two, one learned rate per layer and inner step
# (`LearnedRates(0.01, "layer-step")`), and a query loss after *every* inner step, whose weights $v_k$ shift to the last
# step during training (`multi_step`):
#
# $$\sum_{k=1}^{K} v_k \, L_Q(\theta_k), \qquad v_k = \frac{1}{K} \text{ at first, } v_K = 1 \text{ at the end}
# \qquad \text{(Formula 10.6)}$$

# %% [markdown]
# **Reptile** (Nichol et al., 2018) needs neither a query set nor second derivatives. It takes $K$ steps on a task and
# then moves $\theta$ toward the adapted weights, using their difference in place of a gradient:
#
# $$\theta - \theta_K \quad \text{replaces the meta-gradient} \qquad \text{(Formula 10.7)}$$

# %% [markdown]
# **iMAML** (Rajeswaran et al., 2019) adds a **proximal term**, which penalizes the distance from $\theta$ with strength
# $\lambda$, and adapts until the sum is minimal:
#
# $$\theta' = \arg\min_{\vartheta} \; L_S(\vartheta) + \frac{\lambda}{2} \, \lVert \vartheta - \theta \rVert^2
# \qquad \text{(Formula 10.8)}$$

# %% [markdown]
# At such a minimum the path that led there is irrelevant. The **implicit gradient** (隐式梯度) follows from the end point
# and the Hessian $H$ of $L_S$ at that point:
#
# $$\Big(I + \frac{1}{\lambda} H\Big)^{-1} \nabla L_Q(\theta') \qquad \text{(Formula 10.9)}$$
#
# The method of conjugate gradients (共轭梯度) solves the linear system with a few products of $H$ and a vector, so no
# intermediate step has to be stored.

# %% [markdown]
# Formula 10.9 holds only *at* the minimum. With the 19-weight network, we measure its error relative to central
# differences after different numbers of inner steps:

# %%
set_precision("float64")
relative_errors = {}
for steps in (1, 4, 16):
    rule = ImplicitGradient(0.05, steps, strength=10.0, conjugate_steps=19)
    learner, implicit = meta_gradient_of(rule)
    differences = central_differences(learner)
    relative_errors[steps] = np.linalg.norm(implicit - differences) / np.linalg.norm(differences)
set_precision("float32")
print(", ".join(f"{steps} steps: {error:.1e}" for steps, error in relative_errors.items()))
assert relative_errors[16] < 1e-3 < 0.1 < relative_errors[1]

# %% [markdown]
# The implicit gradient is accurate only once adaptation has converged. We therefore leave iMAML out of the following
# comparison, where adaptation takes one or five steps.

# %% [markdown]
# ## A fair comparison
#
# Every method was meta-trained on the same 1,500 batches of 25 tasks with 20 points per task. Reptile and pretraining use
# all 20 points, the others split them into support and query set. First the outer learning rate (of Adam) was selected
# among six values, then the inner learning rate among nine, both by the error on 500 validation tasks. For Meta-SGD and
# MAML++ the latter is the initial value of the learned rates. We load the results of these runs and reproduce three of
# them here, MAML with one inner step and seed 0.

# %%
validation_tasks = next(iter(mk.Sinusoids(shots=10, queries=50, meta_batch=500, seed=10_001)))
live = {}
for rate in (0.001, alpha, 0.1):
    learner = trained(GradientDescent(rate), training_tasks, rates["MAML, 1 step"]["outer"])
    live[rate] = np.mean((predict(learner, validation_tasks) - validation_tasks.query_y) ** 2)

# %%
RATES = np.array([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
METHODS = ("MAML", "first-order MAML", "ANIL", "Meta-SGD", "Reptile", "pretraining")
LINES, COLORS = ("o-", "^--", "s-.", "D:", "P-", "x--"), (*mk.report.PALETTE, "0.5")


def draw_sweep(axes, name, rows):
    """The mean, minimum and maximum validation error over seeds for each inner learning rate."""
    rows = np.array(rows, dtype=float)  # None, for a run that diverged, becomes nan
    place = METHODS.index(name)
    axes.plot(RATES, rows.mean(axis=1), LINES[place], color=COLORS[place], markersize=4, label=name)
    low, high = rows.min(axis=1), rows.max(axis=1)
    axes.fill_between(RATES, low, high, color=COLORS[place], alpha=0.15, linewidth=0)


# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True)
for axes, steps in zip(panels, ("1 step", "5 steps"), strict=True):
    for name in METHODS:
        if (key := f"validation: {name}, {steps}") in stored:
            draw_sweep(axes, name, stored[key])
    draw_sweep(axes, "pretraining", stored["validation: pretraining"][steps[0]])
    axes.set(xscale="log", yscale="log", ylim=(0.1, 10), xlabel="inner learning rate", title=steps)
panels[0].plot(live.keys(), live.values(), "k*", markersize=11, label="MAML, live", zorder=3)
panels[0].set_ylabel("validation error (MSE)")
labels = {text: line for a in panels for line, text in zip(*a.get_legend_handles_labels(), strict=True)}
figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=4)
plt.show()

# %% [markdown]
# Lines are means over three seeds, bands span their minimum and maximum, and gaps mark learning rates at which a run
# diverged. With one step, MAML is insensitive to the inner learning rate between 0.002 and 0.02. With five steps, some
# of its runs diverge from 0.01 upward. No selected value is at the edge of the grid.

# %% [markdown]
# For the test, every method was trained again with its selected learning rates and ten new seeds. The table shows the
# error on 1,000 test tasks with 95 % intervals over seeds, and the time per meta-training step on two shared CPU cores.


# %%
def cell(name, steps):
    """The test error over ten seeds, if the method was trained with so many steps."""
    values = stored.get(f"test: {name}, {steps}")
    if name == "pretraining":
        values = stored["test: pretraining"][steps[0]]
    return "–" if values is None else "{:.3f} ± {:.3f}".format(*mk.report.mean_and_interval(values))


times, rows = stored["milliseconds"], []
for name in METHODS:
    row = {f"error, {steps}": cell(name, steps) for steps in ("1 step", "5 steps")}
    row |= {f"ms, {steps}": str(times.get(f"{name}, {steps}", "–")) for steps in ("1 step", "5 steps")}
    rows.append({"method": name} | row)
mk.report.Table(rows)

# %% [markdown]
# All methods share seeds and tasks, so two methods differ if the interval of their difference per seed excludes zero:


# %%
def compare(a, b):
    """The test error of a minus that of b, per seed, with its interval."""
    a, b = np.array(stored[f"test: {a}"]), np.array(stored[f"test: {b}"])
    mean, half = mk.report.mean_and_interval(a - b)
    verdict = "yes" if abs(mean) > half else "no"
    return {"difference": f"{mean:+.3f} ± {half:.3f}", "ratio": a.mean() / b.mean(), "differ": verdict}


# %%
pairs = [
    ("Meta-SGD, 1 step", "MAML, 1 step"),
    ("first-order MAML, 1 step", "MAML, 1 step"),
    ("first-order MAML, 5 steps", "MAML, 5 steps"),
    ("ANIL, 1 step", "first-order MAML, 1 step"),
    ("ANIL, 5 steps", "first-order MAML, 5 steps"),
    ("Reptile, 5 steps", "MAML, 5 steps"),
    ("Reptile, 5 steps", "first-order MAML, 5 steps"),
]
found = {pair: compare(*pair) for pair in pairs}
mk.report.Table([{"a": a, "b": b} | row for (a, b), row in found.items()])

# %% [markdown]
# - **Learned rates** reduce the error, but do not halve it: Meta-SGD has 0.63 times MAML's error when both are tuned. Tuning
#   has an effect of similar size. With Adam's usual learning rate of 0.001, MAML's validation error was 0.84, and with the
#   selected 0.01 it was 0.56 (means of two seeds).
# - **Second derivatives** reduce the error: without them, it is 1.29 times as high with one step and twice as high with
#   five.
# - **ANIL** has the highest error of the four rules with one step. With five, it cannot be distinguished from
#   first-order MAML. Its training step took 74 % of the time of MAML's with one inner step and 49 % with five, on a
#   machine with other load; in repetitions, the first of these shares was as low as 44 %.
# - **Reptile** has a slightly but significantly higher error than MAML, and a lower one than first-order MAML.
# - **Pretraining** needs 100 steps to reach 0.927 ± 0.060, still above MAML after one step.

# %% [markdown]
# Learned rates were less robust with five steps. From initial rates of 0.005, Meta-SGD diverged at five of six outer
# learning rates, and MAML++ diverged for six of ten test seeds at its best setting, so neither is in the table.

# %%
differ = [row["differ"] for row in found.values()]
assert differ == ["yes", "yes", "yes", "yes", "no", "yes", "yes"]
assert [round(row["ratio"], 2) for row in found.values()][:3] == [0.63, 1.29, 2.05]
shares = [times[f"ANIL, {steps}"] / times[f"MAML, {steps}"] for steps in ("1 step", "5 steps")]
assert np.allclose(shares, [0.74, 0.49], atol=0.005)
assert sum(error is None for error in stored["test: MAML++, 5 steps"]) == 6
assert sum(None in row for row in stored["outer: Meta-SGD, 5 steps"]) == 5
outer = np.mean(np.array(stored["outer: MAML, 1 step"], dtype=float), axis=1)
assert np.allclose(outer[[1, 3]], [0.84, 0.56], atol=0.005)
assert np.round(mk.report.mean_and_interval(stored["test: pretraining"]["100"]), 3).tolist() == [
    0.927,
    0.06,
]
inner = [stored[key]["inner"] for key in stored if key.startswith("selected") and "MAML++" not in key]
assert all(RATES[0] < rate < RATES[-1] for rate in inner if not isinstance(rate, dict))

# %% [markdown]
# ## Memory
#
# The second-order gradient needs the intermediate results of all inner steps at once. The implicit gradient needs only
# those at the end point. To measure the difference in bytes, each point below was measured in a fresh process, as the
# amount by which computing one meta-gradient raised the peak of its resident memory (stored results; 5-way 5-shot tasks
# with 28x28 images, `conv4` with 32 filters).

# %%
MEMORY_STEPS, megabytes = (1, 2, 4, 8), {}
for name, marker in (("MAML", "o"), ("first-order MAML", "^"), ("iMAML", "s")):
    megabytes[name] = [stored[f"megabytes: {name}, {steps} steps"] for steps in MEMORY_STEPS]
    plt.plot(MEMORY_STEPS, megabytes[name], marker=marker, label=name)
plt.gca().set(xlabel="inner steps", ylabel="rise of peak memory (MB)", xticks=MEMORY_STEPS)
plt.ylim(0, None)
plt.legend()
plt.show()

# %% [markdown]
# MAML's memory grows with every inner step, from 60 MB for one step to 268 MB for eight. First-order MAML needs less and
# grows more slowly (18 to 62 MB), and iMAML's memory is constant at about 127 MB, less than MAML's from four steps upward.

# %%
at = {name: np.array(values) for name, values in megabytes.items()}
assert np.all(np.diff(at["MAML"]) > 30) and np.all(at["first-order MAML"] < at["iMAML"])
assert np.ptp(at["iMAML"]) < 5 and list(at["iMAML"] < at["MAML"]) == [False, False, True, True]
assert [round(v) for n in ("MAML", "first-order MAML") for v in at[n][[0, -1]]] == [60, 268, 18, 62]

# %% [markdown]
# ## Batch normalization
#
# A batch-normalization layer subtracts a mean and divides by a standard deviation. Their source is a choice,
# `batch_statistics` in the library:
#
# - `"episode"`, as MAML was published: queries are normalized by the statistics of *all queries of the task*.
# - `"support"`: support and queries are normalized by the statistics of the support set.
# - `"moving"`: evaluation uses Keras' moving averages from training.

# %% [markdown]
# With the first policy, the prediction for a query depends on the other queries. Such a learner is called
# **transductive**. We adapt an untrained network to one task and compute the logits (outputs before the softmax) of its
# first query, once together with the 24 others and once alone:

# %%
glyphs = mk.load("glyphs")
task = next(iter(mk.FewShot(glyphs.split("test"), 5, 1, queries=5, meta_batch=1, seed=0)))
network = mk.networks.conv4(5, downsample="stride", filters=16)
changes = {}
for policy in ("episode", "support", "moving"):
    rule = GradientDescent(0.1, batch_statistics=policy)
    learner = mk.MetaLearner(network=network, rule=rule)
    together = learner(task[:3], training=False)[0, 0]
    alone = learner((*task[:2], task.query_x[:, :1]), training=False)[0, 0]
    changes[policy] = float(np.max(np.abs(together - alone)))
    print(f"{policy}: the logits of the first query change by at most {changes[policy]:.4f}")
assert changes["episode"] > 0.01 > max(changes["support"], changes["moving"])

# %% [markdown]
# To measure the effect on accuracy, this network was trained by MAML with each policy (stored results: 400 batches of
# four 5-way 1-shot tasks, one inner step, its learning rate selected among five values on validation alphabets, Adam at
# 0.003, and five new seeds, each tested on 300 tasks from unseen alphabets). With `"episode"`, we tested all 25 queries of
# a task together, each query alone, and the five queries of one class at a time:

# %%
tests = [("episode", "together"), ("episode", "one at a time"), ("episode", "one class at a time")]
tests += [("support", "together"), ("moving", "together")]
accuracy = {test: mk.Score.of(stored[f"batch norm, test: {test[0]}"][test[1]]) for test in tests}
mk.report.Table([{"policy": p, "queries": q, "accuracy": score} for (p, q), score in accuracy.items()])

# %% [markdown]
# The accuracy of 0.690 under `"episode"` requires that the queries arrive together and in balanced classes. One at a time
# it is 0.407, and one class at a time 0.335, with the same network and queries. With the statistics of the support set,
# which do not depend on the queries, accuracy is 0.657, and the interval of the difference per seed just excludes zero.
# Moving averages reach 0.408 in this setting.

# %%
gap = mk.Score.of(accuracy["episode", "together"].values - accuracy["support", "together"].values)
print(f"episode minus support: {gap.mean:.3f} ± {gap.interval:.3f}")
assert gap.mean > gap.interval
assert [round(score.mean, 3) for score in accuracy.values()] == [0.69, 0.407, 0.335, 0.657, 0.408]

# %% [markdown]
# ## Three ways to lose the second-order gradient
#
# Three mistakes are common. We make each of them in the task with one weight, where the meta-gradient should be $-4.16$.

# %% [markdown]
# **Assigning the variable.** A variable that was changed in place is a new starting point for the outer tape. The result
# is the first-order gradient, and the initialization has been overwritten.

# %%
theta = tf.Variable(0.0)
with tf.GradientTape() as outer:
    with tf.GradientTape() as inner:
        support_loss = (theta - 2) ** 2
    theta.assign_sub(0.1 * inner.gradient(support_loss, theta))
    query_loss = (theta - 3) ** 2
assigned = outer.gradient(query_loss, theta)
print(f"assigned: {assigned:.2f}, and θ is now {theta.numpy():.1f}")

# %% [markdown]
# **Copying with `set_weights`.** The copy's weights are plain numbers without any connection to the initialization. The
# gradient is `None`, and the optimizer raises an error if *every* gradient is `None`:

# %%
theta, copy = tf.Variable(0.0), tf.Variable(0.0)
with tf.GradientTape() as outer:
    with tf.GradientTape() as inner:
        support_loss = (theta - 2) ** 2
    copy.assign((theta - 0.1 * inner.gradient(support_loss, theta)).numpy())  # what set_weights does
    query_loss = (copy - 3) ** 2
missing = outer.gradient(query_loss, theta)
try:
    keras.optimizers.SGD(0.1).apply_gradients([(missing, keras.Variable(0.0))])
except ValueError as error:
    print(f"copied: {missing}; {error}")

# %% [markdown]
# **Detaching the inner gradient.** If it is computed outside the outer tape, converted to a NumPy array or wrapped in
# `tf.stop_gradient`, the outer tape regards it as a constant. The result is again the first-order gradient.

# %%
theta = tf.Variable(0.0)
with tf.GradientTape() as inner:
    support_loss = (theta - 2) ** 2
constant = inner.gradient(support_loss, theta)  # computed before the outer tape starts
with tf.GradientTape() as outer:
    query_loss = (theta - 0.1 * constant - 3) ** 2
outside = outer.gradient(query_loss, theta)
print(f"outside: {outside:.2f}")
assert missing is None and np.allclose([assigned, outside], -5.2)

# %% [markdown]
# Only the second mistake raises an error, and only if no other variable has a gradient. The other two go unnoticed, so
# compare your meta-gradient with central differences once, on a small network.

# %% [markdown]
# ## Summary
#
# - MAML learns one initialization, shared by all tasks, from which a few steps on a support set lead to a low loss on
#   the queries. Before adaptation it is not a better predictor than pretraining.
# - Its gradient passes through the inner steps and contains second derivatives. Dropping them led to a higher loss here.
# - With tuned learning rates, Meta-SGD reduced MAML's error after one step by 37 %.
# - MAML's memory grows with the inner steps. The implicit gradient's does not, but it requires convergence.
# - Report the batch-normalization policy, and verify meta-gradients.

# %% [markdown]
# ## Exercises
#
# Exercises 1 to 3 have a checker ([solutions](../tests/solutions.py)): run its cell and pass it your function.

# %% [markdown]
# **1. Warm-up: several steps.** For the loss $(\theta - c)^2$, implement Formula 10.1 as
# `adapt(theta, c, alpha, steps)`. What happens to the influence of the initialization as the number of steps grows, and
# for which $\alpha$?


# %%
def check_inner_steps(adapt):
    assert np.isclose(adapt(0.0, 2.0, 0.1, 1), 0.4), "one step leads from 0 to 0.4"
    assert np.isclose(adapt(0.0, 2.0, 0.1, 3), 2 - 2 * 0.8**3), "each step leaves 0.8 of the distance"
    assert np.isclose(adapt(5.0, 2.0, 0.1, 0), 5.0), "no step, no change"
    print("Right.")


# %% [markdown]
# **2. The optimal initialization.** For tasks with losses $c_i (\theta - m_i)^2$ and one step with learning rate
# $\alpha$, implement `best_start(curvatures, centers, alpha)`, the minimizer of the mean loss after adaptation.


# %%
def check_best_start(best_start):
    curvatures, centers = np.array([0.5, 1.0, 3.0]), np.array([-1.0, 2.0, 4.0])

    def loss(theta, alpha):
        after = theta - alpha * 2 * curvatures * (theta - centers)
        return np.sum(curvatures * (after - centers) ** 2)

    for alpha in (0.0, 0.05, 0.2):
        found = best_start(curvatures, centers, alpha)
        around = [loss(found + change, alpha) for change in (-0.01, 0.0, 0.01)]
        assert np.argmin(around) == 1, f"alpha={alpha}: the loss is lower next to {found:.3f}"
    print("Right.")


# %% [markdown]
# **3. The proximal minimum.** Implement `proximal(theta, c, strength)`, the minimizer in Formula 10.8 for the support loss
# $(\vartheta - c)^2$. Verify that its derivative with respect to $\theta$ is $1 / (1 + 2 / \lambda)$, as Formula 10.9 says.


# %%
def check_proximal(proximal):
    for theta, c, strength in ((0.0, 2.0, 2.0), (1.0, -3.0, 0.5), (5.0, 4.0, 10.0)):
        found = proximal(theta, c, strength)
        derivative = 2 * (found - c) + strength * (found - theta)
        assert np.isclose(derivative, 0), (
            f"at {found:.3f} the derivative of the sum is {derivative:.3f}, not 0"
        )
    assert np.isclose(proximal(1.0, 4.0, 1e-9), 4.0), (
        "without a penalty, the support loss alone decides"
    )
    print("Right.")


# %% [markdown]
# **4. Project: outside the training distribution.** Does MAML's advantage over pretraining survive on sine curves with
# amplitudes from 5 to 10, or with noisy support points? State a hypothesis and test it. A good report (a) tunes the inner
# learning rate of both methods on validation tasks, (b) uses at least three seeds and reports intervals, (c) includes a
# baseline that does not adapt, (d) shows predicted curves, and (e) draws only conclusions that the intervals support.

# %% [markdown]
# ## References
#
# - C. Finn, P. Abbeel, S. Levine, [Model-Agnostic Meta-Learning for Fast Adaptation of Deep
#   Networks](https://arxiv.org/abs/1703.03400), 2017.
# - A. Antoniou, H. Edwards, A. Storkey, [How to Train Your MAML](https://arxiv.org/abs/1810.09502), 2019.
# - A. Raghu, M. Raghu, S. Bengio, O. Vinyals, [Rapid Learning or Feature Reuse?](https://arxiv.org/abs/1909.09157), 2020.
# - Z. Li, F. Zhou, F. Chen, H. Li, [Meta-SGD](https://arxiv.org/abs/1707.09835), 2017.
# - A. Nichol, J. Achiam, J. Schulman, [On First-Order Meta-Learning Algorithms](https://arxiv.org/abs/1803.02999), 2018.
# - A. Rajeswaran, C. Finn, S. Kakade, S. Levine, [Meta-Learning with Implicit
#   Gradients](https://arxiv.org/abs/1909.04630), 2019.
# - J. Bronskill et al., [TaskNorm](https://arxiv.org/abs/2003.03284), 2020.
