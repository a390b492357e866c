"""Document D4's MNIST project, made to work: scaled and standardised, learned, measured on pictures not seen."""

import keras
import numpy as np
import pytest

from meta_keras import ClassPool, classical


def pictures(rows=60, seed=0):
    """Pictures of two kinds, bright above or bright below, with their one-hot labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    bright = np.stack([np.repeat([1 - label, label], 2)[:, None] * np.ones((4, 4)) for label in labels])
    images = (150 * bright + generator.integers(0, 100, (rows, 4, 4))).astype(np.uint8)[..., None]
    return images, keras.utils.to_categorical(labels, 2)


def test_training_pictures_come_to_mean_0_and_deviation_1():
    images, _ = pictures()
    standardised, standard = classical.preprocess_data(images)
    assert standardised.dtype == np.float32
    np.testing.assert_allclose([standardised.mean(), standardised.std()], [0, 1], atol=1e-5)
    np.testing.assert_allclose(standard, [(images / 255).mean(), (images / 255).std()], rtol=1e-5)


def test_test_pictures_are_measured_by_the_standard_of_the_training_pictures():
    _, standard = classical.preprocess_data(pictures()[0])
    test, returned = classical.preprocess_data(np.full((1, 4, 4, 1), 255, np.uint8), standard)
    assert returned == standard
    np.testing.assert_allclose(test, (1 - standard.mean) / standard.deviation, rtol=1e-5)


def test_pictures_all_alike_have_no_standard():
    with pytest.raises(ValueError, match="All pixels are the same"):
        classical.preprocess_data(np.full((2, 4, 4, 1), 7, np.uint8))


@pytest.mark.parametrize(("shape", "classes"), [((28, 28, 1), 10), ((4, 4, 1), 3), ((5,), 2)])
def test_the_model_gives_chances_that_add_up_to_one(shape, classes):
    model = classical.create_model(shape, classes)
    chances = model(np.random.default_rng(0).normal(size=(6, *shape)))
    assert chances.shape == (6, classes) and (chances.numpy() > 0).all()
    np.testing.assert_allclose(chances.numpy().sum(axis=-1), 1, rtol=1e-5)
    assert [layer.units for layer in model.layers[1:]] == [64, 64, classes]


def test_training_learns_and_gives_back_what_it_saw():
    (x, y), (test_x, test_y) = pictures(), pictures(seed=1)
    x, standard = classical.preprocess_data(x)
    test_x, _ = classical.preprocess_data(test_x, standard)
    model = classical.create_model((4, 4, 1), 2)
    history = classical.train_model(model, x, y, 8, validation_data=(test_x, test_y)).history
    assert len(history["loss"]) == 8 and history["loss"][-1] < history["loss"][0]
    assert history["val_accuracy"][-1] > 0.95 and history["accuracy"][-1] > 0.95


def test_the_optimizer_is_the_one_that_was_given():
    x, y = pictures()
    model, optimizer = classical.create_model((4, 4, 1), 2), keras.optimizers.SGD(0.0)
    before = model.get_weights()
    classical.train_model(model, x / 255, y, 1, optimizer=optimizer)
    assert model.optimizer is optimizer
    assert all(np.array_equal(now, then) for now, then in zip(model.get_weights(), before, strict=True))


def test_the_whole_project_measures_on_the_test_part(monkeypatch):
    (x, y), (test_x, test_y) = pictures(), pictures(20, seed=1)
    labels = np.concatenate([y.argmax(-1), 1 - test_y.argmax(-1)])  # the test part is labelled the wrong way round
    pool = ClassPool(np.concatenate([x, test_x]), labels, splits=["train"] * 60 + ["test"] * 20)
    asked = []
    monkeypatch.setattr(classical, "load", lambda name, data_dir: asked.append((name, data_dir)) or pool)
    first, again = (classical.main("mnist", epochs=8, data_dir="there", seed=3) for _ in range(2))
    assert first == again < 0.1 and asked == [("mnist", "there")] * 2


def test_the_whole_project_runs_on_the_set_that_needs_no_download():
    assert classical.main(epochs=2) > 0.6
