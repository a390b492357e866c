# %% [markdown]
# # Classical learning
#
# **What you will be able to do.** Take one task from pictures to a tested classifier. Say what each step does, in
# numbers. Work gradient descent, momentum, Adagrad and Adam by hand, and see how they move. Let a learning rate decay
# in steps or smoothly. Say how much data ordinary learning wants.
#
# **What you need.** Python, a little numpy, and some idea of what a neural network is. Chapter 01 is the other side of
# this one: many tasks with hardly any data, where here is one task with plenty. What $\pm$ means stands there, under
# [How sure are we?](01_learning_to_learn.ipynb#How-sure-are-we?)
#
# **Time.** About 30 minutes to read; about one minute to run on two cores.
#
# **From the documents.** D4 5, 5.1, 5.2, 5.3 (the MNIST project), 2.3 (Adam and Adagrad); D3 4, 4.1 and 4.3. The
# [guide](README.md#from-the-documents-to-the-chapters) has the whole table.
#
# ![Four optimizers on their way down a valley](four_optimizers.png)
#
# *Four optimizers on their way down the same valley. By the end of the chapter you can say why each goes as it goes.*

# %%
import meta_keras as mk  # first, so that TensorFlow starts quietly

import inspect

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from meta_keras.classical import create_model, preprocess_data, train_model

mk.report.style()

# %% [markdown]
# ## One task
#
# Document D4 trains a network on MNIST, handwritten digits. We take Fashion-MNIST in its place: it has the same size
# and form, ten classes of real photographs, it is harder, and a part of it comes with this project: 200 pictures of
# each class to train on and 50 to test with. To use MNIST itself, write `DATASET = "mnist"` (it is 11 MB to download).

# %%
DATASET = "fashion"
pool = mk.load(DATASET)
x_train, y_train = pool.split("train").arrays()
x_test, y_test = pool.split("test").arrays()
print(f"train {x_train.shape}, test {x_test.shape}, pixels {x_train.min()} to {x_train.max()}")

# %% [markdown]
# One picture of each class:

# %%
figure, axes = plt.subplots(1, len(pool), figsize=(8, 1.2))
for label, axis in enumerate(axes):
    axis.imshow(x_train[y_train == label][0].squeeze())
    axis.set_title(pool.names[label], fontsize=7, loc="center")
    axis.axis("off")

# %% [markdown]
# ## Prepare the data
#
# Pixels go from 0 to 255. A network learns faster from numbers around zero with a spread of about one. So each pixel
# $x$ is first **scaled** to 0 ... 1 (归一化), and then **standardised** (标准化): less the mean $\mu$, divided by the
# standard deviation $\sigma$.
#
# $$x' = \frac{x / 255 - \mu}{\sigma} \qquad \text{(Formula 2.1)}$$
#
# $\mu$ and $\sigma$ are measured once, on the training pictures. The test pictures are prepared with *the same two
# numbers*. The document measured the test pictures by themselves, which is a fault: the test then looks into data that
# a single new picture would not have, and the two sets are no longer measured alike.

# %%
Code(inspect.getsource(preprocess_data), language="python")

# %% [markdown]
# The standard comes from the first call and goes into the second:

# %%
train, standard = preprocess_data(x_train)
test, _ = preprocess_data(x_test, standard)
print(f"mean {standard.mean:.4f}, deviation {standard.deviation:.4f}")
assert abs(train.mean()) < 1e-3 and abs(train.std() - 1) < 1e-3
assert not np.isclose(test.mean(), 0, atol=1e-4)  # near zero, but not by force

# %% [markdown]
# The fault is easy to see with new pictures that were taken in half the light. Measured by the training pictures, they
# are darker, as they should be. Measured by themselves, the difference is wiped out, and with it a fact about the
# world.

# %%
dim = x_test // 2
figure, axes = plt.subplots(1, 2, figsize=(7, 2.4), sharey=True)
ways = {"measured by the training set": standard, "measured by themselves": None}
for axis, (title, measure) in zip(axes, ways.items(), strict=True):
    for name, pictures in (("as taken", x_test), ("in half the light", dim)):
        values = preprocess_data(pictures, measure)[0].mean(axis=(1, 2, 3))
        axis.hist(values, bins=30, alpha=0.6, label=name)
    axis.set(title=title, xlabel="mean of a picture")
axes[0].legend()
plt.show()

# %% [markdown]
# ## Design the model
#
# Two hidden layers of 64 units, and one output a class. The document gives the first dense layer pictures of 28x28
# and leaves out the step that makes a row of 784 numbers of them. Keras' dense layers then work on each *row of the
# picture* by itself, and out come 28 answers a picture:

# %%
as_printed = keras.Sequential([keras.Input((28, 28))])
for units, activation in ((64, "relu"), (64, "relu"), (10, "softmax")):
    as_printed.add(keras.layers.Dense(units, activation=activation))
print("as printed:", as_printed.output_shape)
model = create_model()
print("with a flatten:", model.output_shape)
assert as_printed.output_shape == (None, 28, 10) and model.output_shape == (None, 10)

# %% [markdown]
# Here is the model with the flatten in its place:

# %%
Code(inspect.getsource(create_model), language="python")

# %% [markdown]
# The last layer turns scores $s$ into probabilities with the **softmax**, and training makes the **cross-entropy**
# (交叉熵) of the right class $y$ small:
#
# $$p_k = \frac{e^{s_k}}{\sum_j e^{s_j}} \qquad \text{(Formula 2.2)}$$
#
# $$L = -\log p_y \qquad \text{(Formula 2.3)}$$
#
# By hand: scores $0$ and $\log 3$ give $p = (1/4, 3/4)$. If class 1 is right, $L = -\log 0.75 = 0.288$. (Keras has the
# loss in two forms. In the *sparse* one the label is a number; in the other it is *one-hot*, zeros with a one at its
# class. They give the same.)

# %%
p = keras.ops.softmax(np.array([[0.0, np.log(3.0)]]))
loss = keras.losses.sparse_categorical_crossentropy(np.array([1]), p)
print(p.numpy().round(3), loss.numpy().round(3))
assert np.allclose(p, [0.25, 0.75]) and np.isclose(loss, -np.log(0.75))

# %% [markdown]
# ## Train and evaluate
#
# `train_model` compiles and fits on one-hot labels, as the document does. An **epoch** is one pass over all training
# pictures. We also watch the loss on data that is not trained on, which the document does not.

# %%
keras.utils.set_random_seed(0)
model = create_model()
one_hot = keras.utils.to_categorical
watched = (test, one_hot(y_test))
history = train_model(model, train, one_hot(y_train), epochs=15, validation_data=watched)
curves = {"train": history.history["loss"], "test": history.history["val_loss"]}
axes = mk.report.learning_curves(curves, ylabel="cross-entropy")

# %% [markdown]
# The training loss falls on and on. (At first it is the higher one: it is a mean over the epoch, in which the network
# still improved.) The test loss stops, and turns: from there on the network begins to learn its pictures by heart. This
# is **overfitting** (过拟合), and the reason why a model is judged on data that it has not seen. (To choose anything by
# such a curve takes a third, validation set. Nothing is chosen here.)


# %%
def accuracy(probabilities):
    return mk.Score.of(probabilities.argmax(axis=1) == y_test)


centres = np.stack([train[y_train == label].mean(axis=0) for label in range(10)])
nearest = -((test[:, None] - centres) ** 2).sum(axis=(2, 3, 4))
probabilities = model.predict(test, verbose=0)
network = accuracy(probabilities)
baseline = accuracy(nearest)

# %% [markdown]
# How good is it? Beside the network stand two simple classifiers: one that always says the same class, which is right
# for one picture in ten exactly, and one that takes the class whose mean picture is nearest. Here the intervals are
# over the 500 test pictures, for one trained network.

# %%
rows = {"always the first class": 0.1, "nearest class mean": baseline, "D4's network": network}
assert network.mean - network.interval > baseline.mean
mk.report.Table([{"classifier": name, "accuracy": score} for name, score in rows.items()])

# %% [markdown]
# Where does it go wrong? Shirts are taken for pullovers and T-shirts, and coats for pullovers. People would err there
# too.

# %%
chosen = probabilities.argmax(axis=1)
confusion = np.zeros((10, 10), int)
np.add.at(confusion, (y_test, chosen), 1)
plt.figure(figsize=(5, 4))
plt.imshow(confusion, cmap="Greys")
for truth, guess in np.argwhere(confusion > 4):
    count = confusion[truth, guess]
    color = "white" if count > 25 else "black"
    plt.text(guess, truth, count, ha="center", va="center", color=color, fontsize=8)
plt.xticks(range(10), pool.names, rotation=60, ha="right", fontsize=8)
plt.yticks(range(10), pool.names, fontsize=8)
plt.grid(False)
plt.title("rows: what it is; columns: what it was taken for")
plt.show()

# %% [markdown]
# All of this together is the document's `main`, from the pictures to the test accuracy:

# %%
Code(inspect.getsource(mk.classical.main), language="python")

# %% [markdown]
# It can be called as it is. With five epochs it stops before the network begins to learn by heart:

# %%
reached = mk.classical.main(DATASET, epochs=5)
print(f"test accuracy of main(): {reached:.3f}")
assert reached > baseline.mean

# %% [markdown]
# The document ends by saying that this project shows how meta-learning improves a system. It shows good ordinary
# learning: one task, one model, nothing carried over to a second task.

# %% [markdown]
# ## Gradient descent
#
# What happens inside `fit`? A loss is a landscape over the weights, and training walks downhill. From here on $x$ is a
# weight, or all of them, and no longer a picture. The **gradient**
# (梯度) $\nabla f(x_t)$ points uphill, so each step goes against it, as far as the **learning rate** (学习率) $\alpha$
# says:
#
# $$x_{t+1} = x_t - \alpha \, \nabla f(x_t) \qquad \text{(Formula 2.4)}$$
#
# By hand: $f(x) = x^2$ has the gradient $2x$. From $x_0 = 1$ with $\alpha = 0.1$: $1 - 0.1 \cdot 2 = 0.8$, then
# $0.8 - 0.1 \cdot 1.6 = 0.64$. Every step takes away a fifth.

# %%
x = tf.Variable(1.0)
for expected in (0.8, 0.64, 0.512):
    with tf.GradientTape() as tape:
        height = x**2
    x.assign_sub(0.1 * tape.gradient(height, x))
    assert np.isclose(x, expected)
print(float(x))

# %% [markdown]
# Keras has this step as an optimizer. The next cell lets any Keras optimizer walk on any surface and keeps its path.
# The surface is a valley: steep across, flat along, as the loss of a network often is.


# %%
def valley(place):
    return 0.5 * (0.08 * place[0] ** 2 + 1.0 * place[1] ** 2)


def walk(optimizer, surface=valley, start=(-9.0, 2.0), steps=40):
    place = keras.Variable(start)
    path = [place.numpy()]
    for _ in range(steps):
        with tf.GradientTape() as tape:
            height = surface(place.value)
        optimizer.apply([tape.gradient(height, place.value)], [place])
        path.append(place.numpy())
    return np.stack(path)


# %% [markdown]
# From the far end of the valley, with three learning rates:


# %%
def draw(paths, title):
    across, along = np.meshgrid(np.linspace(-10, 4, 100), np.linspace(-3, 3, 80))
    heights = np.geomspace(0.02, 6, 10)
    plt.contour(across, along, valley((across, along)), heights, colors="0.8", linewidths=0.8)
    for name, path in paths.items():
        plt.plot(*path.T, marker="o", markersize=2.5, linewidth=1.2, label=name)
    plt.plot(0, 0, marker="+", color="black", markersize=12)
    plt.gca().set(title=title, xlim=(-10, 4), ylim=(-3, 3))
    plt.legend(fontsize=8)
    plt.show()


rates = {"0.3: slow": 0.3, "1.2: good": 1.2, "1.98: to and fro": 1.98}
paths = {name: walk(keras.optimizers.SGD(rate)) for name, rate in rates.items()}
draw(paths, "gradient descent, three learning rates")

# %% [markdown]
# A small rate creeps along the valley. A large one leaps from wall to wall, and above 2 it would leap out of it: on a
# wall of curvature $c$, gradient descent holds only for $\alpha < 2 / c$. So the steepest direction sets the rate, and
# the flattest one pays for it. The next three optimizers are three answers to that.

# %%
steep = walk(keras.optimizers.SGD(2.02), steps=40)
assert abs(steep[-1][1]) > abs(steep[0][1])  # the steps across grow

# %% [markdown]
# ## Momentum, Adagrad, Adam
#
# **Momentum** (动量) lets the walker roll. A velocity $u$ remembers a part $\beta$ of the last step, so steps along the
# valley add up, and steps across cancel:
#
# $$u_{t+1} = \beta u_t - \alpha \nabla f(x_t), \qquad x_{t+1} = x_t + u_{t+1} \qquad \text{(Formula 2.5)}$$

# %% [markdown]
# **Adagrad** gives each weight a rate of its own. It divides by the root of the sum $a$ of all squared gradients so
# far, so a weight that has moved much is slowed, and a weight that has hardly moved is not:
#
# $$a_{t+1} = a_t + \nabla f(x_t)^2, \qquad x_{t+1} = x_t - \frac{\alpha \, \nabla f(x_t)}{\sqrt{a_{t+1} + \epsilon}}
# \qquad \text{(Formula 2.6)}$$

# %% [markdown]
# The sum begins at $a_0 = 0.1$ in Keras, and $\epsilon$ is a tiny number that keeps the division from failing.
#
# **Adam** joins the two ideas: a running mean $m$ of the gradient for direction, a running mean $v$ of its square for
# size. Unlike Adagrad's sum, a running mean forgets. Both begin at zero, so early on they are too small; the factors in
# $1 - \beta^t$ put that right. (This is Keras' form, from the end of section 2 of the paper.)
#
# $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) \nabla f, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) \nabla f^2,$$
# $$x_t = x_{t-1} - \alpha \, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \cdot \frac{m_t}{\sqrt{v_t} + \epsilon}
# \qquad \text{(Formula 2.7)}$$
#
# In numpy each is a few lines. Adam, for one:


# %%
def adam_by_hand(gradient, x, steps, rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    m = v = np.zeros_like(x)
    for t in range(1, steps + 1):
        g = gradient(x)
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
        x = x - rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)
    return x


# %% [markdown]
# Forty steps of it down our valley end where Keras' Adam ends:


# %%
def slope(place):
    return np.array([0.08, 1.0]) * place


by_hand = adam_by_hand(slope, np.array([-9.0, 2.0]), steps=40, rate=0.3)
by_keras = walk(keras.optimizers.Adam(0.3))[-1]
print(by_hand, by_keras)
assert np.allclose(by_hand, by_keras, atol=1e-4)

# %% [markdown]
# All four on the same valley, 40 steps each, every one at a rate that works well there:

# %% picture="four_optimizers"
optimizers = {
    "gradient descent": keras.optimizers.SGD(1.2),
    "momentum": keras.optimizers.SGD(0.3, momentum=0.8),
    "Adagrad": keras.optimizers.Adagrad(2.0),
    "Adam": keras.optimizers.Adam(0.3),
}
paths = {name: walk(optimizer) for name, optimizer in optimizers.items()}
draw(paths, "four optimizers, 40 steps")

# %% [markdown]
# Gradient descent is on the floor of the valley after two steps, and then creeps along it: the gradient there is small.
# Momentum swings wide and then runs. Adagrad and Adam set out alike in both directions, however steep each is. Adam
# rolls too, so it swings past the floor and back. How high is each after every step?

# %%
heights = {name: [valley(place) for place in path] for name, path in paths.items()}
for name, curve in heights.items():
    plt.semilogy(np.maximum(curve, 1e-9), label=name)
plt.gca().set(xlabel="step", ylabel="height", title="how fast they come down")
plt.legend()
plt.show()

# %% [markdown]
# On this smooth valley Adam comes down last, although it is the most used of the four. A valley without noise, with a
# rate chosen for each, is not where it helps. So here is D4's network with each of the four, at a rate that is usual
# for such a network, from three starts. The interval is over the starts; with three of them it is wide.


# %%
def fitted(optimizer, seed, epochs=5, x=train, y=y_train):
    keras.utils.set_random_seed(seed)
    model = create_model()
    train_model(model, x, one_hot(y, 10), epochs, optimizer=optimizer)
    return float((model(test).numpy().argmax(axis=1) == y_test).mean())


optimizers = {
    "gradient descent": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.03),
    "Adam": lambda: keras.optimizers.Adam(0.003),
}

# %% [markdown]
# Three starts of each, and the table:

# %%
rows = []
for name, make in optimizers.items():
    reached = np.array([fitted(make(), seed) for seed in range(3)])
    score = mk.Score.of(reached)
    rate = f"{float(make().learning_rate):.3g}"
    rows.append({"optimizer": name, "rate": rate, "accuracy after 5 epochs": score})
mk.report.Table(rows)

# %% [markdown]
# The intervals overlap, so three starts cannot tell the four apart. If there is a difference here, it is too small for
# this experiment. Chapter 09 asks whether an optimizer can be *learned*.

# %% [markdown]
# ## Let the learning rate decay
#
# Real gradients are noisy, since each comes from a few pictures. With a constant rate the walker never rests: it dances
# around the minimum, the wider the larger the rate. So one begins large and ends small: the rate follows a *schedule*
# (学习率调度, in D3 学习率调节).
#
# **Step decay** (阶梯衰减, in D3 逐步学习率) multiplies the rate by $\gamma$ after every $T$ steps; **exponential decay** (指数衰减)
# does the same smoothly:
#
# $$\alpha_t = \alpha_0 \, \gamma^{\lfloor t / T \rfloor} \qquad \text{(Formula 2.8)}$$
#
# $$\alpha_t = \alpha_0 \, \gamma^{t / T} \qquad \text{(Formula 2.9)}$$

# %%
decay = keras.optimizers.schedules.ExponentialDecay
steps = np.arange(200)
constant = decay(0.5, decay_steps=40, decay_rate=1.0)
in_steps = decay(0.5, decay_steps=40, decay_rate=0.4, staircase=True)
smooth = decay(0.5, decay_steps=40, decay_rate=0.4)
schedules = {"constant": constant, "step decay": in_steps, "exponential decay": smooth}
for name, schedule in schedules.items():
    plt.plot(steps, [float(schedule(step)) for step in steps], label=name)
plt.gca().set(xlabel="step", ylabel="learning rate")
plt.legend()
plt.show()

# %% [markdown]
# By hand: from $\alpha_0 = 0.5$ with $\gamma = 0.4$ and $T = 40$, the rate after 60 steps is $0.5 \cdot 0.4 = 0.2$ in
# steps, and $0.5 \cdot 0.4^{1.5} = 0.126$ smoothly.

# %%
assert np.isclose(in_steps(60), 0.2)
assert np.isclose(smooth(60), 0.5 * 0.4**1.5)

# %% [markdown]
# Now a walk with noise on the gradient, 200 times over. What is left at the end is the distance from the minimum:


# %%
def noisy_walk(schedule, walkers=200, noise=2.0):
    rng = np.random.default_rng(0)
    place, distances = np.full(walkers, 5.0), []
    for step in steps:
        gradient = place + noise * rng.normal(size=walkers)
        place = place - float(schedule(step)) * gradient
        distances.append(np.abs(place))
    return np.array(distances)


# %% [markdown]
# With a constant rate the distance stays where the noise holds it. With a rate that decays it goes on falling:

# %%
left = {name: noisy_walk(schedule) for name, schedule in schedules.items()}
for name, distances in left.items():
    mean, half = mk.report.mean_and_interval(distances[-1])
    print(f"{name:<18} {mean:.3f} ± {half:.3f} from the minimum")
    plt.semilogy(distances.mean(axis=1), label=name)
assert left["exponential decay"][-1].mean() < left["constant"][-1].mean() / 3
plt.gca().set(xlabel="step", ylabel="mean distance")
plt.legend()
plt.show()

# %% [markdown]
# ## What it costs: data
#
# Ordinary learning knows nothing when it begins. So it needs data, and it needs it again for every task. Here is D4's
# network with 1, 5, 20, 100 and 200 labelled pictures of each class. Few pictures are repeated (`np.tile`), so that
# every size is trained for the same number of steps. One network is used again and again, with fresh weights each time.


# %%
reused = create_model()
reused.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy", metrics=["accuracy"])


def few_pictures(each, seed):
    keras.utils.set_random_seed(seed)
    reused.set_weights(create_model().get_weights())
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(y_train == label) for label in range(10)]
    few = np.concatenate([rng.choice(rows, each, replace=False) for rows in members])
    rows = np.tile(few, 200 // each)
    reused.fit(train[rows], one_hot(y_train[rows], 10), epochs=4, verbose=0)
    return reused.evaluate(test, one_hot(y_test, 10), verbose=0)[1]


# %% [markdown]
# Every size is drawn five times, with other pictures and other first weights. Training is shorter than above (4 epochs,
# plain gradient descent), so 200 pictures a class reach a little less here:

# %%
sizes = (1, 5, 20, 100, 200)
reached = {each: [few_pictures(each, seed) for seed in range(5)] for each in sizes}
results = [mk.report.mean_and_interval(accuracies) for accuracies in reached.values()]

# %% [markdown]
# The first pictures help most. From 20 a class on, the gain is so small that five draws hardly show it:

# %%
means, halves = np.transpose(results)
plt.errorbar(sizes, means, halves, marker="o", capsize=3, label="D4's network")
plt.axhline(0.1, color="0.5", linewidth=1, linestyle=":", label="chance")
plt.xscale("log")
plt.xticks(sizes, sizes)
plt.gca().set(xlabel="labelled pictures of each class", ylabel="test accuracy", ylim=(0, 1))
plt.legend(loc="center right")
for each, mean, half in zip(sizes, means, halves, strict=True):
    print(f"{each:>3} a class: {mean:.3f} ± {half:.3f}")
assert means[-1] - halves[-1] > means[0] + halves[0]

# %% [markdown]
# With one picture of each class, a network that starts from nothing is far from what it reaches with two hundred. In
# chapter 01, practice on other letters raised the accuracy on new ones, from one drawing each, from about 0.4 to nearly
# 0.9. What older knowledge can do, and where it comes from, is what the rest of this book is about.

# %% [markdown]
# ## Summary
#
# - Ordinary learning is four steps: prepare, design, train, evaluate. Measure the test data by the training data.
# - A dense layer works on the last axis. Pictures must be flattened first.
# - Gradient descent steps against the gradient. The steepest direction limits the rate.
# - Momentum remembers direction, Adagrad remembers size, Adam both.
# - With noise, a rate that decays ends nearer to the minimum.
# - Starting from nothing costs data, in every task anew.

# %% [markdown]
# ## Exercises
#
# Each has a check. Run its cell, then call the check with your answer.

# %% [markdown]
# **1. Standardise.** Write `standardise(train, test)` that returns both, measured by the training set alone.


# %%
def check_standardise(standardise):
    train, test = standardise(np.array([0.0, 2.0]), np.array([1.0, 5.0]))
    assert np.allclose(train, [-1, 1]), "the training set gets mean 0 and deviation 1"
    assert np.allclose(test, [0, 4]), "the test set is measured by the training set"
    print("Right.")


# %% [markdown]
# **2. The largest rate.** For $f(x) = \frac{c}{2} x^2$, write `largest_rate(c)`: above it gradient descent runs away.


# %%
def check_largest_rate(largest_rate):
    for c in (0.5, 1.0, 8.0):
        inside, outside = (abs(1 - factor * largest_rate(c) * c) for factor in (0.99, 1.01))
        assert inside < 1 < outside, f"with c = {c} a step multiplies x by 1 - rate * c"
    print("Right.")


# %% [markdown]
# **3. Momentum by hand.** Write `momentum(gradient, x, steps, rate, beta)`, Formula 2.5, with the velocity 0 at first.


# %%
def check_momentum(momentum):
    def slope(x):
        return 2 * x

    assert np.isclose(momentum(slope, 1.0, 2, 0.1, 0.5), 0.54), "1 -> 0.8 -> 0.8 - 0.1 - 0.16"
    assert np.isclose(momentum(slope, 1.0, 2, 0.1, 0.0), 0.64), "no memory: gradient descent"
    print("Right.")


# %% [markdown]
# **4. A schedule of your own.** Write `warm_up(step, rate, length)`: from 0 it rises in a straight line to `rate` at
# step `length`, and stays there.


# %%
def check_warm_up(warm_up):
    assert warm_up(0, 0.1, 10) == 0, "it begins at 0"
    assert np.isclose(warm_up(5, 0.1, 10), 0.05), "half way it is at half the rate"
    assert np.isclose(warm_up(99, 0.1, 10), 0.1), "then it stays"
    print("Right.")


# %% [markdown]
# ## References
#
# - H. Xiao, K. Rasul, R. Vollgraf, [Fashion-MNIST](https://arxiv.org/abs/1708.07747), 2017.
# - J. Duchi, E. Hazan, Y. Singer, [Adaptive Subgradient Methods](https://jmlr.org/papers/v12/duchi11a.html), 2011.
# - D. Kingma, J. Ba, [Adam: A Method for Stochastic Optimization](https://arxiv.org/abs/1412.6980), 2014.
# - G. Goh, [Why Momentum Really Works](https://distill.pub/2017/momentum/), 2017.
#
# Before: [Learning to learn](01_learning_to_learn.ipynb). After: [the list of chapters](README.md#chapters).
