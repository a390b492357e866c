"""The average and the difference loss, and the layer that adds the latter."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras.multitask import Difference, average_loss, difference_loss


@pytest.mark.parametrize(
    "losses", [[1.0, 2.0, 6.0], (1.0, 2.0, 6.0), {"a": 1.0, "b": 2.0, "c": 6.0}, np.array([1, 2, 6])]
)
def test_the_average_loss_is_the_mean_over_tasks(losses):
    assert float(average_loss(losses)) == 3.0


def test_its_gradient_is_the_mean_of_the_gradients():
    theta = tf.Variable(2.0, dtype=tf.float64)
    with tf.GradientTape() as tape:
        loss = average_loss({"a": theta**2, "b": 3 * theta})
    assert float(tape.gradient(loss, theta)) == pytest.approx((4 + 3) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_the_difference_loss_is_a_distance(seed):
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(size=(3, rng.integers(1, 9), *rng.integers(1, 5, size=2)))
    by_hand = np.mean(
        [sum(abs(u - v) for u, v in zip(x.ravel(), y.ravel(), strict=True)) for x, y in zip(a, b, strict=True)]
    )
    assert float(difference_loss(a, b)) == pytest.approx(by_hand)
    assert float(difference_loss(b, a)) == pytest.approx(by_hand)
    assert float(difference_loss(a, a)) == 0.0
    assert float(difference_loss(a, c)) <= float(difference_loss(a, b)) + float(difference_loss(b, c)) + 1e-9


def test_many_features_do_not_overflow_in_half_precision():
    ones = tf.ones((2, 70_000), tf.float16)
    assert float(difference_loss(ones, tf.zeros_like(ones))) == 70_000


def test_the_gradient_of_the_difference_loss_in_double_precision():
    a, b = tf.Variable([[1.0, -2.0], [0.5, 3.0]], dtype=tf.float64), tf.constant([[0.0, 1.0], [1.0, 1.0]], tf.float64)
    with tf.GradientTape() as tape:
        loss = difference_loss(a, b)
    np.testing.assert_allclose(tape.gradient(loss, a), np.array([[1, -1], [-1, 1]]) / 2)


def paired(weight):
    first, second = keras.Input((3,)), keras.Input((3,))
    shared = keras.layers.Dense(2)
    return keras.Model([first, second], Difference(weight)([shared(first), shared(second)]))


def test_the_layer_returns_its_inputs_and_adds_their_difference():
    model = paired(0.5)
    x = [np.random.default_rng(seed).normal(size=(4, 3)).astype("float32") for seed in (0, 1)]
    first, second = model(x)
    np.testing.assert_allclose(first, model.layers[2](x[0]))
    np.testing.assert_allclose(second, model.layers[2](x[1]))
    (loss,) = model.losses
    assert float(loss) == pytest.approx(0.5 * float(difference_loss(first, second)), rel=1e-6)


def test_a_layer_of_weight_zero_adds_nothing():
    model = paired(0)
    model([np.ones((1, 3)), np.zeros((1, 3))])
    assert model.losses == []


def test_the_layer_is_saved_with_its_weight(tmp_path):
    model = paired(0.25)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    x = [np.ones((2, 3)), np.zeros((2, 3))]
    model(x), loaded(x)
    assert float(loaded.losses[0]) == pytest.approx(float(model.losses[0])) and float(model.losses[0]) > 0


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda: average_loss([]), "at least one task"),
        (lambda: average_loss([[1.0, 2.0]]), "one number per task"),
        (lambda: average_loss("ab"), "array of numbers"),
        (lambda: average_loss([np.nan, 1.0]), r"losses\[0\] must be finite"),
        (lambda: average_loss({"class": np.inf}), "must be finite"),
        (lambda: difference_loss(np.ones((2, 3)), np.ones((3, 3))), r"\(2, 3\) and \(3, 3\)"),
        (lambda: difference_loss("a", np.ones(3)), "first must be"),
        (lambda: Difference(-1.0), "weight must be"),
        (lambda: Difference()(tf.ones((2, 3))), "list of two"),
    ],
)
def test_errors_say_what_is_wrong(function, complaint):
    with pytest.raises(ValueError, match=complaint):
        function()
