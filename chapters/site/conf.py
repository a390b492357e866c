"""Sphinx' settings of the website. build.py adds the language and what depends on it."""

from pathlib import Path

import mathjax

# Not `__file__`, which the package does not have in its oldest supported version.
MATHJAX = Path(*mathjax.__path__) / "static" / "mathjax" / "es5" / "tex-svg.js"

project = html_title = "Meta-learning in Keras"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx.ext.mathjax"]
exclude_patterns = ["_extra"]
templates_path = ["templates"]
smartquotes = False
copyright = "the meta_keras authors, Apache-2.0"

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show the code and its output"
nb_output_prompt_show = "Show the output"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# One file with all of MathJax, which draws with paths and loads no fonts. Without its menu, formulas do not stop the
# tab key.
mathjax_path = MATHJAX.name
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}

html_theme = "furo"
pygments_dark_style = "github-dark"
html_static_path = ["static", str(MATHJAX)]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_favicon = "static/icon.svg"
html_use_index = html_domain_indices = False
html_copy_source = False
html_show_sphinx = False
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "language.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#14213d", "color-brand-content": "#0b5e66"},
    "dark_css_variables": {"color-brand-primary": "#a5cde8", "color-brand-content": "#7cc7cf"},
    "top_of_page_buttons": [],
}
