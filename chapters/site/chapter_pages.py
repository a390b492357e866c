"""The page of a chapter: its stored notebook with a map, links, collapsed outputs and descriptions of figures."""

import ast
import re
from collections.abc import Iterator, Mapping

import book_map
import links
import press
from badges import badges
from nbformat import NotebookNode
from project_links import IMAGE, Files, rewritten

LONGEST_OUTPUT = 12
# The arguments and methods of matplotlib that name something in a figure.
ROLES = dict.fromkeys(("xlabel", "set_xlabel", "supxlabel"), "Horizontal axis")
ROLES |= dict.fromkeys(("ylabel", "set_ylabel", "supylabel"), "Vertical axis")
ROLES |= dict.fromkeys(("title", "set_title", "suptitle", "label"), "Labels")
KINDS = {
    "show_episode": "Images of a task",
    "imshow": "Images",
    "contourf": "Contour plot",
    "pcolormesh": "Heat map",
    "barh": "Bar chart",
    "bar": "Bar chart",
    "scatter": "Scatter plot",
    "hist": "Histogram",
}
PICTURES = ("show_episode", "imshow", "contourf", "pcolormesh")


def page(notebook: NotebookNode, name: str, files: Files) -> NotebookNode:
    """Change an executed notebook to the page of the chapter `name`, such as 10_maml."""
    notebook.cells = [cell for cell in notebook.cells if not press.is_setup(cell)]
    links.link_chapter(notebook, name[:2])
    pictures = [cell for cell in notebook.cells if "picture" in cell.metadata]
    kinds = {f"{cell.metadata['picture']}.png": kind(cell.source) for cell in pictures}
    opening = {target: text for text, target in IMAGE.findall(notebook.cells[0].source)}
    section = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = (re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE) or [section])[-1]
            text = rewritten(cell.source, press.CHAPTERS, f"chapters/{name}", files)
            cell.source = IMAGE.sub(lambda match: f"{match[0]}{{.{kinds.get(match[2], 'plot')}}}", text)
        else:
            _collapse(cell)
            _describe(cell, opening, section)
            _highlight(cell)
    first = notebook.cells[0]
    heading, _, rest = first.source.partition("\n")
    title = heading.lstrip("# ")
    found = f"```{{index}} ! single: {title.partition(':')[0]}\n```"  # the search finds the chapter by its short title
    first.source = f"# {name[:2]} {title}\n\n{_top(name)}\n{found}\n{rest}"
    return notebook


def _top(name: str) -> str:
    """What follows the heading: where the chapter belongs in the book, and where to get it as a notebook."""
    download = f'<a class="download" href="../notebooks/{name}.ipynb" download>Download this chapter as a notebook</a>'
    return f'{book_map.both(name[:2], "../")}\n\n<p class="get-notebook">{" ".join([download, *badges(name)])}</p>\n'


def _collapse(cell: NotebookNode) -> None:
    """Hide long printed outputs, and outputs that Jupyter hides too, until the reader opens them."""
    lines = sum(output.text.count("\n") for output in cell.outputs if output.output_type == "stream")
    if lines > LONGEST_OUTPUT or cell.metadata.get("jupyter", {}).get("outputs_hidden"):
        cell.metadata.setdefault("tags", []).append("hide-output")


def _describe(cell: NotebookNode, opening: Mapping[str, str], section: str) -> None:
    """Give the figure of a cell an alternative text, and say whether dark mode may invert it.

    opening: the alternative texts of the images at the beginning of the chapter, which a cell further below draws.
    """
    if any("image/png" in output.get("data", {}) for output in cell.outputs):
        drawn = opening.get(f"{cell.metadata.get('picture')}.png")
        text = cell.metadata.get("alt") or drawn or alternative(cell.source, section)
        cell.metadata["mystnb"] = {"image": {"alt": text, "classes": kind(cell.source)}}


def _highlight(cell: NotebookNode) -> None:
    """Show source code in an output as the site shows all code, and not with the colors of the notebook."""
    for output in cell.outputs:
        data = output.get("data", {})
        if 'class="output_html"' in data.get("text/html", ""):
            output.data = NotebookNode({"text/markdown": f"```python\n{data['text/plain'].strip()}\n```"})


def kind(code: str) -> str:
    """`picture` for a figure that shows images or colors that stand for values, which must stay, or `plot`."""
    return "picture" if any(name in PICTURES for name, _ in _calls(code)) else "plot"


def alternative(code: str, section: str) -> str:
    r"""What a figure shows, in words, from the code that draws it.

    >>> alternative('plt.plot(x, y, label="MAML")\nplt.gca().set(xlabel="steps", ylabel="$L_Q$")', "Training")
    'Line plot in the section “Training”. Horizontal axis: steps. Vertical axis: L_Q. Labels: MAML.'
    """
    calls = list(_calls(code))
    names = {name for name, _ in calls}
    what = next((what for name, what in KINDS.items() if name in names), "Line plot")
    found: dict[str, dict[str, None]] = {role: {} for role in ("Horizontal axis", "Vertical axis", "Labels")}
    for name, text in (pair for _, pairs in calls for pair in pairs):
        if name in ROLES and text:
            found[ROLES[name]][re.sub(r"[$\\{}]", "", text)] = None
    parts = [f"{role}: {', '.join(texts)}." for role, texts in found.items() if texts]
    return " ".join([f"{what} in the section “{section}”.", *parts])


def _calls(code: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The name of each called function or method, and its texts: keyword arguments, or the first argument."""
    for node in ast.walk(ast.parse(re.sub(r"^%.*$", "", code, flags=re.MULTILINE))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        pairs = [(keyword.arg or "", _text(keyword.value)) for keyword in node.keywords]
        yield name, [*pairs, *((name, _text(argument)) for argument in node.args[:1])]


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
