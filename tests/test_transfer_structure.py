"""Models copied, split and joined: exactly the documented weights are shared, and the outputs stay the same."""

import keras
import numpy as np
import pytest
from keras import layers

from meta_keras import networks
from meta_keras.transfer import join_models, same_structure, split_model


def chain(*widths, given=3, name=None):
    """Dense layers "a", "b" and so on of these widths."""
    model = keras.Sequential([keras.Input((given,))], name=name)
    for letter, width in zip("abcdefg", widths, strict=False):
        model.add(layers.Dense(width, activation="tanh", name=letter))
    return model


def with_a_detour():
    """x -> a -> b -> add(a, b) -> c: a residual block between two layers."""
    given = keras.Input((3,), name="given")
    a = layers.Dense(4, name="a")(given)
    b = layers.Dense(4, activation="tanh", name="b")(a)
    c = layers.Dense(2, name="c")(layers.Add(name="add")([a, b]))
    return keras.Model(given, c, name="detour")


def rows(model, count=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *model.input_shape[1:])).astype("float32")


def snapshot(model):
    return [np.copy(weight) for weight in model.get_weights()]


def shares(one, other):
    return {id(v) for v in one.variables} & {id(v) for v in other.variables}


MODELS = {
    "chain": lambda: chain(4, 5, 2),
    "detour": with_a_detour,
    "conv4": lambda: networks.conv4(3, filters=2, downsample="stride"),
    "nested": lambda: keras.Sequential([keras.Input((3,)), chain(4, 4), layers.Dropout(0.5), layers.Dense(2)]),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


# Same structure


@each_model
def test_the_same_structure_has_weights_of_its_own_freshly_drawn(make):
    model = make()
    before, copy = snapshot(model), same_structure(model)
    assert [v.shape for v in copy.variables] == [v.shape for v in model.variables]
    assert not shares(copy, model)
    kernels = [(a, b) for a, b in zip(copy.get_weights(), before, strict=True) if a.ndim > 1]
    assert kernels and not any(np.array_equal(a, b) for a, b in kernels)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    copy.set_weights(before)
    np.testing.assert_array_equal(copy(rows(model)), model(rows(model)))


def test_a_copy_of_frozen_layers_can_be_trained_and_the_model_stays_frozen():
    model = MODELS["nested"]()
    model.layers[0].layers[0].trainable = False
    copy = same_structure(model)
    assert len(copy.trainable_variables) == 6 and len(model.trainable_variables) == 4
    assert not model.layers[0].layers[0].trainable


@pytest.mark.parametrize(
    ("taken", "widths", "given"), [(["a", "b"], [4, 5], 3), (["c", "b"], [5, 2], 4), (["a", "c"], [4, 2], 3)]
)
def test_a_part_of_a_chain_comes_in_the_order_of_the_model(taken, widths, given):
    model = chain(4, 5, 2)
    part = same_structure(model, layers=taken)
    assert [layer.name for layer in part.layers] == sorted(taken)
    assert [layer.units for layer in part.layers] == widths and part.input_shape == (None, given)
    assert not shares(part, model) and part(rows(part)).shape == (5, widths[-1])


def test_a_part_of_a_chain_can_hold_what_its_layers_hold():
    model = networks.conv4(3, filters=2, downsample="stride")
    part = same_structure(model, layers=[layer.name for layer in model.layers[:-1]])
    assert part.output_shape == (None, 8) and len(part.variables) == len(model.variables) - 2
    part.set_weights(model.get_weights()[:-2])
    x = rows(model)
    np.testing.assert_array_equal(part(x), split_model(model, model.layers[-2].name)[0](x))


def test_a_part_of_a_graph_with_branches_is_refused():
    with pytest.raises(ValueError, match="'detour' is not a chain: the inputs of 'add' are not exactly"):
        same_structure(with_a_detour(), layers=["a", "b"])


@pytest.mark.parametrize("cut", [lambda m: same_structure(m, layers=["a", "x"]), lambda m: split_model(m, "x")])
def test_an_unknown_layer_is_answered_with_the_layers_there_are(cut):
    with pytest.raises(ValueError, match=r"has no 'x' among its layers 'a', 'b', 'c'"):
        cut(chain(4, 5, 2))


@pytest.mark.parametrize("cut", [lambda m: same_structure(m, layers=[]), lambda m: split_model(m, [])])
def test_no_layer_at_all_is_no_choice(cut):
    with pytest.raises(ValueError, match=r"(layers|at) must be a name or a list of names; got \[\]"):
        cut(chain(4, 5))


@keras.saving.register_keras_serializable(package="test")
class Unseen(keras.Model):
    """A model whose layers are known only at run time."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    "use",
    [
        lambda m: same_structure(m, layers=["dense"]),
        lambda m: split_model(m, "dense"),
        lambda m: join_models(chain(3), m),
    ],
)
def test_a_model_whose_layers_are_not_known_is_refused(use):
    model = Unseen(name="unseen")
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match="'unseen', a Unseen, are connected is not known before it runs"):
        use(model)


def test_what_is_no_model_and_what_has_two_inputs_are_refused():
    with pytest.raises(TypeError, match="part 2 must be a Keras model; got"):
        join_models(chain(3), lambda x: x)
    one, two = keras.Input((3,)), keras.Input((3,))
    with pytest.raises(ValueError, match="has 2 inputs and 1 outputs"):
        split_model(keras.Model([one, two], layers.Add()([one, two]), name="sum"), "add")
    with pytest.raises(ValueError, match="has 1 inputs and 2 outputs"):
        split_model(keras.Model(one, [one, layers.ReLU(name="positive")(one)], name="pair"), "positive")


# Splitting


@pytest.mark.parametrize(
    ("make", "at"),
    [("chain", "a"), ("chain", "b"), ("chain", ["a", "b"]), ("detour", "a"), ("detour", ["a", "add"])],
)
def test_parts_run_after_each_other_as_the_whole_and_share_its_weights(make, at):
    model = MODELS[make]()
    parts = split_model(model, at)
    assert len(parts) == (2 if isinstance(at, str) else len(at) + 1)
    assert [part.name for part in parts] == [f"{model.name}_{number}" for number, _ in enumerate(parts, start=1)]
    x = answer = rows(model)
    for part in parts:
        answer = part(answer)
    np.testing.assert_array_equal(answer, model(x))
    owned = [id(v) for part in parts for v in part.variables]
    assert owned == [id(v) for v in model.variables]


@pytest.mark.parametrize("number", [1, 5, 11])
def test_a_network_with_normalisation_is_cut_anywhere(number):
    model = networks.conv4(3, filters=2, downsample="stride")
    front, back = split_model(model, model.layers[number].name)
    x = rows(model)
    np.testing.assert_array_equal(back(front(x)), model(x))
    assert len(front.layers) - 1 == number + 1
    trained = model(x, training=True)
    np.testing.assert_allclose(back(front(x, training=True), training=True), trained, rtol=1e-5, atol=1e-6)


def test_training_a_part_trains_the_model_and_what_is_frozen_stays_to_the_bit():
    model = chain(4, 5, 2)
    front, back = split_model(model, "b")
    front.trainable = False
    before = snapshot(model)
    whole = join_models(front, back)
    whole.compile("adam", "mse")
    whole.fit(rows(model, 32), np.ones((32, 2)), epochs=2, verbose=0)
    after = model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before[:4], after[:4], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(before[4:], after[4:], strict=True))


def test_a_part_can_be_cut_again_and_saved(tmp_path):
    model = chain(4, 5, 6, 2)
    _, rest = split_model(model, "a")
    middle, end = split_model(rest, "c")
    assert [layer.name for layer in middle.layers[1:]] == ["b", "c"]
    middle.save(tmp_path / "middle.keras")
    again = keras.models.load_model(tmp_path / "middle.keras")
    x = rows(middle)
    np.testing.assert_array_equal(end(again(x)), end(middle(x)))


def test_a_cut_that_something_runs_past_is_refused_by_its_name():
    with pytest.raises(ValueError, match="cannot be split after 'b': 'add' needs something else"):
        split_model(with_a_detour(), "b")


def test_a_layer_that_is_used_twice_is_no_place_to_cut():
    given, dense = keras.Input((3,)), layers.Dense(3, name="twice")
    model = keras.Model(given, layers.Dense(1, name="head")(dense(dense(given))))
    with pytest.raises(ValueError, match="'twice' has 2 outputs"):
        split_model(model, "twice")
    with pytest.raises(ValueError, match="has no 'x' among its layers 'twice', 'head'"):
        split_model(model, "x")


def test_a_layer_that_gives_two_outputs_is_no_place_to_cut():
    given = keras.Input((4, 3))
    _, state = layers.GRU(2, return_state=True, name="gru")(given)
    with pytest.raises(ValueError, match="'gru' has 2 outputs"):
        split_model(keras.Model(given, layers.Dense(1)(state)), "gru")


@pytest.mark.parametrize(
    ("at", "message"),
    [("c", "There are no layers after 'c'"), (["b", "a"], "in the order of the model; 'a' is not after 'b'")],
)
def test_cuts_that_leave_nothing_or_go_backwards_are_refused(at, message):
    with pytest.raises(ValueError, match=message):
        split_model(chain(4, 5, 2), at)


# Joining


def test_parts_of_different_models_with_the_same_layer_names_are_joined(tmp_path):
    one, other = chain(4, 5, name="same"), chain(6, 2, given=5, name="same")
    joined = join_models(one, other)
    x = rows(one)
    np.testing.assert_array_equal(joined(x), other(one(x)))
    assert shares(joined, one) and shares(joined, other)
    assert (one.name, other.name) == ("same", "same") and [layer.name for layer in one.layers] == ["a", "b"]
    assert joined.name == "joined" and [layer.name for layer in joined.layers[1:]] == ["part_1", "part_2"]
    joined.save(tmp_path / "joined.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "joined.keras")(x), joined(x))


def test_a_part_that_is_given_twice_is_used_twice(tmp_path):
    square, head = chain(3), chain(2)
    joined = join_models(square, square, head)
    x = rows(square)
    np.testing.assert_array_equal(joined(x), head(square(square(x))))
    assert len(joined.trainable_variables) == 4
    joined.save(tmp_path / "joined.keras")
    again = keras.models.load_model(tmp_path / "joined.keras")
    assert len(again.trainable_variables) == 4
    np.testing.assert_array_equal(again(x), joined(x))


def test_one_trunk_with_several_heads_answers_by_name_and_learns(tmp_path):
    trunk, kind, size = chain(4), chain(3, given=4), chain(1, given=4)
    joined = join_models(trunk, {"size": size, "kind": kind})
    assert {layer.name for layer in joined.layers[1:]} == {"part_1", "size", "kind"}
    x = rows(trunk, 16)
    answers = joined(x)
    assert set(answers) == {"size", "kind"}
    np.testing.assert_array_equal(answers["kind"], kind(trunk(x)))
    np.testing.assert_array_equal(answers["size"], size(trunk(x)))
    joined.compile("adam", {"kind": "mse", "size": "mae"})
    joined.fit(x, {"kind": np.ones((16, 3)), "size": np.ones((16, 1))}, verbose=0)
    joined.save(tmp_path / "heads.keras")
    again = keras.models.load_model(tmp_path / "heads.keras")(x)
    np.testing.assert_array_equal(again["size"], joined(x)["size"])


@pytest.mark.parametrize("cut", ["a", ["a", "b"]])
def test_what_was_split_is_joined_again(cut):
    model = chain(4, 5, 2)
    np.testing.assert_array_equal(join_models(*split_model(model, cut))(rows(model)), model(rows(model)))


def test_parts_that_do_not_fit_are_named_with_their_shapes():
    front, back = chain(4, 5, name="front"), chain(2, given=6, name="back")
    message = r"'front' \('a', 'b'\) have the shape \(None, 5\), .* inputs of 'back' \('a'\) have the shape \(None, 6\)"
    for parts in ((front, back), (front, {"one": back}), (front, back, back), (chain(3), front, back, back)):
        with pytest.raises(ValueError, match=message):
            join_models(*parts)


def test_a_picture_is_no_row_even_if_keras_would_flatten_its_last_axis():
    front = keras.Sequential([keras.Input((3,)), layers.Reshape((3, 1))], name="front")
    with pytest.raises(ValueError, match=r"outputs of 'front'.* \(None, 3, 1\), and the inputs.* \(None, 3\)"):
        join_models(front, chain(2))


@pytest.mark.parametrize(("given", "taken"), [(4, None), (None, 4), (None, None)])
def test_a_part_of_any_length_fits_one_of_any_other(given, taken):
    front = keras.Sequential([keras.Input((given, 3)), layers.Dense(2)])
    back = keras.Sequential([keras.Input((taken, 2)), layers.GlobalAveragePooling1D()])
    joined = join_models(front, back)
    x = np.ones((5, 4, 3), "float32")
    np.testing.assert_array_equal(joined(x), back(front(x)))


@pytest.mark.parametrize(
    "take",
    [
        lambda m: same_structure(m, layers=["words", "flat"]),
        lambda m: split_model(m, "flat")[0],
        lambda m: join_models(*split_model(m, "flat")),
    ],
)
def test_the_type_and_the_number_of_the_inputs_are_kept(take):
    words = layers.Embedding(7, 2, name="words")
    given = keras.Input(batch_shape=(5, 4), dtype="int32")
    taken = take(keras.Sequential([given, words, layers.Flatten(name="flat"), layers.Dense(1)])).inputs[0]
    assert (taken.shape, taken.dtype) == ((5, 4), "int32")


@pytest.mark.parametrize("nothing", [(), ({},)])
def test_nothing_to_join_is_said(nothing):
    with pytest.raises(ValueError, match="nothing to join"):
        join_models(*nothing)


def test_a_model_without_weights_yet_says_how_it_gets_them():
    with pytest.raises(ValueError, match="'later' has no weights yet. Start the model with keras.Input"):
        same_structure(keras.Sequential([layers.Dense(2)], name="later"))
