"""Writing an embedded data set: the same arrays give the same bytes, and their checksum is stored."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

DATA_FOLDER = Path(__file__).resolve().parents[1]
CHECKSUMS = "SHA256SUMS"


def check(arrays: dict[str, np.ndarray]) -> None:
    """Raise a ValueError if the arrays violate the schema that all embedded sets share."""
    rows, classes = len(arrays["labels"]), len(arrays["names"])
    per_row = {name: len(arrays[name]) for name in ("examples", "bits", "splits") if name in arrays}
    per_class = {"groups": len(arrays["groups"])} if "groups" in arrays else {}
    for expected, lengths in ((rows, per_row), (classes, per_class)):
        for name, length in lengths.items():
            if length != expected:
                raise ValueError(f"'{name}' should hold {expected} entries; it holds {length}")
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"'{name}' holds Python objects, which only a pickle could store")
    labels = arrays["labels"]
    if (np.diff(labels) < 0).any() or not np.array_equal(np.unique(labels), np.arange(classes)):
        raise ValueError(f"'labels' should go from 0 to {classes - 1} in order, without gaps")
    if len(np.unique(arrays["names"])) != classes:
        raise ValueError(f"{classes} classes have {len(np.unique(arrays['names']))} different names")


def refresh_checksum(path: Path) -> str:
    """Put the file's SHA-256 in the list beside it, in the form that `sha256sum -c` reads, and return it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    listing = path.parent / CHECKSUMS
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    entries = {line.split(maxsplit=1)[1]: line for line in lines if line.strip()}
    entries[path.name] = f"{digest}  {path.name}"
    text = "".join(entries[name] + "\n" for name in sorted(entries))
    listing.write_text(text, encoding="utf-8", newline="\n")
    return digest


def save(name: str, folder: Path = DATA_FOLDER, **arrays: np.ndarray) -> Path:
    """Check the arrays, write them as `folder`/`name`.npz, refresh its checksum, and return its path.

    numpy dates every member of the archive 1 January 1980, so the bytes depend on the arrays and their order
    alone (and on the version of zlib that packs them).
    """
    check(arrays)
    path = folder / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    refresh_checksum(path)
    return path


def describe(path: Path) -> str:
    """One line about a written data set: its size, rows, classes, and the rows of each split."""
    with np.load(path) as archive:
        rows, classes, splits = len(archive["labels"]), len(archive["names"]), archive["splits"]
    names, counts = np.unique(splits, return_counts=True)
    parts = ", ".join(f"{count:,} {name}" for name, count in zip(names, counts, strict=True))
    return f"{path.name}: {path.stat().st_size:,} bytes, {rows:,} rows in {classes:,} classes ({parts})"
