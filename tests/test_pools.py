"""ClassPool: examples keep their class, their part and their group, whatever is done with the pool."""

import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_keras import ClassPool


def tagged(labels, **more):
    """A pool in which every example is its own row number."""
    return ClassPool(np.arange(len(labels), dtype=np.float32)[:, None], labels, **more)


def pictures(rows=4, side=3):
    return np.arange(rows * side * side, dtype=np.uint8).reshape(rows, side, side, 1)


def rows_by_name(pool):
    return {name: pool.examples[pool.labels == n, 0].astype(int).tolist() for n, name in enumerate(pool.names)}


def parts():
    """Four classes, two groups, two parts: class 0 and 2 for training, 1 and 3 for testing."""
    return tagged(
        [3, 1, 0, 2, 2, 0, 1, 3, 0],
        names=["a", "b", "c", "d"],
        splits=["test", "test", "train", "train", "train", "train", "test", "test", "train"],
        groupings={"case": ["low", "low", "high", "high"]},
    )


def picture_file(path, height=5, width=7, channels=3, value=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = tf.fill((height, width, channels), tf.constant(value, tf.uint8))
    encode = tf.io.encode_png if path.suffix.lower() == ".png" else tf.io.encode_jpeg
    path.write_bytes(encode(picture).numpy())


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
        (np.zeros((4, 2)), np.eye(4), {}, r"examples of shape \(4, 2\) came with labels of shape \(4, 4\).*argmax"),
        (np.zeros((4, 2)), [0, 1], {}, r"examples of shape \(4, 2\) came with labels of shape \(2,\)"),
        (3, [0], {}, r"examples of shape \(\) came with"),
        (np.zeros((0, 2)), [], {}, "A pool needs examples; none were given"),
        (np.zeros((2, 2)), [0.0, 1.0], {}, r"these are float64.*y\.astype\(int\)"),
        (np.zeros((2, 2)), np.array(["a", "b"], object), {}, r"these are object.*y\.astype\(str\)"),
        (np.array([[1], [2]], object), [0, 1], {}, "differ in shape or kind"),
        (np.array([[1.0], [np.nan]]), [0, 1], {}, "nan or infinity"),
        (np.array([[np.inf], [1.0]]), [0, 1], {}, "nan or infinity"),
        (np.zeros((2, 2)), [0, 1], {"names": ["a"]}, "2 classes have examples, and 1 names were given"),
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
    assert repr(parts()) == "ClassPool(4 classes, 2 to 3 examples each, shape (1,), 2 case groups)"


def test_arrays_give_all_rows_for_an_ordinary_fit():
    pool = tagged([1, 0, 1])
    examples, labels = pool.arrays()
    assert examples[:, 0].tolist() == [1, 0, 2] and labels.tolist() == [0, 1, 1]


def test_a_part_holds_its_own_rows_names_and_groups():
    train = parts().split("train")
    assert rows_by_name(train) == {"a": [2, 5, 8], "c": [3, 4]}
    assert train.groupings == {"case": ("low", "high")}
    assert set(train.splits) == {"train"} and len(train) == 2


@pytest.mark.parametrize(
    ("pool", "message"),
    [(parts(), "no part 'dev'; it has 'train', 'test'"), (tagged([0]), "no part 'dev'; it has none")],
)
def test_an_unknown_part_is_answered_with_those_there_are(pool, message):
    with pytest.raises(ValueError, match=message):
        pool.split("dev")


def test_a_class_may_have_rows_in_several_parts():
    pool = tagged([0, 0, 1, 1], splits=["train", "test", "train", "test"])
    assert rows_by_name(pool.split("test")) == {"0": [1], "1": [3]}


@pytest.mark.parametrize("classes", [[3, 1], np.array([1, 3]), (1, 1, 3), np.uint8([3, 1])])
def test_selected_classes_are_numbered_anew_and_keep_their_names(classes):
    chosen = parts().select(classes)
    assert rows_by_name(chosen) == {"b": [1, 6], "d": [0, 7]}
    assert chosen.groupings == {"case": ("low", "high")} and chosen.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([4, 0, -1], r"numbered 0 to 3; \[4, -1\] asked for"),
        ([], "numbered 0 to 3; none asked for"),
        (np.array([True, False, False, True]), "these are bool"),
        ([0.5], "these are float64"),
        (["a"], "by their numbers; these are <U1"),
    ],
)
def test_classes_that_are_not_there_cannot_be_selected(classes, message):
    with pytest.raises(ValueError, match=message):
        parts().select(classes)


@pytest.mark.parametrize(("examples", "names"), [(1, "abcd"), (2, "abcd"), (3, "a")])
def test_classes_with_enough_examples_are_kept(examples, names):
    assert parts().with_at_least(examples).names == tuple(names)


def test_asking_for_more_examples_than_any_class_has_names_the_largest():
    with pytest.raises(ValueError, match="No class has 4 examples; the largest has 3"):
        parts().with_at_least(4)


def test_a_mapped_pool_has_new_examples_and_the_rest_as_before():
    pool, doubled = parts(), parts().map(lambda x: 2 * x)
    np.testing.assert_array_equal(doubled.examples, 2 * pool.examples)
    np.testing.assert_array_equal(doubled.labels, pool.labels)
    assert doubled.names == pool.names and doubled.groupings == pool.groupings
    assert doubled.splits.tolist() == pool.splits.tolist()


def test_a_map_that_loses_rows_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 1\) came with labels of shape \(9,\)"):
        parts().map(lambda x: x[:2])


def test_a_turned_pool_holds_each_class_in_four_positions():
    pool = ClassPool(
        pictures(), [1, 0, 1, 0], names=["a", "b"], splits=["x", "y", "x", "y"], groupings={"kind": ["p", "q"]}
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
            wanted = [np.rot90(picture, turn) for picture in pictures()[original]]
            np.testing.assert_array_equal(turned.examples[rows], wanted)
            assert set(turned.splits[rows]) == {"yx"[label]}


@pytest.mark.parametrize("shape", [(4, 3, 2, 1), (4, 3, 3), (4, 3)])
def test_only_square_pictures_can_be_turned(shape):
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
            r"3 examples are needed of each class \(2 support \+ 1 query\); class 'b' has 2.*with_at_least\(3\)",
        ),
    ],
)
def test_tasks_that_cannot_be_drawn_are_answered_with_what_is_short(wanted, message):
    with pytest.raises(ValueError, match=message):
        parts().check_fits(**{"shots": 1, "queries": 1, **wanted})


def test_a_small_class_in_a_group_that_is_left_out_does_no_harm():
    pool = tagged([0, 0, 1, 1, 2], groupings={"kind": ["p", "p", "q"]})
    pool.check_fits(ways=2, shots=1, queries=1, within="kind")
    with pytest.raises(ValueError, match="class '2' has 1"):
        pool.check_fits(ways=2, shots=1, queries=1)


def test_a_folder_of_pictures_becomes_a_pool(tmp_path):
    picture_file(tmp_path / "dog" / "a.png", value=255)
    picture_file(tmp_path / "dog" / "b.JPG", 9, 4, value=0)
    picture_file(tmp_path / "cat" / "a.jpeg", 30, 31, channels=1, value=120)
    picture_file(tmp_path / "loose.png")
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    pool = ClassPool.from_folder(tmp_path, image_size=(6, 8))
    assert pool.names == ("cat", "dog") and pool.labels.tolist() == [0, 1, 1] and pool.groupings == {}
    assert pool.examples.shape == (3, 6, 8, 1) and pool.examples.dtype == np.uint8
    for picture, value in zip(pool.examples, (120, 255, 0), strict=True):
        assert np.abs(picture.astype(int) - value).max() <= 1


def test_pictures_are_resized_and_not_cropped(tmp_path):
    path = tmp_path / "class" / "quarter.png"
    path.parent.mkdir()
    dark = np.zeros((10, 20, 1), np.uint8)
    dark[:, 5:] = 255
    path.write_bytes(tf.io.encode_png(dark).numpy())
    small = ClassPool.from_folder(tmp_path, image_size=(4, 4)).examples[0, ..., 0]
    assert (small[:, 0] < 100).all() and (small[:, 2:] == 255).all()


def test_pictures_in_colour_keep_three_channels(tmp_path):
    picture_file(tmp_path / "a" / "grey.png", channels=1, value=90)
    picture_file(tmp_path / "b" / "colour.png", value=30)
    pool = ClassPool.from_folder(tmp_path, color_mode="rgb", image_size=(2, 2))
    assert pool.examples.shape == (2, 2, 2, 3)
    assert [int(picture.mean()) for picture in pool.examples] == [90, 30]


@pytest.mark.parametrize(
    ("folders", "names", "groupings"),
    [
        (["x/cat", "x/dog", "y/cat"], ("x/cat", "x/dog", "y/cat"), {"folder": ("x", "x", "y")}),
        (["x/cat", "dog"], ("dog", "x/cat"), {}),
    ],
    ids=["nested", "mixed"],
)
def test_folders_of_folders_become_groups(tmp_path, folders, names, groupings):
    for folder in folders:
        picture_file(tmp_path / folder / "1.png")
    pool = ClassPool.from_folder(tmp_path)
    assert pool.names == names and pool.groupings == groupings


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n truncated"])
def test_an_unreadable_picture_is_named(tmp_path, content):
    picture_file(tmp_path / "cat" / "good.png")
    (tmp_path / "cat" / "spoilt.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"spoilt\.png' cannot be read as a PNG or JPEG"):
        ClassPool.from_folder(tmp_path)


def test_a_missing_folder_and_one_without_classes_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'"):
        ClassPool.from_folder(tmp_path / "nowhere")
    picture_file(tmp_path / "loose.png")
    with pytest.raises(ValueError, match="one folder a class is needed"):
        ClassPool.from_folder(tmp_path)


def test_an_unknown_colour_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'grey' was given"):
        ClassPool.from_folder(tmp_path, color_mode="grey")
