# %% [markdown]
# # MetaLearner: writing the meta-training loop
#
# **Goals.** After this chapter you can write a meta-training loop with `tf.GradientTape`, train the same model with
# `fit`, replace its inner loop, compare the result with strong baselines, and deploy an adapted network.
#
# **Prerequisites.** Tasks and episodes (chapter [01](01_learning_to_learn.ipynb)), gradient descent and Adam (chapter
# [02](02_classical_learning.ipynb)). Chapter [10](10_maml.ipynb), on the mathematics of MAML, can be read before or
# after.
#
# **Time.** About 75 minutes, or a lecture of 90 minutes with two exercises; about one minute to run.
#
# ![Five characters with one support image each, and predictions for eight queries of each](adapted_network.png)
#
# *A network with a zero-initialized output layer (section 5), whose other layers were meta-trained for 250 steps,
# adapted by one gradient step to the five support images on the left, from an unseen alphabet. Queries in a solid frame
# are classified correctly; those in a dashed frame are misclassified, with the predicted class below. Of 200 test
# tasks, this one's accuracy (27 of 40) is the closest to the mean, 67 %.*

# %%
import meta_keras as mk  # before TensorFlow, so that TensorFlow starts without log messages

import inspect
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from meta_keras.rules import GradientDescent, Prototypes

mk.report.style()
keras.utils.set_random_seed(1)
stored = mk.report.measured("chapter_12")  # long measurements, made by benchmarks/chapter_12.py

# %% [markdown]
# ## 1. The task
#
# We want a Keras model for few-shot classification, `MetaLearner(num_classes)`. The network is given: a small
# convolutional classifier that ends in a **softmax**, which turns its outputs into probabilities that sum to one. The
# training loop is given only as an outline:
#
# 1. generate the **task data** (任务数据);
# 2. train the **task model** (训练任务模型), that is, adapt the network to the support set;
# 3. compute the **prediction error** (预测误差) of the task model, which will be its loss on the queries;
# 4. optimize the network with respect to that error.
#
# We write these steps by hand, let `fit` run them, and replace step 2, the inner loop. Outline and network are from
# [article D3](README.md#from-the-documents-to-the-chapters):

# %%
Code(inspect.getsource(mk.networks.d3), language="python")

# %% [markdown]
# We train on `glyphs`, the synthetic characters of chapter 01, split by alphabet into training, validation and test
# classes. For speed, we average blocks of 2 x 2 pixels; 14 x 14 remain. The network has no batch
# normalization, so predictions for a query never depend on other queries.


# %%
def shrink(images):
    blocks = images.reshape(len(images), 14, 2, 14, 2, 1)
    return blocks.mean(axis=(2, 4)).astype("uint8")


characters = mk.load("glyphs").map(shrink)
train, validation, test = (characters.split(name) for name in ("train", "validation", "test"))
print(train, validation, test, sep="\n")

# %% [markdown]
# ## 2. Three design decisions
#
# **What do the outputs mean?** In an ordinary classifier, output 3 always stands for the same class. In few-shot
# learning, labels are reassigned for every task: the character that is class 3 in one task may be class 0 in the next.
# So `num_classes` has to be the number of *ways* (classes) of a task, and no fixed function of the image can give the
# correct label in both tasks.

# %% [markdown]
# **What is the input?** Because the label depends on the task, the model has to see a support set of labeled images
# besides the queries. A `MetaLearner` therefore takes `(support_x, support_y, query_x)`, each with the tasks along axis
# 0, and a *rule* that says how the network is adapted to a support set.

# %%
network = mk.networks.d3(5, input_shape=(14, 14, 1))
learner = mk.MetaLearner(network=network, rule=GradientDescent(0.1, steps=40))
images = tf.constant(validation.examples[:100:20] / np.float32(255))  # one per class
for labels in (tf.range(5), tf.range(4, -1, -1)):
    probabilities = learner.predict((images[None], labels[None], images[None]), verbose=0)
    print("labels", labels.numpy(), " predictions", probabilities[0].argmax(axis=-1))
    assert list(probabilities[0].argmax(axis=-1)) == list(labels)

# %% [markdown]
# The adapted network classifies the same five images correctly under both assignments, but the goal is to classify
# *other* images.

# %% [markdown]
# **Where does the optimizer belong?** In `compile`, which sets `self.optimizer` in every Keras model, overwriting one
# stored by a constructor.

# %% [markdown]
# > **In the articles.** D3 ([section 5](README.md#from-the-documents-to-the-chapters)) has such a model for fixed classes,
# > an optimizer in the constructor, and a loop whose four comments have no code. Its `task_indices` select rows of a
# > batch, but do not describe the task; `mk.MetaLearner` still accepts them. See the [errata](README.md#errata).

# %% [markdown]
# ## 3. The loop by hand

# %% [markdown]
# **Step 1: the task data.** `FewShot` is an endless dataset of episodes. Each of its batches has four tasks of five
# classes, with one support image and five queries per class, hence 120 images.

# %%
tasks = mk.FewShot(train, ways=5, shots=1, queries=5, meta_batch=4, seed=0)
batch = next(iter(tasks))
print("support:", batch.support_x.shape, " queries:", batch.query_x.shape)

# %% [markdown]
# **Step 2: the task model.** One step of gradient descent on the support loss $L_S$ leads from the initialization
# $\theta$ to the adapted weights
#
# $$\theta' = \theta - \alpha \nabla L_S(\theta), \qquad \text{(Formula 10.1)}$$
#
# where $\alpha$ is the **inner learning rate**. The loss is the **cross-entropy**, the mean negative logarithm of the
# probability that the network assigns to the correct class. We must not assign $\theta'$ to the variables of the
# network, because the other tasks still need $\theta$, and the gradient of step 4 has to pass through this step. In
# Keras 3, `stateless_call` evaluates a network with given weights. Our network has only trainable ones, so the list of
# other variables is empty.

# %%
INNER_RATE, OUTER_RATE = stored["selected: MAML"]["rates"]  # see section 6
network = mk.networks.d3(5, input_shape=(14, 14, 1))
initial_weights = network.get_weights()
optimizer = keras.optimizers.Adam(OUTER_RATE)
optimizer.build(network.trainable_variables)
loss = keras.losses.SparseCategoricalCrossentropy()


def predict(weights, x):
    return network.stateless_call(weights, [], x)[0]


# %%
def adapt(weights, support_x, support_y):
    with tf.GradientTape() as tape:
        tape.watch(weights)
        support_loss = loss(support_y, predict(weights, support_x))
    gradients = tape.gradient(support_loss, weights)
    return [w - INNER_RATE * g for w, g in zip(weights, gradients, strict=True)]


# %% [markdown]
# **Step 3: the prediction error.** What matters is the loss $L_Q$ of the *adapted* weights on the *queries*. The
# support loss is also low for a network that only memorizes its support set.

# %% [markdown]
# **Step 4: the outer update.** The outer tape records everything, including the inner step, so its gradient
#
# $$\nabla_\theta L_Q(\theta') \qquad \text{(Formula 10.2)}$$
#
# says how to change the *initialization* so that the query loss *after adaptation* decreases. Adam (chapter 02) updates
# the initialization with the gradient of the *meta-loss*, the mean of $L_Q(\theta')$ over the tasks of a batch. This is
# **MAML**, model-agnostic meta-learning (模型无关元学习; Finn, Abbeel and Levine, 2017).


# %%
@tf.function
def meta_step(batch):
    with tf.GradientTape() as outer:
        theta = [tf.identity(variable) for variable in network.trainable_variables]
        outer.watch(theta)
        errors = []
        for support_x, support_y, query_x, query_y in zip(*map(tf.unstack, batch), strict=True):
            adapted = adapt(theta, support_x, support_y)
            errors.append(loss(query_y, predict(adapted, query_x)))
        meta_loss = tf.reduce_mean(errors)
    gradients = outer.gradient(meta_loss, theta)
    optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
    return meta_loss


# %% [markdown]
# Because labels are reassigned at random for every task, a network that ignores the support set can do no better than
# equal probabilities for the five classes. Its loss is at least $\ln 5 \approx 1.61$ on average, so a lower meta-loss
# shows that the network uses the support set.

# %%
losses = [float(meta_step(batch)) for batch in tasks.take(150)]  # 50 batches per epoch in section 4
by_hand = np.mean(np.split(np.array(losses), 3), axis=1)
assert by_hand[2] < by_hand[0] - 0.1

# %% alt="Query loss over 150 iterations: single batches vary, and their means over 50 batches fall further and further below the line of equal probabilities"
plt.figure(figsize=(6, 3))
plt.plot(np.arange(1, 151), losses, color="0.75", label="query loss of one batch")
plt.plot([25, 75, 125], by_hand, "o-", label="mean of 50 batches")
plt.axhline(np.log(5), color="0.3", linestyle=":", label="equal probabilities")
plt.gca().set(xlabel="iteration", ylabel="query loss after one inner step")
plt.legend()
plt.show()

# %% [markdown]
# The query loss decreases. `mk.maml_loop` is the same loop with several inner steps and what other networks need:
# regularization penalties, random numbers for dropout, and the moving averages of batch normalization.

# %% [markdown]
# ## 4. The same loop with fit
#
# A `MetaLearner` is a Keras model with this iteration as its training step. `compile` takes the outer optimizer, `fit`
# takes the tasks, and the rule describes the inner loop. We start from the same initialization on the same tasks,
# monitor accuracy on tasks of the validation alphabets, and store a checkpoint (检查点) after every epoch of 50 batches.

# %%
folder = tempfile.TemporaryDirectory()
validation_tasks = mk.FewShot(validation, ways=5, shots=1, queries=5, meta_batch=20, seed=1)
clone = mk.networks.d3(5, input_shape=(14, 14, 1))
clone.set_weights(initial_weights)
maml = mk.MetaLearner(network=clone, rule=GradientDescent(INNER_RATE, steps=1))
maml.compile(optimizer=keras.optimizers.Adam(OUTER_RATE))

# %%
history = maml.fit(
    tasks,
    steps_per_epoch=50,
    epochs=5,
    validation_data=validation_tasks,
    validation_steps=5,
    callbacks=[keras.callbacks.ModelCheckpoint(f"{folder.name}/{{epoch}}.keras")],
    verbose=0,
).history

# %%
print("loss by hand:       ", *(f"{value:.3f}" for value in by_hand))
for name, values in history.items():
    print(f"{name:<20}", *(f"{value:.3f}" for value in values))
assert np.allclose(by_hand, history["loss"][:3], atol=0.02)
assert history["val_accuracy"][-1] > history["val_accuracy"][0]

# %% [markdown]
# The first three epochs of `fit` have the losses of the loop by hand, up to rounding, which training can amplify. After
# five epochs, the learner has processed 30,000 images.

# %% [markdown]
# **Stop and resume.** To resume an interrupted run, we need the weights, the state of the optimizer, and the
# tasks that would have come next. A checkpoint contains the first two, and step $n$ of a `MetaLearner` always uses
# batch $n$ of its tasks. So one more epoch from the fourth checkpoint leads to the weights of the uninterrupted run, up
# to rounding.

# %%
resumed = keras.models.load_model(Path(folder.name) / "4.keras")
resumed.fit(tasks, steps_per_epoch=50, verbose=0)
pairs = zip(resumed.get_weights(), maml.get_weights(), strict=True)
assert all(np.allclose(a, b, atol=1e-4) for a, b in pairs)

# %% [markdown]
# ## 5. Other inner loops

# %% [markdown]
# Most meta-learners share steps 1, 3 and 4; what distinguishes them is step 2. In MAML, all layers including the output
# layer, the *head*, start from meta-learned weights. However, labels are assigned at random, and Ye and Chao (2022)
# show that MAML's accuracy varies with the assignment; their UNICORN-MAML learns one initial weight vector, which all
# classes share. Kao, Chiu and Chen (2022) trace interference in MAML's updates partly to the random initialization of
# the head, and reduce it by setting the head to zero (the *zeroing trick*). We combine a **zero-initialized head** with
# ANIL (Raghu et al., 2020), which adapts only the head (in code, tables and figures: "zero head").

# %% [markdown]
# **One step from zero.** With a zero-initialized head, each of the $N$ classes has probability $1/N$. Let $f_i$ be the
# embedding of support image $i$ of $n$, that is, the output of the **backbone**, the layers below the head. If every
# class has equally many support images, and $c_k$ is the mean embedding of class $k$, its **prototype**, the weights of
# output $k$ after one step are
#
# $$w_k = \alpha \frac{1}{n} \sum_{i=1}^{n} \Big(1[y_i = k] - \frac{1}{N}\Big) f_i = \frac{\alpha}{N} \,(c_k - \bar c),
# \qquad \text{(Formula 12.1)}$$
#
# where $\bar c$ is the mean of the prototypes, and the biases stay zero. The logit of class $k$ for a query with
# embedding $f$ is therefore $\frac{\alpha}{N}(c_k \cdot f - \bar c \cdot f)$. The last term is the same for every
# class, so the softmax cancels it: after one step, the head compares the query with each prototype by a dot product.

# %% [markdown]
# **The relation to prototypes.** *Prototypical networks* (Snell, Swersky and Zemel, 2017; chapter 01) compare the query
# with each prototype by the squared distance, without a head or a gradient step. Expanding the distance,
#
# $$-\lVert f - c_k \rVert^2 = 2\, c_k \cdot f - \lVert c_k \rVert^2 - \lVert f \rVert^2,$$
#
# where $\lVert f \rVert^2$ is the same for every class and cancels in the softmax. So with $\alpha = 2N$, the logits of
# the two methods differ only in $-\lVert c_k \rVert^2$. If all prototypes have the same norm, for example with one shot
# and embeddings of unit length, the two methods are identical. Otherwise, dot products tend to favor classes whose
# prototypes have a large norm, which the term $-\lVert c_k \rVert^2$ penalizes; section 7 measures how much that
# matters. For one step, $\alpha$ may be large, because $\alpha / N$ only scales the dot products in the softmax: for
# $N = 5$, prototypes correspond to $\alpha = 10$.

# %%
rng = np.random.default_rng(0)
c, f = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 5, 128)))
one_step = 2 * f @ (c - c.mean(axis=0)).T  # Formula 12.1 with learning rate 2N
distances = -np.square(f[:, None] - c).sum(axis=-1)
assert np.allclose(tf.nn.softmax(one_step), tf.nn.softmax(distances))

# %% [markdown]
# In the library, `layers="head"` restricts the inner loop to the head, and `trainable = False` keeps the outer loop
# from changing its zeros.

# %%
rates = stored["selected: zero head"]["rates"]
network = mk.networks.d3(5, input_shape=(14, 14, 1))
head = network.get_layer("head")
head.set_weights([np.zeros_like(w) for w in head.get_weights()])
head.trainable = False
zero_head = mk.MetaLearner(network=network, rule=GradientDescent(rates[0], layers="head"))
zero_head.compile(keras.optimizers.Adam(rates[1]))
_ = zero_head.fit(tasks, steps_per_epoch=250, verbose=0)

# %% [markdown]
# `adapt` returns the adapted network for one task. Its head agrees with Formula 12.1:


# %%
def backbone_of(network):
    return keras.Model(network.inputs, network.layers[-2].output)


# %%
support_x, support_y = batch.support_x[0], batch.support_y[0]
adapted = zero_head.adapt(support_x, support_y)
f = backbone_of(adapted)(support_x).numpy()[np.argsort(support_y)]  # with one shot, the prototypes
weights, biases = adapted.get_layer("head").get_weights()
assert np.allclose(weights.T, rates[0] / 5 * (f - f.mean(axis=0)), atol=1e-4)
assert np.allclose(biases, 0, atol=1e-5)

# %% [markdown]
# With prototypes, step 2 of the outline becomes the computation of $N$ means.

# %%
network = mk.networks.d3(5, input_shape=(14, 14, 1))
prototypes = mk.MetaLearner(network=backbone_of(network), rule=Prototypes())
prototypes.compile(keras.optimizers.Adam(stored["selected: prototypes"]["rates"][0]))
_ = prototypes.fit(tasks, steps_per_epoch=250, verbose=0)

# %% [markdown]
# ## 6. A fair comparison

# %% [markdown]
# Is meta-training worth the effort? We compare with methods that do not use it:
#
# - **from scratch**: gradient descent on all weights for each task, from random weights;
# - **random backbone**: a zero-initialized head, and the **nearest class mean** (as in prototypical networks), on the
#   embeddings of a network with random weights;
# - **pixels** and **aligned pixels**: the nearest class mean of the 14 x 14 pixels, and of images that are cropped to
#   the bounding box of the character, resized and blurred, as in chapter 01;
# - **pretrained classifier**: an ordinary classifier of all 851 training classes, on whose embeddings new tasks are solved
#   by the nearest class mean (SimpleShot; Wang et al., 2019), or by a zero-initialized head that is trained on the
#   support set (Chen et al., 2019, train a randomly initialized one).

# %% [markdown]
# **Training.** Meta-training and pretraining see 250 batches of 120 images, as four tasks or as an ordinary batch. This
# is a small budget: on 5-way Omniglot, Finn et al. meta-train for 60,000 iterations of 32 tasks.

# %% [markdown]
# **Selection.** All hyperparameters were selected on validation tasks with one training seed. First, we selected
# learning rates, by the best accuracy after 1, 3, 10 or 30 gradient steps (for the head on the classifier: not 1); half
# and twice each selected value were no better. Then we selected the number of steps, from 1 to 810: the smallest whose
# accuracy is less than 0.01 below the best. (From scratch, on 100 instead of 200 tasks, every number of steps has its
# own learning rate, and the best of 10, 30, 90 and 270 was selected.) The normalization of pixels, and of embeddings
# for class means and for the head on the classifier (none: `plain`; `unit` length; or `centered unit`, after
# subtracting the training mean), and the standard deviation of the blur (`sigma`, in pixels of the aligned 24 x 24
# images) were selected, too. All other heads use plain embeddings, which may be a disadvantage.

# %% alt="Validation accuracy over gradient steps in evaluation: that of the head on the classifier is flat; MAML and the zero-initialized head improve up to 90 steps and then hardly change; the random backbone begins near chance"
heads = ("classifier, zero head", "zero head", "MAML", "random backbone, zero head")
plt.figure(figsize=(7, 3.4))
for name, style in zip(heads, ("s-", "o-", "^-", "d--"), strict=True):
    curve = {int(count): value for count, value in stored[f"validation: {name}, steps"].items()}
    plt.semilogx(curve.keys(), curve.values(), style, label=name)
    chosen = int(stored[f"selected: {name}"]["choice"])
    plt.plot(chosen, curve[chosen], "o", markersize=14, markerfacecolor="none", color="black")
    assert chosen == min(n for n in curve if round(max(curve.values()) - curve[n], 6) < 0.01)
    assert chosen < max(curve)
    assert name != "zero head" or curve[3] < curve[1] < curve[10]
plt.xticks(list(curve), list(curve))
plt.minorticks_off()
plt.gca().set(xlabel="gradient steps in evaluation", ylabel="validation accuracy")
plt.legend()
plt.show()

# %% [markdown]
# Circles mark the selected numbers of steps: 90 for MAML and the meta-trained zero-initialized head. Both are best at
# 810 steps, the end of the grid, but gain less than 0.01 after 90. The zero-initialized head, meta-trained with one
# step, is worse after three than after one. On unit-length embeddings of the classifier, one step is selected, which is
# the nearest class mean (section 5), so we test this head after 90 steps. On the random backbone, one step reaches only
# 0.289, but class means reach 0.668: the difference is due to the norms.

# %% [markdown]
# **Test.** Each of five seeds has its own initialization, training tasks and 200 test tasks, so the intervals over
# seeds include the variation of tasks. The test alphabets are harder than the validation alphabets, even without
# training: pixels reach 0.588 on validation tasks and 0.523 on test tasks. Below, `choice` is the selected number of
# steps or normalization; `rates` are the learning rates of adaptation (if any) and training. From scratch, a
# zero-initialized head (all layers adapted) was tried, but was no better:

# %%
for key, value in stored.items():
    if key.startswith("selected"):
        print(f"{key.removeprefix('selected: '):<38}", value)

# %% [markdown]
# The classifier uses unit-length embeddings, as selected. `evaluation_steps` sets the number of gradient steps in
# evaluation and in `adapt`.

# %%
classifier = mk.networks.d3(len(train), input_shape=(14, 14, 1))
adam = keras.optimizers.Adam(stored["selected: classifier"]["rates"][0])
classifier.compile(adam, "sparse_categorical_crossentropy")
x, y = train.arrays(scaled=True)
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).repeat().batch(120)
_ = classifier.fit(data, steps_per_epoch=250, shuffle=False, verbose=0)

# %%
assert stored["selected: classifier"]["choice"] == "unit"
embedding = keras.Sequential([backbone_of(classifier), keras.layers.UnitNormalization()])
class_means = mk.MetaLearner(network=embedding, rule=Prototypes())

# %%
test_tasks = mk.FewShot(test, ways=5, shots=1, queries=5, meta_batch=20, seed=1000)
STEPS = {name: stored[f"selected: {name}"]["choice"] for name in ("MAML", "zero head")}
maml.rule.evaluation_steps, zero_head.rule.evaluation_steps = map(int, STEPS.values())
live = {
    "prototypes": mk.evaluate(prototypes, test_tasks, 200),
    "classifier, class means": mk.evaluate(class_means, test_tasks, 200),
    f"zero head, {STEPS['zero head']} steps": mk.evaluate(zero_head, test_tasks, 200),
    f"MAML, {STEPS['MAML']} steps": mk.evaluate(maml, test_tasks, 200),
}
for name, score in live.items():
    print(f"{name:<24}{score}")

# %% [markdown]
# ## 7. Results
#
# The scores above are of single runs; the stored results cover five seeds and all methods.


# %%
def per_seed(method, key=None):
    runs = [stored[f"{method}, seed {seed}"] for seed in range(SEEDS)]
    return np.array([run if key is None else run[key] for run in runs])


SEEDS = sum(key.startswith("MAML, seed") for key in stored)
MANY, ONE = f"zero head, {STEPS['zero head']} steps", "zero head, 1 step"
MAML, MAML_ONE = f"MAML, {STEPS['MAML']} steps", "MAML, 1 step"
CLASSIFIER_HEAD = "classifier, zero head, 90 steps"
scores = {
    "prototypes": per_seed("prototypes", stored["selected: prototypes"]["choice"]),
    "classifier, class means": per_seed("classifier", stored["selected: classifier"]["choice"]),
    CLASSIFIER_HEAD: per_seed("classifier, zero head", "90"),
    MANY: per_seed("zero head", STEPS["zero head"]),
    ONE: per_seed("zero head", "1"),
    MAML: per_seed("MAML", STEPS["MAML"]),
    MAML_ONE: per_seed("MAML", "1"),
    "aligned pixels": per_seed("aligned pixels"),
    "from scratch": per_seed("from scratch"),
    "pixels": per_seed("pixels, nearest class mean"),
    "random backbone, class means": per_seed("random backbone, nearest class mean"),
    "random backbone, zero head": per_seed("random backbone, zero head"),
}
mk.report.Table(
    [{"method": name, "test accuracy": mk.Score.of(values)} for name, values in scores.items()]
)

# %% alt="Test accuracy of twelve methods with intervals: prototypes and aligned pixels are highest, followed by the classifier, the zero-initialized head and MAML; pixels and methods on random backbones are lowest"
STAR = {"color": "white", "markeredgecolor": "black", "markersize": 11}
plt.figure(figsize=(7, 3.8))
for row, (name, values) in enumerate(scores.items()):
    score = mk.Score.of(values)
    fmt, color = ("o", "C0") if row < 7 else ("s", "0.4")
    plt.errorbar(score.mean, row, xerr=score.interval, fmt=fmt, color=color, capsize=4)
    if name in live:
        plt.plot(live[name].mean, row + 0.3, "*", **STAR)
for marker, color, label in (("o", "C0", "meta- or pretrained"), ("s", "0.4", "others")):
    plt.plot([], [], marker, color=color, label=label)
plt.plot([], [], "*", **STAR, label="this notebook")
plt.axvline(0.2, color="0.4", linestyle=":", label="chance")
plt.yticks(range(len(scores)), list(scores))
plt.gca().invert_yaxis()
plt.gca().set(xlabel="test accuracy (5-way 1-shot)", xlim=(0.15, 1))
plt.legend()
plt.show()

# %% [markdown]
# The 95 % intervals are for the mean over seeds, so the star of a single run may lie outside. Because all methods have
# the same test tasks, two of them differ significantly if the interval of their paired differences over seeds excludes
# zero:


# %%
def difference(a, b):
    return mk.Score.of(scores[a] - scores[b])


def signed(score):
    return f"{score.mean:+.3f} ± {score.interval:.3f}"


pairs = [(name, "from scratch") for name in (MAML_ONE, MAML, ONE, MANY, "prototypes")]
pairs += [(MANY, "random backbone, zero head"), ("prototypes", "random backbone, class means")]
pairs += [("pixels", "random backbone, class means")]
pairs += [(name, "classifier, class means") for name in (CLASSIFIER_HEAD, "prototypes", MANY, MAML)]
pairs += [(name, "aligned pixels") for name in ("prototypes", "classifier, class means", MANY)]
pairs += [(MANY, ONE), (MAML, MAML_ONE), (MANY, MAML), ("prototypes", ONE)]
rows = []
for a, b in pairs:
    score = difference(a, b)
    verdict = "significant" if abs(score.mean) > score.interval else "inconclusive"
    rows.append({"comparison": f"{a} - {b}", "difference": signed(score), "verdict": verdict})
mk.report.Table(rows)

# %% [markdown]
# **Is it meta-training, or the inner loop alone?** On a random backbone, the zero-initialized head reaches 0.499, and
# class means reach 0.518. Meta-trained backbones add +0.253 ± 0.050 to the head, and +0.328 ± 0.019 to class means
# (prototypes). So the inner loop alone does not explain their accuracy.

# %% [markdown]
# **Against training from scratch.** Prototypes, the zero-initialized head, and MAML after 90 steps beat training from
# scratch (0.597). After one step, MAML shows no significant difference.

# %% [markdown]
# **Against the pretrained classifier.** At equal numbers of images, prototypes beat the classifier with class means by
# +0.064 ± 0.018. The two also differ in batches, loss and normalization, so the tasks are only one possible cause.
# After 90 steps, MAML is worse (-0.113 ± 0.020), and the zero-initialized head's interval barely excludes zero (-0.0301
# ± 0.0300). However, neither of them normalizes embeddings. If the classifier does not either, the differences are
# -0.076 ± 0.017 (significant) and +0.007 ± 0.027 (inconclusive). Ninety steps of a head on the embeddings of the
# classifier, instead of class means, make no significant difference (-0.001 ± 0.003).

# %% [markdown]
# **Against aligned pixels.** Without any training, aligned pixels reach 0.842 ± 0.011. Prototypes are not significantly
# different (+0.004 ± 0.006), and the other methods in the table are worse. So here, meta-training has not been shown to
# achieve more than prior knowledge: position, size and small shifts (the blur) do not identify a character. In [chapter
# 01](01_learning_to_learn.ipynb), with another network and 28 x 28 pixels, prototypes beat aligned pixels in 5-way
# tasks from 30,000 images on.

# %% [markdown]
# **The number of steps.** MAML and the zero-initialized head were meta-trained with one step, but 90 steps in
# evaluation are better than one, by +0.089 ± 0.038 and +0.061 ± 0.015, and the head is then better than MAML by +0.083 ±
# 0.030. (Learning rates were selected for up to 30
# steps, which favors more than one.)

# %% [markdown]
# **Why are prototypes better than the zero-initialized head?** With $\alpha = 2N = 10$, the two differ only in the
# squared norms $-\lVert c_k \rVert^2$. So we trained a zero-initialized head with this $\alpha$, from the
# same initial backbones, on the same tasks, and with the outer learning rate of prototypes. Both backbones can be
# evaluated with these norms (class means) and without them (the head after one step):


# %%
WITH, WITHOUT = "with norms", "without norms"
norms = {
    (trained, used): per_seed(run, used)
    for trained, run in ((WITH, "prototypes"), (WITHOUT, "trained without norms"))
    for used in (WITH, WITHOUT)
}
mk.report.Table(
    [
        {
            "training": row,
            **{f"evaluation {used}": mk.Score.of(norms[row, used]) for used in (WITH, WITHOUT)},
        }
        for row in (WITH, WITHOUT)
    ]
)

# %%
changes = {
    "alpha = 10 instead of 2.5": norms[WITHOUT, WITHOUT] - scores[ONE],
    "norms in evaluation": norms[WITHOUT, WITH] - norms[WITHOUT, WITHOUT],
    "norms in training, too": norms[WITH, WITH] - norms[WITHOUT, WITH],
    "norms in both": norms[WITH, WITH] - norms[WITHOUT, WITHOUT],
}
mk.report.Table(
    [{"change": name, "difference": signed(mk.Score.of(values))} for name, values in changes.items()]
)

# %% [markdown]
# The first three changes lead from the zero-initialized head after one step (0.691) to prototypes (0.846), and each
# improves accuracy significantly. Of the whole difference of +0.155 ± 0.040, the norms explain +0.122 ± 0.037. (Neither
# head was tuned for one step, and in another order, the shares would differ.)

# %% [markdown]
# **Limits.** These results hold for synthetic characters, one set of test alphabets, and a small budget; MAML was
# trained with a single inner step only (Ye and Chao, 2022, find that it needs more). Some of the comparisons may be
# significant by chance.

# %%
significant = {pair for pair in pairs if abs(difference(*pair).mean) > difference(*pair).interval}
inconclusive = {
    (MAML_ONE, "from scratch"),
    ("pixels", "random backbone, class means"),
    (CLASSIFIER_HEAD, "classifier, class means"),
    ("prototypes", "aligned pixels"),
}
assert set(pairs) - significant == inconclusive
plain = [mk.Score.of(scores[name] - per_seed("classifier", "plain")) for name in (MAML, MANY)]
assert [signed(score) for score in plain] == ["-0.076 ± 0.017", "+0.007 ± 0.027"]
assert max(scores[name].mean() for name in scores) == scores["prototypes"].mean()
assert all(
    difference("aligned pixels", name).mean > difference("aligned pixels", name).interval
    for name in list(scores)[1:]
    if name != "aligned pixels"
)
assert all(mk.Score.of(values).mean > mk.Score.of(values).interval for values in changes.values())

# %% [markdown]
# ## 8. Deployment

# %% [markdown]
# So far, the adapted weights were discarded after each task. `adapt` takes a support set and returns the **adapted
# model** (专家模型; an *expert* in the library): a plain Keras model for this one task. It can be saved, loaded without
# this library, served, and fine-tuned (微调) on more images.

# %%
one_alphabet = mk.FewShot(test, ways=5, queries=8, meta_batch=1, seed=12, within="alphabet")
support_x, support_y, query_x, query_y = (part[0] for part in next(iter(one_alphabet)))
adapted_model = zero_head.adapt(support_x, support_y)
adapted_model.save(f"{folder.name}/adapted.keras")
loaded = keras.models.load_model(f"{folder.name}/adapted.keras")
predictions = loaded.predict(query_x, verbose=0)
assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)
assert np.allclose(predictions, adapted_model(query_x), atol=1e-5)
print(f"{np.sum(predictions.argmax(axis=-1) == query_y)} of {len(query_y)} queries are correct")
folder.cleanup()

# %% [markdown]
# One task is a small sample; section 6 has the mean over 200 tasks (classes from several alphabets). The learner
# can be saved, too, but loading it requires the library. Each step of the outline is an argument that can be replaced:
# the dataset of `fit`, the `rule`, and the `loss` and `optimizer` of `compile`.

# %% [markdown]
# ## Summary
#
# - A model for few-shot tasks takes a support set as input, and has one output per class of the task.
# - The meta-training loop draws tasks, adapts the network to each support set, computes the query loss after
#   adaptation, and updates the initialization with its gradient. `MetaLearner.fit` adds validation, checkpoints and
#   resumption.
# - One step of a zero-initialized head compares a query with the prototypes by dot products. With $\alpha = 2N$, it
#   differs from the prototypical network only in the squared norms of the prototypes, which improve accuracy here by 0.122 ±
#   0.037.
# - After 30,000 processed training images, prototypes clearly beat training from scratch, class means on a random
#   backbone, and a pretrained classifier with class means. However, aligned pixels need no training, and are not
#   significantly different from prototypes.
# - With 90 gradient steps in evaluation, the zero-initialized head and MAML beat training from scratch. MAML is
#   significantly worse than the classifier; so is the head, but its interval barely excludes zero, and includes it if
#   neither method normalizes embeddings.

# %% [markdown]
# ## Exercises
#
# Run the cell below an exercise, then call its check with your function ([solutions](../tests/solutions.py)).
#
# **1. Budgets (warm-up).** Write
# `images_seen(steps, meta_batch, ways, shots, queries)`, the number of images that meta-training processes.


# %%
def check_images_seen(images_seen):
    assert images_seen(1, 1, 5, 1, 5) == 30, "support images and queries both count"
    assert images_seen(250, 4, 5, 1, 5) == 30_000, "every step has a batch of tasks"
    assert images_seen(10, 2, 20, 5, 15) == 8_000
    print("Correct.")


# %% [markdown]
# **2. Through the step.** Consider a network with a single weight $w$, the support loss $(w - a)^2$ and the query loss
# $(w - b)^2$. Write `meta_gradient(w, a, b, rate)`, the derivative of the query loss after one inner step with respect to
# $w$ before the step.


# %%
def check_through_the_step(meta_gradient):
    def error(w, a, b, rate):
        return (w - rate * 2 * (w - a) - b) ** 2

    for w, a, b, rate in ((1.0, 0.0, 0.5, 0.1), (0.3, 2.0, -1.0, 0.4)):
        high, low = (error(w + h, a, b, rate) for h in (1e-5, -1e-5))
        numeric = (high - low) / 2e-5
        assert np.isclose(meta_gradient(w, a, b, rate), numeric), "the adapted weight also depends on w"
    print("Correct.")


# %% [markdown]
# **3. A head after one step.** Write `head_after_one_step(features, labels, ways, rate)`, the weights (one column per
# class) and the biases of a zero-initialized head after one step, for support sets in which classes may have *different*
# numbers of images. Which classes do the biases favor then?


# %%
def check_head_after_one_step(head_after_one_step):
    rng = np.random.default_rng(0)
    for labels in (np.arange(3), np.array([0, 0, 1, 2, 2, 2])):
        f, one_hot = rng.normal(size=(len(labels), 4)), np.eye(3)[labels]
        weights, biases = head_after_one_step(f, labels, 3, 0.7)
        assert np.shape(weights) == (4, 3), "one row per feature, one column per class"
        expected = 0.7 * f.T @ (one_hot - 1 / 3) / len(labels)
        assert np.allclose(weights, expected), "each class counts by its share of the support set"
        shares = one_hot.mean(axis=0)
        assert np.allclose(biases, 0.7 * (shares - 1 / 3)), "the gradient for a bias is a mean, too"
    print("Correct.")


# %% [markdown]
# **4. Resume.** Training stopped after `done` steps. Write `remaining(tasks, done)`, the dataset of the batches of
# `tasks` not used yet, in order.


# %%
def check_remaining(remaining):
    tasks = mk.FewShot(mk.load("glyphs"), ways=2, queries=1, meta_batch=1, seed=5)
    batches = [batch.support_x.numpy() for batch in tasks.take(4)]
    (following,) = (batch.support_x.numpy() for batch in remaining(tasks, 3).take(1))
    assert np.array_equal(following, batches[3]), "after 3 batches comes number 3, counted from 0"
    print("Correct.")


# %% [markdown]
# **5. Project: beyond aligned pixels.** Design a learner that beats prototypes and aligned pixels after 30,000 processed
# images with the same network, for example with unit-length embeddings or aligned images in training. A good report
#
# - states the hypothesis before the experiment, and changes one thing at a time (3 points);
# - selects all hyperparameters on validation tasks, with equal effort for the baseline (3 points);
# - reports several seeds with intervals of paired differences, on test tasks used once (3 points);
# - describes its limits (1 point).

# %% [markdown]
# ## References
#
# - C. Finn, P. Abbeel, S. Levine, [Model-Agnostic Meta-Learning](https://arxiv.org/abs/1703.03400), 2017.
# - A. Raghu and others, [Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of
#   MAML](https://arxiv.org/abs/1909.09157), 2020.
# - J. Snell, K. Swersky, R. Zemel, [Prototypical Networks for Few-shot Learning](https://arxiv.org/abs/1703.05175), 2017.
# - W.-Y. Chen and others, [A Closer Look at Few-shot Classification](https://arxiv.org/abs/1904.04232), 2019.
# - Y. Wang and others, [SimpleShot](https://arxiv.org/abs/1911.04623), 2019.
# - H.-J. Ye, W.-L. Chao, [How to Train Your MAML to Excel in Few-Shot Classification](https://arxiv.org/abs/2106.16245), 2022.
# - C.-H. Kao, W.-C. Chiu, P.-Y. Chen, [MAML is a Noisy Contrastive Learner in
#   Classification](https://arxiv.org/abs/2106.15367), 2022.
# - Keras,
#   [Customizing what happens in fit() with TensorFlow](https://keras.io/guides/custom_train_step_in_tensorflow/).
#
# Next: [Strategy networks](13_strategy_networks.ipynb).
