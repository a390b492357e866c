"""The networks have the shapes, the blocks and the sizes of the papers that they come from."""

import keras
import numpy as np
import pytest

from meta_keras import networks


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


@pytest.mark.parametrize(
    ("made", "shape", "output"),
    [
        ({}, (28, 28, 1), (64,)),
        ({"units": 5}, (28, 28, 1), (5,)),
        ({"filters": 8, "downsample": "stride"}, (28, 28, 1), (2 * 2 * 8,)),
        ({"filters": 8, "input_shape": (84, 84, 3)}, (84, 84, 3), (5 * 5 * 8,)),
        ({"filters": 8, "input_shape": [16, 20, 1], "units": 3}, (16, 20, 1), (3,)),
        ({"filters": 2, "input_shape": (5, 5, 1), "downsample": "stride"}, (5, 5, 1), (2,)),
    ],
)
def test_conv4_turns_pictures_into_rows_of_numbers(made, shape, output):
    answer = networks.conv4(**made)(np.ones((3, *shape), np.float32))
    assert answer.shape == (3, *output) and np.isfinite(answer).all()


@pytest.mark.parametrize("downsample", ["pool", "stride"])
def test_conv4_has_four_blocks(downsample):
    model = networks.conv4(5, filters=4, downsample=downsample)
    block = ["Conv2D", "BatchNormalization", "ReLU"] + ["MaxPooling2D"] * (downsample == "pool")
    assert kinds(model) == [*block * 4, "Flatten", "Dense"]
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.strides for layer in convolutions} == {(1, 1) if downsample == "pool" else (2, 2)}
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    assert model.layers[-1].activation is keras.activations.linear


def test_conv4_has_the_weights_of_the_paper_less_the_biases_that_normalisation_takes_away():
    trainable = sum(np.prod(v.shape) for v in networks.conv4(5).trainable_variables)
    assert trainable == 9 * 64 + 3 * (9 * 64 * 64) + 4 * 2 * 64 + (64 * 5 + 5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"downsample": "mean"}, '"pool" or "stride"; \'mean\' was given'),
        ({"input_shape": (15, 28, 1)}, r"at least 16; the input shape is \(15, 28, 1\)"),
    ],
)
def test_conv4_says_what_it_cannot_make(wrong, message):
    with pytest.raises(ValueError, match=message):
        networks.conv4(**wrong)


@pytest.mark.parametrize(
    ("made", "shape", "layers"),
    [
        ({"units": 1}, (1,), ["Dense"] * 3),
        ({"units": 4, "hidden": (7,)}, (1,), ["Dense"] * 2),
        ({"units": 4, "hidden": ()}, (1,), ["Dense"]),
        ({"units": 2, "input_shape": (3, 3, 1)}, (3, 3, 1), ["Flatten"] + ["Dense"] * 3),
    ],
)
def test_mlp_is_dense_layers_in_a_row(made, shape, layers):
    model = networks.mlp(**made)
    assert kinds(model) == layers
    assert model(np.ones((2, *shape), np.float32)).shape == (2, made["units"])


def test_mlp_bends_within_and_not_at_the_end():
    model = networks.mlp(1, activation="tanh")
    assert [layer.activation.__name__ for layer in model.layers] == ["tanh", "tanh", "linear"]
    assert [layer.units for layer in model.layers] == [40, 40, 1]


@pytest.mark.parametrize("make", [lambda: networks.conv4(5), lambda: networks.mlp(1)])
def test_the_same_seed_gives_the_same_network(make):
    weights = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        weights.append(make().get_weights()[0])
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])


def test_conv4_says_what_shape_a_picture_has():
    with pytest.raises(ValueError, match=r"\(height, width, channels\).*\(28, 28\) was given"):
        networks.conv4(input_shape=(28, 28))


def test_d3_has_the_layers_of_its_document():
    model = networks.d3(10)
    assert kinds(model) == ["Conv2D", "MaxPooling2D"] * 2 + ["Flatten", "Dense", "Dense"]
    assert [getattr(layer, "filters", getattr(layer, "units", None)) for layer in model.layers[::2]] == [
        32,
        64,
        None,
        10,
    ]
    assert model.layers[5].units == 128 and model.layers[0].kernel_size == (3, 3)
    activations = [layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")]
    assert activations == ["relu", "relu", "relu", "softmax"]
    assert model.count_params() == (9 * 32 + 32) + (9 * 32 * 64 + 64) + (7 * 7 * 64 * 128 + 128) + (128 * 10 + 10)


def test_d3_answers_with_chances_of_pictures_of_any_shape():
    chances = networks.d3(4, input_shape=(9, 8, 3))(np.ones((2, 9, 8, 3), np.float32)).numpy()
    assert chances.shape == (2, 4) and (chances > 0).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)


def test_a_softmax_that_is_no_layer_is_found_too():
    given = keras.Input((4,))
    scores = keras.layers.Dense(3)(given)
    assert networks.ends_in_softmax(keras.Model(given, keras.ops.softmax(scores)))
    assert not networks.ends_in_softmax(keras.Model(given, scores))
