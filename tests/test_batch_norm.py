"""The switch of batch normalization belongs to one thread: other threads and plain models are not affected."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import MetaLearner, Sinusoids
from meta_keras.batch_norm import exact_moments, normalizing
from meta_keras.functional import PureModel
from meta_keras.rules import GradientDescent


def normalizing_model():
    return keras.Sequential([keras.Input((1,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(1)])


def in_threads(*functions):
    """Run functions concurrently and raise any error that one of them raised."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.slow
def test_a_learner_and_a_plain_model_train_in_two_threads_as_they_do_alone():
    """Both have batch norm; the plain one must reach the same weights as on its own, including the moving averages."""
    x = np.random.default_rng(0).normal(size=(64, 1)).astype("float32")
    start = None

    def plain():
        nonlocal start
        model = normalizing_model()
        start = start or model.get_weights()
        model.set_weights(start)
        model.compile("sgd", "mse", run_eagerly=True)  # so that each step calls the layers again
        return model

    def learner():
        keras.utils.set_random_seed(1)
        learner = MetaLearner(network=normalizing_model(), rule=GradientDescent(0.01), parallel="map")
        learner.compile("sgd", "mse", run_eagerly=True)
        return learner

    def train(model):
        model.fit(x, 2 * x, batch_size=8, epochs=3, shuffle=False, verbose=0)

    def meta_train(learner):
        learner.fit(Sinusoids(shots=3, queries=3, meta_batch=2), steps_per_epoch=8, verbose=0)

    alone, beside, other, another = plain(), plain(), learner(), learner()
    train(alone)
    meta_train(other)
    in_threads(lambda: train(beside), lambda: meta_train(another))
    for one, two in ((alone, beside), (other.network, another.network)):
        for now, then in zip(one.get_weights(), two.get_weights(), strict=True):
            np.testing.assert_allclose(now, then, rtol=1e-5, atol=1e-6)


def test_two_learners_adapt_in_two_threads_and_leave_nothing_behind():
    learners = [MetaLearner(network=normalizing_model(), rule=GradientDescent(0.05)) for _ in range(2)]
    x = np.linspace(-1, 1, 6, dtype="float32")[:, None]
    model = normalizing_model()
    model.layers[1].moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    wanted = model(x).numpy()
    alone = [learner.adapt(x, x)(x).numpy() for learner in learners]
    found = {}

    def adapt(number):
        found[number] = [learners[number].adapt(x, x)(x).numpy() for _ in range(5)]

    in_threads(lambda: adapt(0), lambda: adapt(1), lambda: found.update(plain=[model(x).numpy() for _ in range(30)]))
    for number in (0, 1):
        for answers in found[number]:
            np.testing.assert_allclose(answers, alone[number], rtol=1e-5, atol=1e-6)
    for answers in found["plain"]:
        np.testing.assert_allclose(answers, wanted, rtol=1e-6)
    np.testing.assert_allclose(keras.models.clone_model(model)(x).shape, wanted.shape)
    np.testing.assert_array_equal(model.layers[1].moving_mean, [1, 2, 3, 4])


@pytest.mark.parametrize("statistics", [None, "batch", "moving", "keep"])
def test_another_thread_within_the_block_computes_as_keras_does(statistics):
    layer = layers.BatchNormalization(momentum=0.5)
    layer.build((None, 1))
    x = tf.constant([[1.0], [3.0]])
    wanted, found = layer(x, training=False).numpy(), []
    with normalizing(statistics):
        in_threads(lambda: found.append(layer(x, training=False).numpy()))
    np.testing.assert_array_equal(found[0], wanted)


def test_the_momentum_of_a_layer_is_never_touched():
    seen = []

    class Watching(layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            seen.append(self.momentum)
            return super().call(inputs, training=training, mask=mask)

    model = keras.Sequential([keras.Input((1,)), Watching(momentum=0.5)])
    pure = PureModel(model)
    kept = pure(pure.weights(), tf.constant([[1.0], [3.0]]), statistics="keep").weights
    np.testing.assert_allclose(kept.state[0], [2.0])
    assert set(seen) == {0.5} and model.layers[0].momentum == 0.5


def test_the_block_ends_even_if_it_fails():
    layer = layers.BatchNormalization()
    layer.build((None, 1))
    x = tf.constant([[1.0], [3.0]])
    wanted = layer(x, training=False).numpy()
    with pytest.raises(RuntimeError), normalizing("batch"):
        raise RuntimeError
    np.testing.assert_array_equal(layer(x, training=False), wanted)


@pytest.mark.parametrize("keepdims", [False, True])
def test_exact_moments_are_those_of_tensorflow_with_a_gradient_through_the_mean(keepdims):
    x = tf.constant(np.random.default_rng(0).normal(size=(5, 3)))
    for one, other in zip(
        exact_moments(x, [0], keepdims=keepdims), tf.nn.moments(x, [0], keepdims=keepdims), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)
        assert one.shape == other.shape


def test_second_derivatives_are_exact_within_the_block_alone():
    def second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                variance = tf.reduce_sum(tf.nn.moments(x, [0])[1])
            gradient = inner.gradient(variance, x)
        return outer.jacobian(gradient, x).numpy()

    x = tf.constant([1.0, 2.0, 4.0])
    with normalizing(None):
        exact = second(x)
    n = 3
    np.testing.assert_allclose(exact, 2 / n * (np.eye(n) - 1 / n), atol=1e-6)
    assert not np.allclose(second(x), exact)  # if TensorFlow fixes this, the switch can be removed


def normalized(model, x, statistics):
    """The outputs, their first derivatives and the derivatives of these, and what the moving averages become."""
    pure = PureModel(model)
    weights = pure.weights()
    sources = [x, *weights.parameters]
    with tf.GradientTape() as outer:
        outer.watch(sources)
        with tf.GradientTape() as inner:
            inner.watch(sources)
            outcome = pure(weights, x, training=True, statistics=statistics)
            loss = tf.reduce_sum(tf.sin(outcome.outputs) * tf.cast(tf.range(x.shape[-1]) + 1, x.dtype))
        first = inner.gradient(loss, sources)
        total = tf.add_n([tf.reduce_sum(tf.sin(3 * one)) for one in first])
    return [
        outcome.outputs,
        *first,
        *outer.gradient(total, sources, unconnected_gradients="zero"),
        *outcome.weights.state,
    ]


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (1, 3, 3, 2), (1, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("parts", [{}, {"scale": False}, {"center": False}, {"momentum": 0.3, "epsilon": 0.1}], ids=str)
def test_fused_statistics_are_those_of_the_batch_and_so_are_derivatives_of_both_orders(shape, parts):
    layer = layers.BatchNormalization(gamma_initializer="random_normal", beta_initializer="random_normal", **parts)
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    precise = layers.BatchNormalization(dtype="float64", **parts)
    reference = keras.Sequential([keras.Input(shape[1:], dtype="float64"), precise])
    reference.set_weights(model.get_weights())
    x = tf.constant(np.random.default_rng(0).normal(2, 3, shape).astype("float32"))
    wanted = normalized(reference, tf.cast(x, "float64"), "batch")
    for one, other in zip(normalized(model, x, "fused"), wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-4 * float(tf.reduce_max(tf.abs(other))) + 1e-6)


def operations(layer, shape, dtype="float32", mask=None):
    """What a graph of the layer with fused statistics consists of."""

    @tf.function
    def run(x):
        with normalizing("fused"):
            return layer(x, training=True, mask=mask)

    layer.build((None, *shape[1:]))
    return {
        operation.type for operation in run.get_concrete_function(tf.TensorSpec(shape, dtype)).graph.get_operations()
    }


def test_only_images_in_single_precision_are_fused_and_only_on_a_cpu(monkeypatch):
    images = (None, 4, 4, 2)
    with monkeypatch.context() as patch:
        patch.setattr("meta_keras.batch_norm.on_gpu", lambda: True)
        assert "FusedBatchNormV3" not in operations(layers.BatchNormalization(), images)
    monkeypatch.setattr("meta_keras.batch_norm.on_gpu", lambda: False)
    assert "FusedBatchNormV3" in operations(layers.BatchNormalization(), images)
    frozen = layers.BatchNormalization(trainable=False)
    for layer, shape, more in [
        (layers.BatchNormalization(), (None, 2), {}),
        (layers.BatchNormalization(axis=1), images, {}),
        (frozen, images, {}),
        (layers.BatchNormalization(dtype="float64"), images, {"dtype": "float64"}),
        (layers.BatchNormalization(dtype="mixed_float16"), images, {"dtype": "float16"}),
        (layers.BatchNormalization(dtype="mixed_float16", autocast=False), images, {}),
        (layers.BatchNormalization(), (3, 4, 4, 2), {"mask": tf.ones((3, 4, 4), tf.bool)}),
    ]:
        assert "FusedBatchNormV3" not in operations(layer, shape, **more)


def test_batch_renormalization_is_refused_where_it_would_ignore_the_choice():
    try:
        layer = layers.BatchNormalization(renorm=True)
    except (TypeError, ValueError):
        pytest.skip("This Keras has no batch renormalization.")
    network = keras.Sequential([keras.Input((1,)), layer, layers.Dense(1)])
    x = np.ones((2, 1), "float32")
    with pytest.raises(ValueError, match="uses batch renormalization, for which batch_statistics"):
        MetaLearner(network=network, rule=GradientDescent(0.1)).predictor(x, x)
    MetaLearner(network=network, rule=GradientDescent(0.1, batch_statistics="moving")).predictor(x, x)
