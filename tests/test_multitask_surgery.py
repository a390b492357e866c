"""Cosines of gradients, and gradient surgery."""

import numpy as np
import pytest
import tensorflow as tf

from meta_keras.multitask import gradient_cosines, project_conflicts


def by_hand(gradients, orders):
    """The algorithm of the paper, line by line."""
    found = []
    for i, own in enumerate(gradients):
        g = own.copy()
        for j in orders[i]:
            if j != i and g @ gradients[j] < 0:
                g = g - (g @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        found.append(g)
    return np.array(found)


def drawn(seed, tasks):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(tasks, 3)), np.stack([rng.permutation(tasks) for _ in range(tasks)])


@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_surgery_is_the_algorithm_of_the_paper(seed, tasks):
    gradients, orders = drawn(seed, tasks)
    np.testing.assert_allclose(project_conflicts(gradients, orders), by_hand(gradients, orders), rtol=1e-9)
    in_order = np.tile(np.arange(tasks), (tasks, 1))
    np.testing.assert_allclose(project_conflicts(gradients), by_hand(gradients, in_order), rtol=1e-9)


def test_the_order_matters_with_three_tasks():
    gradients = np.array([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, 0.5, 1.0]])
    orders = np.array([[0, 1, 2]] * 3), np.array([[2, 1, 0]] * 3)
    one, other = (project_conflicts(gradients, order).numpy() for order in orders)
    assert not np.allclose(one, other)


@pytest.mark.parametrize("seed", range(6))
def test_after_surgery_two_tasks_do_not_conflict(seed):
    gradients, _ = drawn(seed, 2)
    projected = project_conflicts(gradients).numpy()
    assert (np.sum(projected * gradients[::-1], axis=1) >= -1e-12).all()
    if gradients[0] @ gradients[1] >= 0:
        np.testing.assert_array_equal(projected, gradients)
    else:
        assert np.linalg.norm(projected) < np.linalg.norm(gradients)


def test_zero_gradients_stay_zero_and_disturb_nothing():
    gradients = np.array([[0.0, 0.0], [1.0, -2.0]])
    np.testing.assert_array_equal(project_conflicts(gradients), gradients)
    np.testing.assert_allclose(gradient_cosines(gradients), [[0, 0], [0, 1]], atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_cosines_do_not_depend_on_lengths(seed):
    gradients, _ = drawn(seed, 4)
    found = gradient_cosines(gradients).numpy()
    np.testing.assert_allclose(np.diag(found), 1)
    np.testing.assert_allclose(found, gradient_cosines(gradients * np.array([[0.01], [1], [5], [100]])), rtol=1e-9)
    g, h = gradients[:2]
    assert found[0, 1] == pytest.approx(g @ h / np.sqrt((g @ g) * (h @ h)))


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda: gradient_cosines(np.ones(3)), r"shape \(tasks, weights\)"),
        (lambda: gradient_cosines([[np.nan, 1.0]]), "gradients must be finite"),
        (lambda: project_conflicts(np.full((2, 3), np.inf)), "gradients must be finite"),
        (lambda: project_conflicts(np.ones((2, 3)), [[0, 1]]), r"integers of shape \(2, 2\)"),
        (lambda: project_conflicts(np.ones((2, 3)), [[0, 0], [0, 1]]), "each of the tasks 0 to 1"),
        (lambda: project_conflicts(np.ones((2, 3)), tf.ones((2, 2))), "integers of shape"),
    ],
)
def test_errors_say_what_is_wrong(function, complaint):
    with pytest.raises(ValueError, match=complaint):
        function()
