"""A MetaLearner rejects what it cannot do before it starts, and a failure during training leaves the weights intact."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import Episode, MetaLearner, Sinusoids, networks
from meta_keras.rules import GradientDescent, Prototypes, Rule


def line_learner(loss="mse", optimizer="sgd", units=1, rate=0.01, parallel="map", **compiled):
    model = keras.Sequential([keras.Input((1,)), layers.BatchNormalization(), layers.Dense(units)], name="line")
    learner = MetaLearner(network=model, rule=GradientDescent(rate), parallel=parallel)
    learner.compile(**({"optimizer": optimizer, "loss": loss, "jit_compile": False} | compiled))
    return learner


def map_learner():
    learner = MetaLearner(network=networks.mlp(2, hidden=()), rule=Prototypes())
    learner.compile()
    return learner


def two_inputs():
    inputs = [keras.Input((1,)), keras.Input((1,))]
    return keras.Model(inputs, layers.Add()(inputs))


@functools.cache
def curves(**more):
    return Sinusoids(shots=4, queries=3, meta_batch=2, **more)


def classes(ways=2, **changed):
    """Two batches of one task of `ways` classes, with some parts replaced."""
    x, y = np.arange(ways, dtype=np.float32)[:, None], np.arange(ways, dtype=np.int32)
    parts = {"support_x": x, "support_y": y, "query_x": x, "query_y": y} | changed
    return tf.data.Dataset.from_tensors(Episode(**{name: part[None] for name, part in parts.items()})).repeat(2)


def values(learner):
    return [variable.numpy() for variable in [*learner.variables, *learner.optimizer.variables]]


@pytest.mark.parametrize(
    ("use", "word"),
    [
        (lambda learner: learner.fit(curves(), verbose=0), "steps_per_epoch=100"),
        (lambda learner: learner.evaluate(curves(), verbose=0), "steps=100"),
        (lambda learner: learner.predict(curves(), verbose=0), "steps=100"),
        (lambda learner: learner.fit(curves(), steps_per_epoch=1, validation_data=curves()), "validation_steps=100"),
    ],
    ids=["fit", "evaluate", "predict", "validation"],
)
def test_endless_tasks_need_a_number_of_steps(use, word):
    with pytest.raises(ValueError, match=f"endless; say how many batches of them to use, such as {word}"):
        use(line_learner())


@pytest.mark.parametrize("wrong", [np.zeros((3, 16)), tf.data.Dataset.range(3), None], ids=["array", "dataset", "None"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_what_holds_no_episodes_is_refused(method, wrong):
    with pytest.raises(ValueError, match=f"A dataset of episodes is needed.*got {type(wrong).__name__}"):
        getattr(line_learner(), method)(wrong)


def test_training_needs_compile_first():
    with pytest.raises(ValueError, match="call `compile"):
        MetaLearner(network=networks.mlp(1)).fit(curves(), steps_per_epoch=1)


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        ({}, ValueError, "Pass either num_classes or network="),
        ({"num_classes": 2, "network": networks.mlp(2)}, ValueError, "Pass either num_classes or network="),
        ({"network": keras.Sequential([layers.Dense(2)], name="bare")}, ValueError, "'bare' has no weights yet"),
        ({"network": "conv4"}, TypeError, "network must be a Keras model; got 'conv4'"),
        ({"network": networks.mlp(2), "rule": Prototypes}, TypeError, "rule must be a rule"),
        ({"network": networks.mlp(2), "parallel": "maps"}, ValueError, "parallel must be one of .*; got 'maps'"),
        ({"network": networks.mlp(2), "ways": 1}, ValueError, "ways must be an integer of at least 2; got 1"),
        ({"network": two_inputs()}, ValueError, "must have one input; .* has 2"),
    ],
    ids=["neither", "both", "unbuilt", "no model", "a class", "parallel", "ways", "two inputs"],
)
def test_a_learner_says_what_it_cannot_be_made_of(made, error, message):
    with pytest.raises(error, match=message):
        MetaLearner(**made)


@pytest.mark.parametrize("losses", [["mse", "mae"], ("mse",), {"out": "mse"}])
def test_a_learner_has_one_loss(losses):
    with pytest.raises(
        ValueError, match=f"one output here, so it takes one loss; got a {type(losses).__name__} of them"
    ):
        line_learner(loss=losses)


def test_labels_are_not_a_regression():
    learner = line_learner(loss=None)
    for use in (learner.fit, learner.evaluate):
        with pytest.raises(ValueError, match=r'float32 targets, as of a regression.*compile\(loss="mse"\)'):
            use(curves().take(1), verbose=0)
    with pytest.raises(ValueError, match="float32 targets"):
        learner.adapt([[1.0]], [[2.0]])


def many_outputs():
    inputs = keras.Input((1,))
    return keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(3)(inputs)])


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (many_outputs, r"\[\(2, 2\), \(2, 3\)\]"),
        (lambda: keras.Sequential([keras.Input((1,)), layers.Dense(4), layers.Reshape((2, 2))]), r"\(2, 2, 2\)"),
    ],
    ids=["several", "not flat"],
)
def test_prototypes_need_one_flat_output(model, shape):
    with pytest.raises(ValueError, match=f"one row of numbers for each example.*outputs have shape {shape}"):
        MetaLearner(network=model(), rule=Prototypes())(tuple(next(iter(classes())))[:3])


def test_gradient_rules_need_one_output():
    with pytest.raises(ValueError, match="The network must have one output; this one returns a list"):
        MetaLearner(network=many_outputs()).adapt([[0.0], [1.0]], [0, 1])


def test_prototypes_are_not_for_regression():
    learner = map_learner()
    learner.compile(loss="mse")
    with pytest.raises(
        ValueError,
        match="Prototypes stand for classes and need one integer label per example; these labels are float32",
    ):
        learner.fit(curves(), steps_per_epoch=1, verbose=0)


def test_a_rule_must_say_how_it_adapts_and_predicts():
    with pytest.raises(NotImplementedError, match="Rule must define how it adapts"):
        Rule().adapt(None, None, None, None, None)
    with pytest.raises(NotImplementedError, match="Rule must define how it predicts"):
        Rule().predict(None, None, None, None)


NAN = np.float32([[0], [np.nan]])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (classes(3), "tasks have 3 classes; the network 'line' has 2 outputs. Give its last layer 3 units"),
        (
            classes(support_y=np.int32([0, -1])),
            "support_y has the label -1; labels of tasks with 2 classes are integers from 0 to 1",
        ),
        (classes(query_y=np.int32([0, -1])), "query_y has the label -1"),
        (classes(query_y=np.int32([0, 2])), "The tasks have 3 classes"),
        (classes(support_x=NAN), "support_x has 1 numbers that are NaN or infinite"),
        (classes(query_x=NAN / 0), "query_x has 2 numbers that are NaN or infinite"),
        (classes(support_x=np.zeros((0, 1)), support_y=np.zeros(0, np.int32)), r"support_x has shape \(1, 0, 1\)"),
        (classes().take(0), "This dataset of episodes is empty"),
    ],
    ids=["ways", "label", "query label", "query ways", "nan", "infinite", "no support set", "no tasks"],
)
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_tasks_are_looked_over_before_they_are_learned_from(method, tasks, message):
    with pytest.raises(ValueError, match=message):
        getattr(line_learner(None, units=2), method)(tasks, verbose=0)


@pytest.mark.parametrize(
    ("support_x", "support_y", "message"),
    [
        ([[0.0], [1.0]], [0, 2], "tasks have 3 classes; the network 'line' has 2 outputs"),
        ([[0.0], [1.0]], [0, -1], "support_y has the label -1"),
        ([[0.0], [1.0]], [0], "2 examples and 1 labels were given"),
        (np.zeros((0, 1)), np.zeros(0, int), "at least one; 0 examples and 0 labels"),
        (NAN, [0, 1], "support_x has 1 numbers that are NaN"),
        ([[0.0], [1.0]], ["cat", "dog"], "Labels are integers from 0, and targets are floats; these are string"),
        ([[0.0], [1.0]], [True, False], "these are bool"),
        (0.0, 1, "one row per example; a single number was given"),
        ([[0.0], [1.0]], [[0], [1]], r"Labels of shape \(2, 1\) need answers of shape .*network returns \(2, 2\)"),
    ],
    ids=["ways", "negative", "unequal", "empty", "nan", "words", "truths", "scalars", "rank"],
)
def test_a_support_set_is_looked_over_before_it_is_learned_from(support_x, support_y, message):
    with pytest.raises(ValueError, match=message):
        line_learner(None, units=2).adapt(support_x, support_y)


def test_targets_have_the_shape_of_the_answers():
    message = r"Targets have shape \(4, 1\); the network's answers have shape \(4, 2\)"
    with pytest.raises(ValueError, match=message):
        line_learner(units=2).fit(curves(), steps_per_epoch=1, verbose=0)
    with pytest.raises(ValueError, match=r"Targets have shape \(3,\); the network's answers have shape \(3, 1\)"):
        line_learner().adapt(np.ones((3, 1)), np.ones(3))


BAD = 5


def tasks_with_a_bad_batch():
    """Batch number 5 has such large targets that their square is infinite."""
    return (
        curves()
        .enumerate()
        .map(lambda number, e: e._replace(query_y=tf.where(number == BAD, 1e30 * tf.ones_like(e.query_y), e.query_y)))
    )


WAYS = {
    "step by step": {},
    "four steps at once": {"steps_per_execution": 4},
    "compiled": {"parallel": "vectorized", "jit_compile": True, "steps_per_execution": 4},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_is_not_finite_ends_training_with_the_weights_of_the_last_good_step(way):
    learner, other = (line_learner(optimizer="adam", **more) for more in (WAYS[way], {}))
    other.set_weights(learner.get_weights())
    with pytest.raises(
        FloatingPointError, match=f"not finite at step {BAD} of meta-training.*Lower the learning rates"
    ):
        learner.fit(tasks_with_a_bad_batch(), steps_per_epoch=8, verbose=0)
    other.fit(tasks_with_a_bad_batch(), steps_per_epoch=BAD, verbose=0)
    assert int(learner.optimizer.iterations) == BAD
    for now, then in zip(values(learner), values(other), strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-5, atol=1e-6)


def test_after_a_fault_training_goes_on():
    learner = line_learner(optimizer=keras.optimizers.SGD(1e25))
    with pytest.raises(FloatingPointError, match="at step 1 of"):
        learner.fit(curves(), steps_per_epoch=8, verbose=0)
    learner.network.set_weights(line_learner().network.get_weights())
    learner.optimizer.learning_rate = 0.001
    before = values(learner)
    assert np.isfinite(learner.fit(curves(), steps_per_epoch=3, verbose=0).history["loss"][0])
    assert int(learner.optimizer.iterations) == 4 and not np.array_equal(values(learner)[0], before[0])


def test_a_gradient_that_is_not_finite_is_a_fault_though_the_loss_is_finite():
    def cusp(y, answers):
        return tf.reduce_mean(tf.sqrt(tf.abs(answers - tf.stop_gradient(answers))))  # 0, and as steep as can be

    learner = line_learner(loss=cusp)
    learner.rule.evaluation_steps = learner.rule.steps = 0
    before = learner.network.get_weights()
    with pytest.raises(FloatingPointError, match="its gradient is not finite at step 0"):
        learner.fit(curves(), steps_per_epoch=3, verbose=0)
    assert all(np.array_equal(now, then) for now, then in zip(learner.network.get_weights(), before, strict=True))


def test_a_bad_batch_of_a_scaled_loss_is_a_fault_too():
    learner = line_learner(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)))
    with pytest.raises(FloatingPointError, match=f"at step {BAD} of"):
        learner.fit(tasks_with_a_bad_batch(), steps_per_epoch=8, verbose=0)
