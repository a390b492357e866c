"""Tasks: endless datasets of episodes that can start at any batch, and the checks of an episode."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from draws import drawn, same, tagged

from meta_keras import Curves, Episode, FewShot, Sinusoids, Tasks
from meta_keras.tasks.inspection import check_support, first_of


@pytest.mark.parametrize("value", [0, -1, 2.0, None, "2", True, float("nan")])
def test_the_meta_batch_is_a_whole_number_of_one_or_more(value):
    with pytest.raises(ValueError, match=f"meta_batch must be an integer of at least 1; got {value!r}"):
        FewShot(tagged([4] * 4), ways=2, queries=1, meta_batch=value)


@pytest.mark.parametrize("value", [None, 1.5, "1", 2**63])
def test_a_seed_is_an_integer_of_64_bits(value):
    with pytest.raises(ValueError, match=f"seed must (be an integer|fit into 64 bits); got {value!r}"):
        FewShot(tagged([4] * 4), ways=2, queries=1, seed=value)


def test_a_class_of_tasks_must_say_how_they_are_drawn():
    with pytest.raises(NotImplementedError, match="Tasks must define how a batch of tasks is drawn"):
        Tasks(meta_batch=1, seed=0)


@pytest.mark.parametrize("kind", [int, tf.constant, lambda number: tf.Variable(number, dtype=tf.int64)])
def test_tasks_can_be_taken_up_at_any_batch(kind):
    tasks = FewShot(tagged([9] * 5), 3, 1, 2, meta_batch=2)
    later = tasks.from_batch(kind(3))
    assert same(drawn(later, 2), drawn(tasks.skip(3), 2))
    assert later.cardinality() == tf.data.INFINITE_CARDINALITY


@pytest.mark.parametrize("number", [1.5, -1, "3", None])
def test_a_batch_that_there_cannot_be_is_refused(number):
    with pytest.raises(ValueError, match="number must be an integer of at least 0; got"):
        FewShot(tagged([9] * 5), 3, 1, 2).from_batch(number)


def test_a_variable_is_read_whenever_the_tasks_are_begun_and_not_on_the_way():
    tasks, number = FewShot(tagged([9] * 5), 3, 1, 2, meta_batch=2), tf.Variable(0, dtype=tf.int64)
    following = tasks.from_batch(number)
    first = iter(following)
    next(first)
    number.assign(4)
    assert same(next(first), next(iter(tasks.skip(1))))
    assert same(next(iter(following)), next(iter(tasks.skip(4))))


def test_the_first_batch_comes_back_as_it_is():
    tasks = FewShot(tagged([9] * 5), 3, 1, 2, meta_batch=2)
    assert same(first_of(tasks), next(iter(tasks)))


def test_a_support_set_is_made_of_floats_and_of_labels_or_targets():
    x, labels = check_support(np.uint8([[0], [255]]), np.uint8([1, 0]))
    assert x.numpy().tolist() == [[0.0], [1.0]] and labels.dtype == tf.int32 and labels.numpy().tolist() == [1, 0]
    assert check_support([[1.0]], np.float64([[0.5]]))[1].dtype == tf.float32


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: np.random.normal(size=(2, 4, 1)).astype("float32"),
        lambda seed: tf.random.normal((2, 4, 1)),
        lambda seed: tf.random.stateless_normal((2, 4, 1), seed) + np.float32(np.random.default_rng().normal()),
    ],
)
@pytest.mark.parametrize("base", [Tasks, Curves])
def test_tasks_with_randomness_of_their_own_are_refused(base, draw):
    class Own(base):
        def draw(self, seed):
            x = draw(seed)
            return Episode(x[:, :2], x[:, :2], x[:, 2:], x[:, 2:])

    with pytest.raises(ValueError, match="Own must draw the same tasks from the same seed, but does not"):
        Own(meta_batch=2, seed=0)


def test_tasks_that_are_drawn_from_the_seed_alone_are_accepted():
    class Own(Tasks):
        def draw(self, seed):
            x = tf.random.stateless_normal((self.meta_batch, 4, 1), seed)
            return Episode(x[:, :2], x[:, :2], x[:, 2:], x[:, 2:])

    one, other = (next(iter(Own(meta_batch=2, seed=seed))).query_x for seed in (0, 1))
    assert not np.array_equal(one, other)


def noisy(noise):
    return lambda episode: episode._replace(query_x=episode.query_x + noise(episode.query_x))


@pytest.mark.parametrize("calls", [{}, {"num_parallel_calls": 2}])
@pytest.mark.parametrize(
    "noise",
    [
        lambda x: np.random.normal(size=x.shape[1:]).astype("float32"),
        lambda x: np.float32(np.random.default_rng().normal()),
        lambda x: tf.cond(x[0, 0, 0] > 0, lambda: np.float32(np.random.normal()), lambda: np.float32(0)),
    ],
)
def test_a_mapped_function_with_randomness_that_is_traced_once_is_refused(noise, calls):
    with pytest.raises(ValueError, match=r"given to map\(\) has randomness of its own.*same numbers for all batches"):
        Sinusoids(shots=1, queries=1, meta_batch=2, seed=0).map(noisy(noise), **calls)


@pytest.mark.parametrize(
    "noise",
    [
        lambda x: tf.random.normal(tf.shape(x)),
        lambda x: keras.random.normal(x.shape, seed=GENERATOR),
        lambda x: tf.ensure_shape(tf.numpy_function(lambda x: np.random.normal(size=x.shape), [x], "double"), x.shape),
        lambda x: np.random.default_rng(0).normal(size=x.shape).astype("float32"),
    ],
)
def test_a_mapped_function_may_draw_for_every_batch_or_use_known_constants(noise):
    tasks = Sinusoids(shots=1, queries=1, meta_batch=2, seed=0)
    mapped = tasks.map(noisy(lambda x: tf.cast(noise(x), "float32"))).map(lambda episode: episode)
    assert next(iter(mapped)).query_x.shape == (2, 1, 1)


GENERATOR = keras.random.SeedGenerator(0)
