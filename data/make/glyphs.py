"""Make data/glyphs.npz: synthetic handwriting, 1,201 characters of 26 alphabets, each drawn by 20 writers.

Run `.venv/bin/python data/make/glyphs.py`; it takes half a minute.

All drawings are generated. Their shapes come from the fonts that are distributed with matplotlib, thinned to
their center lines. Each synthetic writer has a slant, a size and a pen for an alphabet, and each drawing is
distorted in its own way. Everything is determined by one seed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from alphabets import ALPHABETS, Alphabet
from pack import describe, save
from strokes import blur, centred_points, draw, fill, outline, restore_dots, thin

SEED = 0
CHARACTERS = 1201
WRITERS = 20
SIDE = 28
# A character needs at least three dots; characters of one or two would differ only in their position.
FEWEST_PIXELS = 27
# The thinnest pen is just over half a pixel: at one bit, a finer line would break between pixel centers.
PEN_RADIUS = (0.55, 0.95)


@dataclass
class Master:
    """A character to draw: its skeleton in each face, as points centered on zero."""

    character: str
    alphabet: Alphabet
    skeletons: list[np.ndarray]


@dataclass
class Hand:
    """The properties that a writer's drawings of one alphabet share."""

    slant: float
    size: float
    aspect: float
    turn: float
    pen_radius: float


def masters_of(alphabet: Alphabet) -> list[Master]:
    """Every character of the alphabet that one of its faces can draw, thinned to a skeleton in each face."""
    owners, masks = [], []
    for character in alphabet.characters():
        for face in alphabet.faces:
            shape = outline(face, character)
            if shape is not None:
                owners.append(character)
                masks.append(fill(shape))
    skeletons: dict[str, list[np.ndarray]] = {}
    for character, mask, skeleton in zip(owners, masks, thin(np.stack(masks)), strict=True):
        whole = restore_dots(mask, skeleton)
        if whole.sum() >= FEWEST_PIXELS:
            skeletons.setdefault(character, []).append(centred_points(whole))
    return [Master(character, alphabet, points) for character, points in skeletons.items()]


def similarities(masters: list[Master]) -> np.ndarray:
    """The correlation of every pair of characters, as blurred drawings of their first face."""
    drawings = [draw(master.skeletons[0] * 20 + SIDE / 2, radius=1.0) for master in masters]
    rows = blur(np.stack(drawings)).reshape(len(masters), -1)
    rows -= rows.mean(1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def least_similar(masters: list[Master], count: int) -> tuple[list[Master], float]:
    """The `count` characters that remain if the later of the two most similar ones is removed repeatedly.

    Also returns the similarity of the last pair that was separated; no two remaining characters are more similar.
    A count instead of a threshold makes the size of the set exact.
    """
    pairs = np.triu(similarities(masters), k=1)
    kept = np.ones(len(masters), bool)
    limit = 1.0
    for position in np.argsort(-pairs, axis=None, kind="stable"):
        if kept.sum() == count:
            break
        earlier, later = np.unravel_index(position, pairs.shape)
        if kept[earlier] and kept[later]:
            kept[later] = False
            limit = float(pairs[earlier, later])
    return [master for master, keep in zip(masters, kept, strict=True) if keep], limit


def hand_of(writer: int, alphabet: Alphabet) -> Hand:
    """The handwriting of a writer for an alphabet."""
    rng = np.random.default_rng([SEED, 1, zlib.crc32(alphabet.name.encode()), writer])
    return Hand(
        slant=rng.normal(0, 0.084),
        size=rng.uniform(0.62, 0.95),
        aspect=np.exp(rng.normal(0, 0.084)),
        turn=rng.normal(0, 0.028),
        pen_radius=rng.uniform(*PEN_RADIUS),
    )


def bend(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The points displaced by six waves of low frequency, which bend strokes without breaking them."""
    frequencies = rng.normal(0, 0.55, (6, 2))
    phases = rng.uniform(0, 2 * np.pi, 6)
    # Waves of higher frequency get a smaller amplitude, so that none of them folds a stroke over itself.
    heights = rng.normal(0, 0.07, (6, 2)) / (1 + 2 * np.linalg.norm(frequencies, axis=1, keepdims=True))
    return points + np.sin(2 * np.pi * points @ frequencies.T + phases) @ heights


def tilt(points: np.ndarray, hand: Hand, rng: np.random.Generator) -> np.ndarray:
    """The points slanted, stretched and rotated by the hand, plus small random changes; centered again."""
    turn = hand.turn + rng.normal(0, 0.056)
    slant = hand.slant + rng.normal(0, 0.056)
    aspect = hand.aspect * np.exp(rng.normal(0, 0.07))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    tilted = points @ (rotation @ np.array([[aspect, -slant], [0, 1 / aspect]])).T
    return tilted - (tilted.min(0) + tilted.max(0)) / 2


def place(points: np.ndarray, hand: Hand, rng: np.random.Generator) -> np.ndarray:
    """The points in pixels: at the hand's size, near the middle and never over the edge."""
    scale = hand.size * 21 * np.exp(rng.normal(0, 0.07))
    scale = min(scale, (SIDE - 3) / max(np.ptp(points, axis=0).max(), 1e-6))
    room = np.maximum((SIDE - 2 - np.ptp(points, axis=0) * scale) / 2, 0)
    return points * scale + SIDE / 2 + np.clip(rng.normal(0, 1.1, 2), -room, room)


def drawing(master: Master, writer: int) -> np.ndarray:
    """One writer's drawing of one character: a boolean (28, 28)."""
    hand = hand_of(writer, master.alphabet)
    rng = np.random.default_rng([SEED, 2, ord(master.character), writer])
    points = master.skeletons[rng.integers(len(master.skeletons))]
    points = place(tilt(bend(points, rng), hand, rng), hand, rng)
    return draw(points, hand.pen_radius, SIDE) >= 128


def all_drawings(masters: list[Master]) -> np.ndarray:
    """uint8 (characters * writers, 98): every drawing, packed at eight pixels per byte."""
    packed = []
    for done, master in enumerate(masters, start=1):
        packed += [np.packbits(drawing(master, writer)) for writer in range(WRITERS)]
        if done % 50 == 0 or done == len(masters):
            print(f"\rdrawing {done:,} of {len(masters):,} characters", end="", flush=True)
    print()
    return np.stack(packed)


def main() -> None:
    candidates = []
    for number, alphabet in enumerate(ALPHABETS, start=1):
        print(f"\rthinning alphabet {number} of {len(ALPHABETS)}", end="", flush=True)
        candidates += masters_of(alphabet)
    print()
    masters, limit = least_similar(candidates, CHARACTERS)
    path = save(
        "glyphs",
        bits=all_drawings(masters),
        shape=np.array([SIDE, SIDE], dtype=np.int64),
        labels=np.repeat(np.arange(len(masters), dtype=np.int32), WRITERS),
        names=np.array([master.character for master in masters]),
        splits=np.repeat([master.alphabet.split for master in masters], WRITERS),
        groups=np.array([master.alphabet.name for master in masters]),
        grouping=np.array("alphabet"),
    )
    print(f"{len(masters):,} of {len(candidates):,} candidates kept; no two have a similarity above {limit:.4f}")
    print(describe(path))


if __name__ == "__main__":
    main()
