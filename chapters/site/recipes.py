"""Answers to "How do I ...?", from recipes.md. Its programs are complete, and tests/test_site_pages.py runs them."""

import re
from pathlib import Path

import links

SOURCE = Path(__file__).with_name("recipes.md")


def pages() -> dict[str, str]:
    """The page of recipes, with links to the reference. The search finds a question by its last words."""
    text = re.sub(r"^## How do I (.+)\?$", r"\g<0>\n\n```{index} ! single: \1\n```", _source(), flags=re.MULTILINE)
    return {"recipes": links.link_text(text, {})}


def programs() -> dict[str, str]:
    """The program of each recipe, by its question."""
    recipe = re.compile(r"^## (.+?)\n.*?```python\n(.*?)```", re.DOTALL | re.MULTILINE)
    return dict(recipe.findall(_source()))


def _source() -> str:
    return SOURCE.read_text(encoding="utf-8")
