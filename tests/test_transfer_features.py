"""Features: the intermediate outputs of a trained model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import meta_keras as mk
from meta_keras.transfer import extract_features, feature_extractor


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation="tanh", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.5, name="dropout"),
            layers.Dense(3, name="head"),
        ]
    )


def rows(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 4)).astype("float32")


def test_the_features_of_a_layer_are_its_outputs():
    model, x = network(), rows(5)
    np.testing.assert_allclose(extract_features(feature_extractor(model, "first"), x), model.layers[0](x), rtol=1e-6)


def test_without_a_name_the_features_are_what_the_head_is_given():
    model, x = network(), rows(5)
    features = extract_features(feature_extractor(model), x)
    np.testing.assert_allclose(model.layers[-1](features), model(x), rtol=1e-5)


def test_some_of_the_features_are_columns_of_all():
    model, x = network(), rows(5)
    some, every = (extract_features(feature_extractor(model, "first", units=u), x) for u in ([4, 1], None))
    np.testing.assert_array_equal(some, every[:, [4, 1]])


def test_several_layers_give_several_outputs():
    first, head = feature_extractor(network(), ["first", "head"])(rows(2))
    assert first.shape == (2, 6) and head.shape == (2, 3)


def test_an_extractor_shares_the_weights_of_its_model():
    model, x = network(), rows(2)
    extractor = feature_extractor(model, "first")
    before = extractor(x).numpy()
    model.layers[0].bias.assign(np.ones(6))
    assert np.abs(extractor(x) - before).min() > 0


def test_an_extractor_is_saved_and_loaded_as_any_model(tmp_path):
    extractor, x = feature_extractor(network(), "first", units=[0, 2]), rows(3)
    extractor.save(tmp_path / "features.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "features.keras")(x), extractor(x))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_do_not_show_in_the_features_of_an_array(batch_size):
    model, x = network(), rows(7)
    np.testing.assert_allclose(extract_features(model, x, batch_size=batch_size), model(x), rtol=1e-5, atol=1e-6)


def test_features_are_those_of_inference():
    model, x = network(), rows(64) + 3
    before = model.layers[1].moving_mean.numpy()
    once, again = (extract_features(model, x) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    dataset = extract_features(model, tf.data.Dataset.from_tensor_slices(x).batch(16))
    np.testing.assert_allclose(np.concatenate(list(dataset.as_numpy_iterator())), once, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.layers[1].moving_mean, before)


def test_a_dataset_keeps_its_labels_beside_the_features():
    model, x, y = network(), rows(10), np.arange(10)
    for beside in ((y,), (y, np.ones(10))):
        dataset = extract_features(model, tf.data.Dataset.from_tensor_slices((x, *beside)).batch(4))
        parts = [np.concatenate(part) for part in zip(*dataset.as_numpy_iterator(), strict=True)]
        np.testing.assert_allclose(parts[0], model(x), rtol=1e-5, atol=1e-6)
        assert all(np.array_equal(a, b) for a, b in zip(parts[1:], beside, strict=True))


def test_a_dataset_larger_than_memory_is_read_batch_by_batch():
    read = []

    def endless():
        while True:
            read.append(1)
            yield rows(8)

    spec = tf.TensorSpec((None, 4), tf.float32)
    features = extract_features(network(), tf.data.Dataset.from_generator(endless, output_signature=spec))
    for _, batch in zip(range(20), features, strict=False):
        assert batch.shape == (8, 3)
    assert len(read) < 20 + 8, "no more than a few batches ahead"


def test_an_array_on_disk_is_never_in_memory_as_a_whole(tmp_path):
    asked = []

    class Watched(np.memmap):
        def __getitem__(self, key):
            asked.append(key)
            return np.asarray(super().__getitem__(key))

    rows(50).tofile(tmp_path / "rows.bin")
    there = Watched(tmp_path / "rows.bin", dtype="float32", mode="r", shape=(50, 4))
    features = extract_features(network(), there, batch_size=8)
    np.testing.assert_allclose(features, network()(rows(50)), rtol=1e-5, atol=1e-6)
    assert max(key.stop - key.start for key in asked) == 8 and len(asked) == 7


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: feature_extractor(network(), "conv9"), ["no 'conv9' among", "'first', 'norm'"]),
        (lambda: feature_extractor(network(), ["first", "none"]), ["no 'none'"]),
        (lambda: feature_extractor(network(), "first", units=[0, 6]), ["units must be indices from 0 to 5", "got 6"]),
        (lambda: feature_extractor(network(), "first", units=[]), ["units must be a list of indices", "got []"]),
        (lambda: feature_extractor(keras.Sequential([layers.Dense(1)])), ["must have its weights", "keras.Input"]),
        (lambda: extract_features(network(), rows(0)), ["data must be an array", "ndarray of shape (0, 4)"]),
        (
            lambda: extract_features(network(), tf.data.Dataset.from_tensor_slices(rows(9))),
            ["(None, 4)", "has (4,)", "data.batch"],
        ),
    ],
)
def test_errors_say_what_there_is(ask, words):
    with pytest.raises(ValueError) as error:
        ask()
    assert not [word for word in words if word not in str(error.value)], str(error.value)


def test_a_subclassed_model_is_told_how_to_show_its_features():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model(rows(1))
    with pytest.raises(ValueError, match="a Own, are connected is not known before it runs"):
        feature_extractor(model, "dense")
    assert extract_features(model, rows(3)).shape == (3, 2)


def test_features_of_pictures_keep_their_shape():
    model = mk.networks.d3(3)
    features = feature_extractor(model, model.layers[1].name)
    assert extract_features(features, np.zeros((2, 28, 28, 1), "float32")).shape == (2, 14, 14, 32)


def test_several_layers_give_several_arrays():
    model = network()
    found = extract_features(feature_extractor(model, ["first", "norm"]), rows(10), batch_size=4)
    for name, features in zip(["first", "norm"], found, strict=True):
        np.testing.assert_allclose(features, extract_features(feature_extractor(model, name), rows(10)), rtol=1e-6)


def test_units_go_with_one_layer():
    with pytest.raises(ValueError, match=r"units are those of one layer; got the layers \['first', 'norm'\]"):
        feature_extractor(network(), ["first", "norm"], units=[0])


@pytest.mark.parametrize("as_dataset", [False, True])
def test_pixels_that_nothing_scales_are_refused(as_dataset):
    pixels = np.full((2, 4), 255, np.uint8)
    data = tf.data.Dataset.from_tensors((pixels, np.zeros(2))) if as_dataset else pixels
    with pytest.raises(ValueError, match="data must be floats: these are pixels from 0 to 255"):
        extract_features(feature_extractor(network()), data)
    scaling = keras.Sequential([keras.Input((4,)), layers.Rescaling(1 / 255), layers.Dense(3)])
    extract_features(scaling, data)
