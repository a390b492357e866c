"""Make data/languages.npz: 38 languages, 200 names of countries, currencies, months and the like in each.

Run `.venv/bin/python data/make/languages.py`.

The names are those of Unicode's CLDR, as distributed with the package babel. A name that two of the languages
share is excluded, so that every name belongs to exactly one language.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections import Counter

import numpy as np
from pack import describe, save

try:
    from babel import Locale
except ImportError:
    raise SystemExit("The names come from the package babel, which is missing. Fix: `pip install babel`") from None

SEED = 0
NAMES_PER_LANGUAGE = 200
SHORTEST_NAME = 6
# Every split has languages of several families. Most test languages have a relative in training, as Danish has
# Swedish; Vietnamese has none.
SPLITS = {
    "train": "en de nl sv af fr es it ro ca pl cs sl lt fi hu tr uz id sw mt ga eu so",
    "validation": "lb gl sk et sq zu",
    "test": "da is pt hr lv az vi cy",
}


def is_plain(name: str) -> bool:
    """Whether a name is long enough to show its language, and in Latin letters and simple punctuation."""
    latin = (unicodedata.name(character, "").startswith("LATIN") for character in name if character not in " '-().")
    return len(name) >= SHORTEST_NAME and all(latin)


def names_in(code: str) -> set[str]:
    """All usable names that babel knows in one language, in lower case, because capitals would reveal German."""
    locale = Locale.parse(code)
    found = [*locale.territories.values(), *locale.languages.values(), *locale.currencies.values()]
    for form in ("format", "stand-alone"):
        found += locale.days[form]["wide"].values()
    found += locale.months["format"]["wide"].values()
    return {name.lower() for name in found if is_plain(name)}


def choose(code: str, names: list[str]) -> list[str]:
    """The language's 200 names, drawn at random from all that it has."""
    if len(names) < NAMES_PER_LANGUAGE:
        raise SystemExit(
            f"{NAMES_PER_LANGUAGE} names are needed per language; '{code}' has {len(names)} of its own. "
            "Another version of babel may have more: data/README.md says which one was used."
        )
    order = np.random.default_rng([SEED, zlib.crc32(code.encode())]).permutation(len(names))
    return [names[position] for position in order[:NAMES_PER_LANGUAGE]]


def main() -> None:
    split_of = {code: split for split, codes in SPLITS.items() for code in codes.split()}
    names = {code: names_in(code) for code in split_of}
    owners = Counter(name for found in names.values() for name in found)
    examples: list[str] = []
    for code, found in names.items():
        examples += choose(code, sorted(name for name in found if owners[name] == 1))

    english = Locale.parse("en").languages
    path = save(
        "languages",
        examples=np.array(examples),
        labels=np.repeat(np.arange(len(names), dtype=np.int32), NAMES_PER_LANGUAGE),
        names=np.array([english[code] for code in names]),
        splits=np.repeat(list(split_of.values()), NAMES_PER_LANGUAGE),
    )
    print(describe(path))


if __name__ == "__main__":
    main()
