"""Sphinx' settings of the website."""

from pathlib import Path

import mathjax

project = "Meta-learning in Keras"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx.ext.mathjax"]
html_theme = "furo"
html_static_path = ["static", str(Path(mathjax.__file__).parent / "static" / "mathjax" / "es5" / "tex-svg.js")]
mathjax_path = "tex-svg.js"
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
smartquotes = False
