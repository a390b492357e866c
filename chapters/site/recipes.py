"""Answers to "How do I ...?", from recipes.md. Its programs are complete, and tests/test_site_pages.py runs them."""

import re
from pathlib import Path

import links

SOURCE = Path(__file__).with_name("recipes.md")


def pages() -> dict[str, str]:
    """The page of recipes, with links to the reference."""
    return {"recipes": links.link_text(SOURCE.read_text(encoding="utf-8"), {})}


def programs() -> dict[str, str]:
    """The program of each recipe, by its question."""
    recipe = re.compile(r"^## (.+?)\n.*?```python\n(.*?)```", re.DOTALL | re.MULTILINE)
    return dict(recipe.findall(SOURCE.read_text(encoding="utf-8")))
