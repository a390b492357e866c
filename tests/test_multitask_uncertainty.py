"""Uncertainty weighting."""

import numpy as np
import pytest
import tensorflow as tf

from meta_keras.multitask import uncertainty_loss


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_by_hand(seed):
    rng = np.random.default_rng(seed)
    losses, s, regression = rng.exponential(size=4), rng.normal(size=4), rng.random(4) < 0.5
    by_hand = sum(
        (0.5 if r else 1.0) * np.exp(-one) * loss + one / 2 for loss, one, r in zip(losses, s, regression, strict=True)
    )
    found = uncertainty_loss(list(losses), tf.constant(s), regression=list(regression))
    assert float(found) == pytest.approx(by_hand, rel=1e-6)


def test_regression_is_the_negative_log_likelihood_of_a_normal_distribution():
    y, mean, variance = np.array([0.3, -1.0, 2.0]), np.array([0.0, 0.5, 1.0]), 0.7
    wanted = np.mean((y - mean) ** 2 / (2 * variance) + np.log(2 * np.pi * variance) / 2)
    loss = tf.constant(np.mean((y - mean) ** 2))
    found = uncertainty_loss([loss], tf.constant([np.log(variance)]), regression=[True])
    assert float(found) + np.log(2 * np.pi) / 2 == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("regression", [True, False])
def test_with_the_best_variance_a_gradient_is_divided_by_twice_the_loss(regression):
    c = 0.5 if regression else 1.0
    for value in (0.01, 1.0, 30.0):
        s = tf.constant([np.log(2 * c * value)], tf.float64)
        loss = tf.constant(value, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch([s, loss])
            total = uncertainty_loss([loss], s, regression=[regression])
        of_s, of_loss = tape.gradient(total, [s, loss])
        np.testing.assert_allclose(of_s, 0, atol=1e-12)
        assert float(of_loss) == pytest.approx(1 / (2 * value))


def test_a_task_without_labels_changes_neither_the_loss_nor_its_variance():
    s = tf.constant([0.3, -0.2], tf.float64)
    losses = [tf.constant(2.0, tf.float64), tf.constant(0.0, tf.float64)]
    with tf.GradientTape() as tape:
        tape.watch(s)
        found = uncertainty_loss(losses, s, regression=[False, True], labeled=[True, False])
    assert float(found) == pytest.approx(2 * np.exp(-0.3) + 0.15)
    assert tape.gradient(found, s).numpy()[1] == 0.0


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"log_variances": tf.zeros(3)}, "log_variances"),
        ({"regression": [True]}, "regression"),
        ({"labeled": [True]}, "labeled"),
    ],
)
def test_every_task_needs_an_entry(changed, name):
    arguments = {"losses": [1.0, 2.0], "log_variances": tf.zeros(2), "regression": [True, False]} | changed
    with pytest.raises(ValueError, match=f"{name} must have one entry for each of the 2 tasks"):
        uncertainty_loss(**arguments)


@pytest.mark.parametrize("labeled", [(None, None), ["x", "y"], [1, 0]])
def test_whether_a_task_has_labels_is_true_or_false(labeled):
    with pytest.raises(ValueError, match="labeled must be True or False for each task"):
        uncertainty_loss([1.0, 2.0], tf.zeros(2), regression=[True, False], labeled=labeled)


def test_losses_and_variances_must_be_finite():
    with pytest.raises(ValueError, match=r"losses\[1\] must be finite"):
        uncertainty_loss([1.0, np.nan], tf.zeros(2), regression=[True, False])
    with pytest.raises(ValueError, match="log_variances must be finite"):
        uncertainty_loss([1.0, 2.0], [0.0, np.nan], regression=[True, False])
