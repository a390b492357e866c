"""Badges that open a chapter on Colab or Binder. They need the repository's address, which pyproject.toml may have."""

import press

COLAB, BINDER = "https://colab.research.google.com/github", "https://mybinder.org/v2/gh"
BRANCH = "main"


def badges(name: str) -> list[str]:
    """Links for a chapter such as 10_maml; none if the address is not set or is not on GitHub."""
    address = press.repository()
    if not address.startswith("https://github.com/"):
        return []
    project = address.removeprefix("https://github.com/").removesuffix(".git").strip("/")
    path = f"chapters/{name}.ipynb"
    return [
        f'<a class="badge" href="{COLAB}/{project}/blob/{BRANCH}/{path}">Open in Colab</a>',
        f'<a class="badge" href="{BINDER}/{project}/{BRANCH}?labpath={path}">Open in Binder</a>',
    ]
