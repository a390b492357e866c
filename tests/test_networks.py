"""The networks have the shapes, the blocks and the sizes of the original papers."""

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
def test_conv4_turns_images_into_vectors(made, shape, output):
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


def test_conv4_has_the_weights_of_the_paper_without_the_biases_that_normalization_removes():
    trainable = sum(np.prod(v.shape) for v in networks.conv4(5).trainable_variables)
    assert trainable == 9 * 64 + 3 * (9 * 64 * 64) + 4 * 2 * 64 + (64 * 5 + 5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"downsample": "mean"}, "downsample must be one of 'pool', 'stride'; got 'mean'"),
        ({"input_shape": (15, 28, 1)}, r"at least 16 pixels on each side .* input_shape is \(15, 28, 1\)"),
        ({"input_shape": (28, 28)}, r"\(height, width, channels\).*got \(28, 28\)"),
        ({"input_shape": (None, 28, 1)}, r"input_shape must be a tuple of integers.*got \(None, 28, 1\)"),
        ({"input_shape": (28.0, 28, 1)}, "input_shape must be a tuple of integers"),
        ({"input_shape": 28}, "input_shape must be a tuple of integers.*got 28"),
        ({"units": 0}, "units must be an integer of at least 1; got 0"),
        ({"units": True}, "units must be an integer of at least 1; got True"),
        ({"filters": -1}, "filters must be an integer of at least 1; got -1"),
        ({"filters": 1.5}, "filters must be an integer of at least 1; got 1.5"),
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
def test_mlp_is_a_sequence_of_dense_layers(made, shape, layers):
    model = networks.mlp(**made)
    assert kinds(model) == layers
    assert model(np.ones((2, *shape), np.float32)).shape == (2, made["units"])


def test_mlp_has_activations_in_hidden_layers_only():
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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_classes": 0}, "num_classes must be an integer of at least 1; got 0"),
        ({"num_classes": None}, "num_classes must be an integer of at least 1; got None"),
        ({"input_shape": (28, 28)}, r"\(height, width, channels\).*got \(28, 28\)"),
        ({"input_shape": (3, 8, 1)}, r"at least 4 pixels on each side .* input_shape is \(3, 8, 1\)"),
    ],
)
def test_d3_says_what_it_cannot_make(wrong, message):
    with pytest.raises(ValueError, match=message):
        networks.d3(**{"num_classes": 2} | wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"units": 0}, "units must be an integer of at least 1; got 0"),
        ({"hidden": (4, 0)}, r"hidden\[1\] must be an integer of at least 1; got 0"),
        ({"hidden": 40}, "hidden must be a list with the units of each hidden layer; got 40"),
        ({"hidden": "ab"}, "hidden must be a list"),
        ({"input_shape": (None,)}, r"input_shape must be a tuple of integers of at least 1.*got \(None,\)"),
        ({"input_shape": ()}, "input_shape must be a tuple of integers of at least 1"),
        ({"activation": "no such"}, "activation must be the name of a Keras activation.*got 'no such'"),
        ({"activation": 3}, "activation must be the name of a Keras activation.*got 3"),
        ({"activation": keras.layers.ReLU()}, "activation must be the name of a Keras activation"),
        ({"activation": lambda x: None}, "activation must be the name of a Keras activation"),
    ],
)
def test_mlp_says_what_it_cannot_make(wrong, message):
    with pytest.raises(ValueError, match=message):
        networks.mlp(**{"units": 2} | wrong)


def test_numpy_integers_are_integers():
    one = np.int64(1)
    made = [networks.conv4(one, filters=one), networks.d3(one), networks.mlp(one, hidden=[one], input_shape=(one,))]
    assert [model.output_shape for model in made] == [(None, 1)] * 3


@pytest.mark.parametrize("activation", [None, "tanh", keras.activations.gelu, keras.ops.sin])
def test_mlp_takes_the_activations_that_keras_takes(activation):
    assert np.isfinite(networks.mlp(2, activation=activation)(np.ones((3, 1), np.float32))).all()


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


def test_d3_returns_probabilities_for_images_of_any_shape():
    probabilities = networks.d3(4, input_shape=(9, 8, 3))(np.ones((2, 9, 8, 3), np.float32)).numpy()
    assert probabilities.shape == (2, 4) and (probabilities > 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
