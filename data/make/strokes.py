"""The geometry of handwriting: outlines to skeletons, skeletons to pen strokes.

A font contains the outline of a character, whereas a writer draws along its center line. These functions convert
one to the other with numpy and matplotlib alone: fill the outline, thin it to lines one pixel wide, and trace those
lines with a round pen.
"""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D

FONT_FOLDER = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
CANVAS = 64
MARGIN = 5
SPECK = 3


@functools.cache
def open_font(face: str) -> tuple[FT2Font, dict[int, int]]:
    """The font file of a face, and its table from code points to glyphs."""
    font = FT2Font(str(FONT_FOLDER / f"{face}.ttf"))
    font.set_size(64, 72)
    return font, font.get_charmap()


def outline(face: str, character: str) -> Outline | None:
    """The outline of a character in a face, or None if the face lacks it."""
    font, glyphs = open_font(face)
    if ord(character) not in glyphs:
        return None
    # Hinting bends outlines towards a pixel grid that the drawings never see.
    font.load_char(ord(character), flags=LoadFlags.NO_HINTING)
    vertices, codes = font.get_path()
    return Outline(vertices, codes) if len(vertices) > 2 else None


def fill(shape: Outline) -> np.ndarray:
    """A (64, 64) mask of the inside of an outline, fitted to the canvas with its proportions kept."""
    (left, bottom), (right, top) = shape.get_extents().get_points()
    longer_side = max(right - left, top - bottom)
    if not longer_side > 1e-6:
        return np.zeros((CANVAS, CANVAS), bool)
    fit = Affine2D().translate(-(left + right) / 2, -(bottom + top) / 2)
    fit = fit.scale((CANVAS - 2 * MARGIN) / longer_side).translate(CANVAS / 2, CANVAS / 2)
    renderer = RendererAgg(CANVAS, CANVAS, 72)
    style = renderer.new_gc()
    style.set_linewidth(0)
    renderer.draw_path(style, shape, fit, (0, 0, 0, 1))
    return np.asarray(renderer.buffer_rgba())[..., 3] > 127


def _removable(masks: np.ndarray, second_pass: bool) -> np.ndarray:
    """The border pixels that one pass of Zhang and Suen's rule removes."""
    clockwise = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
    neighbours = [np.roll(masks, step, (1, 2)) for step in clockwise]
    following = neighbours[1:] + neighbours[:1]
    count = np.sum(neighbours, axis=0, dtype=np.int8)
    entries = np.sum([~a & b for a, b in zip(neighbours, following, strict=True)], axis=0, dtype=np.int8)
    north, east, south, west = neighbours[::2]
    if second_pass:
        on_border = ~(north & east & west) & ~(north & south & west)
    else:
        on_border = ~(north & east & south) & ~(east & south & west)
    return masks & (count >= 2) & (count <= 6) & (entries == 1) & on_border


def thin(masks: np.ndarray) -> np.ndarray:
    """Skeletons of (count, side, side) masks: lines one pixel wide (Zhang and Suen, 1984)."""
    # The frame of empty pixels keeps np.roll from joining opposite edges.
    skeletons = np.pad(masks, ((0, 0), (1, 1), (1, 1))).astype(bool)
    changed = True
    while changed:
        changed = False
        for second_pass in (False, True):
            removed = _removable(skeletons, second_pass)
            skeletons &= ~removed
            changed = changed or bool(removed.any())
    return skeletons[:, 1:-1, 1:-1]


def parts(mask: np.ndarray) -> list[np.ndarray]:
    """The connected components of a mask, connected also by corners, each as (pixels, 2) rows and columns."""
    unvisited = {(row, column) for row, column in np.argwhere(mask).tolist()}
    pieces = []
    while unvisited:
        piece = [unvisited.pop()]
        for row, column in piece:
            around = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & unvisited
            unvisited -= around
            piece.extend(sorted(around))
        pieces.append(np.array(piece))
    return pieces


def restore_dots(mask: np.ndarray, skeleton: np.ndarray) -> np.ndarray:
    """The skeleton with a 3 x 3 block for each part of the mask that thinning erased or reduced to a speck.

    A speck could fall between the pixel centers of a drawing, and an i would then lose its dot.
    """
    restored = skeleton.copy()
    for part in parts(mask):
        rows, columns = part.T
        if skeleton[rows, columns].sum() <= SPECK:
            restored[rows, columns] = False
            row, column = np.round(part.mean(0)).astype(int)
            restored[row - 1 : row + 2, column - 1 : column + 2] = True
    return restored


def centred_points(skeleton: np.ndarray) -> np.ndarray:
    """The skeleton's pixels as (points, 2) x and y, centered on zero, the longer side of length one."""
    y, x = np.nonzero(skeleton)
    points = np.stack([x, y], axis=1).astype(float)
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) / max((high - low).max(), 1)


def draw(points: np.ndarray, radius: float, side: int = 28) -> np.ndarray:
    """A uint8 (side, side) drawing: a round pen of `radius` pixels placed on every point, with gray edges."""
    pixel_centres = np.arange(side) + 0.5
    across = (pixel_centres[:, None] - points[:, 0]) ** 2
    down = (pixel_centres[:, None] - points[:, 1]) ** 2
    distance = np.sqrt((down[:, None, :] + across[None, :, :]).min(-1))
    return (np.clip(radius + 0.5 - distance, 0, 1) * 255).astype(np.uint8)


def blur(drawings: np.ndarray) -> np.ndarray:
    """Drawings blurred by a Gaussian of one pixel, so that lines slightly apart still count as similar."""
    weights = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    weights /= weights.sum()
    softened = drawings.astype(float)
    for axis in (-1, -2):
        softened = np.apply_along_axis(np.convolve, axis, softened, weights, "same")
    return softened
