"""Checks of arguments accept what they document, as Python or NumPy values, and name what they reject."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from meta_keras import checks

ODD = [None, "1", b"1", [], [1], (), {}, object(), np.ones(2), np.ones((1, 1)), tf.ones(2), tf.constant(1.0), 1j, print]
NUMBERS = {
    "positive": (checks.positive, lambda x: x > 0),
    "nonnegative": (checks.nonnegative, lambda x: x >= 0),
    "finite": (checks.finite, lambda x: True),
    "fraction": (checks.fraction, lambda x: 0 <= x <= 1),
    "between": (lambda given: checks.between(-2, 3, given=given), lambda x: -2 <= x <= 3),
}


def accepts(check, value):
    try:
        check(given=value)
    except ValueError as error:
        assert str(error).startswith("given must be ") and "; got " in str(error)
        return False
    return True


@pytest.mark.parametrize("name", NUMBERS)
@given(value=st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**6), 10**6))
@pytest.mark.filterwarnings("ignore:overflow")
def test_numbers_are_accepted_exactly_where_they_should_be(name, value):
    check, wanted = NUMBERS[name]
    assert accepts(check, value) == bool(np.isfinite(np.float32(value)) and wanted(value))
    assert accepts(check, np.float64(value)) == accepts(check, value)


def test_integers_have_64_bits():
    checks.integer(seed=2**63 - 1, other=-(2**63))
    for value in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match=f"seed must fit into 64 bits; got {value}"):
            checks.integer(seed=value)


@given(lowest=st.integers(-5, 5), value=st.integers(-10, 10))
def test_integers_are_accepted_from_the_lowest_one(lowest, value):
    for form in (value, np.int64(value), np.int32(value)):
        assert accepts(lambda given: checks.at_least(lowest, given=given), form) == (value >= lowest)
        assert accepts(checks.integer, form)
    assert not accepts(checks.integer, float(value))


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
@pytest.mark.parametrize(
    "check", [*(check for check, _ in NUMBERS.values()), checks.integer, checks.flag], ids=lambda c: c.__name__
)
def test_what_is_no_number_is_rejected(check, odd):
    assert not accepts(check, odd)


@pytest.mark.parametrize("truth", [True, False, np.True_])
def test_truth_values_are_flags_and_not_numbers(truth):
    assert accepts(checks.flag, truth)
    assert not any(accepts(check, truth) for check, _ in NUMBERS.values()) and not accepts(checks.integer, truth)


@pytest.mark.parametrize("odd", [*ODD, True, 1.0, "B"], ids=lambda odd: type(odd).__name__)
def test_a_choice_is_compared_by_type_and_value(odd):
    assert not accepts(lambda given: checks.one_of(("a", "b", 1), given=given), odd)
    checks.one_of(("a", "b", 1, None), x="a", y=1, z=None)


def test_names_texts_intervals_functions_and_mappings():
    assert all(accepts(checks.names, value) for value in ("a", ["a", "b"], ("a",)))
    assert not any(accepts(checks.names, value) for value in ([], [1], 3, None, ["a", None], {"a"}))
    assert accepts(checks.interval, (0, 1)) and accepts(checks.interval, np.array([0.0, 0.0]))
    assert not any(accepts(checks.interval, v) for v in ((1, 0), (0,), (0, np.nan), "01", None, 3, [0, "1"]))
    assert not accepts(checks.interval, np.array(3.0)) and not accepts(checks.interval, np.ones((2, 2)))
    assert accepts(checks.function, print) and not accepts(checks.function, 3)
    assert accepts(checks.mapping, {}) and not accepts(checks.mapping, [])
    assert accepts(checks.text, "") and not accepts(checks.text, b"")


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ([[1.0], [2.0]], True),
        (np.zeros((1, 2)), True),
        (tf.zeros(3), True),
        (np.zeros((0, 2)), False),
        (np.float32(1), False),
        (tf.ragged.constant([[1], [1, 2]]), False),
        (tf.sparse.from_dense([[0, 1]]), False),
        (keras.Input((2,)), False),
        ([[1], [1, 2]], False),
        ("rows", False),
        (None, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_examples_are_dense_and_have_rows(value, right):
    assert accepts(checks.examples, value) == right


def test_a_model_with_two_inputs_is_named_with_their_number():
    inputs = keras.Input((1,)), keras.Input((1,))
    checks.one_input(network=keras.Model(inputs[0], keras.layers.Identity()(inputs[0])))
    with pytest.raises(ValueError, match="network must have one input; 'two' has 2"):
        checks.one_input(network=keras.Model(inputs, inputs[0] + inputs[1], name="two"))


@pytest.mark.parametrize("thing", [None, 3, "model", keras.Sequential, keras.layers.Dense, object()])
def test_what_is_no_model_is_a_type_error(thing):
    with pytest.raises(TypeError, match="network must be a Keras model; got "):
        checks.built_model(network=thing)


def test_a_model_without_weights_is_a_value_error():
    with pytest.raises(ValueError, match=r"network must have its weights.*'bare' has no weights yet.*keras\.Input"):
        checks.built_model(network=keras.Sequential([keras.layers.Dense(1)], name="bare"))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.zeros((3, 2)), "ndarray of shape (3, 2)"),
        (tf.zeros(2), "EagerTensor of shape (2,)"),
        ("x" * 200, "a value of type str"),
        (np.float32(0.5), "np.float32(0.5)"),
        (3, "3"),
    ],
)
def test_values_are_shown_in_one_short_line(value, wanted):
    assert checks.shown(value) == wanted
