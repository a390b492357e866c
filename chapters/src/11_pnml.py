# %% [markdown]
# # PNML: learned optimizers
#
# **Goals.** After this chapter you can write an optimizer as a function of the history of gradients, explain how a
# small network learns such a function for weights of any shape, meta-train one by truncated backpropagation, and judge
# fairly where a learned optimizer is better than a tuned one and where it is not.
#
# **Prerequisites.** Momentum, Adam and learning rate schedules (chapter [02](02_classical_learning.ipynb)), and
# gradients through gradient descent (chapter [10](10_maml.ipynb)).
#
# **Time.** 90 minutes. The code runs in about a minute on two CPU cores.
#
# ![Training loss over training steps for learned optimizers and tuned ones, in five settings](learned_update.png)
#
# *Training loss of networks trained by learned optimizers, with a network and without, and by tuned Adam, with and
# without cosine decay: on tasks like those of meta-training, and in four settings outside it. Lines are geometric means
# over five seeds, bands their 95 % intervals. Where an optimizer fails for some seeds, each seed has a line. Losses
# below $10^{-5}$ are drawn at $10^{-5}$.*

# %%
import meta_keras as mk  # before TensorFlow, so that TensorFlow starts without log messages

import inspect
import itertools
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from meta_keras.rules import UpdateNetwork, update_network

mk.report.style()
tf.get_logger().setLevel("ERROR")  # no warning when a function is traced again
stored = mk.report.measured("chapter_11")  # long measurements, made by benchmarks/chapter_11.py

# %% [markdown]
# ## An optimizer is a function
#
# Gradient descent, momentum and Adam differ in one respect only: how they compute the change of a weight from the
# gradients of this weight so far. **Learned optimization** (in D3: parameter meta-learning, 参数元学习, PNML) represents
# the function by a small **parameter network** (参数网络) with weights $\omega$ and learns it, so that networks trained with it reach a low loss. Andrychowicz et al. (2016) used a
# recurrent network that reads one gradient per step.

# %% [markdown]
# In MAML, tasks share an initialization $\theta$. Here they share the update, and every training run starts from random
# weights. The function is applied to each weight separately, so it fits networks of any size.

# %% [markdown]
# Let $g$ be the gradient of one weight $w$. A limited memory replaces the history of gradients: moving averages of $g$
# on three time scales, with decays $\beta$ of 0.5, 0.9 and 0.99, and one of $g^2$, as in Adam:
#
# $$m_\beta \leftarrow \beta \, m_\beta + (1 - \beta) \, g, \qquad v \leftarrow 0.999 \, v + 0.001 \, g^2$$

# %% [markdown]
# The **learned update** (学习到的更新) of the library then adds two parts,
#
# $$\Delta w = - \alpha \sum_i c_i \, e^{u_i \cdot z} \, d_i \; + \; \lambda \, a \, e^{0.001 \, b} \qquad \text{(Formula 11.1)}$$

# %% [markdown]
# - The $d_i$ are seven known **updates**: the gradient, its three averages, and the update
#   of Adam for each average. Their coefficients $c_i$ are learned.
# - The **context** $z$ has five numbers: 0 for a vector such as a bias, otherwise 1, and $\tanh(k/s - 1)$ for the number
#   $k$ of steps so far and four time scales $s$ from 3 to 100. The exponents $u_i$ are learned for the three updates of
#   Adam, which gives each a schedule. Otherwise, $u_i = 0$: gradients shrink with the loss, and if their coefficients grew
#   meanwhile, one bad minibatch could do damage.
# - The **direction** $a$ and the **magnitude** $b$ are the outputs of a network with two hidden layers of four units. Its
#   inputs are seven features of the weight, $z$, and $k$ on six time scales up to 1,000 (`clock`).
# - The learning rate $\alpha$ and the step size $\lambda$ are hyperparameters.
#
# All learned parameters together are $\omega$:

# %%
update = UpdateNetwork(learning_rate=0.1, base="adam")
update.build()
for variable in update.trainable_variables:
    print(f"{variable.name:<13} {tuple(variable.shape)}")
print("parameters in total:", update.count_params())

# %% [markdown]
# ### Why features are normalized
#
# The gradients of different layers, tasks and stages of a training run differ by orders of magnitude, and neural
# networks extrapolate poorly. The features therefore depend little on scale, unless gradients are small. Three of them
# are gradient, weight and $\sqrt v$, divided by their root mean square over the weight's tensor; four are the gradient
# and its averages, divided by $\sqrt v$ (without Adam's correction of its bias):

# %%
Code(inspect.getsource(update_network.features_of), language="python")

# %% [markdown]
# The constant `SMOOTHING`, $10^{-5}$, under the roots is much larger than the square of Adam's $\epsilon$, $10^{-14}$.
# Where a gradient changes its sign, $g / \sqrt{g^2}$ jumps from $-1$ to 1. This is harmless in Adam, but meta-training
# differentiates through this function, and the derivative at the jump is huge. In the features, smoothing bounds it:

# %% alt="The normalized gradient over the gradient: almost a step with a tiny smoothing, and a smooth curve with a larger one"
gradients = np.linspace(-0.02, 0.02, 401)
for smoothing, line in ((1e-14, "--"), (1e-5, "-")):
    plt.plot(gradients, gradients / np.sqrt(gradients**2 + smoothing), line, label=f"{smoothing:g}")
plt.gca().set(xlabel="gradient g", ylabel="$g\\,/\\,\\sqrt{g^2 + s}$")
plt.legend(title="smoothing s")
plt.show()

# %% [markdown]
# The form $a \, e^{0.001 b}$ follows Metz et al. (2020): $b$ could change the size of $a$ by orders of magnitude. Here
# it does much less: on inputs as in the figures below, $e^{0.001 b}$ is between 0.97 and 1 in all five learned updates.

# %% [markdown]
# Metz et al. (2022a) found that small per-weight networks, like ours, are a good compromise between memory, time and
# quality. In VeLO (Metz et al., 2022b), another network sees the tensor as a whole; here, only $z$ describes it. VeLO
# was meta-trained for about four thousand TPU-months, and fails on much longer runs and much larger models, as its
# authors report.

# %% [markdown]
# ## Known optimizers are special cases
#
# The last layer of the network is initially zero, so $a = 0$ and only the known updates remain. With one coefficient
# different from zero, the learned update is an optimizer that we know. (Keras adds gradients to a velocity without the
# factor $1 - \beta$, so momentum has the coefficient 10.) `LearnedOptimizer` turns an update into a Keras optimizer:


# %%
def minimized(optimizer, steps=30):
    """Three weights after some steps on a loss with different curvatures."""
    weights = keras.Variable([-1.0, 2.0, 0.5])
    for _ in range(steps):
        optimizer.apply([tf.constant([0.1, 1.0, 3.0]) * weights], [weights])
    return weights.numpy()


# %%
known = {
    "sgd": keras.optimizers.SGD(0.1),
    "momentum": keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": keras.optimizers.Adam(0.1),
}

# %%
for base, optimizer in known.items():
    update = UpdateNetwork(0.1, base=base)
    ours, theirs = minimized(mk.LearnedOptimizer(update)), minimized(optimizer)
    print(f"{base:<9} {update.coefficients.numpy()}  {ours}  Keras: {theirs}")
    assert np.allclose(ours, theirs, atol=1e-5)

# %% [markdown]
# Meta-training thus starts from a working optimizer, so its result must be compared with that optimizer.

# %% [markdown]
# ## Backpropagation through training
#
# Let $\theta_k(\omega)$ be the weights of a network after $k$ updates, and $L_k(\theta_k)$ its loss on the next
# minibatch. The **meta-loss** of a training run of $N$ steps is the mean $\frac{1}{N} \sum_k L_k$, the area under its
# learning curve, and its gradient with respect to $\omega$ goes back through all updates. For long runs this takes much
# memory. Worse, each update multiplies the gradient by a Jacobian, as in Formula 10.3, so it can vanish or explode.

# %% [markdown]
# **Truncated backpropagation through time** (截断的时间反向传播) cuts the run into segments of $T$ steps and treats the
# state at the beginning of each segment, $\theta_{jT}$ and the moving averages, as constants:
#
# $$\frac{T}{N} \sum_{j=0}^{N/T - 1} \nabla_\omega \; \frac{1}{T} \sum_{k=jT}^{(j+1)T - 1} L_k\big(\theta_k(\omega)\big),
# \qquad \theta_{jT} \text{ constant} \qquad \text{(Formula 11.2)}$$

# %% [markdown]
# Consider one weight with loss $\theta^2 / 2$, gradient descent with learning rate $\omega$, and runs of four steps:


# %%
def meta_gradient(omega, truncation, steps=4):
    omega, theta, total = tf.constant(omega), tf.constant(1.0), 0.0
    for _ in range(steps // truncation):
        with tf.GradientTape() as tape:
            tape.watch(omega)
            losses = []
            for _ in range(truncation):
                losses.append(theta**2 / 2)
                theta = theta - omega * theta  # the gradient of the loss is theta
            loss = tf.add_n(losses) / steps
        total += float(tape.gradient(loss, omega, unconnected_gradients="zero"))
        theta = tf.constant(theta.numpy())
    return total


for truncation in (1, 2, 4):
    print(f"truncation {truncation}: meta-gradient {meta_gradient(0.1, truncation):.3f}")

# %% [markdown]
# By hand, $L_k = 0.9^{2k} / 2$ has the derivative $-k \cdot 0.9^{2k-1}$, so the full gradient is $-(0.9 + 2 \cdot 0.9^3
# + 3 \cdot 0.9^5) / 4 = -1.032$. Shorter segments see a smaller effect, because they ignore what a step changes after
# the end of its segment. With segments of one step nothing is seen, because the loss before an update does not depend
# on it.

# %%
full = -(0.9 + 2 * 0.9**3 + 3 * 0.9**5) / 4
assert np.isclose(meta_gradient(0.1, 4), full, rtol=1e-4) and meta_gradient(0.1, 1) == 0
assert abs(meta_gradient(0.1, 2)) < abs(full)

# %% [markdown]
# ### The bias of short horizons
#
# The truncated gradient is **biased**: it points to what is best for the next $T$ steps. Wu et al. (2018) show on noisy
# quadratic losses that this is not what is best in the end. Take two weights with curvatures $h$ of 1 and 0.02 and
# gradients $h \cdot (\theta + \varepsilon)$, where the noise $\varepsilon$ has variance $\sigma^2 = 0.1$. With learning
# rate $\alpha$, the expected squares of the weights, $1/h$ at first, become
#
# $$\mathbb{E}[\theta^2] \leftarrow (1 - \alpha h)^2 \; \mathbb{E}[\theta^2] + \alpha^2 h^2 \sigma^2.$$

# %% [markdown]
# In each segment we use the learning rate that minimizes the mean loss *within* the segment:

# %% alt="Expected loss and best learning rate over 200 steps for segments of 1, 5, 20 and 50 steps: longer segments choose larger rates first and end with a lower loss"
curvature, variance, candidates = np.array([1.0, 0.02]), 0.1, np.geomspace(0.01, 1.9, 60)


def segment_of_run(square, rate, steps):
    losses = []
    for _ in range(steps):
        square = (1 - rate * curvature) ** 2 * square + (rate * curvature) ** 2 * variance
        losses.append(np.sum(curvature * square) / 2)
    return square, losses


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
at_the_end = {}
for horizon in (1, 5, 20, 50):
    square, losses, rates = 1 / curvature, [], []
    for _ in range(200 // horizon):
        tried = [(*segment_of_run(square, rate, horizon), rate) for rate in candidates]
        square, segment, rate = min(tried, key=lambda found: np.mean(found[1]))
        losses, rates = losses + segment, rates + [rate] * horizon
    left.semilogy(losses)
    right.semilogy(rates, label=f"{horizon}")
    at_the_end[horizon] = losses[-1]
left.set(xlabel="step", ylabel="expected loss")
right.set(xlabel="step", ylabel="best learning rate in the segment")
right.legend(title="steps per segment", loc="upper right")
plt.show()

# %% [markdown]
# For short segments, small learning rates are best early on: they reduce the noise at once, and what a large one gains
# on the flat direction would come later. So the learning rate decreases too early. Longer segments have less bias, but
# need more memory, and their gradients vary more and may explode.

# %%
assert list(at_the_end.values()) == sorted(at_the_end.values(), reverse=True)
assert at_the_end[1] > 5 * at_the_end[50]

# %% [markdown]
# > **In the articles.** D3 ([sections 3.2 and 4.2](README.md#from-the-documents-to-the-chapters)) introduces PNML in five
# > steps. It adapts until a stopping criterion is met, calls the trained network the next initialization, and lets it
# > read an example $x$ where it needs gradients (see the [errata](README.md#errata)). Its random initialization per task
# > is an error for MAML but correct for PNML.

# %% [markdown]
# ## Meta-training
#
# A task of our training family is to distinguish ten characters, given 15 drawings of each, as 7 by 7 pixels. The
# network has one hidden layer of 32 units and sees minibatches of 32 drawings. Validation and test tasks come from
# alphabets that meta-training never used.


# %%
def halved(images):
    size = images.shape[1] // 2  # pixels per side: the mean of every two by two
    blocks = images.reshape(len(images), size, 2, size, 2, -1)
    return blocks.mean(axis=(2, 4)).astype(images.dtype)


characters = mk.load("glyphs").map(halved).map(halved)
family = mk.FewShot(characters.split("train"), ways=10, shots=15, queries=5, meta_batch=8, seed=0)
held_out = mk.FewShot(characters.split("validation"), 10, 15, queries=5, meta_batch=16, seed=1)

# %% [markdown]
# `UnrolledTraining` implements Formula 11.2. In each step of meta-training, it trains one network per task, from one of
# 64 random initializations, all networks in parallel. A run that diverges must not damage $\omega$: the gradient of
# each segment of each run is clipped, and runs with non-finite losses are excluded and counted. Live, we train for runs
# of 50 steps (stored results: 100), starting from Adam.

# %%
keras.utils.set_random_seed(0)
update = UpdateNetwork(0.08, base="adam", step_size=0.1)
network = mk.networks.mlp(10, input_shape=(7, 7, 1), hidden=(32,))
training = mk.UnrolledTraining(network, update, steps=50, truncation=25, batch_size=32)
training.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.03, 40)))
live = {"Adam, where meta-training begins": training.learning_curves(held_out, batches=4)}

# %%
history = training.fit(family, steps_per_epoch=4, epochs=10, verbose=0).history
live["after 40 steps of meta-training"] = training.learning_curves(held_out, batches=4)
print("meta-loss:", np.round(history["loss"], 2), " diverged:", int(sum(history["diverged"])))

# %% [markdown]
# The stored update, called `shipped` below, was trained for 600 steps, with runs of 100 steps and segments of 50. It is that of the first of five seeds and comes with the library. We compare the three on
# the same 64 validation tasks, with the same initial weights and minibatches:

# %%
shipped = UpdateNetwork.load()
assert shipped.get_config() == update.get_config() | {"name": shipped.name}  # not part of weights
update.set_weights(shipped.get_weights())
live["stored, after 600 steps"] = training.learning_curves(held_out, batches=4)

# %% alt="Training loss over 50 steps: the learned optimizer is below the Adam with which meta-training begins, and slightly further below after 600 meta-training steps than after 40"
for name, losses in live.items():
    plt.plot(losses.mean(axis=0), label=name)
plt.gca().set(xlabel="training step", ylabel="training loss (mean of 64 tasks)", ylim=(0, None))
plt.legend()
plt.show()

# %%
areas = {name: mk.Score.of(losses.mean(axis=1), "mean loss") for name, losses in live.items()}
mk.report.Table([{"update": name, "mean loss of the run": score} for name, score in areas.items()])

# %% [markdown]
# Both improve on the Adam that they begin with. This only shows that meta-training works: Adam's learning rate was not
# tuned for 50 steps.

# %%
start, after, long = (losses.mean(axis=1) for losses in live.values())
for better, worse in ((after, start), (long, after)):
    difference = mk.Score.of(worse - better)
    assert difference.mean > difference.interval
rates = stored["rates: adam, training family"]
assert sum(history["diverged"]) == 0 and float(min(rates, key=rates.get)) == 0.08

# %% [markdown]
# ## What has it learned?
#
# With the memory fixed, an update is a surface over the gradient and the mean of the gradients before it. Here each
# moving average has the value that it has after gradients with this mean, $v$ has its value after gradients with a root
# mean square of 0.05, and the weight is zero, in a matrix:


# %% alt="Five surfaces over gradient and mean of earlier gradients: SGD's contours are vertical, Adam's nearly horizontal; the learned ones bend at gradient zero and are largest where both are positive"
def change(update, gradient, earlier, number, tensor):
    """The update of weights of zero in such a tensor, after gradients with the mean `earlier`."""
    momenta = tuple(earlier * (1 - decay**number) for decay in update_network.MOMENTUM_DECAYS)
    square = np.full_like(gradient, 0.05**2 * (1 - 0.999**number))
    memory = update_network.remembered(gradient, update_network.Memory(momenta, square))
    z = update_network.context_of(tensor, number)
    features = update_network.features_of(gradient, memory, tf.zeros_like(gradient))
    own = update.own_step(features, z, number)
    return (own + update.known_step(gradient, memory, z, number)).numpy()


matrix, vector = tf.zeros((2, 2)), tf.zeros(2)


def surface(update, number):
    axis = np.linspace(-0.1, 0.1, 41, dtype="float32")
    earlier, gradient = np.meshgrid(axis / 2, axis, indexing="ij")
    return change(update, gradient, earlier, number, matrix)


sgd, adam = UpdateNetwork(0.08 / 0.05, base="sgd"), UpdateNetwork(0.08, base="adam")
for one in (sgd, adam):
    one.build()
surfaces = {"SGD": surface(sgd, 50), "Adam": surface(adam, 50)}
surfaces |= {f"learned, k = {n}": surface(shipped, n) for n in (5, 50, 95)}
figure, panels = plt.subplots(1, 5, figsize=(12, 2.4), sharey=True)
limit = np.ceil(10 * max(np.abs(values).max() for values in surfaces.values())) / 10
for axes, (name, values) in zip(panels, surfaces.items(), strict=True):
    lines = np.linspace(-2, 2, 41)
    shades = axes.contourf(lines, lines / 2, values, np.linspace(-limit, limit, 25), cmap="RdBu_r")
    axes.clabel(axes.contour(lines, lines / 2, values, 6, colors="k", linewidths=0.6), fontsize=7)
    axes.set(title=name, xlabel="gradient")
panels[0].set_ylabel("mean before it")
figure.colorbar(shades, ax=panels, label="update", ticks=(-limit, 0, limit))
plt.show()

# %% [markdown]
# Gradients are in multiples of the root mean square; SGD and Adam have learning rates of equal effect. SGD ignores the
# earlier gradients, so its contours are vertical. Adam's are nearly horizontal, because its average weights the current
# gradient by only a tenth. The surface of the stored update has a fold where the gradient changes its sign, and
# the longest steps are where the gradient and the mean are both positive. Reversing all gradients reverses hand-designed
# updates; Formula 11.1 does not require this.

# %% [markdown]
# The schedules of the known updates can be read off $\omega$. On constant gradients, all three updates of Adam are
# equal, so $\sum_i c_i e^{u_i \cdot z}$ over these three is their part of the step, in multiples of the initial Adam's:


# %% alt="Sum of the coefficients of Adam over 100 steps for five seeds: for matrices above 1 throughout; for vectors below 1 at first and above it at the end"
def adams_part(update, number, tensor):
    factors = update.factors_in(update_network.context_of(tensor, number))
    return np.dot(update.coefficients[-3:], factors)


def stored_update(kind, seed):
    found = stored[f"meta-training: {kind}, seed {seed}"]
    update = UpdateNetwork.from_config(found["config"])
    update.build()
    update.set_weights([np.array(one) for one in found["weights"]])
    return update


learned = {seed: stored_update("learned", seed) for seed in range(5)}
schedules = {
    (seed, kind): [adams_part(update, number, tensor) for number in range(100)]
    for seed, update in learned.items()
    for kind, tensor in (("matrices", matrix), ("vectors", vector))
}
figure, panels = plt.subplots(1, 5, figsize=(12, 2.6), sharey=True)
for (seed, kind), values in schedules.items():
    panels[seed].plot(range(1, 101), values, label=kind)
    panels[seed].set(title=f"learned, seed {seed}", xlabel="step")
for axes in panels:
    axes.axhline(1, linestyle=":", color="0.4", label="Adam")
panels[0].set_ylabel("sum of Adam's coefficients")
panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# In the first step, this part is 1.2 to 1.5 times Adam's for matrices, but only 0.4 to 0.8 times for vectors, where it
# grows by a factor of 2.3 to 3.4 until the last step. Unlike the schedules of chapter
# [02](02_classical_learning.ipynb), none decays to zero.

# %%
adams = {kind: np.array([schedules[s, kind] for s in range(5)]) for kind in ("matrices", "vectors")}
assert adams["matrices"].min() > 1
for kind, ends in (("matrices", [1.2, 1.5]), ("vectors", [0.4, 0.8])):
    assert np.allclose([adams[kind][:, 0].min(), adams[kind][:, 0].max()], ends, atol=0.05)
growth = adams["vectors"][:, -1] / adams["vectors"][:, 0]
assert np.allclose([growth.min(), growth.max()], [2.3, 3.4], atol=0.05)
assert all(
    np.array_equal(a, b) for a, b in zip(learned[0].get_weights(), shipped.get_weights(), strict=True)
)


def on_plotted_inputs(update):
    return np.concatenate([surface(update, n).ravel() for n in (5, 50, 95)])


for update in learned.values():
    weights = update.get_weights()
    weights[0] *= 0  # no known updates
    update.set_weights(weights)
    own = on_plotted_inputs(update)
    weights[-2][:, 1] = weights[-1][1] = 0  # b = 0
    update.set_weights(weights)
    factors = own / on_plotted_inputs(update)
    assert factors.min() > 0.965 and factors.max() <= 1

# %% [markdown]
# ## A fair comparison
#
# **Methods.** Momentum and Adam, each also with a **cosine decay** of its learning rate to zero (Formula 2.10), have
# the best of nine learning rates, a factor of two apart, by the loss after the last step on training tasks; the best
# was never at an edge. They were tuned again in each setting below. The momentum is 0.9, and Adam has Keras' defaults
# ($\beta_1 = 0.9$, $\beta_2 = 0.999$).

# %% [markdown]
# **The learned optimizer** was meta-trained with five seeds, for 600 steps of 8 runs, to fit its 128 parameters. The
# result depends on the initial network, so each seed has two trainings, and the one with the lower loss on validation
# tasks is tested. The step size and the learning rate of meta-training were selected on validation tasks with
# another seed, until both neighbors of each were worse.

# %% [markdown]
# **Schedules** and **coefficients** are the known updates of Formula 11.1 without the network, meta-trained in the same
# way with learning rates of their own: with $c_i$ and $u_i$, and with $u_i = 0$. (Three of the ten trainings of
# schedules end with losses above that of guessing; none of them is tested.) Mean losses on validation tasks by learning
# rate of meta-training (columns):

# %%
rows = []
tried = [("coefficients", 0.03), ("schedules", 0.03)]
for kind, size in tried + [("learned", size) for size in (0.01, 0.03, 0.1, 0.3)]:
    row = {"meta-trained": f"learned, step size {size:g}" if kind == "learned" else kind}
    for rate in (0.01, 0.03, 0.1, 0.3, 1):
        key = f"selection: {kind}, step size {size:g}, learning rate {rate:g}"
        row[f"{rate:g}"] = stored.get(key, "")
    rows.append(row)
mk.report.Table(rows)

# %% [markdown]
# **Test.** For each seed, all methods train on the same held-out tasks (64; 16 for long runs), with the
# same minibatches and initializations (64 per architecture, also used in tuning and, for seed 0, in meta-training).
# Other settings have 1,000 steps, 128 units, three layers of 32, or Fashion-MNIST (clothing) in the same format.
# Non-finite losses are replaced by $\ln 10$, that of guessing.

# %%
settings = ["training family", "10 times the horizon", "4 times the width"]
settings += ["3 hidden layers", "clothing"]
decayed = ["adam, cosine decay", "momentum, cosine decay"]
methods = ["learned", "schedules", "coefficients", "adam", *decayed, "momentum"]
found = {(name, s): stored[f"test: {name}, {s}"] for name in methods for s in settings}
final = {key: np.array([seed["last"] for seed in seeds]) for key, seeds in found.items()}


# %%
def failed(name, setting):
    return [s["diverged"] > 0 or s["last"] > np.log(10) for s in found[name, setting]]


# %% picture="learned_update" jupyter={"outputs_hidden": true}
figure, panels = plt.subplots(2, 3, figsize=(10, 5.6))
for axes, setting in zip(panels.flat, settings, strict=False):
    for name, look in zip(methods[:5], plt.rcParams["axes.prop_cycle"], strict=True):
        curves = np.log([np.maximum(seed["curve"], 1e-5) for seed in found[name, setting]])
        steps = np.linspace(0, 1000 if "horizon" in setting else 100, curves.shape[1])
        if any(failed(name, setting)):  # one line per seed
            axes.semilogy(steps, np.exp(curves.T), **look, linewidth=1)
            continue
        mean, width = curves.mean(axis=0), 2.776 * curves.std(axis=0, ddof=1) / np.sqrt(5)
        axes.semilogy(steps, np.exp(mean), **look, label=name)
        low, high = np.exp(mean - width), np.exp(mean + width)
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.2)
    lowest = min(min(seed["curve"]) for name in methods[:5] for seed in found[name, setting])
    axes.set_ylim(max(lowest, 1e-5) / 2, 10)  # losses of runs that diverge go beyond it
    axes.set(title=setting.capitalize(), xlabel="training step", ylabel="training loss")
panels.flat[-1].axis("off")
panels.flat[-1].legend(*panels[0, 0].get_legend_handles_labels(), loc="center", title="optimizer")
plt.show()

# %% [markdown]
# The table shows geometric means over the five seeds, with 95 % intervals, of the loss after the last step (the mean of
# five minibatches). An optimizer **fails** for a seed if a run diverges, or if this loss exceeds that of guessing.


# %%
def summarized(name, setting):
    if count := sum(failed(name, setting)):
        return f"{count} of 5 failed"
    mean, interval = mk.report.mean_and_interval(np.log(final[name, setting]))
    return "{:.2g} ({:.2g} to {:.2g})".format(*np.exp([mean, mean - interval, mean + interval]))


mk.report.Table([{"optimizer": n} | {s: summarized(n, s) for s in settings} for n in methods])

# %% [markdown]
# Two methods differ if the interval of their paired differences (here of logarithms, per seed on the same test tasks)
# excludes zero. We do not adjust for the number of comparisons.


# %%
def verdict(one, other, setting):
    if count := sum(failed(one, setting)):
        return f"{count} of 5 failed"
    ratio = mk.Score.of(np.log(final[one, setting] / final[other, setting]))
    if abs(ratio.mean) <= ratio.interval:
        return "indistinguishable"
    return "lower" if ratio.mean < 0 else "higher"


rows = [
    {"final loss of": one, "compared with": other} | {s: verdict(one, other, s) for s in settings}
    for n, one in enumerate(methods[:3])
    for other in methods[n + 1 :]
]
verdicts = {(row["final loss of"], row["compared with"]): row for row in rows}
mk.report.Table(rows)

# %% [markdown]
# ### On tasks like those of meta-training
#
# How soon does each optimizer reach the final loss of tuned Adam without decay? Single minibatches vary, so we compare
# the mean of the last five:


# %%
def steps_to_reach(curve, loss, window=5):
    means = np.convolve(curve, np.ones(window) / window, "valid")
    return window + int(np.argmax(means <= loss)) if np.any(means <= loss) else None


# %%
curves = {name: [seed["curve"] for seed in found[name, "training family"]] for name in methods}
targets = [np.mean(curve[-5:]) + 1e-9 for curve in curves["adam"]]
needed = {
    name: [steps_to_reach(*pair) for pair in zip(curves[name], targets, strict=True)]
    for name in methods
}
mean_loss = {name: mk.Score.of(np.mean(curves[name], axis=1), "mean loss") for name in methods}
rows = [
    {"optimizer": n, "steps to Adam's final loss, per seed": str(needed[n]), "mean loss": mean_loss[n]}
    for n in methods
]
mk.report.Table(rows)

# %%
paired = {}
for one, other in itertools.combinations(methods[:3], 2):
    steps = mk.Score.of(np.subtract(needed[one], needed[other]), "steps")
    loss = mk.Score.of(mean_loss[one].values - mean_loss[other].values, "mean loss")
    paired[one, other] = steps, loss
    print(f"{one} minus {other}: {steps}; {loss}")

# %% [markdown]
# On its own family, the learned optimizer has a lower final loss than all four tuned optimizers, a twentieth (interval
# 0.011 to 0.21) of that of the best of them, Adam without decay. It reaches Adam's final loss after $46 \pm 4$ steps,
# less than half of Adam's. The known updates alone need $57 \pm 7$ with schedules and $62 \pm 3$ with constant
# coefficients. The network saves steps over schedules, and schedules over constant coefficients not distinguishably. Schedules
# lower the mean loss, which meta-training minimizes; what the network adds is indistinguishable, as are final losses.

# %% [markdown]
# About half of the gain in mean loss over Adam, which was tuned for its final loss with default decays, is due to
# seven constant coefficients, which nearly agree in all seeds: about 6 for the gradient, $-18$, 8 and 44 for its
# averages, and 0.9, $-0.3$ and 1.3 for Adam's updates. On a million weights, with minibatches of 128, training steps
# with the network take 1.5 times as long as Adam's.

# %% [markdown]
# These are training losses; test accuracy was not measured. Nor are costs compared: two meta-trainings took
# $2 \cdot 600 \cdot 8 \cdot 100 = 960{,}000$ updates and backpropagation through them, and a search of nine learning rates
# on 64 tasks $57{,}600$ updates.

# %%
family = {pair: row["training family"] for pair, row in verdicts.items()}
among = [family.pop(pair) for pair in itertools.combinations(methods[:3], 2)]
assert {*among} == {"indistinguishable"} and {*family.values()} == {"lower"}
assert [min(needed["learned"]), max(needed["learned"])] == [43, 51]
average = [mk.Score.of(needed[name]) for name in methods[:3]]
assert np.allclose([score.mean for score in average], [46, 57, 62], atol=0.5)
assert np.allclose([score.interval for score in average], [4, 7, 3], atol=0.5)
assert average[0].mean < np.mean(needed["adam"]) / 2
shown = [[score.mean < -score.interval for score in pair] for pair in paired.values()]
assert shown == [[True, False], [True, True], [False, True]]
searches = [stored[f"rates: {name}, {s}"] for name in methods[3:] for s in settings]
assert {len(search) for search in searches} == {9}  # none was extended beyond an edge
assert all(v is None for name in (*decayed, "momentum") for v in needed[name])
means = {name: np.exp(np.log(final[name, "training family"]).mean()) for name in methods}
ratio = mk.Score.of(np.log(final["learned", "training family"] / final["adam", "training family"]))
ends = ratio.mean + ratio.interval * np.array([0, -1, 1])
assert min(methods[3:], key=means.get) == "adam"
assert np.allclose(np.exp(ends), [0.049, 0.0113, 0.21], rtol=0.02)
gains = [mean_loss["adam"].mean - mean_loss[name].mean for name in ("coefficients", "learned")]
assert np.isclose(gains[0] / gains[1], 0.52, atol=0.005)
constant = [stored_update("coefficients", seed).coefficients.numpy() for seed in range(5)]
assert np.allclose(constant, [6, -18, 8, 44, 0.9, -0.3, 1.3], rtol=0.2, atol=0.1)
ends = [
    stored[f"meta-training: schedules, seed {n // 2}, start {n % 2}"]["validation"] for n in range(10)
]
assert sum(end > np.log(10) for end in ends) == 3
times = stored["milliseconds of a training step"]
assert np.isclose(times["LearnedOptimizer"]["median"] / times["Adam"]["median"], 1.5, atol=0.05)

# %% [markdown]
# ## Where it stops winning
#
# In the other settings, the learned optimizers are used as they are. Final losses per seed, and diverged runs:

# %%
for setting in settings[1:]:
    for name in methods[:4]:
        ends = [f"{s['last']:.2g} ({s['diverged']})" for s in found[name, setting]]
        print(f"{setting:<20} {name:<12}", *(f"{end:<13}" for end in ends))

# %% [markdown]
# **Longer runs.** One of the five learned optimizers fails, and the others end with 34 to 720 times Adam's loss;
# schedules alone have 4,000 times Adam's (interval 600 to 27,000). In both, the loss rises after step 100, where $z$
# has values that meta-training never saw: without the network, the sum of Adam's coefficients for matrices grows from
# at most 4 to at least 39 at step 1,000; with it, from at most 2.1 to at most 3. Constant coefficients have 0.012 times
# Adam's loss (0.004 to 0.03), less than all tuned optimizers.

# %% [markdown]
# **Wider networks.** All three meta-trained ones are better than all tuned ones: the learned optimizer has 0.09 times
# Adam's loss (0.01 to 0.8), the coefficients 0.10 times (0.07 to 0.16).
#
# **Other data and deeper networks.** On clothing, two of the five learned optimizers fail; two others are close to
# tuned Adam, and one is worse. Schedules fail for four seeds, coefficients for all. With three layers, all fail. Tuned
# optimizers never do, nor would Adam with the training family's rate of 0.08: on training tasks, it ends at 0.396 on
# clothing (best: 0.393) and at 0.43 with three layers (best: 0.075).

# %%
assert [sum(failed("learned", s)) for s in settings] == [0, 1, 0, 5, 2]
assert [sum(failed("schedules", s)) for s in settings] == [0, 0, 0, 5, 4]
assert [sum(failed("coefficients", s)) for s in settings] == [0, 0, 0, 5, 5]
assert not any(any(failed(name, s)) for s in settings for name in methods[3:])
long, wide = settings[1:3]
lower = [("coefficients", long), *[(one, wide) for one in methods[:3]]]
assert all(verdicts[one, n][s] == "lower" for one, s in lower for n in methods[3:])
assert all(verdicts["schedules", n][long] == "higher" for n in methods[2:])
longer = [seed["curve"] for name in methods[:2] for seed in found[name, long]]  # means of ten steps
assert all(min(curve[19:30]) > curve[9] for curve in longer)
for kind, ends in (("schedules", [38.9, 63]), ("learned", [1.83, 2.97])):
    five = [stored_update(kind, seed) for seed in range(5)]
    at_100, at_1000 = np.array([[adams_part(one, n, matrix) for one in five] for n in (99, 999)])
    assert np.allclose([at_1000.min(), at_1000.max()], ends, rtol=0.01)
    assert np.isclose(at_100.max(), 2.06 if kind == "learned" else 3.95, rtol=0.01)
of_family = [stored[f"rates: adam, {setting}"] for setting in ("clothing", "3 hidden layers")]
assert np.allclose([rates["0.08"] for rates in of_family], [0.396, 0.43], atol=0.005)
assert np.allclose([min(rates.values()) for rates in of_family], [0.393, 0.075], atol=0.0005)
for setting, ends in ((long, [34.5, 720]), ("clothing", [0.8, 3.2])):
    kept = ~np.array(failed("learned", setting))
    times = (final["learned", setting] / final["adam", setting])[kept]
    assert np.allclose([times.min(), times.max()], ends, rtol=0.05)
for name, setting, expected in (
    ("schedules", long, [4010, 594, 27200]),
    ("coefficients", long, [0.0117, 0.0041, 0.0332]),
    ("learned", wide, [0.095, 0.0107, 0.843]),
    ("coefficients", wide, [0.103, 0.0656, 0.161]),
):
    ratio = mk.Score.of(np.log(final[name, setting] / final["adam", setting]))
    ends = ratio.mean + ratio.interval * np.array([0, -1, 1])
    assert np.allclose(np.exp(ends), expected, rtol=0.02)

# %% [markdown]
# ## In an ordinary `fit`
#
# `mk.LearnedOptimizer()` is a Keras optimizer with the stored update. Clipping, weight decay and learning rate
# schedules are those of Keras; `learning_rate` is a factor of the learned update. We train networks on clothing with
# all 28 by 28 pixels instead of 7 by 7:

# %%
clothing = mk.load("fashion")
train, test = ((part.examples / 255, part.labels) for part in map(clothing.split, ("train", "test")))


def fitted(optimizer):
    keras.utils.set_random_seed(0)
    model = mk.networks.mlp(10, input_shape=(28, 28, 1), hidden=(64,))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    model.fit(*train, batch_size=32, epochs=2, verbose=0)
    return model


# %%
optimizers = {"Adam, Keras' default of 0.001": keras.optimizers.Adam()}
optimizers |= {f"learned, times {r}": mk.LearnedOptimizer(learning_rate=r) for r in (1.0, 0.03)}
models = {name: fitted(optimizer) for name, optimizer in optimizers.items()}
scores = {name: model.evaluate(*test, verbose=0) for name, model in models.items()}
for name, (loss, accuracy) in scores.items():
    print(f"{name:<30} test loss {loss:.3f}, test accuracy {accuracy:.3f}")

# %% [markdown]
# As it is, the stored update diverges here, too. With a factor of 0.03, it trains, so the factor has to be tuned like a
# learning rate. These single runs do not show which optimizer is better.

# %% [markdown]
# The optimizer keeps four values per weight, where Adam has two. What was learned is saved with a compiled model:

# %%
model = models["learned, times 0.03"]
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "model.keras")
    again = keras.models.load_model(Path(folder) / "model.keras")
batch = train[0][:32], train[1][:32]
for one in (model, again):
    one.train_on_batch(*batch)
same = all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
print(f"{type(again.optimizer).__name__}, the same weights after one more step: {same}")
assert not scores["learned, times 1.0"][0] < np.log(10) and scores["learned, times 0.03"][1] > 0.7
assert same and again.optimizer.iterations == model.optimizer.iterations

# %% [markdown]
# ## As a few-shot rule
#
# `GradientDescent` takes an update in place of a learning rate, so the update network is also an inner loop for
# `MetaLearner`, with $\theta$ and $\omega$ learned together, as in Meta-SGD (Formula 10.5). Ours begins as gradient
# descent, and $\alpha$ sets how fast its coefficients change. A few steps need no schedules, so $u_i = 0$:

# %%
first_rate, _, alpha = stored["few-shot choice: update network"]
print(f"initial learning rate {first_rate:g}, alpha {alpha:g}")
update = UpdateNetwork(learning_rate=alpha, base="sgd", schedules=False)
update.build()
update.coefficients.assign(update.coefficients * first_rate / alpha)
rule = mk.rules.GradientDescent(update, steps=1, evaluation_steps=3)
network = mk.networks.conv4(5, input_shape=(14, 14, 1), filters=16, downsample="stride")
learner = mk.MetaLearner(network=network, rule=rule)
print(
    "weights of the network:", network.count_params(), " parameters of the rule:", rule.count_params()
)

# %% [markdown]
# Stored results: 5-way 1-shot tasks with drawings of 14 by 14 pixels, 500 meta-steps of four tasks, three seeds, and
# 600 test tasks. Batch normalization uses the statistics of the queries. All methods have the same network and tasks,
# and their learning rates (inner, outer, $\alpha$) were selected by hill climbing on validation alphabets, for the
# update network continuing an earlier search. Prototypes are those of chapter
# [01](01_learning_to_learn.ipynb).

# %%
few_shot = {
    name: np.array([stored[f"few-shot test: {name}, seed {seed}"] for seed in range(3)])
    for name in ("prototypes", "MAML", "update network")
}
rows = [{"rule": name, "accuracy": mk.Score.of(values)} for name, values in few_shot.items()]
for other in ("MAML", "prototypes"):
    difference = mk.Score.of(few_shot["update network"] - few_shot[other])
    rows.append({"rule": f"update network minus {other}", "accuracy": difference})
    assert (abs(difference.mean) < difference.interval) == (other == "MAML")
mk.report.Table(rows)

# %% [markdown]
# These three seeds cannot distinguish the learned rule from MAML. Prototypes are better than the learned rule.

# %% [markdown]
# ## Summary
#
# - An optimizer is a function of the history of gradients. A small network that is applied to every weight separately can
#   learn this function (Formula 11.1). SGD, momentum and Adam are special cases, from which meta-training starts.
# - Truncated backpropagation (Formula 11.2) makes long runs affordable, but short segments favor what helps at once.
# - On tasks like those of meta-training, the learned optimizer had a lower final training loss than tuned momentum and
#   Adam, and reached Adam's in 46 instead of 100 steps. Seven learned coefficients alone need 62.
# - Outside this family, all three were better than tuned optimizers in wider networks, but only constant coefficients in
#   longer runs. On other data, two of five learned optimizers failed, and nearly all without a network; in deeper
#   networks, all. Before you use a learned optimizer, find out on what it was trained.

# %% [markdown]
# ## Exercises
#
# Exercises 1 to 3 have a checker ([solutions](../tests/solutions.py)): run its cell and pass it your function.

# %% [markdown]
# **1. Warm-up: momentum as coefficients.** The seven known updates of Formula 11.1 are the gradient, its averages with
# decays 0.5, 0.9 and 0.99, and Adam's update for each. Implement `coefficients(decay)`, which returns the seven
# $c_i$ of momentum with one of these decays, so that $\sum_i c_i d_i$ is the velocity $u \leftarrow \beta u + g$.


# %%
def check_coefficients(coefficients):
    decays, rng = np.array([0.5, 0.9, 0.99]), np.random.default_rng(0)
    for decay in decays:
        averages, velocity = np.zeros(3), 0.0
        for gradient in rng.normal(size=20):
            averages = decays * averages + (1 - decays) * gradient
            velocity = decay * velocity + gradient
        known_updates = [gradient, *averages, *rng.normal(size=3)]
        found = np.dot(coefficients(decay), known_updates)
        assert np.isclose(found, velocity), f"decay {decay}: {found:.3f} instead of {velocity:.3f}"
    print("Correct.")


# %% [markdown]
# **2. The truncated gradient by hand.** For the loss $\theta^2 / 2$ and gradient descent with learning rate $\alpha$,
# as above, implement `truncated_gradient(theta, alpha, steps, truncation)` without automatic differentiation.


# %%
def check_truncated_gradient(truncated_gradient):
    def mean_loss(alpha, theta, steps):
        return np.mean([((1 - alpha) ** k * theta) ** 2 / 2 for k in range(steps)])

    for theta, alpha, steps, truncation in (
        (1.0, 0.1, 4, 4),
        (1.0, 0.1, 4, 2),
        (-2.0, 0.3, 6, 3),
        (1.0, 0.5, 4, 1),
    ):
        starts = [(1 - alpha) ** first * theta for first in range(0, steps, truncation)]
        differences = [
            (mean_loss(alpha + 1e-6, start, truncation) - mean_loss(alpha - 1e-6, start, truncation))
            / 2e-6
            for start in starts
        ]
        found, wanted = truncated_gradient(theta, alpha, steps, truncation), np.mean(differences)
        assert np.isclose(found, wanted, atol=1e-6), f"{found:.4f} instead of {wanted:.4f}"
    print("Correct.")


# %% [markdown]
# **3. Features without a scale.** Implement `features(gradient, average, square)` for one tensor of weights, given as
# vectors: the gradient divided by its root mean square, and the average divided by the root of `square`, as the two
# rows of a matrix, without smoothing.


# %%
def check_features(features):
    rng = np.random.default_rng(0)
    gradient, average, square = rng.normal(size=6), rng.normal(size=6), rng.uniform(1, 2, 6)
    found = np.asarray(features(gradient, average, square))
    assert found.shape == (2, 6), f"two rows of six features were expected; got the shape {found.shape}"
    assert np.isclose(np.mean(found[0] ** 2), 1), "the gradient must have a mean square of 1"
    assert np.allclose(found[1], average / np.sqrt(square)), "the average is divided by the root"
    scaled = features(100 * gradient, 100 * average, 100**2 * square)
    assert np.allclose(scaled, found), "the scale of the loss must not matter"
    print("Correct.")


# %% [markdown]
# **4. Project: another family.** Meta-train an update network for another family, for example networks of random
# widths and depths. Does it generalize better to longer runs or other data? Compare with tuned momentum and Adam, give
# intervals over at least three seeds, look for settings where it loses, and count the cost.

# %% [markdown]
# ## References
#
# - M. Andrychowicz et al., [Learning to learn by gradient descent by gradient descent](https://arxiv.org/abs/1606.04474),
#   2016.
# - Y. Wu, M. Ren, R. Liao, R. Grosse, [Understanding Short-Horizon Bias in Stochastic
#   Meta-Optimization](https://arxiv.org/abs/1803.02021), 2018.
# - L. Metz et al., [Understanding and correcting pathologies in the training of learned
#   optimizers](https://arxiv.org/abs/1810.10180), 2019: truncation, bias and exploding gradients.
# - L. Metz et al., [Tasks, stability, architecture, and compute](https://arxiv.org/abs/2009.11243), 2020.
# - L. Metz et al., [Practical tradeoffs between memory, compute, and performance in learned
#   optimizers](https://arxiv.org/abs/2203.11860), 2022a, with the library
#   [learned_optimization](https://github.com/google/learned_optimization).
# - L. Metz et al., [VeLO: Training Versatile Learned Optimizers by Scaling Up](https://arxiv.org/abs/2211.09760), 2022b.
# - P. Janson et al., [PyLO: Towards Accessible Learned Optimizers in PyTorch](https://arxiv.org/abs/2506.10315), 2025.
