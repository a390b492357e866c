"""Document D4's MNIST project, corrected: scaling and standardization, training, evaluation on unseen images."""

import keras
import numpy as np
import pytest

from meta_keras import ClassPool, classical


def images_of(rows=60, seed=0):
    """Images of two kinds, bright above or bright below, with their one-hot labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    bright = np.stack([np.repeat([1 - label, label], 2)[:, None] * np.ones((4, 4)) for label in labels])
    images = (150 * bright + generator.integers(0, 100, (rows, 4, 4))).astype(np.uint8)[..., None]
    return images, keras.utils.to_categorical(labels, 2)


def test_training_images_come_to_mean_0_and_deviation_1():
    images, _ = images_of()
    standardized, standard = classical.preprocess_data(images)
    assert standardized.dtype == np.float32
    np.testing.assert_allclose([standardized.mean(), standardized.std()], [0, 1], atol=1e-5)
    np.testing.assert_allclose(standard, [(images / 255).mean(), (images / 255).std()], rtol=1e-5)


def test_test_images_are_measured_by_the_standard_of_the_training_images_of():
    _, standard = classical.preprocess_data(images_of()[0])
    test, returned = classical.preprocess_data(np.full((1, 4, 4, 1), 255, np.uint8), standard)
    assert returned == standard
    np.testing.assert_allclose(test, (1 - standard.mean) / standard.deviation, rtol=1e-5)


def test_images_all_alike_have_no_standard():
    with pytest.raises(ValueError, match="All pixels are the same"):
        classical.preprocess_data(np.full((2, 4, 4, 1), 7, np.uint8))


@pytest.mark.parametrize(("shape", "classes"), [((28, 28, 1), 10), ((4, 4, 1), 3), ((5,), 2)])
def test_the_model_gives_probabilities_that_add_up_to_one(shape, classes):
    model = classical.create_model(shape, classes)
    probabilities = model(np.random.default_rng(0).normal(size=(6, *shape)))
    assert probabilities.shape == (6, classes) and (probabilities.numpy() > 0).all()
    np.testing.assert_allclose(probabilities.numpy().sum(axis=-1), 1, rtol=1e-5)
    assert [layer.units for layer in model.layers[1:]] == [64, 64, classes]


def test_training_learns_and_gives_back_what_it_saw():
    (x, y), (test_x, test_y) = images_of(), images_of(seed=1)
    x, standard = classical.preprocess_data(x)
    test_x, _ = classical.preprocess_data(test_x, standard)
    model = classical.create_model((4, 4, 1), 2)
    history = classical.train_model(model, x, y, 8, validation_data=(test_x, test_y)).history
    assert len(history["loss"]) == 8 and history["loss"][-1] < history["loss"][0]
    assert history["val_accuracy"][-1] > 0.95 and history["accuracy"][-1] > 0.95


def test_the_optimizer_is_the_one_that_was_given():
    x, y = images_of()
    model, optimizer = classical.create_model((4, 4, 1), 2), keras.optimizers.SGD(0.0)
    before = model.get_weights()
    classical.train_model(model, x / 255, y, 1, optimizer=optimizer)
    assert model.optimizer is optimizer
    assert all(np.array_equal(now, then) for now, then in zip(model.get_weights(), before, strict=True))


@pytest.mark.slow
def test_the_whole_project_measures_on_the_test_part(monkeypatch):
    (x, y), (test_x, test_y) = images_of(), images_of(20, seed=1)
    labels = np.concatenate([y.argmax(-1), 1 - test_y.argmax(-1)])  # the labels of the test part are swapped
    pool = ClassPool(np.concatenate([x, test_x]), labels, splits=["train"] * 60 + ["test"] * 20)
    asked = []
    monkeypatch.setattr(classical, "load", lambda name, data_dir: asked.append((name, data_dir)) or pool)
    first, again = (classical.main("mnist", epochs=8, data_dir="there", seed=3) for _ in range(2))
    assert first == again < 0.1 and asked == [("mnist", "there")] * 2


def test_the_whole_project_runs_on_the_set_that_needs_no_download():
    assert classical.main(epochs=2) > 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": None}, "images must be an array of numbers; got None"),
        ({"images": []}, "images must be an array of finite numbers, at least one"),
        ({"images": np.array([np.nan, 1.0])}, "images must be an array of finite numbers"),
        ({"images": np.array([-1, 300])}, "images of integers must have values from 0 to 255; got -1 to 300"),
        ({"images": np.full((2, 4, 4, 1), 200.0)}, "Divide pixels by 255"),
        ({"standard": (0.0, 1.0)}, r"standard must be what preprocess_data returned.*got \(0.0, 1.0\)"),
        ({"standard": classical.Standard(0.0, 0.0)}, "deviation must be a positive finite number; got 0.0"),
    ],
)
def test_images_that_cannot_be_standardized_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        classical.preprocess_data(**{"images": images_of()[0]} | arguments)


@pytest.mark.parametrize("channels", [True, False])
def test_pixels_of_any_integer_type_are_scaled_alike(channels):
    images = images_of()[0] if channels else images_of()[0].reshape(60, 16)
    expected, standard = classical.preprocess_data(images)
    for dtype in (np.int64, np.int32, np.uint16):
        found, other = classical.preprocess_data(images.astype(dtype))
        np.testing.assert_array_equal(found, expected)
        assert other == standard


def two_outputs():
    given = keras.Input((3,))
    return keras.Model(given, [keras.layers.Dense(2)(given), keras.layers.Dense(2)(given)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": None}, TypeError, "model must be a Keras model; got None"),
        ({"model": two_outputs()}, ValueError, "model must have one input and one output"),
        ({"epochs": 0}, ValueError, "epochs must be an integer of at least 1; got 0"),
        ({"y_train": np.zeros(4)}, ValueError, r"y_train must have one row of 2 numbers.*shape \(4,\)"),
        ({"y_train": np.zeros((3, 2))}, ValueError, r"y_train must have one row of 2 numbers.*shape \(3, 2\)"),
        ({"x_train": np.ones((4, 2))}, ValueError, r"x_train has shape \(4, 2\); .* takes inputs of shape \(None, 3\)"),
        ({"x_train": np.full((4, 3), np.nan)}, ValueError, "x_train must be an array of finite numbers"),
        ({"x_train": "x"}, ValueError, "x_train must be an array of numbers; got 'x'"),
    ],
)
def test_what_cannot_be_trained_is_rejected(arguments, error, message):
    given = {"model": classical.create_model((3,), 2), "x_train": np.ones((4, 3)), "y_train": np.ones((4, 2))}
    with pytest.raises(error, match=message):
        classical.train_model(**given | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1; got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0; got -1"),
        ({"seed": 2**32}, "seed must be at most 4294967295"),
        ({"seed": None}, "seed must be an integer of at least 0; got None"),
    ],
)
def test_the_project_checks_its_arguments_before_it_starts(arguments, message):
    with pytest.raises(ValueError, match=message):
        classical.main(**arguments)


def test_a_model_needs_a_shape_and_a_number_of_classes():
    with pytest.raises(ValueError, match="input_shape must be a tuple of integers of at least 1"):
        classical.create_model((None, 28))
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1; got 0"):
        classical.create_model(num_classes=0)
