"""What the proofs of the rules share: small tasks in float64, meta-gradients, and slopes by differences."""

import keras
import numpy as np
import tensorflow as tf

from meta_keras import MetaLearner


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


def meta(learner, tasks, training=True):
    """The meta-loss and its gradients, as NumPy has them."""
    _, _, (loss, gradients) = learner.meta_gradients(*tasks, training=training)
    return float(loss), [gradient.numpy() for gradient in gradients]


def adapted(rule, network, task, training=True):
    """The network's trainable weights after `rule` has adapted them to one task `(support_x, support_y)`."""
    found = rule.adapt(network, network.weights(), *task, loss=mean_square, training=training)
    return [weight.numpy() for weight in found.weights.trainable]


def mean_square(right, answers):
    return tf.reduce_mean(tf.square(right - answers))


def assert_same(given, wanted, tolerance=1e-12):
    given, wanted = list(given), list(wanted)
    assert len(given) == len(wanted)
    for one, other in zip(given, wanted, strict=True):
        assert np.shape(one) == np.shape(other)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def assert_slopes(learner, tasks, directions=2, tolerance=1e-8):
    """The meta-gradients are those of the meta-loss by central differences, for the learner's own variables."""
    variables = learner.trainable_variables
    _, gradients = meta(learner, tasks)
    start, generator = [v.numpy() for v in variables], np.random.default_rng(7)
    assert len(gradients) == len(variables) and any(np.abs(gradient).max() > 1e-4 for gradient in gradients)
    for _ in range(directions):
        direction = [generator.normal(size=v.shape) for v in variables]

        def loss_at(by, direction=direction):
            for variable, value, along in zip(variables, start, direction, strict=True):
                variable.assign(value + by * along)
            return meta(learner, tasks)[0]

        h = 1e-3  # the error of these four points is of the order of its fourth power
        slope = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h)
        loss_at(0)
        along = sum(np.sum(g * d) for g, d in zip(gradients, direction, strict=True))
        np.testing.assert_allclose(along, slope, rtol=tolerance, atol=tolerance)
