"""What the models that learn without labels share: Keras' own fit, callbacks and files, encode, and clear errors."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras.unsupervised import GAN, VAE, Contrastive, Rotation
from tests.unlabeled import SHAPE, compiled, decoder, encoder, images

MAKE = {
    "rotation": lambda **options: Rotation(encoder(**options)),
    "vae": lambda **options: VAE(encoder(**options), decoder()),
    "contrastive": lambda **options: Contrastive(
        encoder(**options), keras.layers.RandomTranslation(0.1, 0.1), projection=(16, 8)
    ),
}
each = pytest.mark.parametrize("name", list(MAKE))
MAKE["gan"] = lambda **options: GAN(encoder(**options), decoder())  # which has tests of its own


def flat(outputs):
    return np.concatenate([np.ravel(part) for part in keras.tree.flatten(outputs)])


@each
def test_training_lowers_the_loss_and_is_evaluated_by_keras(name):
    model = compiled(MAKE[name](), run_eagerly=False, jit_compile=False)
    x, other = images(32), images(32, seed=1)
    before = model.evaluate(other, verbose=0, return_dict=True)["loss"]
    stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=100)
    history = model.fit(x, batch_size=16, epochs=20, validation_data=other, callbacks=[stop], verbose=0).history
    after = model.evaluate(other, verbose=0, return_dict=True)["loss"]
    assert after < before and np.isfinite(history["val_loss"]).all()


@each
def test_all_weights_that_should_train_have_a_gradient(name):
    model = compiled(MAKE[name](), optimizer=keras.optimizers.SGD(0.1))
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(images(), batch_size=12, epochs=5, verbose=0)
    changed = [not np.array_equal(a, b.numpy()) for a, b in zip(before, model.trainable_variables, strict=True)]
    assert len(changed) >= 4 and all(changed)


@each
def test_a_dataset_of_inputs_gives_the_same_as_an_array(name):
    found = []
    for as_dataset in (False, True):
        keras.utils.set_random_seed(3)
        model = compiled(MAKE[name]())
        data = tf.data.Dataset.from_tensor_slices(images()).batch(4) if as_dataset else images()
        options = {} if as_dataset else {"batch_size": 4, "shuffle": False}
        found.append(model.fit(data, epochs=2, verbose=0, **options).history["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@each
def test_encode_has_one_row_per_input_in_inference_mode_whatever_the_batches(name):
    model = MAKE[name]()
    model.encoder.add(keras.layers.Dropout(0.5))
    x = images(7)
    features = model.encode(x, batch_size=3)
    expected = model.encoder(x, training=False)
    if name == "vae":
        expected = model.mean(expected)
    assert isinstance(features, np.ndarray)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


@each
def test_integer_images_are_scaled_in_training_encoding_and_calls(name):
    pixels = np.round(images() * 255).astype("uint8")
    model = MAKE[name]()
    np.testing.assert_allclose(model.encode(pixels), model.encode(pixels / np.float32(255)), rtol=1e-5)
    losses = []
    for x in (pixels, pixels / np.float32(255)):
        keras.utils.set_random_seed(1)
        model = compiled(MAKE[name]())
        losses.append(model.fit(x, epochs=2, shuffle=False, verbose=0).history["loss"])
        outputs = model(x)
        assert flat(outputs).shape and np.isfinite(flat(outputs)).all()
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@each
def test_a_file_keeps_settings_weights_and_the_state_of_the_optimizer(name, tmp_path):
    model = compiled(MAKE[name](), optimizer=keras.optimizers.Adam(0.02))
    model.fit(images(), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.encode(images()), model.encode(images()))
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    assert int(loaded.optimizer.iterations) == 2 and float(loaded.optimizer.learning_rate) == pytest.approx(0.02)
    again = [one.fit(images(), shuffle=False, verbose=0).history["loss"][0] for one in (model, loaded)]
    assert again[0] == pytest.approx(again[1], rel=1e-5)  # with the same noise and the same views


@each
def test_a_loss_of_a_layer_is_added(name):
    found = []
    for factor in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        model = MAKE[name](kernel_regularizer=keras.regularizers.L2(factor))
        found.append(compiled(model).evaluate(images(), verbose=0, return_dict=True)["loss"])
        square = float(np.sum(np.square(model.encoder.layers[-1].kernel)))
    assert found[1] - found[0] == pytest.approx(square, rel=1e-3)


@pytest.mark.slow
@each
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains(name, policy):
    keras.config.set_dtype_policy(policy)
    history = compiled(MAKE[name]()).fit(images(), epochs=3, verbose=0).history["loss"]
    assert np.isfinite(history).all()


@each
def test_labels_and_weights_are_refused(name):
    model = compiled(MAKE[name]())
    x, y = images(), np.zeros(12)
    with pytest.raises(ValueError, match="without labels: pass only x; got y"):
        model.fit(x, y)
    with pytest.raises(ValueError, match="without labels"):
        model.evaluate(x, y)
    with pytest.raises(ValueError, match=r"dataset.map\(lambda x, y: x\)"):
        model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(4))
    with pytest.raises(ValueError, match="without labels"):
        model.fit(x, validation_data=(x, y), verbose=0)
    with pytest.raises(ValueError, match="without labels and weights"):
        model.fit(x, sample_weight=np.ones(12), verbose=0)


@each
def test_inputs_that_would_be_silently_wrong_are_refused(name):
    model = compiled(MAKE[name]())
    with pytest.raises(ValueError, match="from 0 to 1"):
        model.fit(255 * images())
    with pytest.raises(ValueError, match="from 0 to 1"):
        model.encode(255 * images())
    with pytest.raises(ValueError, match="finite"):
        model.fit(images() * np.nan)
    with pytest.raises(ValueError, match="must have the shape"):
        model.encode(np.zeros((3, 4, 4, 1), "float32"))
    with pytest.raises(ValueError, match="batch_size"):
        model.encode(images(), batch_size=0)


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_models_of_probabilities_refuse_pixels_outside_of_0_to_1(name):
    model, x = compiled(MAKE[name]()), images()
    for wrong in (x - 0.5, 1.2 * x):
        with pytest.raises(ValueError, match=r"takes pixels from 0 to 1; x has values from .* Rescale it"):
            model.fit(wrong, verbose=0)
        with pytest.raises(ValueError, match="takes pixels from 0 to 1; x has"):
            model.evaluate(wrong, verbose=0)
        with pytest.raises(ValueError, match="takes pixels from 0 to 1; validation_data has"):
            model.fit(x, validation_data=wrong, verbose=0)
        batches = tf.data.Dataset.from_tensor_slices(wrong).batch(6)
        with pytest.raises(tf.errors.InvalidArgumentError, match="takes pixels from 0 to 1. Rescale them"):
            model.fit(batches, verbose=0)
        with pytest.raises(tf.errors.InvalidArgumentError, match="takes pixels from 0 to 1"):
            model.fit(x, validation_data=batches, verbose=0)
    pixels = np.round(255 * x).astype("uint8")
    model.fit(pixels, validation_data=tf.data.Dataset.from_tensor_slices(pixels).batch(6), verbose=0)
    model.fit(np.round(x).astype(bool), validation_data=(1.001 * x / x.max(),), verbose=0)


@pytest.mark.parametrize("name", ["vae", "contrastive"])
def test_a_model_with_its_own_loss_takes_no_other(name):
    with pytest.raises(ValueError, match="its own loss and metrics; got loss='mse'"):
        MAKE[name]().compile(loss="mse")
    with pytest.raises(ValueError, match="got metrics="):
        MAKE[name]().compile(metrics=["accuracy"])
    with pytest.raises(ValueError, match="got loss_weights="):
        MAKE[name]().compile(loss_weights=[2.0])


@each
def test_several_replicas_which_would_add_up_their_steps_are_refused(name, monkeypatch):
    model = MAKE[name]()
    monkeypatch.setattr(type(model.distribute_strategy), "num_replicas_in_sync", 2)
    with pytest.raises(ValueError, match=r"trains on one device; this strategy has 2 replicas"):
        model.compile()


@each
def test_an_encoder_must_give_one_row_of_features_per_image(name):
    image = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(2, 3)])
    arguments = {
        "rotation": (Rotation,),
        "vae": (VAE, decoder()),
        "contrastive": (Contrastive, keras.layers.RandomTranslation(0.1, 0.1)),
    }
    make, *others = arguments[name]
    with pytest.raises(ValueError, match=r"outputs of shape \(rows, width\).*Flatten"):
        make(image, *others)
    with pytest.raises(ValueError, match="no weights yet"):
        make(keras.Sequential([keras.layers.Dense(2)]), *others)
    with pytest.raises(TypeError, match="must be a Keras model"):
        make("conv4", *others)


@pytest.mark.parametrize("name", MAKE)
def test_a_dataset_of_float_pixels_up_to_255_is_refused_by_every_model(name):
    data = tf.data.Dataset.from_tensor_slices(255 * images().astype("float32")).batch(4)
    advice = "Rescale them, for example" if name in ("vae", "gan") else "Divide them by 255"
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"takes pixels from 0 to 1. {advice}"):
        compiled(MAKE[name]()).fit(data, verbose=0)
    compiled(MAKE[name]()).fit(data.map(lambda x: x / 255), verbose=0)


def test_a_batch_may_hold_the_bright_images_of_a_standardized_data_set_only():
    data = tf.data.Dataset.from_tensor_slices(images() + 1).batch(4)
    compiled(MAKE["rotation"]()).fit(data, verbose=0)
