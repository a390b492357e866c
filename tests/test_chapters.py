"""The stored chapters, the tables of their guide, the exercises, and press.py, which builds them."""

import ast
import importlib.util
import json
import os
import re
import runpy
from pathlib import Path

import checks
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import press
import pytest
import solutions
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import meta_keras as mk

ROOT = Path(__file__).resolve().parents[1]
SOURCES = press.sources()
PAGES = checks.pages_with_links()
EXERCISES = [
    (source, name) for source in SOURCES for name in re.findall(r"^def (check_\w+)", source.read_text("utf-8"), re.M)
]


def checker(source, name):
    """The check of an exercise, taken from its cell."""
    cell = next(cell for cell in press.load(source).cells if f"def {name}(" in cell.source)
    scope = {"mk": mk, "np": np}
    exec(cell.source, scope)
    return scope[name]


# The stored chapters


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_chapter_is_in_order(source):
    assert checks.chapter_problems(source) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert checks.broken_links(page) == []


def test_the_tables_name_what_exists():
    assert checks.table_problems() == []
    assert len({heading for heading, _ in checks.tables()}) >= 6


def test_every_formula_is_listed_and_tested():
    assert checks.formula_problems() == []


@pytest.mark.parametrize(("source", "name"), EXERCISES)
def test_the_solution_of_an_exercise_passes(source, name, capsys):
    checker(source, name)(solutions.RIGHT[name])
    assert "Correct." in capsys.readouterr().out


@pytest.mark.parametrize(("source", "name"), EXERCISES)
def test_a_wrong_answer_to_an_exercise_is_told_why(source, name):
    with pytest.raises(AssertionError, match=r"\w"):
        checker(source, name)(solutions.WRONG[name])


def made_up_cifar(name):
    """A small CIFAR of random images; some are in both the training images and the test images of their class."""
    classes, per_class = (10, 200) if name == "cifar10" else (100, 20)
    images = np.random.default_rng(0).integers(0, 256, (classes, per_class, 32, 32, 3), dtype=np.uint8)
    if name == "cifar100":
        images[:3, -1] = images[:3, 0]
        images[5, -1] = images[6, 0]
    return mk.ClassPool.from_arrays(images.reshape(-1, 32, 32, 3), np.arange(classes).repeat(per_class))


@pytest.mark.slow
def test_chapter_03_goes_from_cifar10_to_cifar100_by_the_same_code(monkeypatch, capsys):
    monkeypatch.setattr(mk, "load", made_up_cifar)
    monkeypatch.setattr(plt, "show", plt.close)
    scope = {}
    for cell in press.load(press.sources(["03"])[0]).cells:
        small = cell.source.replace('DATASET = "glyphs"', 'DATASET = "cifar"')
        small = small.replace("5, 5, 200, 32", "2, 2, 2, 8").replace(
            "50, 100, source_steps=3000", "3, 5, source_steps=20"
        )
        if cell.cell_type == "code":
            exec(small, scope)
    assert scope["DATASET"] == "cifar" and scope["network"](100, (32, 32, 3)).output_shape == (None, 100)
    assert scope["pair"].target.counts.sum() == 2000 - 4
    printed = capsys.readouterr().out
    assert "4 of 2000 images are duplicates" in printed and "source accuracy" in printed
    assert len(re.findall(r"(?m)^[a-z -]+ minus .*\((?:higher|lower|not significantly different)\)$", printed)) == 3


@pytest.mark.parametrize(
    ("chapter", "names"),
    [
        ("03", ["network", "divide", "accuracy"]),
        ("04", ["on_canvas", "canvas_trunk", "augmented", "convolutions", "caption", "as_counts"]),
        ("05", ["correlations", "matching"]),
        ("06", ["normalized"]),
        ("09", ["with_outliers"]),
        ("13", ["network"]),
    ],
)
def test_a_chapter_and_its_measurements_use_the_same_functions(chapter, names):
    code = [cell.source for cell in press.load(press.sources([chapter])[0]).cells if cell.cell_type == "code"]
    script = (ROOT / "benchmarks" / f"chapter_{chapter}.py").read_text("utf-8")
    for name in names:
        in_chapter, in_script = (function_of(text, name) for text in ("\n".join(code), script))
        assert in_chapter == in_script


def function_of(text, name):
    """What a function does, without its docstring and the types of its arguments."""
    found = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name)
    body = found.body[1:] if ast.get_docstring(found) else found.body
    return [ast.unparse(node) for node in body]


def shown_sources():
    """The library code that the stored chapters show."""
    for source in SOURCES:
        for cell in nbformat.read(press.stored_at(source, "en"), as_version=4).cells:
            if cell.cell_type == "code" and "inspect.getsource(" in cell.source:
                (output,) = cell.outputs
                yield output["data"]["text/plain"]


def test_code_that_chapters_show_is_the_librarys_as_it_stands():
    library = "".join(file.read_text("utf-8") for file in (ROOT / "meta_keras").glob("**/*.py"))
    shown = list(shown_sources())
    assert len(shown) >= 8
    assert [code for code in shown if code.strip() not in library] == []


@pytest.mark.slow
def test_the_readme_example_runs_as_printed(tmp_path, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.S)[1]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    file = tmp_path / "example.py"
    file.write_text(example, encoding="utf-8")
    runpy.run_path(str(file))
    assert float(re.search(r"accuracy (0\.\d+) ± 0\.\d+", capsys.readouterr().out)[1]) > 0.6


def test_the_readmes_results_are_those_of_the_chapters_and_the_record():
    stored = "".join(press.stored_at(source, "en").read_text("utf-8") for source in SOURCES)
    stored += (ROOT / "benchmarks" / "results" / "quality.json").read_text("utf-8")
    printed = re.findall(r"\d\.\d+ ± \d\.\d+", (ROOT / "README.md").read_text("utf-8"))
    assert len(printed) >= 6
    assert [result for result in printed if result not in stored] == []
    shares = re.findall(r"\d+ of 40", (ROOT / "README.md").read_text("utf-8"))
    assert shares and [share for share in shares if share not in stored] == []


def test_the_readmes_speeds_are_those_of_the_record():
    record = json.loads((ROOT / "benchmarks" / "results" / "episodes.json").read_text("utf-8"))["results"]["plain"]
    text = (ROOT / "README.md").read_text("utf-8")
    for meta_batch in ("1", "4", "32"):
        assert f"{record[meta_batch]['median']:,}" in text


def test_the_readmes_times_of_training_are_those_of_the_record():
    parts = json.loads((ROOT / "benchmarks" / "results" / "speed.json").read_text("utf-8"))["parts"]
    text = (ROOT / "README.md").read_text("utf-8")
    text = text[text.index("### Speed") : text.index("On a GPU")]
    for name, row in zip(("S", "S5", "O", "C"), rows_of_times(text), strict=True):
        best = [least(parts[name], kind) for kind in ("ours", "jax", "torch vmap", "torch loop")]
        assert_rounded(row, best)
    for megabytes in parts["memory"].values():
        assert f"{megabytes:,} " in text or f"{megabytes:,})" in text


def test_the_readmes_times_on_a_gpu_are_those_of_the_record():
    record = json.loads((ROOT / "benchmarks" / "results" / "gpu_fit.json").read_text("utf-8"))
    torch, again = record["PyTorch"]["peers"], record["JAX"]["S and O once more, alone"]
    jax = record["JAX"]["peers"] | {f"{name}, again": times for name, times in again.items()}
    text = (ROOT / "README.md").read_text("utf-8")
    text = text[text.index("On a GPU") : text.index("TF32 is TensorFlow's default")]
    for name, row in zip(("S", "O", "C28", "C"), rows_of_times(text), strict=True):
        ours = record["fit"][name]["map" if name == "C" else "auto"]
        peers = [least(jax, f"{name} "), least(torch, f"{name} ")]
        assert_rounded(row, [ours["median"], *peers, ours["gpu megabytes"], ours["gpu percent"]])


def rows_of_times(text):
    """The numbers of each row of a table of workloads."""
    lines = [line for line in text.splitlines() if re.match(r"\|.* inner steps? \|", line)]
    return [re.findall(r"\| ([\d.,]+)(?= )", line) for line in lines]


def assert_rounded(printed, numbers):
    for text, number in zip(printed, numbers, strict=True):
        assert float(text.replace(",", "")) == round(number, len(text.partition(".")[2]) or None)


def least(times, kind):
    return min(each["median"] for name, each in times.items() if name.startswith(kind))


# Problems that the checks must find


def notebook(*cells):
    cells = [new_markdown_cell("# Title"), *cells, new_markdown_cell("after")]
    for number, cell in enumerate(cells):
        cell.id = f"99-{number:03d}"
    return new_notebook(cells=cells)


def ran(source="1 + 1", count=1, outputs=()):
    return new_code_cell(source, execution_count=count, outputs=list(outputs))


def stream(name):
    return new_output("stream", name=name, text="oh")


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        ([ran("x = 1\n" * 41)], "41 lines"),
        ([ran("x = 1\n" * 9)], "have a median of"),
        ([ran(), new_markdown_cell("# Another")], "first-level headings"),
        ([ran(count=n + 1) for n in range(5)], "5 code cells"),
        ([new_markdown_cell("word") for _ in range(99)], "101 cells; at most 100"),  # with the first and the last
        ([new_markdown_cell("$$ a $$ word " * 2999)], "3001 words; at most 3000"),
    ],
)
def test_a_notebook_out_of_proportion_is_found(cells, complaint):
    assert any(complaint in problem for problem in checks.proportions(notebook(*cells)))


def test_a_good_notebook_is_left_in_peace():
    words = [new_markdown_cell("word") for _ in range(2)]
    good = notebook(ran(outputs=[stream("stdout")]), words[0], ran(count=2), words[1], ran(count=3))
    assert checks.proportions(good) + checks.execution(good) + press.printed_errors(good) == []
    assert checks.stale(good, good) == []


@pytest.mark.parametrize("count", [None, 7])
def test_a_notebook_that_was_not_run_in_order_is_found(count):
    assert "top to bottom" in checks.execution(notebook(ran(count=count)))[0]


def test_an_error_and_a_word_on_stderr_are_found():
    error = new_output("error", ename="E", evalue="", traceback=[])
    assert "ended in an error" in checks.execution(notebook(ran(outputs=[error])))[0]
    assert "wrote to stderr" in press.printed_errors(notebook(ran(outputs=[stream("stderr")])))[0]


def test_an_address_in_memory_is_found():
    shown = new_output("execute_result", data={"text/plain": "<Table at 0x7f3d5025c7d0>"}, execution_count=1)
    assert "memory address" in checks.execution(notebook(ran(outputs=[shown])))[0]


def test_a_stale_notebook_is_found():
    assert "cell 1" in checks.stale(notebook(ran("x = 2")), notebook(ran("x = 1")))[0]
    assert "cell 2" in checks.stale(notebook(ran("x"), ran("y")), notebook(ran("x")))[0]


def test_a_missing_and_a_heavy_notebook_are_found(tmp_path):
    source = tmp_path / "99_test.py"
    source.write_text("# %% [markdown]\n# # T\n")
    assert "is missing" in checks.chapter_problems(source, tmp_path)[0]
    heavy = press.load(source)
    heavy.cells[0].source += "x" * checks.MOST_BYTES
    nbformat.write(heavy, tmp_path / "99_test.ipynb")
    assert any("MB" in problem for problem in checks.chapter_problems(source, tmp_path))


@pytest.mark.parametrize(
    ("look", "cell", "complaint"),
    [
        (checks.missing_sections, "D1 3.1.1, 4.9", "no section D1 4.9"),
        (checks.missing_sections, "D6 1", "no section D6 1"),
        (checks.missing_sections, "somewhere", "names no section"),
        (checks.missing_names, "`FewShot`, `FewShots`", "no name 'FewShots'"),
        (checks.missing_names, "`FewShot(way)`", "no name 'FewShot(way)'"),
        (checks.missing_names, "`keras.optimizers.Sgd`", "no name 'keras.optimizers.Sgd'"),
        (checks.missing_tests, "`test_run.py::test_nothing_like_it`", "no test"),
        (checks.missing_tests, "by eye", "names no test"),
        (checks.missing_formulas, "1.1 and 99.9", "no chapter states Formula 99.9"),
    ],
)
def test_a_table_that_names_what_does_not_exist_is_found(look, cell, complaint):
    assert complaint in look(cell)[0]


@pytest.mark.parametrize("target", ["nowhere.md", "README.md#no-such-heading", "#no-such-heading"])
def test_a_broken_link_is_found(target, monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("# There")
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n[a](README.md#there) [b](#here) [c](https://example.org) [d]({target})")
    assert len(checks.broken_links(page)) == 1


# Building

SOURCE = """# %% [markdown]
# # Two languages
# [next](98_next.ipynb)

# %% [markdown] lang="zh"
# 你好

# %% [markdown] lang="en"
# Hello

# %%
print("accuracy 0.50 ± 0.01")
"""


def with_project_path():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A folder of chapters with one small source, instead of the real one."""
    monkeypatch.setattr(press, "CHAPTERS", tmp_path)
    monkeypatch.setattr(press.stored_at, "__defaults__", (tmp_path,))
    source = tmp_path / "99_two.py"
    source.write_text(SOURCE, encoding="utf-8")
    return source


@pytest.mark.slow
def test_a_source_becomes_an_edition_in_each_language(workshop):
    assert press.process(workshop, press.build).problems == []
    english, chinese = (press.stored_at(workshop, language) for language in ("en", "zh"))
    first = english.read_bytes()
    texts = [" ".join(cell.source for cell in nbformat.read(file, 4).cells) for file in (english, chinese)]
    assert "Hello" in texts[0] and "你好" not in texts[0]
    assert "你好" in texts[1] and "Hello" not in texts[1]
    press.process(workshop, press.build)
    assert english.read_bytes() == first, "two builds are identical byte for byte"
    assert press.process(workshop, press.verify).problems == []
    workshop.write_text(SOURCE.replace("0.50", "0.60"), encoding="utf-8")
    assert "0.6 ± 0.01 now, 0.5 ± 0.01 stored" in press.process(workshop, press.verify).problems[0]


def test_the_first_code_cell_of_a_stored_chapter_installs_the_library_and_nothing_else(workshop, monkeypatch):
    monkeypatch.setattr(press, "repository", lambda: "https://github.com/someone/project")
    (edition, _) = press.editions(press.load(workshop)).values()
    code = [cell for cell in edition.cells if cell.cell_type == "code"]
    assert [press.is_setup(cell) for cell in code] == [True, False]
    assert '%pip install --quiet --no-deps "git+https://github.com/someone/project"' in code[0].source
    monkeypatch.setattr(press, "repository", lambda: "")
    assert '--no-deps ".."' in press.setup_cell("99").source, "without an address, the project's folder is installed"


@pytest.mark.parametrize("missing", [True, False])
def test_the_first_code_cell_installs_the_library_only_where_it_is_missing(monkeypatch, missing):
    shell, installed, find = InteractiveShell(), [], importlib.util.find_spec
    shell.register_magic_function(installed.append, magic_name="pip")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if missing else find(name))
    shell.run_cell(press.setup_cell("99").source).raise_error()
    assert installed == ['install --quiet --no-deps ".."'] * missing


@pytest.mark.parametrize(
    ("code", "complaint"),
    [("1 / 0", "ZeroDivisionError"), ("import sys; print('oh', file=sys.stderr)", "wrote to stderr")],
)
def test_a_chapter_that_fails_is_reported_and_not_stored(workshop, code, complaint):
    workshop.write_text(f"# %% [markdown]\n# # T\n\n# %%\n{code}\n")
    report = press.process(workshop, press.build)
    assert complaint in report.problems[0] and "\x1b" not in report.problems[0]
    assert not press.stored_at(workshop, "en").exists()


def test_an_unknown_chapter_is_named():
    with pytest.raises(SystemExit, match="no chapter 77"):
        press.sources(["77"])


def test_results_drift_only_where_their_intervals_part():
    def printed(text):
        return notebook(ran(outputs=[new_output("stream", name="stdout", text=text)]))

    assert press.drift(printed("0.90 ± 0.01"), printed("0.93 ± 0.01")) == []
    assert len(press.drift(printed("0.90 ± 0.01"), printed("0.95 ± 0.01"))) == 1
    assert "same number of results" in press.drift(printed("0.9 ± 0.1"), printed(""))[0]


def test_the_documents_sections_are_all_there():
    for section in ("D1 3.3.2, 4.3", "D2 3.1.3, 6", "D3 3.2, 5, 9", "D4 4.4, 6.6", "D5 3, 6"):
        assert checks.missing_sections(section) == []
