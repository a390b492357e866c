# %% [markdown]
# # Learned learning rates and losses: meta-optimization
#
# **Goals.** After this chapter you can write an optimizer that is itself trained, learn learning rates per layer and
# step, derive and verify a hypergradient, recognize short-horizon bias, and train an inner loss that ignores wrong
# targets. You will also see where a learned setting is not significantly better than a tuned one.
#
# **Prerequisites.** Learning-rate schedules (chapter [02](02_classical_learning.ipynb)) and MAML with its meta-gradient
# (chapter [10](10_maml.ipynb)).
#
# **Time.** One lecture of 90 minutes. The code runs in about one minute on two CPU cores.
#
# ![Learned learning rates: of three layers over the inner steps, on sine curves, and over the steps of a training run](learned_rates.png)
#
# *Learned learning rates, means over five seeds with 95 % intervals. Left: rates per layer and inner step of MAML; the
# dotted line is the single tuned rate. Right: a schedule for a training run of 100 steps, learned with hypergradients;
# the dotted line is a tuned exponential schedule.*

# %%
import meta_keras as mk  # before TensorFlow, so that TensorFlow starts without log messages

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from meta_keras.rules import GradientDescent, LearnedLoss, LearnedRates, Update

mk.report.style()
tf.get_logger().setLevel("ERROR")  # no warning for each function that is traced again
stored = mk.report.measured("chapter_09")  # long measurements, made by benchmarks/chapter_09.py

# %% [markdown]
# ## An optimizer that is trained
#
# In chapter 10, the outer loop learned where gradient descent starts. **Meta-optimization** (元优化) also learns *how* it
# proceeds: its learning rates, its memory of earlier steps, or the loss that it descends. D1's **meta-optimizer**
# (元优化器), usually called a *learned optimizer* (chapter [11](11_pnml.ipynb)), with parameters $\omega$, has three parts:
# an input layer (元输入层), which receives the gradient of the support loss; the optimizer itself, which may keep a memory
# $m_k$ from step to step; and an output layer (元输出层), which returns the update $u$ that is added to the weights:
#
# $$\theta_{k+1} = \theta_k + u_k, \qquad (u_k, m_{k+1}) = \mathrm{update}_\omega\big(\nabla L_S(\theta_k), m_k\big)
# \qquad \text{(Formula 9.1)}$$

# %% [markdown]
# The outer loop differentiates the query loss $L_Q(\theta_K)$ with respect to $\omega$, through all $K$ inner steps.

# %% [markdown]
# In the library, a meta-optimizer is an `Update`, a Keras layer whose weights are $\omega$. The following one learns
# two numbers, which determine the learning rate and the momentum coefficient (chapter 02). All three parts are in its
# method `update`:


# %%
class LearnedMomentum(Update):
    def prepare(self, network, parameters, steps):
        self.omega = self.add_weight(shape=(2,), initializer="zeros", name="omega")

    def init(self, parameters):
        return [tf.zeros_like(one) for one in parameters]

    def update(self, gradients, memory, parameters, step):  # input: the gradients
        rate, decay = 0.01 * tf.exp(self.omega[0]), tf.tanh(self.omega[1])
        pairs = zip(memory, gradients, strict=True)
        velocity = [decay * v - rate * g for v, g in pairs]  # the optimizer
        return velocity, velocity  # output: what is added to the weights, and the memory


# %% [markdown]
# We train it together with the initialization on the sine curves of chapter 10 (ten support points), for 300 batches of
# 25 tasks and three inner steps:


# %%
def trained(rule, tasks, learning_rate=0.003):
    """A learner after meta-training with Adam, always from the same random weights."""
    keras.utils.set_random_seed(0)
    learner = mk.MetaLearner(network=mk.networks.mlp(1), rule=rule)
    optimizer = keras.optimizers.Adam(learning_rate, global_clipnorm=10.0)
    learner.compile(optimizer, loss="mse", steps_per_execution=50)
    learner.fit(tasks, verbose=0)
    return learner


# %% [markdown]
# The tasks are drawn once, so that every method trains on the same ones.

# %%
sines = mk.Sinusoids(shots=10, queries=10, meta_batch=25, seed=0)
training_tasks = tf.data.Dataset.from_tensor_slices(next(iter(sines.batch(300))))

# %%
momentum = LearnedMomentum()
learner = trained(GradientDescent(momentum, steps=3), training_tasks)
rate, decay = 0.01 * np.exp(momentum.omega[0]), np.tanh(momentum.omega[1])
print(f"learning rate {rate:.4f} (initially 0.0100), momentum coefficient {decay:.2f} (initially 0.00)")

# %% [markdown]
# We did not measure whether this helps. To see what the optimizer does, we give it the gradients of one task's support
# loss:

# %%
task = [part[0] for part in next(iter(training_tasks))]
with tf.GradientTape() as tape:
    loss = tf.reduce_mean((learner.network(task[0]) - task[1]) ** 2)
gradients = tape.gradient(loss, [v.value for v in learner.network.trainable_variables])
step = mk.rules.Step(0, loss, training=False)
updates, _ = momentum.update(gradients, momentum.init(gradients), gradients, step)

# %% [markdown]
# The table lists the norms of input and output for the kernel of each layer. In the first step, without
# a memory, their ratio is the learned rate.

# %%
names = [v.path.split("/")[-2] for v in learner.network.trainable_variables]
rows = [
    {"layer": n, "gradient norm": float(tf.norm(g)), "update norm": float(tf.norm(u))}
    for n, g, u in zip(names, gradients, updates, strict=True)
]
mk.report.Table(rows[::2])

# %% [markdown]
# > **In the articles.** D1 ([section 3.3](README.md#from-the-documents-to-the-chapters)) names the three layers, but
# > feeds the meta-optimizer with input data. From these alone it could not tell two tasks with opposite targets apart;
# > it needs gradients. D1's program (4.3) uses SGD with a fixed rate and learns nothing about optimization (see the
# > [errata](README.md#errata)).

# %% [markdown]
# ## Learning rates per layer and step
#
# The simplest meta-optimizers only have learning rates. Meta-SGD (Li et al., 2017; chapter 10) learns one per weight.
# MAML++ (Antoniou et al., 2019) learns far fewer, one for each layer $l$ and inner step $k$:
#
# $$\theta^{(l)}_{k+1} = \theta^{(l)}_k - \alpha_{l,k} \, \nabla_{\theta^{(l)}} L_S(\theta_k)
# \qquad \text{(Formula 9.2)}$$

# %% [markdown]
# `LearnedRates(per=...)` offers both, and one rate per layer or per step. With `logarithmic=True`, its weights are the
# logarithms of the rates, so that rates stay positive, and a step of Adam changes small and large ones by similar
# factors. We learn rates per layer and step, beginning at 0.01 everywhere:

# %%
rates = LearnedRates(0.01, per="layer-step", logarithmic=True)
learner = trained(GradientDescent(rates, steps=3), training_tasks)
for name, values in rates.values().items():
    print(f"{name:<8}", "  ".join(f"{value:.4f}" for value in values))

# %% [markdown]
# What do learned rates gain over *one* well-chosen rate? We compared versions of MAML (stored results):
# one fixed rate, and learned rates per layer and step or per weight, both learned as logarithms.
#
# - **Sine curves**: five inner steps, 1,000 batches of 25 tasks, the network above, 1,000 test tasks, mean squared
#   error.
# - **Glyphs** (5-way 1-shot, 14x14 pixels): three inner steps, 600 batches of 16 tasks, two hidden layers of 64 units,
#   600 test tasks, misclassification rate.

# %% [markdown]
# For every version, we selected the outer learning rate (which decays by a cosine) and then the fixed or initial inner
# rate by the error on 300 validation tasks (one seed). Grids were extended while the best value was at an edge. The
# table shows five new seeds.

# %%
seeds = range(100, 105)


def test_errors(title, name):
    return np.array([stored[f"{title}, {name}: seed {seed}"]["error"] for seed in seeds])


# %% [markdown]
# Differences are paired: both methods have the same seeds and test tasks.


# %%
def verdict(difference):
    if abs(difference.mean) <= difference.interval:
        return "not significantly different"
    return "lower" if difference.mean < 0 else "higher"


def comparison(title, baseline, others):
    """The errors of methods, and their paired differences from a baseline; 95 % intervals over seeds."""
    rows, of_baseline = [], test_errors(title, baseline)
    for name in (baseline, *others):
        settings, found = stored[f"{title}, {name}: settings"]["selected"], test_errors(title, name)
        difference = mk.Score.of(found - of_baseline)
        row = {"method": name, "outer, inner rate": f"{settings['outer']:.3g}, {settings['inner']:.3g}"}
        row |= {"error": mk.Score.of(found, "error"), f"minus {baseline}": difference if rows else "–"}
        rows.append(row | {"verdict": verdict(difference) if rows else "–"})
    return rows


# %%
sine_rows = comparison("rates, sines", "one rate", ("layer-step", "weight"))
glyph_rows = comparison("rates, glyphs", "one rate", ("layer-step", "weight"))
tables = {"sine curves": sine_rows, "glyphs": glyph_rows}
mk.report.Table([{"tasks": tasks} | row for tasks, rows in tables.items() for row in rows])

# %% [markdown]
# By the book's rule for paired differences, two methods differ where the interval excludes zero. On sine curves, rates
# per layer and step are not significantly better than one tuned rate, whereas rates per weight, as in Meta-SGD, have a
# lower error than both (0.034 ± 0.020 below the former). On glyphs, rates per layer and step lower the error by 1.2 ±
# 1.1 percentage points, about the difference between neighboring inner rates, so a finer grid might remove it; rates
# per weight do not differ significantly from one rate. (In chapter 10, five-step Meta-SGD diverged at most settings.
# Here, gradients are clipped, outer rates decay, and logarithms are learned; which of these matters was not tested.)
# Beyond the steps of meta-training, the library repeats the last rate.

# %% [markdown]
# The opening figure shows the learned rates and, on the right, a schedule, explained in the next section. Means are
# geometric.


# %%
def over_seeds(rates):
    """The geometric mean over seeds, and how far its 95 % interval extends below and above."""
    logarithms = np.transpose(np.log(rates))
    means, widths = np.transpose([mk.report.mean_and_interval(row) for row in logarithms])
    return np.exp(means), np.exp(means) - np.exp(means - widths), np.exp(means + widths) - np.exp(means)


# %% picture="learned_rates" jupyter={"outputs_hidden": true}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
learned = [stored[f"rates, sines, layer-step: seed {seed}"]["rates"] for seed in seeds]
for number, (name, line) in enumerate({"hidden 1": "o-", "hidden 2": "s--", "head": "^-."}.items()):
    means, low, high = over_seeds([list(one.values())[number] for one in learned])
    positions = np.arange(len(means)) + 0.05 * number
    left.errorbar(positions, means, [low, high], fmt=line, capsize=3, label=name)
one_rate = stored["rates, sines, one rate: settings"]["selected"]["inner"]
left.axhline(one_rate, color="0.4", linestyle=":", label="one rate, tuned")
left.set(
    title="sine curves", xlabel="inner step", ylabel="learning rate", yscale="log", xticks=range(5)
)
means, low, high = over_seeds([stored[f"schedule, horizon 100: seed {seed}"] for seed in seeds])
right.plot(means, label="learned")
right.fill_between(np.arange(100), means - low, means + high, alpha=0.3)
rate, fraction = stored["schedule, exponential: settings"]["selected"]
right.plot(rate * fraction ** (np.arange(100) / 100), ":", color="0.4", label="exponential, tuned")
right.set(title="schedule", xlabel="training step", ylabel="learning rate")
left.legend()
right.legend()
plt.show()

# %% [markdown]
# On sine curves, the first hidden layer has the highest learning rate in the first step, about ten times those of the
# other two layers, and the intervals do not overlap.

# %%
verdicts = [row["verdict"] for row in (*sine_rows[1:], *glyph_rows[1:])]
assert verdicts == ["not significantly different", "lower", "lower", "not significantly different"]
steps_against_weights = mk.Score.of(sine_rows[2]["error"].values - sine_rows[1]["error"].values)
assert f"{steps_against_weights.mean:.3f} ± {steps_against_weights.interval:.3f}" == "-0.034 ± 0.020"
first_step = np.array([[values[0] for values in one.values()] for one in learned]).T  # a row per layer
means, low, high = zip(*(over_seeds(row[:, None]) for row in first_step), strict=True)
assert means[0] - low[0] > max(means[1] + high[1], means[2] + high[2])
assert all(7 < means[0] / mean < 13 for mean in means[1:])

# %% [markdown]
# ## Hypergradients: learning a schedule
#
# A learning-rate schedule (chapter 02) has one rate per training step. The derivative of a loss after training with
# respect to these rates is called a **hypergradient** (超梯度; Maclaurin et al., 2015; Franceschi et al., 2017), because
# rates are hyperparameters. Since $\theta_{k+1} = \theta_k - \alpha_k g_k$ with $g_k = \nabla L_S(\theta_k)$, the chain
# rule gives
#
# $$\frac{\partial L_Q(\theta_K)}{\partial \alpha_k} = - g_k^\top \, \frac{\partial L_Q(\theta_K)}{\partial \theta_{k+1}}
# \qquad \text{(Formula 9.3)}$$
#
# In words: increase the rate if moving further along the negative gradient would have helped *at the end*.

# %% [markdown]
# For the single weight of chapter 10, with $L_S = (\theta - 2)^2$, $L_Q = (\theta - 3)^2$, $\theta_0 = 0$ and one step
# with $\alpha_0 = 0.1$, the gradient is $g_0 = -4$ and the weight becomes $\theta_1 = 0.4$. There $L_Q$ has the
# derivative $2\,(0.4 - 3) = -5.2$, so the hypergradient is $-(-4)(-5.2) = -20.8$, and the rate should increase. For a
# rate $\alpha_k = e^{\omega_k}$ that is learned by its logarithm, the hypergradient is multiplied by the rate:
#
# $$\frac{\partial L}{\partial \omega_k} = \alpha_k \, \frac{\partial L}{\partial \alpha_k}
# \qquad \text{(Formula 9.4)}$$
#
# The library agrees:

# %%
line = keras.Sequential(
    [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
)
for logarithmic in (False, True):
    rates = LearnedRates(0.1, per="step", logarithmic=logarithmic)
    learner = mk.MetaLearner(network=line, rule=GradientDescent(rates, steps=1), parallel="unrolled")
    learner.compile(loss="mse")
    one = tf.ones((1, 1, 1))
    _, _, (loss, (_, hypergradient)) = learner.meta_gradients((one, 2 * one, one), 3 * one)
    print(f"logarithmic={logarithmic}: hypergradient {float(hypergradient[0]):.2f}")
    assert np.isclose(hypergradient, -2.08 if logarithmic else -20.8)

# %% [markdown]
# ### A schedule for noisy gradients
#
# Where do schedules matter? Wu et al. (2018) study the *noisy quadratic*, a sum of parabolas with curvatures $h_i$ and
# minima that jump randomly from step to step, with variance $\sigma^2$, as minibatches make them do. Because gradients
# are linear, the mean square $A_i$ of the distance of weight $i$ from the mean minimum, and with it the expected
# **excess loss** above the unavoidable $\frac12 \sigma^2 \sum_i h_i$, can be computed exactly:
#
# $$A_{i,k+1} = (1 - \alpha_k h_i)^2 A_{i,k} + (\alpha_k h_i \sigma)^2, \qquad
# L_k = \frac12 \sum_i h_i A_{i,k} \qquad \text{(Formula 9.5)}$$

# %% [markdown]
# The first term is progress, and the second is noise. With a large rate, progress is fast, but the weights then remain
# noisy, so a schedule should begin with large rates and end with small ones. We limit all rates to 1.9, because above 2
# the steepest direction, with a curvature of 1, diverges.

# %%
curvatures, noise, limit, steps = tf.constant(np.geomspace(0.05, 1, 20)), 0.5, 1.9, 100


def expected_losses(schedule, horizon=steps):
    """The expected loss after every step; the gradient goes back through at most `horizon` of them."""
    square, losses = tf.ones_like(curvatures), []
    for k in range(steps):
        rate = tf.minimum(tf.convert_to_tensor(schedule), limit)[..., k, None]
        if k % horizon == 0:
            square = tf.stop_gradient(square)
        square = (1 - rate * curvatures) ** 2 * square + (rate * curvatures * noise) ** 2
        losses.append(tf.reduce_sum(curvatures * square, axis=-1) / 2)
    return tf.stack(losses, axis=-1)


# %% [markdown]
# We tune a constant, an exponentially decaying and a cosine-shaped schedule on a fine grid of initial rates and final
# fractions:

# %%
progress = np.arange(steps) / steps


def shape(kind, rate, decay):
    """A schedule that begins at `rate`. decay: the fraction that is left at its end."""
    if kind == "exponential":
        return rate * decay**progress
    if kind == "cosine":
        return rate * (decay + (1 - decay) * (1 + np.cos(np.pi * progress)) / 2)
    return np.full(steps, rate)


# %%
initial_rates, fractions = np.geomspace(0.05, 8, 24), np.geomspace(0.001, 0.5, 14)
schedules = {}
for kind in ("constant", "exponential", "cosine"):
    grid = [(r, d) for r in initial_rates for d in (fractions if kind != "constant" else [1.0])]
    final = expected_losses(np.stack([shape(kind, *one) for one in grid]))[:, -1]
    rate, fraction = grid[np.argmin(final)]
    assert rate not in initial_rates[[0, -1]] and fraction not in fractions[[0, -1]]  # not at an edge
    schedules[kind] = np.minimum(shape(kind, rate, fraction), limit)

# %% [markdown]
# Now we learn all 100 rates by hypergradients, as logarithms, with Adam. For long runs, **truncated backpropagation**
# (截断反向传播) is common: a run is cut into segments as long as the **horizon**, and each is differentiated alone, so that
# its rates are judged by the loss at the *end of the segment*. We compare horizons of 1, 10 and 100 steps.


# %%
def learned_schedule(horizon, iterations=600):
    omega = keras.Variable(np.full(steps, np.log(0.3)), dtype="float64")
    adam = keras.optimizers.Adam(0.05)

    @tf.function
    def hypergradient():
        with tf.GradientTape() as tape:
            ends = expected_losses(tf.exp(omega.value), horizon)[horizon - 1 :: horizon]
            loss = tf.reduce_sum(ends)
        return tape.gradient(loss, omega.value)

    for _ in range(iterations):
        adam.apply_gradients([(hypergradient(), omega)])
    return np.minimum(np.exp(omega.numpy()), limit)


# %% [markdown]
# Meta-training begins with a constant rate of 0.3.

# %%
for horizon in (1, 10, 100):
    schedules[f"learned, horizon {horizon}"] = learned_schedule(horizon)

# %% alt="Learning rates and expected excess losses of six schedules over 100 steps: the one learned through all steps stays at the limit first and ends lowest; those with short horizons fall early and end higher"
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
lines = {
    "constant": ":",
    "exponential": "--",
    "cosine": "-.",
    "learned, horizon 1": "o-",
    "learned, horizon 10": "s-",
    "learned, horizon 100": "-",
}
for name, line in lines.items():
    left.plot(schedules[name], line, markevery=12, label=name)
    right.plot(expected_losses(schedules[name]), line, markevery=12, label=name)
left.set(xlabel="step", ylabel="learning rate", yscale="log")
right.set(xlabel="step", ylabel="excess loss (expected)", yscale="log")
right.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
final = {name: float(expected_losses(schedule)[-1]) for name, schedule in schedules.items()}
for name, loss in final.items():
    print(f"{name:<22} final loss {loss:.4f}")

# %% [markdown]
# Learned through all 100 steps, the schedule has a lower final loss (0.013) than the best exponential (0.014) and
# cosine schedules (0.020). It remains at the limit for about 15 steps, during which the loss rises, and then falls.
# With a horizon of ten steps, the final loss is higher (0.031) than after tuning two numbers, and with a horizon of one
# step (0.060), it is hardly lower than at the best *constant* rate (0.061). This is **short-horizon bias** (短视偏差; Wu et
# al., 2018): smaller rates remove the noise of steep directions at once, which looks good a few steps later, but they
# slow the progress in flat directions, which determines the final loss.

# %%
greedy, far = schedules["learned, horizon 1"], schedules["learned, horizon 100"]
assert final["learned, horizon 100"] < final["exponential"] < final["cosine"]
assert 0.95 < final["learned, horizon 1"] / final["constant"] < 1
assert np.all(greedy[:60] < far[:60])  # the greedy rates are too small for the first 60 steps
assert 14 <= np.sum(far >= limit) <= 18 and np.all(np.diff(expected_losses(far)[:14]) > 0)
names = (
    "learned, horizon 100",
    "exponential",
    "cosine",
    "learned, horizon 10",
    "learned, horizon 1",
    "constant",
)
assert np.round([final[name] for name in names], 3).tolist() == [
    0.013,
    0.014,
    0.020,
    0.031,
    0.060,
    0.061,
]

# %% [markdown]
# ### Hypergradient descent
#
# The greediest method changes the rate *during* training. Baydin et al. (2018) move it against the hypergradient of the
# very next loss, which by Formula 9.3 is minus the inner product of two successive gradients:
#
# $$\alpha_k = \alpha_{k-1} + \beta \, g_k^\top g_{k-1} \qquad \text{(Formula 9.6)}$$
#
# While successive gradients agree, the rate grows, and when they point in opposite directions, it shrinks. It costs
# little (the last gradient is stored) and needs no meta-training, but two numbers, the initial rate and $\beta$, still
# have to be tuned.

# %% [markdown]
# ### A schedule for a network
#
# `UnrolledTraining` meta-trains an `Update` on whole training runs of a network. We used it for `LearnedRates(0.1,
# per="step", logarithmic=True)`, 100 rates. The inner task is 10-way classification of glyphs (7x7 pixels, 15 images
# per class) by a network with 32 hidden units, trained from random weights on minibatches of eight. Its meta-loss is
# the mean training loss *along* a run (of each minibatch before its update), so fast progress counts as well as a good
# end. A smaller version (20 steps, subsampled pixels, a constant outer rate) runs live:

# %%
glyphs = mk.load("glyphs").split("train").map(lambda x: x[:, ::4, ::4])
tasks = mk.FewShot(glyphs, ways=10, shots=15, queries=1, meta_batch=8, seed=0)
network = mk.networks.mlp(10, input_shape=(7, 7, 1), hidden=(32,))
rates = LearnedRates(0.1, per="step", logarithmic=True)
training = mk.UnrolledTraining(network, rates, steps=20, truncation=20, batch_size=8)
training.compile(keras.optimizers.Adam(0.1), jit_compile=True)
training.fit(tasks, steps_per_epoch=60, verbose=0)
print("rates of every fourth step:", *(f"{rate:.2f}" for rate in rates.values()["all"][::4]))

# %% [markdown]
# In the stored experiment, runs have 100 steps. Hypergradients go back through all of them, or through segments of ten.
# (No loss of a segment comes after its last update, so that rate is copied from the step before.) Every learned
# schedule was meta-trained for 150 steps of eight runs on training alphabets, at an outer rate that was selected for
# the full horizon. Constant, exponential and cosine schedules (initial rate and final fraction) and hypergradient
# descent (Formula 9.6; initial rate and $\beta$) were tuned by the same loss on 64 validation tasks. The table shows 64
# test tasks for each of five seeds.

# %%
names = (
    "constant",
    "exponential",
    "cosine",
    "hypergradient descent",
    "learned, horizon 10",
    "learned, horizon 100",
)
measured = {name: stored[f"schedule, {name}: test"] for name in names}
rows = []
for name, found in measured.items():
    row = {"schedule": name}
    for part, title in (("mean", "training loss along the run"), ("end", "last ten steps")):
        row[title] = mk.Score.of(found[part], "loss")
        difference = np.subtract(found[part], measured["exponential"][part])
        shown = "{:.3f} ± {:.3f}".format(*mk.report.mean_and_interval(difference))
        row[f"{title}, minus exponential"] = shown if name != "exponential" else "–"
    rows.append(row)
mk.report.Table(rows)

# %% alt="Learning rates over 100 steps: with horizon 100, the learned ones stay close to tuned schedules; with horizon 10, they are a lower sawtooth that falls within every ten steps"
for horizon, line in ((10, "--"), (100, "o-")):
    values = np.log([stored[f"schedule, horizon {horizon}: seed {seed}"] for seed in seeds])
    plt.plot(np.exp(values.mean(axis=0)), line, markevery=9, label=f"learned, horizon {horizon}")
for kind, line in (("constant", ":"), ("exponential", "-."), ("cosine", "-")):
    selected = stored[f"schedule, {kind}: settings"]["selected"]
    plt.plot(shape(kind, *selected), line, color="0.4", linewidth=1, label=f"tuned, {kind}")
plt.gca().set(xlabel="step", ylabel="learning rate", yscale="log")
ticks = [0.2, 0.4, 0.6, 1]
plt.yticks(ticks, ticks)
plt.minorticks_off()
plt.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# Learned through whole runs, the schedule rises for several steps and then falls. Along the run, it has a lower loss
# than the exponential one, the best of the tuned schedules. The interval of the paired differences excludes zero, but
# the gain is about one percent, no more than neighboring points of the grid differ by, so a finer grid might remove it.
# (In the last ten steps, for which nothing was tuned, it is 0.035 ± 0.006, or five percent.) Meta-training takes 1,200
# training runs, after 4,800 to select its outer rate; tuning the exponential schedule took 1,152. Hypergradient descent
# has a higher loss than the exponential schedule, by 0.014 ± 0.004 along the run, and by 0.071 ± 0.016 in the last ten
# steps. With a horizon of ten steps, by contrast, the loss is *higher* than at the tuned constant rate, and the rates
# are smaller than with the full horizon in all but the last ten steps: this is consistent with short-horizon bias,
# although the outer rate was not tuned for this horizon, and neither schedule need have converged. Within each segment,
# the rates fall, as if every segment were the end of training.

# %%
along = {name: np.array(found["mean"]) for name, found in measured.items()}
gain = mk.Score.of(along["learned, horizon 100"] - along["exponential"])
assert gain.mean + gain.interval < 0 and 0.005 < -gain.mean / along["exponential"].mean() < 0.015
assert min(along, key=lambda name: along[name].mean()) == "learned, horizon 100"
assert np.all(along["learned, horizon 10"] > along["constant"])
at_end = {name: np.array(found["end"]) for name, found in measured.items()}
for part, one, other, shown in (
    (along, "hypergradient descent", "exponential", "0.014 ± 0.004"),
    (at_end, "hypergradient descent", "exponential", "0.071 ± 0.016"),
    (at_end, "exponential", "learned, horizon 100", "0.035 ± 0.006"),
):
    difference = mk.Score.of(part[one] - part[other], "loss")
    assert f"{difference.mean:.3f} ± {difference.interval:.3f}" == shown
assert 0.045 < 1 - at_end["learned, horizon 100"].mean() / at_end["exponential"].mean() < 0.055
short, full = (
    np.mean(np.log([stored[f"schedule, horizon {h}: seed {s}"] for s in seeds]), axis=0)
    for h in (10, 100)
)
assert np.array_equal(np.flatnonzero(short >= full), np.arange(90, 100))
assert 5 <= np.argmax(full) <= 12

# %% [markdown]
# ## A learned loss
#
# So far the inner loop descended the task's loss, but what counts in the end is the loss on the *queries*. If, for
# example, some support targets are wrong, descending their squared errors can be harmful. Statistics has remedies for
# known kinds of errors, such as the **Huber loss**, which grows only linearly beyond a distance $\delta$. Instead, the
# inner loss itself can be learned (Sung et al., 2017; Antoniou and Storkey, 2019; ML³: Bechtle et al., 2021).

# %% [markdown]
# `rules.LearnedLoss` adds a small network to MAML's inner loop. For every support example $i$ with loss $l_i$, it
# computes a number $w_i$, which weights the example, and an additional term $c_i$ from labels and predictions:
#
# $$L_\omega(S) = L(S) + \frac{1}{|S|} \sum_i \big( \tanh(w_i) \, l_i + c_i \big)
# \qquad \text{(Formula 9.7)}$$

# %% [markdown]
# The weight of an example is therefore $1 + \tanh(w_i)$, between 0 and 2. Both outputs begin at zero, so that
# meta-training begins with the plain loss. The network sees one output at a time together with averages over the
# support set (Zaheer et al., 2017), so it fits regressions, any number of classes, and any number of examples in any
# order. It never sees the queries. The outer loss remains the task's loss.

# %% [markdown]
# We replace one in five support targets of the sine curves by random numbers between -10 and 10. Queries are correct.


# %%
def with_outliers(tasks, seed, fraction=0.2):
    generator, y = np.random.default_rng(seed), tasks.support_y.numpy()
    replaced = generator.random(y.shape) < fraction
    noise = generator.uniform(-10, 10, y.shape).astype(y.dtype)
    return tasks._replace(support_y=tf.constant(np.where(replaced, noise, y)))


# %%
drawn = next(iter(mk.Sinusoids(shots=10, queries=10, meta_batch=25, seed=1).batch(500)))
noisy_tasks = tf.data.Dataset.from_tensor_slices(with_outliers(drawn, seed=1))
test_tasks = next(iter(mk.Sinusoids(shots=10, queries=50, meta_batch=600, seed=10_002)))
noisy_test = with_outliers(test_tasks, seed=2)


# %%
def errors(learner):
    predictions = learner(noisy_test[:3], training=False)
    return np.mean((predictions - noisy_test.query_y) ** 2, axis=(1, 2))


# %% [markdown]
# Both losses get the learning rates that were selected for them on validation tasks (see below, for twice as many
# batches and a decaying outer rate). Training takes 500 batches.

# %%
scores = {}
for name, rule in (("plain", GradientDescent), ("learned", LearnedLoss)):
    found = stored[f"loss, sines with outliers, {name}: settings"]["selected"]
    learner = trained(rule(found["inner"], steps=5), noisy_tasks, found["outer"])
    scores[name] = errors(learner)
difference = mk.Score.of(scores["learned"] - scores["plain"], "learned minus plain")
mk.report.Table([{"inner loss": n, "error": mk.Score.of(e, "error")} for n, e in scores.items()])

# %% [markdown]
# In this run, the learned loss has a far lower error than the plain one: the interval of the paired difference, over
# 600 test tasks, excludes zero, but these are single training runs.

# %%
print(difference)
assert difference.mean + difference.interval < 0

# %% [markdown]
# ### Does it beat a robust loss?
#
# The plain loss is a weak baseline: whoever knows that targets may be wrong uses a robust loss. In the stored
# experiment, MAML descends the plain loss, the Huber loss or the learned loss (five inner steps, 1,000 batches; five
# new seeds and 1,000 test tasks). The learning rates of each were selected on validation tasks with two seeds, the
# outer one first and not again, and then $\delta$ from 0.3, 1 and 3.3 at the rates for $\delta = 1$. This order may
# favor the learned loss: only its inner rate stayed at the value at which the outer rates were compared.

# %%
title = "loss, sines with outliers"
sine_loss_rows = comparison(title, "plain", ("robust", "learned"))
sine_loss_rows[1]["method"] = "Huber loss"
against_huber = mk.Score.of(
    test_errors(title, "learned") - test_errors(title, "robust"), "learned minus Huber"
)
print(against_huber)
mk.report.Table(sine_loss_rows)

# %% [markdown]
# What has the loss network learned? The figure shows the weight of each support example after adaptation, against the
# residual (target minus prediction), for 40 test tasks, after one training run. The line is the factor by which the
# Huber loss multiplies the gradient (exercise 1), scaled to the same level near zero.

# %% alt="Weights of support examples over their residuals, on an axis that is logarithmic beyond 1: large and scattered near zero, and almost zero beyond a residual of 4, where all targets were replaced; the curve of the Huber loss has a similar shape"
found = stored["weights of examples"]
residual, weight, replaced = (np.array(found[key]) for key in ("residual", "weight", "replaced"))
for mask, marker, label in ((~replaced, "o", "correct target"), (replaced, "x", "replaced target")):
    plt.plot(residual[mask], weight[mask], marker, markersize=4, alpha=0.6, label=label)
delta = stored[f"{title}, robust: settings"]["selected"]["setting"]
grid, level = np.linspace(-13, 13, 400), weight[np.abs(residual) < delta].mean()
plt.plot(
    grid,
    level * np.minimum(1, delta / np.abs(grid)),
    "k-",
    linewidth=1,
    label=f"Huber loss, δ = {delta:.2g}",
)
plt.xscale("symlog", linthresh=1)
plt.gca().set(
    xlabel="residual after adaptation", ylabel="weight of the example, 1 + tanh(w)", xlim=(-13, 13)
)
plt.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# The network has learned to down-weight examples with large residuals. (The comparison with the line is qualitative:
# the learned gradient also contains the derivatives of the weight and of $c_i$.) Examples with residuals above 4 keep
# less than a tenth of the weight 1 of the plain loss, and those below 1 on average about a quarter (from 0.08 to 0.57,
# so weights depend on more than the residual). A common factor can be absorbed by the learning rate. Beyond a residual
# of 4, all 38 targets were indeed replaced. The learned loss has a lower error than the tuned Huber loss (their
# intervals do not overlap), which in turn has a lower error than the plain loss. Its network was meta-trained on *this*
# fraction and kind of outliers, whereas the Huber loss has one number, tuned on a coarse grid.

# %%
by_name = {row["method"]: row["error"] for row in sine_loss_rows}
assert (
    by_name["learned"].mean + by_name["learned"].interval
    < by_name["Huber loss"].mean - by_name["Huber loss"].interval
)
assert (
    by_name["Huber loss"].mean + by_name["Huber loss"].interval
    < by_name["plain"].mean - by_name["plain"].interval
)
assert against_huber.mean + against_huber.interval < 0
inner = [
    stored[f"{title}, {name}: settings"]["selected"]["inner"] for name in ("plain", "robust", "learned")
]
assert inner[2] == 0.01 and 0.01 not in inner[:2]  # the outer rates were compared at 0.01
assert np.abs(residual).max() < 13  # all examples are shown
size = np.abs(residual)
assert (
    weight[size > 4].mean() < 0.1
    and 0.2 < weight[size < 1].mean() < 0.3
    and (weight[size < 1].min().round(2), weight[size < 1].max().round(2)) == (0.08, 0.57)
    and replaced[size > 4].sum() == (size > 4).sum() == 38
)

# %% [markdown]
# Two more stored experiments show where this helps. One has glyphs of which three in ten support labels are wrong
# (5-way 5-shot; tuned in the same order, which may again favor small changes of the inner rate: that of label smoothing
# grew 16-fold):

# %%
label_rows = comparison("loss, glyphs with wrong labels", "plain", ("robust", "learned"))
label_rows[1]["method"] = "label smoothing"
against_smoothing = mk.Score.of(label_rows[2]["error"].values - label_rows[1]["error"].values, "error")
print("learned minus label smoothing:", against_smoothing)
smoothing = stored["loss, glyphs with wrong labels, robust: settings"]["selected"]
assert np.isclose(smoothing["inner"], 1.6)  # the outer rates were compared at 0.1
pixels = stored["loss, glyphs with wrong labels, pixels"]
print(f"nearest class means of the pixels: error {pixels:.3f}")
mk.report.Table([{"glyphs with wrong labels": row.pop("method"), **row} for row in label_rows])

# %% [markdown]
# The other has sine curves *without* outliers, whose plain loss is MAML with one rate from above (selected with one
# seed):

# %%
clean = mk.Score.of(
    test_errors("loss, sines", "learned") - test_errors("rates, sines", "one rate"), "error"
)
print("sine curves without outliers, learned minus plain:", clean)
assert [row["verdict"] for row in label_rows[1:]] == ["not significantly different", "lower"]
assert against_smoothing.mean + against_smoothing.interval < 0 and abs(clean.mean) < clean.interval

# %% [markdown]
# With wrong labels, the learned loss lowers the misclassification rate from 0.377 to 0.325 (nearest class means of the
# pixels: 0.449). A common remedy, label smoothing (chapter [05](05_reshaping.ipynb)) with a tuned $\varepsilon$, does
# not differ significantly from the plain loss, and the learned loss has a lower error than both. Without outliers, it
# makes no significant difference.


# %% [markdown]
# > **In the articles.** D1 ([section 3.3](README.md#from-the-documents-to-the-chapters)) says that meta-optimization
# > may "learn how to optimize the loss function" (学习如何优化损失函数) and the learning rate, without an example. It computes
# > the loss of the meta-optimizer by comparing outputs with true answers, and does not say on which data: for
# > adaptation, it has to be the queries. Trained on the support set, a learned rate can fit noise (see the
# > [errata](README.md#errata)).

# %% [markdown]
# ## Summary
#
# - A learned optimizer receives gradients and returns updates. It is trained on a loss after or along the inner steps,
#   by backpropagation through them.
# - On sine curves, learned rates per weight had a lower error than one tuned rate, whereas rates per layer and step did
#   not differ significantly. On glyphs, the latter lowered it by 1.2 ± 1.1 percentage points, which a finer grid might
#   remove; the former made no significant difference.
# - Hypergradients learn a schedule of 100 rates, but in the noisy quadratic a horizon of one step chose rates that were
#   too small in the first 60 steps. A tuned schedule with two numbers is a strong baseline.
# - On sine curves with wrong support targets, a learned loss had a lower error than a tuned Huber loss. It learned from
#   tasks with the same kind of errors.

# %% [markdown]
# ## Exercises
#
# Exercises 1 to 4 have a checker ([solutions](../tests/solutions.py)): run its cell and pass it your function.

# %% [markdown]
# **1. Warm-up: the weight of a residual.** The gradient of the Huber loss is that of the squared error $r^2$ up to a
# distance $\delta$, and has constant magnitude beyond. Write `huber_weight(residual, delta)`, the factor by which it
# multiplies the gradient of the squared error.


# %%
def check_huber_weight(huber_weight):
    def huber(residual, delta):
        inside = min(abs(residual), delta)
        return inside**2 + 2 * delta * (abs(residual) - inside)

    for residual, delta in ((0.5, 1.0), (-0.5, 1.0), (3.0, 1.0), (-8.0, 2.0)):
        slope = (huber(residual + 1e-6, delta) - huber(residual - 1e-6, delta)) / 2e-6
        wanted = slope / (2 * residual)
        found = huber_weight(residual, delta)
        assert np.isclose(found, wanted), f"{found} for a residual of {residual}, not {wanted:.3f}"
    print("Correct.")


# %% [markdown]
# **2. Hypergradients by hand.** For $L_S = (\theta - c)^2$ and $L_Q = (\theta - q)^2$, write
# `hypergradients(theta, c, q, rates)`, the derivative of the query loss after all steps with respect to each rate
# (Formula 9.3).


# %%
def check_hypergradients(hypergradients):
    def query_loss(rates):
        theta = 0.3
        for rate in rates:
            theta = theta - rate * 2 * (theta - 2.0)
        return (theta - 3.0) ** 2

    for rates in (np.array([0.1]), np.array([0.1, 0.3, 0.2])):
        changes = 1e-6 * np.eye(len(rates))
        wanted = [(query_loss(rates + e) - query_loss(rates - e)) / 2e-6 for e in changes]
        found = hypergradients(0.3, 2.0, 3.0, rates)
        assert np.allclose(found, wanted, atol=1e-4), f"{found}, but by central differences {wanted}"
    print("Correct.")


# %% [markdown]
# **3. The greedy rate.** A horizon of one step chooses the rate that minimizes the expected loss after the *next* step
# (Formula 9.5). Write `greedy_rate(curvatures, square, noise)`, where `square` holds the current $A_i$. Then let it
# choose all 100 rates: which curve of the noisy quadratic does it reproduce?


# %%
def check_greedy_rate(greedy_rate):
    h, square = np.array([0.01, 0.1, 1.0]), np.array([1.0, 0.5, 0.2])

    def loss_after(rate, noise):
        return np.sum(h * ((1 - rate * h) ** 2 * square + (rate * h * noise) ** 2)) / 2

    for noise in (0.0, 0.5, 2.0):
        rate = greedy_rate(h, square, noise)
        around = [loss_after(rate * factor, noise) for factor in (0.99, 1.0, 1.01)]
        assert np.argmin(around) == 1, f"noise {noise}: the loss is lower next to {rate:.3f}"
    print("Correct.")


# %% [markdown]
# **4. Hypergradient descent.** Write `hypergradient_descent(gradient, theta, rate, beta, steps)` for one weight
# (Formula 9.6), where `gradient` is a function; the first step uses the initial rate. It returns the final weight and
# rate. Try it on a parabola with several initial rates, then add noise to the gradient.


# %%
def check_hypergradient_descent(hypergradient_descent):
    theta, rate = hypergradient_descent(lambda x: 2 * x, 1.0, 0.1, 0.05, 1)
    assert np.allclose([theta, rate], [0.8, 0.1]), "the first step uses the initial rate"
    theta, rate = hypergradient_descent(lambda x: 2 * x, 1.0, 0.1, 0.05, 2)
    assert np.isclose(rate, 0.1 + 0.05 * 2 * 1.6), "the rate changes by the product of two gradients"
    assert np.isclose(theta, 0.8 - rate * 1.6), "the new rate is used at once"
    print("Correct.")


# %% [markdown]
# **5. Project: what does a loss learn?** Meta-train a `LearnedLoss` for other errors, such as rounded targets, noise
# that grows with the target, or a fraction of outliers that differs between tasks. State a hypothesis about the weights
# of examples first. A good report (a) compares with the plain loss and a robust one, all with settings selected on
# validation tasks, (b) uses at least three seeds and reports intervals, (c) tests on a fraction of errors that was not
# trained on, (d) plots the weights against the residuals, and (e) draws only conclusions that the intervals support.

# %% [markdown]
# ## References
#
# - Z. Li, F. Zhou, F. Chen, H. Li, [Meta-SGD](https://arxiv.org/abs/1707.09835), 2017.
# - A. Antoniou, H. Edwards, A. Storkey, [How to Train Your MAML](https://arxiv.org/abs/1810.09502), 2019.
# - D. Maclaurin, D. Duvenaud, R. Adams, [Gradient-based Hyperparameter Optimization through Reversible
#   Learning](https://arxiv.org/abs/1502.03492), 2015.
# - L. Franceschi, M. Donini, P. Frasconi, M. Pontil, [Forward and Reverse Gradient-Based Hyperparameter
#   Optimization](https://arxiv.org/abs/1703.01785), 2017.
# - A. G. Baydin, R. Cornish, D. Martínez Rubio, M. Schmidt, F. Wood, [Online Learning Rate Adaptation with
#   Hypergradient Descent](https://arxiv.org/abs/1703.04782), 2018.
# - Y. Wu, M. Ren, R. Liao, R. Grosse, [Understanding Short-Horizon Bias in Stochastic
#   Meta-Optimization](https://arxiv.org/abs/1803.02021), 2018.
# - F. Sung, L. Zhang, T. Xiang, T. Hospedales, Y. Yang, [Learning to Learn: Meta-Critic Networks for Sample Efficient
#   Learning](https://arxiv.org/abs/1706.09529), 2017.
# - A. Antoniou, A. Storkey, [Learning to Learn by Self-Critique](https://arxiv.org/abs/1905.10295), 2019.
# - S. Bechtle et al., [Meta-Learning via Learned Loss](https://arxiv.org/abs/1906.05374), 2021.
# - M. Zaheer et al., [Deep Sets](https://arxiv.org/abs/1703.06114), 2017.
