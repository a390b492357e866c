"""Weights transferred from one model to another: all or some, completely or in part."""

import keras
import numpy as np
import pytest
from keras import layers

import meta_keras as mk
from meta_keras.transfer import blend_weights, transfer_weights
from meta_keras.transfer.layers import weighted_layers


def network(units=3, hidden=(6, 5), seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    model = mk.networks.mlp(units, input_shape=(4,), hidden=hidden, **kwargs)
    model.set_weights([np.random.default_rng(seed + n).normal(size=w.shape) for n, w in enumerate(model.weights)])
    return model


def named(units=3, seed=0):
    keras.utils.set_random_seed(seed)
    inner = keras.Sequential([layers.Dense(6, name="first"), layers.BatchNormalization(name="norm")], name="trunk")
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dropout(0.5), layers.Dense(units, name="head")])
    random = np.random.default_rng(seed)
    model.set_weights([random.uniform(0.5, 2, w.shape) for w in model.weights])
    return model


def values(model):
    return {name: [w.numpy() for w in layer.weights] for name, layer in weighted_layers(model).items()}


def alike(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def changed(before, model):
    return [name for name, now in values(model).items() if not alike(before[name], now)]


def test_a_full_transfer_makes_the_models_answer_alike_and_leaves_the_source_as_it_was():
    source, target = network(seed=1), network(seed=2)
    before = values(source)
    report = transfer_weights(source, target)
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(source(x), target(x))
    assert not changed(before, source) and not report.left
    assert list(report.moved.values()) == list(weighted_layers(source))


def test_weights_are_copied_and_not_shared():
    source, target = network(seed=1), network(seed=2)
    transfer_weights(source, target)
    after = values(target)
    source.layers[0].kernel.assign_add(np.ones((4, 6)))
    assert not changed(after, target)


def test_layers_without_names_of_their_own_go_by_their_kind_and_number():
    source, target = network(seed=1), network(seed=2)
    names = [set(list(weighted_layers(model))[:2]) for model in (source, target)]
    assert not names[0] & names[1], "Keras numbers them consecutively"
    report = transfer_weights(source, target)
    assert list(report.moved) == list(weighted_layers(target))


def test_what_does_not_fit_is_left_and_the_report_says_why_with_both_shapes():
    source, target = network(3, seed=1), network(2, seed=2)
    before = values(target)
    report = transfer_weights(source, target)
    assert changed(before, target) == list(report.moved) == list(weighted_layers(target))[:2]
    assert report.left == {"head": "its shapes are (5, 2), (2), and in the source (5, 3), (3)"}
    assert "head: not transferred, its shapes are (5, 2)" in str(report)


@pytest.mark.parametrize("asked", ["head", ["trunk/norm"], ["trunk"], ["trunk/first", "head"]])
def test_a_partial_transfer_changes_exactly_the_layers_that_are_named(asked):
    source, target = named(seed=1), named(seed=2)
    before = values(target)
    report = transfer_weights(source, target, asked)
    wanted = {"trunk": ["trunk/first", "trunk/norm"]}.get(asked[0], [asked] if isinstance(asked, str) else asked)
    assert changed(before, target) == wanted == list(report.moved)
    assert all(alike(values(source)[name], values(target)[name]) for name in wanted)
    assert set(report.left) == set(weighted_layers(target)) - set(wanted)


def test_the_moving_averages_of_batch_normalisation_are_weights_too():
    source, target = named(seed=1), named(seed=2)
    transfer_weights(source, target)
    np.testing.assert_array_equal(source.layers[0].layers[1].moving_mean, target.layers[0].layers[1].moving_mean)


def test_a_mapping_joins_layers_of_different_names():
    source, target = named(seed=1), network(3, hidden=(6,), seed=2)
    first = list(weighted_layers(target))[0]
    report = transfer_weights(source, target, {"trunk/first": first})
    assert report.moved == {first: "trunk/first"}
    assert alike(values(source)["trunk/first"], values(target)[first])


def test_the_state_of_random_generators_stays_where_it_is():
    source, target = named(seed=1), named(seed=2)
    kept = [v.numpy() for v in target.variables if v.name == "seed_generator_state"]
    transfer_weights(source, target)
    assert alike(kept, [v.numpy() for v in target.variables if v.name == "seed_generator_state"]) and kept


def test_a_layer_that_is_used_twice_is_moved_once():
    inputs, shared = keras.Input((4,)), layers.Dense(4, name="shared")
    source, target = (keras.Model(inputs, shared(shared(inputs))) for _ in range(2))
    assert list(weighted_layers(source)) == ["shared"]
    assert transfer_weights(source, target).moved == {"shared": "shared"}


def test_a_layer_that_stands_in_two_others_is_named_once():
    shared = layers.Dense(4, name="shared")
    one, two = (keras.Sequential([keras.Input((4,)), shared], name=name) for name in ("one", "two"))
    assert list(weighted_layers(keras.Sequential([keras.Input((4,)), one, two]))) == ["one/shared"]


@pytest.mark.parametrize("coefficient", [0.0, 1.0, 0, 1])
def test_a_blend_of_nothing_or_of_all_is_the_one_or_the_other_to_the_bit(coefficient):
    source, target = named(seed=1), named(seed=2)
    expected = values(source if coefficient else target)
    blend_weights(source, target, coefficient)
    assert not changed(expected, target)


@pytest.mark.parametrize("coefficient", [0.5, 0.3])
def test_a_blend_lies_between_source_and_target_by_its_coefficient(coefficient):
    source, target = named(seed=1), named(seed=2)
    expected = {
        name: [coefficient * a + (1 - coefficient) * b for a, b in zip(values(source)[name], kept, strict=True)]
        for name, kept in values(target).items()
    }
    blend_weights(source, target, coefficient)
    for name, now in values(target).items():
        for a, b in zip(expected[name], now, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_half_and_half_is_the_default_and_only_named_layers_are_blended():
    source, target = named(seed=1), named(seed=2)
    before = values(target)
    blend_weights(source, target, layers="head")
    assert changed(before, target) == ["head"]
    mean = (values(source)["head"][0] + before["head"][0]) / 2
    np.testing.assert_allclose(values(target)["head"][0], mean, rtol=1e-6)


def test_each_layer_may_have_its_own_coefficient():
    source, target = named(seed=1), named(seed=2)
    before = values(target)
    report = blend_weights(source, target, {"trunk": 1.0, "head": 0.25})
    assert alike(values(target)["trunk/norm"], values(source)["trunk/norm"])
    expected = 0.25 * values(source)["head"][0] + 0.75 * before["head"][0]
    np.testing.assert_allclose(values(target)["head"][0], expected, rtol=1e-6)
    assert list(report.moved) == ["trunk/first", "trunk/norm", "head"]


@pytest.mark.parametrize(
    ("move", "words"),
    [
        (lambda s, t: transfer_weights(s, t, "hidden"), ["no 'hidden' among", "'trunk/first'", "'head'"]),
        (lambda s, t: transfer_weights(s, t, []), ["layers must be a name or a list of names; got []"]),
        (lambda s, t: transfer_weights(s, t, "head"), ["'head' cannot be transferred", "(6, 2), (2)", "(6, 3), (3)"]),
        (lambda s, t: blend_weights(s, t, 1.5), ["coefficient must be a number from 0 to 1", "1.5"]),
        (
            lambda s, t: blend_weights(s, t, {"trunk": 0.5, "head": -1}, "trunk"),
            ["['head'] must be a number from 0 to 1"],
        ),
        (lambda s, t: blend_weights(s, t, {"head": 1.0}, "trunk"), ["got head, without trunk/first, trunk/norm"]),
        (lambda s, t: transfer_weights(s, t, {"head": "tail"}), ["no 'tail' among", "'trunk/norm'"]),
        (lambda s, t: transfer_weights(network(2, (7,)), t, None), ["Nothing of", "(7, 2), (2)", "layers={"]),
    ],
)
def test_errors_name_the_layers_and_both_shapes_and_nothing_has_moved(move, words):
    source, target = named(3, seed=1), named(2, seed=2)
    before = values(target)
    with pytest.raises(ValueError) as error:
        move(source, target)
    assert not [word for word in words if word not in str(error.value)], str(error.value)
    assert not changed(before, target)


def test_two_layers_cannot_go_to_the_same_place():
    source, target = named(seed=1), named(seed=2)
    with pytest.raises(ValueError, match="pair each layer with a different one"):
        transfer_weights(source, target, {"head": "head", "trunk/first": "head"})


def test_whole_numbers_are_moved_and_cannot_be_blended():
    class Counting(layers.Dense):
        def build(self, shape):
            super().build(shape)
            self.table = self.add_weight(shape=(3,), dtype="int32", initializer="ones", trainable=False)

    source, target = (keras.Sequential([keras.Input((4,)), Counting(2, name="lookup")]) for _ in range(2))
    source.layers[0].table.assign([5, 6, 7])
    kept = values(target)
    with pytest.raises(ValueError, match="contains integers, which cannot be blended"):
        blend_weights(source, target)
    assert not changed(kept, target), "an error must not leave a model partially blended"
    transfer_weights(source, target)
    assert list(target.layers[0].table.numpy()) == [5, 6, 7]


def test_a_model_without_weights_yet_says_how_it_gets_them():
    with pytest.raises(ValueError, match="must have its weights.*keras.Input"):
        transfer_weights(keras.Sequential([layers.Dense(2)]), network())


def test_a_target_normalises_by_the_statistics_that_it_was_given():
    def normalised():
        return keras.Sequential([keras.Input((2,)), layers.Normalization(name="norm"), layers.Dense(1, name="head")])

    source, target = normalised(), normalised()
    source.layers[0].adapt(np.random.default_rng(0).normal(5, 3, (50, 2)))
    transfer_weights(source, target)
    np.testing.assert_array_equal(target(np.ones((3, 2))), source(np.ones((3, 2))))


def test_models_of_two_precisions_are_blended():
    single, half = (
        keras.Sequential([keras.Input((1,)), layers.Dense(1, kernel_initializer=start, dtype=kind, name="head")])
        for start, kind in (("ones", "float32"), ("zeros", "float16"))
    )
    blend_weights(single, half, 0.25)
    assert half.layers[0].kernel.dtype == "float16" and float(half.layers[0].kernel[0, 0]) == 0.25


def test_a_mapping_pairs_single_layers():
    source, target = named(seed=1), named(seed=2)
    before = values(target)
    with pytest.raises(ValueError, match="'trunk' with 2 and 'head' with 1 layers"):
        transfer_weights(source, target, {"trunk": "head"})
    assert not changed(before, target)


def test_layers_of_one_name_in_different_models_are_different_layers():
    def nested(seed):
        keras.utils.set_random_seed(seed)
        blocks = [keras.Sequential([layers.Dense(4, name="fc")], name=name) for name in ("one", "two")]
        return keras.Sequential([keras.Input((4,)), *blocks])

    source, target = nested(1), nested(2)
    before = values(target)
    transfer_weights(source, target, "two/fc")
    assert changed(before, target) == ["two/fc"] and alike(values(source)["two/fc"], values(target)["two/fc"])
    with pytest.raises(ValueError, match="no 'fc' among its layers with weights 'one/fc', 'two/fc'"):
        transfer_weights(source, target, "fc")
