"""Predicting rotations: the four images and their labels, the loss, and which images have an orientation at all."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import meta_keras as mk
from meta_keras.unsupervised import Rotation, rotation_similarity
from tests.unlabeled import SHAPE, compiled, encoder, images


def test_every_image_is_rotated_counterclockwise_by_each_number_of_quarter_turns():
    x = images(3)
    rotated, turns = Rotation(encoder()).pretext(tf.constant(x))
    assert rotated.shape == (12, *SHAPE)
    for row, (image, turn) in enumerate(zip(rotated.numpy(), turns.numpy(), strict=True)):
        np.testing.assert_array_equal(image, np.rot90(x[row % 3], turn))


def test_the_loss_is_the_cross_entropy_over_the_four_rotations():
    model, x = compiled(Rotation(encoder())), images(5)
    by_hand = []
    for turns in range(4):
        logits = model(np.rot90(x, turns, axes=(1, 2))).numpy()
        by_hand.append(-logits[:, turns] + np.log(np.exp(logits).sum(axis=1)))
    assert model.evaluate(x, verbose=0, return_dict=True)["loss"] == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_orientation_is_learned_and_predicted_on_new_images():
    model = compiled(Rotation(encoder(16)), run_eagerly=False, jit_compile=False)
    model.fit(images(32), batch_size=8, epochs=20, verbose=0)
    assert model.evaluate(images(32, seed=1), verbose=0, return_dict=True)["accuracy"] > 0.95
    upside_down = np.rot90(images(8, seed=2), 2, axes=(1, 2))
    assert (model.predict(upside_down, verbose=0).argmax(axis=1) == 2).mean() > 0.9


def test_another_loss_and_other_metrics_can_be_chosen():
    model = Rotation(encoder())
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=[])
    assert set(model.fit(images(), verbose=0).history) == {"loss"}


def test_only_square_images_can_be_rotated():
    layers = [keras.Input((8, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    with pytest.raises(ValueError, match="must take square images"):
        Rotation(keras.Sequential(layers))


def test_similarity_is_high_where_a_rotation_changes_nothing_and_low_where_it_changes_much():
    cross, bar, corner = np.zeros((3, 28, 28, 1), "float32")
    cross[13:15], cross[:, 13:15] = 1, 1
    bar[13:15] = 1
    corner[3:8, 3:8] = 1
    found = rotation_similarity(np.stack([cross, bar, corner]))
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found[1] == pytest.approx(1, abs=1e-5)  # by half a turn
    assert found[2] < 0.2


def test_similarity_is_the_same_for_all_scales_and_orientations_of_an_image():
    letters = mk.load("glyphs").split("test").arrays()[0][::400]
    found = rotation_similarity(letters)
    np.testing.assert_allclose(rotation_similarity(letters / np.float32(255)), found, rtol=1e-5)
    np.testing.assert_allclose(rotation_similarity(1 - 0.5 * letters / np.float32(255)), found, atol=1e-4)
    turned = np.rot90(letters, axes=(1, 2))
    np.testing.assert_allclose(rotation_similarity(turned), found, atol=1e-4)
    assert found.min() >= -1 and found.max() <= 1 + 1e-6 and found.dtype == np.float32


def test_similarity_of_an_empty_image_is_zero_and_other_shapes_are_refused():
    assert rotation_similarity(np.zeros((2, 28, 28, 1), "float32")).tolist() == [0, 0]
    with pytest.raises(ValueError, match="must be squares"):
        rotation_similarity(np.zeros((2, 28, 20, 1), "float32"))
    with pytest.raises(ValueError, match="must be squares"):
        rotation_similarity(np.zeros((2, 28), "float32"))
    with pytest.raises(ValueError, match="must be squares"):
        rotation_similarity((tf.ones(2), tf.ones(2)))
