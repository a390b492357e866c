"""The rules on networks of all kinds: every layer and every loss that it adds takes effect in and after adaptation."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import (
    adapted,
    assert_same,
    assert_slopes,
    classification,
    in_float64,
    learner_of,
    meta,
    numbers,
    regression,
)

from meta_keras.rules import Context, GradientDescent, ImplicitGradient, Prototypes, Reptile

STATISTICS = ["episode", "support", "moving"]


@pytest.fixture(autouse=True)
def precise():
    in_float64()


class AddsLoss(layers.Layer):
    def call(self, inputs):
        self.add_loss(0.3 * keras.ops.mean(inputs**2))
        return inputs


class Transposed(layers.Layer):
    """A layer with the kernel of another."""

    def __init__(self, other):
        super().__init__()
        self.kernel = other.kernel

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.transpose(self.kernel))


def sequential(shape, *inner):
    return keras.Sequential([keras.Input(shape), *inner])


def convolutional():
    normalise = layers.BatchNormalization(momentum=0.7)
    return sequential((4, 4, 1), layers.Conv2D(2, 3, activation="tanh"), normalise, layers.Flatten(), layers.Dense(3))


def surprise():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")


def adding_losses():
    low = layers.Dense(3, "tanh", kernel_regularizer="l2", activity_regularizer="l2")
    return sequential((2,), low, AddsLoss(), layers.Dense(1, bias_regularizer="l2"))


def with_dropout():
    return sequential((2,), layers.Dense(6, "tanh"), layers.Dropout(0.5), layers.Dense(1))


def tied():
    inputs, there = keras.Input((2,)), layers.Dense(3, activation="tanh")
    hidden = there(inputs)
    return keras.Model(inputs, layers.Dense(1)(Transposed(there)(hidden)))


def partly_frozen():
    model = sequential((2,), layers.Dense(3, "tanh", name="cold"), layers.Dense(3, "tanh"), layers.Dense(1))
    model.layers[0].trainable = False
    return model


def embedding():
    return keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Embedding(9, 2), layers.Flatten(), layers.Dense(1)]
    )


def words():
    """Two tasks of sentences; the last two words of the nine occur in none."""
    (_, support_y, _), query_y = regression()
    drawn = np.random.default_rng(0).integers(0, 7, size=(2, 7, 3)).astype(np.int32)
    return (tf.constant(drawn[:, :4]), support_y, tf.constant(drawn[:, 4:])), query_y


@pytest.mark.parametrize("statistics", STATISTICS)
def test_a_convolutional_network_with_batch_norm_agrees_with_central_differences(statistics):
    rule = GradientDescent(0.1, 2, batch_statistics=statistics)
    assert_slopes(learner_of(convolutional(), rule, surprise()), classification())


@pytest.mark.parametrize("build", [adding_losses, with_dropout, tied, partly_frozen])
def test_a_network_agrees_with_central_differences(build):
    assert_slopes(learner_of(build(), GradientDescent(0.1, 2)), regression())


@pytest.mark.slow
@pytest.mark.parametrize("cell", [layers.GRU, layers.LSTM])
def test_a_recurrent_network_agrees_with_central_differences(cell):
    learner = learner_of(sequential((3, 2), cell(2, use_cudnn=False), layers.Dense(1)), GradientDescent(0.1, 2))
    assert_slopes(learner, regression((3, 2), tasks=1), graph=True)


def test_embeddings_agree_with_central_differences_and_words_that_do_not_occur_have_no_slope():
    learner = learner_of(embedding(), GradientDescent(0.1, 2))
    table = meta(learner, words())[1][0]
    seen = np.unique(np.concatenate([words()[0][0], words()[0][2]], axis=1))
    assert table.any(axis=1).nonzero()[0].tolist() == seen.tolist() and len(seen) < 9
    assert_slopes(learner, words())


@pytest.mark.parametrize(
    ("network", "by_x"),
    [
        (lambda: [layers.Dense(1, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.3))], False),
        (lambda: [layers.Dense(1, use_bias=False, activity_regularizer=keras.regularizers.L2(0.3))], True),
        (lambda: [layers.Dense(1, use_bias=False), AddsLoss()], True),
    ],
    ids=["weight regularizer", "activity regularizer", "add_loss"],
)
def test_what_layers_add_to_the_loss_counts_in_the_inner_and_in_the_outer_loss(network, by_x):
    a, rate, (x, y, u, v) = 0.7, 0.05, (1.5, 2.0, -0.4, 1.0)
    learner = learner_of(sequential((1,), *network()), GradientDescent(rate))
    learner.network.set_weights([np.array([[a]])])
    inner, outer = (0.3 * x * x, 0.3 * u * u) if by_x else (0.3, 0.3)  # of the squared weight
    end = a - rate * (2 * x * (a * x - y) + 2 * inner * a)
    by_hand = (2 * u * (end * u - v) + 2 * outer * end) * (1 - rate * (2 * x * x + 2 * inner))
    task = [tf.constant([[[number]]], tf.float64) for number in (x, y, u, v)]
    loss, (gradient,) = meta(learner, (tuple(task[:3]), task[3]))
    assert loss == pytest.approx((end * u - v) ** 2 + outer * end**2, rel=1e-7)  # Keras keeps 0.3 in float32
    np.testing.assert_allclose(gradient, [[by_hand]], rtol=1e-6)


@pytest.mark.parametrize("rule", [GradientDescent, Reptile, ImplicitGradient])
def test_dropout_draws_a_mask_for_each_inner_step_and_each_task_and_none_in_evaluation(rule):
    # A dropped input leaves its weight unchanged. With many inputs, two masks are never the same.
    model = sequential((64,), layers.Dropout(0.5), layers.Dense(1, use_bias=False, kernel_initializer="zeros"))
    task = tf.ones((1, 64), tf.float64), tf.ones((1, 1), tf.float64)
    settings = {"strength": 1e-9} if rule is ImplicitGradient else {}
    network = learner_of(model, rule(0.001)).pure

    def after(steps, number=0, training=True):
        return adapted(rule(0.001, steps, **settings), network, task, training, number)[0].ravel()

    one, two, three = after(1), after(2), after(3)
    masks = [one != 0, np.abs(two - one) > 1e-6, np.abs(three - two) > 1e-6, after(1, number=1) != 0]
    for place, mask in enumerate(masks):
        assert 16 < mask.sum() < 48
        assert all((mask != other).any() for other in masks[:place])
    assert after(1, training=False).all()


@pytest.mark.parametrize("rule", [GradientDescent, Reptile, ImplicitGradient])
def test_frozen_layers_are_not_adapted_and_get_no_gradient(rule):
    learner = learner_of(partly_frozen(), rule(0.1, 2))
    (x, y, _), _ = regression()
    cold = learner.network.layers[0].get_weights()
    context = Context(learner._loss_of, training=True)
    found = learner.rule.adapt(learner.pure, learner.pure.weights(), x[0], y[0], context).weights
    assert_same([part.numpy() for part in found.state], cold, 0)
    gradients = meta(learner, regression())[1]
    assert [gradient.shape for gradient in gradients] == [(3, 3), (3,), (3, 1), (1,)]
    assert all(gradient.any() for gradient in gradients)


def test_in_mixed_precision_the_gradients_are_those_of_float32_but_for_the_rounding():
    def gradients(policy, seed):
        keras.utils.set_random_seed(seed)
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(policy)
        model = sequential((2,), layers.Dense(8, "tanh"), layers.BatchNormalization(), layers.Dense(1))
        learner = learner_of(model, GradientDescent(0.1, 2))
        inputs, query_y = tf.nest.map_structure(lambda part: tf.cast(part, tf.float32), regression(support=16))
        answers, states, (loss, slopes) = learner.meta_gradients(inputs, query_y)
        assert loss.dtype == tf.float32 and {slope.dtype for slope in slopes} == {tf.float32}
        assert [state.dtype for state in states[0]] == [state.dtype for state in learner.pure.weights().state]
        return np.concatenate([slope.numpy().ravel() for slope in slopes])

    off = []
    for seed in range(3):  # a single small batch may be an outlier
        rounded, exact = gradients("mixed_bfloat16", seed), gradients("float32", seed)
        assert np.isfinite(rounded).all() and not np.array_equal(rounded, exact)
        off.append(np.linalg.norm(rounded - exact) / np.linalg.norm(exact))
    assert np.mean(off) < 0.1


def test_the_smallest_inner_gradients_survive_half_precision():
    """They are of the order of 1e-8, and the smallest number of float16 is 6e-8."""

    def tiny(y, answers):
        return 1e-8 * tf.reduce_mean(tf.square(y - answers), axis=-1)

    ends = []
    for policy in ("mixed_float16", "float32"):
        keras.utils.set_random_seed(0)
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(policy)
        learner = learner_of(sequential((2,), layers.Dense(1)), GradientDescent(1e6), tiny)
        before = learner.network.get_weights()[0]
        x, y = np.float32(numbers(16, 2)), np.float32(numbers(16, 1, seed=1))
        ends.append(learner.adapt(x, y).get_weights()[0] - before)
    assert np.abs(ends[1]).max() > 1e-4
    np.testing.assert_allclose(ends[0], ends[1], rtol=0.05, atol=1e-5)


RULES = {
    "descent": lambda **settings: GradientDescent(0.1, 0, **settings),
    "reptile": lambda **settings: Reptile(0.1, evaluation_steps=0, **settings),
    "implicit": lambda **settings: ImplicitGradient(0.1, evaluation_steps=0, **settings),
    "prototypes": Prototypes,
}


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("kind", list(RULES))
def test_batch_statistics_say_what_the_answer_to_a_query_goes_by(kind, statistics):
    normalise = layers.BatchNormalization(epsilon=0.01)
    learner = learner_of(sequential((3,), normalise), RULES[kind](batch_statistics=statistics))
    mean, variance = np.array([0.5, -1.0, 2.0]), np.array([2.0, 0.5, 1.0])
    normalise.moving_mean.assign(mean)
    normalise.moving_variance.assign(variance)
    (support_x, labels, query_x), _ = classification((3,), tasks=1)

    def by(batch, x):
        centre, spread = (batch.mean(axis=0), batch.var(axis=0)) if batch is not None else (mean, variance)
        return (x - centre) / np.sqrt(spread + 0.01)

    support, query = support_x.numpy()[0], query_x.numpy()[0]
    of_support, of_query = {"episode": (support, query), "support": (support, support), "moving": (None, None)}[
        statistics
    ]
    wanted = by(of_query, query)
    if kind == "prototypes":
        places = by(of_support, support)
        prototypes = np.stack([places[labels.numpy()[0] == label].mean(axis=0) for label in range(3)])
        wanted = -np.square(wanted[:, None] - prototypes).sum(axis=-1)
    given = learner((support_x, labels, query_x), training=False).numpy()[0]
    np.testing.assert_allclose(given, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_only_by_the_statistics_of_an_episode_an_answer_depends_on_the_other_queries(statistics):
    learner = learner_of(convolutional(), GradientDescent(0.1, 2, batch_statistics=statistics), surprise())
    (support_x, labels, query_x), _ = classification()
    other = tf.concat([query_x[:, :1], query_x[:, 1:] + 1], axis=1)
    given, again = (learner((support_x, labels, x), training=False).numpy()[:, 0] for x in (query_x, other))
    assert np.allclose(given, again, rtol=1e-12, atol=1e-12) == (statistics != "episode")


def test_frozen_batch_norm_goes_by_its_moving_averages_whatever_the_rule_says():
    model = sequential((2,), layers.BatchNormalization(name="cold"), layers.Dense(1))
    model.get_layer("cold").trainable = False
    tasks, found = regression(), []
    for statistics in STATISTICS:
        found.append(meta(learner_of(model, GradientDescent(0.1, 2, batch_statistics=statistics)), tasks)[1])
    assert_same(found[0], found[1], 0)
    assert_same(found[0], found[2], 0)
