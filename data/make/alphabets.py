"""The 26 alphabets of the synthetic glyphs: their characters in Unicode, and their split.

The order is that of precedence: a shape that several alphabets share is assigned to the first of them. The test
and most validation alphabets are near the top, so that they lose few characters. Hebrew is even before Latin,
which would otherwise take a third of its letters.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

SANS_MONO_SERIF = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif")
STIX = ("STIXGeneral", "STIXGeneralBol")


@dataclass(frozen=True)
class Alphabet:
    """A named list of characters, all of them in the same split.

    `ranges` are code points in hexadecimal, ends included: "41-5A 61-7A" is A to Z and a to z.
    `faces` are the fonts that draw the characters, the leading one first.
    """

    name: str
    split: str
    ranges: str
    faces: tuple[str, ...] = SANS_MONO_SERIF

    def characters(self) -> list[str]:
        """The letters, digits and symbols in the ranges that are not compositions of simpler characters."""
        found = []
        for part in self.ranges.split():
            first, _, last = part.partition("-")
            found += [chr(code) for code in range(int(first, 16), int(last or first, 16) + 1)]
        return [character for character in found if is_elementary(character)]


def is_elementary(character: str) -> bool:
    """Whether Unicode calls the character a letter, number or symbol and not a composition, as é is."""
    # A decomposition in <brackets> only says that the character is a styled form of another: 𝔄 is a <font> A.
    decomposition = unicodedata.decomposition(character)
    return unicodedata.category(character)[0] in "LNS" and (not decomposition or decomposition[0] == "<")


ALPHABETS = (
    Alphabet("Hebrew", "validation", "5D0-5EA"),
    Alphabet("Latin", "train", "41-5A 61-7A 30-39"),
    Alphabet("Greek and Coptic", "test", "391-3A9 3B1-3C9 3D0-3FF"),
    Alphabet("Armenian", "test", "531-556 561-587"),
    Alphabet("Georgian", "test", "10D0-10FA 10A0-10C5 2D00-2D25"),
    Alphabet("Tifinagh", "test", "2D30-2D67"),
    Alphabet("N'Ko", "test", "7C0-7EA"),
    Alphabet("Lao", "test", "E81-EB0 EBD EC0-EC4 ED0-ED9"),
    # U+0640 is excluded because it is not a letter but the bar that stretches a word.
    Alphabet("Arabic", "validation", "621-63F 641-64A 671-6D3"),
    Alphabet("Ogham and Old Italic", "validation", "1680-169A 10300-10323"),
    Alphabet("Cyrillic", "train", "400-45F 460-481"),
    Alphabet("Cyrillic extended", "train", "48A-52F A640-A66E"),
    Alphabet("Latin extended and Lisu", "train", "180-24F 2C60-2C7F A720-A7FF A4D0-A4F7"),
    # U+1D26 to 1D2A are excluded because they are Greek letters, which are in another split.
    Alphabet("Phonetic letters", "train", "250-2AF 1D00-1D25 1D6B-1D9A"),
    Alphabet("Canadian syllabics, vowels to K", "train", "1401-1488"),
    Alphabet("Canadian syllabics, C to L", "train", "1489-14EA"),
    Alphabet("Canadian syllabics, S to Z", "train", "14EB-1676"),
    Alphabet("Fraktur", "train", "1D504-1D537 212D 210C 2111 211C 2128", STIX),
    Alphabet("Script", "train", "1D49C-1D4CF 210A 210B 2110 2112 211B 212C 212F-2131 2133 2134", STIX),
    Alphabet(
        "Double-struck",
        "train",
        "1D538-1D56B 2102 210D 2115 2119 211A 211D 2124",
        ("STIXGeneral", "DejaVuSans"),
    ),
    Alphabet("Mathematical operators", "train", "2200-22FF"),
    Alphabet("More mathematical operators", "train", "27C0-27EF 2A00-2AFF"),
    Alphabet("APL", "train", "2336-237A"),
    # Unicode keeps some Fraktur, script and double-struck letters among these signs; they are listed above.
    # U+2135 to 2138 and 213C to 213F are excluded: Hebrew and Greek letters, which are in other splits.
    Alphabet(
        "Currency and letterlike signs",
        "train",
        "20A0-20B9 2100 2101 2103-2109 210E 210F 2113 2114 2116-2118 211E-2123 2125-2127 2129-212B 212E 2132 "
        "2139-213B 2140-214F",
    ),
    Alphabet("Signs and tetragrams", "train", "2609-2653 2669-266F 2690-26B2 26E2 1D300-1D356"),
    Alphabet("Braille", "validation", "2801-28FF"),
)
