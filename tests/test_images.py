"""Image files: the pixels are the same as in an image viewer, and the same from memory and from disk."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from meta_keras import ClassPool, FewShot
from meta_keras.internals import READS_WEBP
from meta_keras.tasks import images
from meta_keras.tasks.images import ImageFiles


def save(path, array, kind=None, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, kind, **options)
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def read(path, height, width, color_mode="grayscale"):
    return np.asarray(ImageFiles([path], (height, width), color_mode))[0]


def folder_of(root, classes=6, each=5, side=9):
    """Noisy PNGs of different sizes, some of them transparent, and some JPEGs."""
    for label in range(classes):
        for number in range(each):
            height, width = side + number, side + label
            channels = 4 if number == 2 else 3
            suffix = "jpg" if number == 3 else "png"
            save(
                root / f"class {label}" / f"{number}.{suffix}", noise(height, width, channels, seed=10 * label + number)
            )
    return root


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("png", {}), ("bmp", {}), ("webp", {"lossless": True}), ("png", {"mode": "RGBA"}), ("bmp", {"mode": "RGBA"})],
)
def test_lossless_formats_keep_every_pixel(tmp_path, suffix, options):
    array = noise(9, 7, 3)
    if suffix == "webp" and not READS_WEBP:
        pytest.skip("This version of TensorFlow does not read WebP.")
    path = save(tmp_path / f"a.{suffix}", array, **options)
    np.testing.assert_array_equal(read(path, 9, 7, "rgb"), array)


@pytest.mark.parametrize(("suffix", "mode"), [("png", "L"), ("png", "LA"), ("png", "RGB"), ("bmp", "L"), ("gif", "L")])
def test_gray_images_keep_every_pixel_in_whatever_form_they_are_stored(tmp_path, suffix, mode):
    array = noise(9, 7)
    path = save(tmp_path / f"a.{suffix}", array, mode=mode)
    np.testing.assert_array_equal(read(path, 9, 7)[..., 0], array)
    np.testing.assert_array_equal(read(path, 9, 7, "rgb"), np.repeat(array[..., None], 3, -1))


def test_color_becomes_gray_as_the_eye_weighs_it(tmp_path):
    path = save(tmp_path / "a.png", np.uint8([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]))
    assert read(path, 1, 3)[0, :, 0].tolist() == [76, 150, 29]


def test_ink_on_a_transparent_ground_is_seen_on_white(tmp_path):
    ink = np.zeros((4, 4, 4), np.uint8)
    ink[1, :, 3] = 255
    ink[2, :, 3] = 51
    for name in ("a.png", *(["a.webp"] if READS_WEBP else [])):
        path = save(tmp_path / name, ink, lossless=True)
        assert read(path, 4, 4)[..., 0].tolist() == [[255] * 4, [0] * 4, [204] * 4, [255] * 4]
    # The fourth channel of a BMP is padding in most programs, and 0.
    assert not read(save(tmp_path / "a.bmp", ink), 4, 4).any()
    palette = Image.fromarray(np.uint8([[0, 1]]), "P")
    palette.putpalette([0, 0, 0, 90, 90, 90])
    palette.save(tmp_path / "p.png", transparency=0)
    assert read(tmp_path / "p.png", 1, 2)[0, :, 0].tolist() == [255, 90]


def test_sixteen_bits_are_scaled_and_those_with_eight_bit_values_are_refused(tmp_path):
    wide = save(tmp_path / "wide.png", np.uint16([[0, 257, 65535]]))
    assert read(wide, 1, 3)[0, :, 0].tolist() == [0, 1, 255]
    assert not read(save(tmp_path / "black.png", np.zeros((2, 2), np.uint16)), 2, 2).any()
    save(tmp_path / "root" / "cat" / "narrow.png", np.uint16([[0, 100, 255]]))
    with pytest.raises(ValueError, match=r"narrow\.png' cannot be read .*16-bit PNG whose values go up to 255"):
        ClassPool.from_folder(tmp_path / "root")
    with pytest.raises(ValueError, match=r"narrow\.png' cannot be read .*16-bit PNG whose values go up to 255"):
        ClassPool.from_folder(tmp_path / "root", in_memory=False)


def save_animation(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.fromarray(np.full((3, 3), value, np.uint8)) for value in (40, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    return path


def test_of_an_animated_gif_the_first_frame_is_taken(tmp_path):
    assert (read(save_animation(tmp_path / "a.gif"), 3, 3) == 40).all()


@pytest.mark.skipif(not READS_WEBP, reason="This version of TensorFlow does not read WebP.")
@pytest.mark.parametrize("in_memory", [True, False])
def test_an_animated_webp_is_refused_before_it_is_decoded_wrong(tmp_path, in_memory):
    save_animation(tmp_path / "cat" / "a.webp")
    with pytest.raises(ValueError, match=r"a\.webp' cannot be read as an image \(it is an animated WebP\)"):
        ClassPool.from_folder(tmp_path, in_memory=in_memory)


def test_images_are_resized_and_not_cropped(tmp_path):
    dark = np.zeros((10, 20), np.uint8)
    dark[:, 5:] = 255
    small = read(save(tmp_path / "quarter.png", dark), 4, 4)[..., 0]
    assert (small[:, 0] < 100).all() and (small[:, 2:] == 255).all()


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n truncated", "cut"])
def test_a_damaged_image_is_named(tmp_path, content):
    good = save(tmp_path / "cat" / "good.png", noise(9, 9))
    damaged = good.read_bytes()[:-30] if content == "cut" else content
    (tmp_path / "cat" / "spoilt.png").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"spoilt\.png' cannot be read as an image \(it is damaged\)"):
        ClassPool.from_folder(tmp_path)


def test_a_file_that_is_gone_when_it_is_needed_is_named(tmp_path):
    paths = [save(tmp_path / f"{number}.png", noise(9, 9)) for number in range(3)]
    files = ImageFiles(paths, (9, 9))
    paths[1].unlink()
    with pytest.raises(ValueError, match=r"1\.png' cannot be read"):
        np.asarray(files)


def test_pixels_of_masks_are_refused_from_memory_and_from_disk(tmp_path):
    save(tmp_path / "cat" / "mask.png", np.eye(9, dtype=np.uint8))
    for in_memory in (True, False):
        with pytest.raises(ValueError, match="values only up to 1"):
            ClassPool.from_folder(tmp_path, image_size=(9, 9), in_memory=in_memory)


def test_chosen_rows_are_read_in_their_order(tmp_path):
    arrays = noise(6, 4, 4)
    files = ImageFiles([save(tmp_path / f"{n}.png", array) for n, array in enumerate(arrays)], (4, 4))
    assert files.shape == (6, 4, 4, 1) and files.ndim == 4 and len(files) == 6 and files.dtype == np.uint8
    for rows in ([3, 0], slice(1, None, 2), np.arange(6) > 3, np.array([5, 5]), 2, -1):
        np.testing.assert_array_equal(np.asarray(files[rows])[..., 0], np.atleast_3d(arrays[rows]).reshape(-1, 4, 4))
    assert np.asarray(files, dtype=np.float32).dtype == np.float32
    np.testing.assert_array_equal(files.lookup()(np.array([[4, 1]])).numpy()[0, ..., 0], arrays[[4, 1]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"rotations": True}, {"augment": keras.layers.RandomRotation(0.3)}],
    ids=["plain", "turned", "augment"],
)
def test_tasks_from_disk_equal_those_from_memory_to_the_bit(tmp_path, options):
    folder_of(tmp_path)
    pools = [ClassPool.from_folder(tmp_path, image_size=(8, 8), color_mode="rgb", in_memory=m) for m in (True, False)]
    assert repr(pools[1]) == repr(pools[0])[:-1] + ", on disk)"
    one, other = (FewShot(pool, 3, 1, 2, meta_batch=2, seed=7, **options).take(3) for pool in pools)
    for episode, same in zip(one, other, strict=True):
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(episode, same, strict=True))


@pytest.mark.slow
def test_a_pool_on_disk_answers_every_method(tmp_path):
    folder_of(tmp_path)
    pool, disk = (ClassPool.from_folder(tmp_path, image_size=(8, 8), in_memory=m) for m in (True, False))
    for change in (
        lambda p: p.select([4, 1]),
        lambda p: p.with_at_least(5),
        lambda p: p.rotated(),
        lambda p: p.split_classes(seed=3).split("validation"),
        lambda p: p.rotated().rotated().select([0, 40]),
        copy.deepcopy,
        lambda p: pickle.loads(pickle.dumps(p)),
    ):
        wanted, found = change(pool), change(disk)
        assert wanted.names == found.names and isinstance(found.examples, ImageFiles)
        for a, b in zip(wanted.arrays(), found.arrays(), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="on disk, so they cannot be mapped. Read them with in_memory=True"):
        disk.map(lambda x: x)


def test_a_pool_on_disk_opens_few_files_before_tasks_are_drawn(tmp_path, monkeypatch):
    folder_of(tmp_path, classes=3, each=4)
    monkeypatch.setattr("meta_keras.tasks.pool_checks.SAMPLE", 2)
    opened = []
    monkeypatch.setattr(
        ImageFiles, "__array__", lambda files, *_: opened.append(len(files)) or noise(len(files), 8, 8, 1)
    )
    pool = ClassPool.from_folder(tmp_path, image_size=(8, 8), in_memory=False)
    FewShot(pool.select([0, 1]), 2, 1, 1)
    assert sum(opened) == 2


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"damaged", b"no image at all, but rather long"])
def test_an_image_on_disk_that_is_no_longer_one_is_named_when_tasks_are_drawn(tmp_path, content):
    folder_of(tmp_path, classes=2, each=3)
    pool = ClassPool.from_folder(tmp_path, in_memory=False)
    (tmp_path / "class 0" / "1.png").write_bytes(content)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"it is damaged[^\0]*class 0.*1\.png"):
        next(iter(FewShot(pool, 2, 1, 2)))


@pytest.mark.parametrize(
    ("verbose", "many", "shown"), [(0, 1, False), ("auto", 99, False), ("auto", 30, True), (1, 99, True)]
)
def test_long_reading_shows_a_progress_bar(tmp_path, monkeypatch, capsys, verbose, many, shown):
    monkeypatch.setattr(images, "MANY", many)
    folder_of(tmp_path)
    ClassPool.from_folder(tmp_path, verbose=verbose)
    told = capsys.readouterr()
    assert ("30/30" in told.out) == shown and bool(told.out) == shown and not told.err


def glyph():
    from PIL import Image

    return Image.fromarray(255 * (np.arange(64).reshape(8, 8) % 5 == 0).astype(np.uint8))


@pytest.mark.parametrize("colors", [None, 2, 4, 16, 200])
def test_images_of_few_bits_are_read_as_those_of_eight(tmp_path, colors):
    """Of 1, 2 and 4 bits, TensorFlow fills in an opacity that is almost transparent, which made the image white."""
    image = glyph().convert("1") if colors is None else glyph().convert("RGB").quantize(colors)
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "0.png")
    found = ClassPool.from_folder(tmp_path, image_size=(8, 8)).examples[0, ..., 0]
    np.testing.assert_array_equal(found, np.asarray(glyph()))


def test_a_palette_with_a_transparent_color_is_white_there(tmp_path):
    (tmp_path / "a").mkdir()
    image = glyph().convert("RGB").quantize(2)
    image.save(tmp_path / "a" / "0.png", transparency=image.getpixel((1, 0)))  # what is black becomes transparent
    assert (ClassPool.from_folder(tmp_path, image_size=(8, 8)).examples == 255).all()


def test_a_bmp_with_a_palette_of_colors_is_refused_and_one_of_grays_is_read(tmp_path):
    from PIL import Image

    (tmp_path / "a").mkdir()
    glyph().save(tmp_path / "a" / "0.bmp")
    found = ClassPool.from_folder(tmp_path, image_size=(8, 8)).examples[0, ..., 0]
    np.testing.assert_array_equal(found, np.asarray(glyph()))
    colors = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(colors).quantize(200).save(tmp_path / "a" / "1.bmp")
    with pytest.raises(ValueError, match="1.bmp.*BMP with a palette of colors"):
        ClassPool.from_folder(tmp_path, image_size=(8, 8))
