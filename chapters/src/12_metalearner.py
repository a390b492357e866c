# %% [markdown]
# # MetaLearner: the project with its missing loop
#
# **What you will be able to do.** Read D3's class `MetaLearner` and say which of its parts work in Keras 3. Fill in the
# training loop that D3 leaves empty, comment by comment. Train the same learner with `fit`, stop it, and go on. Measure
# it on alphabets that it has never seen, and hand the result on as a plain Keras model.
#
# **What you need.** Chapter 01 for tasks and episodes, chapter 02 for gradient descent. Chapter 10 has the mathematics
# of what is done here; you can read it before or after.
#
# **Time.** About 25 minutes to read; about two minutes to run on two cores.
#
# **From the documents.** D3 5. The [guide](README.md#from-the-documents-to-the-chapters) has the whole table.
#
# ![Five letters of an unseen alphabet, each drawn once, and how the adapted expert answers](adapted_expert.png)
#
# *Where this chapter ends. A network has taken three steps on the five drawings on the left. On the right are its
# answers to other drawings: a solid frame is right, a dashed one wrong.*

# %%
import meta_keras as mk  # first, so that TensorFlow starts quietly

import inspect
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import Code
from keras import layers

mk.report.style()
keras.utils.set_random_seed(1)

# %% [markdown]
# ## The project as it stands
#
# Section 5 of document D3 is a project. It has a Keras class and, after it, a training loop. Here is the class, in our
# layout and in D3's words. The network has two convolutions with pooling, a dense layer of 128 units, and a softmax.


# %%
class Printed(keras.Model):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = layers.Conv2D(32, 3, padding="same", activation="relu")
        self.conv2 = layers.Conv2D(64, 3, padding="same", activation="relu")
        self.pool = layers.MaxPooling2D()
        self.flatten = layers.Flatten()
        self.dense1 = layers.Dense(128, activation="relu")
        self.dense2 = layers.Dense(num_classes, activation="softmax")
        self.optimizer = keras.optimizers.Adam(0.001)

    def call(self, inputs, task_indices):
        x = self.pool(self.conv1(inputs))
        x = self.pool(self.conv2(x))
        x = self.dense1(self.flatten(x))
        return self.dense2(tf.gather(x, task_indices))


# %% [markdown]
# The loop has four comments, and under each of them three dots:
#
# 1. generate the **task data** (生成任务数据);
# 2. train the **task model** (训练任务模型);
# 3. compute the task model's **prediction error** (计算任务模型的预测误差);
# 4. optimise by that error (根据预测误差进行优化).

# %% [markdown]
# They are the right four, and in the right order. But in Python three dots are an expression that does nothing. So the
# program runs to its end, and nothing is learned:

# %%
letters = mk.load("glyphs")
practice, chosen_by, unseen = (letters.split(part) for part in ("train", "validation", "test"))
pictures = unseen.examples[:6] / np.float32(255)
printed = Printed(num_classes=10)
first = printed(pictures, task_indices=[4, 1])
before = printed.get_weights()
for _epoch in range(100):
    ...  # task data, task model, prediction error, optimise
assert all(np.array_equal(a, b) for a, b in zip(before, printed.get_weights(), strict=True))
print(f"{printed.count_params():,} weights, and none of them has moved")

# %% [markdown]
# Before we fill the loop, let us see what the class itself can do. Four things need a closer look. Each is tried out
# below, and each has a row in the [errata](README.md#errata).

# %% [markdown]
# ## What task_indices does
#
# The call takes pictures and `task_indices`, and `tf.gather` takes rows of the batch by number. It does so after the
# dense layer. Every layer here works on each row by itself. So it makes no difference whether the rows are chosen at
# the end or before the beginning:

# %%
alone = printed(pictures[[4, 1]], task_indices=[0, 1])
assert first.shape == (2, 10)
assert np.allclose(first, alone, atol=1e-6)

# %% [markdown]
# An answer therefore depends on one picture and on the weights, and on nothing else. What the indices can mean is which
# rows of a mixed batch *belong to a task*. They say nothing about what the task *is*. For that a learner must see
# examples with their answers: a support set.

# %%
boxes = {
    "batch": (0.12, 0.5, "one batch:\nrows 0, 1, 2, 3, 4, 5"),
    "features": (0.42, 0.5, "convolutions,\ndense 128"),
    "rows": (0.68, 0.5, "gather\nrows 4 and 1"),
    "answers": (0.91, 0.5, "softmax:\n2 answers"),
    "weights": (0.55, 0.04, "one set of weights, the same for every task"),
}
arrows = [("batch", "features", ""), ("features", "rows", ""), ("rows", "answers", "")]
arrows += [("weights", "features", ""), ("weights", "answers", "")]
figure = mk.report.diagram(boxes, arrows, marked=["rows"], size=(7.4, 2.0))

# %% [markdown]
# One detail of Keras 3: between the parentheses of a call, only tensors may stand without a name. A Python list of
# indices is refused there. By its name it is taken, and so is a tensor without one.


# %%
def complaint(do):
    """The first line of the error that `do` ends in."""
    try:
        do()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


refused = complaint(lambda: printed(pictures, [4, 1]))
assert refused.startswith("ValueError: Only input tensors may be passed as positional arguments")
assert complaint(lambda: printed(pictures, tf.constant([4, 1]))) is None

# %% [markdown]
# ## What becomes of the optimizer
#
# The constructor makes an Adam and keeps it as `self.optimizer`. Keras lets it, but that name belongs to `compile`. The
# model cannot be fitted before it is compiled, and `compile` puts its own optimizer there. If none is named, it is
# RMSprop, so D3's Adam is lost without a word. And when all of this is done, `fit` still stops: it has only one thing
# to hand to `call`, and there is nobody to give the indices.

# %%
labels = np.arange(6)
print(complaint(lambda: printed.fit(pictures, labels)))
printed.compile(loss="sparse_categorical_crossentropy")
print("after compile:", type(printed.optimizer).__name__)
print(complaint(lambda: printed.fit(pictures, labels, verbose=0)))
assert isinstance(printed.optimizer, keras.optimizers.RMSprop)
assert "task_indices" in complaint(lambda: printed.fit(pictures, labels, verbose=0))

# %% [markdown]
# ## What ten classes mean
#
# `num_classes = 10` looks harmless. But output 3 of this network stands for the same thing in every batch, for ever.
# That is a classifier of ten classes, as in chapter 02. In a family of tasks the labels are dealt anew: the letter that
# is class 3 now will be class 0 in the next task. One picture then needs different answers in different tasks, and a
# function of the picture alone cannot give them.
#
# So `num_classes` must mean the *ways* of a task, and the answer must depend on a support set. Here are two tasks with
# the same five drawings and labels dealt in opposite order. A learner that adapts can be right in both:

# %%
drawings = tf.constant(unseen.examples[:100:20] / np.float32(255))
one_way, other_way = tf.range(5), tf.range(4, -1, -1)
rule = mk.rules.GradientDescent(0.1, steps=40)
by_heart = mk.MetaLearner(network=mk.networks.d3(5), rule=rule)
for dealt in (one_way, other_way):
    answers = by_heart.predict((drawings[None], dealt[None], drawings[None]), verbose=0)
    assert list(answers[0].argmax(axis=-1)) == list(dealt)

# %% [markdown]
# These are steps enough to learn five drawings by heart, and no more than that is shown by them. The network's own
# weights are the same after both tasks. What the rest of the chapter is about is a *start* from which very few steps
# are enough, and not only for the drawings that were learned.

# %% [markdown]
# ## The same call, in the library
#
# `mk.MetaLearner(num_classes)` is D3's class with what was missing. Its network is D3's, layer by layer:

# %%
Code(inspect.getsource(mk.networks.d3), language="python")

# %% [markdown]
# Called on pictures, with `task_indices` or without, it answers as D3's class does. With D3's weights the rows are the
# same:

# %%
learner = mk.MetaLearner(num_classes=10)
learner.network.set_weights(printed.get_weights())
assert np.allclose(learner(pictures, task_indices=[4, 1]), first, atol=1e-6)
assert np.allclose(learner(pictures)[:5], printed(pictures, task_indices=range(5)), atol=1e-6)

# %% [markdown]
# Called on a *task*, it adapts first: it takes `(support_x, support_y, query_x)`, each with an axis of tasks in front,
# and gives scores for the queries. How it adapts is its rule, `learner.rule`. By default that is gradient descent.

# %%
problem = mk.FewShot(practice, ways=5, shots=1, queries=2, meta_batch=4, seed=0)
episode = next(iter(problem))
learner = mk.MetaLearner(num_classes=5)
scores = learner((episode.support_x, episode.support_y, episode.query_x))
print(type(learner.rule).__name__, "gives", tuple(scores.shape), "scores: tasks, queries, ways")
assert scores.shape == (4, 10, 5)

# %% [markdown]
# ## The loop, comment by comment
#
# Now the loop. We first write it by hand with `tf.GradientTape`, on one task, with one step of training for the task
# model. The network is D3's, with five outputs.
#
# `PureModel` lets us run it with weights that are not its own. That is needed in the second comment: the task model has
# other weights than the start, and the start must stay as it is.

# %%
network = mk.networks.d3(5)
pure = mk.functional.PureModel(network)
loss = keras.losses.SparseCategoricalCrossentropy()
optimizer = keras.optimizers.Adam(0.001)
RATE = 0.4

# %% [markdown]
# **1. Generate the task data.** A problem is a dataset that never ends. We take its next batch, and of that the first
# task: five drawings to learn from, ten to be answered.


# %%
def task_data(episodes):
    return [part[0] for part in next(episodes)]


support_x, support_y, query_x, query_y = task_data(iter(problem))
print("to learn from:", tuple(support_x.shape), " to be answered:", tuple(query_x.shape))

# %% [markdown]
# **2. Train the task model.** One step of gradient descent on the support set (Formula 10.1). The moved weights are
# tensors. Nothing is assigned, so a tape outside can follow how they came from the start.


# %%
def task_model(theta, support_x, support_y):
    with tf.GradientTape() as inner:
        inner.watch(theta.parameters)
        support_loss = loss(support_y, pure(theta, support_x).outputs)
    slopes = inner.gradient(support_loss, theta.parameters)
    moved = [w - RATE * slope for w, slope in zip(theta.parameters, slopes, strict=True)]
    return theta._replace(parameters=moved)


adapted = task_model(pure.weights(), support_x, support_y)

# %% [markdown]
# **3. Compute the prediction error**, and here is the point of it all: not on the support set, but on the *queries*,
# and with the weights *after* the step.


# %%
def prediction_error(adapted, query_x, query_y):
    return loss(query_y, pure(adapted, query_x).outputs)


start, moved = (prediction_error(w, query_x, query_y) for w in (pure.weights(), adapted))
print(f"on the queries: {start:.3f} before the step, {moved:.3f} after it")
assert moved < start

# %% [markdown]
# **4. Optimise by that error.** The outer tape watched everything, the inner step included. Its gradient says how to
# change the *start* so that the error *after the step* becomes smaller (Formula 10.2). Adam takes it from there.


# %%
def one_round(support_x, support_y, query_x, query_y):
    with tf.GradientTape() as outer:
        adapted = task_model(pure.weights(), support_x, support_y)
        error = prediction_error(adapted, query_x, query_y)
    slopes = outer.gradient(error, network.trainable_variables)
    optimizer.apply_gradients(zip(slopes, network.trainable_variables, strict=True))
    return float(error)


# %% [markdown]
# That is the whole of it. First the same task again and again, to see that the error after the step does go down:

# %%
same_task = task_data(iter(problem))
errors = [one_round(*same_task) for _ in range(15)]
print(f"round 1: {errors[0]:.3f}, round 15: {errors[-1]:.3f}")
assert errors[-1] < 0.7 * errors[0]

# %% [markdown]
# On one task that is no great thing: the start has come to fit these ten queries. If every round brings another task,
# the start can only improve by what the tasks have in common. And the mean over several tasks is a better guide than
# one of them, as in any training on batches.

# %% [markdown]
# ## The loop in full
#
# With several tasks a round, and compiled, the four comments become this function. It is all of MAML,
# **model-agnostic meta-learning** (模型元学习 in D3), and it is meant to be read and copied:

# %%
Code(inspect.getsource(mk.maml_loop), language="python")

# %% [markdown]
# Two lines are there for networks other than D3's: `fork` gives each task random numbers of its own, for dropout, and
# `join` brings together what batch normalisation has counted. Let it run for ten rounds of four tasks:

# %%
by_loop, by_fit = mk.networks.d3(5), mk.networks.d3(5)
by_fit.set_weights(by_loop.get_weights())
untrained = by_loop.get_weights()
adam = keras.optimizers.Adam(0.001)
losses = mk.maml_loop(by_loop, problem, loss=loss, learning_rate=RATE, optimizer=adam, iterations=10)
print(" ".join(f"{value:.2f}" for value in losses))

# %% [markdown]
# ## The same by fit
#
# A `MetaLearner` is a Keras model whose `train_step` is that round. (Keras' own guide to a custom `train_step` is among
# the references.) So `compile` takes the optimizer, where D3 wanted it in the constructor, and `fit` takes the tasks.
# From the same start, on the same tasks, ten steps must give the same weights. We let the rule take one step in
# training and three in evaluation, for later.

# %%
rule = mk.rules.GradientDescent(RATE, steps=1, evaluation_steps=3)
learner = mk.MetaLearner(network=by_fit, rule=rule)
learner.compile(optimizer=keras.optimizers.Adam(0.001))
ten_steps = learner.fit(problem, steps_per_epoch=10, verbose=0)

# %% [markdown]
# The largest difference between any two weights is a rounding error, and small beside the way that they have come:


# %%
def apart(some, others):
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))


assert apart(by_loop.get_weights(), by_fit.get_weights()) < 2e-5
assert apart(untrained, by_fit.get_weights()) > 2e-3

# %% [markdown]
# From here on `fit` does the work, and with it comes what Keras has around it: validation, callbacks, files. The
# validation alphabets are neither practised on nor examined. After every epoch the learner is tried on a few tasks of
# them, and `ModelCheckpoint` stores it, weights, rule, optimizer and all.

# %%
folder = tempfile.TemporaryDirectory()
tries = mk.FewShot(chosen_by, ways=5, shots=1, queries=5, meta_batch=4, seed=1)
checkpoints = keras.callbacks.ModelCheckpoint(f"{folder.name}/{{epoch:02d}}.keras")
watching = {"validation_data": tries, "validation_steps": 6, "verbose": 0}
history = learner.fit(
    problem, steps_per_epoch=25, epochs=8, callbacks=[mk.report.Lines(2), checkpoints], **watching
).history

# %% [markdown]
# In the picture, "practice" is the loss on the queries of the training tasks after *one* step, and "validation" that on
# tasks of other alphabets after *three*. So the second may well lie below the first. It jumps, since 24 tasks are few.

# %%
curves = {"practice": history["loss"], "validation": history["val_loss"]}
level = ("five equal guesses", np.log(5))
axes = mk.report.learning_curves(curves, ylabel="loss after adapting", level=level)
axes.set(title="D3's network, epochs of 25 steps of 4 tasks", ylim=(0.7, 1.8))
plt.show()

# %% [markdown]
# ## Stop, and go on
#
# Long trainings are interrupted. The checkpoint of the last epoch but one is opened as any Keras file, and trained for
# one epoch more. It must arrive at the same weights as the training that was not interrupted. For that it is not enough
# to restore the weights: Adam's memory must be there too, and the same tasks must come. Here step $n$ of the optimizer
# always sees batch $n$ of the tasks, so the interruption leaves no trace.

# %%
resumed = keras.models.load_model(Path(folder.name) / "07.keras")
resumed.fit(problem, steps_per_epoch=25, verbose=0)
print("steps:", int(resumed.optimizer.iterations), "and", int(learner.optimizer.iterations))
assert int(resumed.optimizer.iterations) == int(learner.optimizer.iterations) == 210
assert apart(resumed.get_weights(), learner.get_weights()) < 1e-4

# %% [markdown]
# ## The exam
#
# Six alphabets were kept for the exam. The question is how well five drawings of a new task are used, and it has four
# answers: after 0, 1, 3 and 5 inner steps. Without a step the labels of the task cannot be known, so that must give
# chance, one in five. Three steps are examined on 240 tasks, the others on 80.
#
# Beside the learned start stands the untrained one, adapted in the same way, on 48 tasks. What it reaches, gradient
# descent gives alone.

# %%
exam = mk.FewShot(unseen, ways=5, shots=1, queries=2, meta_batch=4, seed=2)


def examined(learner, most=240, others=80):
    """The accuracy after 0, 1, 3 and 5 steps; a MetaLearner asks its rule how many."""
    scores = {}
    for steps in (0, 1, 3, 5):
        learner.rule.evaluation_steps = steps
        scores[steps] = mk.evaluate(learner, exam, most if steps == 3 else others)
    learner.rule.evaluation_steps = 3
    return scores


fresh_network = keras.models.clone_model(learner.network)
fresh_network.set_weights(untrained)
fresh = mk.MetaLearner(network=fresh_network, rule=mk.rules.GradientDescent(RATE))
results = {
    "D3's network, untrained start": examined(fresh, 48, 48),
    "D3's network, learned start": examined(learner),
}

# %% [markdown]
# And ordinary learning, from scratch: D3's network with fresh weights in each task, trained for 20 steps on its five
# drawings, at a smaller rate, which suits a fresh network better. That is gradient descent from the untrained start, so
# the same class can do it:

# %%
rule = mk.rules.GradientDescent(0.1, evaluation_steps=20)
from_scratch = mk.MetaLearner(network=fresh_network, rule=rule)
many_steps = mk.evaluate(from_scratch, exam, episodes=100)
print("from scratch, 20 steps:", many_steps)

# %% [markdown]
# ## A better network
#
# D3's network has no normalisation, and 95 of 100 of its weights sit in one dense layer, which can learn practice
# letters by heart. The few-shot papers take four small convolutions with batch normalisation instead. It is a change of
# one argument; the rule and the problem stay. (The normalisation goes by the support set, so that an answer does not
# depend on the queries beside it. The paper by Antoniou, Edwards and Storkey, listed below, discusses this choice.)

# %%
four_blocks = mk.networks.conv4(5, filters=32, downsample="stride")
rule = mk.rules.GradientDescent(RATE, steps=1, evaluation_steps=3, batch_statistics="support")
better = mk.MetaLearner(network=four_blocks, rule=rule)
better.compile(optimizer=keras.optimizers.Adam(0.003))
better_history = better.fit(problem, steps_per_epoch=25, epochs=8, **watching).history
results["four blocks, learned start"] = examined(better)
curves = {"D3's": history["val_accuracy"], "four blocks": better_history["val_accuracy"]}
axes = mk.report.learning_curves(curves, ylabel="accuracy", level=("chance", 0.2))
axes.set_title("on the validation alphabets, three steps")
plt.show()

# %% [markdown]
# All of it in one table. "Untrained" and "learned" are starts; the columns say how many inner steps were taken from
# them:

# %%
columns = {0: "0 steps", 1: "1 step", 3: "3 steps", 5: "5 steps", 20: "20 steps"}
given = {"chance": dict.fromkeys(columns, 0.2), "D3's network, from scratch": {20: many_steps}}
rows = [
    {"learner": name} | {column: scores.get(steps, "") for steps, column in columns.items()}
    for name, scores in (given | results).items()
]
mk.report.Table(rows)

# %% [markdown]
# The same as a picture:

# %%
for name, scores in results.items():
    means, intervals = [s.mean for s in scores.values()], [s.interval for s in scores.values()]
    plt.errorbar(list(scores), means, intervals, marker="o", capsize=3, label=name)
plt.axhline(0.2, color="0.5", linewidth=1, linestyle=":")
plt.axhline(many_steps.mean, color="0.5", linewidth=1, linestyle=(0, (1, 3)))
plt.annotate("from scratch,\n20 steps", (5.2, many_steps.mean + 0.02))
plt.gca().set(xlabel="inner steps", ylabel="accuracy, unseen alphabets", xticks=[0, 1, 3, 5])
plt.axis((-0.2, 6.2, 0, 1))
plt.legend(loc="upper left")
plt.show()

# %% [markdown]
# What can be claimed of this, by the rule of chapter 01 that intervals must not overlap?
#
# - Without a step every start scores chance.
# - One step from the learned start is worth more than any number of these steps from the untrained one. The rate of 0.4
#   is too large for a fresh network, which gets worse again from three steps to five. The learned start has been learned
#   *for* this rate, and for one step: what two more of them bring is too little to be seen here.
# - In one to five steps D3's learned start comes to about where ordinary learning is after twenty. It is not shown to be
#   better, and its curve above says that it is not done learning.
# - After three steps the better network is ahead of D3's. Its lead over ordinary learning is too small to be told on
#   100 tasks.


# %%
def clearly_better(one, other):
    return one.mean - one.interval > other.mean + other.interval


untrained_start, learned_start, four_blocks_start = results.values()
for scores in results.values():
    assert abs(scores[0].mean - 0.2) < 2 * scores[0].interval
assert all(clearly_better(learned_start[1], score) for score in untrained_start.values())
assert clearly_better(untrained_start[3], untrained_start[5])
assert not clearly_better(learned_start[3], learned_start[1])
assert not clearly_better(many_steps, learned_start[1])
assert clearly_better(four_blocks_start[3], learned_start[3])

# %% [markdown]
# ## An expert to take away
#
# So far the adapted weights were thrown away after each task. `adapt` keeps them: it takes a support set and returns an
# **expert** (专家模型) for this one task. The expert is a plain Keras model. Here is one for five letters of an unseen
# alphabet, from one drawing each:

# %% picture="adapted_expert"
one_alphabet = mk.FewShot(unseen, ways=5, queries=8, meta_batch=1, seed=12, within="alphabet")
episode = next(iter(one_alphabet))
support_x, support_y, query_x, query_y = (part[0] for part in episode)
expert = better.adapt(support_x, support_y)
answers = expert(query_x).numpy()
figure = mk.report.show_episode(episode, queries=8, scores=answers)
right = int(np.sum(answers.argmax(axis=-1) == query_y))
print(
    f"{right} of 40 are right here; in the mean over the exam it is {40 * four_blocks_start[3].mean:.0f} of 40"
)

# %% [markdown]
# These are the answers that the learner itself gives for the task. And the learner has not changed by it, so it can make
# as many experts as there are tasks:

# %%
by_learner = better((episode.support_x, episode.support_y, episode.query_x), training=False)[0]
assert np.allclose(answers, by_learner, atol=1e-3)
assert not np.allclose(expert.get_weights()[0], better.network.get_weights()[0])

# %% [markdown]
# The expert goes into a file and comes out of it without this library: all of its layers are Keras' own. Whoever gets
# the file does not need to know how it was learned.

# %%
expert.save(f"{folder.name}/expert.keras")
loaded = keras.models.load_model(f"{folder.name}/expert.keras")
assert type(loaded) is keras.Sequential
assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)
assert np.allclose(loaded(query_x), answers, atol=1e-5)

# %% [markdown]
# When more drawings of these letters turn up, the expert is **fine-tuned** (微调) on them with `compile` and `fit`, like
# any other model. Half of the queries become such drawings now, with their labels; the other half tests it.

# %%
more = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
loaded.compile(keras.optimizers.Adam(0.001), more, metrics=["accuracy"])
first_test = loaded.evaluate(query_x[20:], query_y[20:], verbose=0)
tuned = loaded.fit(query_x[:20], query_y[:20], epochs=20, verbose=0).history["loss"]
second_test = loaded.evaluate(query_x[20:], query_y[20:], verbose=0)
print(f"right of the other 20: {20 * first_test[1]:.0f} before, {20 * second_test[1]:.0f} after")
assert tuned[-1] < tuned[0] / 2

# %% [markdown]
# The learner itself, start and rule together, is stored in the same way. This file needs the library, since it holds a
# rule of adaptation:

# %%
better.save(f"{folder.name}/learner.keras")
again = keras.models.load_model(f"{folder.name}/learner.keras")
expert_again = again.adapt(support_x, support_y)
assert np.allclose(expert_again(query_x), answers, atol=1e-5)
folder.cleanup()

# %% [markdown]
# ## Where the seams are
#
# D3's four comments are four places to change something, and each is one argument of the library:
#
# | D3's comment | here | what else it could be |
# |---|---|---|
# | 1 task data | `mk.FewShot` | sine curves, other pools, any dataset of episodes |
# | 2 task model | `rules.GradientDescent`, `adapt` | prototypes (chapters 01 and 14); a learned update (11) |
# | 3 prediction error | `judge`, `compile(loss=...)` | a mean over all inner steps (10) |
# | 4 optimise | `compile(optimizer=...)` | any Keras optimizer (02), a learned one (09) |
#
# **Chapter 10** asks what the gradient of comment 4 is made of. It goes through the step of comment 2 (Formulas 10.1 and
# 10.2), and has second derivatives in it; the chapter computes them by hand, and tries what happens without them.
#
# **Chapter 11** keeps everything but comment 2. In D3's second method, PNML, the step $-\alpha \nabla L$ is no longer
# written down but learned: a small network looks at the gradient and says how far to go. The outer loop then trains
# that network, with the very same four comments.

# %% [markdown]
# ## Summary
#
# - D3's class is a sound network. Its loop is empty, its optimizer is in the wrong place, its labels are fixed, and
#   `task_indices` chooses rows and cannot tell one task from another.
# - The loop is: draw a task; step on its support set; measure the loss on its queries; move the *start* against that
#   loss, through the step.
# - `maml_loop` is this loop in full. `fit` does the same, and adds validation, checkpoints and resuming.
# - D3's learned start does in a few steps about what a fresh network does in twenty. A better network does more.
# - An expert is a plain Keras model: save it, serve it, train it on.

# %% [markdown]
# ## Exercises
#
# Each has a check. Run its cell, then call the check with your answer.

# %% [markdown]
# **1. Rows of a task.** What D3's `task_indices` must hold: write `rows(task, examples)`, the numbers of the rows of task
# number `task` in a batch where every task has so many examples, one task after another.


# %%
def check_rows_of_a_task(rows):
    assert list(rows(0, 3)) == [0, 1, 2], "task 0 has the first rows"
    batch = np.repeat(np.arange(4), 5)
    for task in range(4):
        assert list(batch[np.asarray(rows(task, 5))]) == [task] * 5, f"rows of task {task} alone"
    print("Right.")


# %% [markdown]
# **2. Through the step.** A network of one weight, with the support loss $(w - a)^2$ and the query loss $(w - b)^2$. Write
# `slope(w, a, b, rate)`: the derivative of the query loss after one inner step, for the weight before it.


# %%
def check_through_the_step(slope):
    def error(w, a, b, rate):
        return (w - rate * 2 * (w - a) - b) ** 2

    for w, a, b, rate in ((1.0, 0.0, 0.5, 0.1), (0.3, 2.0, -1.0, 0.4)):
        nudged = [error(w + h, a, b, rate) for h in (1e-5, -1e-5)]
        by_nudging = (nudged[0] - nudged[1]) / 2e-5
        assert np.isclose(slope(w, a, b, rate), by_nudging), "the step itself depends on w, too"
    print("Right.")


# %% [markdown]
# **3. Only the head.** Write `learner()`: a `MetaLearner` of five ways with D3's network, whose rule adapts only the last
# layer, named "head" (ANIL). It is much cheaper, and often nearly as good. Try it in the exam.


# %%
def check_only_the_head(learner):
    made, rng = learner(), np.random.default_rng(0)
    expert = made.adapt(rng.random((5, 28, 28, 1)), np.arange(5))
    assert expert.output_shape == (None, 5), "five ways need five outputs"
    pairs = zip(expert.get_weights(), made.network.get_weights(), strict=True)
    moved = [not np.array_equal(a, b) for a, b in pairs]
    assert moved == [False] * 6 + [True, True], "the last two weights move, and no others"
    print("Right.")


# %% [markdown]
# **4. Where to go on.** A training stopped after `done` steps. Write `rest(tasks, done)`: the dataset of the batches of
# `tasks` that it has not seen, in their order.


# %%
def check_where_to_go_on(rest):
    tasks = mk.FewShot(mk.load("glyphs"), ways=2, queries=1, meta_batch=1, seed=5)
    all_of_them = [batch.support_x.numpy() for batch in tasks.take(4)]
    left = [batch.support_x.numpy() for batch in rest(tasks, 3).take(1)]
    assert np.array_equal(left[0], all_of_them[3]), "after 3 batches comes number 3, counted from 0"
    print("Right.")


# %% [markdown]
# ## References
#
# - C. Finn, P. Abbeel, S. Levine, [Model-Agnostic Meta-Learning](https://arxiv.org/abs/1703.03400), 2017.
# - A. Antoniou, H. Edwards, A. Storkey, [How to train your MAML](https://arxiv.org/abs/1810.09502), 2018.
# - A. Raghu and others, [Rapid Learning or Feature Reuse?](https://arxiv.org/abs/1909.09157), 2019 (ANIL).
# - Keras,
#   [Customizing what happens in fit() with TensorFlow](https://keras.io/guides/custom_train_step_in_tensorflow/).
#
# Next: [the list of chapters](README.md#chapters).
