"""load: the included data sets are intact, and errors about downloads say what is needed. No network is used."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from meta_keras import ClassPool, FewShot, load
from meta_keras.tasks import datasets

SIZES = {
    "glyphs": (1201, 20, (28, 28, 1)),
    "hanzi": (3755, 3, (28, 28, 1)),
    "fashion": (10, 250, (28, 28, 1)),
    "languages": (38, 200, ()),
}
NOWHERE = "http://127.0.0.1:9/"


@pytest.fixture(scope="module")
def embedded():
    return {name: load(name) for name in SIZES}


@pytest.fixture
def offline(monkeypatch):
    """Every source of downloads at an address where no server answers."""
    monkeypatch.setattr(
        datasets, "SOURCES", {name: source._replace(site=NOWHERE) for name, source in datasets.SOURCES.items()}
    )
    monkeypatch.setattr(datasets, "SECONDS_TO_WAIT", 1.0)


class Words:
    """A feature whose numbers represent words."""

    def __init__(self, prefix):
        self.int2str = lambda number: f"{prefix} {number}"


class Builder:
    """The part of a tensorflow-datasets builder that `load` uses, for a few rows."""

    def __init__(self, folder, parts, features):
        self.data_dir, self.parts, self.downloads = str(folder), parts, 0
        self.info = type("Info", (), {"features": {name: Words(name) for name in features}})

    def as_dataset(self, *, split, shuffle_files):
        assert not shuffle_files
        return tf.data.Dataset.from_tensor_slices(self.parts[split])

    def download_and_prepare(self):
        self.downloads += 1
        (Path(self.data_dir) / "dataset_info.json").write_text("{}")


@pytest.fixture
def stands_in(tmp_path, monkeypatch):
    """Use a builder with these rows instead of the one that tensorflow-datasets would create."""

    def install(parts, *, groups=(), prepared=True):
        folder = tmp_path / "set" / "1.0.0"
        folder.mkdir(parents=True)
        builder = Builder(folder, parts, ["label", *groups])
        if prepared:
            (folder / "dataset_info.json").write_text("{}")
        monkeypatch.setattr(tfds, "builder", lambda name, data_dir=None: builder)
        return builder

    return install


def rows(labels, shape, dtype=np.uint8, **more):
    images = np.stack([np.full(shape, 10 * label, dtype) for label in labels])
    return {"image": images, "label": np.array(labels, np.int64), **more}


@pytest.mark.parametrize("name", SIZES)
def test_an_embedded_set_has_its_classes_examples_and_shape(embedded, name):
    pool, (classes, examples, shape) = embedded[name], SIZES[name]
    assert isinstance(pool, ClassPool) and len(pool) == classes
    assert (pool.counts == examples).all() and pool.examples.shape[1:] == shape
    assert pool.examples.dtype.kind == ("U" if name == "languages" else "u")
    assert len(set(zip(pool.names, *pool.groupings.values(), strict=True))) == classes


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("glyphs", {"train": 851, "validation": 129, "test": 221}),
        ("hanzi", {"train": 2903, "validation": 223, "test": 629}),
        ("languages", {"train": 24, "validation": 6, "test": 8}),
    ],
)
def test_a_few_shot_set_is_split_by_class(embedded, name, parts):
    pools = {part: embedded[name].split(part) for part in parts}
    assert {part: len(pool) for part, pool in pools.items()} == parts
    assert sum(parts.values()) == len(embedded[name])
    known = [set(zip(p.names, *p.groupings.values(), strict=True)) for p in pools.values()]
    assert not any(one & other for one in known for other in known if one is not other)


def test_no_alphabet_of_the_glyphs_lies_in_two_parts(embedded):
    alphabets = [set(embedded["glyphs"].split(part).groupings["alphabet"]) for part in ("train", "validation", "test")]
    assert sum(map(len, alphabets)) == len(set.union(*alphabets)) == 26


def test_characters_of_one_initial_are_in_one_part_and_ordered_by_pronunciation(embedded):
    pool = embedded["hanzi"]
    initials = {part: set(pool.split(part).groupings["initial"]) for part in ("train", "validation", "test")}
    assert initials["validation"] == {"x"} and initials["test"] == {"y", "z"} and len(initials["train"]) == 20
    known = {"啊": "a", "北": "b", "京": "j", "西": "x", "中": "z", "做": "z"}
    assert {name: pool.groupings["initial"][pool.names.index(name)] for name in known} == known
    assert list(pool.groupings["initial"]) == sorted(pool.groupings["initial"])


def test_typefaces_have_the_same_order_for_every_character(embedded):
    """Sans serif has the boldest lines; in serif, vertical lines are bolder than horizontal ones."""
    images = embedded["hanzi"].examples.reshape(3755, 3, 28, 28) > 0
    assert (images.mean(axis=(2, 3)).argmax(axis=1) == 1).mean() > 0.99
    cross = images[embedded["hanzi"].names.index("十")]
    assert [[int((face.sum(axis=axis) > 20).sum()) for axis in (0, 1)] for face in cross[:2]] == [[2, 1], [2, 2]]


@pytest.mark.parametrize("name", ["glyphs", "hanzi"])
def test_characters_are_ink_or_ground_and_bright_on_dark(embedded, name):
    images = embedded[name].examples
    assert set(np.unique(images)) == {0, 255}
    assert (images.mean(axis=(1, 2, 3)) < 128).mean() > 0.99


def test_fashion_is_split_by_example(embedded):
    train, test = (embedded["fashion"].split(part) for part in ("train", "test"))
    assert train.names == test.names and (set(train.counts), set(test.counts)) == ({200}, {50})
    assert embedded["fashion"].examples.max() > 200


def test_languages_are_words_that_tasks_can_be_drawn_from(embedded):
    episode = next(iter(FewShot(embedded["languages"].split("test"), ways=3, meta_batch=1)))
    assert episode.support_x.dtype == tf.string
    assert all(len(word) for word in episode.query_x[0].numpy())


@pytest.mark.parametrize("name", ["gluphs", ""])
def test_an_unknown_name_is_answered_with_those_that_exist(name):
    with pytest.raises(
        ValueError, match=f"no data set {name!r}.*glyphs, hanzi, fashion, languages, omniglot.*cifar100"
    ):
        load(name)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": None}, "name must be a string; got None"),
        ({"name": ["glyphs"]}, r"name must be a string; got \['glyphs'\]"),
        ({"name": "glyphs", "data_dir": 3}, "data_dir must be a path; got 3"),
        ({"name": "mnist", "data_dir": ["a"]}, r"data_dir must be a path; got \['a'\]"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        load(**wrong)


@pytest.mark.parametrize("name", ["omniglot", "mnist"])
def test_without_a_network_a_set_to_be_fetched_says_how_and_touches_nothing(tmp_path, offline, monkeypatch, name):
    def download(builder, **_):
        raise AssertionError("A download was attempted.")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    with pytest.raises(ConnectionError) as raised:
        load(name, data_dir=tmp_path)
    told = str(raised.value)
    assert f"{NOWHERE} cannot be reached" in told and f"({datasets.SOURCES[name].megabytes} MB)" in told
    assert f"python -c \"import meta_keras; meta_keras.load('{name}')\"" in told
    assert f"copy its ~/tensorflow_datasets/{name} into {tmp_path}, or" in told
    assert list(tmp_path.iterdir()) == []


def test_with_a_network_the_size_is_said_before_the_download(stands_in, monkeypatch, caplog):
    builder = stands_in({"train": rows([0], (2, 2, 1)), "test": rows([0], (2, 2, 1))}, prepared=False)
    monkeypatch.setattr(datasets, "reachable", lambda site: site == datasets.SOURCES["mnist"].site)
    said = []
    monkeypatch.setattr(builder, "download_and_prepare", lambda: said.extend(caplog.messages))
    with caplog.at_level(logging.WARNING, logger="meta_keras"):
        assert len(load("mnist")) == 1
    assert said == [f"Downloading mnist: 11 MB from {datasets.SOURCES['mnist'].site}, into {builder.data_dir}"]


def test_a_set_is_downloaded_once(stands_in, monkeypatch):
    builder = stands_in({"train": rows([0], (2, 2, 1)), "test": rows([0], (2, 2, 1))}, prepared=False)
    monkeypatch.setattr(datasets, "reachable", lambda site: True)
    load("mnist")
    load("mnist")
    assert builder.downloads == 1


def test_a_prepared_set_keeps_its_images_labels_and_parts(stands_in, offline):
    stands_in({"train": rows([3, 1, 3], (28, 28, 1)), "test": rows([1], (28, 28, 1))})
    pool = load("mnist")
    assert pool.names == ("label 1", "label 3") and pool.counts.tolist() == [2, 2]
    assert pool.examples.dtype == np.uint8 and pool.examples[:, 5, 5, 0].tolist() == [10, 10, 30, 30]
    assert pool.split("test").examples.shape == (1, 28, 28, 1) and pool.groupings == {}


def test_omniglot_is_bright_on_dark_small_and_grouped_by_alphabet(stands_in, offline):
    paper = np.full((3, 105, 105, 3), 255, np.uint8)
    paper[:, :, :52] = 0  # ink on the left
    train = {"image": paper[:2], "label": np.int64([5, 0]), "alphabet": np.int64([7, 2])}
    test = {"image": paper[2:], "label": np.int64([9]), "alphabet": np.int64([1])}
    stands_in({"train": train, "test": test}, groups=["alphabet"])
    pool = load("omniglot")
    assert pool.examples.shape == (3, 28, 28, 1) and pool.examples.dtype == np.uint8
    assert (pool.examples[:, :, :12] == 255).all() and (pool.examples[:, :, 16:] == 0).all()
    assert dict(zip(pool.names, pool.groupings["alphabet"], strict=True)) == {
        "label 0": "alphabet 2",
        "label 5": "alphabet 7",
        "label 9": "alphabet 1",
    }
    assert pool.split("test").names == ("label 9",)


def test_cifar100_is_grouped_by_superclass(stands_in, offline):
    train = rows([4, 2, 4], (32, 32, 3), coarse_label=np.int64([1, 0, 1]))
    test = rows([2, 4], (32, 32, 3), coarse_label=np.int64([0, 1]))
    stands_in({"train": train, "test": test}, groups=["coarse_label"])
    pool = load("cifar100")
    assert pool.names == ("label 2", "label 4") and pool.examples.shape == (5, 32, 32, 3)
    assert pool.groupings == {"superclass": ("coarse_label 0", "coarse_label 1")}


@pytest.mark.parametrize("fault", [tf.errors.DataLossError(None, None, "truncated"), FileNotFoundError("gone")])
def test_a_prepared_set_that_cannot_be_read_is_told_how_to_be_mended(stands_in, offline, monkeypatch, fault):
    def as_dataset(**_):
        raise fault

    builder = stands_in({})
    monkeypatch.setattr(builder, "as_dataset", as_dataset)
    with pytest.raises(
        ValueError, match="cannot be read, because.*Remove that folder and load the data set again"
    ) as raised:
        load("mnist")
    assert builder.data_dir in str(raised.value)


@pytest.mark.parametrize("site", [NOWHERE, "http://name.invalid/"])
def test_a_site_that_does_not_answer_is_not_reachable(site, monkeypatch):
    monkeypatch.setattr(datasets, "SECONDS_TO_WAIT", 1.0)
    assert datasets.reachable(site) is False
