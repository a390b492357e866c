"""The generated pages of the website: reference, recipes, tables, results, and the links between them."""

import functools
import json
import re
import runpy
import shutil
from pathlib import Path
from types import ModuleType

import book
import checks
import docstrings
import front
import keras
import library
import links
import nbformat
import numpy as np
import press
import pytest
import recipes
import reference
import results
import tables

import meta_keras as mk

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = list(book.titles())
PROGRAMS = recipes.programs()
load = functools.cache(mk.load)


@pytest.fixture(scope="module")
def pages():
    """All generated pages, and the linked Markdown of the chapters, by their documents."""
    found = tables.pages() | recipes.pages() | reference.pages() | results.pages()
    return found | {book.page_of(number): "\n\n".join(linked_chapter(number)) for number in NUMBERS}


def linked_chapter(number):
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_markdown_cell, book.prose(number))))
    return [cell.source for cell in links.link_chapter(notebook, number).cells]


def without_links(text):
    """Text as it was before it was linked, on one line."""
    text = re.sub(r"^\([\w-]+\)=\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n\n\{\.formula-number\}\n\(\[Formula [\d.]+\]\(#[\w-]+\).*\)\n", "", text)
    text = re.sub(r"\{term\}`([^`<]+) <[^`>]+>`", r"\1", text)
    text = re.sub(r"\{py:obj\}`([^`<]+) <[^`>]+>`", r"`\1`", text)
    text = re.sub(r"\[(Formulas? [\d.]+)\]\(#formula-[\d-]+\)", r"\1", text)
    return " ".join(text.split())


# Names of the library


def test_every_public_name_has_one_entry_on_its_page():
    offered = {id(getattr(mk, name)) for name in mk.__all__ if not isinstance(getattr(mk, name), ModuleType)}
    for module in library.modules().values():
        offered |= {id(getattr(module, name)) for name in module.__all__}
    assert sorted(id(entry.found) for entry in library.entries().values()) == sorted(offered)
    text = "\n".join(reference.pages().values())
    for entry in library.entries().values():
        assert len(re.findall(rf"\{{py:\w+\}} {re.escape(entry.anchor)}(?=[(\n])", text)) == 1, entry.name


@pytest.mark.parametrize(
    ("written", "anchor"),
    [
        ("mk.MetaLearner", "meta_keras.MetaLearner"),
        ("MetaLearner(num_classes)", "meta_keras.MetaLearner"),
        ("mk.rules.GradientDescent(0.1, steps=1)", "meta_keras.rules.GradientDescent"),
        ("GradientDescent", "meta_keras.rules.GradientDescent"),
        ("mk.report.evaluate", "meta_keras.evaluate"),
        ("MetaLearner.adapt", "meta_keras.MetaLearner.adapt"),
        ("rules.GradientDescent.predict", "meta_keras.rules.Rule.predict"),
        ("rules.Rule.adapt", "meta_keras.rules.Rule.adapt"),
        ("Episode.query_x", "meta_keras.Episode"),
        ("mk.networks", "meta_keras.networks"),
        ("MetaLearner.no_such_method", None),
        ("model.fit", None),
        ("support_x", None),
        ("x + 1", None),
    ],
)
def test_code_names_an_entry(written, anchor):
    assert library.resolve(written) == anchor


def test_the_chapters_that_use_a_name_are_found(monkeypatch, tmp_path):
    code = {
        "01_a.py": "import meta_keras as mk\nmk.rules.Prototypes()\nload = 1\nload",
        "02_b.py": "from meta_keras.rules import Prototypes as P\nfrom meta_keras import load\nP, load('glyphs')",
        "03_c.py": "# Prototypes are mentioned\nimport numpy as np\nnp.load",
    }
    for name, text in code.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(press, "SOURCES", tmp_path)
    library.users.cache_clear()
    found = library.users()
    library.users.cache_clear()
    assert found["rules.Prototypes"] == ["01", "02"] and found["load"] == ["02"]
    assert sum(map(len, found.values())) == 3


# Docstrings


@pytest.mark.parametrize("entry", library.entries().values(), ids=lambda entry: entry.name)
def test_every_name_has_a_docstring_and_a_complete_example(entry):
    if not callable(entry.found):
        assert reference._comment(entry)
        return
    text = docstrings.markdown(entry.found, docstrings.signature(entry.found)[1])
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert list(docstrings.free_names(code)) == [] and ">>>" not in text
    if not hasattr(entry.found, "_fields"):  # those are returned, and not called
        assert re.search(rf"\b{entry.name.rpartition('.')[2]}\b", code), "the example does not use the name"


def test_a_docstring_becomes_markdown():
    text = docstrings.markdown(mk.rules.GradientDescent, docstrings.signature(mk.rules.GradientDescent)[1])
    assert "```text\ntheta_k+1 = theta_k - alpha grad L_S(theta_k)" in text
    assert "[Formula 10.1](#formula-10-1), [Formula 10.2](#formula-10-2)" in text
    assert "- **`steps`, `evaluation_steps`**: inner steps in meta-training" in text
    assert "from meta_keras.rules import GradientDescent" in text
    pool = docstrings.markdown(mk.ClassPool, docstrings.signature(mk.ClassPool)[1])
    assert "\n- **`labels`**: (rows,) the class of each row." in pool


def test_what_an_example_shows_becomes_comments():
    session = ">>> for n in range(2):\n...     print(n)\n0\n1\n>>> n.x\nTraceback (most recent call last):\n...\nE: no"
    code = "for n in range(2):\n    print(n)\n\n# 0\n# 1\nn.x\n# Traceback (most recent call last):\n# ...\n# E: no"
    assert docstrings.example(session, mk.load) == code


def test_special_characters_of_a_docstring_stay_what_they_are():
    assert docstrings.inline("a * b_c [d] <e> `f*g` $") == r"a \* b\_c \[d\] \<e> `f*g` \$"


def test_a_signature_is_that_of_the_source():
    text, names = docstrings.signature(mk.rules.Prototypes)
    assert text == "(*, batch_statistics: str='moving')" and names == ["batch_statistics"]
    assert docstrings.signature(mk.MetaLearner.adapt)[0].startswith("(support_x")
    assert docstrings.signature(mk.Episode)[1] == list(mk.Episode._fields)


# Links in chapters


@pytest.mark.parametrize("number", NUMBERS)
def test_links_change_nothing_else_in_a_chapter(number):
    for before, after in zip(book.prose(number), linked_chapter(number), strict=True):
        bare = book.DISPLAY.sub(lambda match: f"$${book.TAG.sub('', match[1])}$$", before)
        assert without_links(after) == " ".join(bare.split())


@pytest.mark.parametrize("number", NUMBERS)
def test_a_chapter_is_linked_with_the_guide_and_the_reference(number):
    text = "\n".join(linked_chapter(number))
    terms = re.findall(r"\{term\}`[^`<]+ <([^`>]+)>`", text)
    assert len(terms) == len(set(terms)) >= 5
    for formula in {f for cell in book.prose(number) for f in re.findall(r"Formula (\d+\.\d+)\)", cell)}:
        assert f"[Formula {formula}](#{book.anchor('formula', formula)})" in text
    assert "{py:obj}`" in text


def test_only_plain_text_is_linked():
    kept = "# A prototype\n\n[prototype](x) `prototype` $prototype$ <prototype> ![prototype](y)\n\n```\nprototype\n```"
    prototype = next(term for term in book.terms() if term.names == ("prototype",))
    assert links.link_text(kept, {prototype: False}) == kept
    text = links.link_text("protoprototype, **Prototypes**, and a prototype by Formula 1.5", {prototype: False})
    assert links.link_text("`tasks`, `mk.tasks`", {}) == "`tasks`, {py:obj}`mk.tasks <meta_keras.tasks>`"
    assert text == "protoprototype, **{term}`Prototypes <prototype>`**, and a prototype by [Formula 1.5](#formula-1-5)"


def test_longer_terms_come_before_the_terms_that_they_contain():
    terms = {term: False for term in book.terms()}
    text = links.link_text("a learning rate\nschedule for a learning rate", terms)
    assert text.startswith("a {term}`learning rate schedule <learning rate schedule>` for a {term}`learning rate <")


# The guide


def test_every_row_of_the_guide_is_on_its_page():
    formulas, notation, errata, glossary = tables.formulas(), tables.notation(), tables.errata(), tables.glossary()
    for row in book.rows("Formulas"):
        section = formulas.partition(f"({book.anchor('formula', row['formula'])})=\n### ")[2].partition("\n### ")[0]
        assert section.startswith(f"Formula {row['formula']}\n\n{row['meaning'][0].upper()}{row['meaning'][1:]}.")
        assert "$$" in section
    for row in book.rows("Notation"):
        assert row["meaning"].replace("|", r"\|") in notation and row["symbol"].replace("|", r"\|") in notation
    for row in book.rows("Errata"):
        assert row["statement"] in errata and row["test"].strip("`").partition("::")[2] in errata
    for row in (row for row in book.rows("Glossary") if "中文" in row):
        assert (
            docstrings.link_articles(row["中文"]) in glossary
            and re.split(r"[,;(] ?", row["term"])[0].strip() in glossary
        )


def test_every_formula_is_shown_as_in_its_chapter():
    assert book.statements("1.6") == (r"\psi_k(x, S) = -\,\lVert \varphi(x; \theta) - c_k \rVert^2",)
    assert len(book.statements("10.3")) == 2  # for one step, and for several
    assert all(book.statements(row["formula"]) for row in book.rows("Formulas"))
    assert not any("Formula 1.1" in tex for tex in book.statements("1.1"))


def test_a_formula_leads_to_its_chapter_its_code_and_its_test():
    section = tables.formulas().partition("### Formula 10.1\n")[2].partition("(formula-10-2)=")[0]
    assert "{ref}`chapter 10 <stated-10-1>`" in section and "`test_formula_10_1`" in section
    assert "<meta_keras.rules.GradientDescent>" in section and "</chapters/12_metalearner>" in section


def test_terms_are_parsed():
    assert book._names("backbone (trunk), head") == (("backbone", "head"), "trunk")
    assert book._names("learned loss, in D1 learning the loss") == (("learned loss",), "in D1 learning the loss")
    assert book._names("meta input, hidden and output layer") == (("meta input, hidden and output layer",), "")
    names = [name.lower() for term in book.terms() for name in term.names]
    assert len(names) == len(set(names))


def test_most_terms_are_explained_by_the_sentence_that_introduces_them():
    support = next(term for term in book.terms() if term.names == ("support set",))
    assert book.introduction(support).number == "01"
    assert "**support set** (支持集)" in book.introduction(support).sentence
    assert "[]{#term-support}" in tables.glossary()
    assert sum(book.introduction(term) is None for term in book.terms()) <= 3


def test_every_term_has_a_definition_or_the_sentence_that_introduces_it():
    defined = book.definitions()
    unexplained = [t.names for t in book.terms() if t.names[0] not in defined and book.introduction(t) is None]
    assert unexplained == []
    assert defined.keys() <= {term.names[0] for term in book.terms()}, "a definition of a term that is not listed"
    glossary = tables.glossary()
    assert all(docstrings.link_articles(definition) in glossary for definition in defined.values())
    support = glossary.partition("\nsupport set\n")[2].partition("\n\n  {ref}")[0]
    assert "The few labeled examples of a task" in support, "the definition comes before the quotation"


def test_the_articles_are_linked_where_docstrings_mention_them():
    linked = "{doc}`D2 </guide/articles>`"
    assert docstrings.inline("D2's meta-policy, `D2`, GD2") == f"{linked}'s meta-policy, `D2`, GD2"
    for name, text in (reference.pages() | {"results": results.overview()}).items():
        prose = re.sub(r"`[^`]*`", "", text)
        assert not re.search(r"\bD[1-5]'s", prose.replace("{doc}'s", "")), name


# Results


def test_all_results_of_the_readme_are_shown():
    shown = results.overview()
    for line in re.findall(r"^\|.*\|$", book.section(book.README, "## Results"), re.MULTILINE):
        for cell in line.strip("|").split(" | "):
            assert cell.strip(" |") in shown
    table = shown.partition("| problem, and the command |")[2].partition("\n\n")[0]
    assert {row.count(" |") for row in table.splitlines()[2:]} == {3}, "every row has three cells"
    for image, (alternative, caption) in results.IMAGES.items():
        assert (ROOT / image).is_file() and image in book.README.read_text("utf-8")
        assert f"![{alternative}](/{image}){{.plot}}\n\n*{caption}*\n" in shown
    assert "{doc}`gpu.json </results/gpu>`" in shown


def test_every_command_can_be_pasted():
    for row in (row for _, row in checks.tables(book.README) if row.get("command")):
        command = row["command"].strip("`")
        assert re.match(r"python3 run\.py \d\d$|PYTHONPATH=\. \.venv/bin/python \w+/\w+\.py", command), command
        assert all((ROOT / file).is_file() for file in re.findall(r"[\w/]+\.py", command)), command


def test_the_front_page_says_what_its_score_covers():
    """The caption's first score is the README's, and its second one is the record's for tasks like the one shown."""
    caption = front.page("en", []).partition(":figclass: picture")[2].partition("```")[0].replace("\n", " ")
    listed, within = re.findall(r"\d\.\d+\u00a0±\u00a0\d\.\d+", front.page("en", []))
    record = json.loads((ROOT / "data" / "results" / "chapter_01.json").read_text("utf-8"))["results"]
    scores = record["prototypes, 30000 images, seed 0"]
    assert within == "{:.3f}\u00a0±\u00a0{:.3f}".format(*scores["5-way within an alphabet"])
    assert f"{scores['5-way'][0]:.3f}" == listed[:5]
    shown = next(cell for cell in press.load(press.sources(["01"])[0]).cells if cell.metadata.get("picture"))
    assert 'within="alphabet"' in shown.source
    assert re.search(
        rf"six unseen alphabets, \*\*{listed}\*\* .* within one alphabet, as in the figure, it is {within}", caption
    )


@pytest.mark.parametrize("record", results.records(), ids=lambda record: record.name)
def test_every_record_has_a_command_and_its_keys(record):
    assert record.script.is_file() and record.script.name in results._commands(record)
    page = results.record_page(record)
    assert results._commands(record).strip("`") in page
    for key in record.results:
        assert results._plain(str(key)).replace("|", r"\|") in page


def test_values_are_shown_with_four_digits_and_long_lists_are_abbreviated():
    assert results.compact({"a": [0.123456, 2], "b": None}) == "a: [0.1235, 2], b: null"
    assert results.compact([float(n) for n in range(13)]) == "13 numbers from 0 to 12"
    assert results.compact([[0.5] * 10] * 3) == "3 x 10 numbers from 0.5 to 0.5"
    assert results.compact(["selected"] * 20).count("selected") == 20
    nested = {"one": {"two": {"three": list(range(12)), "four": "x" * 90}}}
    assert [key for key, _ in results.flat(nested)] == ["one, two, three", "one, two, four"]


# All pages


def test_all_links_of_all_pages_lead_somewhere(pages):
    text = "\n".join(pages.values())
    anchors = re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE) + re.findall(r"\{#([\w-]+)\}", text)
    assert len(anchors) == len(set(anchors))
    targets = re.findall(r"\]\(#([\w-]+)\)", text) + re.findall(r"\{ref\}`[^`<]*<([\w-]+)>`", text)
    headings = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.M)}
    assert {t for t in targets if t.startswith(("formula-", "stated-", "introduced-", "term-"))} <= set(anchors)
    assert {t for t in map(str.lower, targets)} <= {*anchors, *headings, *_jupyter(headings)}
    entries = set(re.findall(r"\{py:\w+\} ([\w.]+)", text))
    assert set(re.findall(r"\{py:obj\}`[^`<]*<([\w.]+)>`", text)) <= entries
    documents = set(re.findall(r"\{doc\}`[^`<]*</([^`>]+)>`", text))
    assert documents <= set(pages)
    listed = tables.glossary().partition("{glossary}")[2]
    for term in set(re.findall(r"\{term\}`[^`<]*<([^`>]+)>`", text)):
        assert f"\n{term}\n" in listed


def _jupyter(headings):
    return {heading + "?" for heading in headings}


def test_pages_are_made_for_any_list_of_chapters(monkeypatch):
    kept = [source for source in press.sources() if source.stem[:2] in ("01", "10")]
    monkeypatch.setattr(press, "sources", lambda numbers=(): [s for s in kept if not numbers or s.stem[:2] in numbers])
    caches = (book.titles, book.prose, book.statements, book.introduction, book._sentences, library.users)
    for cache in caches:
        cache.cache_clear()
    try:
        found = tables.pages() | recipes.pages() | reference.pages() | results.pages()
    finally:
        for cache in caches:
            cache.cache_clear()
    linked = set(re.findall(r"</chapters/(\d\d)_", "\n".join(found.values())))
    assert linked == {"01", "10"}


# Recipes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the data that recipes expect, where training and evaluation are short."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    np.save("x.npy", draw.normal(size=(200, 16)).astype("float32"))
    np.save("y.npy", np.arange(200) % 20)
    for number in range(150):
        image = Path("my_images", f"class {number // 6}", f"{number % 6}.png")
        image.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(image, draw.integers(0, 255, (20, 30, 3)), scale=False)
    fit, evaluate, conv4, compiled = keras.Model.fit, mk.evaluate, mk.networks.conv4, mk.MetaLearner.compile

    def short(self, *data, steps_per_epoch=None, epochs=1, verbose=0, **options):
        steps = None if steps_per_epoch is None else 1
        return fit(self, *data, steps_per_epoch=steps, epochs=min(epochs, 2), verbose=0, **options)

    monkeypatch.setattr(keras.Model, "fit", short)
    monkeypatch.setattr(mk.MetaLearner, "compile", functools.partialmethod(compiled, run_eagerly=True))  # no tracing
    monkeypatch.setattr(mk, "evaluate", lambda *task, episodes: evaluate(*task, episodes=4))
    monkeypatch.setattr(mk, "load", load)
    monkeypatch.setattr(mk.networks, "conv4", lambda *units, **options: conv4(*units, filters=4, **options))
    return tmp_path


def run(question):
    """Run a recipe as a program, and return its variables."""
    Path("recipe.py").write_text(PROGRAMS[question], encoding="utf-8")
    return runpy.run_path("recipe.py", run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("question", PROGRAMS)
def test_a_recipe_runs(question, folder):
    scope = run(question)
    modules = [word for word, value in scope.items() if isinstance(value, ModuleType)]
    assert modules and all(PROGRAMS[question].count(f"{word}.") for word in modules)


def test_recipes_answer_what_users_ask_and_are_short():
    questions = " ".join(PROGRAMS)
    for topic in (
        "own images",
        "own arrays",
        "regression",
        "save",
        "resume",
        "seeds",
        "rule of my own",
        "predict many",
    ):
        assert topic in questions
    for question, program in PROGRAMS.items():
        lines = [line for line in program.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
        limit = 16 if "class " in program else 10
        assert len(lines) <= limit, question


def test_the_recipe_for_own_images_says_how_many_are_needed(folder):
    """The folder has 25 classes of six images, with which `test_a_recipe_runs`. 20 classes are too few."""
    text = recipes.SOURCE.read_text("utf-8").partition("## How do I use my own images?")[2].partition("```")[0]
    assert "25 classes" in text and "six images per" in text
    assert [len(list(images.iterdir())) for images in Path("my_images").iterdir()] == [6] * 25
    for number in range(5):
        shutil.rmtree(f"my_images/class {number}")
    with pytest.raises(ValueError, match="class"):
        run("How do I use my own images?")


def test_the_results_of_recipes_are_what_they_say(folder):
    scope = run("How do I adapt to new examples, and save the result?")
    assert (folder / "expert.keras").is_file()
    answers = scope["expert"].predict(scope["task"].query_x[0], verbose=0)
    again = keras.models.load_model(folder / "expert.keras").predict(scope["task"].query_x[0], verbose=0)
    np.testing.assert_array_equal(answers, again)


def test_records_are_json_objects():
    assert all(isinstance(json.loads(record.path.read_text("utf-8")), dict) for record in results.records())
