"""load: the files of the embedded sets are compared with their checksums before they are used."""

import shutil
from pathlib import Path

import pytest

from meta_keras import load
from meta_keras.tasks import datasets

DATA = Path(datasets.__file__).resolve().parents[2] / "data"


@pytest.fixture
def copied(tmp_path):
    """A folder with the smallest embedded set, to be damaged."""
    for name in ("languages.npz", "SHA256SUMS"):
        shutil.copy(DATA / name, tmp_path)
    return tmp_path


def test_an_embedded_set_can_lie_in_another_folder(copied):
    assert len(load("languages", data_dir=copied)) == 38
    assert len(load("languages", data_dir=str(copied))) == 38


def altered(folder):
    content = bytearray((folder / "languages.npz").read_bytes())
    content[5000] ^= 1
    (folder / "languages.npz").write_bytes(content)


def truncated(folder):
    content = (folder / "languages.npz").read_bytes()
    (folder / "languages.npz").write_bytes(content[:-1])


@pytest.mark.parametrize("spoil", [altered, truncated])
def test_a_file_that_is_not_as_listed_is_refused_and_told_how_to_be_restored(copied, spoil):
    spoil(copied)
    with pytest.raises(ValueError, match=r"languages\.npz is truncated or altered: its SHA-256 is .*git checkout"):
        load("languages", data_dir=copied)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\n\n",
        b"0" * 64 + b"  other.npz",
        b"0" * 64,
        b"one two three",
        b"\xff\xfe\x00",
        b"languages.npz",
        b"a  languages.npz\n" * 2,
    ],
)
def test_a_list_of_checksums_without_this_file_is_reported(copied, garbage):
    (copied / "SHA256SUMS").write_bytes(garbage)
    with pytest.raises(
        ValueError, match=r"SHA256SUMS has [02] lines for languages\.npz, so the file cannot be verified"
    ):
        load("languages", data_dir=copied)


@pytest.mark.parametrize("missing", ["languages.npz", "SHA256SUMS"])
def test_a_missing_file_is_named(copied, missing):
    (copied / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing} is missing. Restore it with `git checkout"):
        load("languages", data_dir=copied)
