"""The files that come with the project: where they are, and whether they are whole."""

import hashlib
from pathlib import Path


def embedded_folder() -> Path:
    """`meta_keras/data` in an installed package, `data` beside the package in a clone."""
    package = Path(__file__).resolve().parent
    inside = package / "data"
    return inside if inside.is_dir() else package.parent / "data"


def check_whole(file: Path) -> None:
    """Compare a file with its line in the SHA256SUMS of its folder."""
    fix = "Restore it with `git checkout -- data`, or install meta_keras again."
    sums = file.parent / "SHA256SUMS"
    for needed in (file, sums):
        if not needed.is_file():
            raise FileNotFoundError(f"The data file {needed} is missing. {fix}")
    lines = [line.split() for line in sums.read_text(errors="replace").splitlines()]
    listed = [line[0] for line in lines if len(line) == 2 and line[1] == file.name]
    if len(listed) != 1:
        raise ValueError(f"{sums} has {len(listed)} lines for {file.name}, so the file cannot be verified. {fix}")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != listed[0]:
        raise ValueError(
            f"The data file {file} is truncated or altered: its SHA-256 is {found[:12]}..., but SHA256SUMS lists "
            f"{listed[0][:12]}.... {fix}"
        )
