"""Adapters: a frozen source and a trained residual, on the outputs and inside the layers."""

import keras
import numpy as np
import pytest
from keras import layers

import meta_keras as mk
from meta_keras.transfer import Frozen, fine_tune, freeze, with_low_rank, with_residual
from meta_keras.transfer.layers import weighted_layers


def source(units=3, activation=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="tanh", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(8, activation="tanh", name="hidden"),
            layers.Dense(units, activation=activation, name="head"),
        ]
    )


def task(count=24):
    random = np.random.default_rng(0)
    return random.normal(1, 2, (count, 6, 6, 1)).astype("float32"), np.arange(count) % 3


def test_learning_begins_with_the_answers_of_the_source():
    model, x = source(), task()[0]
    for adapted in (with_residual(model), with_low_rank(model, 2)):
        np.testing.assert_array_equal(adapted(x), model(x))


@pytest.mark.eagerly
def test_the_answer_is_the_sum_of_source_and_adapter_also_after_training():
    model, (x, y) = source(), task()
    adapter = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3)])
    adapted = with_residual(model, adapter)
    fine_tune(adapted, (x, y), train=None, epochs=3, verbose=0)
    np.testing.assert_allclose(adapted(x), model(x) + adapter(x), rtol=1e-5, atol=1e-6)


def test_the_source_is_a_copy_that_training_leaves_to_the_bit():
    model, data = source(), task()
    adapted = with_residual(model)
    frozen = adapted.get_layer("source")
    before = frozen.get_weights()
    loss = fine_tune(adapted, data, train=None, epochs=8, learning_rate=0.01, verbose=0).history["loss"]
    assert all(np.array_equal(*pair) for pair in zip(before, frozen.get_weights(), strict=True))
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))
    assert loss[-1] < loss[0] and model.trainable and len(model.trainable_weights) == 8
    assert not {id(w) for w in adapted.weights} & {id(w) for w in model.weights}


def test_the_frozen_source_runs_in_inference_mode():
    silent = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3, kernel_initializer="zeros")])
    model, (x, _) = source(), task()
    assert np.abs(model(x, training=True) - model(x, training=False)).max() > 0.1
    np.testing.assert_array_equal(with_residual(model, silent)(x, training=True), model(x, training=False))


def test_keras_hands_training_on_within_a_functional_model_so_a_frozen_model_is_a_layer():
    model, (x, _), inputs = source(), task(), keras.Input((6, 6, 1))
    model.trainable = False
    by_word = keras.Model(inputs, model(inputs, training=False))
    assert np.abs(by_word(x, training=True) - model(x, training=False)).max() > 0.1, "otherwise, Frozen can be removed"
    by_layer = keras.Model(inputs, Frozen(model)(inputs))
    np.testing.assert_array_equal(by_layer(x, training=True), model(x, training=False))


@pytest.mark.eagerly
def test_a_residual_of_low_rank_is_the_product_of_two_small_matrices():
    model, (x, y) = source(), task()
    adapted = with_low_rank(model, 2, ["conv", "hidden"])
    fine_tune(adapted, (x, y), train=None, epochs=3, learning_rate=0.01, verbose=0)
    new, old = weighted_layers(adapted)["hidden"], weighted_layers(model)["hidden"]
    a, b = new.lora_kernel_a.numpy(), new.lora_kernel_b.numpy()
    assert a.shape == (64, 2) and b.shape == (2, 8) and np.abs(b).max() > 0
    np.testing.assert_allclose(new.kernel, old.kernel.numpy() + a @ b, rtol=1e-5, atol=1e-6)
    assert np.linalg.matrix_rank(new.kernel - old.kernel.numpy(), tol=1e-5) == 2


def test_only_the_residuals_and_what_is_named_train():
    model, data = source(), task()
    adapted = with_low_rank(model, 1, "hidden", train=["head"])
    before = {weight.path: weight.numpy() for weight in adapted.weights}
    fine_tune(adapted, data, train=None, epochs=3, learning_rate=0.01, verbose=0)
    moved = {w.path.split("/", 1)[1] for w in adapted.weights if (w.numpy() != before[w.path]).any()}
    assert moved == {"hidden/lora_kernel_a", "hidden/lora_kernel_b", "head/kernel", "head/bias"}


def test_freezing_and_unfreezing_leaves_the_residuals_alone(tmp_path):
    adapted = with_low_rank(source(), 1, "hidden", train="head")
    adapted.save(tmp_path / "adapted.keras")
    for model in (adapted, keras.saving.load_model(tmp_path / "adapted.keras")):
        freeze(model, "head")
        assert {weight.name for weight in model.trainable_weights} == {"kernel", "bias"}
        freeze(model, ["hidden", "head"])
        names = [weight.path.rpartition("hidden/")[2] for weight in model.trainable_weights if "hidden" in weight.path]
        assert sorted(names) == ["lora_kernel_a", "lora_kernel_b"] and len(model.trainable_weights) == 4


def test_by_default_every_layer_that_can_carries_a_residual():
    adapted = with_low_rank(source(), 1)
    carrying = [name for name, layer in weighted_layers(adapted).items() if getattr(layer, "lora_enabled", False)]
    assert carrying == ["conv", "hidden", "head"]
    assert {weight.name for weight in adapted.trainable_weights} == {"lora_kernel_a", "lora_kernel_b"}


@pytest.mark.eagerly
def test_adapted_models_are_saved_and_loaded(tmp_path):
    x = task()[0]
    for adapted in (with_residual(source()), with_low_rank(source(), 2)):
        fine_tune(adapted, task(), train=None, epochs=2, verbose=0)
        adapted.save(tmp_path / "adapted.keras")
        loaded = keras.saving.load_model(tmp_path / "adapted.keras")
        np.testing.assert_allclose(loaded(x), adapted(x), rtol=1e-5, atol=1e-6)


def test_a_model_of_two_inputs_can_be_adapted():
    left, right = keras.Input((2,)), keras.Input((3,))
    model = keras.Model([left, right], layers.Dense(2)(layers.Concatenate()([left, right])))
    given = [np.ones((4, 2)), np.ones((4, 3))]
    np.testing.assert_array_equal(with_residual(model)(given), model(given))


@pytest.mark.parametrize(
    ("adapt", "words"),
    [
        (lambda: with_residual(source(activation="softmax")), ["softmax", "from_logits=True"]),
        (lambda: with_residual(source(3), source(4)), ["output shape", "(None, 4)", "(None, 3)", "'sequential"]),
        (lambda: with_residual(source(), mk.networks.d3(3)), ["input shape", "(None, 28, 28, 1)", "(None, 6, 6, 1)"]),
        (lambda: with_low_rank(source(), 0), ["rank", "0"]),
        (lambda: with_low_rank(source(), 1, "norm"), ["conv, hidden, head", "['norm']"]),
        (lambda: with_low_rank(source(), 1, "tail"), ["no 'tail' among"]),
        (lambda: with_low_rank(source(), 1, "head", train=["head"]), ["conv, hidden", "['head']"]),
    ],
)
def test_errors_name_the_layers_and_both_shapes(adapt, words):
    with pytest.raises(ValueError) as error:
        adapt()
    assert not [word for word in words if word not in str(error.value)], str(error.value)


def test_a_head_that_trains_as_a_whole_is_not_taken_for_a_part_of_other_names():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="head")])
    adapted = with_low_rank(model, 1, train="head")
    assert [weight.path.split("/", 1)[1] for weight in adapted.trainable_weights] == [
        *("a/lora_kernel_a", "a/lora_kernel_b"),
        *("head/kernel", "head/bias"),
    ]


def test_a_model_with_residuals_of_low_rank_can_be_copied():
    model = with_low_rank(source(), 2)
    np.testing.assert_array_equal(with_residual(model)(task()[0]), model(task()[0]))


def test_copies_normalise_as_the_source_does():
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(0).normal(5, 3, (50, 4)))
    model = keras.Sequential([keras.Input((4,)), norm, layers.Dense(3)])
    x = np.ones((2, 4))
    for adapt in (with_residual, with_low_rank):
        np.testing.assert_array_equal(adapt(model)(x), model(x))


def test_an_adapter_that_cannot_begin_at_zero_is_told():
    x = keras.Input((3,))
    around = keras.Model(x, layers.Add()([x, layers.Dense(3, name="last")(x)]))
    squashed = keras.Sequential([keras.Input((3,)), layers.Dense(3, activation="softplus", name="last")])
    for model in (around, squashed, with_residual(mk.networks.mlp(1))):
        with pytest.raises(ValueError, match="cannot make those of the adapter zero. Give an adapter of your own"):
            with_residual(model)


def test_inputs_by_name_keep_their_names():
    given = {name: keras.Input((2,), name=name) for name in ("left", "right")}
    model = keras.Model(given, layers.Dense(3)(layers.Concatenate()(list(given.values()))))
    x = {name: np.full((1, 2), value) for value, name in enumerate(given)}
    np.testing.assert_array_equal(with_residual(model)(x), model(x))


def test_a_source_must_have_one_output_and_known_layers():
    x = keras.Input((2,))
    with pytest.raises(ValueError, match="source must have one output; .* has 1 inputs and 2 outputs"):
        with_residual(keras.Model(x, [layers.Dense(1)(x), layers.Dense(1)(x)]))


@pytest.mark.eagerly
@pytest.mark.parametrize("thaw", ["all", "head", "by hand"])
def test_a_frozen_source_stays_the_same_to_the_bit_whatever_is_told_to_train(thaw):
    model = with_residual(source())
    before = model.get_layer("source").model.get_weights()
    if thaw == "by hand":
        model.trainable = False
        model.trainable = True
    else:
        freeze(model, thaw, batch_norm=True)
    fine_tune(model, task(), train=None, learning_rate=0.1, verbose=0)
    for one, other in zip(before, model.get_layer("source").model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.trainable_weights and not model.get_layer("source").trainable_weights


def test_a_layer_within_a_frozen_one_cannot_be_told_to_train():
    model = with_residual(source())
    inside = next(name for name in weighted_layers(model) if name.startswith("source/"))
    with pytest.raises(ValueError, match=f"'{inside}' is within a Frozen layer, which never trains"):
        fine_tune(model, task(), train=[inside], verbose=0)


def test_probabilities_are_not_summed():
    with pytest.raises(ValueError, match="ends in a sigmoid, and sums of probabilities are not probabilities"):
        with_residual(source(activation="sigmoid"))


def test_a_second_residual_goes_to_other_layers():
    once = with_low_rank(source(), 2, "hidden")
    twice = with_low_rank(once, 1)
    x = task()[0]
    np.testing.assert_array_equal(twice(x), once(x))
    trained = {weight.path.split("/")[-2] for weight in twice.trainable_weights}
    assert trained == {"conv", "head"}, "the first residual belongs to the source now"
    for layers_, words in (
        ("hidden", r"got \['hidden'\]. hidden already have one"),
        (None, "none; got no layers.* have one"),
    ):
        with pytest.raises(ValueError, match=words):
            with_low_rank(once if layers_ else with_low_rank(source(), 2), 1, layers_)


@pytest.mark.parametrize("adapter", ["x", 3, np.ones(3), layers.Dense(3)])
def test_an_adapter_is_a_model(adapter):
    with pytest.raises((TypeError, ValueError), match="adapter must"):
        with_residual(source(), adapter)
