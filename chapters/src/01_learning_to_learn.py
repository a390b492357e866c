# %% [markdown]
# # Learning to learn
#
# **Goals.** After this chapter you can sample few-shot tasks from a data set, state meta-learning as an optimization
# problem, write the episodic training loop of prototypical networks, and compare a meta-learner fairly with strong
# baselines.
#
# **Prerequisites.** Python, NumPy, and basic neural networks. Chapter 02 reviews how networks are trained.
#
# **Time.** About 75 minutes, or one 90-minute lecture. The notebook runs in less than 90 seconds on two CPU cores.
#
# ![Five characters of an unseen alphabet, with one support image and eight query images each](first_success.png)
#
# *A network trained on 16 other sets of characters classifies characters of an alphabet that it has never seen, from
# one labeled image per class (left). Queries (right) in a solid frame are classified correctly. Those in a dashed frame
# are misclassified, with the predicted class below.*

# %% [markdown]
# ## Learning from one example
#
# Even if you have never seen the characters in the left column, you can match most images on the right to them, because
# you know how handwriting varies: slant and stroke width change, whereas loops and junctions identify a character.
#
# A model that is trained on one problem from a random initialization lacks such prior knowledge. It can be acquired by
# pretraining on related data, or by **meta-learning** (元学习), learning to learn, which adds a second level of training
# around the first: across many tasks, a model learns how to learn a new task. Learning from a few labeled examples per
# task is called **few-shot learning** (小样本学习).

# %%
import meta_keras as mk  # before TensorFlow, so that TensorFlow starts without log messages

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

mk.report.style()
keras.utils.set_random_seed(0)

# %% [markdown]
# ## The data
#
# All experiments use `glyphs`, a synthetic data set modeled on Omniglot, handwritten characters of 50 alphabets (Lake
# et al., 2015):
#
# | | |
# |---|---|
# | Contents | 1,201 characters (classes) of 26 alphabets, 20 binary images of 28 x 28 pixels per class |
# | Origin | outlines from free fonts, thinned and redrawn with random slant, size, pen width and distortion |
# | Splits | by alphabet: 16 for training (851 classes), 4 for validation (129), 6 for testing (221); 5 of the 16 (288 classes) are not alphabets but operators, APL, currency and other signs |
# | Limits | no image was drawn by a person |
#
# Details and licenses are in the [data directory](../data/README.md#glyphs). The *training set* is for fitting weights,
# the *validation set* for choosing hyperparameters such as the learning rate, and the *test set* only for reporting
# results. In meta-learning, the splits differ in their classes: training classes are also called *base classes*, test
# classes *novel classes*.

# %%
glyphs = mk.load("glyphs")
train, validation, test = (glyphs.split(name) for name in ("train", "validation", "test"))
for pool in (train, validation, test):
    print(pool)

# %% [markdown]
# ### Are the test characters really new?
#
# No alphabet is in two splits, but alphabets may share shapes. Therefore, one of any two characters whose blurred
# drawings were too similar was removed. No test image is in the training set, but some test characters still resemble
# training characters. Here are the six closest (numbers: correlation of mean images):

# %%
training_images = {image.tobytes() for image in train.examples}
assert not any(image.tobytes() in training_images for image in test.examples)
alphabets = [set(pool.groupings["alphabet"]) for pool in (train, validation, test)]
assert len(set.union(*alphabets)) == sum(map(len, alphabets)) == 26


def mean_images(pool):
    return np.array([pool.examples[pool.labels == k].mean(axis=0).ravel() for k in range(len(pool))])


test_means, training_means = mean_images(test), mean_images(train)
correlations = np.corrcoef(test_means, training_means)
similarity = correlations[: len(test), len(test) :]  # (test classes, training classes)

# %% alt="Mean images of six test characters, each above the mean image of the training character that it correlates with most; the shapes are similar, but not the same"
closest = similarity.max(axis=1)
figure, axes = plt.subplots(2, 6, figsize=(7, 2.7))
for column, k in zip(axes.T, np.argsort(-closest)[:6], strict=True):
    nearest = similarity[k].argmax()
    column[0].imshow(test_means[k].reshape(28, 28))
    column[1].imshow(training_means[nearest].reshape(28, 28))
    column[0].set_title(f"{closest[k]:.2f}", fontsize=9, loc="center")
for axis, name in zip(axes[:, 0], ("test", "training"), strict=True):
    axis.set_ylabel(name)
plt.setp(axes, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## Tasks and episodes
#
# A **task** (任务) is a single learning problem with its own small data set, for example *distinguish these five
# characters*. Tasks are drawn from a **task distribution**, such as *five random characters*. Learning from some of its
# tasks how to adapt to *new* ones is a **meta-learning problem** (元学习问题).
#
# A learner adapts to the labeled **support set** (支持集) $S$ of a task and is then evaluated on its **query set** (查询集)
# $Q$. Together, they form an **episode** (情节). An *N-way K-shot* task has $N$ classes with $K$ support examples per
# class. In `meta_keras`, the library of this book, `FewShot` is an endless `tf.data.Dataset` of batches of episodes;
# the first axis of each tensor indexes the tasks.

# %%
tasks = mk.FewShot(train, ways=5, shots=1, queries=5, meta_batch=2, seed=0)
episode = next(iter(tasks))
for name, tensor in episode._asdict().items():
    print(f"{name:<10}{tuple(tensor.shape)}")

# %% [markdown]
# Labels are reassigned in every task, so a network cannot memorize that a certain character is class 3. This is the
# first task of the batch:

# %% alt="A task: for each of five characters, one support image and five query images that differ in slant, size and pen width"
figure = mk.report.show_episode(episode, task=0, queries=5)

# %% [markdown]
# The support and query sets share no image, and the same seed yields the same episodes:

# %%
repeated = next(iter(mk.FewShot(train, ways=5, shots=1, queries=5, meta_batch=2, seed=0)))
assert all(np.array_equal(a, b) for a, b in zip(episode, repeated, strict=True))
assert sorted(episode.support_y[0].numpy()) == [0, 1, 2, 3, 4]
assert list(np.bincount(episode.query_y[0])) == [5, 5, 5, 5, 5]
support, query = (
    {x.numpy().tobytes() for x in part[0]} for part in (episode.support_x, episode.query_x)
)
assert not support & query

# %% [markdown]
# ## Three functions
#
# D2, one of the articles listed below, describes meta-learning with three functions, which organize the library. The
# names in bold are D2's; papers use the terms network, adaptation rule and task distribution. The first two form the
# meta-learner.
#
# **Meta-knowledge** (元知识) is what has been learned from all previous tasks: a network with weights $\theta$
# (`mk.networks`, or any Keras model),
#
# $$f(x) = \varphi(x; \theta). \qquad \text{(Formula 1.1)}$$
#
# The **meta-policy** (元策略), or adaptation rule, turns a support set $S$ into a predictor for this task. It may have
# learned parameters $\omega$ of its own, such as learning rates (`mk.rules`):
#
# $$g_S(x) = \psi(x, S; \omega). \qquad \text{(Formula 1.2)}$$
#
# The **meta-task** (元任务) is the task distribution. Given parameters $\xi$ (the classes, ways and shots) and a random
# seed $z$, it draws the support and query sets of a task (`mk.FewShot`):
#
# $$h(z) = \rho(z; \xi) = (S, Q). \qquad \text{(Formula 1.3)}$$

# %% [markdown]
# ### Meta-learning as optimization
#
# Ordinary training minimizes a loss $L$, which measures the error of a prediction, over one data set. Meta-training
# minimizes the loss *after adaptation*, on the queries, averaged over tasks. Since the rule adapts the network
# $\varphi(\,\cdot\,; \theta)$, its predictions $\psi$ also depend on $\theta$:
#
# $$\theta^*, \omega^* = \arg\min_{\theta, \omega} \; \mathbb{E}_{z} \; \frac{1}{|Q|} \sum_{(x, y) \in Q}
# L\big(y, \psi(x, S; \theta, \omega)\big) \quad \text{with } (S, Q) = \rho(z; \xi) \qquad \text{(Formula 1.4)}$$
#
# The loss is measured on queries because a learner could simply memorize the support set.

# %% [markdown]
# ## Prototypical networks
#
# In prototypical networks (Snell et al., 2017), the network maps each image to a vector, its **embedding** (嵌入). If
# images of the same class have similar embeddings, the mean of the embedded support examples, called the **prototype**
# (原型), represents the class. A query is assigned to the class with the nearest prototype.

# %% alt="Embeddings of three classes as points in a plane, with their means; of the lines from a query to the three means, the one to the mean of class 1 is the shortest"
rng = np.random.default_rng(3)
class_centers = np.array([[0.0, 0.0], [3.0, 0.5], [1.2, 2.6]])
points = class_centers[:, None] + 0.45 * rng.normal(size=(3, 4, 2))  # (classes, shots, dimensions)
query = np.array([1.9, 1.0])
for k, members in enumerate(points):
    prototype = members.mean(axis=0)
    plt.scatter(*members.T, marker="o^s"[k], label=f"support, class {k}")
    plt.scatter(*prototype, marker="o^s"[k], s=180, facecolors="none", edgecolors="black")
    plt.plot(*np.transpose([prototype, query]), color="0.6", linestyle="-", zorder=0)
    distance = np.linalg.norm(prototype - query)
    plt.annotate(f"{distance:.2f}", (prototype + query) / 2, (5, 5), textcoords="offset points")
plt.scatter(*query, marker="*", s=160, color="black", label="query")
plt.gca().set(xlabel="embedding dimension 1", ylabel="embedding dimension 2", aspect="equal")
plt.legend(bbox_to_anchor=(1, 1), loc="upper left")
plt.show()

# %% [markdown]
# *Large open markers: prototypes. Numbers: distances. The query is assigned to class 1.*
#
# With $S_k$ for the support examples of class $k$:
#
# $$c_k = \frac{1}{|S_k|} \sum_{x \in S_k} \varphi(x; \theta) \qquad \text{(Formula 1.5)}$$
#
# $$\psi_k(x, S) = -\,\lVert \varphi(x; \theta) - c_k \rVert^2 \qquad \text{(Formula 1.6)}$$
#
# The $\psi_k$ serve as **logits**, unnormalized scores. The **softmax** turns them into probabilities,
# $p_k = e^{\psi_k} / \sum_j e^{\psi_j}$, and the loss is the **cross-entropy** $-\log p_y$ for the correct class $y$.
# Since the rule has no parameters of its own ($\omega$ is empty), meta-training only learns the embedding.
#
# For example, embeddings 1 and 3 have the prototype 2. A query at 4 has squared distance 4 from it, and 9 from one at
# 7:


# %%
def class_means(embedded, labels, ways):
    return tf.stack([tf.reduce_mean(embedded[labels == k], axis=0) for k in range(ways)])


def negative_squared_distances(embedded, prototypes):
    return -tf.reduce_sum((embedded[:, None] - prototypes[None]) ** 2, axis=-1)


support_x, support_y = tf.constant([[1.0], [3.0], [7.0]]), tf.constant([0, 0, 1])
query_x = tf.constant([[4.0]])
logits = negative_squared_distances(query_x, class_means(support_x, support_y, ways=2))
print(logits.numpy())

# %% [markdown]
# A `MetaLearner` combines a network with a rule, here `mk.rules.Prototypes`, and is called with a batch of tasks. With
# a network that returns its inputs unchanged, it reproduces the calculation:

# %%
identity = keras.Sequential([keras.Input((1,)), keras.layers.Identity()])
learner = mk.MetaLearner(network=identity, rule=mk.rules.Prototypes())
answer = learner((support_x[None], support_y[None], query_x[None]))  # a batch of one task
print(answer.numpy())
assert np.allclose(answer[0], logits) and np.allclose(logits, [[-4.0, -9.0]])

# %% [markdown]
# ## The episodic training loop
#
# Episodic training minimizes the loss of Formula 1.4 by gradient descent: in each step, sample tasks, compute the loss
# on their queries, and change the weights to reduce it. The network is **conv4**, a standard backbone (feature
# extractor) of few-shot learning, here with 32 instead of the usual 64 filters: four blocks of a convolution, batch
# normalization (which standardizes every channel), a ReLU (which sets negative values to zero) and pooling map an image
# to 32 numbers. The optimizer **Adam** (chapter 02) is a variant of gradient descent that scales the step of each
# weight.

# %%
network = mk.networks.conv4(filters=32)
initial_weights = network.get_weights()
optimizer = keras.optimizers.Adam(0.002)
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

# %% [markdown]
# For one task, we embed the support set, average it per class, and compute the loss of the embedded queries:


# %%
def query_loss(support_x, support_y, query_x, query_y):
    prototypes = class_means(network(support_x, training=True), support_y, ways=5)
    logits = negative_squared_distances(network(query_x, training=True), prototypes)
    return cross_entropy(query_y, logits)


# %% [markdown]
# A training step averages this loss over a batch of tasks. `tf.GradientTape` records the computation, so that
# TensorFlow can compute the **gradient**, the derivatives of the loss with respect to all weights, also through the
# prototypes.


# %%
def train_step(episode):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean([query_loss(*task) for task in zip(*episode, strict=True)])
    gradients = tape.gradient(loss, network.trainable_variables)
    optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
    return float(loss)


losses = [train_step(episode) for episode in tasks.take(5)]
print("loss of each step:", np.round(losses, 3))

# %% [markdown]
# `MetaLearner.fit` runs the same loop, compiled into a TensorFlow graph, with Keras' metrics and callbacks. From the
# same initialization, it yields the same losses:

# %%
copy = mk.networks.conv4(filters=32)
copy.set_weights(initial_weights)
learner = mk.MetaLearner(network=copy, rule=mk.rules.Prototypes())
learner.compile(optimizer=keras.optimizers.Adam(0.002))
history = learner.fit(tasks, steps_per_epoch=1, epochs=5, verbose=0)
print("loss of each step:", np.round(history.history["loss"], 3))
assert np.allclose(history.history["loss"], losses, rtol=1e-3)

# %% [markdown]
# ## What a meta-learner has to beat
#
# Our baselines, on 5-way 1-shot test tasks with five queries per class, are:
#
# - **Chance** is 1/5.
# - **Pixels**: nearest neighbor on raw pixels, by the cosine, after the mean training image is subtracted. With one shot,
#   the class mean is the only support image.
# - **Untrained**: nearest class mean on the embeddings of conv4 with random weights.
# - **From scratch**: conv4 with a classification layer, trained by gradient descent on the support set of each test
#   task.
# - **Aligned pixels**: nearest class mean, by the cosine, of images that are cropped to their ink, resized and blurred.
#   Nothing is learned, but our own prior knowledge is used: position and size do not identify a character, and small
#   distortions matter little.
# - **Classifier**: conv4 trained as a classifier of all 851 base classes. For test tasks, its classification layer is
#   replaced by the nearest class mean of its embeddings, as in SimpleShot (Wang et al., 2019).

# %% [markdown]
# Apart from the mean image for pixels, only the classifier uses the training alphabets. It shows whether *any training
# on related data* is enough. With such features, Chen et al. (2019), who train a cosine layer on every support set,
# matched many meta-learning methods, and Tian et al. (2020), who use logistic regression, outperformed such methods.

# %%
test_tasks = mk.FewShot(test, ways=5, shots=1, queries=5, meta_batch=20, seed=2)
mean_image = train.arrays(scaled=True)[0].mean(axis=0)
center = keras.layers.Normalization(axis=(1, 2, 3), mean=mean_image, variance=np.ones_like(mean_image))
pixels = keras.Sequential(
    [keras.Input((28, 28, 1)), center, keras.layers.Flatten(), keras.layers.UnitNormalization()]
)
networks = {"pixels": pixels, "untrained": mk.networks.conv4(filters=32)}
results = {
    name: mk.evaluate(mk.MetaLearner(network=network, rule=mk.rules.Prototypes()), test_tasks)
    for name, network in networks.items()
}

# %% [markdown]
# For aligned pixels, we crop each image to the bounding box of its ink, resize it to 24 x 24 pixels, and blur it with
# a Gaussian, whose standard deviation `sigma` is read from stored results (see below). For vectors of length 1, the
# nearest also has the largest cosine:


# %%
def align_and_blur(images, sigma):
    resized = []
    for image in images:
        rows, columns, _ = np.nonzero(image)
        cropped = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        resized.append(tf.image.resize(cropped, (24, 24)))
    blurred = keras.ops.image.gaussian_blur(np.float32(resized), (25, 25), (sigma, sigma))
    return keras.ops.normalize(keras.ops.reshape(blurred, (len(images), -1))).numpy()


# %%
stored = mk.report.measured("chapter_01")
sigma = stored["selected: aligned"]["sigma"]
aligned = test.map(lambda images: align_and_blur(images, sigma))
aligned_tasks = mk.FewShot(aligned, ways=5, shots=1, queries=5, meta_batch=20, seed=2)
identity = keras.Sequential([keras.Input((24 * 24,)), keras.layers.Identity()])
results["aligned pixels"] = mk.evaluate(
    mk.MetaLearner(network=identity, rule=mk.rules.Prototypes()), aligned_tasks
)
print(f"sigma {sigma}: {results['aligned pixels']}")

# %% [markdown]
# ### Hyperparameters
#
# A fair comparison tunes every method, baselines included. The script `benchmarks/chapter_01.py` used the 20-way
# accuracy on 1,000 tasks of the *validation* alphabets to select `sigma` from 1, 1.5, 2, 3 and 4; for pixels and
# networks, whether vectors are scaled to length 1 (L2-normalized), with or without first subtracting their mean on
# training images (both were selected for pixels, neither for the networks); and for the classifier and prototypical
# networks (*prototypes* for short), the learning rate and the batch size (images per update; for prototypes, six per
# class, so it determines the ways). The grid of learning rates was extended while the best value was at its edge, and
# the batch size, first the better of 60 and 120, was then halved or doubled as long as accuracy rose by at least 0.01.
# (The classifier's next batch size, 15, reached 0.683, the selected one 0.680.) The figure shows one run per point,
# each with its best normalization:

# %% alt="Validation accuracy over the learning rate: that of prototypes rises up to 0.032 and then falls, that of the classifier is highest at 0.004"
selected = {
    method: stored[f"selected: {method}, 30000 images"] for method in ("prototypes", "classifier")
}
for method, marker in (("prototypes", "o"), ("classifier", "s")):
    settings = selected[method]
    prefix = f"validation: {method}, 30000 images, {settings['per_step']} per step, learning rate "
    trials = {
        float(key.removeprefix(prefix)): max(stored[key].values())
        for key in stored
        if key.startswith(prefix)
    }
    label = f"{method}, batch size {settings['per_step']}"
    plt.semilogx(*zip(*sorted(trials.items()), strict=True), marker=marker, label=label)
ticks = [0.002, 0.004, 0.008, 0.016, 0.032, 0.064]
plt.xticks(ticks, ticks)
plt.minorticks_off()
plt.gca().set(xlabel="learning rate", ylabel="validation accuracy, 20-way 1-shot")
plt.legend()
plt.show()
print({method: settings["learning_rate"] for method, settings in selected.items()})
selected_kinds = [settings["embeddings"] for settings in selected.values()]
selected_kinds += [stored[f"selected: {name}"]["embeddings"] for name in ("untrained", "pixels")]
assert selected_kinds == ["plain", "plain", "plain", "centered unit"]  # plain: not normalized

# %% [markdown]
# ## Training both methods
#
# We train both methods on 30,000 training examples, counting repetitions. The learning rate follows a **cosine decay**:
# it falls to zero along half a cosine wave. Batch normalization uses the statistics of the batch in training (support
# and query sets separately) and their moving averages in evaluation, so that predictions do not depend on other
# queries.
#
# First, the prototypical network: 250 updates, each on one 20-way task with 120 images. Snell et al. (2017) recommend
# more ways in training than in the test.

# %%
IMAGES = 30_000


def adam(settings):
    steps = IMAGES // settings["per_step"]
    return keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(settings["learning_rate"], steps)
    ), steps


keras.utils.set_random_seed(0)
ways = selected["prototypes"]["per_step"] // 6  # one support image and five queries per class
learner = mk.MetaLearner(network=mk.networks.conv4(filters=32), rule=mk.rules.Prototypes())
optimizer, steps = adam(selected["prototypes"])
learner.compile(optimizer=optimizer)
tasks = mk.FewShot(train, ways=ways, shots=1, queries=5, meta_batch=1, seed=0)
history = learner.fit(
    tasks, steps_per_epoch=steps // 5, epochs=5, verbose=0, callbacks=[mk.report.Lines()]
)

# %% [markdown]
# The printed accuracy is that of 20-way training tasks. The 5-way test tasks show whether the embedding generalizes
# (泛化能力, generalization) to *new* characters:

# %%
results["prototypes"] = mk.evaluate(learner, test_tasks)
print(results["prototypes"])

# %% [markdown]
# The classifier is the same initial conv4 with a dense layer (one logit per training class), trained on shuffled images
# for 1,000 updates.

# %%
keras.utils.set_random_seed(0)
backbone = mk.networks.conv4(filters=32)
classifier = keras.Sequential([backbone, keras.layers.Dense(len(train))])
optimizer, steps = adam(selected["classifier"])
classifier.compile(optimizer, cross_entropy, jit_compile=False)  # XLA is slower here
images = tf.data.Dataset.from_tensor_slices(train.arrays(scaled=True))
batches = images.shuffle(len(images), seed=0).repeat().batch(selected["classifier"]["per_step"])
history = classifier.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)

# %% [markdown]
# On the test tasks, we apply the same rule to the embeddings of its backbone:

# %%
results["classifier"] = mk.evaluate(
    mk.MetaLearner(network=backbone, rule=mk.rules.Prototypes()), test_tasks
)
print(results["classifier"])

# %% [markdown]
# Finally, conv4 from scratch: the rule `GradientDescent` takes gradient steps on the support set of each task,
# starting from random weights. Batch normalization uses the statistics of the support set. The learning rate was
# selected on 100 validation tasks (30 with 20 ways). The number of steps was doubled from 20 until the gain fell
# below 0.01 (20-way tasks use the same number). This is not the maximum: on the validation alphabets, which are
# easier for this baseline than test alphabets, 160 steps reached 0.753, the selected 40 0.743. To save time, we
# evaluate only 40 tasks.

# %%
settings = stored["selected: from scratch, 5-way"]
print(settings)
keras.utils.set_random_seed(0)
rule = mk.rules.GradientDescent(
    settings["learning_rate"], evaluation_steps=settings["steps"], batch_statistics="support"
)
from_scratch = mk.MetaLearner(network=mk.networks.conv4(5, filters=32), rule=rule)
results["from scratch"] = mk.evaluate(from_scratch, test_tasks, episodes=40)

# %% [markdown]
# ### Results after 30,000 training examples

# %%
order = ["pixels", "untrained", "from scratch", "aligned pixels", "classifier", "prototypes"]
results = {name: results[name] for name in order}
mk.report.Table(
    [{"learner": name, "accuracy": s, "tasks": len(s.values)} for name, s in results.items()]
)

# %% alt="Bars of test accuracy: pixels, the untrained network and training from scratch are far below the classifier and aligned pixels; prototypes are highest"
means, intervals = [s.mean for s in results.values()], [s.interval for s in results.values()]
plt.barh(
    order,
    means,
    xerr=intervals,
    height=0.6,
    color=["0.8"] * 4 + [mk.report.PALETTE[3], mk.report.PALETTE[2]],
)
plt.axvline(0.2, color="0.4", linewidth=1, linestyle=":")
plt.annotate("chance", (0.2, -0.38), (3, 0), textcoords="offset points", color="0.4")
plt.gca().invert_yaxis()
plt.xlabel("test accuracy, 5-way 1-shot (error bars: 95 % interval over tasks)")
plt.show()

# %% [markdown]
# ## How sure are we?
#
# We report an average over $n$ random tasks with its **95 % confidence interval** (95 % 置信区间). If the accuracies have
# the standard deviation $s$, it extends by
#
# $$t_{n-1} \cdot \frac{s}{\sqrt{n}} \qquad \text{(Formula 1.7)}$$
#
# on either side of the mean. The 97.5 % quantile $t_{n-1}$ of Student's t-distribution is 1.96 for large $n$ and 4.30
# for three values.

# %% [markdown]
# In this book, two methods differ *significantly* only if their 95 % intervals do not overlap, or if the interval of
# their differences, paired by task or by seed, excludes zero. Otherwise the comparison is inconclusive.
#
# An interval over tasks describes *one trained network*. A claim about a training *method* needs an interval over
# several seeds, which yield different networks (here, all are tested on the same tasks, whose choice this interval
# ignores).


# %%
def significantly_better(a, b):
    return a.mean - a.interval > b.mean + b.interval


trained = ("classifier", "prototypes")
beyond = {
    name: mk.Score.of(results[name].values - results["aligned pixels"].values) for name in trained
}
mk.report.Table([{"network": name, "minus aligned pixels": gain} for name, gain in beyond.items()])

# %% [markdown]
# Both trained networks are significantly better than raw pixels, the untrained network and training from scratch.
# However, aligned pixels, which need no training, are significantly better than this classifier. Only the prototypical
# network exceeds them, by 4 percentage points (paired over tasks).

# %%
assert all(significantly_better(results[a], results[b]) for a in trained for b in order[:3])
assert beyond["classifier"].mean < -beyond["classifier"].interval
assert beyond["prototypes"].mean > beyond["prototypes"].interval
assert round(100 * beyond["prototypes"].mean) == 4

# %% [markdown]
# ## Do we need episodes?
#
# The script trained both methods with three seeds at budgets of about 30,000, 100,000 and 250,000 training examples
# (about 2, 6 and 15 passes over the training set), and evaluated them on 600 test tasks. (*From scratch* has 200 5-way
# and 60 20-way tasks.) The learning rate was selected again at 100,000 examples, but not at 250,000; all other settings
# are those of 30,000.

# %%
SEEDS, BUDGETS, PROBLEMS = range(3), (30_000, 100_000, 250_000), ("5-way", "20-way")


def accuracies(method, images, problem):
    runs = [stored[f"{method}, {images} images, seed {seed}"] for seed in SEEDS]
    return np.array([run[problem][0] for run in runs])


def from_scratch_accuracies(problem):
    return np.array([stored[f"from scratch, {problem}, seed {seed}"][0] for seed in SEEDS])


def aligned_score(problem):
    return mk.Score("accuracy", *stored["aligned"][problem], np.zeros(600))


# %% alt="Test accuracy over the number of training examples, with 5 and 20 ways: prototypes begin above the classifier; later, both nearly meet and exceed aligned pixels"
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
for axis, problem in zip(axes, PROBLEMS, strict=True):
    for method, marker in (("prototypes", "o"), ("classifier", "s")):
        scores = [mk.Score.of(accuracies(method, images, problem)) for images in BUDGETS]
        bars = [score.interval for score in scores]
        axis.errorbar(BUDGETS, [s.mean for s in scores], bars, marker=marker, capsize=3, label=method)
    scratch = from_scratch_accuracies(problem).mean()
    axis.axhline(aligned_score(problem).mean, color="0.2", linestyle=":", label="aligned pixels")
    axis.axhline(scratch, color="0.5", linestyle="--", label="from scratch")
    axis.set(title=f"{problem} 1-shot", xlabel="training examples", xscale="log")
    axis.set_xticks(BUDGETS, [f"{images:,}" for images in BUDGETS])
    axis.minorticks_off()
star = {"marker": "*", "markersize": 15, "markerfacecolor": "none", "color": "black"}
for method in ("prototypes", "classifier"):
    axes[0].plot(IMAGES, results[method].mean, zorder=3, **star)
axes[0].plot([], [], linestyle="none", label="this run", **star)
axes[0].set_ylabel("test accuracy")
axes[0].legend(loc="center right")
plt.show()

# %% [markdown]
# *Means over three seeds (aligned pixels have none), for prototypes and classifier with 95 % intervals. Stars: the two
# networks trained above (seed 0).*
#
# The table compares both networks with aligned pixels, whose interval is over tasks, and with each other, paired by
# seed: both networks have the same initialization and test tasks.


# %%
def against_aligned(method, problem, images):
    a, b = mk.Score.of(accuracies(method, images, problem)), aligned_score(problem)
    if significantly_better(a, b):
        return "better"
    return "worse" if significantly_better(b, a) else "inconclusive"


def prototypes_minus_classifier(problem, images):
    return mk.Score.of(
        accuracies("prototypes", images, problem) - accuracies("classifier", images, problem)
    )


def verdict(difference):
    if abs(difference.mean) <= difference.interval:
        return "inconclusive"
    return "prototypes better" if difference.mean > 0 else "classifier better"


# %%
def row(problem, images):
    columns = {"problem": problem, "training examples": f"{images:,}"}
    for method in trained:
        columns[method] = mk.Score.of(accuracies(method, images, problem))
        columns[f"{method} vs. aligned"] = against_aligned(method, problem, images)
    difference = prototypes_minus_classifier(problem, images)
    return columns | {"prototypes minus classifier": difference, "verdict": verdict(difference)}


def aligned_row(problem):
    return f"aligned pixels, {problem}: {aligned_score(problem)}"


print(*map(aligned_row, PROBLEMS), sep="\n")
mk.report.Table([row(problem, images) for problem in PROBLEMS for images in BUDGETS])

# %% [markdown]
# ### Beyond alignment and blur
#
# After 30,000 training examples, only prototypical networks on 5-way tasks are significantly better than aligned
# pixels. The classifier is significantly worse on 20-way tasks; the other two comparisons are inconclusive, although
# the single 5-way classifier above was significantly worse. From 100,000 examples on, both are significantly better:
# after 250,000, prototypes reach 0.970 instead of 0.872 (5-way) and 0.899 instead of 0.747 (20-way). Training on
# other alphabets can achieve much more than alignment and blur, but not at every budget.

# %% [markdown]
# ### Prototypical networks against the classifier
#
# After 30,000 examples, prototypical networks are better by about 7 percentage points in 5-way and 14 in 20-way tasks,
# which is significant. After more, the comparison is inconclusive, which does not mean that the methods are equal.
# Episodes are only one possible cause of a difference: the methods also differ in the number of updates, batch size,
# learning rate and loss.
#
# All this is limited to one architecture, 1-shot tasks, and one data set, generated with random sizes and distortions;
# aligned pixels were not tested on real handwriting.

# %%
for problem, points in (("5-way", 7), ("20-way", 14)):
    smallest, *larger = (prototypes_minus_classifier(problem, images) for images in BUDGETS)
    assert verdict(smallest) == "prototypes better" and round(100 * smallest.mean) == points
    assert all(verdict(difference) == "inconclusive" for difference in larger)
    for method in trained:
        assert all(against_aligned(method, problem, n) == "better" for n in BUDGETS[1:])
small = [against_aligned(method, problem, IMAGES) for method in trained for problem in PROBLEMS]
assert small == ["inconclusive", "worse", "better", "inconclusive"]
reached = [accuracies("prototypes", BUDGETS[-1], problem).mean() for problem in PROBLEMS]
assert np.allclose(reached, [0.970, 0.899], atol=6e-4)
assert np.allclose([aligned_score(p).mean for p in PROBLEMS], [0.872, 0.747], atol=6e-4)
assert abs(results["aligned pixels"].mean - aligned_score("5-way").mean) < 2e-3

# %% [markdown]
# ## Other test tasks
#
# The Omniglot challenge (Lake et al., 2019) uses tasks whose classes all come from *one* alphabet, as in the opening
# figure.

# %%
hard = [f"{problem} within an alphabet" for problem in PROBLEMS]
print(*map(aligned_row, hard), sep="\n")
mk.report.Table([row(problem, images) for problem in hard for images in BUDGETS])

# %% [markdown]
# Here, after 30,000 examples, the classifier is significantly worse than aligned pixels also on 5-way tasks.
# Prototypes also exceed the classifier after 250,000 examples, by 0.6 to 2.0 percentage points (5-way) and 0.8 to 4.9
# (20-way). However, neither method was tuned at this budget, and among twelve comparisons some intervals may exclude
# zero by chance.

# %%
assert all(against_aligned("classifier", problem, IMAGES) == "worse" for problem in hard)
differences = [prototypes_minus_classifier(problem, n) for problem in hard for n in BUDGETS]
expected = ["prototypes better", "inconclusive", "prototypes better"] * 2
assert [verdict(difference) for difference in differences] == expected
bounds = [(d.mean - d.interval, d.mean + d.interval) for d in differences[2::3]]
assert np.allclose(bounds, [(0.006, 0.020), (0.008, 0.049)], atol=6e-4)

# %% [markdown]
# The opening figure shows, of ten tasks, each within one alphabet, the one whose accuracy is closest to the average
# of the prototypical network above:

# %% picture="first_success" jupyter={"outputs_hidden": true}
options = {"ways": 5, "shots": 1, "meta_batch": 20, "queries": 5, "seed": 2}
within = mk.evaluate(learner, mk.FewShot(test, within="alphabet", **options))
candidates = []
tasks = mk.FewShot(test, ways=5, shots=1, queries=8, meta_batch=1, seed=0, within="alphabet")
for episode in tasks.take(10):
    logits = learner((episode.support_x, episode.support_y, episode.query_x), training=False)[0].numpy()
    correct = np.sum(logits.argmax(axis=-1) == episode.query_y[0])
    distance = abs(correct / 40 - within.mean)
    candidates.append((distance, correct, episode, logits))
_, correct, episode, logits = min(candidates, key=lambda candidate: candidate[0])
print(f"{correct} of 40 queries are classified correctly")
figure = mk.report.show_episode(episode, queries=8, scores=logits)
plt.show()

# %% [markdown]
# ## What the network has learned
#
# The figure shows embeddings of eight Greek test characters, 20 images each, projected onto the two directions of
# largest variance (principal components).


# %% alt="Three scatter plots of embeddings of Greek letters: mixed for the untrained network, in groups for the classifier and for prototypes"
def principal_components(network, examples):
    embedded = network.predict(examples / np.float32(255), verbose=0)
    embedded -= embedded.mean(axis=0)
    return embedded @ np.linalg.svd(embedded, full_matrices=False)[2][:2].T


greek = test.select(np.flatnonzero(np.array(test.groupings["alphabet"]) == "Greek and Coptic")[:8])
networks = {"untrained": networks["untrained"], "classifier": backbone, "prototypes": learner.network}
figure, axes = plt.subplots(1, 3, figsize=(8, 3.1))
for axis, (name, network) in zip(axes, networks.items(), strict=True):
    projected = principal_components(network, greek.examples)
    axis.scatter(*projected.T, s=0)
    for point, label in zip(projected, greek.labels, strict=True):
        axis.text(
            *point, greek.names[label], color=mk.report.PALETTE[label % 4], ha="center", va="center"
        )
    axis.set_aspect("equal", adjustable="datalim")
    axis.set(title=name, xlabel="component 1", xticks=[], yticks=[])
axes[0].set_ylabel("component 2")
plt.show()

# %% [markdown]
# *Each symbol is one image, written as its character.* After either kind of training, images of the same unseen
# character tend to form groups, some of which overlap in this projection. The untrained network mixes most of them.

# %% [markdown]
# ## The landscape of meta-learning
#
# A common taxonomy, reviewed by Hospedales et al. (2020), has three families:
#
# | family | adaptation to a task | examples | chapters |
# |---|---|---|---|
# | **metric-based** | compare queries with the support set in an embedding space | matching networks, prototypical networks | 01 |
# | **model-based** | a network reads the support set and outputs predictions, weights, or coefficients that mix weights | memory-augmented networks, hypernetworks | 08, 13 |
# | **optimization-based** | a few gradient steps with learned initialization, learning rates or update rule | MAML, Meta-SGD, Reptile, learned optimizers | 09-12 |

# %% [markdown]
# Two neighboring fields do not optimize performance after adaptation (Formula 1.4). **Transfer learning** (迁移学习)
# reuses a model trained on one task for another (chapters 03, 05, 06). **Unsupervised
# learning** (无监督学习; chapter 07) finds structure without labels.

# %% [markdown]
# ## Sources and terms
#
# The book follows five Chinese articles ([sections and chapters](README.md#from-the-documents-to-the-chapters)). Only
# D4 has a title; the others are named after their subject:
#
# - D1: 元学习与人工智能的融合 (the fusion of meta-learning and artificial intelligence)
# - D2: 元学习的核心概念、算法原理 (core concepts and algorithms of meta-learning)
# - D3: AI元学习的最新进展 (recent progress in meta-learning)
# - D4: 一切皆是映射：跟踪AI元学习（Meta-learning）的最新进展 (everything is a mapping: tracking recent progress in meta-learning)
# - D5: 迁移学习和元学习 (transfer learning and meta-learning)
#
# > **In the articles.** D2 writes $g(x) = \psi(x; \omega)$ and $h(x) = \rho(x; \xi)$; this chapter adds the support
# > set and the seed. D1's *meta-network* (元网络) is model-based and its *meta-optimization* (元优化) optimization-based;
# > D1 also counts transfer learning as meta-learning. D4's families are model adaptation (distillation, splitting),
# > transfer, and unsupervised algorithms; its "frameworks" are general tools.

# %% [markdown]
# ## Summary
#
# - A meta-learner, a network with an adaptation rule, adapts to the support set of a task. Meta-training minimizes the
#   loss on the query sets after adaptation.
# - Prototypical networks classify by the nearest class mean in an embedding space, and learn only the embedding.
# - After 30,000 training examples, only prototypical networks on 5-way tasks were significantly better than alignment and blur.
#   From 100,000 examples on, both networks were.
# - Prototypical networks were better than an ordinary classifier after 30,000 examples. After 100,000 or more, the
#   comparison on ordinary test tasks is inconclusive. Within an alphabet, prototypes were also better after 250,000,
#   where neither method was tuned.
# - Comparisons need strong baselines, equal budgets, settings selected on validation tasks, and intervals.

# %% [markdown]
# ## Exercises
#
# Check exercises 1 to 3 ([solutions](../tests/solutions.py)) with calls such as `check_tasks_needed(my_function)`.
#
# **1. How many tasks?** (Warm-up.) Given the accuracies `values` of a pilot evaluation, write
# `tasks_needed(values, half_width)`, the smallest number of tasks for which $1.96\, s / \sqrt{n}$ is at most
# `half_width`.


# %%
def check_tasks_needed(tasks_needed):
    values = [0.5, 0.7, 0.9, 0.7]  # s = 0.1633
    assert tasks_needed(values, 0.02) == 257, "s has n - 1 in its denominator; round up"
    assert tasks_needed(values, 0.01) == 1025, "half the width needs about four times as many tasks"
    print("Correct.")


# %% [markdown]
# **2. Cosine similarity.** Matching networks (Vinyals et al., 2016) compare embeddings by the cosine of the angle
# between them. Write `cosine(embedded, prototypes)` for embeddings of shape (queries, d) and prototypes of shape (ways,
# d).


# %%
def check_cosine(cosine):
    embedded, prototypes = np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[5.0, 0.0], [0.0, 0.1]])
    expected = [[1.0, 0.0], [np.sqrt(0.5), np.sqrt(0.5)]]
    assert np.allclose(cosine(embedded, prototypes), expected), "a cosine does not depend on lengths"
    print("Correct.")


# %% [markdown]
# **3. Prototypes are a linear classifier.** Expand the square in Formula 1.6 and drop the term that is the same for all
# classes. Write `linear_head(prototypes)` that returns a matrix $W$ of shape (d, ways) and a vector $b$, so that
# $\operatorname{softmax}(xW + b)$ equals the softmax of the negative squared distances.


# %%
def check_linear_head(linear_head):
    rng = np.random.default_rng(0)
    prototypes, x = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    weights, bias = linear_head(prototypes)
    difference = x @ weights + bias + ((x[:, None] - prototypes) ** 2).sum(axis=-1)
    assert np.allclose(difference, difference[:, :1]), "only a constant per query may differ"
    print("Correct.")


# %% [markdown]
# **4. Project: more shots.** Do the conclusions also hold for 5-way 5-shot tasks, or for networks that are trained on
# aligned images? Rubric, one point each: (a) aligned pixels, classifier and prototypes are compared at equal budgets,
# with settings selected on validation tasks; (b) the test tasks are used only once; (c) at least three seeds; (d) a
# figure with intervals; (e) every claim follows from an interval.

# %% [markdown]
# ## References
#
# - W.-Y. Chen et al., [A Closer Look at Few-shot Classification](https://arxiv.org/abs/1904.04232), ICLR 2019.
# - T. Hospedales et al., [Meta-Learning in Neural Networks: A Survey](https://arxiv.org/abs/2004.05439), 2020.
# - B. Lake, R. Salakhutdinov, J. Tenenbaum, [Human-level concept learning through probabilistic program
#   induction](https://doi.org/10.1126/science.aab3050), Science 2015.
# - B. Lake, R. Salakhutdinov, J. Tenenbaum, [The Omniglot challenge](https://arxiv.org/abs/1902.03477), 2019.
# - J. Snell, K. Swersky, R. Zemel, [Prototypical Networks for Few-shot Learning](https://arxiv.org/abs/1703.05175),
#   NeurIPS 2017.
# - Y. Tian et al., [Rethinking Few-Shot Image Classification: A Good Embedding Is All You
#   Need?](https://arxiv.org/abs/2003.11539), ECCV 2020.
# - O. Vinyals et al., [Matching Networks for One Shot Learning](https://arxiv.org/abs/1606.04080), NeurIPS 2016.
# - Y. Wang et al., [SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot
#   Learning](https://arxiv.org/abs/1911.04623), 2019.
#
# Next: [Classical learning](02_classical_learning.ipynb), on training a network for a single task.
