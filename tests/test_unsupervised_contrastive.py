"""Contrastive learning: its loss by hand, which views belong together, and what it learns to ignore."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras.unsupervised import Contrastive, contrastive_loss
from tests.unlabeled import compiled, encoder, images


def shift():
    return keras.layers.RandomTranslation(0.2, 0.2, fill_mode="constant")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_hand(z, temperature):
    """NT-Xent, one view after the other."""
    n, losses = len(z) // 2, []
    for i in range(2 * n):
        partner = i + n if i < n else i - n
        others = [k for k in range(2 * n) if k != i]
        scores = {k: np.exp(z[i] @ z[k] / temperature) for k in others}
        losses.append(-np.log(scores[partner] / sum(scores.values())))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("n", [2, 5])
def test_the_loss_is_that_of_the_paper(n, temperature):
    z = unit(np.random.default_rng(n).normal(size=(2 * n, 4)))
    assert float(contrastive_loss(z, temperature=temperature)) == pytest.approx(by_hand(z, temperature), rel=1e-9)


def test_the_gradient_of_the_loss_matches_finite_differences():
    z = tf.Variable(np.random.default_rng(0).normal(size=(6, 3)))
    with tf.GradientTape() as tape:
        loss = contrastive_loss(z, temperature=0.5)
    gradient = tape.gradient(loss, z).numpy()
    step = 1e-5
    for place in np.ndindex(6, 3):
        moved = [by_hand(z.numpy() + sign * step * (np.indices((6, 3)) == np.reshape(place, (2, 1, 1))).all(0), 0.5)
                 for sign in (1, -1)]  # fmt: skip
        assert gradient[place] == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=1e-6)


def test_the_loss_is_smaller_when_the_views_of_an_image_are_together():
    views = unit(np.random.default_rng(0).normal(size=(8, 5)))
    together, swapped = np.concatenate([views, views]), np.concatenate([views, np.roll(views, 1, axis=0)])
    assert float(contrastive_loss(together)) < 0.5 < float(contrastive_loss(swapped))


def test_the_two_views_of_an_image_are_drawn_separately_and_keep_their_order():
    x = images(4)
    x[:, 0, 0, 0] = np.linspace(0, 1, 4)
    views, targets = Contrastive(encoder(), keras.layers.RandomFlip("horizontal")).pretext(
        tf.constant(np.tile(x, (8, 1, 1, 1)))
    )
    first, second = np.split(views.numpy(), 2)
    assert targets is None and len(views) == 64
    flipped = x[:, :, ::-1]
    for row in range(32):
        for view in (first[row], second[row]):
            assert any(np.allclose(view, original[row % 4]) for original in (x, flipped))
    assert not np.allclose(first, second)


def test_the_logged_loss_and_accuracy_are_those_of_the_views():
    model = compiled(Contrastive(encoder(), keras.layers.Identity(), temperature=0.3))
    x = images(6)
    logged = model.evaluate(x, verbose=0, return_dict=True)
    z = np.concatenate([model(x), model(x)])
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    assert logged["loss"] == pytest.approx(by_hand(z.astype(float), 0.3), rel=1e-4)
    assert logged["contrastive_accuracy"] > 0.5  # a view without changes is nearest to itself


@pytest.mark.slow
def test_it_learns_to_recognize_an_image_after_a_shift():
    model = compiled(Contrastive(encoder(32), shift(), projection=(16, 8)), run_eagerly=False, jit_compile=False)
    x = np.random.default_rng(0).uniform(size=(64, 8, 8, 1)).astype("float32") ** 4
    before = model.evaluate(x, verbose=0, return_dict=True)["contrastive_accuracy"]
    model.fit(x, batch_size=32, epochs=60, verbose=0)
    assert model.evaluate(x, verbose=0, return_dict=True)["contrastive_accuracy"] > before + 0.1


def test_settings_are_kept_and_wrong_ones_are_refused():
    model = Contrastive(encoder(), shift(), temperature=0.7, projection=[4, 2])
    again = Contrastive.from_config(model.get_config())
    assert (again.temperature, tuple(again.projection)) == (0.7, (4, 2)) and again(images(2)).shape == (2, 2)
    with pytest.raises(ValueError, match="temperature must be a positive"):
        Contrastive(encoder(), shift(), temperature=0)
    with pytest.raises(ValueError, match="augment must be a Keras layer"):
        Contrastive(encoder(), "shift")
    with pytest.raises(ValueError, match="units of two layers"):
        Contrastive(encoder(), shift(), projection=(4,))
    with pytest.raises(ValueError, match="two views of n >= 2 images"):
        contrastive_loss(tf.ones((3, 2)))


def test_a_batch_with_a_single_image_is_refused():
    model, x = compiled(Contrastive(encoder(), shift())), images(9)
    for options in ({"batch_size": 1}, {"batch_size": 4}, {"batch_size": 4, "validation_split": 0.1}):
        with pytest.raises(ValueError, match="end with a single image. Choose another batch_size"):
            model.fit(x, verbose=0, **options)
    with pytest.raises(ValueError, match="end with a single image"):
        model.evaluate(x, batch_size=8, verbose=0)
    with pytest.raises(ValueError, match="end with a single image"):
        model.fit(x, validation_data=x, validation_batch_size=2, verbose=0)
    batches = tf.data.Dataset.from_tensor_slices(x).batch(4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least 2 images per batch.*drop_remainder=True"):
        model.fit(batches, verbose=0)
    model.fit(x, batch_size=5, validation_data=batches.take(2), verbose=0)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.RandomBrightness(0.2), r"RandomBrightness expects pixels in \(0, 255\).*value_range=\(0, 1\)"),
        (keras.Sequential([keras.layers.MixUp()]), "MixUp mixes different examples"),
        ("flip", "augment must be a Keras layer"),
    ],
)
def test_layers_that_make_no_views_of_an_image_are_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        Contrastive(encoder(), layer)
    Contrastive(encoder(), keras.layers.RandomBrightness(0.2, value_range=(0, 1)))
