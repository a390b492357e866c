"""Generalization learning: descriptions of tasks, and a meta-model that predicts them from parameters."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import meta_keras as mk
from meta_keras.multitask import describe_tasks, generalize


class Slopes(mk.Curves):
    """Lines y = slope * x, where the task parameter is the slope."""

    def parameters(self, seed):
        return tf.random.stateless_uniform((self.meta_batch, 1), seed, -2.0, 2.0)

    def curve(self, x, parameters):
        return parameters * x


def identity():
    return keras.Sequential([keras.Input((1,)), keras.layers.Identity()])


def waves():
    """sin x and cos x, which span all sine curves."""
    x = keras.Input((1,))
    return keras.Model(x, keras.layers.Concatenate()([keras.ops.sin(x), keras.ops.cos(x)]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
def test_descriptions_are_ridge_regressions(seed, ridge):
    rng = np.random.default_rng(seed)
    network = mk.networks.mlp(3, input_shape=(2,), hidden=(5,))
    x, y = rng.normal(size=(4, 9, 2)).astype("float32"), rng.normal(size=(4, 9, 1)).astype("float32")
    found = describe_tasks(network, x, y, ridge=ridge)
    for task in range(4):
        f = np.asarray(network(x[task]), float)
        by_hand = np.linalg.solve(f.T @ f + 9 * ridge * np.eye(3), f.T @ y[task, :, 0])
        np.testing.assert_allclose(found[task], by_hand, rtol=1e-3, atol=1e-4)


def test_sines_are_described_by_their_two_weights():
    parameters, tasks = mk.Sinusoids(meta_batch=6, seed=1).draw_with_parameters(tf.constant([1, 0], tf.int64))
    amplitude, phase = parameters.numpy().T
    found = describe_tasks(waves(), tasks.support_x, tasks.support_y, ridge=1e-7)
    np.testing.assert_allclose(
        found, np.stack([amplitude * np.cos(phase), -amplitude * np.sin(phase)], axis=1), atol=1e-3
    )


def test_parameters_belong_to_the_tasks_that_are_drawn():
    tasks = mk.Sinusoids(meta_batch=3, seed=4)
    parameters, episode = tasks.draw_with_parameters(tf.constant([4, 0], tf.int64))
    for one, other in zip(episode, next(iter(tasks)), strict=True):
        np.testing.assert_array_equal(one, other)
    amplitude, phase = parameters.numpy().T[:, :, None, None]
    np.testing.assert_allclose(episode.query_y, amplitude * np.sin(episode.query_x - phase), atol=1e-5)


def test_a_linear_meta_model_of_lines_is_exact_also_outside():
    meta_model = mk.networks.mlp(1, input_shape=(1,), hidden=())
    model = generalize(
        Slopes(meta_batch=64), identity(), meta_model=meta_model, ridge=1e-8, learning_rate=0.05, steps=600
    )
    x, slopes = np.array([[1.0], [-2.0], [3.0]]), np.array([[0.5], [-1.0], [10.0]])
    np.testing.assert_allclose(model([x, slopes]), slopes * x, rtol=1e-2)


def test_sines_are_learned_inside_the_range_of_the_parameters():
    space = mk.Sinusoids(meta_batch=400, seed=0)
    model = generalize(space, waves(), steps=1000)
    parameters, tasks = mk.Sinusoids(meta_batch=100, seed=9).draw_with_parameters(tf.constant([9, 0], tf.int64))
    x, y = (np.reshape(part, (-1, 1)) for part in (tasks.query_x, tasks.query_y))
    found = model([x, np.repeat(parameters, 10, axis=0)])
    assert np.mean((found - y) ** 2) < 0.02 * np.mean(y**2)


def test_tasks_that_are_all_alike_are_no_division_by_zero():
    space = mk.Sinusoids(meta_batch=3, amplitude=(2.0, 2.0), phase=(0.5, 0.5), x_range=(1.0, 1.0))
    model = generalize(space, identity(), ridge=1e-6, steps=600, learning_rate=0.03)
    found = model([np.ones((1, 1)), np.array([[2.0, 0.5]])])
    np.testing.assert_allclose(found, 2 * np.sin(0.5), rtol=0.05)


def test_the_features_are_not_trained_and_the_model_can_be_saved(tmp_path):
    network = mk.networks.mlp(4, hidden=(5,))
    before = network.get_weights()
    model = generalize(mk.Sinusoids(meta_batch=20), network, steps=3)
    for a, b in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.save(tmp_path / "m.keras")
    inputs = [np.ones((2, 1)), np.ones((2, 2))]
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "m.keras")(inputs), model(inputs), rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda: generalize(None, identity()), "space must be tasks with parameters"),
        (lambda: generalize(mk.Sinusoids(), mk.networks.mlp(2, input_shape=(3,))), r"inputs of shape \(1,\)"),
        (
            lambda: generalize(mk.Sinusoids(), identity(), meta_model=mk.networks.mlp(3, input_shape=(2,))),
            "map 2 parameters to the weights of 1 features",
        ),
        (lambda: generalize(mk.Sinusoids(), identity(), ridge=0.0), "ridge must be"),
        (lambda: describe_tasks(identity(), np.ones((2, 3, 1)), np.ones((2, 4, 1))), r"\(2, 3, 1\) and \(2, 4, 1\)"),
        (lambda: describe_tasks(identity(), np.ones((2, 3, 1)), (None, None)), "y must be an array of numbers"),
    ],
)
def test_errors_say_what_is_wrong(function, complaint):
    with pytest.raises(ValueError, match=complaint):
        function()
