"""Fine-tuning: which layers train, which stay exactly as they are, and when each of them joins."""

import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import meta_keras as mk
from meta_keras.copies import copy_of
from meta_keras.transfer import fine_tune, freeze, unfreeze_gradually
from meta_keras.transfer.layers import weighted_layers

pytestmark = pytest.mark.eagerly
NAMES = ["first", "norm", "second", "head"]


def network(activation=None, units=3):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="tanh", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(6, activation="tanh", name="second"),
            layers.Dense(units, activation=activation, name="head"),
        ]
    )


def task(count=24, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(1, 2, (count, 4)).astype("float32"), np.arange(count) % 3


def moved(model, work):
    """The layers with any weight that has changed, compared exactly."""
    before = model.get_weights()
    work()
    return changed(model, before)


def changed(model, before):
    now = dict(zip([weight.path for weight in model.weights], before, strict=True))
    different = {weight.path for weight in model.weights if (weight.numpy() != now[weight.path]).any()}
    paths = {name: {weight.path for weight in layer.weights} for name, layer in weighted_layers(model).items()}
    return [name for name, of_layer in paths.items() if different & of_layer]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("head", ["head"]),
        ("all", ["first", "second", "head"]),
        ("second", ["second"]),
        (["first", "head"], ["first", "head"]),
        (["norm", "head"], ["norm", "head"]),
    ],
)
def test_only_what_is_asked_for_trains_and_the_rest_stays_to_the_bit(train, expected):
    model = network()
    assert moved(model, lambda: fine_tune(model, task(), train=train, epochs=3, verbose=0)) == expected
    assert freeze(model, train) == expected


def test_batch_normalisation_trains_only_if_it_is_asked_to():
    model = network()
    fit = {"epochs": 2, "verbose": 0}
    assert "norm" not in moved(model, lambda: fine_tune(model, task(), train="all", **fit))
    freeze(model, "all", batch_norm=True)
    assert moved(model, lambda: fine_tune(model, task(), train=None, **fit)) == NAMES


def test_a_frozen_batch_normalisation_runs_in_inference_mode():
    model, (x, _) = network(), task()
    norm = weighted_layers(model)["norm"]
    assert np.abs(model(x, training=True) - model(x, training=False)).max() > 1e-3
    freeze(model, "all")
    np.testing.assert_array_equal(model(x, training=True), model(x, training=False))
    assert not norm.trainable_weights


def test_freezing_again_frees_what_was_frozen():
    model = network()
    freeze(model, "head")
    assert freeze(model, "all", batch_norm=True) == NAMES
    assert len(model.trainable_weights) == 8


def test_a_layer_within_a_layer_is_frozen_by_its_own_name_or_by_that_of_the_outer_one():
    trunk = keras.Sequential([layers.Dense(5, name="low"), layers.Dense(5, name="high")], name="trunk")
    model = keras.Sequential([keras.Input((4,)), trunk, layers.Dense(3, name="head")])
    assert freeze(model, "trunk/high") == ["trunk/high"]
    assert moved(model, lambda: fine_tune(model, task(), train="trunk/high", verbose=0)) == ["trunk/high"]
    assert freeze(model, "trunk") == ["trunk/low", "trunk/high"]


@pytest.mark.eagerly(False)
def test_gradual_training_lets_one_layer_more_train_after_every_stage():
    model, seen = network(), []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.before = self.model.get_weights()

        def on_epoch_end(self, epoch, logs=None):
            seen.append(changed(self.model, self.before))

    fit = {"epochs_per_layer": 2, "epochs": 8, "callbacks": [Watch()], "verbose": 0}
    history = unfreeze_gradually(model, task(), **fit)
    assert seen == [["head"]] * 2 + [["second", "head"]] * 2 + [["first", "second", "head"]] * 4
    assert history.epoch == list(range(8)) and len(history.history["loss"]) == 8


def test_an_optimizer_object_keeps_its_own_learning_rate():
    model = network()
    fine_tune(model, task(), learning_rate=0.02, verbose=0)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    mine = keras.optimizers.SGD(0.3, momentum=0.5)
    fine_tune(model, task(), optimizer=mine, verbose=0)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.3) and model.optimizer.momentum == 0.5
    assert model.optimizer is not mine and not mine.built, "the user's optimizer stays unused"


@pytest.mark.eagerly(False)
def test_it_learns():
    x, y = task(60)
    y = (x[:, 0] > 1).astype(int) + (x[:, 1] > 1)
    model = network()
    history = fine_tune(model, (x, y), train="all", learning_rate=0.03, epochs=40, verbose=0)
    assert history.history["accuracy"][-1] > 0.9 > history.history["accuracy"][0]
    assert model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] > 0.9


def test_the_loss_fits_the_answers():
    x, y = task()
    scores, chances = network(), network("softmax")
    losses = [fine_tune(model, (x, y), verbose=0).history["loss"][0] for model in (scores, chances)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    real = fine_tune(network(units=1), (x, x[:, :1]), verbose=0)
    assert "accuracy" not in real.history and real.history["loss"][0] > 0


@pytest.mark.eagerly(False)
@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_cross_entropy_by_name_and_as_a_metric_is_that_of_the_answers(activation, loss):
    x, y = task()
    wanted = fine_tune(network(activation), (x, y), verbose=0).history["loss"]
    found = fine_tune(network(activation), (x, y), loss=loss, metrics=[loss], verbose=0).history
    np.testing.assert_allclose([found["loss"], found["sparse_categorical_crossentropy"]], [wanted, wanted], rtol=1e-5)


def test_data_may_come_as_arrays_as_a_dataset_or_in_pieces():
    class Pieces(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return tuple(part[12 * index : 12 * index + 12] for part in task())

    x, y = task()
    sets = [(x, y), tf.data.Dataset.from_tensor_slices((x, y)).batch(12), Pieces()]
    kernels = []
    for data in sets:
        model = network()
        fit = {"batch_size": 12} if isinstance(data, tuple) else {}
        fine_tune(model, data, shuffle=False, verbose=0, **fit)
        kernels.append(model.layers[-1].kernel.numpy())
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=1e-6)
    np.testing.assert_allclose(kernels[0], kernels[2], rtol=1e-6)


def test_training_that_a_callback_stops_is_not_taken_up_in_the_next_stage():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    history = unfreeze_gradually(network(), task(), epochs_per_layer=3, epochs=9, callbacks=[Stop()], verbose=0)
    assert history.epoch == [0, 1]


def test_with_train_none_everything_stays_as_trainable_as_it_is():
    model = network()
    model.layers[0].trainable = False
    model.layers[1].trainable = False
    assert moved(model, lambda: fine_tune(model, task(), train=None, verbose=0)) == ["second", "head"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"train": "tail"}, ["no 'tail' among", "'second'"]),
        ({"train": []}, ["train must be a name or a list of names; got []"]),
        ({"optimizer": keras.optimizers.Adam(0.1), "learning_rate": 0.1}, ["leave learning_rate= out"]),
        ({"optimizer": "adamant"}, ["optimizer must be a Keras optimizer or the name of one; got 'adamant'"]),
        ({"optimizer": None}, ["optimizer must be a string; got None"]),
        ({"learning_rate": float("nan")}, ["learning_rate must be a positive finite number; got nan"]),
        ({"learning_rate": -1}, ["learning_rate must be a positive finite number; got -1"]),
        ({"epochs": -1}, ["epochs must be an integer of at least 1; got -1"]),
        ({"batch_size": -1}, ["batch_size must be an integer of at least 1; got -1"]),
    ],
)
def test_errors_say_what_was_given_and_what_to_do(arguments, words):
    with pytest.raises(ValueError) as error:
        fine_tune(network(), task(), verbose=0, **arguments)
    assert not [word for word in words if word not in str(error.value)], str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs_per_layer": 2, "epochs": 5}, ["3 layers", "need 6 epochs", "epochs=5"]),
        ({"epochs_per_layer": -1}, ["epochs_per_layer must be an integer of at least 1; got -1"]),
        ({"epochs": -1}, ["epochs must be an integer of at least 1; got -1"]),
        ({"train": None}, ["train must be a name or a list of names; got None"]),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused_and_the_model_stays_as_it_was(arguments, words):
    model = network()
    model.layers[0].trainable = False
    with pytest.raises(ValueError) as error:
        unfreeze_gradually(model, task(), verbose=0, **arguments)
    assert not [word for word in words if word not in str(error.value)], str(error.value)
    assert [layer.trainable for layer in model.layers] == [False, True, True, True]


def test_data_that_cannot_be_learned_leave_the_model_as_it_was_in_gradual_training_too():
    model = network()
    with pytest.raises(ValueError, match="data must be inputs and targets"):
        unfreeze_gradually(model, task()[0], verbose=0)
    assert all(layer.trainable for layer in model.layers)


def test_without_epochs_every_stage_is_equally_long():
    assert unfreeze_gradually(network(), task(), train=["second", "head"], epochs_per_layer=2, verbose=0).epoch == [
        *range(4)
    ]


@pytest.mark.parametrize("model", [None, "x", np.ones(3), keras.Model, layers.Dense(2)])
def test_what_is_not_a_model_is_refused(model):
    for train in (fine_tune, unfreeze_gradually):
        with pytest.raises((TypeError, ValueError), match="model must"):
            train(model, task())


def test_a_label_without_an_output_is_told_before_training():
    x, y = task()
    with pytest.raises(ValueError, match="3 outputs, for labels 0 to 2; got the label 5"):
        fine_tune(network(), (x, y + 3), verbose=0)


def test_a_model_with_several_outputs_needs_named_losses():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, [layers.Dense(3, name=name)(inputs) for name in "ab"])
    for train in (fine_tune, unfreeze_gradually):
        with pytest.raises(ValueError, match="has 2 outputs; name their losses with loss="):
            train(model, (np.ones((4, 8)), np.ones((4, 3))), train="all", verbose=0)


def test_data_without_answers_are_told():
    for data in (tf.data.Dataset.from_tensor_slices(task()[0]).batch(4), task()[0]):
        with pytest.raises(ValueError, match="data must be inputs and targets"):
            fine_tune(network(), data, verbose=0)


def test_a_network_of_the_library_is_fine_tuned_as_it_is():
    model = mk.networks.conv4(3, filters=4, downsample="stride")
    x = np.random.default_rng(0).normal(size=(6, 28, 28, 1)).astype("float32")
    names = moved(model, lambda: fine_tune(model, (x, np.arange(6) % 3), train="all", epochs=2, verbose=0))
    assert not [name for name in names if "norm" in name] and "head" in names


def test_a_loss_that_is_named_takes_its_own_answers():
    x, y = task()
    for activation, loss, answers in (("sigmoid", "binary_crossentropy", y > 0), (None, "mse", 10 * y)):
        history = fine_tune(network(activation, units=1), (x, answers.astype(int)), loss=loss, verbose=0)
        assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize("loss", ["mse", "MeanAbsoluteError", keras.losses.huber])
@pytest.mark.parametrize("made", [lambda: network(units=1), lambda: regression_expert()])
def test_the_file_of_a_plain_model_needs_nothing_of_this_library(tmp_path, made, loss):
    """Keras would import the package that a class in the file comes from, which need not be installed there."""
    model = made()
    x = np.ones((8, *model.input_shape[1:]), "float32")
    fine_tune(model, (x, x[:, :1]), loss=loss, verbose=0)
    model.save(tmp_path / "model.keras")
    assert "meta_keras" not in zipfile.ZipFile(tmp_path / "model.keras").read("config.json").decode()
    assert keras.models.load_model(tmp_path / "model.keras").loss.name == model.loss.name


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("within", [lambda loss: [loss], lambda loss: (loss,), lambda loss: {"head": loss}])
def test_a_list_or_a_dictionary_of_one_loss_is_that_loss(within, activation):
    x, y = task()

    def train(loss, targets, units=1):
        plain = network(activation, units)  # a Sequential has no names for its outputs
        return fine_tune(keras.Model(plain.inputs, plain.outputs), (x, targets), loss=loss, verbose=0).history["loss"]

    for loss, targets in (("mse", x[:, :1]), ("binary_crossentropy", np.float32(y[:, None] > 0))):
        np.testing.assert_allclose(train(within(loss), targets), train(loss, targets), rtol=1e-6)
    with pytest.raises(ValueError, match="'mean_squared_error' takes numbers as targets"):
        train(within("mse"), y, units=3)
    if activation is None:  # otherwise Keras gets the loss as it is, and takes no configurations
        train(keras.losses.serialize(keras.losses.Huber(delta=0.5)), x[:, :1])


def regression_expert():
    learner = mk.MetaLearner(network=mk.networks.mlp(1, hidden=(3,)), rule=mk.rules.GradientDescent(0.01))
    learner.compile(loss="mse")
    return learner.adapt([[0.0], [1.0]], [[0.0], [1.0]])


def test_a_function_of_ones_own_is_left_to_keras():
    def own(y, p):
        return keras.ops.mean(keras.ops.square(y - p), axis=-1)

    model = network(units=1)
    fine_tune(model, (task()[0], np.ones((24, 1))), loss=own, verbose=0)
    assert model.loss is own


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (task() + (np.ones(24),), "inputs and targets.*sample_weight="),
        (list(task()), "inputs and targets"),
        ((task()[0], None), "inputs and targets"),
        ((task()[0][:0], task()[1][:0]), r"inputs must be an array.*; got ndarray of shape \(0, 4\)"),
        ((task()[0], np.array(["a", "b"] * 12)), "got string.*Number the classes"),
        ((task()[0], task()[1] > 0), "got bool"),
        ((task()[0], task()[1] - 1), "got the label -1"),
    ],
)
def test_answers_that_cannot_be_learned_are_told_and_the_model_stays_as_it_was(data, words):
    model = network()
    with pytest.raises(ValueError, match=words):
        fine_tune(model, data, verbose=0)
    assert all(layer.trainable for layer in model.layers) and not model.compiled


class Shifted(keras.Model):
    """A model with its own weight in addition to its layers."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = layers.Dense(4, name="hidden"), layers.Dense(3, name="head")
        self.shift = self.add_weight(shape=(4,), name="shift")

    def call(self, x):
        return self.head(self.hidden(x) + self.shift)


def test_a_model_with_weights_of_its_own_is_frozen_around_a_head_that_trains():
    model = Shifted()
    model(task()[0])
    assert freeze(model) == ["head"]
    assert [weight.name for weight in model.trainable_weights] == ["kernel", "bias"]
    before = model.get_weights()
    fine_tune(model, task(), verbose=0)
    stayed = [weight.name for weight, old in zip(model.weights, before, strict=True) if np.array_equal(weight, old)]
    assert stayed == ["shift", "kernel", "bias"]


@pytest.mark.parametrize("gradually", [False, True])
def test_pixels_that_nothing_scales_are_refused(gradually):
    model, pixels = network(), np.full((6, 4), 255, np.uint8)
    for data in ((pixels, np.arange(6) % 3), tf.data.Dataset.from_tensors((pixels, np.arange(6) % 3))):
        with pytest.raises(ValueError, match="inputs must be floats: these are pixels from 0 to 255"):
            (unfreeze_gradually if gradually else fine_tune)(model, data, verbose=0)
    assert all(layer.trainable for layer in model.layers)


def test_pixels_to_validate_on_are_refused_as_those_to_train_on():
    model, pixels, y = network(), np.full((6, 4), 255, np.uint8), np.arange(6) % 3
    with pytest.raises(ValueError, match="validation_data must be floats: these are pixels"):
        fine_tune(model, (pixels / 255, y), validation_data=(pixels, y), verbose=0)
    with pytest.raises(ValueError, match="validation_data must be floats: these are pixels"):
        batches = tf.data.Dataset.from_tensors((pixels, y))
        fine_tune(model, (pixels / 255, y), validation_data=batches, verbose=0)
    fine_tune(model, (pixels / 255, y), validation_data=(pixels / 255, y), verbose=0)


def with_parts(kind):
    inputs = keras.Input((5, 4))
    if kind == "attention":
        features = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 3, name="part")(inputs, inputs))
    elif kind == "model":
        features = keras.Sequential([keras.Input((5, 4)), layers.Flatten(), layers.Dense(3)], name="part")(inputs)
    else:
        inner = layers.LSTM(3, name="part") if kind == "LSTM" else layers.Bidirectional(layers.GRU(3), name="part")
        features = inner(inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(features))


@pytest.mark.parametrize("kind", ["LSTM", "both directions", "attention", "model"])
def test_what_is_frozen_is_frozen_in_files_and_copies(kind, tmp_path):
    model = with_parts(kind)
    everything = len(model.trainable_variables)
    freeze(model, "head")
    model.save(tmp_path / "model.keras")
    assert len(model.trainable_variables) == len(copy_of(model).trainable_variables) == 2
    if kind != "attention":  # of which Keras does not save it
        assert len(keras.models.load_model(tmp_path / "model.keras").trainable_variables) == 2
    freeze(model, "all")
    assert len(model.trainable_variables) == everything


def test_batch_normalization_without_weights_that_are_trained_trains_if_it_is_asked_to():
    plain = layers.BatchNormalization(center=False, scale=False, name="norm")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="below"), plain, layers.Dense(2, name="head")])
    freeze(model, ["norm", "head"])
    assert [layer.trainable for layer in model.layers] == [False, True, True]
    freeze(model, "head")
    assert [layer.trainable for layer in model.layers] == [False, False, True]


def test_the_head_is_no_batch_normalization():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="last"), layers.BatchNormalization(name="norm")])
    assert freeze(model) == ["last"] and freeze(model, batch_norm=True) == ["norm"]


@pytest.mark.parametrize(("shape", "outputs"), [((8, 1), 3), ((8, 2), 1), ((8, 2), 3), ((8,), 2)])
def test_targets_are_not_broadcast(shape, outputs):
    with pytest.raises(ValueError, match="has outputs of shape .* and the targets, which are floats, have the shape"):
        fine_tune(network(units=outputs), (task(8)[0], np.zeros(shape)), verbose=0)


@pytest.mark.parametrize(("shape", "outputs"), [((8, 1), 1), ((8,), 1), ((8, 2), 2)])
def test_an_axis_of_one_number_is_optional(shape, outputs):
    fine_tune(network(units=outputs), (task(8)[0], np.zeros(shape)), verbose=0)


def test_batches_in_pieces_are_shuffled_as_by_keras():
    class Pieces(keras.utils.PyDataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            seen.append(index)
            return task(2)

    seen = []
    fine_tune(network(), Pieces(), epochs=4, verbose=0)
    assert [seen[n : n + 8] for n in range(len(seen) - 32, len(seen), 8)] != [list(range(8))] * 4
