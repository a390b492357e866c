"""Make data/hanzi.npz: 3,755 common Chinese characters in three typefaces, as images with one bit per pixel.

Run `.venv/bin/python data/make/hanzi.py`, optionally followed by the folder of the fonts.

The characters are the first level of GB 2312, which orders them by pronunciation. The split is by the first letter of
the pronunciation in Latin letters (pinyin), because characters with a common part often sound alike, as 青, 清 and 情.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from pack import describe, save
from PIL import Image, ImageDraw, ImageFont

FOLDER = Path("/usr/share/fonts")
# The file of each typeface below the folder, and the number of its variant for simplified Chinese in that file.
TYPEFACES = {
    "serif": ("opentype/noto/NotoSerifCJK-Regular.ttc", 2),
    "sans": ("opentype/noto/NotoSansCJK-Regular.ttc", 2),
    "kai": ("truetype/lxgw-wenkai/LXGWWenKai-Regular.ttf", 0),
}
# The first character of GB 2312 whose pronunciation begins with each letter; no syllable begins with i, u or v.
FIRST = dict(zip("abcdefghjklmnopqrstwxyz", "啊芭擦搭蛾发噶哈击喀垃妈拿哦啪期然撒塌挖昔压匝", strict=True))
SPLITS = dict.fromkeys("abcdefghjklmnopqrstw", "train") | {"x": "validation", "y": "test", "z": "test"}
DRAWN, LONGER_SIDE, SIZE = 200, 26, 28


def characters() -> list[str]:
    """The first level of GB 2312: rows 16 to 55 of 94 characters each, except that the last row has 89."""
    codes = [bytes([row + 0xA0, cell + 0xA0]) for row in range(16, 56) for cell in range(1, 95)]
    return [code.decode("gb2312") for code in codes[:-5]]


def initials(names: list[str]) -> list[str]:
    starts = [names.index(character) for character in FIRST.values()]
    return [list(FIRST)[number - 1] for number in np.searchsorted(starts, np.arange(len(names)), side="right")]


def fonts(folder: Path) -> list[ImageFont.FreeTypeFont]:
    """The typefaces, from files in this folder."""
    for file, _ in TYPEFACES.values():
        if not (folder / file).exists():
            raise SystemExit(
                f"{folder / file} is missing. Fix: `apt install fonts-noto-cjk fonts-lxgw-wenkai`, or name the folder "
                "that holds these fonts:\n    .venv/bin/python data/make/hanzi.py FOLDER"
            )
    return [ImageFont.truetype(folder / file, DRAWN, index=number) for file, number in TYPEFACES.values()]


def draw(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """bool (28, 28): the character, cropped, centered and reduced."""
    canvas = Image.new("L", (2 * DRAWN, 2 * DRAWN))
    ImageDraw.Draw(canvas).text((DRAWN, DRAWN), character, fill=255, font=font, anchor="mm")
    return reduced(np.asarray(canvas) / 255)


def reduced(ink: np.ndarray) -> np.ndarray:
    """bool (28, 28): a drawing with values from 0 to 1, cropped, centered and reduced.

    The result for a rotated drawing is exactly the rotated result. Otherwise, a network could read how an image was
    rotated from traces of the reduction.
    """
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    tight = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    down, across = (means(length, max(tight.shape)) for length in tight.shape)
    return np.pad(down @ tight @ across.T, (SIZE - LONGER_SIDE) // 2).round(6) >= 0.5


def means(length: int, side: int) -> np.ndarray:
    """(26, length) the matrix that averages a line of pixels, in the middle of a longer one, over 26 equal pieces."""
    edges = length / 2 + side * (np.arange(LONGER_SIDE + 1) / LONGER_SIDE - 0.5)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(overlap, 0) * LONGER_SIDE / side


def main() -> None:
    parser = argparse.ArgumentParser(description="Make data/hanzi.npz from fonts.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: %(default)s")
    folder = parser.parse_args().folder

    typefaces, names = fonts(folder), characters()
    images = np.array([[draw(name, font) for font in typefaces] for name in names])
    groups = initials(names)
    path = save(
        "hanzi",
        bits=np.packbits(images.reshape(-1, SIZE * SIZE), axis=1),
        shape=np.array([SIZE, SIZE]),
        labels=np.repeat(np.arange(len(names), dtype=np.int32), len(typefaces)),
        names=np.array(names),
        splits=np.repeat([SPLITS[group] for group in groups], len(typefaces)),
        groups=np.array(groups),
        grouping=np.array("initial"),
    )
    print(describe(path))


if __name__ == "__main__":
    main()
