"""Max pooling as the maximum of slices: the same values and derivatives, exact under XLA and in half precision."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from meta_keras import FewShot, MetaLearner, UnrolledTraining, load, networks
from meta_keras.pooling import LAYERS, as_maxima, max_pooling
from meta_keras.rules import GradientDescent, Prototypes, UpdateNetwork
from meta_keras.traces import checked_jit


def derivatives(layer, x, upstream):
    """The outputs, their gradient, and the gradient of its square with respect to what it depends on."""
    with tf.GradientTape() as outer:
        outer.watch([x, upstream])
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = layer(x)
        gradient = inner.gradient(y, x, upstream)
        total = tf.reduce_sum(gradient**2) + tf.reduce_sum(y**3)
    return [y, gradient, *outer.gradient(total, [x, upstream])]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.sampled_from(["valid", "same"]),
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
    st.lists(st.integers(3, 7), min_size=3, max_size=3),
    st.integers(0, 2**31),
)
def test_values_and_derivatives_are_those_of_the_layer_also_for_equal_numbers(
    axes, padding, size, strides, sides, seed
):
    rng = np.random.default_rng(seed)
    dtype = "float32" if axes == 3 else "float64"  # TensorFlow pools volumes in single precision only
    layer = LAYERS[axes - 1](tuple(size[:axes]), tuple(strides[:axes]), padding, dtype=dtype)
    shape = 2, *sides[:axes], 2
    equal = rng.integers(-2, 3, shape) if axes < 3 else rng.permutation(math.prod(shape)).reshape(shape) / 100
    x = tf.constant(
        equal.astype(dtype)
    )  # many are equal, for which TensorFlow's pooling of volumes has other gradients
    upstream = tf.constant(rng.normal(size=layer(x).shape).astype(dtype))
    wanted = derivatives(layer, x, upstream)
    with as_maxima():
        found = derivatives(layer, x, upstream)
    for one, other in zip(found, wanted, strict=True):
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_slices_are_compared_only_within_the_block_and_where_sizes_are_known():
    layer, first = layers.MaxPooling2D(2), layers.MaxPooling2D(2, data_format="channels_first")

    def kinds(layer, shape, active):
        @tf.function(input_signature=[tf.TensorSpec(shape)], autograph=False)
        def pool(x):
            with as_maxima(active):
                return layer(x)

        return {operation.type for operation in pool.get_concrete_function().graph.get_operations()}

    assert "MaxPool" in kinds(layer, (1, 4, 4, 1), False) and "Maximum" in kinds(layer, (1, 4, 4, 1), True)
    assert "MaxPool" not in kinds(layer, (None, 4, 4, 1), True)
    assert "MaxPool" in kinds(layer, (1, None, 4, 1), True)
    assert "Maximum" not in kinds(first, (1, 1, 4, 4), True)
    np.testing.assert_array_equal(
        max_pooling(tf.constant([[[1.0], [3.0], [2.0]]]), (2,), (1,), "same"), [[[3], [3], [2]]]
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_window_is_compared_along_one_axis_after_the_other(axes):
    """XLA would compile one slice per place in the window for minutes."""
    size, sides = (6, 7, 3)[:axes], (12, 14, 6)[:axes]
    graph = tf.function(lambda x: max_pooling(x, size, size, "valid")).get_concrete_function(
        tf.TensorSpec((2, *sides, 1))
    )
    kinds = [operation.type for operation in graph.graph.get_operations()]
    assert kinds.count("StridedSlice") == sum(size) and kinds.count("Maximum") == sum(size) - axes


@pytest.mark.parametrize("strides", [(5, 4), (2, 3)])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_of_equal_numbers_in_large_windows_the_first_one_row_by_row_gets_the_gradient(padding, strides):
    layer, rng = layers.MaxPooling2D((5, 4), strides, padding, dtype="float64"), np.random.default_rng(0)
    x = tf.constant(rng.integers(0, 2, (3, 11, 13, 2)).astype("float64"))
    upstream = tf.constant(rng.normal(size=layer(x).shape))
    wanted = derivatives(layer, x, upstream)
    with as_maxima():
        found = derivatives(layer, x, upstream)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def tasks():
    return FewShot(load("glyphs").split("train"), 5, 1, 3, meta_batch=2, seed=1)


def meta_gradient(dtype, jit_compile, start=None):
    """The meta-gradient of a small conv4 after one step of training with SGD, and the weights before."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        keras.utils.set_random_seed(0)
        network = networks.conv4(5, filters=3)
        learner = MetaLearner(network=network, rule=GradientDescent(0.1, 2))
        learner.compile(keras.optimizers.SGD(1.0), metrics=[], jit_compile=jit_compile, steps_per_execution=1)
        if start is not None:
            for variable, value in zip(learner.trainable_variables, start, strict=True):
                variable.assign(value)
        start = [variable.numpy() for variable in learner.trainable_variables]
        *inputs, y = next(iter(tasks()))
        inputs = [tf.cast(part, dtype) if part.dtype.is_floating else part for part in inputs]
        learner.train_on_batch(tuple(inputs), y)
        moved = [s - variable.numpy() for s, variable in zip(start, learner.trainable_variables, strict=True)]
        return np.concatenate([np.ravel(one).astype("float64") for one in moved]), start
    finally:
        keras.config.set_floatx(before)


@pytest.mark.slow
def test_meta_gradients_through_max_pooling_are_exact_under_xla():
    compiled, start = meta_gradient("float32", True)
    exact, _ = meta_gradient("float64", False, start)
    assert np.linalg.norm(compiled - exact) < 1e-3 * np.linalg.norm(exact)


@pytest.mark.slow
def test_max_pooling_in_half_precision_is_trained_under_xla():
    network = keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Rescaling(1.0), layers.MaxPooling2D(4), layers.Conv2D(4, 3, dtype="float16")]
        + [layers.MaxPooling2D(2, dtype="float16"), layers.Flatten(), layers.Dense(5)]
    )
    learner = MetaLearner(network=network, rule=GradientDescent(0.1))
    learner.compile(jit_compile=True)
    assert np.isfinite(learner.fit(tasks(), steps_per_epoch=1, verbose=0).history["loss"][0])


def with_pooling(pool, shape=(4, 4, 1)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(pool(layers.Dense(1)(inputs)))))


INEXACT = {
    "operation": lambda: with_pooling(lambda x: keras.ops.max_pool(x, 2)),
    "TensorFlow's": lambda: with_pooling(layers.Lambda(lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"))),
    "unknown size": lambda: with_pooling(layers.MaxPooling2D(2), (None, None, 1)),
}


@pytest.mark.parametrize("name", INEXACT)
def test_max_pooling_that_xla_would_differentiate_inexactly_is_refused_or_not_compiled(name):
    network = INEXACT[name]()
    learner = MetaLearner(network=network, rule=GradientDescent(0.1), parallel="vectorized")
    learner.compile()
    assert not learner.jit_compile
    with pytest.raises(ValueError, match="round the second derivatives of max pooling.*or jit_compile=False"):
        learner.compile(jit_compile=True)
    for rule in (GradientDescent(0.1, first_order=True), Prototypes()):
        learner = MetaLearner(network=network, rule=rule, parallel="vectorized")
        learner.compile()
        assert learner.jit_compile
    training = UnrolledTraining(network, UpdateNetwork(hidden=(2,)), steps=2, truncation=2)
    with pytest.raises(ValueError, match="round the second derivatives"):
        training.compile(jit_compile=True)


def test_max_pooling_layers_are_compiled():
    network = with_pooling(layers.MaxPooling2D(2))
    assert checked_jit(network, "auto", True) is True and checked_jit(network, True) is True
    assert checked_jit(network, "auto", False) is False and checked_jit(network, False, True) is False
