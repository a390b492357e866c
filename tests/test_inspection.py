"""Every batch is checked: shapes before anything runs, values where batches are created, with clear errors."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_keras import ClassPool, Episode, FewShot, MetaLearner, Sinusoids, networks
from meta_keras.rules import GradientDescent, Prototypes
from meta_keras.tasks.inspection import Inspected, check_batch, check_shapes, ways_in

LABELS = np.int32([[0, 1, 2]])


def pool():
    return ClassPool(np.random.default_rng(0).normal(size=(30, 2)).astype("float32"), np.arange(30) // 5)


def batches(*changes):
    """Batches of one task of three classes, each with some parts changed."""
    x = np.float32([[[0, 1], [1, 0], [1, 1]]])
    good = Episode(x, LABELS, x, LABELS)
    found = [Episode(**(good._asdict() | change)) for change in changes]
    return tf.data.Dataset.from_generator(
        lambda: iter(found), output_signature=Episode(*(tf.TensorSpec([1, 3, *p.shape[2:]], p.dtype) for p in good))
    )


def learner_of(rule=None, units=3):
    learner = MetaLearner(network=networks.mlp(units, input_shape=(2,), hidden=(4,)), rule=rule or Prototypes())
    learner.compile("sgd", jit_compile=False)
    return learner


NAN = np.float32([[[0, 1], [np.nan, 0], [1, 1]]])
LATER = {
    "nan": ({"support_x": NAN}, "support_x has 1 numbers that are NaN or infinite"),
    "infinity": ({"query_x": NAN / 0 * np.float32(1)}, "query_x has"),
    "too large": ({"support_y": np.int32([[0, 1, 7]])}, "support_y has the label 7; labels of tasks with 3 classes"),
    "negative": ({"query_y": np.int32([[0, -1, 2]])}, "query_y has the label -1"),
    "unknown": (
        {"support_y": np.int32([[0, 1, 1]])},
        "the label 2, but its support set has no example",
    ),
}


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        *(("fit", wrong) for wrong in LATER),  # the checks are part of the data, and do not depend on the method
        *(
            (method, wrong)
            for method in ("evaluate", "predict", "validation", "compiled")
            for wrong in ("nan", "unknown")
        ),
    ],
)
def test_a_later_batch_is_checked_too(method, wrong):
    change, message = LATER[wrong]
    learner, tasks = learner_of(), batches({}, {}, change)
    before = [v.numpy() for v in learner.network.variables]
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        if method == "validation":
            learner.fit(batches({}), validation_data=tasks, verbose=0)
        elif method == "compiled":
            learner.compile("sgd", jit_compile=True, steps_per_execution=3)
            learner.fit(tasks, verbose=0)
        else:
            getattr(learner, method)(tasks, verbose=0)
    if method in ("evaluate", "predict"):
        assert all(np.array_equal(v, b) for v, b in zip(learner.network.variables, before, strict=True))


def test_a_label_that_a_support_set_lacks_is_fine_for_a_network_with_an_output_for_it():
    learner = learner_of(GradientDescent(0.1))
    assert np.isfinite(learner.evaluate(batches({}, LATER["unknown"][0]), verbose=0)[0])


@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch"])
@pytest.mark.parametrize("wrong", [name for name in LATER if name != "unknown"])
def test_single_batches_are_checked(method, wrong):
    (episode,) = batches(LATER[wrong][0])
    with pytest.raises(ValueError, match="(support|query)_[xy] has|tasks have 8 classes"):
        getattr(learner_of(GradientDescent(0.1)), method)(tuple(episode[:3]), episode[3])


X, Y = np.zeros((1, 3, 2), "float32"), LABELS
SHAPES = {
    "narrow queries": ((X, Y, X[..., :1], Y), "support_x and query_x must have examples of the same shape"),
    "tasks": (
        (np.repeat(X, 3, 0), np.repeat(Y, 3, 0), X, Y),
        "support_x and query_x must have the same number of tasks",
    ),
    "tasks, the other way": ((X, Y, np.repeat(X, 3, 0), np.repeat(Y, 3, 0)), "the same number of tasks"),
    "labels": ((X, Y[:, :2], X, Y), "support_x and support_y must have as many labels as examples"),
    "query labels": ((X, Y, X, Y[:, :2]), "query_x and query_y must have as many labels as examples"),
    "targets": ((X, np.float32(Y)[..., None], X, np.float32(Y)), "labels or targets of the same shape"),
    "kinds": ((X, Y, X, np.float32(Y)), "support_y is int32 and query_y float32"),
    "rank": ((X[0, 0], Y, X, Y), "support_x has shape .*at least one task with one example"),
    "empty": ((X[:, :0], Y[:, :0], X, Y), "at least one task with one example"),
    "dictionary": (({"a": X}, Y, X, Y), "support_x must be one tensor; got a dict. Networks take one input"),
}


@pytest.mark.parametrize("wrong", SHAPES)
def test_shapes_that_do_not_fit_are_rejected(wrong):
    parts, message = SHAPES[wrong]
    with pytest.raises(ValueError, match=message):
        check_shapes(Episode(*(p if isinstance(p, dict) else tf.constant(p) for p in parts)))
    with pytest.raises(ValueError, match=message):
        learner_of().evaluate(tf.data.Dataset.from_tensors(Episode(*parts)), verbose=0)


@pytest.mark.parametrize("targets", [np.ones((1, 3)), np.ones((1, 3, 2))])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_targets_are_never_broadcast_against_answers(method, targets):
    learner = learner_of(GradientDescent(0.1), units=1)
    learner.compile("sgd", "mse", jit_compile=False)
    right = np.ones((1, 3, 1), "float32")
    getattr(learner, method)(tf.data.Dataset.from_tensors(Episode(X, right, X, right)), verbose=0)
    targets = np.float32(targets)
    with pytest.raises(ValueError, match="Targets have shape .*; the network's answers have shape"):
        getattr(learner, method)(tf.data.Dataset.from_tensors(Episode(X, targets, X, targets)), verbose=0)


@pytest.mark.parametrize("labels", [np.eye(3, dtype="int32"), np.int32([[0], [1], [2]]), np.float32([0, 1, 2])])
def test_prototypes_need_one_integer_per_example(labels):
    with pytest.raises(ValueError, match="one integer label per example|cross-entropy, for integer labels"):
        learner_of().adapt(X[0], labels)


@pytest.mark.parametrize(
    "x",
    [3, None, "x", X, [X, Y], {"support_x": X}, (X, Y, X, Y, Y)],
    ids=["3", "None", "x", "array", "two", "dict", "five"],
)
@pytest.mark.parametrize("more", [{"method": "predict"}, {"method": "train_on_batch", "y": Y}])
def test_inputs_without_a_support_set_are_not_answered(more, x):
    with pytest.raises(ValueError, match="Inputs are tasks: a dataset of episodes, or .*use learner.network"):
        getattr(learner_of(), more["method"])(x, **{name: value for name, value in more.items() if name == "y"})


def test_a_learner_is_not_called_on_plain_inputs():
    with pytest.raises(ValueError, match="Inputs are tasks.*To answer without a support set call learner.network"):
        learner_of()(X[0])


def test_the_library_does_not_check_what_it_draws_itself():
    assert Inspected(Sinusoids(shots=2), None, every_class=False).sound
    assert Inspected(FewShot(pool(), 3, 1, 1), 3, every_class=True).sound
    assert not Inspected(Sinusoids(shots=2).map(lambda e: e), None, every_class=False).sound

    class Mine(Sinusoids):
        pass

    assert not Inspected(Mine(shots=2), None, every_class=False).sound


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    support=st.lists(st.integers(-1, 4), min_size=2, max_size=6),
    query=st.lists(st.integers(-1, 4), min_size=1, max_size=6),
    every_class=st.booleans(),
)
def test_the_check_in_the_graph_finds_exactly_what_the_explanation_finds(support, query, every_class):
    x = lambda rows: tf.zeros((1, rows, 2))  # noqa: E731
    episode = Episode(x(len(support)), tf.constant([support]), x(len(query)), tf.constant([query]))
    inspected = Inspected(tf.data.Dataset.from_tensors(episode), 4, every_class=every_class)
    try:
        check_batch(episode, 4, every_class)
    except ValueError as expected:
        with pytest.raises(ValueError) as found, inspected.reporting():
            next(iter(inspected.batches))
        assert str(found.value) == str(expected)
    else:
        (_, labels, _, classes), _ = next(iter(inspected.batches))
        assert labels.shape == (1, len(support)) and classes.numpy().tolist() == [[0, 1, 2, 3]]


def test_other_errors_of_tensorflow_are_left_as_they_are():
    inspected = Inspected(batches({}), 3, every_class=True)
    with pytest.raises(tf.errors.InvalidArgumentError), inspected.reporting():
        tf.debugging.assert_equal(1, 2)


@pytest.mark.slow
def test_the_number_of_classes_is_known_before_a_task_is_seen():
    tasks = FewShot(pool(), ways=4, shots=1, queries=1)
    learner = MetaLearner(network=networks.mlp(3, input_shape=(2,)), rule=Prototypes(), parallel="vectorized")
    learner.compile("sgd", jit_compile=True)  # XLA knows all shapes
    assert np.isfinite(learner.fit(tasks, steps_per_epoch=2, verbose=0).history["loss"][0])
    inputs, _ = next(iter(learner.batches_of(tasks).batches))
    assert ways_in(inputs, None) == inputs[3].shape[-1] == 4
    assert ways_in(inputs[:3], None) == 4 and ways_in(inputs[:3], 9) == 9
    assert learner.predict(tasks, steps=1, verbose=0).shape[-1] == 4
    assert learner.evaluate(FewShot(pool(), ways=2, shots=1, queries=1), steps=1, verbose=0)[0] >= 0


def test_tasks_may_have_fewer_classes_than_the_learner_was_told():
    learner = MetaLearner(network=networks.mlp(3, input_shape=(2,)), rule=Prototypes(), ways=5)
    learner.compile("sgd")
    fewer = {"support_y": np.int32([[0, 1, 1]]), "query_y": np.int32([[0, 1, 0]])}
    assert np.isfinite(learner.fit(batches(fewer, {}), verbose=0).history["loss"][0])
    assert learner.predict(batches(fewer, {}), verbose=0).shape == (2, 3, 5)
