"""Reptile and ImplicitGradient: the rules that do not differentiate through their inner steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import adapted, assert_same, assert_slopes, in_float64, learner_of, meta, numbers, regression

from meta_keras.rules import GradientDescent, ImplicitGradient, Reptile
from meta_keras.rules.implicit import conjugate_gradients

ALL = [0, 1, 2, 3, 4]


@pytest.fixture(autouse=True)
def precise():
    in_float64()


def mlp(*inner):
    return keras.Sequential([keras.Input((2,)), layers.Dense(3, "tanh"), *inner, layers.Dense(1)])


def linear(inputs=3):
    return keras.Sequential([keras.Input((inputs,)), layers.Dense(1, use_bias=False)])


def first(tasks):
    return [part[0] for part in tasks[0][:2]]


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("statistics", ["episode", "support", "moving"])
def test_the_gradient_of_reptile_is_the_way_from_the_end_to_the_start(statistics, steps):
    learner = learner_of(mlp(layers.BatchNormalization()), Reptile(0.1, steps, batch_statistics=statistics))
    tasks = regression(tasks=3)
    _, gradients = meta(learner, tasks)
    start = learner.network.get_weights()[:4] + learner.network.get_weights()[6:]
    ends = [adapted(learner.rule, learner.pure, [p[n] for p in tasks[0][:2]]) for n in range(3)]
    wanted = [then - np.mean(now, axis=0) for then, now in zip(start, zip(*ends, strict=True), strict=True)]
    assert_same(gradients, wanted)
    assert all(np.abs(gradient).max() > 1e-4 for gradient in gradients[2:])


@pytest.mark.parametrize(
    ("batch_size", "batches"), [(None, [range(5)] * 3), (2, [[0, 1], [2, 3], [4, 0]]), (7, [range(5)] * 3)]
)
def test_reptile_takes_the_support_set_in_turns(batch_size, batches):
    learner = learner_of(linear(), Reptile(0.1, 3, batch_size=batch_size))
    x, y = first(tasks := regression((3,), tasks=1, support=5))
    weight = learner.network.get_weights()[0]
    for rows in batches:
        residual = x.numpy()[rows] @ weight - y.numpy()[rows]
        weight = weight - 0.1 * 2 * x.numpy()[rows].T @ residual / len(rows)
    assert_same(adapted(learner.rule, learner.pure, (x, y)), [weight])
    assert_same(meta(learner, tasks)[1], [learner.network.get_weights()[0] - weight])


def test_reptile_steps_as_gradient_descent_does():
    tasks, model = regression(), mlp()
    for training in (True, False):
        ends = [
            adapted(rule(0.1, 3, evaluation_steps=5), learner_of(model, rule(0.1)).pure, first(tasks), training)
            for rule in (Reptile, GradientDescent)
        ]
        assert_same(*ends)


def test_reptile_reports_the_loss_on_the_queries_and_does_not_learn_from_it():
    learner, (inputs, query_y) = learner_of(mlp(), Reptile(0.1, 2)), regression()
    other = ((*inputs[:2], inputs[2] + 1), query_y - 2)
    (loss, gradients), (other_loss, same) = meta(learner, (inputs, query_y)), meta(learner, other)
    assert_same(gradients, same, 0)
    assert abs(loss - other_loss) > 0.1
    assert loss == pytest.approx(meta(learner, (inputs, query_y), training=False)[0], rel=1e-12)


def test_with_sgd_reptile_moves_that_part_of_the_way():
    learner = learner_of(mlp(), Reptile(0.1, 3), optimizer=keras.optimizers.SGD(0.25))
    tasks = regression(tasks=1)
    start, end = learner.network.get_weights(), adapted(learner.rule, learner.pure, first(tasks))
    learner.train_step(tasks)
    wanted = [then + 0.25 * (now - then) for then, now in zip(start, end, strict=True)]
    assert_same(learner.network.get_weights(), wanted, 1e-7)  # Keras keeps the optimizer's rate in float32


def implicit_by_hand(theta, x, y, u, v, strength):
    """theta' and the meta-gradient of linear regression with mean squared error: every part has a closed form."""
    hessian = 2 * x.T @ x / len(x)
    held = np.eye(len(theta)) * strength
    end = np.linalg.solve(hessian + held, 2 * x.T @ y / len(x) + strength * theta)
    slope = 2 * u.T @ (u @ end - v) / len(u)
    return end, np.linalg.solve(np.eye(len(theta)) + hessian / strength, slope)


@pytest.mark.parametrize(("seed", "strength"), [(0, 2.0), (1, 3.0)])
def test_the_implicit_gradient_of_linear_regression_is_the_one_in_closed_form(seed, strength):
    rule = ImplicitGradient(0.2, 120, strength=strength, conjugate_steps=3)
    learner, tasks = learner_of(linear(), rule), regression((3,), tasks=1, support=9, seed=seed)
    arrays = [part.numpy()[0] for part in (*tasks[0], tasks[1])]
    end, gradient = implicit_by_hand(learner.network.get_weights()[0], *arrays, strength)
    assert meta(learner, tasks, graph=True)[0] == pytest.approx(np.mean((arrays[2] @ end - arrays[3]) ** 2), rel=1e-10)
    assert_same(meta(learner, tasks, graph=True)[1], [gradient], 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["episode", "support", "moving"])
def test_at_the_minimum_the_implicit_gradient_agrees_with_central_differences(statistics):
    inner = [layers.Dense(1, "tanh"), layers.BatchNormalization(), layers.Dense(1)]  # seven weights
    rule = ImplicitGradient(0.08, 36, strength=6.0, conjugate_steps=8, batch_statistics=statistics)
    learner = learner_of(keras.Sequential([keras.Input((2,)), *inner]), rule)
    assert_slopes(learner, regression(tasks=1, support=6), graph=True, tolerance=1e-7)


def test_evaluation_of_the_implicit_rule_takes_steps_of_its_own_number():
    rule = ImplicitGradient(0.1, 2, evaluation_steps=5, strength=1.0)
    pure, task = learner_of(mlp(), rule).pure, first(regression())
    for training, steps in ((True, 2), (False, 5)):
        wanted = adapted(ImplicitGradient(0.1, steps, strength=1.0), pure, task)
        assert_same(adapted(rule, pure, task, training), wanted)


@pytest.mark.parametrize("size", [1, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_conjugate_gradients_solve_a_positive_definite_system_in_as_many_steps_as_it_has_rows(seed, size):
    half, right = numbers(size, size, seed=seed), numbers(size, seed=(seed, 1))
    matrix = half @ half.T + np.eye(size)

    def product(parts):
        whole = tf.linalg.matvec(matrix, tf.concat([tf.reshape(part, [-1]) for part in parts], 0))
        return [tf.reshape(whole[:1], (1, 1)), whole[1:]]

    found = conjugate_gradients(product, [tf.reshape(right[:1], (1, 1)), tf.constant(right[1:])], size)
    together = np.concatenate([part.numpy().ravel() for part in found])
    np.testing.assert_allclose(together, np.linalg.solve(matrix, right), rtol=1e-7)
    further = conjugate_gradients(product, found, size + 20)
    assert all(np.isfinite(part.numpy()).all() for part in further)


def test_conjugate_gradients_of_nothing_are_nothing():
    (found,) = conjugate_gradients(lambda parts: parts, [tf.zeros(3, tf.float64)], 4)
    assert not found.numpy().any()
