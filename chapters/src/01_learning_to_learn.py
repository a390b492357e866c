# %% [markdown]
# # Learning to learn
#
# **What you will be able to do.** Say what a task is and what a learning problem is. Draw few-shot tasks from a pool
# of classes. Name the three functions of meta-learning and point to each of them in code. Train a network to learn
# a new letter from one drawing, and measure how well it does, with an interval.
#
# **What you need.** Python, a little numpy, and some idea of what a neural network is. Chapter 02 goes over training
# itself.
#
# **Time.** About 25 minutes to read; about one minute to run on two cores.
#
# **From the documents.** D1 1, 2, 2.1, 2.2; D2 1, 2, 3.2, 3.2.1, 3.2.2, 3.2.3; D3 1, 2; D4 1, 1.1, 1.2, 1.3, 2, 2.1,
# 2.2, 2.3, 2.4, 2.5. The [guide](README.md#from-the-documents-to-the-chapters) has the whole table.
#
# ![Where this chapter ends: five letters of an unseen alphabet, learned from one drawing each](first_success.png)
#
# *Where this chapter ends. On the left stands one drawing of each of five new letters, on the right how other drawings
# were recognised by it: a solid frame is right, a dashed one wrong.*

# %%
import meta_keras as mk  # first, so that TensorFlow starts quietly

import inspect

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code

mk.report.style()
keras.utils.set_random_seed(1)

# %% [markdown]
# ## One drawing is enough
#
# Below, on the left, are five letters that you have probably never seen. Each was drawn once. To the right of each,
# other hands have drawn the same letter. Look at the left column for a moment, then at any drawing on the right: you
# can say which letter it is, most of the time.
#
# You did not learn these letters from thousands of examples. You have learned *how letters are*: that strokes matter
# and their thickness does not, that a letter may lean, that a loop is not a line. This older knowledge let you learn
# five new classes from five drawings. **Meta-learning** (元学习, learning to learn) means to give a machine such
# older knowledge.

# %%
letters = mk.load("glyphs")
unseen = letters.split("test")
one_look = mk.FewShot(unseen, ways=5, shots=1, queries=5, meta_batch=1, seed=11, within="alphabet")
episode = next(iter(one_look))
figure = mk.report.show_episode(episode, queries=5)

# %% [markdown]
# The letters are synthetic. They come from fonts of 26 alphabets, thinned to a line and redrawn by 20 made-up writers
# each. In the style of the Omniglot data set, every character is a class with few examples.
#
# The alphabets are dealt out once and for all: 16 to train on, 4 to choose settings by, 6 to test on. Some of the 16
# are sets of signs; we call every character a letter. A letter of a test alphabet is never seen in training. We assert
# it, because everything in this chapter depends on it.

# %%
practice = letters.split("train")
print("practice:", practice)
print("unseen:  ", unseen)
assert not set(practice.groupings["alphabet"]) & set(unseen.groupings["alphabet"])
assert not set(practice.names) & set(unseen.names)

# %% [markdown]
# ## Ordinary learning, and where it stops
#
# Ordinary machine learning goes through four steps for every task:
#
# 1. **Collect and prepare data** (数据收集与预处理), a great deal of it.
# 2. **Design a model** (模型设计): input, hidden and output layers.
# 3. **Train** it (模型训练): change its weights until the loss is small.
# 4. **Evaluate** it (模型评估) on data that it has not seen, and go back.
#
# Then a new task comes, and all four start again from nothing. What the model knew is lost. Meta-learning keeps it,
# by adding a second, slower round of learning around the first.

# %%
boxes = {
    "task": (0.1, 0.25, "a task:\nfive drawings"),
    "learn": (0.42, 0.25, "learn it\n(fast, many times)"),
    "answer": (0.76, 0.25, "answer:\nwhich letter?"),
    "better": (0.42, 0.85, "get better at learning (slow, over many tasks)"),
}
arrows = [
    ("task", "learn", ""),
    ("learn", "answer", ""),
    ("answer", "better", ""),
    ("better", "learn", ""),
]
figure = mk.report.diagram(boxes, arrows, marked=["better"], size=(7, 2.2))

# %% [markdown]
# The inner round, in the lower row, is a few steps on a few examples. The outer round makes the inner one better. D4
# names three things that the two do: the model is adapted to each task (任务适应), what it learned on one task is carried
# to the next (知识转移), and by repetition it gets better at both (模型优化).
#
# Three things are hoped for, and they are the motives that the field names for itself:
#
# - **learning efficiency** (学习效率): a new task needs little data and little time;
# - **generalisation** (泛化能力): what holds for many tasks will hold for the next;
# - **adaptability** (适应性): when the world changes, the model follows.
#
# With them comes a fourth: new tasks can be *explored* that nobody would have collected a data set for.

# %% [markdown]
# ## Task and problem
#
# Two words must be kept apart.
#
# - A **task** (任务, in D4 元学习任务) is one thing to be learned: *tell these five letters apart*. It has its own small data.
# - A **meta-learning problem** (元学习问题) is a whole family of tasks, and the question how to learn any one of them.
#
# The data of one task has two parts. The **support set** (支持集) is what there is to learn from. The **query set** (查询集)
# is what must then be answered. Both together are an **episode** (情节, also 回合). "5-way 1-shot" says: five classes, one
# support example of each.
#
# In the library a problem is a dataset that never ends, and its elements are episodes.

# %%
problem = mk.FewShot(practice, ways=5, shots=1, queries=3, meta_batch=2, seed=0)
for name, tensor in next(iter(problem))._asdict().items():
    print(f"{name:<10}{tuple(tensor.shape)}")

# %% [markdown]
# The first axis counts tasks, here two in a batch; the second counts examples. Labels say *which of the five*, and
# nothing more: they are dealt anew in every task. So no network can learn by heart that a certain letter is a 3.
# What it can learn is to look back at the support set.

# %%
first = next(iter(problem))
for task in range(2):
    figure = mk.report.show_episode(first, task=task, queries=3, title=f"task {task + 1}")

# %% [markdown]
# An episode is only worth something if it is honest. Four things must hold, and each is asserted below: the classes of
# a task are distinct, each class has the same number of examples, support and query share no drawing, and the same
# seed gives the same episodes, so that a result can be repeated.

# %%
again = next(iter(mk.FewShot(practice, ways=5, shots=1, queries=3, meta_batch=2, seed=0)))
assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
for support_y, query_y in zip(first.support_y, first.query_y, strict=True):
    assert sorted(support_y.numpy()) == [0, 1, 2, 3, 4]
    assert list(np.bincount(query_y)) == [3, 3, 3, 3, 3]
drawings = [{x.numpy().tobytes() for x in part[0]} for part in (first.support_x, first.query_x)]
assert not drawings[0] & drawings[1]

# %% [markdown]
# ## Three functions
#
# Document D2 describes meta-learning by three functions. They are the plan of this whole book, and of the library.
#
# **Meta-knowledge** (元知识) is what has been learned from all tasks so far. It is a network with weights $\theta$:
#
# $$f(x) = \varphi(x; \theta) \qquad \text{(Formula 1.1)}$$
#
# **Meta-policy** (元策略) is how that knowledge is turned to one task. It takes the task's support set $S$ and gives
# a predictor for that task. What it has learned about adapting is $\omega$:
#
# $$g_S(x) = \psi(x, S; \omega) \qquad \text{(Formula 1.2)}$$
#
# **Meta-task** (元任务) is where tasks come from. With parameters $\xi$ (which pool, how many ways and shots) and a
# source of chance $z$, it draws a task, that is, a support set and a query set:
#
# $$h(z) = \rho(z; \xi) = (S, Q) \qquad \text{(Formula 1.3)}$$

# %% [markdown]
# D2 writes all three as functions of one and the same $x$. That cannot be meant literally, and the
# [errata](README.md#errata) say why: a policy that saw only $x$ could not depend on the task, and a distribution of
# tasks has no $x$ at all. Here is where each function lives in the library:

# %%
boxes = {
    "h": (0.13, 0.75, "h   meta-task\nmk.FewShot"),
    "f": (0.13, 0.2, "f   meta-knowledge\nmk.networks"),
    "g": (0.5, 0.48, "g   meta-policy\nmk.rules"),
    "y": (0.85, 0.48, "answers to\nthe queries"),
}
arrows = [("h", "g", "support set"), ("f", "g", "weights θ"), ("g", "y", "")]
figure = mk.report.diagram(boxes, arrows, marked=["g"], size=(7, 2.4))

# %% [markdown]
# ## Learning as optimisation
#
# **Learning to learn is an optimisation problem** like any other (D3 makes this its core idea). Ordinary training asks
# for weights with a small loss on one data set; a **loss** $L$ is a number that is small when an answer is good. Here
# we ask for weights with a small loss *after adapting*, on the queries, in the mean over tasks. The policy works with
# the network $\varphi(\,\cdot\,; \theta)$, so $\theta$ stands in it too:
#
# $$\theta^*, \omega^* = \arg\min_{\theta, \omega} \; \mathbb{E}_{z} \; \frac{1}{|Q|} \sum_{(x, y) \in Q}
# L\big(y, \psi(x, S; \theta, \omega)\big) \quad \text{with } (S, Q) = \rho(z; \xi) \qquad \text{(Formula 1.4)}$$
#
# Support and query must not share examples, or the shortest way to a small loss would be to learn the support set by
# heart.

# %% [markdown]
# ## The simplest policy: prototypes
#
# How can a policy learn a letter from one drawing? By putting it on a map. Let the network give every drawing a place,
# and let it put drawings of one letter close together. Then a class is a place as well: the mean of its support
# examples, called its **prototype** (原型). A new drawing belongs to the nearest prototype.

# %%
rng = np.random.default_rng(3)
centres = np.array([[0.0, 0.0], [3.0, 0.5], [1.2, 2.6]])
places = centres[:, None] + 0.45 * rng.normal(size=(3, 4, 2))
query = np.array([1.9, 1.0])
for k, members in enumerate(places):
    prototype = members.mean(axis=0)
    plt.scatter(*members.T, marker="o^s"[k], label=f"support of class {k}")
    plt.scatter(*prototype, marker="o^s"[k], s=180, facecolors="none", edgecolors="black")
    plt.plot(*np.transpose([prototype, query]), color="0.6", linestyle="-", zorder=0)
plt.scatter(*query, marker="*", s=160, color="black", label="query")
plt.title("Large open marks are prototypes; the query goes to the nearest")
plt.legend()
plt.show()

# %% [markdown]
# In symbols, with $S_k$ for the support examples of class $k$:
#
# $$c_k = \frac{1}{|S_k|} \sum_{x \in S_k} \varphi(x; \theta) \qquad \text{(Formula 1.5)}$$
#
# $$\psi_k(x, S) = -\,\lVert \varphi(x; \theta) - c_k \rVert^2 \qquad \text{(Formula 1.6)}$$
#
# The scores $\psi_k$ are the higher the nearer. A *softmax* (exponentials, divided by their sum; see chapter 02) turns
# them into probabilities, and the loss is minus the logarithm of the right one's. This policy has nothing of its own to
# learn: $\omega$ is empty. All that is learned is the map. Let us work one example by hand: places 1 and 3
# have the mean 2, and a query at 4 has the squared distance 4 from it; the other prototype, 7, is at 9.


# %%
def scores(places, labels, query):
    prototypes = np.array([places[labels == k].mean() for k in range(labels.max() + 1)])
    return -((query - prototypes) ** 2)


by_hand = scores(np.array([1.0, 3.0, 7.0]), np.array([0, 0, 1]), 4.0)
print(by_hand)
assert list(by_hand) == [-4.0, -9.0]

# %% [markdown]
# The library's rule is the same two formulas, for a whole network and any number of queries. This is its source. The
# network comes as a function of weights and inputs, so that a rule can never change it by accident.

# %%
Code(inspect.getsource(mk.rules.Prototypes), language="python")

# %% [markdown]
# With a network that changes nothing, the rule must give the numbers that we found by hand:

# %%
unchanged = keras.Sequential([keras.Input((1,)), keras.layers.Identity()])
rule = mk.MetaLearner(network=unchanged, rule=mk.rules.Prototypes())
support_x, support_y = tf.constant([[[1.0], [3.0], [7.0]]]), tf.constant([[0, 0, 1]])
answer = rule((support_x, support_y, tf.constant([[[4.0]]])))
assert np.allclose(answer, [[by_hand]])

# %% [markdown]
# ## What there is to beat
#
# A result means little alone. Three simple learners show what the problem gives away. Chance needs no code; the other
# two are functions of a support set and queries, which is all that `mk.evaluate` asks for:
#
# - **chance**: one in five;
# - **pixels**: the nearest drawing, compared pixel by pixel. It learns nothing at all;
# - **from scratch**: a small network, trained anew on the five drawings of each task. That is ordinary learning.

# %%
exam = mk.FewShot(unseen, ways=5, shots=1, queries=5, seed=2)


def pixels(support_x, support_y, query_x):
    apart = tf.reduce_sum((query_x[:, None] - support_x[None]) ** 2, axis=(2, 3, 4))
    return -tf.gather(apart, tf.argsort(support_y), axis=1)  # columns in the order of the labels


by_pixels = mk.evaluate(pixels, exam, episodes=300)
print("pixels:", by_pixels)

# %% [markdown]
# And a network that starts from nothing in each task, trained for 30 steps:

# %%
small = mk.networks.mlp(5, input_shape=(28, 28, 1), hidden=(64,))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
small.compile(keras.optimizers.SGD(0.1), loss)
untrained = small.get_weights()


def from_scratch(support_x, support_y, query_x, steps=30):
    small.set_weights(untrained)
    for _ in range(steps):
        small.train_on_batch(support_x, support_y)
    return small(query_x)


scratch = mk.evaluate(from_scratch, exam, episodes=60)
print("from scratch:", scratch)

# %% [markdown]
# Both beat chance, and both are wrong more often than right. Five drawings are too few to find out what letters are
# like.

# %% [markdown]
# ## Learning to learn letters
#
# Now the older knowledge. The network has four blocks of convolutions (small filters that slide over the picture) and
# no output layer: what comes out is a place on the map. Training draws a task of practice letters, adapts to its
# support set, answers its queries, and improves the weights by what went wrong there. It is Formula 1.4, one task after
# another, with `fit` as in all of Keras.
#
# We practise on tasks that are harder than the exam: 20 letters at a time, not five. Tasks never end, so an "epoch" is
# just 25 of them, after which a line may be printed. The learning rate falls smoothly to zero; chapter 02 says why.

# %%
STEPS = 250
tasks = mk.FewShot(practice, ways=20, shots=1, queries=5, meta_batch=1, seed=0)
learner = mk.MetaLearner(network=mk.networks.conv4(filters=32), rule=mk.rules.Prototypes())
untrained_network = keras.models.clone_model(learner.network)
untrained_network.set_weights(learner.network.get_weights())
before = mk.evaluate(learner, exam, episodes=300)
rate = keras.optimizers.schedules.CosineDecay(0.002, STEPS)
learner.compile(optimizer=keras.optimizers.Adam(rate))
lines = mk.report.Lines(every=2)
history = learner.fit(tasks, steps_per_epoch=STEPS // 10, epochs=10, verbose=0, callbacks=[lines])

# %% [markdown]
# How practice went:

# %%
axes = mk.report.learning_curves(
    {"practice": history.history["accuracy"]},
    ylabel="accuracy, 20 letters",
    level=("chance", 1 / 20),
)

# %% [markdown]
# The curve tells how practice went, on letters of the training alphabets. It does not tell whether anything was
# *learned about learning*. That takes the exam: alphabets that were never seen, five letters
# (they may come from different alphabets), one drawing of each.

# %%
after = mk.evaluate(learner, exam, episodes=600)
chance = mk.Score("accuracy", 0.2, 0.0, np.full(600, 0.2))
results = {
    "chance": chance,
    "pixels": by_pixels,
    "from scratch": scratch,
    "untrained map": before,
    "learned map": after,
}
rows = [{"learner": name, "accuracy": s, "tasks": len(s.values)} for name, s in results.items()]
mk.report.Table(rows)

# %% [markdown]
# The same as a picture:

# %%
names = list(results)
means, intervals = [s.mean for s in results.values()], [s.interval for s in results.values()]
plt.barh(names, means, xerr=intervals, color=["0.8"] * 4 + [mk.report.PALETTE[2]], height=0.6)
plt.gca().invert_yaxis()
plt.axvline(0.2, color="0.4", linewidth=1, linestyle=":")
plt.xlabel("accuracy on unseen alphabets, 5-way 1-shot (error bars: 95 % interval)")
plt.show()

# %% [markdown]
# The untrained map does a little better than pixels: convolutions and pooling forgive small shifts by themselves. The
# rest is what practice gave. It is the claim of this chapter, so it is asserted:

# %%
print("learned map:", after)
assert after.mean - after.interval > 2 * (by_pixels.mean + by_pixels.interval)
assert after.mean - after.interval > scratch.mean + scratch.interval
assert after.mean - after.interval > before.mean + before.interval

# %% [markdown]
# One drawing is often enough now for the machine too. Here is a task like those of the exam, this time with all five
# letters from one alphabet. A solid frame is a right answer; a dashed one is wrong, with the class that the letter was
# taken for.

# %% picture="first_success"
one_alphabet = mk.FewShot(unseen, ways=5, queries=8, meta_batch=1, seed=12, within="alphabet")
episode = next(iter(one_alphabet))
answers = learner((episode.support_x, episode.support_y, episode.query_x), training=False)
figure = mk.report.show_episode(episode, queries=8, scores=answers[0])
right = int(np.sum(np.argmax(answers[0], axis=-1) == episode.query_y[0]))
print(f"{right} of 40 are right here; in the mean over the exam it is {40 * after.mean:.0f} of 40")

# %% [markdown]
# ## What has been learned
#
# No letter of this exam was ever learned, so what was? The map. Below are eight letters of an unseen alphabet, 20
# drawings each, placed by the network before and after training (the two directions in which they spread most). Before,
# the letters lie mixed. After, most letters gather in a place of their own, although the network never saw one of them.
# Some still overlap: the map has 32 directions, which do not all fit on a flat page, and it is not perfect.


# %%
def flatten_map(network, examples):
    """The network's places, turned so that the first two axes show the most (principal components)."""
    places = network.predict(examples / np.float32(255), verbose=0)
    places -= places.mean(axis=0)
    return places @ np.linalg.svd(places, full_matrices=False)[2][:2].T


greek = np.array(unseen.groupings["alphabet"]) == "Greek and Coptic"
few = unseen.select(np.flatnonzero(greek)[:8])
maps = {"before": untrained_network, "after": learner.network}

# %% [markdown]
# Each drawing stands where the network puts it, written as its letter; two letters share a colour.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
for axis, (when, network) in zip(axes, maps.items(), strict=True):
    spots = flatten_map(network, few.examples)
    axis.set(title=when, xticks=[], yticks=[])
    axis.scatter(*spots.T, s=0)
    for spot, label in zip(spots, few.labels, strict=True):
        axis.text(*spot, few.names[label], color=mk.report.PALETTE[label % 4], ha="center", va="center")

# %% [markdown]
# ## How sure are we?
#
# An accuracy is a mean over tasks, and other tasks would have given another mean. So each accuracy in this book comes
# with a **95 % confidence interval** (95 % 置信区间). For $n$ tasks with standard deviation $s$ it reaches this far to both
# sides:
#
# $$t_{n-1} \cdot \frac{s}{\sqrt{n}} \qquad \text{(Formula 1.7)}$$
#
# $t_{n-1}$ is 1.96 for many tasks and larger for few (Student's distribution). Four times the tasks halve the interval.

# %%
counts = np.unique(np.geomspace(5, 600, 30).astype(int))
halves = [mk.report.mean_and_interval(after.values[:n])[1] for n in counts]
plt.loglog(counts, halves, marker="o", markersize=3)
plt.loglog(counts, after.values.std() * 1.96 / np.sqrt(counts), color="0.6", linestyle="--")
plt.xlabel("tasks")
plt.ylabel("half width of the interval")
plt.title("Dots: from the first n tasks. Dashes: 1.96 s / √n")
plt.show()

# %% [markdown]
# This book calls two learners different only where their intervals do not overlap. That is a strict rule: overlap does
# not prove that they are equal. And an interval covers the chance of *which tasks were
# drawn*, no more. A different seed in training would give a different network; later chapters repeat the training too,
# where a claim rests on it.

# %% [markdown]
# ## A map of the field
#
# Prototypes are one way of many. The documents sort them by what is learned and kept. The picture is D4's: three kinds
# of algorithms, and the frameworks that carry them. The first three rows of the table after it are D1's families. The
# names are only signposts here; the chapters explain them, and those above 02 are still to come.

# %%
boxes = {
    "task": (0.5, 0.92, "meta-learning task"),
    "adapt": (0.16, 0.6, "adapting the model\ndistillation, splitting, MAML"),
    "transfer": (0.5, 0.6, "transfer\nfine-tuning, zero-shot, domains"),
    "unsupervised": (0.85, 0.6, "without labels\nself-supervision, GAN, VAE"),
    "model": (0.5, 0.28, "model framework: the network"),
    "optimise": (0.27, 0.02, "optimisation framework\nAdam, Adagrad"),
    "learn": (0.73, 0.02, "learning framework\nTensorFlow, Keras, PyTorch"),
}
arrows = [("task", kind, "") for kind in ("adapt", "transfer", "unsupervised")]
arrows += [(kind, "model", "") for kind in ("adapt", "transfer", "unsupervised")]
arrows += [("model", "optimise", ""), ("model", "learn", "")]
figure = mk.report.diagram(boxes, arrows, size=(7.4, 3.6))

# %% [markdown]
# | family | what is learned | chapters |
# |---|---|---|
# | **transfer learning** (迁移学习) | weights or features on one task, used on another | 03, 05, 06, 13 |
# | **meta-networks** (元网络) | a network that sets another network's weights | 08 |
# | **meta-optimization** (元优化) | how to optimise: rates, update rules | 09, 11 |
# | **model-agnostic meta-learning**, MAML | a start from which a few steps suffice | 10, 12 |
# | **distance** (this chapter) | a map on which classes are places | 14 |
# | **without labels** (无监督) | what data is like, before any task | 07 |
#
# D1 calls the use of all this inside artificial intelligence the **fusion** (融合) of the two: the model keeps its shape,
# and gains the skill to adapt. All rows share the three functions above. Most of them differ in the policy $g$, and so
# in the library in the rule. Transfer, and learning without labels, differ in where $\theta$ comes from.

# %% [markdown]
# ## Summary
#
# - A **task** is one thing to learn; a **problem** is a family of tasks. An **episode** holds a support set to learn
#   from and a query set to answer.
# - Three functions make a meta-learner: knowledge $f$, policy $g$, and the source of tasks $h$.
# - Learning to learn minimises the loss on the queries *after* adapting, in the mean over tasks.
# - Prototypes adapt by taking a mean. All their skill is in the map that the network draws.
# - A result is a mean, an interval, and the baselines beside it: chance, no learning, ordinary learning.

# %% [markdown]
# ## Exercises
#
# Each has a check. Run its cell, then call the check with your answer, for example `check_chance(lambda ways: ...)`.

# %% [markdown]
# **1. Chance.** Write `chance(ways)`, the accuracy of guessing.


# %%
def check_chance(chance):
    for ways in (2, 5, 20):
        assert np.isclose(chance(ways), 1 / ways), f"of {ways} guesses one is right"
    print("Right.")


# %% [markdown]
# **2. Other distances.** Write `scores(places, prototypes)` for places of shape (queries, d) and prototypes of shape
# (ways, d), with the *cosine* of the angle as the score. Matching networks use it.


# %%
def check_cosine(scores):
    places, prototypes = np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[5.0, 0.0], [0.0, 0.1]])
    expected = [[1.0, 0.0], [np.sqrt(0.5), np.sqrt(0.5)]]
    assert np.allclose(scores(places, prototypes), expected), "a cosine does not know lengths"
    print("Right.")


# %% [markdown]
# **3. More shots.** Write `tasks(pool)` that gives 5-way 5-shot episodes with 10 queries of each class, all letters of
# a task from one alphabet. (How much better is the learned map with five drawings? Evaluate it.)


# %%
def check_shots(tasks):
    made = tasks(mk.load("glyphs").split("validation"))
    episode = next(iter(made))
    assert episode.support_y.shape[1] == 25, "5 ways with 5 shots are 25 support examples"
    assert episode.query_y.shape[1] == 50, "5 ways with 10 queries are 50 query examples"
    assert made.within == "alphabet", "say within='alphabet'"
    print("Right.")


# %% [markdown]
# **4. A dishonest exam.** A colleague reports 100 %. Her queries are the support drawings themselves. Write
# `shared(episode)` that counts, for the first task of an episode, the queries that also stand in the support set.


# %%
def check_shared(shared):
    honest = next(iter(mk.FewShot(mk.load("glyphs"), ways=5, shots=2, queries=2, seed=1)))
    assert shared(honest) == 0, "this episode is honest"
    cheat = honest._replace(query_x=honest.support_x, query_y=honest.support_y)
    assert shared(cheat) == 10, "here all 10 queries are support drawings"
    print("Right.")


# %% [markdown]
# ## References
#
# - J. Snell, K. Swersky, R. Zemel, [Prototypical Networks for Few-shot Learning](https://arxiv.org/abs/1703.05175), 2017.
# - O. Vinyals and others, [Matching Networks for One Shot Learning](https://arxiv.org/abs/1606.04080), 2016.
# - B. Lake, R. Salakhutdinov, J. Tenenbaum, [The Omniglot challenge](https://arxiv.org/abs/1902.03477), 2019.
# - T. Hospedales and others, [Meta-Learning in Neural Networks: A Survey](https://arxiv.org/abs/2004.05439), 2020.
#
# Next: [Classical learning](02_classical_learning.ipynb), where one task has all the data it could wish for.
