# %% [markdown]
# # Reshaping models: distillation, splitting and recombining
#
# **Goals.** After this chapter you can train a small network on the outputs of a large one, for one task or for several,
# and explain soft labels, the temperature and the factor $T^2$. You can split a network at a layer, train a linear probe
# on a backbone, and test whether parts of two networks fit together.
#
# **Prerequisites.** Softmax, cross-entropy, Adam and validation (chapter [02](02_classical_learning.ipynb)), the 95 %
# intervals of chapter [01](01_learning_to_learn.ipynb#How-sure-are-we?), freezing and fine-tuning (chapter
# [03](03_transfer.ipynb)).
#
# **Time.** About 75 minutes to read, or one lecture of 90 minutes; about one minute to run on two CPU cores.
#
# ![Probabilities that a large network assigns to ten classes for three test images, at three temperatures](soft_labels.png)
#
# *Soft labels of a large network for three test images; the outlined bar is the correct class. A moderately higher
# temperature shows which other classes the network considers similar, and a small network can learn from this.*

# %%
import meta_keras as mk  # before TensorFlow, so that TensorFlow starts without log messages

import inspect

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from keras import layers
from meta_keras.classical import preprocess_data
from meta_keras.transfer import Distiller, join_models, soft_labels, soft_loss, split_model

mk.report.style()
keras.utils.set_random_seed(1)
stored = mk.report.measured("chapter_05")  # long measurements, made by benchmarks/chapter_05.py

# %% [markdown]
# ## Two tasks for the same images
#
# D4 calls deriving new models from trained ones **model adaptation** (模型自适应). A network can teach another one, its first
# layers can serve other tasks, and its parts can be combined with those of others.

# %% [markdown]
# To study several tasks at once, we rotate each image of a subset of Fashion-MNIST by 0, 90, 180 and 270 degrees. One
# task is to recognize the *class*, the other the *orientation*. Because every image occurs in every orientation,
# neither label contains information about the other. For speed, images are reduced to 14 x 14 pixels. The subset has
# 150 training, 50 validation and 50 test images per class.


# %%
def shrink(images):
    blocks = images.reshape(len(images), 14, 2, 14, 2, 1)
    return blocks.mean(axis=(2, 4)).astype("uint8")


pool = mk.load("fashion").map(shrink)
images, labels = pool.split("train").arrays()
held_out = np.arange(len(labels)) % 4 == 3  # the validation set of chapter 02
_, standard = preprocess_data(images[~held_out])


# %% alt="A T-shirt and an ankle boot, each rotated by 0, 90, 180 and 270 degrees"
def in_four_orientations(images, labels):
    x, _ = preprocess_data(images, standard)
    x = np.concatenate([np.rot90(x, turn, axes=(1, 2)) for turn in range(4)])
    return x, {"class": np.tile(labels, 4), "orientation": np.repeat(np.arange(4), len(labels))}


x_test, y_test = in_four_orientations(*pool.split("test").arrays())
figure, axes = plt.subplots(1, 8, figsize=(8, 1.3))
for axis, row in zip(axes, [20, 520, 1020, 1520, 463, 963, 1463, 1963], strict=True):
    axis.imshow(x_test[row].squeeze())
    name, turn = pool.names[y_test["class"][row]], y_test["orientation"][row]
    axis.set_title(f"{name}\n{90 * turn}°", fontsize=8, loc="center")
    axis.axis("off")

# %% [markdown]
# The teacher is trained on 75 images per class, and the student on up to 75 others, so that the teacher's outputs for the
# student's images are not affected by labels that it has memorized.


# %%
def examples(rows):
    return in_four_orientations(images[rows.ravel()], labels[rows.ravel()])


rng = np.random.default_rng(0)
shuffled = [rng.permutation(np.flatnonzero(~held_out & (labels == k))) for k in range(10)]
teacher_rows, student_rows = np.split(np.array(shuffled), 2, axis=1)
x_teacher, y_teacher = examples(teacher_rows)
x_few, y_few = examples(student_rows[:, :20])  # 20 of the student's images per class
print("teacher:", x_teacher.shape, " student:", x_few.shape, " test:", x_test.shape)

# %% [markdown]
# ## Teacher and student
#
# **Distillation** (模型蒸馏, also 知识蒸馏) transfers what a large model, the **teacher** (教师模型), has learned to a small model,
# the **student** (学生模型). Our teacher is a dense **backbone** (主干) with two hidden layers of 256 units and dropout
# (which zeroes random units during training), followed by one output layer, or **head** (头部), per task. `join_models`
# connects them.


# %%
def backbone_of(width, dropout=0.0):
    backbone = keras.Sequential([keras.Input((14, 14, 1)), layers.Flatten()])
    for name in ("first", "second"):
        backbone.add(layers.Dense(width, activation="relu", name=name))
        if dropout:
            backbone.add(layers.Dropout(dropout))
    return backbone


def head_of(width, outputs):
    return keras.Sequential([keras.Input((width,)), layers.Dense(outputs)])  # logits


def classifier_of(width, outputs):
    network = backbone_of(width)
    network.add(layers.Dense(outputs, name="head"))
    return network


# %% [markdown]
# The next function trains a model with Adam on 32 examples per step. Hyperparameters were selected on the validation
# set, as described below; to save time, this notebook trains for at most 3,200 steps.


# %%
def train(model, x, y, key, loss=None, rate="rate", steps=3200):
    selected = stored[f"{key}, selected"]
    optimizer = keras.optimizers.Adam(selected["setting"][rate])
    model.compile(optimizer, loss=loss, steps_per_execution=50, jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).repeat().batch(32)
    steps = min(steps, selected["steps"])
    model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0)
    return f"{steps:,} of {selected['steps']:,} steps"


def accuracy(logits, y):
    return float(np.mean(np.argmax(logits, axis=-1) == y))


# %%
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
teacher_backbone = backbone_of(256, dropout=0.3)
teacher_heads = {"class": head_of(256, 10), "orientation": head_of(256, 4)}
teacher = join_models(teacher_backbone, teacher_heads)
train(teacher, x_teacher, y_teacher, "teacher", dict.fromkeys(teacher_heads, cross_entropy))
for task, logits in teacher(x_test).items():
    print(f"{task:<12}test accuracy {accuracy(logits, y_test[task]):.3f}")

# %% [markdown]
# The student has two hidden layers of 16 units. At first it learns only the classes, from the teacher's backbone and its
# head for classes.

# %%
class_teacher = join_models(teacher_backbone, teacher_heads["class"])
student = classifier_of(16, 10)
print(f"teacher: {class_teacher.count_params():,} weights, student: {student.count_params():,}")
assert class_teacher.count_params() > 30 * student.count_params()

# %% [markdown]
# ## Soft labels
#
# Hinton, Vinyals and Dean (2015) train the student on the teacher's output probabilities. A label only says "shirt". The
# teacher's probabilities may say "probably a shirt, possibly a pullover, certainly not a boot", which also describes how
# similar the image is to other classes.

# %% [markdown]
# A well-trained teacher is often so confident that the other probabilities are close to zero. Therefore its logits $z$
# are divided by a **temperature** $T$ (温度) before the softmax. The results are called **soft labels** or *soft targets*
# (软标签):
#
# $$p_k(T) = \frac{e^{z_k / T}}{\sum_j e^{z_j / T}} \qquad \text{(Formula 5.1)}$$
#
# For example, the logits $0$ and $\log 9$ give the probabilities $\frac{1}{10}$ and $\frac{9}{10}$ at $T = 1$, but
# $\frac14$ and $\frac34$ at $T = 2$, because $e^{\log 9 / 2} = 3$.

# %%
identity = keras.Sequential([keras.Input((2,)), layers.Identity()])
z = np.array([[0.0, np.log(9.0)]])
for temperature, expected in ((1, [0.1, 0.9]), (2, [0.25, 0.75]), (1000, [0.5, 0.5])):
    p = soft_labels(identity, z, temperature).numpy()[0]
    print(f"T = {temperature}: {p.round(3)}")
    assert np.allclose(p, expected, atol=2e-3)

# %% [markdown]
# The figure at the top shows soft labels for three test images, each with the median probability of the correct class
# among the correctly classified images of its class.

# %% picture="soft_labels" jupyter={"outputs_hidden": true}
p_test, y = soft_labels(class_teacher, x_test).numpy(), y_test["class"]
figure, axes = plt.subplots(3, 4, figsize=(7.6, 4.2), width_ratios=(1, 1.7, 1.7, 1.7))
for row, k in zip(axes, (6, 3, 7), strict=True):
    correct = np.flatnonzero((y == k) & (p_test.argmax(axis=1) == k))
    image = correct[np.argsort(p_test[correct, k])[len(correct) // 2]]
    row[0].imshow(x_test[image].squeeze())
    row[0].set_title(pool.names[k], fontsize=9)
    row[0].axis("off")
    for axis, temperature in zip(row[1:], (1, 4, 16), strict=True):
        bars = axis.bar(
            range(10), soft_labels(class_teacher, x_test[[image]], temperature)[0], color="0.7"
        )
        bars[k].set(color=mk.report.PALETTE[2], edgecolor="black")
        axis.set(ylim=(0, 1), yticks=(0, 0.5, 1), xticks=range(10), xticklabels=[])
        axis.set_title(f"T = {temperature}" if k == 6 else "", fontsize=9)
    row[1].set_ylabel("probability", fontsize=8)
for axis in axes[-1, 1:]:
    axis.set_xticks(range(10), pool.names, rotation=90, fontsize=7)
plt.show()

# %% [markdown]
# ## The soft loss
#
# Let $p$ be the soft labels of the teacher and $q$ those of the student, both at temperature $T$. The **soft loss** is
# their *Kullback-Leibler divergence*, a measure of how far $q$ is from $p$, multiplied by $T^2$. It is zero if both
# agree:
#
# $$L_\text{soft} = T^2 \sum_k p_k \, (\log p_k - \log q_k) \qquad \text{(Formula 5.2)}$$

# %% [markdown]
# For example, let $p = (\frac14, \frac34)$ at $T = 2$, as above, and let both logits of the student be $0$, so that
# $q = (\frac12, \frac12)$. Then $L_\text{soft} = 4 \, (\frac14 \log \frac12 + \frac34 \log \frac32) = 0.523$.

# %%
Code(inspect.getsource(soft_loss), language="python")

# %% [markdown]
# The factor $T^2$ keeps the gradient from vanishing at high temperatures. With it, the derivative with respect to the
# student's logit $s_k$ is
#
# $$\frac{\partial L_\text{soft}}{\partial s_k} = T \, (q_k - p_k). \qquad \text{(Formula 5.3)}$$
#
# In the example, this is $2 \, (\frac12 - \frac34) = -\frac12$ for the second logit. At high temperatures $q_k - p_k$
# decreases as $1/T$, and the product approaches $\frac1K (s_k - z_k)$ if there are $K$ classes and both networks'
# logits have mean zero: the student is trained to match the teacher's logits. Without $T^2$, the derivative would
# decrease as $1/T^2$, and a loss on true labels, if added, would dominate.

# %%
temperatures, rng = np.geomspace(0.5, 100, 30), np.random.default_rng(0)
s, z = (tf.constant(v - v.mean(axis=1, keepdims=True)) for v in 2 * rng.normal(size=(2, 50, 10)))
sizes = []
for temperature in temperatures:
    with tf.GradientTape() as tape:
        tape.watch(s)
        loss = soft_loss(student=s, teacher=z, temperature=temperature)
    sizes.append(np.abs(tape.gradient(loss, s)).mean())
limit = np.abs(s - z).mean() / 10
assert np.isclose(sizes[-1], limit, rtol=0.05)

# %% alt="Mean derivative over the temperature on logarithmic axes: with the factor T squared it approaches a constant, without it, it falls steadily"
plt.figure(figsize=(5, 2.8))
plt.loglog(temperatures, sizes, label="with $T^2$")
plt.loglog(temperatures, sizes / temperatures**2, "--", label="without $T^2$")
plt.axhline(limit, color="0.5", linewidth=1, linestyle=":", label="limit for $T \\to \\infty$")
plt.gca().set(xlabel="temperature $T$", ylabel="mean absolute derivative")
plt.legend()
plt.show()

# %% [markdown]
# ## The distiller
#
# If true labels are available as well, the student can learn from both. The soft loss has the weight $\lambda$, and the
# cross-entropy $L_\text{CE}$ with the true label, at temperature 1, the weight $1 - \lambda$:
#
# $$L = \lambda \, L_\text{soft} + (1 - \lambda) \, L_\text{CE} + \eta \, L_\text{features}
# \qquad \text{(Formula 5.4)}$$
#
# The last term is optional and explained below. The library's `Distiller` is a Keras model around student and teacher
# that is trained on this loss. Its arguments are `temperature` ($T$), `soft` ($\lambda$) and `feature_weight` ($\eta$).

# %%
Code(inspect.getsource(Distiller.distill), language="python")

# %% [markdown]
# Does the teacher help? Three baselines are trained on the same images, starting from the same weights:
#
# - **true labels**: ordinary training;
# - **label smoothing** (Szegedy et al., 2016): the one-hot label gets the weight $1 - \varepsilon$, and the uniform
#   distribution over all classes the weight $\varepsilon$. Up to a constant, this equals distillation at $T = 1$ with
#   $\lambda = \varepsilon$ and a teacher whose probabilities are uniform. If soft labels only reduce overfitting, label
#   smoothing should be as good (Yuan et al., 2020, discuss this view);
# - **pseudo-labels** (伪标签; Lee, 2013, used the network's own predictions): the teacher's most likely class is the hard label.

# %%
smoothing = stored["one task: label smoothing, 20 per class, selected"]["setting"]["smoothing"]
smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
selected = stored["one task: distilled, 20 per class, selected"]["setting"]
options = {name: selected[name] for name in ("temperature", "soft")}
distiller = Distiller(student, class_teacher, **options)
print("label smoothing:", smoothing, " distillation:", options)

# %%
y_one_hot = keras.utils.to_categorical(y_few["class"])
methods = {
    "true labels": (student, y_few["class"], cross_entropy),
    "label smoothing": (student, y_one_hot, smoothed),
    "pseudo-labels": (student, np.argmax(class_teacher(x_few), axis=1), cross_entropy),
    "distilled": (distiller, y_few["class"], None),
}
start, before = student.get_weights(), class_teacher.get_weights()
for method, (model, targets, loss) in methods.items():
    student.set_weights(start)
    ran = train(model, x_few, targets, f"one task: {method}, 20 per class", loss)
    print(f"{method:<16}test accuracy {accuracy(student(x_test), y_test['class']):.3f} ({ran})")
assert all(np.array_equal(a, b) for a, b in zip(before, class_teacher.get_weights(), strict=True))

# %% [markdown]
# ## Does distillation help?
#
# The stored measurements (`benchmarks/chapter_05.py`) use ten seeds, each with its own teacher, split of the training
# images and initialization. Every method may train for up to 12,800 steps; the teacher trains for a fixed number of
# 3,200. Hyperparameters are those with the highest validation accuracy, averaged over three other seeds:
#
# | hyperparameter | candidates |
# |---|---|
# | steps (early stopping) | 200, 400, 800, 1,600, 3,200, 6,400, 12,800 |
# | learning rate | 0.0003 (not for distillation), 0.001, 0.003, 0.01 |
# | $\varepsilon$ | 0.05, 0.1, 0.2, 0.4, 0.6, 0.8 |
# | $T$ | 1, 2, 4, 8, 16 |
# | $\lambda$ | 0.25, 0.5, 0.75, 1 |
#
# If the best learning rate, $\varepsilon$ or $T$ is at an edge, its grid is extended (except for three ties with inner
# values). The rest of the chapter uses the same candidates.

# %% [markdown]
# We call a difference **significant** if the 95 % interval of the *paired* differences, one per seed, excludes zero.
# All seeds share the same test images, so these intervals describe the variation of training, not of the test set, and
# they are not corrected for multiple comparisons.

# %%
METHODS = ("true labels", "label smoothing", "pseudo-labels", "distilled", "distilled without labels")
COUNTS = (5, 20, 75)


def test_values(key, task=0):
    return np.array(stored[f"{key}, test"][task])


def compare(first, second, task=0):
    """The paired difference of two methods, with its interval over the seeds."""
    return mk.Score.of(test_values(first, task) - test_values(second, task), "difference")


def by_count(kind, names, counts=COUNTS):
    scores = {
        n: [mk.Score.of(test_values(f"{kind}: {n}, {c} per class")) for c in counts] for n in names
    }
    columns = [f"{c} per class" for c in counts]
    return scores, [{"method": n} | dict(zip(columns, scores[n], strict=True)) for n in names]


# %% alt="Test accuracy with 5, 20 and 75 images per class: both distilled students are above true labels, label smoothing and pseudo-labels, and below the teacher"
LINES = ("o-", "s--", "D-.", "^:", "v-", "P--")


def draw(scores, counts=COUNTS):
    shifts = np.linspace(0.92, 1.09, len(scores))  # side by side, so that no interval hides another
    for name, line, shift in zip(scores, LINES[: len(scores)], shifts, strict=True):
        means, halves = np.transpose([(s.mean, s.interval) for s in scores[name]])
        plt.errorbar(np.multiply(counts, shift), means, halves, fmt=line, capsize=3, label=name)
    plt.xscale("log")
    plt.xticks(counts, counts)
    plt.minorticks_off()
    plt.gca().set(xlabel="images per class", ylabel="test accuracy (chance: 0.1)")
    plt.legend(loc="lower right")


plt.figure(figsize=(6, 3.6))
scores, rows = by_count("one task", METHODS)
draw(scores)
teacher_score = mk.Score.of(test_values("teacher"))
plt.axhline(teacher_score.mean, color="0.5", linewidth=1)
plt.text(5, teacher_score.mean + 0.004, "teacher", color="0.3")
plt.show()


# %%
def differences(kind, first, second):
    """A row of the table with paired differences."""
    row = {"method": f"{first} minus {second}"}
    for c in COUNTS:
        row[f"{c} per class"] = compare(
            f"{kind}: {first}, {c} per class", f"{kind}: {second}, {c} per class"
        )
    return row


def signs(row):
    """+ or - where the interval of a difference excludes zero, and 0 where it does not."""
    found = [score for score in row.values() if not isinstance(score, str)]
    return "".join("0" if abs(d.mean) <= d.interval else "+" if d.mean > 0 else "-" for d in found)


rows += [differences("one task", "distilled", name) for name in METHODS[:3]]
rows += [differences("one task", "distilled without labels", "pseudo-labels")]
rows += [differences("one task", "distilled", "distilled without labels")]
rows += [differences("one task", name, "true labels") for name in METHODS[1:3]]
assert [signs(row) for row in rows[5:]] == [*4 * ["+++"], "00+", "000", "000"]
mk.report.Table(rows)

# %% [markdown]
# Distillation is significantly more accurate than each of the three baselines, at every number of images. Label smoothing
# and pseudo-labels do not differ significantly from true labels.
#
# The most informative difference is between *distillation without labels* ($\lambda = 1$) and pseudo-labels. Both
# students learn from the same images and from the teacher alone, either from its probabilities or from its most likely
# class. Soft labels are significantly better, by 0.053, 0.039 and 0.021. The effects of the other classes'
# probabilities and of the teacher's confidence were not separated. Adding true labels helps significantly only with 75
# images per class (with 5, $\lambda = 1$ was selected).

# %% [markdown]
# ### Without labels
#
# How many true labels is a teacher worth? The student in the first row is trained on 75 images per class without labels,
# the others on true labels for 5, 20 or all 75 of them, or for all 150 images per class, including the teacher's.

# %%
unlabeled = "one task: distilled without labels, 75 per class"
score = mk.Score.of(test_values(unlabeled))
minus = "first row minus this row"
rows = [{"student": "distilled without labels", "accuracy": score, minus: ""}]
for count in (*COUNTS, 150):
    labeled = f"one task: true labels, {count} per class"
    row = {"student": f"true labels, {count} per class"}
    row["accuracy"] = mk.Score.of(test_values(labeled))
    rows.append(row | {minus: compare(unlabeled, labeled)})
assert [signs({"": row[minus]}) for row in rows[1:]] == ["+", "+", "0", "0"]
all_labels = compare("one task: distilled, 75 per class", "one task: true labels, 150 per class")
assert signs({"": all_labels}) == "0"
print("distilled, 75 per class, minus true labels, 150 per class:", all_labels)
mk.report.Table(rows)

# %% [markdown]
# Without labels of its own, except 50 per class for validation, the student is significantly better than with 5 or 20
# true labels per class, and not significantly different from 75 or 150. With 75 labels and the teacher's 75,
# distillation does not differ significantly from true labels for all 150.

# %% [markdown]
# ### Temperature and number of steps
#
# Each point is the highest validation accuracy for this temperature or number of steps, over all other hyperparameters.
# Colored lines are distilled students, gray lines with open markers are students with true labels.


# %% alt="Validation accuracy of distilled students over the temperature, nearly flat, and over training steps, where they are above gray lines with open markers, students with true labels"
def draw_profile(axis, method, name, **look):
    for count, line in zip(COUNTS, LINES, strict=False):
        selected = stored[f"one task: {method}, {count} per class, selected"]
        profile = selected["validation"][name]
        axis.plot(list(map(float, profile)), list(profile.values()), line, **look)
        axis.set_xscale("log", base=2)


figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
draw_profile(axes[0], "distilled", "temperature")
draw_profile(axes[1], "distilled", "steps")
draw_profile(axes[1], "true labels", "steps", color="0.6", markerfacecolor="white")
axes[0].set(xlabel="temperature $T$", ylabel="validation accuracy")
steps = (200, 400, 800, 1600, 3200, 6400, 12800)
axes[0].set_xticks((1, 2, 4, 8, 16), (1, 2, 4, 8, 16))
axes[1].set_xticks(steps, steps)
axes[1].set_xlabel("training steps")
names = [f"{count} images per class" for count in COUNTS]
figure.legend(axes[0].lines, names, loc="outside upper center", ncols=3)
plt.show()

# %%
chosen = [value for key, value in stored.items() if key.endswith("selected") and "teacher" not in key]
at_limit = [value["validation"]["steps"] for value in chosen if value["steps"] == 12800]
gain = max(last - max(before) for *before, last in (profile.values() for profile in at_limit))
print(f"12,800 steps selected in {len(at_limit)} of {len(chosen)} cases, better by at most {gain:.3f}")
profiles = [dict(zip(*line.get_data(), strict=True)) for line in axes[0].lines]
assert [max(profile, key=profile.get) for profile in profiles] == [8, 8, 4]
assert all(min(profile, key=profile.get) == 1 for profile in profiles)
assert np.all(np.greater(*np.split(np.array([line.get_ydata() for line in axes[1].lines]), 2)))

# %% [markdown]
# The selected temperatures are 8, 8 and 4, and $T = 1$ is the worst in all three cases. For the same images,
# distillation is ahead of true labels at every number of steps. The limit on steps was selected often, gaining at most
# 0.011, so it is a common budget rather than the best for each method. These results were used for selection, over more
# candidates for distillation, and have no intervals.

# %% [markdown]
# ## Distilling several tasks
#
# A teacher for several tasks can be distilled into one student with several heads. The loss is the sum of their soft
# losses. Because it needs only the teacher's logits, these can be passed to `fit` as targets.

# %%
both = "both tasks: distilled without labels, 20 per class"


def from_teacher(teacher_logits, student_logits):
    temperature = stored[f"{both}, selected"]["setting"]["temperature"]
    return soft_loss(student=student_logits, teacher=teacher_logits, temperature=temperature)


student_heads = {"class": head_of(16, 10), "orientation": head_of(16, 4)}
small = join_models(backbone_of(16), student_heads)
train(small, x_few, teacher(x_few), both, dict.fromkeys(student_heads, from_teacher))
for task, logits in small(x_test).items():
    print(f"{task:<12}test accuracy {accuracy(logits, y_test[task]):.3f}")

# %% [markdown]
# In the stored results, hyperparameters were selected by the mean validation accuracy of the two tasks.

# %%
rows = [
    {"network": "teacher"}
    | {t: mk.Score.of(test_values("teacher", n)) for n, t in enumerate(teacher_heads)}
]
for name in METHODS:
    key = f"both tasks: {name}, 20 per class"
    row = {t: mk.Score.of(test_values(key, n)) for n, t in enumerate(teacher_heads)}
    rows.append({"network": f"student, {name}"} | row)
pairs = [("distilled", name) for name in METHODS[:3]] + [("distilled without labels", "pseudo-labels")]
for pair in pairs:
    keys = [f"both tasks: {name}, 20 per class" for name in pair]
    row = {t: compare(*keys, n) for n, t in enumerate(teacher_heads)}
    rows.append({"network": " minus ".join(pair)} | row)
assert [signs(row) for row in rows[-4:]] == ["++", "++", "++", "++"]
shared = compare(*(f"{kind}: distilled, 20 per class" for kind in ("one task", "both tasks")))
assert f"{shared.mean:.3f} ± {shared.interval:.3f}" == "0.032 ± 0.006"
mk.report.Table(rows)

# %% [markdown]
# For both tasks, distillation is significantly better than each baseline, and distillation without labels is better
# than pseudo-labels, too. The distilled student's class accuracy is lower than that of a student distilled for one task,
# by 0.032 ± 0.006.

# %% [markdown]
# > **In the articles.** D4 distills a model for *several tasks*, through a "knowledge representation" (知识表示) that it does
# > not define. Soft labels and the features of the next section are two such representations.

# %% [markdown]
# ## Hints from hidden layers
#
# FitNets (Romero et al., 2015) are students that also learn hidden **features** (特征). A *hint* is the output $h_t$ of a
# hidden layer of the teacher with $d$ units. The output $h_s$ of a *guided layer* of the student, followed by a learned
# map $W$ that is discarded afterwards, is trained to predict it:
#
# $$L_\text{features} = \frac1d \, \lVert W h_s - h_t \rVert^2 \qquad \text{(Formula 5.5)}$$

# %% [markdown]
# FitNets are trained in **two stages**: first the student up to $h_s$, on $L_\text{features}$ alone, and then the whole
# student by distillation, without a feature loss. Our hint is the first hidden layer. As in the paper (whose factor is
# $\frac12$), $W$ is followed by the teacher's nonlinearity, a ReLU. `split_model` returns the first part of a model.

# %%
staged = "hints: in stages, 20 per class"
hint, _ = split_model(teacher_backbone, "first")
front, _ = split_model(student, "first")
student.set_weights(start)
regressor = keras.Sequential([front, layers.Dense(256, activation="relu")])
train(regressor, x_few, hint(x_few), staged, "mse", rate="hint_rate", steps=800)
train(distiller, x_few, y_few["class"], staged, steps=2400)
print(f"two stages: {accuracy(student(x_test), y_test['class']):.3f} (3,200 of 12,800 steps)")

# %% [markdown]
# Alternatively, the terms of Formula 5.4 can be minimized jointly, with a linear $W$:
# `Distiller(..., features=("first", "first"))`. The script compared both with plain distillation at the same $T$ and
# $\lambda$, with the same limit of 12,800 steps, of which the first stage takes 800. Candidates were 0.0001 to 0.01 for
# the learning rate of the first stage and 0.0001 to 1 for $\eta$, extended as above.

# %%
rows = []
for name in ("in stages", "jointly"):
    row = {"method": f"hints {name} minus distilled"}
    for c in COUNTS:
        pair = (f"hints: {name}, {c} per class", f"one task: distilled, {c} per class")
        row[f"{c} per class"] = compare(*pair)
    rows.append(row)
assert [signs(row) for row in rows] == ["000", "+00"]
for name, key, words in (
    ("in stages", "hint_rate", "learning rate of stage 1"),
    ("jointly", "feature_weight", "η"),
):
    selected = [stored[f"hints: {name}, {c} per class, selected"] for c in COUNTS]
    values = ", ".join(f"{s['setting'][key]:g} ({s['steps']:,} steps)" for s in selected)
    print(f"{name}, {words} with 5, 20, 75 images per class: {values}")
mk.report.Table(rows)

# %% [markdown]
# Two stages make no significant difference. Joint training is significantly better with 5 images, by 0.007 ± 0.006, one
# of six comparisons; with 75 images, the selected $\eta$ is only 0.0001. FitNets were designed for students that are
# thinner but *deeper* than the teacher, which were not tested.

# %% [markdown]
# ## Splitting a network
#
# A sequential network is a composition of functions, and can be split between any two of them. The
# parts that `split_model` returns share their weights with the network.
#
# $$\varphi(x; \theta) = \varphi_2\big(\varphi_1(x; \theta_1); \theta_2\big) \qquad \text{(Formula 5.6)}$$
#
# For example, $\varphi(x) = (2x)^2$ consists of $\varphi_1(x) = 2x$ and $\varphi_2(h) = h^2$.

# %%
orientation_network = classifier_of(64, 4)
backbone, head = split_model(orientation_network, "second")
assert np.array_equal(join_models(backbone, head)(x_test), orientation_network(x_test))
assert head.trainable_variables[0] is orientation_network.trainable_variables[4], "weights are shared"

# %% [markdown]
# ## A linear probe on a trained backbone
#
# Suppose that we have many images, but know the classes of only a few. Orientations can be labeled automatically, so we
# train a network to recognize those of all 1,500 images (Gidaris et al., 2018) and use its backbone to learn classes.

# %%
x_all, y_all = in_four_orientations(images[~held_out], labels[~held_out])
train(orientation_network, x_all, y_all["orientation"], "orientation network", cross_entropy)
print(f"orientation: {accuracy(orientation_network(x_test), y_test['orientation']):.3f} (chance: 0.25)")

# %% [markdown]
# A new linear head that is trained on the outputs of a frozen backbone is called a **linear probe** (Alain and Bengio,
# 2016). Ours uses 20 labeled images per class, and the layer at which the backbone ends was selected on the validation
# set (always the first hidden layer).

# %%
PROBE = "new head: trained backbone, 20 per class"
cut = ("first", "second")[int(stored[f"{PROBE}, selected"]["setting"]["cut"]) - 1]
backbone, _ = split_model(orientation_network, cut)
new_head = head_of(64, 10)
train(new_head, backbone(x_few), y_few["class"], PROBE, cross_entropy)
print(f"class: {accuracy(new_head(backbone(x_test)), y_test['class']):.3f} (chance: 0.1)")
cuts = [v["setting"]["cut"] for k, v in stored.items() if "backbone" in k and "selected" in k]
assert cuts == [1] * 6, "always the first layer, for both backbones"

# %% [markdown]
# Does the probe use what the backbone has learned? Baselines are
#
# - a **lookup table** with the most frequent class for each predicted orientation. If the new task only regrouped the
#   old predictions, the table would suffice;
# - linear probes on the four **orientation logits**, on an **untrained backbone** with random weights, and on the
#   **pixels**;
# - the whole network, **fine-tuned** from the weights for orientations or trained **from scratch**.

# %% alt="Test accuracy over images per class: fine-tuning and training from scratch end highest, followed by the trained backbone, pixels and the untrained backbone; the orientation logits and the lookup table stay near chance"
plt.figure(figsize=(6, 3.8))
PROBES = ("trained backbone", "untrained backbone", "pixels", "orientation logits")
scores, rows = by_count("new head", (*PROBES, "fine-tuned", "from scratch"))
draw(scores)
table, table_rows = by_count("new head", ["lookup table"])
plt.plot(COUNTS, [s.mean for s in table["lookup table"]], "x-", color="0.5", label="lookup table")
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %%
others = ("lookup table", *PROBES[1:], "fine-tuned", "from scratch")
pairs = [("trained backbone", name) for name in others] + [("fine-tuned", "from scratch")]
compared = [differences("new head", *pair) for pair in pairs]
assert [signs(row) for row in compared] == ["+++", "+++", "0+0", "+++", "---", "0--", "00-"]
barely = compared[4]["5 per class"]  # the trained backbone minus fine-tuning
assert f"{-barely.mean:.4f} ± {barely.interval:.4f}" == "0.0121 ± 0.0120"
mk.report.Table([*rows, *table_rows, *compared])

# %% [markdown]
# The probe on the trained backbone is far better than the lookup table and the probe on the orientation logits, and
# significantly better than a probe on an untrained backbone, so it uses features learned for the orientation. However,
# only with 20 images per class is it significantly better than a probe on the **pixels**. Fine-tuning is always
# significantly better than the probe on the trained backbone (barely with 5: 0.0121 ± 0.0120), but never significantly
# better than training from scratch, which is significantly ahead with 75.

# %% [markdown]
# The backbone, the rest of the old network and the new head form a network for both tasks, whose orientation
# predictions are unchanged:

# %%
_, old_head = split_model(orientation_network, cut)
recombined = join_models(backbone, {"orientation": old_head, "class": new_head})
logits = recombined(x_test)
assert np.allclose(logits["orientation"], orientation_network(x_test), atol=1e-4)
print(f"two tasks with {recombined.count_params():,} weights")

# %% [markdown]
# ## Can parts of different networks be combined?
#
# Both heads fit because they were trained on the same backbone. **Recombining** (模型拆分与重组) modules that were trained
# independently, for tasks of their own, is harder. We test it with a network B for classes. Its *back* (the second hidden
# layer and the head) is put on the *front* (the first hidden layer) of two other networks: A, for the same task with
# another initialization, and our network for orientations.

# %%
networks = {"orientations": orientation_network}
for name in "AB":
    networks[name] = classifier_of(64, 10)
    train(networks[name], x_all, y_all["class"], "class network", cross_entropy)
fronts = {name: split_model(network, "first")[0] for name, network in networks.items()}
_, back = split_model(networks["B"], "first")
for name, front in fronts.items():
    joined = join_models(front, back)
    print(f"front of {name}, back of B: {accuracy(joined(x_test), y_test['class']):.3f}")

# %% [markdown]
# B's back works with its own front, but not with A's. One reason is the **permutation symmetry** of hidden layers. If
# the units of a layer are permuted by a matrix $P$, and the inputs of the next layer accordingly, the network computes
# the same function:
#
# $$W_2 \, \mathrm{relu}(W_1 x + b_1) = W_2 P^\top \, \mathrm{relu}(P W_1 x + P b_1) \qquad \text{(Formula 5.7)}$$
#
# For one layer of 64 units alone, there are $64! \approx 10^{89}$ equivalent networks.

# %%
units_a, units_b = (fronts[name](x_all).numpy() for name in "AB")
order = np.random.default_rng(0).permutation(64)
permuted = fronts["B"](x_test).numpy()[:, order]
print(f"back of B on its own front, permuted: {accuracy(back(permuted), y_test['class']):.3f}")

# %% [markdown]
# Have A and B learned similar features in a different order? Li et al. (2016) match units whose outputs are highly
# *correlated* over many images. We match greedily, the most correlated pair first, on training images without labels.


# %%
def correlations(these, those):
    scaled = [(u - u.mean(axis=0)) / (u.std(axis=0) + 1e-6) for u in (these, those)]
    return scaled[0].T @ scaled[1] / len(these)


def matching(correlation):
    """One unit of the first network for each unit of the second."""
    correlation, order = correlation.copy(), np.zeros(len(correlation), int)
    for _ in order:
        first, second = np.unravel_index(correlation.argmax(), correlation.shape)
        order[second] = first
        correlation[first], correlation[:, second] = -np.inf, -np.inf
    return order


# %%
order = matching(correlations(units_a, units_b))
in_order = fronts["A"](x_test).numpy()[:, order]
print(f"front of A, matched, back of B: {accuracy(back(in_order), y_test['class']):.3f}")
matched = correlations(in_order, fronts["B"](x_test).numpy()).diagonal()
print(f"mean correlation of matched units on test images: {matched.mean():.2f}")

# %% [markdown]
# ## Stitching layers
#
# More generally, Lenc and Vedaldi (2015) insert a **stitching layer** (缝合层), a learned linear map $M$ with a bias $m$,
# between front $\varphi_{A,1}$ and back $\varphi_{B,2}$:
#
# $$\varphi(x) = \varphi_{B,2}\big(M \varphi_{A,1}(x) + m\big) \qquad \text{(Formula 5.8)}$$
#
# For example, if B is A with its two units exchanged, $M = \begin{pmatrix} 0 & 1 \\ 1 & 0 \end{pmatrix}$ and $m = 0$
# fit. Without labels, $M$ and $m$ can be found by least squares, so that the front of A predicts the outputs of B's
# front (*direct matching*; Csiszárik et al., 2021).


# %%
def with_ones(units):
    return np.column_stack([units, np.ones(len(units))])


for name in ("A", "orientations"):
    stitch = np.linalg.lstsq(with_ones(fronts[name](x_all)), units_b, rcond=1e-6)[0]
    stitched = np.float32(with_ones(fronts[name](x_test)) @ stitch)
    print(f"front of {name}, least squares, back of B: {accuracy(back(stitched), y_test['class']):.3f}")

# %% [markdown]
# Such numbers are evidence of similar features only relative to a reference: how well do the same procedures work for a
# front with *random* weights? The stored results, with ten seeds, include it. "Same initialization" means a network that
# was trained from B's initial weights, with the images in another order.

# %% alt="Bars of test accuracy for six fronts: as they are, only fronts with B's task and initialization work; least squares achieves more than matching, even for an untrained front"
joints = stored["joints"]
HOW = ("as is", "matched", "least squares")
plt.figure(figsize=(7.5, 3.4))
for shift, how, hatch in zip((-0.27, 0, 0.27), HOW, ("", "//", ".."), strict=True):
    values = [mk.Score.of(joints[front][how]) for front in joints]
    heights, halves = [v.mean for v in values], [v.interval for v in values]
    x = np.arange(len(joints)) + shift
    plt.bar(x, heights, 0.25, yerr=halves, capsize=3, hatch=hatch, label=how, alpha=0.8)
names = [name.replace(", ", ",\n").replace(" init", "\ninit") for name in joints]
plt.xticks(range(len(joints)), names, fontsize=8)
plt.axhline(0.1, color="0.4", linestyle=":", linewidth=1)
plt.gca().set(xlabel="front", ylabel="test accuracy (chance: 0.1)", ylim=(0, 0.95))
plt.legend(loc="upper right", ncols=3)
plt.show()

# %%
rows = [{"front": f} | {k: mk.Score.of(v[k]) for k in (*HOW, "correlation")} for f, v in joints.items()]
untrained = mk.Score.of(stored["joints, both untrained"]["correlation"])
print(f"correlation of two untrained networks: {untrained.mean:.3f} ± {untrained.interval:.3f}")
same_task, other_task = "another initialization", "other task, another initialization"
for how, expected in zip((*HOW[1:], "correlation"), ["++", "++", "+0"], strict=True):
    of_task = mk.Score.of(np.subtract(joints[same_task][how], joints[other_task][how]))
    of_training = mk.Score.of(np.subtract(joints[other_task][how], joints["untrained"][how]))
    assert signs({"task": of_task, "training": of_training}) == expected
barely = mk.Score.of(np.subtract(joints[other_task]["matched"], joints["untrained"]["matched"]))
assert f"{barely.mean:.3f} ± {barely.interval:.3f}" == "0.040 ± 0.038"
mk.report.Table(rows)

# %% [markdown]
# As they are, only a front that shares B's initialization and task preserves most of the accuracy. Without labels,
# matching raises the accuracy of a front for the same task from another initialization from chance to 0.36, and least
# squares to 0.76. However, with least squares even an *untrained* front reaches 0.56, and the units of two untrained
# networks are matched with a mean correlation of 0.43. With another initialization, fronts for the same task are
# significantly ahead of those for the other task in the last three columns. The latter are ahead of untrained ones with
# least squares and, barely, with matching (paired difference 0.040 ± 0.038), but not in correlation. So features are
# more similar for the same task here, but the networks for orientations were also trained longer, at a higher learning
# rate.

# %% [markdown]
# ### A stitch that is trained on labels
#
# Lenc and Vedaldi train the stitching layer on labels (*task loss matching*), with front and back frozen. Its 4,160
# weights may then learn the task instead of mapping features to features. On the front for orientations, the script
# trained a stitch to the trained back of B, a stitch to an *untrained* back, and a *fresh back*, trained without a
# stitch.

# %%
BACKS = ("trained back", "untrained back", "fresh back")
_, rows = by_count("stitch", BACKS)
rows += [differences("stitch", "trained back", name) for name in BACKS[1:]]
assert [signs(row) for row in rows[3:]] == ["---", "---"]
mk.report.Table(rows)

# %% [markdown]
# A stitch to the trained back is significantly worse than both alternatives at every number of images. So a stitch that
# works after training on labels is no evidence of similar features.

# %% [markdown]
# > **In the articles.** D4's second algorithm recombines independently trained modules. They fit on a shared backbone,
# > and partly with the same initialization and task. Across tasks, a linear map without labels reached at most 0.637
# > instead of 0.789 ([errata](README.md#errata)).

# %% [markdown]
# ## Summary
#
# - **Distillation** trains a small network on the soft labels of a large one, for one or several tasks. Here it was
#   more accurate than true labels, label smoothing and pseudo-labels for the same images, but not than equally many
#   true labels in total.
# - A higher **temperature** makes small probabilities visible, and $T^2$ keeps the gradient from vanishing.
# - **Hints** improved this student little or not at all, in stages (FitNets) or jointly.
# - Compare a **linear probe** on a backbone with a lookup table, an untrained backbone, the pixels, fine-tuning and
#   training from scratch.
# - Partly because of **permutation symmetry**, parts of networks from different initializations do not fit directly.
#   Linear maps connect them better than matching, but only an untrained reference shows how similar their features are.
# - A **stitching layer trained on labels** may learn the task on its own.

# %% [markdown]
# ## Exercises
#
# Exercises 1 to 4 have a check ([solutions](../tests/solutions.py)): run its cell and pass it your function, as in
# `check_soften(my_function)`.

# %% [markdown]
# **1. Soften.** (Warm-up.) Write `soften(p, temperature)`, the soft labels (Formula 5.1) of a network whose outputs are
# probabilities `p` of shape (rows, classes). Its logits are not available.


# %%
def check_soften(soften):
    z = np.random.default_rng(0).normal(size=(4, 6))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    for temperature in (1.0, 3.0, 50.0):
        powers = np.exp(z / temperature)
        expected = powers / powers.sum(axis=1, keepdims=True)
        assert np.allclose(soften(p, temperature), expected), f"wrong at temperature {temperature}"
    print("Correct.")


# %% [markdown]
# **2. The derivative.** Write `derivative(teacher, student, temperature)`, Formula 5.3, for logits of shape (classes,).


# %%
def check_soft_derivative(derivative):
    teacher, student = np.array([0.0, np.log(9.0)]), np.zeros(2)
    assert np.allclose(derivative(teacher, student, 2.0), [0.5, -0.5]), "the example in the text"
    limit = [0.5 * np.log(3), -0.5 * np.log(3)]
    assert np.allclose(derivative(teacher, student, 1e4), limit, rtol=1e-2), "it must not vanish"
    print("Correct.")


# %% [markdown]
# **3. A lookup table.** Write `lookup(old, labels, new)`. From the old network's predictions for labeled examples and
# their labels in the new task, it finds the most frequent label per prediction, and returns labels for the predictions
# `new`.


# %%
def check_lookup(lookup):
    old, labels = np.array([0, 0, 0, 1, 1, 2]), np.array([5, 5, 7, 7, 7, 5])
    found = lookup(old, labels, np.array([2, 1, 0]))
    assert np.array_equal(found, [5, 7, 5]), "the most frequent label for each old prediction"
    print("Correct.")


# %% [markdown]
# **4. Undo a permutation.** The units of a hidden layer were permuted: `units_b = units_a[:, order]`. Write
# `stitch(units_a, units_b)`, which finds the matrix $M$ with `units_a @ M` equal to `units_b` from the two arrays
# alone.


# %%
def check_stitch(stitch):
    rng = np.random.default_rng(0)
    order = rng.permutation(6)
    units, new = (np.maximum(rng.normal(size=(rows, 6)), 0) for rows in (200, 50))
    found = stitch(units, units[:, order])
    assert np.allclose(units @ found, units[:, order], atol=1e-6), "units_a @ M must be units_b"
    assert np.allclose(new @ found, new[:, order], atol=1e-6), "for new examples, too"
    print("Correct.")


# %% [markdown]
# **5. Project: which images does a student need?** Replace the student's images by unlabeled images of another data
# set, or by noise, and measure how well distillation still works. A good report
#
# - states a hypothesis before the experiment (1 point);
# - includes pseudo-labels and shuffled soft labels as baselines (3 points);
# - selects hyperparameters on validation data, with an equal limit on steps (3 points);
# - reports paired differences over at least five seeds and teachers (2 points);
# - states which questions remain open (1 point).

# %% [markdown]
# ## References
#
# - G. Alain, Y. Bengio,
#   [Understanding intermediate layers using linear classifier probes](https://arxiv.org/abs/1610.01644), 2016.
# - A. Csiszárik and others, [Similarity and Matching of Neural Network Representations](https://arxiv.org/abs/2110.14633), 2021.
# - S. Gidaris, P. Singh, N. Komodakis,
#   [Unsupervised Representation Learning by Predicting Image Rotations](https://arxiv.org/abs/1803.07728), 2018.
# - G. Hinton, O. Vinyals, J. Dean, [Distilling the Knowledge in a Neural Network](https://arxiv.org/abs/1503.02531), 2015.
# - D.-H. Lee, Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks, 2013.
# - K. Lenc, A. Vedaldi,
#   [Understanding image representations by measuring their equivariance and equivalence](https://arxiv.org/abs/1411.5908),
#   2015.
# - Y. Li and others, [Convergent Learning: Do different neural networks learn the same
#   representations?](https://arxiv.org/abs/1511.07543), 2016.
# - A. Romero and others, [FitNets: Hints for Thin Deep Nets](https://arxiv.org/abs/1412.6550), 2015.
# - C. Szegedy and others, [Rethinking the Inception Architecture for Computer Vision](https://arxiv.org/abs/1512.00567),
#   2016: label smoothing.
# - L. Yuan and others, [Revisiting Knowledge Distillation via Label Smoothing Regularization](https://arxiv.org/abs/1909.11723), 2020.
#
# Previous: [Multi-task learning](04_multitask.ipynb). Next: [Crossing domains](06_crossing_domains.ipynb).
