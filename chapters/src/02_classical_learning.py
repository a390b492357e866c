# %% [markdown]
# # Classical learning
#
# **Goals.** After this chapter you can take a classification problem from raw images to a test accuracy with an interval,
# select hyperparameters on validation data, explain gradient descent, momentum, Adagrad and Adam, and compare optimizers
# and learning-rate schedules fairly.
#
# **Prerequisites.** Python, NumPy, basic neural networks, and the confidence intervals of chapter 01.
#
# **Time.** About 75 minutes to read, or one lecture of 90 minutes; about one minute to run on two CPU cores.
#
# ![Paths of four optimizers in two valleys](four_optimizers.png)
#
# *Forty steps of four optimizers in a valley parallel to the axes (top) and rotated (bottom), with tuned settings. The
# rotation does not affect gradient descent and momentum, whereas Adagrad loses its advantage over gradient descent. At
# the bottom, Adagrad's first step leaves the frame.*

# %%
import meta_keras as mk  # before TensorFlow, so that TensorFlow starts without log messages

import inspect
import itertools
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from meta_keras.classical import create_model, preprocess_data, train_model

mk.report.style()

# %% [markdown]
# ## One task and its data
#
# Chapter 01 is about many tasks with a few examples each. This chapter is about a single task with many examples,
# because many meta-learners are trained by the same gradient-based methods. Our task is Fashion-MNIST (Xiao et al.,
# 2017), with photographs of clothing and accessories in ten classes, 28 x 28 pixels each. A subset of 200 training and
# 50 test images per class is part of this project.

# %%
pool = mk.load("fashion")
images, labels = pool.split("train").arrays()
test_images, y_test = pool.split("test").arrays()
print(images.shape, test_images.shape, f"pixels from {images.min()} to {images.max()}")

# %% alt="One image of each of the ten classes of clothing"
figure, axes = plt.subplots(1, len(pool), figsize=(8, 1.2))
for label, axis in enumerate(axes):
    axis.imshow(images[labels == label][0].squeeze())
    axis.set_title(pool.names[label], fontsize=7, loc="center")
    axis.axis("off")

# %% [markdown]
# If hyperparameters such as the number of epochs were chosen by the test accuracy, that accuracy would be too
# optimistic. We therefore hold out every fourth training image as a **validation set**, select hyperparameters on it,
# and use the test set only for reported results.

# %%
held_out = np.arange(len(labels)) % 4 == 3
y_train, y_validation = labels[~held_out], labels[held_out]
print("per class:", np.bincount(y_train)[0], "training,", np.bincount(y_validation)[0], "validation")
assert np.ptp(np.bincount(y_train)) == 0 and np.ptp(np.bincount(y_validation)) == 0

# %% [markdown]
# ## Preprocessing
#
# Pixels range from 0 to 255, but networks usually train faster if their inputs have a mean near zero and a standard
# deviation near one. We first **scale** the pixels $x$ to the range from 0 to 1 (归一化), and then **standardize** them
# (标准化): we subtract the mean $\mu$ and divide by the standard deviation $\sigma$.
#
# $$x' = \frac{x / 255 - \mu}{\sigma} \qquad \text{(Formula 2.1)}$$

# %% [markdown]
# Both numbers are computed on the training images only and, like the weights, then used for all other images.

# %%
Code(inspect.getsource(preprocess_data), language="python")

# %%
x_train, standard = preprocess_data(images[~held_out])
x_validation, _ = preprocess_data(images[held_out], standard)
print(f"mean {standard.mean:.3f}, standard deviation {standard.deviation:.3f}")
assert abs(x_train.mean()) < 1e-3 and abs(x_train.std() - 1) < 1e-3

# %% [markdown]
# If the test images were standardized by their own mean and standard deviation, predictions would depend on the whole
# test set, and real differences between training and test images would be concealed. For example, only the first of the
# following means reveals that all pixel values were halved:

# %%
dim = test_images // 2
means = [float(preprocess_data(dim, used)[0].mean()) for used in (standard, None)]
print("with the statistics of the training images: {:.2f}; with their own: {:z.2f}".format(*means))
assert means[0] < -0.3 and abs(means[1]) < 1e-3

# %% [markdown]
# > **In the articles.** D4's MNIST project standardizes the test images by their own mean, exchanges the terms 归一化 and
# > 标准化, and omits the layer that flattens images, so that its dense layers give 28 predictions per image. The
# > library corrects this; see the [errata](README.md#errata).

# %% [markdown]
# ## The model and its loss
#
# The network flattens each image into a vector of 784 numbers, since a dense layer works only on the last axis. Two
# hidden layers with 64 units follow, and an output layer with one unit per class.

# %%
Code(inspect.getsource(create_model), language="python")

# %% [markdown]
# The values $s_k$ of the last layer before its activation are called **logits**. The **softmax** turns them into
# probabilities, which are positive and sum to one:
#
# $$p_k = \frac{e^{s_k}}{\sum_j e^{s_j}} \qquad \text{(Formula 2.2)}$$

# %% [markdown]
# Training minimizes the **cross-entropy** (交叉熵), the negative logarithm of the probability that the network assigns to
# the correct class $y$. It approaches zero for a confident correct prediction and grows without bound for a confident
# wrong one:
#
# $$L = -\log p_y \qquad \text{(Formula 2.3)}$$

# %% [markdown]
# For example, the logits $0$ and $\log 3$ give $p = (1/4, 3/4)$. If class 1 is correct, the loss is
# $-\log 0.75 = 0.288$.

# %%
p = keras.ops.softmax(np.array([[0.0, np.log(3.0)]]))
loss = keras.losses.sparse_categorical_crossentropy(np.array([1]), p)
print(p.numpy(), loss.numpy().round(3))
assert np.allclose(p, [0.25, 0.75]) and np.isclose(loss, -np.log(0.75))

# %% [markdown]
# ## Training and validation
#
# An **epoch** is one pass over all training images, in random **mini-batches** of 32. For each batch, an optimizer
# changes the weights to decrease the loss. For now, we use Adam (explained below) at its default learning rate, 0.001.
# The function `train_model` compiles and fits a network on *one-hot* labels, vectors with a one at the correct class
# and zeros elsewhere.

# %% [markdown]
# To select the number of epochs, we train the network and, as a baseline, a **linear classifier** without hidden layers
# (softmax regression) for 20 epochs each, at this learning rate, which validation later confirms for both. Because
# training depends on the random initialization and the order of the batches, we use three seeds.


# %%
def linear_classifier():
    layers = [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


one_hot = keras.utils.to_categorical
validation_data = (x_validation, one_hot(y_validation))
makers = {"network": create_model, "linear classifier": linear_classifier}
curves = {name: [] for name in makers}
for seed in range(3):
    for name, make in makers.items():
        keras.utils.set_random_seed(seed)
        fitted = train_model(make(), x_train, one_hot(y_train), 20, validation_data=validation_data)
        curves[name].append(fitted.history)

# %% alt="Cross-entropy over epochs for the network and the linear classifier: training losses keep falling; validation losses reach a minimum, marked by a line, and rise again, faster for the network"
figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
epochs = {}
for axis, (name, runs) in zip(axes, curves.items(), strict=True):
    for key, label, marker in (("loss", "training", ""), ("val_loss", "validation", "o")):
        values = np.array([run[key] for run in runs])
        axis.plot(range(1, 21), values.mean(axis=0), marker=marker, markersize=3, label=label)
        axis.fill_between(range(1, 21), values.min(axis=0), values.max(axis=0), alpha=0.2)
    epochs[name] = int(values.mean(axis=0).argmin()) + 1
    assert 1 < epochs[name] < 20, "the minimum is inside the range"
    axis.axvline(epochs[name], color="0.6", linewidth=1)
    axis.set(title=name, xlabel="epoch", xticks=range(0, 21, 5))
axes[0].set(ylabel="cross-entropy", ylim=(0, None))
axes[0].legend()
plt.show()
print("epochs with the lowest validation loss:", epochs)

# %% [markdown]
# These **learning curves** are means over the seeds, and shaded bands show the range over the seeds. (Keras averages
# the training loss over an epoch, so it starts above the validation loss.) The validation loss reaches a minimum and
# then rises, while the training loss is still falling. This is **overfitting** (过拟合).

# %% [markdown]
# For each model we select the number of epochs with the lowest mean validation loss (gray line), a form of **early stopping**.

# %% [markdown]
# ## Evaluation
#
# We keep the selected number of epochs and, as is common practice, train on all 200 images per class. The library's
# function `main` contains all steps from the images to the test accuracy:

# %%
Code(inspect.getsource(mk.classical.main), language="python")

# %% [markdown]
# We repeat its steps with five new seeds and keep the predicted classes.

# %%
x_all, standard_all = preprocess_data(images)
x_test, _ = preprocess_data(test_images, standard_all)
predicted = {name: [] for name in makers}
for seed in range(10, 15):
    for name, make in makers.items():
        keras.utils.set_random_seed(seed)
        model = make()
        train_model(model, x_all, one_hot(labels), epochs[name])
        predicted[name].append(model(x_test).numpy().argmax(axis=1))
correct = {name: np.array(classes) == y_test for name, classes in predicted.items()}

# %% [markdown]
# Two more baselines need no training: the *nearest class mean*, computed from pixels, and the $k$-nearest-neighbor
# classifier, a vote among the $k$ nearest training images, with $k$ selected on the validation set.


# %%
def nearest_neighbors(x, y, queries, k):
    x, queries = x.reshape(len(x), -1), queries.reshape(len(queries), -1)
    distances = (x**2).sum(axis=1) - 2 * queries @ x.T  # up to a constant for each query
    nearest = y[distances.argsort(axis=1)[:, :k]]
    return np.stack([(nearest == label).sum(axis=1) for label in range(10)], axis=1).argmax(axis=1)


def accuracy_of_k(k):
    return (nearest_neighbors(x_train, y_train, x_validation, k) == y_validation).mean()


best_k = max((1, 3, 5, 7, 9, 15, 25), key=accuracy_of_k)
assert 1 < best_k < 25
class_means = np.stack([x_all[labels == label].mean(axis=0) for label in range(10)])
means_chosen = nearest_neighbors(class_means, np.arange(10), x_test, 1)
correct["nearest class mean"] = means_chosen[None] == y_test
correct[f"{best_k} nearest neighbors"] = (
    nearest_neighbors(x_all, labels, x_test, best_k)[None] == y_test
)

# %% [markdown]
# The 95 % interval *over seeds* accounts for initialization and batch order, on these 500 images. The interval *over
# images* accounts for the choice of test images; it is computed from the fraction of runs that classify each image
# correctly.

# %%
rows = [{"classifier": "chance", "accuracy, interval over images": "0.100", "over seeds": ""}]
for name, hits in correct.items():
    seeds = mk.Score.of(hits.mean(axis=1)) if len(hits) > 1 else None
    over_seeds = f"± {seeds.interval:.3f}" if seeds else "deterministic"
    score = mk.Score.of(hits.mean(axis=0))
    shown = f"{score.mean:.3f} ± {score.interval:.3f}"
    rows.append({"classifier": name, "accuracy, interval over images": shown, "over seeds": over_seeds})
mk.report.Table(rows)

# %% [markdown]
# To compare two classifiers on the same images, we take the difference image by image:

# %%
network = correct["network"].mean(axis=0)
for name, hits in correct.items():
    if name != "network":
        mean, half_width = mk.report.mean_and_interval(network - hits.mean(axis=0))
        print(f"network minus {name}: {mean:.3f} ± {half_width:.3f}")
        assert (abs(mean) > half_width) == (name == "nearest class mean")

# %% [markdown]
# By the rule of this book, two methods differ only if the interval of their paired differences excludes zero, or if
# their intervals do not overlap. Here, the network is significantly better than the nearest class mean,
# but *not* than the linear classifier or the nearest neighbors. With 2,000 training and 500 test images, no advantage
# of hidden layers is measurable.

# %% [markdown]
# The **confusion matrix** shows how the images of each class (rows) were classified (columns), in percent, averaged over
# the five networks (numbers below 5 are not printed).

# %% alt="Confusion matrix of ten classes: most predictions are correct; shirts, pullovers, coats and T-shirts are confused most often"
confusion = np.zeros((10, 10))
for classes in predicted["network"]:
    np.add.at(confusion, (y_test, classes), 100 / (50 * 5))
plt.figure(figsize=(5.2, 4.2))
plt.imshow(confusion, vmin=0, vmax=100)
for row, column in np.argwhere(confusion >= 5):
    color = "white" if confusion[row, column] > 50 else "black"
    plt.text(
        column, row, f"{confusion[row, column]:.0f}", color=color, fontsize=8, ha="center", va="center"
    )
plt.xticks(range(10), pool.names, rotation=60, ha="right", fontsize=8)
plt.yticks(range(10), pool.names, fontsize=8)
plt.gca().set(xlabel="predicted class", ylabel="true class")
plt.grid(False)
plt.show()

# %% [markdown]
# In this test set, shirts are classified correctly least often, and most of their errors are confusions with T-shirts,
# pullovers and coats. (With 50 test images per class, the rates of single classes are uncertain by up to 14 points.)

# %%
shirt, similar = 6, [0, 2, 4]
assert pool.names[shirt] == "Shirt" and confusion.diagonal().argmin() == shirt
assert confusion[shirt, similar].sum() > (100 - confusion[shirt, shirt]) / 2
again = mk.classical.main("fashion", epochs=epochs["network"], seed=10)
assert np.isclose(again, correct["network"][0].mean()), "main() does the same"

# %% [markdown]
# ## Gradient descent
#
# What does an optimizer do? From here on, $x$ denotes the weights and $f(x)$ their loss. The **gradient** (梯度)
# $\nabla f(x)$ points in the direction in which $f$ increases fastest. Gradient descent therefore takes steps in the
# opposite direction, scaled by the **learning rate** (学习率) $\alpha$:
#
# $$x_{t+1} = x_t - \alpha \, \nabla f(x_t) \qquad \text{(Formula 2.4)}$$
#
# For example, $f(x) = x^2$ has the gradient $2x$. From $x_0 = 1$ with $\alpha = 0.1$ we get
# $x_1 = 1 - 0.1 \cdot 2 = 0.8$ and $x_2 = 0.8 - 0.1 \cdot 1.6 = 0.64$. In TensorFlow, a `GradientTape`
# computes the gradient:

# %%
x = tf.Variable(1.0)
for expected in (0.8, 0.64):
    with tf.GradientTape() as tape:
        f = x**2
    x.assign_sub(0.1 * tape.gradient(f, x))
    assert np.isclose(x, expected)
print(x.numpy())

# %% [markdown]
# ### Why the learning rate matters
#
# Near a minimum, a smooth loss is approximately quadratic. A simple case is a valley in two dimensions, with a small
# curvature (second derivative) along its floor and a large one across it:
#
# $$f(x) = \tfrac{1}{2} x^\top H x, \qquad \nabla f(x) = H x.$$
#
# $H$ is the matrix of second derivatives, the **Hessian**. Its eigenvalues, the curvatures, are 0.05 and 1; we also
# use the same valley rotated by 30 degrees.

# %%
CURVATURES = np.array([0.05, 1.0])


def rotation(degrees):
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def valley(degrees):
    hessian = rotation(degrees) @ np.diag(CURVATURES) @ rotation(degrees).T
    return hessian.astype("float32")


def loss_at(hessian, x):
    return 0.5 * ((x @ hessian) * x).sum(axis=-1)


# %% [markdown]
# `descend` applies any Keras optimizer to such a valley, from one or more starting points, and records the paths.


# %%
def descend(optimizer, hessian, starts, steps=40):
    x = keras.Variable(np.asarray(starts, "float32"))
    path = [x.numpy()]
    for _ in range(steps):
        optimizer.apply([x.value @ hessian], [x])
        path.append(x.numpy())
    return np.stack(path)


def draw(axis, hessian, path, ylim=(-3, 3)):
    x1, x2 = np.meshgrid(np.linspace(-9.5, 4.5, 120), np.linspace(*ylim, 120))
    losses = loss_at(hessian, np.stack([x1, x2], axis=-1))
    axis.contour(x1, x2, losses, np.geomspace(0.02, 8, 8), colors="0.8", linewidths=0.8)
    axis.plot(
        *path.T, marker="o", markersize=2.5, linewidth=1, linestyle="-", color=mk.report.PALETTE[1]
    )
    axis.plot(0, 0, marker="+", color="black", markersize=10)
    axis.set(aspect="equal", xlim=(-9.5, 4.5), ylim=ylim)
    axis.grid(False)


# %% [markdown]
# Three learning rates from the same starting point, with the loss after 40 steps:

# %% alt="Paths of gradient descent in a narrow valley with three learning rates: slow along the valley, in a zigzag to the minimum, and bouncing between the walls"
figure, axes = plt.subplots(1, 3, figsize=(9, 2.2), sharey=True)
for axis, rate in zip(axes, (0.3, 1.9, 1.99), strict=True):
    path = descend(keras.optimizers.SGD(rate), valley(0), [[-8.0, 1.5]])[:, 0]
    draw(axis, valley(0), path)
    axis.set(title=f"learning rate {rate}: loss {loss_at(valley(0), path[-1]):.4f}", xlabel="$x_1$")
axes[0].set_ylabel("$x_2$")
plt.show()

# %% [markdown]
# In a direction with curvature $c$, each step of gradient descent multiplies the coordinate by $1 - \alpha c$. It
# therefore converges only if $\alpha < 2 / c$ for the *largest* curvature, here for $\alpha < 2$, while the progress
# along the floor depends on the *smallest* one. The factor of the slower direction is smallest when both have the same
# size, $\alpha c_{\max} - 1 = 1 - \alpha c_{\min}$, which gives
#
# $$\alpha = \frac{2}{c_{\min} + c_{\max}} = \frac{2}{1.05} = 1.90.$$
#
# Even then, each step multiplies the distance by $0.905$. The ratio of the largest and the smallest curvature, here 20,
# is called the **condition number**; when it is large, gradient descent is slow at any constant learning rate.

# %% [markdown]
# ## Momentum, Adagrad and Adam
#
# **Momentum** (动量; Polyak, 1964), also called the heavy-ball method, accumulates past gradients in a velocity $u$,
# which decays by the factor $\beta$ (Goh, 2017, explains it interactively). Along the floor, successive gradients agree
# and add up; across it, they alternate in sign at large learning rates and partly cancel.
#
# $$u_{t+1} = \beta u_t - \alpha \nabla f(x_t), \qquad x_{t+1} = x_t + u_{t+1} \qquad \text{(Formula 2.5)}$$

# %% [markdown]
# **Adagrad** (Duchi et al., 2011) gives each weight its own learning rate. It divides by the square root of the sum $a$
# of all squared gradients so far, so that weights with large gradients get small learning rates. All operations are
# elementwise. In Keras, the sum starts at $a_0 = 0.1$, and $\epsilon$ is tiny.
#
# $$a_{t+1} = a_t + \nabla f(x_t)^2, \qquad x_{t+1} = x_t - \frac{\alpha \, \nabla f(x_t)}{\sqrt{a_{t+1} + \epsilon}}
# \qquad \text{(Formula 2.6)}$$

# %% [markdown]
# **Adam** (Kingma and Ba, 2015) combines the two ideas, with exponential moving averages of the gradient ($m$, decay
# rate $\beta_1$) and of its square ($v$, $\beta_2$). Unlike Adagrad's sum, an average forgets old gradients. Both
# averages start at zero and are therefore too small at first, which the factors with $1 - \beta^t$ correct (bias
# correction). This is the form that Keras uses, with $\nabla f$ short for $\nabla f(x_{t-1})$:
#
# $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) \nabla f, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) \nabla f^2,$$
# $$x_t = x_{t-1} - \alpha \, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \cdot \frac{m_t}{\sqrt{v_t} + \epsilon}
# \qquad \text{(Formula 2.7)}$$


# %%
def adam_by_hand(gradient, x, steps, rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    m = v = np.zeros_like(x)
    for t in range(1, steps + 1):
        g = gradient(x)
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
        x = x - rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)
    return x


by_hand = adam_by_hand(lambda x: valley(30) @ x, np.array([-8.0, 1.5]), steps=40, rate=0.3)
by_keras = descend(keras.optimizers.Adam(0.3), valley(30), [[-8.0, 1.5]])[-1, 0]
print(by_hand, by_keras)
assert np.allclose(by_hand, by_keras, atol=1e-4)

# %% [markdown]
# ### A fair comparison in the valley
#
# A comparison of optimizers is fair only if all are tuned with the same effort. For each optimizer in each valley, we
# try 27 settings on 20 random starting points with loss 2. Learning rates are in a geometric grid from 0.12 to 30, with
# 27 values for gradient descent and Adagrad. Momentum and Adam have nine, combined with only three values of $\beta$
# (0.2, 0.5, 0.8) or $\beta_1$ (0.3, 0.6, 0.9). Other constants, such as Adam's $\beta_2$, keep the defaults of Keras.
# We select the setting with the lowest mean log10 of the loss after 40 steps, which is never at an edge of its grid,
# and report the same metric for 20 *other* starting points. All operations are elementwise, so one optimizer can run
# all learning rates side by side. We also tune Adam with its default $\beta_1 = 0.9$, at 27 learning rates.


# %%
def starting_points(degrees, seed):
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, 20)
    points = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(CURVATURES)
    return points @ rotation(degrees).T


OPTIMIZERS = {
    "gradient descent": [partial(keras.optimizers.SGD)],
    "momentum": [partial(keras.optimizers.SGD, momentum=beta) for beta in (0.2, 0.5, 0.8)],
    "Adagrad": [partial(keras.optimizers.Adagrad)],
    "Adam": [partial(keras.optimizers.Adam, beta_1=beta) for beta in (0.3, 0.6, 0.9)],
}
DEFAULT = {"Adam, default β₁": [partial(keras.optimizers.Adam, beta_1=0.9)]}


# %%
def log_loss(optimizer, degrees, starts):
    end = descend(optimizer, valley(degrees), starts)[-1].astype("float64")
    with np.errstate(all="ignore"):  # gradient descent diverges if the learning rate is above 2
        losses = np.nan_to_num(loss_at(valley(degrees), end), nan=np.inf, posinf=np.inf)
    return np.log10(np.maximum(losses, 1e-12))


# %%
def tuned(makers, degrees):
    rates = np.geomspace(0.12, 30, 27 // len(makers)).round(2)
    one_per_path = tf.constant(rates[:, None, None], tf.float32)
    starts = np.stack([starting_points(degrees, seed=0)] * len(rates))  # (rates, points, 2)
    # Keras calls the function in every step, and its shape gives every row of points a learning rate of its own.
    losses = [log_loss(make(lambda: one_per_path), degrees, starts).mean(axis=1) for make in makers]
    best, rate = np.unravel_index(np.argmin(losses), (len(makers), len(rates)))
    assert best == len(makers) // 2 and 0 < rate < len(rates) - 1, "the best setting is inside the grid"
    return partial(makers[best], float(rates[rate]))


# %% [markdown]
# Intervals are over the 20 starting points. Losses below $10^{-12}$ are set to $10^{-12}$. In the first valley, several
# learning rates of Adagrad, including the largest, reach this limit from all starting points; we use the smallest, and
# its interval is meaningless.

# %%
rows, selected = [], {}
for degrees in (0, 30):
    for name, makers in (OPTIMIZERS | DEFAULT).items():
        make = selected[degrees, name] = tuned(makers, degrees)
        losses = log_loss(make(), degrees, starting_points(degrees, seed=1))
        score = mk.Score.of(losses, "log10 of the loss")
        row = {"valley": f"rotated by {degrees}°", "optimizer": name, "learning rate": make.args[0]}
        beta = next(iter(make.keywords.values()), "")
        rows.append({**row, "β or β₁": beta, "log10 of the loss": score})
mk.report.Table(rows)

# %% [markdown]
# The figure at the top of this chapter shows paths with the selected settings.

# %% picture="four_optimizers" jupyter={"outputs_hidden": true}
figure, axes = plt.subplots(2, 4, figsize=(10, 4.9), sharex=True, sharey=True)
for row, degrees in zip(axes, (0, 30), strict=True):
    start = rotation(degrees) @ [-8.0, 1.5]
    for axis, name in zip(row, OPTIMIZERS, strict=True):
        make = selected[degrees, name]
        draw(axis, valley(degrees), descend(make(), valley(degrees), [start])[:, 0], (-7.5, 3.5))
        betas = "".join(
            f", $\\{key.replace('momentum', 'beta')}$ = {value}" for key, value in make.keywords.items()
        )
        axis.set_title(f"{name}, $\\alpha$ = {make.args[0]:.2g}{betas}", fontsize=9)
    row[0].set_ylabel("$x_2$")
for axis in axes[1]:
    axis.set_xlabel("$x_1$")
plt.show()

# %% [markdown]
# Gradient descent and momentum do not depend on the rotation, because their formulas treat all directions alike. In
# the valley parallel to the axes, Adagrad has the lowest loss of the settings tried: there, one learning rate per
# coordinate is one per curvature. In the rotated valley, each coordinate mixes both curvatures, and Adagrad's
# advantage over gradient descent is not significant. Momentum has the lowest loss there, and Adam is between momentum
# and gradient descent in both valleys.
#
# This ranking depends on which hyperparameters are tuned, and how finely. With its default $\beta_1 = 0.9$, Adam has
# the highest loss. Conversely, a finer search for momentum finds, for example, $\alpha = 2.54$ and $\beta = 0.42$,
# close to the asymptotically optimal setting (Polyak, 1964),
# $\alpha = 4 / (\sqrt{c_{\min}} + \sqrt{c_{\max}})^2 = 2.67$ and $\beta = 0.40$. The former reaches losses below
# $10^{-12}$ in both valleys, so momentum would tie with Adagrad in the first. The ranking is also specific to constant curvature, no noise and 40 steps.

# %%
best = 2 / CURVATURES.sum()
assert np.allclose(np.abs(1 - best * CURVATURES), 0.905, atol=1e-3)
roots = np.sqrt(CURVATURES)
assert np.isclose(4 / roots.sum() ** 2, 2.67, atol=5e-3)
assert np.isclose((np.ptp(roots) / roots.sum()) ** 2, 0.40, atol=5e-3)
diverging = descend(keras.optimizers.SGD(2.02), valley(0), [[-8.0, 1.5]])[:, 0]
assert abs(diverging[-1, 1]) > abs(diverging[0, 1])
for degrees in (0, 30):
    finer = keras.optimizers.SGD(2.54, momentum=0.42)
    assert log_loss(finer, degrees, starting_points(degrees, seed=1)).max() == -12
largest = keras.optimizers.Adagrad(30.0)
assert log_loss(largest, 0, starting_points(0, seed=0)).max() == -12
results = {(row["valley"], row["optimizer"]): row["log10 of the loss"] for row in rows}


def below(first, second):
    return first.mean + first.interval < second.mean - second.interval


aligned, rotated = (
    {name: results[f"rotated by {d}°", name] for name in OPTIMIZERS | DEFAULT} for d in (0, 30)
)
assert all(below(aligned["Adagrad"], score) for name, score in aligned.items() if name != "Adagrad")
assert all(below(rotated["momentum"], score) for name, score in rotated.items() if name != "momentum")
paired = rotated["Adagrad"].values - rotated["gradient descent"].values
gain, half_width = mk.report.mean_and_interval(paired)
assert abs(gain) < half_width
for scores in (aligned, rotated):
    assert below(scores["momentum"], scores["Adam"]) and below(
        scores["Adam"], scores["gradient descent"]
    )
    assert all(below(scores[name], scores["Adam, default β₁"]) for name in OPTIMIZERS)

# %% [markdown]
# ### A fair comparison on the network
#
# For the network, every step uses a different batch, and gradient descent becomes **stochastic gradient descent**
# (SGD). The script `benchmarks/chapter_02.py` trained the network with every optimizer at nine learning rates, always
# for 468 steps with 32 images (about 10 epochs), with five seeds, and selected the learning rate with the highest mean
# *validation* accuracy, which was never at the edge of the grid. The other hyperparameters were not tuned: momentum has
# the usual $\beta = 0.9$, and Adagrad and Adam have the defaults of Keras. Here we train only three networks with Adam
# (crosses); lines show stored results.


# %%
def validation_accuracy(optimizer, seed=0):
    keras.utils.set_random_seed(seed)
    model = create_model()
    train_model(model, x_train, one_hot(y_train), epochs=10, optimizer=optimizer)
    return (model(x_validation).numpy().argmax(axis=1) == y_validation).mean()


live = {rate: validation_accuracy(keras.optimizers.Adam(rate)) for rate in (1e-4, 1e-3, 1e-2)}

# %% alt="Validation accuracy over the learning rate: all four optimizers reach about the same maximum, at different learning rates, and fail at large ones"
stored = mk.report.measured("chapter_02")
for name, marker in zip(OPTIMIZERS, "os^D", strict=True):
    trials = stored[f"optimizer: {name}, validation"]
    means = [np.mean(values) for values in trials.values()]
    plt.semilogx([float(rate) for rate in trials], means, marker=marker, markersize=4, label=name)
plt.plot(
    live.keys(), live.values(), "x", color="black", markersize=8, label="Adam, one seed, this notebook"
)
plt.gca().set(xlabel="learning rate", ylabel="validation accuracy", ylim=(0, 1))
plt.gcf().legend(loc="outside right center")
plt.show()

# %% [markdown]
# The selected learning rates range from 0.001 for Adam to 0.1 for gradient descent, and the maxima are broad. The table
# gives the test accuracy at the selected learning rates, with intervals over ten other seeds on the same 500 test
# images. Above it are all differences, paired by initialization and batches.


# %%
def difference(first, second):
    return mk.report.mean_and_interval(np.subtract(stored[f"{first}, test"], stored[f"{second}, test"]))


def compared(kind, names):
    """Prints the paired differences, and returns the table."""
    for b, a in itertools.combinations(names, 2):
        print("{} minus {}: {:+.4f} ± {:.4f}".format(a, b, *difference(f"{kind}: {a}", f"{kind}: {b}")))
    heading = "initial learning rate" if kind == "schedule" else "learning rate"
    rows = []
    for name in names:
        rate, accuracy = (stored[f"{kind}: {name}, {what}"] for what in ("selected", "test"))
        rows.append({kind: name, heading: f"{rate:g}", "test accuracy": mk.Score.of(accuracy)})
    return mk.report.Table(rows)


compared("optimizer", OPTIMIZERS)

# %% [markdown]
# None of the other three differs significantly from gradient descent. Of all six pairs, only the interval of Adam minus
# momentum excludes zero, by less than 0.001, which is not surprising for one of six 95 % intervals. Schmidt et al.
# (2021), who tuned many optimizers on several problems, also found no method that is best everywhere. In contrast, the
# learning rate matters: for every optimizer, the worst value of the grid has a validation accuracy below 0.25.

# %% [markdown]
# ## Learning-rate schedules
#
# The gradient of a batch is a noisy estimate of the gradient of the whole training set. With a constant learning rate,
# the weights therefore keep fluctuating around a minimum. A **schedule** (学习率调度) changes the learning rate during
# training; a *decay* schedule starts with a larger learning rate for fast progress and reduces it. **Step decay**
# (阶梯衰减) multiplies the learning rate by $\gamma$ after every $T$ steps, and **exponential decay** (指数衰减) does the same
# smoothly. **Cosine decay** (余弦衰减; Loshchilov and Hutter, 2017) falls to zero along half a cosine wave that ends at step
# $N$:

# %% [markdown]
# $$\alpha_t = \alpha_0 \, \gamma^{\lfloor t / T \rfloor} \qquad \text{(Formula 2.8)}$$
#
# $$\alpha_t = \alpha_0 \, \gamma^{t / T} \qquad \text{(Formula 2.9)}$$
#
# $$\alpha_t = \frac{\alpha_0}{2} \left(1 + \cos \frac{\pi t}{N}\right) \qquad \text{(Formula 2.10)}$$

# %% [markdown]
# For example, with $\alpha_0 = 0.5$, $\gamma = 0.4$ and $T = 40$, the learning rate after 60 steps is
# $0.5 \cdot 0.4 = 0.2$ with step decay and $0.5 \cdot 0.4^{1.5} = 0.126$ with exponential decay. With cosine decay and
# $N = 200$ it is $0.25 \, (1 + \cos 0.3 \pi) = 0.397$.

# %%
N = 200
steps = np.arange(N)
decay = keras.optimizers.schedules.ExponentialDecay
SCHEDULES = {
    "constant": decay(1.0, decay_steps=40, decay_rate=1.0),
    "step decay": decay(1.0, decay_steps=40, decay_rate=0.4, staircase=True),
    "exponential decay": decay(1.0, decay_steps=40, decay_rate=0.4),
    "cosine decay": keras.optimizers.schedules.CosineDecay(1.0, decay_steps=N),
}
factors = {name: np.array([float(s(t)) for t in steps]) for name, s in SCHEDULES.items()}
at_60 = {name: 0.5 * values[60] for name, values in factors.items()}
assert np.allclose(list(at_60.values()), [0.5, 0.2, 0.126, 0.397], atol=1e-3)

# %% [markdown]
# As a model of training with noise, we minimize $f(x) = x^2 / 2$ from $x_0 = 5$ in 200 steps, with Gaussian noise of
# standard deviation 2 added to every gradient. For each schedule, we select $\alpha_0$ from 29 values on 5,000 runs,
# and report 5,000 other runs, with intervals over these. The shape of each schedule, given by $\gamma$, $T$ and $N$, is
# not tuned.


# %%
def noisy_descent(rates, seed, runs=5000):
    rng = np.random.default_rng(seed)
    x, distances = np.full(runs, 5.0), []
    for rate in rates:
        x = x - rate * (x + 2 * rng.normal(size=runs))
        distances.append(np.abs(x))
    return np.array(distances)


initial_rates = np.geomspace(0.01, 1, 29).round(3)
tuning = {
    name: np.array([noisy_descent(rate * values, seed=0)[-1].mean() for rate in initial_rates])
    for name, values in factors.items()
}
chosen = {name: initial_rates[distances.argmin()] for name, distances in tuning.items()}
final = {name: noisy_descent(chosen[name] * values, seed=1) for name, values in factors.items()}

# %% alt="Three plots of four schedules: the learning rate over steps, the distance from the minimum over steps, and the final distance over the initial learning rate, where a constant learning rate has the narrowest optimum"
figure, axes = plt.subplots(1, 3, figsize=(10, 3))
for name in SCHEDULES:
    drawing = "steps-post" if name == "step decay" else "default"
    axes[0].plot(steps, chosen[name] * factors[name], drawstyle=drawing)
    axes[1].semilogy(steps + 1, final[name].mean(axis=1), label=name)
    axes[2].loglog(initial_rates, tuning[name])
axes[0].set(xlabel="step", ylabel="learning rate", title="tuned schedules")
axes[1].set(xlabel="step", ylabel="mean distance", title="distance from the minimum")
axes[2].set(
    xlabel=r"initial learning rate $\alpha_0$", ylabel="final mean distance", title="sensitivity"
)
for axis, ticks in ((axes[1], (0.1, 0.3, 1, 3)), (axes[2], (0.1, 0.3, 1))):
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
axes[2].set_xticks((0.01, 0.1, 1), ("0.01", "0.1", "1"))
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %%
decays = ("exponential decay", "step decay", "cosine decay")
for a, b in itertools.combinations(decays, 2):
    mean, half_width = mk.report.mean_and_interval(final[b][-1] - final[a][-1])
    print(f"{b} minus {a}: {mean:.4f} ± {half_width:.4f}")
    assert mean > half_width
ends = {name: mk.Score.of(distances[-1]) for name, distances in final.items()}
rows = [
    {"schedule": k, "initial learning rate": f"{chosen[k]:g}", "final distance": ends[k]} for k in ends
]
mk.report.Table(rows)

# %% [markdown]
# All three decay schedules end closer to the minimum than the best constant learning rate. With these shapes and the
# same noise, paired differences show that exponential decay ends closest and cosine decay farthest. Right panel: if
# $\alpha_0$ is too large, a constant learning rate does much more harm than a schedule. If it is too small, the
# schedules are worse.

# %%
constant = ends.pop("constant")
assert all(below(end, constant) for end in ends.values())
assert all(0 < distances.argmin() < 28 for distances in tuning.values())
large = initial_rates > 0.3
assert all((tuning[name] < tuning["constant"] / 2)[large].all() for name in ends)
assert all(tuning[name][0] > tuning["constant"][0] for name in ends)

# %% [markdown]
# Does this matter for the network? The script also trained it by gradient descent with each schedule, at nine initial
# learning rates, with $\gamma = 0.4$, $T = N / 5$ and $N = 468$ steps, and selection on validation data:

# %%
for kind, names in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
    pairs = [(f"{kind}: {a}", f"{kind}: {b}") for a, b in itertools.combinations(names, 2)]
    decided = [pair for pair in pairs if abs(difference(*pair)[0]) > difference(*pair)[1]]
    assert len(decided) == 1 and list(names)[0] not in str(decided)
    trials = [stored[f"{kind}: {name}, validation"].values() for name in names]
    assert all(min(np.mean(list(values), axis=1)) < 0.25 for values in trials)
compared("schedule", SCHEDULES)

# %% [markdown]
# No schedule differs significantly from the constant learning rate. Among the six pairs, only the interval of cosine
# minus exponential decay excludes zero, again barely. The advantage in the model problem is thus not visible in this
# network's accuracy at this budget.

# %% [markdown]
# ## How much data does the network need?
#
# The script trained the network and the linear classifier with 1, 5, 15, 50 and 150 images per class, with Adam and
# always for 468 steps (not tuned); small sets are repeated. For each size, the learning rate or the number of
# neighbors was selected on the validation set, which is optimistic: with few labels, nobody would have 50 validation
# images per class. Each of the ten test seeds draws its own images (150 are *all* of them); all sizes share one
# standardization. Crosses are networks trained here.


# %%
def accuracy_with(per_class, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(np.flatnonzero(y_train == label), per_class, replace=False) for label in range(10)
    ]
    rows = np.tile(np.concatenate(drawn), 150 // per_class)
    keras.utils.set_random_seed(seed)
    model = create_model()
    rate = stored[f"size: network, {per_class} per class, selected"]
    train_model(model, x_train[rows], one_hot(y_train[rows]), 10, optimizer=keras.optimizers.Adam(rate))
    x, _ = preprocess_data(test_images, standard)
    return (model(x).numpy().argmax(axis=1) == y_test).mean()


SIZES = (1, 5, 15, 50, 150)
live = [accuracy_with(per_class) for per_class in SIZES]
for name in ("network", "linear classifier"):
    assert stored[f"size: {name}, 150 per class, selected"] == 0.001

# %% alt="Test accuracy over labeled images per class: the network and the linear classifier are together at the top; nearest neighbors approach them, and the nearest class mean levels off"
learners = ("network", "linear classifier", "nearest class mean", "nearest neighbors")
scores = {
    name: [mk.Score.of(stored[f"size: {name}, {size} per class, test"]) for size in SIZES]
    for name in learners
}
for name, marker, shift in zip(learners, "os^D", (0.91, 0.97, 1.03, 1.1), strict=True):  # side by side
    means, half_widths = np.transpose([(score.mean, score.interval) for score in scores[name]])
    plt.errorbar(
        np.multiply(SIZES, shift),
        means,
        half_widths,
        marker=marker,
        markersize=5,
        capsize=3,
        label=name,
    )
plt.plot(SIZES, live, "x", color="black", markersize=8, label="network, one draw, this notebook")
plt.xscale("log")
plt.xticks(SIZES, SIZES)
plt.minorticks_off()
plt.gca().set(xlabel="labeled images per class", ylabel="test accuracy (chance: 0.1)")
plt.legend(loc="lower right")
plt.show()

# %%
rows = {name: {"network minus": name} for name in learners[1:]}
for size, name in itertools.product(SIZES, rows):
    mean, half_width = difference(f"size: network, {size} per class", f"size: {name}, {size} per class")
    rows[name][f"{size} per class"] = f"{mean:+.3f} ± {half_width:.3f}"
    better = size == 150 if name == "linear classifier" else size > 1
    assert (mean > half_width) == better and mean > -half_width
assert scores["network"][0].mean < 0.5 and scores["network"][-1].mean > 0.8
mk.report.Table([*rows.values()])

# %% [markdown]
# With one image per class, the network cannot be distinguished from any baseline; the nearest neighbor and the
# nearest class mean are then the same classifier. From 5 images per class onward, the network is significantly better
# than both, paired by seed. The linear classifier cannot be distinguished from the network up to 50 images per class;
# at 150, the interval just excludes zero. This is weak evidence: the evaluation above found no difference with 200.
# All intervals here are over seeds. For other test images, the advantage of 0.027 over nearest neighbors at 150 is
# not certain either.
#
# The network's mean accuracy rises from less than 0.5 to more than 0.8. From a random initialization, it needs these
# labels again for every new task; the other chapters use other tasks to reduce this need.

# %% [markdown]
# ## Summary
#
# - Fit weights and preprocessing on training data, select hyperparameters on validation data, and report test results.
# - Report simple baselines, and intervals over seeds and over test images.
# - The largest curvature limits the learning rate of gradient descent, and the condition number its speed. Momentum
#   accumulates gradients, Adagrad adapts a learning rate per weight, and Adam does both with moving averages.
# - Compare optimizers at tuned hyperparameters and equal budgets, and say what was not tuned.
# - On a quadratic with noisy gradients, descent with a decaying learning rate ends closer to the minimum and
#   tolerates a larger initial value. On our network, the schedules did not differ measurably from a constant learning
#   rate.
# - Learning from a random initialization requires many labeled images for each task.

# %% [markdown]
# ## Exercises
#
# Exercises 1 to 4 have a check: run its cell, and then call it with your function, for example
# `check_standardize(my_function)`. There are [solutions](../tests/solutions.py).

# %% [markdown]
# **1. Standardize.** (Warm-up.) Write `standardize(train, test)`, which returns both arrays standardized by the mean and
# standard deviation of the training array.


# %%
def check_standardize(standardize):
    train, test = standardize(np.array([0.0, 2.0]), np.array([1.0, 5.0]))
    assert np.allclose(train, [-1, 1]), "the training array gets mean 0 and standard deviation 1"
    assert np.allclose(test, [0, 4]), "the test array uses the mean and deviation of the training array"
    print("Correct.")


# %% [markdown]
# **2. The best learning rate.** For a quadratic loss with curvatures between `smallest` and `largest`, write
# `best_rate(smallest, largest)`, the learning rate at which gradient descent converges fastest from the worst starting
# point. What is the factor per step in terms of the condition number?


# %%
def check_best_rate(best_rate):
    for smallest, largest in ((0.05, 1.0), (1.0, 1.0), (0.5, 8.0)):
        factors = 1 - best_rate(smallest, largest) * np.array([smallest, largest])
        assert np.isclose(np.abs(factors).max(), (largest - smallest) / (largest + smallest)), (
            "both directions should shrink by the same factor"
        )
    print("Correct.")


# %% [markdown]
# **3. Momentum.** Write `momentum(gradient, x, steps, rate, beta)`, which returns $x$ after `steps` steps of Formula 2.5,
# starting with velocity 0.


# %%
def check_momentum(momentum):
    assert np.isclose(momentum(lambda x: 2 * x, 1.0, 2, 0.1, 0.5), 0.54), "1, 0.8, 0.8 - 0.1 - 0.16"
    assert np.isclose(momentum(lambda x: 2 * x, 1.0, 2, 0.1, 0.0), 0.64), "beta = 0 is gradient descent"
    print("Correct.")


# %% [markdown]
# **4. Selection.** Write `select(trials)` for a dictionary that maps learning rates to lists of validation accuracies,
# one per seed. It returns the learning rate with the highest mean accuracy, and raises a `ValueError` if this rate is
# the smallest or the largest of all, because a better one may then be outside the grid.


# %%
def check_select(select):
    trials = {0.1: [0.7, 0.9], 0.01: [0.84, 0.8], 0.001: [0.95, 0.5]}
    assert select(trials) == 0.01, "the highest mean, not the highest accuracy of a single seed"
    try:
        select({0.1: [0.9], 0.01: [0.8], 0.001: [0.7]})
    except ValueError:
        return print("Correct.")
    raise AssertionError("the best learning rate is at the edge of this grid")


# %% [markdown]
# **5. Project: weight decay.** Decoupled weight decay (Loshchilov and Hutter, 2019), `keras.optimizers.AdamW`, also
# shrinks every weight a little in each step. Does it improve the network? Compare it with Adam in half a page. Rubric,
# one point each: (a) hyperparameters are selected on validation data, inside their grids; (b) equal numbers of steps
# and tuning trials; (c) at least five seeds, with paired differences; (d) the test set is used once; (e) every claim
# follows from an interval.

# %% [markdown]
# ## References
#
# - J. Duchi, E. Hazan, Y. Singer, [Adaptive Subgradient Methods for Online Learning and Stochastic
#   Optimization](https://jmlr.org/papers/v12/duchi11a.html), JMLR 2011.
# - G. Goh, [Why Momentum Really Works](https://distill.pub/2017/momentum/), Distill 2017.
# - D. Kingma, J. Ba, [Adam: A Method for Stochastic Optimization](https://arxiv.org/abs/1412.6980), ICLR 2015.
# - I. Loshchilov, F. Hutter, [SGDR: Stochastic Gradient Descent with Warm Restarts](https://arxiv.org/abs/1608.03983),
#   ICLR 2017.
# - I. Loshchilov, F. Hutter, [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101), ICLR 2019.
# - B. Polyak, [Some methods of speeding up the convergence of iteration
#   methods](https://doi.org/10.1016/0041-5553(64)90137-5), 1964.
# - R. Schmidt, F. Schneider, P. Hennig, [Descending through a Crowded Valley: Benchmarking Deep Learning
#   Optimizers](https://arxiv.org/abs/2007.01547), ICML 2021.
# - H. Xiao, K. Rasul, R. Vollgraf, [Fashion-MNIST](https://arxiv.org/abs/1708.07747), 2017.
#
# Previous: [Learning to learn](01_learning_to_learn.ipynb). Next: [Transfer](03_transfer.ipynb).
