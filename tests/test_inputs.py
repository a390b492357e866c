"""Inputs: pixels are scaled in one place, tokens are not changed, and images with implausible values are rejected."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_keras import ClassPool, FewShot, networks
from meta_keras.inputs import as_inputs, check_inputs, check_pixels, is_pixels

INTEGERS = [np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64]
sides = st.integers(2, 9)


@pytest.mark.parametrize(
    ("examples", "wanted"),
    [
        (np.uint8([[0, 51, 255]]), np.float32([[0, 0.2, 1]])),
        (np.float64([[0.5]]), np.float32([[0.5]])),
        (np.float16([[0.5, 300]]), np.float32([[0.5, 300]])),
        (np.array([[True, False]]), np.float32([[1, 0]])),
        (np.int64([[7, 255]]), np.int64([[7, 255]])),
        (np.array([["a"]]), np.array([[b"a"]], object)),
    ],
    ids=["bytes", "float64", "float16", "booleans", "tokens", "strings"],
)
def test_examples_become_what_a_network_takes(examples, wanted):
    inputs = as_inputs(tf.constant(examples)).numpy()
    assert inputs.dtype == wanted.dtype
    np.testing.assert_array_equal(inputs, wanted)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from([np.uint8, *INTEGERS]), sides, sides, st.sampled_from([1, 3, 4]), st.integers(0, 2**31))
def test_integer_images_are_scaled_alike_as_rows_and_as_tasks(dtype, height, width, channels, seed):
    pixels = np.random.default_rng(seed).integers(0, 128, (2, 3, height, width, channels)).astype(dtype)
    tasks = as_inputs(tf.constant(pixels), leading=2).numpy()
    np.testing.assert_array_equal(tasks, pixels.astype(np.float32) / np.float32(255))
    for rows in range(1, 4):  # how many rows there are makes no difference
        np.testing.assert_array_equal(as_inputs(tf.constant(pixels[0, :rows])), tasks[0, :rows])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from(INTEGERS), st.lists(st.integers(1, 5), min_size=0, max_size=2), sides, sides)
def test_tokens_stay_integers_whatever_the_number_of_tasks_and_rows(dtype, shape, tasks, rows):
    tokens = np.ones((tasks, rows, *shape), dtype)
    assert not is_pixels(tf.constant(tokens), leading=2) and not is_pixels(tf.constant(tokens[0]))
    assert as_inputs(tf.constant(tokens), leading=2).dtype == dtype and as_inputs(tf.constant(tokens[0])).dtype == dtype
    check_pixels(tokens[0])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,), (7,), (5, 3), (2, 1)])
def test_tokens_reach_the_network_untouched(shape):
    tokens = np.arange(12 * np.prod(shape, dtype=int), dtype=np.int32).reshape(12, *shape)
    episode = next(iter(FewShot(ClassPool(tokens, np.arange(12) // 4), 3, 2, 2, meta_batch=2)))
    assert episode.support_x.dtype == tf.int32
    known = {row.tobytes() for row in tokens}
    assert all(row.tobytes() in known for row in episode.query_x.numpy().reshape(-1, *shape))


def pool_of(examples):
    return ClassPool(examples, np.arange(len(examples)) // 2)


def image(low, high, dtype, shape=(4, 5, 5, 1)):
    examples = np.full(shape, low, dtype)
    examples[-1] = high
    return examples


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(17, 255), st.sampled_from([np.uint8, np.int16, np.int64]))
def test_pixels_up_to_any_brightness_are_accepted(high, dtype):
    assert pool_of(image(0, high, dtype)).examples.max() == high


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_tasks_hold_scaled_images_whatever_the_integers(dtype):
    episode = next(iter(FewShot(pool_of(image(0, 51, dtype)), 2, 1, 1, meta_batch=1)))
    assert episode.support_x.dtype == tf.float32
    assert max(float(tf.reduce_max(part)) for part in (episode.support_x, episode.query_x)) == np.float32(0.2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(2, 1e6, width=32), st.sampled_from([np.float32, np.float64]))
def test_float_images_that_are_not_scaled_are_refused(high, dtype):
    with pytest.raises(ValueError, match="are float images with values from 0 to .* Divide pixels by 255 or pass them"):
        pool_of(image(0, high, dtype))
    pool_of(image(-high, high, dtype))  # centered
    pool_of(image(0, high, dtype, shape=(4, 25)))  # a table


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 16), st.sampled_from([np.uint8, *INTEGERS]))
def test_integer_images_too_dim_to_be_pixels_are_refused(high, dtype):
    with pytest.raises(ValueError, match=f"values only up to {high}.*Divide them by {high} yourself.*astype\\(bool\\)"):
        pool_of(image(0, high, dtype))


@pytest.mark.parametrize(("low", "high"), [(0, 256), (-1, 255), (0, 65535), (-128, 100)])
def test_integers_outside_the_range_of_pixels_are_refused(low, high):
    with pytest.raises(
        ValueError, match=f"integer images with values from {low} to {high}, but pixels go from 0 to 255"
    ):
        pool_of(image(low, high, np.int32))


def test_a_map_is_checked_like_a_new_pool_and_a_part_of_a_pool_is_not():
    pool = pool_of(image(0, 255, np.uint8))
    with pytest.raises(ValueError, match="float images with values from 0 to 255"):
        pool.map(lambda x: x.astype(np.float32))
    assert pool.map(lambda x: x / 255).examples.max() == 1
    assert not pool.select([0]).examples.any()
    dim = pool_of(np.concatenate([image(0, 9, np.uint8), image(0, 255, np.uint8)]))
    assert dim.select([1]).rotated().examples.max() == 9


def test_masks_can_be_passed_as_booleans():
    pool = pool_of(np.tile(np.eye(5, dtype=np.uint8)[None, ..., None], (4, 1, 1, 1)).astype(bool))
    support = next(iter(FewShot(pool, 2, 1, 1, meta_batch=1))).support_x
    assert support.dtype == tf.float32 and set(np.unique(support)) == {0.0, 1.0}


def test_black_images_and_empty_arrays_are_no_reason_to_complain():
    check_pixels(np.zeros((2, 3, 3, 1), np.uint8))
    check_pixels(np.zeros((0, 3, 3, 1)))


def two_inputs():
    first, second = keras.Input((1,)), keras.Input((1,))
    return keras.Model([first, second], first + second, name="two")


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (lambda: networks.mlp(1, input_shape=(2,)), np.zeros((3, 4, 4, 1)), r"x must have the shape \(None, 2\)"),
        (lambda: networks.mlp(1, input_shape=(2,)), np.array([["a", "b"]]), "a type like float32, as the inputs of"),
        (lambda: networks.mlp(1, input_shape=(2,)), tf.ragged.constant([[1.0], [1.0, 2.0]]), "one row per example"),
        (two_inputs, np.zeros((3, 1)), "x must be 2 arrays, the inputs of 'two'; got 1"),
    ],
    ids=["shape", "text", "ragged", "several"],
)
def test_what_does_not_fit_a_network_is_refused(model, x, message):
    with pytest.raises(ValueError, match=message):
        check_inputs(model(), x)


def test_what_fits_a_network_is_accepted():
    check_inputs(networks.mlp(1, input_shape=(2,)), [[0, 1]])
    check_inputs(two_inputs(), [np.zeros((3, 1)), np.zeros((3, 1))])
