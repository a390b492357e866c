"""Results that take too long for a chapter: measured by a script in benchmarks/, and stored with the project's data."""

import json
from typing import Any

from meta_keras import checks
from meta_keras.embedded import embedded_folder


def measured(name: str) -> dict[str, Any]:
    """The stored results of benchmarks/<name>.py, by their keys.

    Scripts measure several seeds and training budgets; a chapter repeats one of them and plots it next to these.

    >>> measured("chapter_10")["selected: pretraining, 1 step"]["outer"]
    0.003
    >>> measured("chapter_99")
    Traceback (most recent call last):
    ...
    ValueError: There are no stored results 'chapter_99'; there are ...
    """
    checks.text(name=name)
    folder = embedded_folder() / "results"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if name not in known:
        raise ValueError(f"There are no stored results {name!r}; there are {', '.join(known) or 'none'}.")
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["results"]
