import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import meta_keras as mk
from meta_keras.copies import copy_of, copy_with, finalize_statistics, fresh_copy
from meta_keras.functional import PureModel
from meta_keras.transfer import same_structure, with_residual

X, Y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2


def compiled(optimizer):
    model = mk.networks.mlp(2, input_shape=(3,), hidden=(4,))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def trained(model):
    model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10)),
        lambda: keras.optimizers.Adagrad(0.1),
        lambda: keras.optimizers.Adam(0.01, use_ema=True),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0),
    ],
    ids=["momentum", "adam", "schedule", "adagrad", "average", "loss scale"],
)
def test_a_training_that_is_restarted_is_the_same_to_the_bit(optimizer):
    model = compiled(optimizer())
    start = model.get_weights()
    mk.restart(model)
    first = trained(model)
    mk.restart(model, start)
    for one, other in zip(first, trained(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_restart_the_optimizer_remembers():
    model = compiled("adam")
    start = model.get_weights()
    first = trained(model)
    model.set_weights(start)
    assert not np.array_equal(first[0], trained(model)[0])


def test_weights_stay_unless_others_are_given():
    model = compiled("adam")
    after = trained(model)
    mk.restart(model)
    np.testing.assert_array_equal(model.get_weights()[0], after[0])
    assert model.optimizer.iterations == 0


def test_a_learning_rate_that_was_changed_stays_so():
    model = compiled(keras.optimizers.SGD(0.5))
    model.optimizer.learning_rate = 0.25
    mk.restart(model)
    assert model.optimizer.learning_rate == 0.25


@pytest.mark.parametrize("with_weights", [False, True])
def test_a_learner_that_is_restarted_begins_its_stream_of_tasks_again(with_weights):
    learner = mk.MetaLearner(network=mk.networks.mlp(1, hidden=(3,)), rule=mk.rules.GradientDescent(0.1))
    learner.compile(keras.optimizers.SGD(0.0), loss="mse", run_eagerly=True)  # only the tasks change its losses

    def losses():
        tasks = mk.Sinusoids(shots=2, queries=2, meta_batch=2)
        return learner.fit(tasks, epochs=2, steps_per_epoch=1, verbose=0).history["loss"]

    first = losses()
    assert set(first).isdisjoint(losses())
    mk.restart(learner, learner.get_weights() if with_weights else None)
    assert int(learner.batches_seen) == 0 and losses() == first


def test_a_training_with_dropout_that_is_restarted_is_the_same_too():
    net = keras.Sequential([keras.Input((3,)), layers.Dense(8), layers.Dropout(0.5), layers.Dense(2)])
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    learner = mk.MetaLearner(network=mk.networks.mlp(1, hidden=(3,)), rule=mk.rules.WeightGenerator(dropout=0.5))
    learner.compile("sgd", loss="mse", run_eagerly=True)
    tasks = mk.Sinusoids(shots=2, queries=2, meta_batch=2)
    for model, fit in (
        (net, lambda: net.fit(X, Y, shuffle=False, epochs=2, verbose=0)),
        (learner, lambda: learner.fit(tasks, epochs=2, steps_per_epoch=1, verbose=0)),
    ):
        start, first = model.get_weights(), fit().history["loss"]
        mk.restart(model, start)
        assert fit().history["loss"] == first


def test_nothing_is_traced_again():
    traces = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    model = keras.Sequential([keras.Input((3,)), Counted(), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    y = np.eye(2)[Y]
    model.fit(X, y, batch_size=5, verbose=0)
    before = len(traces)
    mk.restart(model)
    model.fit(X, y, batch_size=5, verbose=0)
    assert len(traces) == before


def test_a_model_that_is_not_compiled_is_told_so():
    with pytest.raises(ValueError, match="The model 'mine' has no optimizer to restart; compile it first"):
        mk.restart(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="mine"))


@pytest.mark.parametrize("weights", ["x", [], [np.ones(3)], np.ones(3), [np.ones((3, 4))] * 4, 1])
def test_weights_of_other_shapes_are_refused(weights):
    with pytest.raises(
        ValueError, match=r"weights must be arrays of the shapes \[\(3, 4\), \(4,\), \(4, 2\), \(2,\)\]"
    ):
        mk.restart(compiled("sgd"), weights)


@pytest.mark.parametrize("make", [mk.restart, fresh_copy, copy_of])
@pytest.mark.parametrize("model", [None, "x", np.ones(3), keras.Model, keras.Sequential([layers.Dense(1)])])
def test_what_is_not_a_built_model_is_refused(make, model):
    with pytest.raises((TypeError, ValueError), match="a Keras model|must have its weights|has no weights yet"):
        make(model)


# Copies


def normalized():
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(0).normal(5, 3, (50, 3)))
    return keras.Sequential([keras.Input((3,)), norm, layers.Dense(2)]), np.ones((2, 3), "float32")


def of_words(mode):
    words = layers.TextVectorization(output_mode=mode, output_sequence_length=4 if mode == "int" else None)
    words.adapt(["a b c", "b c d\u2028e"])
    return keras.Sequential([keras.Input((), dtype="string"), words]), tf.constant(["a d", "b q", "e"])


def looked_up(layer, mode, vocabulary, given):
    table = layer(output_mode=mode)
    table.adapt(vocabulary)
    dtype = "string" if layer is layers.StringLookup else "int64"
    return keras.Sequential([keras.Input((1,), dtype=dtype), table]), tf.constant(given)[:, None]


PREPROCESSED = {
    "batch_norm": normalized,
    "words": lambda: of_words("int"),
    "words by frequency": lambda: of_words("tf_idf"),
    "a table from a list": lambda: (
        keras.Sequential([keras.Input((1,), dtype="string"), layers.StringLookup(vocabulary=["u", "v"])]),
        tf.constant([["v"]]),
    ),
    "strings": lambda: looked_up(layers.StringLookup, "int", ["u", "v", "w"], ["u", "z"]),
    "several strings": lambda: looked_up(layers.StringLookup, "multi_hot", ["u", "v", "w"], ["u", "z"]),
    "integers": lambda: looked_up(layers.IntegerLookup, "int", [4, 5, 9], [9, 1]),
    "integers by frequency": lambda: looked_up(layers.IntegerLookup, "tf_idf", [4, 5, 9], [9, 1]),
}


@pytest.mark.parametrize("make", PREPROCESSED.values(), ids=PREPROCESSED)
def test_a_copy_keeps_tables_and_statistics(make):
    model, x = make()
    copies = [copy_of(model)]
    if not model.trainable_variables:
        copies += [fresh_copy(model), same_structure(model, [model.layers[-1].name])]
    for copy in copies:
        np.testing.assert_array_equal(copy(x), model(x))


def test_a_table_that_is_still_empty_is_copied_and_can_be_filled():
    copy = copy_of(keras.Sequential([keras.Input((1,), dtype="string"), layers.StringLookup()]))
    copy.layers[0].adapt(["u", "v"])
    assert copy(tf.constant([["u"]])).numpy().item() > 0


def test_a_fresh_copy_keeps_what_was_adapted_and_draws_the_rest_again():
    model, x = normalized()
    copy = fresh_copy(model)
    np.testing.assert_array_equal(copy.layers[0](x), model.layers[0](x))
    assert not np.array_equal(copy.layers[1].kernel, model.layers[1].kernel)


def with_functions():
    given, offset = keras.Input((3,)), 2.0
    inner = keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: tf.square(x) + offset), layers.Dense(3)])
    return keras.Model(given, layers.Lambda(lambda x: x - np.e, name="minus")(inner(inner(given))))


def test_a_model_with_lambda_layers_is_copied_with_the_same_functions():
    model, x = with_functions(), np.ones((2, 3), "float32")
    copy = copy_of(model)
    np.testing.assert_array_equal(copy(x), model(x))
    assert len(copy.weights) == 2 and not {id(w) for w in copy.weights} & {id(w) for w in model.weights}
    copy.weights[0].assign_add(tf.ones((3, 3)))
    assert not np.array_equal(copy(x), model(x))
    np.testing.assert_array_equal(with_residual(model, same_structure(model)).get_layer("source")(x), model(x))


def test_a_part_of_a_chain_with_lambda_layers_is_copied():
    chain = [layers.Lambda(lambda x: 2 * x, name="twice"), layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((3,)), *chain])
    np.testing.assert_array_equal(same_structure(model, ["twice"])(X), 2 * X.astype("float32"))


def test_a_model_that_cannot_be_created_again_says_why():
    class Scaled(layers.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, x):
            return self.factor * x

        def get_config(self):
            return {"name": self.name}

    model = keras.Sequential([keras.Input((3,)), Scaled(2.0)], name="mine")
    with pytest.raises(ValueError, match="The model 'mine' cannot be copied.*Give your own classes a get_config"):
        fresh_copy(model)


def test_a_copy_of_a_compiled_model_is_not_compiled():
    model = compiled("adam")
    for copy in (copy_of(model), fresh_copy(model)):
        assert not copy.compiled and copy.optimizer is None
    assert model.compiled


def test_a_copy_takes_the_weights_that_are_given():
    model, x = normalized()
    pure = PureModel(model)
    weights = pure.weights()
    doubled = weights._replace(parameters=tuple(2 * weight for weight in weights.parameters))
    np.testing.assert_allclose(copy_with(pure, doubled)(x), pure(doubled, x).outputs, rtol=1e-6)


def test_statistics_that_were_assigned_are_used():
    model, x = normalized()
    mean, variance, count = model.layers[0].get_weights()
    for variable, value in zip(model.layers[0].weights, (0 * mean, 4 * np.ones_like(variance), count), strict=True):
        variable.assign(value)
    assert not np.allclose(model.layers[0](x), x / 2)
    finalize_statistics(model)
    np.testing.assert_allclose(model.layers[0](x), x / 2, rtol=1e-5)
