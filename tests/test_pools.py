"""ClassPool: examples keep their class, their split and their group, whatever operation is applied to the pool."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_keras import ClassPool


def tagged(labels, **more):
    """A pool in which every example is its own row number."""
    return ClassPool(np.arange(len(labels), dtype=np.float32)[:, None], labels, **more)


def images(rows=4, side=3):
    return np.arange(rows * side * side, dtype=np.uint8).reshape(rows, side, side, 1)


def rows_by_name(pool):
    return {name: pool.examples[pool.labels == n, 0].astype(int).tolist() for n, name in enumerate(pool.names)}


def split_pool():
    """Four classes, two groups, two splits: class 0 and 2 for training, 1 and 3 for testing."""
    return tagged(
        [3, 1, 0, 2, 2, 0, 1, 3, 0],
        names=["a", "b", "c", "d"],
        splits=["test", "test", "train", "train", "train", "train", "test", "test", "train"],
        groupings={"case": ["low", "low", "high", "high"]},
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=30)
    | st.lists(st.text("äbc", min_size=1, max_size=3), min_size=1, max_size=30)
)
def test_every_row_stays_with_its_label(labels):
    pool = ClassPool.from_arrays(np.arange(len(labels))[:, None], labels)
    assert pool.names == tuple(str(label) for label in sorted(set(labels)))
    assert {name: rows for name, rows in rows_by_name(pool).items()} == {
        str(label): [row for row, other in enumerate(labels) if other == label] for label in set(labels)
    }
    assert (np.diff(pool.labels) >= 0).all() and pool.labels.dtype == np.int32
    assert pool.counts.tolist() == [labels.count(label) for label in sorted(set(labels))]
    assert [pool.labels[row] for row in pool.first] == list(range(len(pool)))


def test_names_and_groupings_go_by_the_sorted_labels():
    pool = ClassPool.from_arrays(np.zeros((3, 1)), [7, -2, 7], names=["minus", "plus"], groupings={"sign": [-1, 1]})
    assert pool.names == ("minus", "plus")
    assert pool.labels.tolist() == [0, 1, 1]
    assert pool.groupings == {"sign": ("-1", "1")}


@pytest.mark.parametrize(
    ("examples", "labels", "more", "message"),
    [
        (np.zeros((4, 2)), np.eye(4), {}, r"examples have shape \(4, 2\) and labels have shape \(4, 4\).*argmax"),
        (np.zeros((4, 2)), [0, 1], {}, r"examples have shape \(4, 2\) and labels have shape \(2,\)"),
        (3, [0], {}, "examples must be an array or a list with one entry per example; got 3"),
        (np.zeros((0, 2)), [], {}, "A pool needs examples; none were given"),
        (np.zeros((2, 2)), [0.0, 1.0], {}, r"got float64.*y\.astype\(int\)"),
        (np.zeros((2, 2)), np.array(["a", "b"], object), {}, r"got object.*y\.astype\(str\)"),
        (np.array([[1], [2]], object), [0, 1], {}, "differ in shape or kind"),
        (np.array([[1.0], [np.nan]]), [0, 1], {}, "NaN or infinity"),
        (np.array([[np.inf], [1.0]]), [0, 1], {}, "NaN or infinity"),
        (np.zeros((2, 2)), [0, 1], {"names": ["a"]}, "2 classes have examples, but 1 names were given"),
        (
            np.zeros((2, 2)),
            [0, 1],
            {"groupings": {"kind": ["a"] * 3}},
            "grouping 'kind' names 3 groups for 2 classes",
        ),
    ],
)
def test_arrays_that_make_no_pool_are_told_why(examples, labels, more, message):
    with pytest.raises(ValueError, match=message):
        ClassPool.from_arrays(examples, labels, **more)


def test_the_description_counts_classes_examples_and_groups():
    assert repr(tagged([0, 0, 1, 1])) == "ClassPool(2 classes, 2 examples each, shape (1,))"
    assert repr(split_pool()) == "ClassPool(4 classes, 2 to 3 examples each, shape (1,), 2 case groups)"


def test_arrays_give_all_rows_for_an_ordinary_fit():
    pool = tagged([1, 0, 1])
    examples, labels = pool.arrays()
    assert examples[:, 0].tolist() == [1, 0, 2] and labels.tolist() == [0, 1, 1]


def test_a_split_holds_its_own_rows_names_and_groups():
    train = split_pool().split("train")
    assert rows_by_name(train) == {"a": [2, 5, 8], "c": [3, 4]}
    assert train.groupings == {"case": ("low", "high")}
    assert set(train.splits) == {"train"} and len(train) == 2


@pytest.mark.parametrize(
    ("pool", "message"),
    [(split_pool(), "no split 'dev'; it has 'train', 'test'"), (tagged([0]), "no split 'dev'; it has none")],
)
def test_an_unknown_split_is_answered_with_those_that_exist(pool, message):
    with pytest.raises(ValueError, match=message):
        pool.split("dev")


def test_a_class_may_have_rows_in_several_splits():
    pool = tagged([0, 0, 1, 1], splits=["train", "test", "train", "test"])
    assert rows_by_name(pool.split("test")) == {"0": [1], "1": [3]}


@pytest.mark.parametrize("classes", [[3, 1], np.array([1, 3]), (1, 1, 3), np.uint8([3, 1])])
def test_selected_classes_are_renumbered_and_keep_their_names(classes):
    chosen = split_pool().select(classes)
    assert rows_by_name(chosen) == {"b": [1, 6], "d": [0, 7]}
    assert chosen.groupings == {"case": ("low", "high")} and chosen.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([4, 0, -1], r"numbered from 0 to 3; got \[4, -1\]"),
        ([], "numbered from 0 to 3; got none"),
        (np.array([True, False, False, True]), "integers; got bool"),
        ([0.5], "integers; got float64"),
        (["a"], "by their numbers, which are integers; got <U1"),
    ],
)
def test_classes_that_are_not_there_cannot_be_selected(classes, message):
    with pytest.raises(ValueError, match=message):
        split_pool().select(classes)


@pytest.mark.parametrize(("examples", "names"), [(1, "abcd"), (2, "abcd"), (3, "a")])
def test_classes_with_enough_examples_are_kept(examples, names):
    assert split_pool().with_at_least(examples).names == tuple(names)


def test_asking_for_more_examples_than_any_class_has_names_the_largest():
    with pytest.raises(ValueError, match="No class has 4 examples; the largest has 3"):
        split_pool().with_at_least(4)


def test_a_mapped_pool_has_new_examples_and_the_rest_as_before():
    pool, doubled = split_pool(), split_pool().map(lambda x: 2 * x)
    np.testing.assert_array_equal(doubled.examples, 2 * pool.examples)
    np.testing.assert_array_equal(doubled.labels, pool.labels)
    assert doubled.names == pool.names and doubled.groupings == pool.groupings
    assert doubled.splits.tolist() == pool.splits.tolist()


def test_a_map_that_loses_rows_is_refused():
    with pytest.raises(ValueError, match=r"examples have shape \(2, 1\) and labels have shape \(9,\)"):
        split_pool().map(lambda x: x[:2])


def test_a_turned_pool_holds_each_class_in_four_positions():
    pool = ClassPool(
        images(), [1, 0, 1, 0], names=["a", "b"], splits=["x", "y", "x", "y"], groupings={"kind": ["p", "q"]}
    )
    turned = pool.rotated()
    assert turned.names == tuple(
        f"{name}{end}" for end in ("", " turned 90", " turned 180", " turned 270") for name in "ab"
    )
    assert turned.groupings == {
        "kind": tuple(f"{g}{e}" for e in ("", " turned 90", " turned 180", " turned 270") for g in "pq")
    }
    for turn in range(4):
        for label, original in enumerate(([1, 3], [0, 2])):
            rows = turned.labels == turn * 2 + label
            wanted = [np.rot90(image, turn) for image in images()[original]]
            np.testing.assert_array_equal(turned.examples[rows], wanted)
            assert set(turned.splits[rows]) == {"yx"[label]}


@pytest.mark.parametrize("shape", [(4, 3, 2, 1), (4, 3, 3), (4, 3)])
def test_only_square_images_can_be_rotated(shape):
    with pytest.raises(ValueError, match=re.escape(f"these examples have shape {shape}")):
        ClassPool(np.zeros(shape), [0, 1, 0, 1]).rotated()


def test_members_list_the_classes_of_each_group_that_is_large_enough():
    pool = tagged([0, 1, 2, 3], groupings={"kind": ["p", "q", "p", "p"]})
    assert pool.members(None).tolist() == [[0, 1, 2, 3]]
    assert pool.members("kind").tolist() == [[0, 2, 3], [1, -1, -1]]
    assert pool.members("kind", at_least=2).tolist() == [[0, 2, 3]]
    assert pool.members("kind", at_least=4).shape == (0, 0)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"ways": 5}, "5 classes are needed for a 5-way task; the pool has 4"),
        ({"ways": 3, "within": "case"}, "3 classes are needed for a 3-way task; the largest case has 2"),
        ({"ways": 2, "within": "cases"}, "no grouping 'cases'; it has 'case'"),
        (
            {"ways": 2, "shots": 2},
            r"3 examples are needed of each class \(2 support \+ 1 query\), but class 'b' has 2.*with_at_least\(3\)",
        ),
    ],
)
def test_tasks_that_cannot_be_drawn_are_answered_with_what_is_short(wanted, message):
    with pytest.raises(ValueError, match=message):
        split_pool().check_fits(**{"shots": 1, "queries": 1, **wanted})


def test_a_small_class_in_a_group_that_is_left_out_does_no_harm():
    pool = tagged([0, 0, 1, 1, 2], groupings={"kind": ["p", "p", "q"]})
    pool.check_fits(ways=2, shots=1, queries=1, within="kind")
    with pytest.raises(ValueError, match="class '2' has 1"):
        pool.check_fits(ways=2, shots=1, queries=1)


@pytest.mark.parametrize("examples", [0, -3, 2.0, float("nan"), True, None, "3", [3]])
def test_a_number_of_examples_is_an_integer_of_at_least_one(examples):
    with pytest.raises(ValueError, match="examples must be an integer of at least 1; got "):
        split_pool().with_at_least(examples)


@pytest.mark.parametrize("name", [None, 3, ["train"], np.array(["train", "test"])])
def test_a_split_is_known_by_its_name_alone(name):
    with pytest.raises(ValueError, match="This pool has no split .*; it has 'test', 'train'|'train', 'test'"):
        split_pool().split(name)


def test_a_pool_without_splits_says_how_to_make_them():
    with pytest.raises(ValueError, match=r"no split 'train'; it has none. pool.split_classes\(\) makes splits"):
        tagged([0, 1]).split("train")


@pytest.mark.parametrize("function", [None, 3, "rotate"])
def test_only_a_function_can_be_mapped(function):
    with pytest.raises(ValueError, match="function must be a function; got "):
        split_pool().map(function)


def test_a_pool_keeps_nothing_that_its_maker_may_change():
    examples, labels = np.zeros((2, 1)), np.array([0, 1])
    pool = ClassPool(examples, labels)
    examples[:], labels[:] = 5, 1
    assert not pool.examples.any() and pool.labels.tolist() == [0, 1]
