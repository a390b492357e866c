"""Convolutions as matrix products have the same values and derivatives, and are used on a GPU alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import classification, in_float64, learner_of, numbers

from meta_keras import networks, parallel
from meta_keras.convolutions import MOST_PIXELS, as_products, can_be_product
from meta_keras.parallel import best_for
from meta_keras.rules import GradientDescent, LearnedRates

SETTINGS = {
    "valid": {"kernel_size": 3},
    "same": {"kernel_size": (2, 3), "padding": "same"},
    "stride, same": {"kernel_size": 3, "strides": (2, 3), "padding": "same"},
    "stride, valid": {"kernel_size": (3, 2), "strides": 2},
    "stride beyond the kernel": {"kernel_size": 1, "strides": 2, "padding": "same"},
    "without bias": {"kernel_size": 3, "padding": "same", "use_bias": False},
    "dilation, same": {"kernel_size": 3, "dilation_rate": 2, "padding": "same"},
    "dilation, valid": {"kernel_size": 2, "dilation_rate": (2, 3)},
}


@pytest.fixture
def gpu(monkeypatch):
    """Everything is as on a machine with a GPU, but computed on the CPU."""
    monkeypatch.setattr(parallel, "on_gpu", lambda: True)


def derivatives(layer, images):
    """The outputs, the gradients, and the gradients of a function of these gradients."""
    weights = [tf.convert_to_tensor(variable) for variable in layer.variables]
    with tf.GradientTape() as outer:
        outer.watch([images, *weights])
        with tf.GradientTape() as inner:
            inner.watch([images, *weights])
            with keras.StatelessScope(state_mapping=list(zip(layer.variables, weights, strict=True))):
                outputs = layer(images)
            loss = tf.reduce_sum(tf.sin(outputs))
        gradients = inner.gradient(loss, [images, *weights])
        total = tf.add_n([tf.reduce_sum(gradient**3) for gradient in gradients])
    return [outputs, *gradients, *outer.gradient(total, [images, *weights])]


@pytest.mark.parametrize("sides", [(6, 6), (7, 8)])
@pytest.mark.parametrize("setting", list(SETTINGS))
def test_values_and_derivatives_are_those_of_the_convolution(setting, sides):
    in_float64()
    keras.utils.set_random_seed(0)
    layer, images = layers.Conv2D(2, **SETTINGS[setting]), tf.constant(numbers(3, *sides, 2))
    layer.build(images.shape)
    wanted = derivatives(layer, images)
    with as_products():
        given = derivatives(layer, images)
    for one, other in zip(given, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def strided():
    inner = [layers.Conv2D(2, 3, 2, "same", activation="tanh"), layers.BatchNormalization(), layers.Conv2D(2, 2)]
    return keras.Sequential([keras.Input((5, 6, 1)), *inner, layers.MaxPooling2D(), layers.Flatten(), layers.Dense(3)])


def found(way, rule):
    keras.utils.set_random_seed(0)
    learner, (inputs, labels) = learner_of(strided(), rule(), None, parallel=way), classification((5, 6, 1), tasks=3)
    function = tf.function(learner.meta_gradients)
    graph = function.get_concrete_function(inputs, labels).graph.as_graph_def()
    operations = [*graph.node, *(one for inner in graph.library.function for one in inner.node_def)]
    kinds = {operation.op for operation in operations}
    return [part.numpy() for part in tf.nest.flatten(function(inputs, labels))], kinds


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [lambda: GradientDescent(0.1, 2), lambda: GradientDescent(LearnedRates(0.1, "layer-step"), 2, first_order=True)],
    ids=["second order", "first order"],
)
def test_meta_gradients_are_those_of_map_without_a_loop(rule, gpu):
    in_float64()
    (wanted, _), (given, kinds) = found("map", rule), found("vectorized", rule)
    for one, other in zip(given, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    assert not any("While" in kind or "Conv2D" in kind for kind in kinds)


def test_the_choice_depends_on_the_gpu_and_on_the_size_of_the_images(gpu, monkeypatch):
    rule = GradientDescent(0.1)
    side = int(MOST_PIXELS**0.5)
    small, large = (networks.conv4(5, input_shape=(n, n, 1), filters=2) for n in (side, side + 1))
    assert best_for(small, rule) == "vectorized" and best_for(large, rule) == "map"
    assert best_for(keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(2, 3)]), rule) == "map"
    monkeypatch.setattr(parallel, "on_gpu", lambda: False)
    assert best_for(small, rule) == "map"


class Own(layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return -super().convolution_op(inputs, kernel)


OTHERS = {
    "one dimension": lambda: [layers.Reshape((8, 8)), layers.Conv1D(2, 3)],
    "depthwise": lambda: [layers.DepthwiseConv2D(3)],
    "separable": lambda: [layers.SeparableConv2D(2, 3)],
    "transposed": lambda: [layers.Conv2DTranspose(2, 3)],
    "groups": lambda: [layers.Conv2D(4, 3, groups=2)],
    "own operation": lambda: [Own(2, 3)],
}


@pytest.mark.parametrize("other", list(OTHERS))
def test_other_convolutions_are_processed_one_after_another(other, gpu):
    network = keras.Sequential([keras.Input((4, 8, 2)), *OTHERS[other](), layers.Flatten(), layers.Dense(3)])
    assert best_for(network, GradientDescent(0.1)) == "map"
    images, convolution = tf.constant(numbers(2, 4, 8, 2), tf.float32), network.layers[-3]
    assert not can_be_product(convolution)
    outside = network(images)
    with as_products():
        np.testing.assert_allclose(network(images), outside, rtol=1e-5)


def test_outside_of_the_block_a_layer_convolves():
    layer, images = layers.Conv2D(2, 3), tf.zeros((1, 4, 4, 1))
    layer.build(images.shape)

    def kinds():
        graph = tf.function(lambda x: layer(x)).get_concrete_function(images).graph
        return {operation.type for operation in graph.get_operations()}

    with as_products():
        assert "Conv2D" not in kinds()
        with as_products(False):
            assert "Conv2D" in kinds()
    assert "Conv2D" in kinds()
