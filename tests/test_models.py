"""What models that are trained on arrays or datasets have in common."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras.models import ExampleModel
from meta_keras.multitask import MultiTask, mix_tasks
from meta_keras.transfer import Distiller, DomainAdaptation, pair_domains
from meta_keras.unsupervised import VAE, Contrastive, Rotation
from tests.unlabeled import compiled, decoder, encoder, images


def multitask():
    trunk = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    model = MultiTask(trunk, {"size": keras.layers.Dense(1)})
    model.compile("sgd", run_eagerly=True)
    return model, mix_tasks({"size": (images(), np.zeros((12, 1), "float32"))}, rows=4)


def unlabeled():
    return compiled(VAE(encoder(), decoder())), tf.data.Dataset.from_tensor_slices(images()).repeat().batch(4)


def domains():
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="features"), keras.layers.Dense(2)])
    model = DomainAdaptation(network, layer="features")
    model.compile("sgd", run_eagerly=True)
    x, y = np.ones((6, 3), "float32"), np.zeros(6, "int32")
    return model, pair_domains(x, y, x, batch_size=2)


@pytest.mark.parametrize("make", [multitask, unlabeled, domains])
def test_endless_datasets_need_a_number_of_steps(make):
    model, data = make()
    with pytest.raises(ValueError, match="x is an endless dataset.*such as steps_per_epoch=100"):
        model.fit(data, verbose=0)
    with pytest.raises(ValueError, match="validation_data is an endless dataset.*such as validation_steps=100"):
        model.fit(data, steps_per_epoch=1, validation_data=data, verbose=0)
    with pytest.raises(ValueError, match="x is an endless dataset.*such as steps=100"):
        model.evaluate(data, verbose=0)
    model.fit(data, steps_per_epoch=1, validation_data=data, validation_steps=1, verbose=0)
    model.evaluate(data, steps=1, verbose=0)
    model.fit(data.take(2), validation_data=data.take(1), verbose=0)


def with_dropout(model):
    model.encoder.add(keras.layers.Dropout(0.5))
    return compiled(model)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VAE(encoder(), decoder()),
        lambda: Contrastive(encoder(), keras.layers.RandomTranslation(0.1, 0.1)),
        lambda: Rotation(encoder()),
    ],
)
def test_files_keep_the_states_of_random_generators(make, tmp_path):
    model = with_dropout(make())
    model.fit(images(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.fit(images(), epochs=2, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_without_these_states_still_load():
    model, store = VAE(encoder(), decoder()), {}
    keras.Model.save_own_variables(model, store)
    assert isinstance(model, ExampleModel) and not any(name.startswith("seed") for name in store)
    before = model.seed_generator.state.numpy()
    model.load_own_variables(store)
    np.testing.assert_array_equal(model.seed_generator.state, before)


def adaptation_fits(**compiled_with):
    """Four labels and four answers a row: as many as would be broadcast without an error."""
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="features"), keras.layers.Dense(4)])
    model = DomainAdaptation(network, layer="features")
    model.compile("sgd", **compiled_with)
    x, y = np.ones((4, 2), "float32"), np.arange(4)
    return model.fit(pair_domains(x, y, x, batch_size=4), steps_per_epoch=1, verbose=0)


def distiller_fits(**compiled_with):
    student, teacher = (keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)]) for _ in range(2))
    model = Distiller(student, teacher)
    model.compile("sgd", **compiled_with)
    return model.fit(np.ones((4, 2), "float32"), np.arange(4), verbose=0)


def multitask_fits(metrics):
    trunk = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model = MultiTask(trunk, {"kind": keras.layers.Dense(4), "size": keras.layers.Dense(1)})
    model.compile("sgd", metrics={"kind": metrics, "size": ["mae"]})
    labels = {"kind": np.arange(4), "size": np.ones((4, 1), "float32")}
    return model.fit(np.ones((4, 2), "float32"), labels, verbose=0)


@pytest.mark.parametrize("fits", [adaptation_fits, distiller_fits, multitask_fits])
@pytest.mark.parametrize("metric", ["mae", "categorical_accuracy", keras.metrics.MeanSquaredError(name="mine")])
def test_labels_are_not_broadcast_by_a_metric(fits, metric):
    name = getattr(metric, "name", {"mae": "mean_absolute_error"}.get(metric, metric))
    with pytest.raises(ValueError, match=f"The metric '{name}' takes .*each with 4 answers.*sparse_categorical_acc"):
        fits(metrics=["accuracy", metric])
    assert fits(metrics=["accuracy"]).history


@pytest.mark.parametrize("loss", ["mse", keras.losses.Huber()])
def test_labels_are_not_broadcast_by_a_loss(loss):
    with pytest.raises(ValueError, match="The loss '.*' takes numbers.*sparse_categorical_crossentropy"):
        adaptation_fits(loss=loss)


def test_targets_are_not_broadcast_whatever_their_type():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="features"), keras.layers.Dense(4)])
    for targets in (np.ones(4, "float32"), np.ones(4, bool), np.ones((4, 1), bool)):
        model = DomainAdaptation(network, layer="features", method=None)
        model.compile("sgd", loss="mse")
        with pytest.raises(ValueError, match="The loss 'mean_squared_error' takes"):
            model.evaluate(np.ones((4, 2), "float32"), targets, verbose=0)
        model.evaluate(np.ones((4, 2), "float32"), np.ones((4, 4), "float32"), verbose=0)


def test_words_for_metrics_may_be_capitalized_and_losses_listed():
    assert adaptation_fits(metrics=["Accuracy"]).history
    model = Rotation(encoder())
    model.compile("sgd", loss=[keras.losses.SparseCategoricalCrossentropy(from_logits=True)])
    model.fit(images(), verbose=0)


def test_one_hot_rows_of_unknown_width_are_accepted():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="features"), keras.layers.Dense(4)])
    model = DomainAdaptation(network, layer="features", method=None)
    model.compile("sgd", loss="categorical_crossentropy")
    spec = (tf.TensorSpec((None, 2)), tf.TensorSpec((None, None), tf.int32))
    rows = [(np.ones((4, 2)), np.eye(4))]
    data = tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=spec)
    assert np.isfinite(model.evaluate(data, verbose=0))


def test_metrics_as_classes_do_not_count_in_the_names_of_keras():
    names = [keras.metrics.Precision().name for _ in range(2)]
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid", name="features")])
    model = DomainAdaptation(network, layer="features", method=None)
    ExampleModel.compile(model, "sgd", "binary_crossentropy", None, [keras.metrics.Precision])
    model.evaluate(np.ones((2, 2), "float32"), np.ones((2, 1), "float32"), verbose=0)
    numbers = [int(name.rpartition("_")[2]) for name in (names[1], *model.get_metrics_result()) if "precision_" in name]
    assert numbers[1] == numbers[0] + 1
