"""Shared by the tests of the rules: small tasks in float64, meta-gradients, and gradients by finite differences."""

import keras
import numpy as np
import tensorflow as tf

from meta_keras import MetaLearner
from meta_keras.rules import Context


def in_float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def regression(shape=(2,), targets=1, tasks=2, support=4, queries=3, seed=0):
    """`(support_x, support_y, query_x), query_y`, as `meta_gradients` takes them."""
    parts = [(support, *shape), (support, targets), (queries, *shape), (queries, targets)]
    *inputs, query_y = [tf.constant(numbers(tasks, *part, seed=(seed, n))) for n, part in enumerate(parts)]
    return tuple(inputs), query_y


def classification(shape=(4, 4, 1), ways=3, tasks=2, seed=0):
    """Two examples of each class in a support set and among the queries."""
    (support_x, _, query_x), _ = regression(shape, tasks=tasks, support=2 * ways, queries=2 * ways, seed=seed)
    labels = tf.constant([[*range(ways), *range(ways)]] * tasks)
    return (support_x, labels, query_x), labels


def learner_of(network, rule, loss=keras.losses.mean_squared_error, parallel="map", **compiled):
    learner = MetaLearner(network=network, rule=rule, parallel=parallel)
    learner.compile(loss=loss, **compiled)
    return learner


def meta(learner, tasks, training=True, graph=False):
    """The meta-loss and its gradients, as NumPy arrays."""
    return _meta(tf.function(learner.meta_gradients) if graph else learner.meta_gradients, tasks, training)


def _meta(function, tasks, training=True):
    _, _, (loss, gradients) = function(*tasks, training=training)
    return float(loss), [gradient.numpy() for gradient in gradients]


def adapted(rule, network, task, training=True, number=0, loss=None):
    """The network's trainable weights after `rule` has adapted them to one task `(support_x, support_y)`."""
    start = network.fork(network.weights(), number)
    found = rule.adapt(network, start, *task, Context(loss or mean_square, training=training))
    return [weight.numpy() for weight in found.weights.parameters]


def mean_square(right, answers):
    return tf.reduce_mean(tf.square(right - answers))


def assert_same(given, wanted, tolerance=1e-12):
    given, wanted = list(given), list(wanted)
    assert len(given) == len(wanted)
    for one, other in zip(given, wanted, strict=True):
        assert np.shape(one) == np.shape(other)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def assert_slopes(learner, tasks, graph=False, tolerance=1e-8, h=1e-3):
    """The meta-gradients are those of the meta-loss by central differences, for the learner's own variables.

    h: the step size. The error of the four-point formula is of fourth order in it, but it must not reach across a kink.
    """
    variables = learner.trainable_variables
    start = [variable.numpy() for variable in variables]
    direction = [numbers(*value.shape, seed=(7, place)) for place, value in enumerate(start)]
    function = tf.function(learner.meta_gradients) if graph else learner.meta_gradients
    _, gradients = _meta(function, tasks)
    along = sum(np.sum(g * d) for g, d in zip(gradients, direction, strict=True))

    def loss_at(by):
        for variable, value, ahead in zip(variables, start, direction, strict=True):
            variable.assign(value + by * ahead)
        return _meta(function, tasks)[0]

    slope = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h)
    np.testing.assert_allclose(along, slope, rtol=tolerance, atol=tolerance)
    assert abs(slope) > 1e-3
