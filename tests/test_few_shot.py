"""FewShot: every episode is a valid task, the same for the same seed, and does not leak its labels."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from draws import drawn, same, tagged
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from meta_keras import ClassPool, Episode, FewShot, Tasks


def likelihood(counts, expected=None):
    """The probability of counts at least this uneven, by the chi-square test."""
    counts = np.asarray(counts, float).ravel()
    expected = counts.mean() if expected is None else expected
    statistic = np.sum((counts - expected) ** 2 / expected)
    return float(tf.math.igammac(np.float64((len(counts) - 1) / 2), statistic / 2))


@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking is slow here
@given(
    ways=st.integers(1, 4),
    shots=st.integers(1, 3),
    queries=st.integers(1, 3),
    meta_batch=st.integers(1, 3),
    seed=st.integers(-(2**40), 2**40),
)
def test_a_task_has_distinct_classes_and_each_exactly_as_often_as_asked(ways, shots, queries, meta_batch, seed):
    pool = tagged([6, 7, 9, 6, 8])
    parts = drawn(FewShot(pool, ways, shots, queries, meta_batch, seed), 3)
    assert [part.shape for part in parts] == [(3 * meta_batch, ways * n) for n in (shots, shots, queries, queries)]
    for support, support_y, query, query_y in zip(*parts, strict=True):
        rows, labels = np.concatenate([support, query]), np.concatenate([support_y, query_y])
        assert len(set(rows)) == len(rows)
        assert np.bincount(support_y).tolist() == [shots] * ways
        assert np.bincount(query_y).tolist() == [queries] * ways
        classes = {label: set(pool.labels[rows[labels == label]]) for label in range(ways)}
        assert all(len(found) == 1 for found in classes.values())
        assert len(set.union(*classes.values())) == ways


def test_classes_labels_examples_and_pairs_are_drawn_evenly():
    pool = tagged([5] * 6)
    support, support_y, query, query_y = drawn(FewShot(pool, 3, 1, 1, meta_batch=500, seed=1), 6)
    classes = pool.labels[support]
    assert likelihood(np.bincount(classes.ravel(), minlength=6)) > 1e-3
    by_label = np.zeros((6, 3))
    np.add.at(by_label, (classes.ravel(), support_y.ravel()), 1)
    assert likelihood(by_label) > 1e-3
    assert likelihood(np.bincount(support.ravel(), minlength=30)) > 1e-3
    assert likelihood(np.bincount(query.ravel(), minlength=30)) > 1e-3
    pairs = np.bincount(classes[:, 0] * 6 + classes[:, 1], minlength=36).reshape(6, 6)
    assert np.trace(pairs) == 0 and likelihood(pairs[~np.eye(6, dtype=bool)]) > 1e-3


def test_examples_are_drawn_evenly_where_classes_differ_in_size():
    pool = tagged([4, 9, 30])
    support, _, query, _ = drawn(FewShot(pool, 3, 2, 2, meta_batch=400, seed=2), 8)
    for label, size in enumerate((4, 9, 30)):
        rows = np.concatenate([support, query], axis=1).ravel()
        counts = np.bincount(rows[pool.labels[rows] == label] - pool.first[label], minlength=size)
        assert len(counts) == size and likelihood(counts) > 1e-3


@pytest.mark.parametrize("part", [0, 2], ids=["support", "query"])
def test_the_place_of_a_row_does_not_tell_its_class(part):
    labels = drawn(FewShot(tagged([8] * 6), 4, 2, 3, meta_batch=300, seed=3), 5)[part + 1]
    for place in range(labels.shape[1]):
        assert likelihood(np.bincount(labels[:, place], minlength=4)) > 1e-3
    support_y, query_y = drawn(FewShot(tagged([8] * 6), 4, 2, 2, meta_batch=300, seed=3), 5)[1::2]
    assert abs((support_y == query_y).mean() - 1 / 4) < 0.02


def test_tasks_within_a_group_stay_there_and_every_class_is_as_likely():
    groups = ["p"] * 2 + ["q"] * 3 + ["r"] * 7 + ["alone"]
    pool = tagged([4] * 13, groupings={"alphabet": groups})
    support = drawn(FewShot(pool, 2, 1, 1, meta_batch=500, seed=4, within="alphabet"), 6)[0]
    classes = pool.labels[support]
    assert (np.array(groups)[classes[:, 0]] == np.array(groups)[classes[:, 1]]).all()
    counts = np.bincount(classes.ravel(), minlength=13)
    assert counts[12] == 0 and likelihood(counts[:12]) > 1e-3


def test_tasks_from_the_whole_pool_cross_the_groups():
    groups = np.array(["p", "p", "q", "q"])
    pool = tagged([4] * 4, groupings={"alphabet": groups})
    classes = pool.labels[drawn(FewShot(pool, 2, 1, 1, meta_batch=100), 1)[0]]
    assert 0 < (groups[classes[:, 0]] == groups[classes[:, 1]]).mean() < 0.6


def test_rotations_add_turned_classes():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 1), np.uint8)
    pool = ClassPool(images, [0, 0, 1, 1])
    tasks = FewShot(pool, 8, 1, 1, meta_batch=1, rotations=True)
    support = next(iter(tasks)).support_x[0].numpy()
    known = {np.rot90(image, turn).tobytes() for image in images for turn in range(4)}
    shown = {np.round(image * 255).astype(np.uint8).tobytes() for image in support}
    assert len(shown) == 8 and shown <= known and len(tasks.pool) == 8 and len(pool) == 2


@pytest.mark.parametrize("seed", [0, -7, 2**40])
def test_the_same_seed_gives_the_same_tasks_whoever_asks_and_however_often(seed):
    def make():
        return FewShot(tagged([9] * 5), 3, 1, 2, meta_batch=2, seed=seed)

    tasks = make()
    first = drawn(tasks, 4)
    assert same(first, drawn(tasks, 4)) and same(first, drawn(make(), 4))

    @tf.function
    def in_a_graph():
        rows = tf.TensorArray(tf.float32, 4)
        for number, episode in tasks.take(4).enumerate():
            rows = rows.write(tf.cast(number, tf.int32), episode.support_x)
        return rows.concat()

    assert np.array_equal(in_a_graph().numpy()[..., 0], first[0])


def test_other_seeds_and_later_batches_give_other_tasks():
    by_seed = [drawn(FewShot(tagged([9] * 5), 3, 1, 2, meta_batch=2, seed=s), 4)[0] for s in (0, 1, -1, 2**40)]
    assert len({rows.tobytes() for rows in by_seed}) == 4
    assert len({rows.tobytes() for rows in by_seed[0].reshape(4, -1)}) == 4


def test_the_tasks_of_a_batch_differ():
    support = drawn(FewShot(tagged([9] * 5), 3, 1, 2, meta_batch=8), 1)[0]
    assert len({rows.tobytes() for rows in support}) > 1


@pytest.mark.parametrize(
    ("examples", "dtype", "wanted"),
    [
        (np.uint8([0, 51, 102, 255]), tf.float32, [0.0, 0.2, 0.4, 1.0]),
        (np.float64([0, 51, 102, 255]), tf.float32, [0, 51, 102, 255]),
        (np.float16([0, 1, 2, 3]), tf.float32, [0, 1, 2, 3]),
        (np.int64([0, 51, 102, 255]), tf.int64, [0, 51, 102, 255]),
        (np.array(["a", "ß", "", "dd"]), tf.string, [b"", b"a", b"dd", "ß".encode()]),
    ],
    ids=["uint8", "float64", "float16", "int64", "strings"],
)
def test_bytes_are_scaled_floats_are_single_and_the_rest_is_left_alone(examples, dtype, wanted):
    episode = next(iter(FewShot(ClassPool(examples, [0, 0, 1, 1]), 2, 1, 1, meta_batch=1)))
    assert episode.support_x.dtype == dtype and episode.support_y.dtype == tf.int32
    there = sorted(np.concatenate([episode.support_x[0], episode.query_x[0]]).tolist())
    assert there == wanted if dtype == tf.string else np.allclose(there, wanted)


def test_tasks_are_a_dataset_of_episodes_without_end():
    tasks = FewShot(tagged([4] * 4), 2, 1, 1, meta_batch=3)
    assert isinstance(tasks, tf.data.Dataset) and isinstance(tasks, Tasks)
    assert isinstance(tasks.element_spec, Episode) and isinstance(next(iter(tasks)), Episode)
    assert tasks.cardinality() == tf.data.INFINITE_CARDINALITY
    assert tasks.element_spec.support_x.shape == (3, 2, 1)
    mapped = tasks.map(lambda episode: episode.query_y).prefetch(1).take(2)
    assert [y.shape for y in mapped.as_numpy_iterator()] == [(3, 2)] * 2


def test_keras_fits_on_tasks():
    model = keras.Sequential([keras.Input((2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.compile(loss="mse", optimizer="sgd")
    tasks = FewShot(tagged([4] * 4).map(lambda x: x / 16), 2, 1, 1, meta_batch=3)
    history = model.fit(tasks.map(lambda e: (e.support_x, e.support_y)), steps_per_epoch=2, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all() and len(history.history["loss"]) == 2


@pytest.mark.parametrize("name", ["ways", "shots", "queries"])
@pytest.mark.parametrize("value", [0, -1, 2.0, None, "2", True, float("nan"), (1, 5), np.ones(2)])
def test_sizes_are_integers_of_at_least_one(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1; got "):
        FewShot(tagged([4] * 4), **{"ways": 2, "queries": 1, name: value})


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"ways": 1000}, "1000 classes are needed for a 1000-way task; the pool has 4"),
        ({"shots": 4}, "5 examples are needed of each class .* has 4"),
        ({"within": "alphabets"}, "no grouping 'alphabets'; it has none"),
        ({"rotations": True}, r"shape \(16, 1\)"),
    ],
)
def test_a_pool_that_is_too_small_is_told_both_numbers(wanted, message):
    with pytest.raises(ValueError, match=message):
        FewShot(tagged([4] * 4), **{"ways": 2, "queries": 1, **wanted})


@pytest.mark.parametrize("pool", [None, np.zeros((4, 2)), "glyphs", ClassPool])
def test_tasks_are_drawn_from_a_pool_and_nothing_else(pool):
    with pytest.raises(ValueError, match="pool must be a ClassPool, such as ClassPool.from_arrays"):
        FewShot(pool)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rotations": 1}, "rotations must be True or False; got 1"),
        ({"within": ["alphabet"]}, r"no grouping \['alphabet'\]; it has none"),
        ({"ways": 10**30}, "classes are needed"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        FewShot(tagged([4] * 4), **{"ways": 2, "queries": 1, **wrong})


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda tasks: pickle.loads(pickle.dumps(tasks))])
def test_tasks_can_be_copied_and_pickled(again):
    pool = tagged([9] * 6, groupings={"kind": list("aaabbb")})
    for options in ({"within": "kind"}, {"augment": {"query": keras.layers.GaussianNoise(0.1)}}):
        tasks = FewShot(pool, 3, 1, queries=2, seed=4, **options)
        repeated = again(tasks)
        assert repeated is not tasks and (repeated.ways, repeated.within) == (3, tasks.within)
        assert all(
            same(one, other)
            for one, other in zip(tasks.take(2).as_numpy_iterator(), repeated.take(2).as_numpy_iterator(), strict=True)
        )


def test_a_pool_can_be_copied_and_pickled():
    pool = tagged([2, 3], names=["a", "b"], groupings={"kind": ["x", "y"]}, splits=["train"] * 5)
    for repeated in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert repr(repeated) == repr(pool) and repeated.names == pool.names
        assert same(repeated.arrays(), pool.arrays()) and repeated.split("train").groupings == pool.groupings
