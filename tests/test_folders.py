"""Folders of images: which files become which classes, groups and splits, and that nothing is skipped silently."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from meta_keras import ClassPool
from meta_keras.tasks.folders import scan


def image_file(path, height=5, width=7, value=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = tf.fill((height, width, 3), tf.constant(value, tf.uint8))
    encode = tf.io.encode_png if path.suffix.lower() == ".png" else tf.io.encode_jpeg
    path.write_bytes(encode(image).numpy())


def images_in(root, *folders, each=1):
    for folder in folders:
        for number in range(each):
            image_file(root / folder / f"{number}.png")


@pytest.mark.parametrize(
    ("folders", "names", "groupings"),
    [
        (["dog", "cat"], ["cat", "dog"], {}),
        (["x/cat", "x/dog", "y/cat"], ["x/cat", "x/dog", "y/cat"], {"folder": ["x", "x", "y"]}),
        (["x/cat", "dog"], ["dog", "x/cat"], {}),
        (["a/b/c", "a/d/e"], ["a/b/c", "a/d/e"], {"folder": ["a/b", "a/d"]}),
        (["cat.png", "dog"], ["cat.png", "dog"], {}),
    ],
    ids=["flat", "nested", "mixed", "deep", "a folder called like an image"],
)
def test_folders_with_images_are_classes_and_outer_folders_are_groups(tmp_path, folders, names, groupings):
    images_in(tmp_path, *folders)
    found = scan(tmp_path)
    assert found.names == names and found.groupings == groupings and found.splits is None
    assert [os.path.relpath(path, tmp_path) for path in found.paths] == [
        f"{names[label]}{os.sep}0.png" for label in found.labels
    ]


def test_hidden_files_and_folders_and_other_files_are_no_images(tmp_path):
    images_in(tmp_path, "cat", ".git", ".ipynb_checkpoints", "cat/.ipynb_checkpoints", "__MACOSX/cat", "cat/@eaDir")
    (tmp_path / "cat" / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    found = scan(tmp_path)
    assert found.names == ["cat"] and found.paths == [str(tmp_path / "cat" / "0.png")]


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".jfif", ".bmp", ".GIF"])
def test_images_are_known_by_their_suffix_in_either_case(tmp_path, suffix):
    images_in(tmp_path, "cat")
    shutil.move(tmp_path / "cat" / "0.png", tmp_path / "cat" / f"0{suffix}")
    assert len(scan(tmp_path).paths) == 1


def test_everything_that_looks_like_an_image_and_cannot_be_read_is_listed(tmp_path):
    images_in(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "a.tif").touch()
    (tmp_path / "dog" / "b.HEIC").touch()
    (tmp_path / "dog" / "c.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "zebra").symlink_to(tmp_path / "no folder")
    (tmp_path / "dog" / "loop").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="5 entries below .* cannot be read") as raised:
        scan(tmp_path)
    told = str(raised.value)
    for expected in (
        f"cat{os.sep}a.tif (the format .tif is not supported)",
        "b.HEIC (the format .heic is not supported)",
        f"dog{os.sep}c.png (a broken link)",
        "zebra (a broken link)",
        f"dog{os.sep}loop (a link to a folder that contains it)",
        "Convert images to PNG or JPEG",
    ):
        assert expected in told
    for number in range(9):
        (tmp_path / "cat" / f"{number}.tif").touch()
    with pytest.raises(ValueError, match="14 entries .*, and 9 more. Convert"):
        scan(tmp_path)


def test_linked_class_folders_and_images_are_followed(tmp_path):
    images_in(tmp_path / "elsewhere", "cat")
    root = tmp_path / "root"
    images_in(root, "dog")
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (root / "dog" / "1.png").symlink_to(tmp_path / "elsewhere" / "cat" / "0.png")
    found = scan(root)
    assert found.names == ["cat", "dog"] and found.labels.tolist() == [0, 1, 1]


def test_images_outside_class_folders_are_left_out_with_a_warning(tmp_path):
    images_in(tmp_path, "cat", ".")
    with pytest.warns(UserWarning, match="1 images directly in .* belong to no class and are left out") as caught:
        pool = ClassPool.from_folder(tmp_path)
    assert pool.names == ("cat",) and caught[0].filename == __file__


def test_a_missing_folder_and_one_without_classes_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'"):
        scan(tmp_path / "nowhere")
    images_in(tmp_path, ".")
    with pytest.raises(ValueError, match="one folder per class is needed"):
        scan(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        scan(tmp_path / "0.png")


@pytest.mark.parametrize("validation", ["validation", "val", "valid"])
def test_train_validation_and_test_folders_are_splits(tmp_path, validation):
    images_in(tmp_path, "train/cat", "train/dog", f"{validation}/emu", "test/ant", "test/bee", each=2)
    pool = ClassPool.from_folder(tmp_path)
    assert pool.names == ("ant", "bee", "cat", "dog", "emu") and pool.groupings == {}
    assert pool.split("train").names == ("cat", "dog") and pool.split("test").names == ("ant", "bee")
    assert pool.split("validation").names == ("emu",) and pool.counts.tolist() == [2] * 5


def test_groups_within_splits_stay_groups(tmp_path):
    images_in(tmp_path, "Train/greek/alpha", "Train/greek/beta", "Test/latin/a")
    pool = ClassPool.from_folder(tmp_path)
    assert pool.names == ("greek/alpha", "greek/beta", "latin/a")
    assert pool.split("train").groupings == {"folder": ("greek", "greek")}


def test_a_class_in_two_splits_is_an_error_unless_it_is_meant(tmp_path):
    images_in(tmp_path, "train/cat", "test/cat", "train/dog", "test/emu")
    with pytest.raises(ValueError, match=r"1 classes .* more than one split: 'cat' \(in .*shared_classes=True"):
        ClassPool.from_folder(tmp_path)
    pool = ClassPool.from_folder(tmp_path, shared_classes=True)
    assert pool.names == ("cat", "dog", "emu") and pool.counts.tolist() == [2, 1, 1]
    assert pool.split("train").names == ("cat", "dog") and pool.split("test").names == ("cat", "emu")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/cat", "test/dog", "extra/emu"], "'.*' has the folders test, train, but there is also extra"),
        (["train", "test"], "but test, train holds images itself"),
        (["train", "train/cat", "test/dog"], "but train holds images itself"),
        (["train/cat", "val/dog", "valid/emu"], "but there is also train, val, valid"),
    ],
)
def test_folders_that_are_splits_only_in_part_are_an_error(tmp_path, folders, message):
    images_in(tmp_path, *folders)
    with pytest.raises(ValueError, match=message):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["train", "car"], ["car", "train"]),
        (["train", "test", "car"], ["car", "test", "train"]),
        (["train/ice", "car/taxi"], ["car/taxi", "train/ice"]),
        (["test/cat", "validation/dog"], ["test/cat", "validation/dog"]),
        (["train/cat", "train/dog"], ["train/cat", "train/dog"]),
    ],
)
def test_classes_may_have_the_names_of_splits(tmp_path, folders, names):
    images_in(tmp_path, *folders)
    found = scan(tmp_path)
    assert found.names == names and found.splits is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"path": None}, "path must be a path; got None"),
        ({"in_memory": "no"}, "in_memory must be True or False; got 'no'"),
        ({"shared_classes": np.ones(2)}, "shared_classes must be True or False; got ndarray"),
        ({"verbose": 5}, "verbose must be one of 'auto', 0, 1"),
        ({"verbose": 2, "in_memory": False}, "verbose must be one of 'auto', 0, 1"),
        ({"color_mode": "gray"}, "color_mode must be one of 'grayscale', 'rgb'; got 'gray'"),
        ({"image_size": 28}, r"image_size must be \(height, width\), two integers of at least 1; got 28"),
        ({"image_size": (28,)}, r"two integers of at least 1; got \(28,\)"),
        ({"image_size": (28, 0)}, r"two integers of at least 1; got \(28, 0\)"),
        ({"image_size": (28, 2.5)}, r"two integers of at least 1; got \(28, 2.5\)"),
        ({"image_size": ((1, 2), 3)}, r"two integers of at least 1; got \(\(1, 2\), 3\)"),
        ({"image_size": "ab"}, "two integers of at least 1; got 'ab'"),
        ({"image_size": (True, 3)}, r"two integers of at least 1; got \(True, 3\)"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(tmp_path, wrong, message):
    images_in(tmp_path, "cat")
    with pytest.raises(ValueError, match=message):
        ClassPool.from_folder(**{"path": tmp_path, **wrong})
