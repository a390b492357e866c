"""The website: its pages are complete and linked, and Chromium shows them without errors, wide and narrow, in light and
in dark, with the keyboard and on paper. Without Chromium, the tests that need it are skipped.
"""

import doctest
import functools
import json
import os
import re
import threading
import time
import urllib.request
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urljoin

import book
import book_map
import browser
import build
import chapter_pages
import checks
import library
import map_routes
import outline
import press
import project_links
import pytest
import results
import serve

import run

ROOT = press.ROOT
HTML = build.BUILD / "html"
# The package myst-parser calls what a later version of Sphinx will not have.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:'myst_parser")]
with_chromium = pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)


def once(factory, name, make):
    """The result of `make`, which only one of the processes that run the tests computes."""
    folder = factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    handle, stored = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT), folder / f"{name}.json"
    try:
        while not run.try_lock(handle):
            time.sleep(0.2)
        if not stored.exists():
            stored.write_text(json.dumps(make()), encoding="utf-8")
        return json.loads(stored.read_text(encoding="utf-8"))
    finally:
        os.close(handle)


@pytest.fixture(scope="module")
def warnings(tmp_path_factory):
    """The warnings of building the site."""
    return once(tmp_path_factory, "site", build.build)


@pytest.fixture(scope="module")
def pages(warnings):
    """All pages, by their paths."""
    return {file.relative_to(HTML).as_posix(): Page(file) for file in sorted(HTML.rglob("*.html"))}


class Page(HTMLParser):
    """What a page contains: anchors, the targets of links, other files, and images."""

    def __init__(self, file):
        super().__init__()
        self.file, self.ids, self.links, self.files, self.images = file, set(), [], [], []
        self.html = file.read_text(encoding="utf-8")
        self.feed(self.html)

    @property
    def text(self):
        """The text without tags."""
        return re.sub(r"<[^>]+>", "", self.html)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)
        if tag in ("img", "script", "iframe") and "src" in found:
            self.files.append(found["src"])
        if tag == "link" and found.get("rel") not in ("canonical",):
            self.files.append(found["href"])


# Building


@pytest.fixture
def other_chapters():
    """For tests that change the chapters: what the modules of the site have read is forgotten after them."""
    yield
    forget()


def test_the_site_is_built_without_warnings_and_has_every_chapter(warnings, pages):
    assert warnings == []
    assert {f"chapters/{source.stem}.html" for source in press.sources()} <= pages.keys()
    prose = {file.stem for file in press.CHAPTERS.glob("*.md")} - {"README"}
    assert {f"guide/{name}.html" for name in prose} <= pages.keys()


def test_building_runs_no_chapter(monkeypatch, tmp_path, other_chapters):
    monkeypatch.setattr(press, "execute", lambda notebook: pytest.fail("a chapter was executed"))
    source = press.sources()[0]
    monkeypatch.setattr(press, "sources", lambda numbers=(): [source])
    forget()
    build.write_sources(tmp_path, "en", press.CHAPTERS)
    forget()
    page = (tmp_path / "chapters" / f"{source.stem}.ipynb").read_text(encoding="utf-8")
    assert "image/png" in page, "the outputs are those of the stored notebook"


def test_every_link_and_anchor_resolves(pages):
    broken = []
    for name, page in pages.items():
        for target in page.links:
            if re.match(r"https?:|mailto:", target):
                continue
            path, _, anchor = urljoin(f"/{name}", target).partition("#")
            path = unquote(path[1:]) or "index.html"
            found = pages.get(path)
            if not (HTML / path).is_file() or anchor and (found is None or unquote(anchor) not in found.ids):
                broken.append(f"{name}: {target}")
    assert broken == []


def test_every_file_of_a_page_is_part_of_the_site(pages):
    for name, page in pages.items():
        for target in page.files:
            assert not re.match(r"(https?:)?//", target), f"{name} loads {target}"
            path = unquote(urljoin(f"/{name}", target).partition("?")[0][1:])
            assert target.startswith("data:") or (HTML / path).is_file(), f"{name}: {target}"


def test_every_image_has_an_alternative_text(pages):
    lacking = [f"{n}: {i.get('src')}" for n, page in pages.items() for i in page.images if not i.get("alt", "").strip()]
    assert lacking == []
    names = [
        f"{n}: {i['alt']}" for n, page in pages.items() for i in page.images if re.search(r"\.png|_build", i["alt"])
    ]
    assert names == [], "a path is not a description"


def test_the_first_page_leads_to_what_newcomers_ask_for(pages):
    front = pages["index.html"]
    assert "python3 run.py\n" in front.text and "python3 run.py serve" in front.text
    support = next(link for link in front.links if link.startswith("guide/glossary.html#term-support"))
    assert "支持集" in pages["guide/glossary.html"].html.split(f'id="{support.partition("#")[2]}"')[1][:300]
    assert "recipes.html#how-do-i-use-my-own-images" in front.links
    maml = next(source.stem for source in press.sources() if source.stem.endswith("_maml"))
    assert front.links.count(f"chapters/{maml}.html") > 1
    row = next(row for _, row in checks.tables(ROOT / "README.md") if "accuracy, or error" in row)
    assert row["accuracy, or error"].replace(" ", "\u00a0") in front.text and row["command"].strip("`") in front.text


def test_chapters_follow_one_another_and_show_the_map(pages):
    names = [source.stem for source in press.sources()]
    for before, name, after in zip(["", *names], names, [*names[1:], ""], strict=False):
        page = pages[f"chapters/{name}.html"]
        assert {f"{other}.html" for other in (before, after) if other} <= set(page.links)
        assert page.html.count('aria-current="page"') == 2, "the current chapter in the wide and in the narrow map"
        assert (HTML / "notebooks" / f"{name}.ipynb").read_bytes() == (press.CHAPTERS / f"{name}.ipynb").read_bytes()


def test_formulas_are_linked_between_the_chapter_the_list_and_the_reference(pages):
    chapter = next(page for name, page in pages.items() if name.endswith("_maml.html") and name.startswith("chapters/"))
    assert "../guide/formulas.html#formula-10-3" in chapter.links
    assert any(re.fullmatch(r"\.\./chapters/10_maml\.html#.*10-3", link) for link in pages["guide/formulas.html"].links)
    assert "../guide/formulas.html#formula-10-1" in pages["reference/rules.html"].links
    assert "../guide/glossary.html#term-inner-loop" in chapter.links
    assert any(link.startswith("../reference/rules.html#meta_keras.rules.") for link in chapter.links)


# The parts of a page


@pytest.mark.parametrize(
    "module", [outline, project_links, chapter_pages, map_routes, results], ids=lambda module: module.__name__
)
def test_the_examples_in_docstrings(module):
    found = doctest.testmod(module)
    assert found.failed == 0 and found.attempted > 0


def test_the_map_shows_planned_chapters_until_they_exist(monkeypatch):
    chapters = outline.chapters()
    assert {source.stem[:2] for source in press.sources()} == {n for n, chapter in chapters.items() if chapter.name}
    first = press.sources()[0].stem
    monkeypatch.setitem(outline.PLANNED, first[:2], outline.Chapter(first[:2], "Later", "", ()))
    assert outline.chapters.__wrapped__()[first[:2]].name == first, "a plan for a chapter that exists has no effect"
    planned = outline.Chapter("99", "Later", "", ())
    monkeypatch.setattr(outline, "PARTS", (*outline.PARTS, outline.Part("Last", "99", "99")))
    monkeypatch.setattr(outline, "chapters", lambda: {**chapters, "99": planned})
    assert "99 planned" in book_map.draw(6) and book_map.draw(6).count("<a ") == len(press.sources())
    monkeypatch.setattr(outline, "chapters", lambda: {**chapters, "99": planned._replace(name="99_later")})
    drawn = book_map.draw(6, "99", "../")
    assert "99 planned" not in drawn and 'href="../chapters/99_later.html" aria-current="page"' in drawn


def test_no_two_boxes_of_the_map_overlap_and_every_chapter_has_one():
    for columns in (3, 6):
        places, _, _, height = book_map.layout(outline.chapters(), columns)
        assert places.keys() == outline.chapters().keys() and len(set(places.values())) == len(places)
        assert all(0 <= place.y <= height - book_map.HEIGHT for place in places.values())


def on_curves(drawn):
    """Points on the arrows of a drawing, from one corner to the next, and on curves."""
    for path in re.findall(r'class="arrow[^"]*" d="([^"]+)"', drawn):
        here = (0.0, 0.0)
        for kind, numbers in re.findall(r"([MLQC])([^MLQC]+)", path):
            values = list(map(float, re.findall(r"-?[\d.]+", numbers)))
            nodes = [here, *zip(values[::2], values[1::2], strict=True)]
            here = nodes[-1]
            for step in range(51) if kind != "M" else ():
                points = nodes
                while len(points) > 1:  # de Casteljau
                    points = [
                        tuple(a + (b - a) * step / 50 for a, b in zip(*ends, strict=True)) for ends in pairwise(points)
                    ]
                yield points[0]


@pytest.mark.parametrize("columns", [3, 6])
def test_no_arrow_of_the_map_passes_through_a_box(columns):
    drawn = book_map.draw(columns)
    boxes = [
        tuple(map(float, box)) for box in re.findall(r'<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"', drawn)
    ]
    points = list(on_curves(drawn))
    assert len(boxes) == len(outline.chapters()) and len(points) > 1000
    within = [p for p in points for x, y, w, h in boxes if x + 1 < p[0] < x + w - 1 and y + 1 < p[1] < y + h - 1]
    assert within == []


@pytest.mark.parametrize("columns", [3, 6])
def test_arrows_of_different_chapters_share_no_line(columns):
    """Where they cross, they cross at a right angle, so that each can be followed."""
    arrows = book_map.layout(outline.chapters(), columns).arrows
    lines = [(source, *sorted(ends)) for (source, _), points in arrows.items() for ends in pairwise(points)]
    for source, (x1, y1), (x2, y2) in lines:
        for other, (x3, y3), (x4, y4) in lines:
            vertical = x1 == x2 == x3 == x4 and max(y1, y3) <= min(y2, y4)
            horizontal = y1 == y2 == y3 == y4 and max(x1, x3) <= min(x2, x4)
            assert source == other or not (vertical or horizontal), (source, other)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("README.md#errata", "../guide/errata.md"),
        ("../README.md#results", "../results.md"),
        ("02_classical_learning.ipynb", "02_classical_learning.ipynb"),
        ("01_learning_to_learn.ipynb#How-sure-are-we?", "01_learning_to_learn.ipynb#how-sure-are-we"),
        ("#Which-is-better:-A-or-B?", "#which-is-better-a-or-b"),
        ("../tests/solutions.py", "../files/tests/solutions.py.md"),
        ("https://example.org/README.md", "https://example.org/README.md"),
    ],
)
def test_links_between_files_become_links_between_pages(target, expected):
    text = f"[text]({target})"
    page = project_links.rewritten(text, press.CHAPTERS, "chapters/10_maml", project_links.Files())
    assert page == f"[text]({expected})"


def test_pages_of_markdown_beside_the_chapters_are_part_of_the_guide(monkeypatch, tmp_path):
    (tmp_path / "chapters").mkdir()
    (tmp_path / "more.png").touch()
    (tmp_path / "chapters" / "README.md").write_text("# Guide")
    (tmp_path / "chapters" / "more.md").write_text("# More\n\n![a plot](../more.png) [here](more.md#More)")
    monkeypatch.setattr(press, "ROOT", tmp_path)
    monkeypatch.setattr(press, "CHAPTERS", tmp_path / "chapters")
    pages, images = project_links.prose_pages(project_links.Files())
    assert pages == {"guide/more": "# More\n\n![a plot](/more.png){.plot} [here](more.md#more)"}
    assert images == {tmp_path / "more.png"}


def test_links_in_code_stay():
    text = "`[a](../tests/solutions.py)`\n\n```\n[b](README.md#errata)\n```\n"
    assert project_links.rewritten(text, press.CHAPTERS, "chapters/10_maml", project_links.Files()) == text


def test_figures_are_described_by_the_code_that_draws_them():
    code = 'axes[0].scatter(x, y, label="MAML")\naxes[0].set(xlabel="steps", ylabel=f"loss {n}", title="sines")'
    expected = "Scatter plot in the section “S”. Horizontal axis: steps. Labels: MAML, sines."
    assert chapter_pages.alternative(code, "S") == expected
    assert chapter_pages.kind(code) == "plot" and chapter_pages.kind("axis.imshow(image)") == "picture"


def test_badges_appear_only_with_an_address(monkeypatch):
    monkeypatch.setattr(press, "repository", lambda: "")
    assert chapter_pages.badges("10_maml") == []
    monkeypatch.setattr(press, "repository", lambda: "https://github.com/someone/project")
    colab, binder = chapter_pages.badges("10_maml")
    assert "https://colab.research.google.com/github/someone/project/blob/main/chapters/10_maml.ipynb" in colab
    assert "https://mybinder.org/v2/gh/someone/project/main?labpath=chapters/10_maml.ipynb" in binder


# Two languages


CHINESE = (
    '# %% [markdown] lang="zh"\n# # MAML：学习一个初始化\n#\n# **目标。** 读完本章，你可以推导 MAML 的元梯度。\n\n'
)


@pytest.fixture
def two_languages(tmp_path, monkeypatch):
    """A site of one chapter: the beginning of the chapter on MAML in English and in Chinese."""
    whole = next(source for source in press.sources() if source.stem.endswith("_maml"))
    cells = whole.read_text(encoding="utf-8").split("\n# %%")
    english = cells[0].replace("# %% [markdown]", '# %% [markdown] lang="en"')
    shorter = tmp_path / "src" / whole.name
    shorter.parent.mkdir()
    shorter.write_text(CHINESE + "\n# %%".join([english, *cells[1:4]]) + "\n", encoding="utf-8")
    monkeypatch.setattr(press, "SOURCES", shorter.parent)
    monkeypatch.setattr(build, "GENERATED", ())
    forget()
    for language, edition in press.editions(press.load(shorter)).items():
        stored = press.stored_at(shorter, language, tmp_path)
        stored.parent.mkdir(exist_ok=True)
        press.nbformat.write(edition, stored)
    build.build(tmp_path / "build", tmp_path)
    html = tmp_path / "build" / "html"
    yield [Page(folder / "chapters" / f"{whole.stem}.html") for folder in (html, html / "zh")]
    forget()


def forget():
    """Let the modules of the site read the chapters again."""
    for module in (book, library, outline):
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def test_a_chapter_in_two_languages_has_two_pages_that_lead_to_each_other(two_languages):
    english, chinese = two_languages
    assert "元梯度" in chinese.text and "After this chapter" not in chinese.text
    assert "元梯度" not in english.text and "After this chapter" in english.text
    assert 'lang="zh-CN"' in chinese.html and 'lang="en"' in english.html
    assert "theta" in chinese.text, "cells without a language are in both editions"
    for page, other in ((english, chinese), (chinese, english)):
        switch = [(page.file.parent / link).resolve() for link in page.links]
        assert other.file in switch, "the language switch leads to the same page"
    assert "language-switch" in english.html


def test_one_language_needs_no_switch(pages):
    assert "language-switch" not in pages["index.html"].html or build.editions(press.CHAPTERS) != ["en"]


# Serving


@pytest.fixture
def served(warnings):
    """The address of the site on a server."""
    with serve.server(str(HTML), port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_the_site_is_served_on_this_computer_only(served):
    assert urllib.request.urlopen(served).read() == (HTML / "index.html").read_bytes()


def test_a_port_in_use_is_avoided():
    with serve.server(".", port=0) as first, serve.server(".", port=first.server_port) as second:
        assert first.server_port != second.server_port
        assert first.server_address[0] == second.server_address[0] == "127.0.0.1"


# In the browser

READ = (Path(__file__).parent / "browser_checks.js").read_text(encoding="utf-8")


def visit(chromium, address):
    """Everything that is wrong with one page, by kind."""
    chromium.resize(390)
    chromium.open(address)
    chromium.run(READ)
    problems = chromium.run("problems()") | {"light": chromium.run("poorContrast('light')")}
    problems["dark"] = chromium.run("poorContrast('dark')")
    problems["console"] = chromium.complaints()
    problems["requests"] = [url for url in chromium.requests() if not url.startswith((HTML.as_uri(), "data:"))]
    return problems


@pytest.fixture(scope="module")
def problems(pages, tmp_path_factory):
    """What is wrong with any page, by kind: a list of pages with details."""

    def visit_all():
        with browser.Browser(tmp_path_factory.mktemp("profile")) as chromium:
            found = {name: visit(chromium, page.file.as_uri()) for name, page in pages.items()}
        kinds = next(iter(found.values()))
        return {kind: {name: kept for name, all_ in found.items() if (kept := all_[kind])} for kind in kinds}

    return once(tmp_path_factory, "problems", visit_all)


@with_chromium
@pytest.mark.parametrize(
    "kind", ["console", "requests", "formulas", "sideways", "names", "scrolling", "cells", "light", "dark", "headings"]
)
def test_chromium_finds_no_problem_on_any_page(problems, kind):
    """Errors in the console; requests to other hosts; formulas that are not drawn, or TeX in the text; pages that
    scroll sideways at 390 px; images, buttons and links without a name; regions that scroll but cannot be reached with
    the keyboard; table cells that are wider than the page; poor contrast in light and in dark; more or less than one
    first-level heading.
    """
    assert problems[kind] == {}


@pytest.fixture(scope="module")
def chromium(pages, tmp_path_factory):
    with browser.Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@with_chromium
@pytest.mark.parametrize("protocol", ["file", "http"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("prototype", "guide/glossary.html#term-prototype"),
        ("Formula 10.3", "guide/formulas.html#formula-10-3"),
        ("10.3", "guide/formulas.html"),
    ],
)
def test_the_search_finds_terms_and_formulas(chromium, served, protocol, query, expected):
    root = served if protocol == "http" else HTML.as_uri()
    chromium.open(f"{root}/search.html?q={query.replace(' ', '+')}")
    chromium.wait("document.querySelector('#search-results p.search-summary')?.textContent.includes('found')")
    links = chromium.run("[...document.querySelectorAll('#search-results li a')].map((link) => link.href)")
    assert any(expected in link for link in links[:5]), links[:5]
    assert chromium.complaints() == []


@with_chromium
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("own images", "recipes.html"),
        ("install", "index.html"),
        ("run", "index.html"),
        ("MAML", "chapters/10_maml.html"),
    ],
)
def test_the_search_lists_what_newcomers_look_for_among_the_first(chromium, served, query, expected):
    """And it quotes the text of a page, and not its map."""
    chromium.open(f"{served}/search.html?q={query.replace(' ', '+')}")
    chromium.wait("document.querySelector('#search-results p.search-summary')?.textContent.includes('found')")
    links = chromium.run("[...document.querySelectorAll('#search-results li > a')].map((link) => link.href)")
    assert any(expected in link for link in links[:2]), links[:5]
    chromium.wait("document.querySelector('#search-results p.context') !== null")
    quoted = chromium.run("[...document.querySelectorAll('#search-results p.context')].map((p) => p.textContent)")
    assert not [text for text in quoted if re.search(rf"{outline.PARTS[0].title}\W*{outline.PARTS[1].title}", text)]


@with_chromium
@pytest.mark.parametrize("columns", ["wide", "narrow"])
def test_no_arrow_of_the_map_crosses_a_heading(chromium, pages, columns):
    chromium.resize(1280 if columns == "wide" else 390)
    chromium.open(pages["index.html"].file.as_uri())
    crossed = """
        (() => {
          const map = document.querySelector(".book-map.%s");
          const headings = [...map.querySelectorAll(".part")].map((part) => [part.textContent, part.getBBox()]);
          const points = [...map.querySelectorAll(".arrow")].flatMap((arrow) =>
            Array.from({ length: 400 }, (_, n) => arrow.getPointAtLength((arrow.getTotalLength() * n) / 400)));
          const inside = (box) => (point) =>
            point.x > box.x && point.x < box.x + box.width && point.y > box.y && point.y < box.y + box.height;
          return headings.filter(([, box]) => points.some(inside(box))).map(([title]) => title);
        })()"""
    assert chromium.run(crossed % columns) == []


@with_chromium
def test_commands_are_readable_on_a_narrow_screen(chromium, pages):
    chromium.resize(390)
    chromium.open(pages["results.html"].file.as_uri())
    cut = """[...document.querySelectorAll("td code")].filter((code) => /run\\.py|benchmarks/.test(code.textContent))
        .filter((code) => code.getBoundingClientRect().right > innerWidth).map((code) => code.textContent)"""
    assert chromium.run(cut) == []


@with_chromium
def test_on_a_wide_screen_code_does_not_scroll(chromium, pages):
    chromium.resize(1280)
    for name in (name for name in pages if re.match(r"chapters/(01|10)_", name)):
        chromium.open(pages[name].file.as_uri())
        scrolling = (
            "[...document.querySelectorAll('.cell_input pre')].filter((p) => p.scrollWidth > p.clientWidth).length"
        )
        assert chromium.run(scrolling) == 0, name


@with_chromium
def test_on_a_narrow_screen_a_chapter_starts_with_its_goals(chromium, pages):
    chromium.resize(390, 844)
    chromium.open(next(page for name, page in pages.items() if name.endswith("_maml.html")).file.as_uri())
    assert chromium.run("document.querySelector('article p:not(.get-notebook)').getBoundingClientRect().top") < 500
    chromium.run("document.querySelector('.book-map.narrow summary').focus()")
    chromium.key("Enter", 13)
    assert chromium.run("document.querySelector('.book-map.narrow svg').getBoundingClientRect().height") > 300


@with_chromium
def test_on_a_narrow_screen_enlarged_figures_are_wider_than_the_screen(chromium, pages):
    chromium.resize(390)
    chromium.open(pages["index.html"].file.as_uri())
    chromium.run("document.querySelector('article img').click()")
    assert chromium.run("document.querySelector('dialog img').getBoundingClientRect().width") > 700
    assert chromium.run("document.querySelector('dialog').scrollWidth > document.querySelector('dialog').clientWidth")


@with_chromium
def test_figures_enlarge_with_the_keyboard_alone(chromium, pages):
    name = next(name for name, page in pages.items() if name.startswith("chapters/") and page.images)
    chromium.open(pages[name].file.as_uri())
    assert chromium.run("document.querySelector('article img').tabIndex") == 0
    chromium.run("document.querySelector('article img').focus()")
    chromium.key("Enter", 13)
    assert chromium.run("document.querySelector('dialog[open] img').alt.length") > 0
    chromium.key("Escape", 27)
    assert chromium.run("document.querySelector('dialog')") is None
    assert chromium.run("document.activeElement === document.querySelector('article img')")


@with_chromium
def test_the_keyboard_reaches_the_content_first_and_then_the_search_and_the_map(chromium, pages):
    chromium.resize(1280)
    chromium.open(pages["index.html"].file.as_uri())
    reached = []
    for _ in range(100):
        chromium.key("Tab", 9)
        reached.append(chromium.run("[document.activeElement.getAttribute('href'), document.activeElement.className]"))
        if reached.count(reached[0]) > 1:
            break
    assert reached[0][0] == "#furo-main-content"
    assert any("sidebar-search" in str(kind) for _, kind in reached)
    in_map = [link for link, kind in reached if not isinstance(kind, str)]  # in drawings it is no text
    assert in_map == [f"chapters/{source.stem}.html" for source in press.sources()]


@with_chromium
def test_on_a_narrow_screen_the_keyboard_opens_the_navigation(chromium, pages):
    chromium.resize(390)
    chromium.open(pages["index.html"].file.as_uri())
    left = "document.querySelector('.sidebar-drawer').getBoundingClientRect().left"
    assert chromium.run(left) < 0
    for _ in range(5):
        chromium.key("Tab", 9)
        if chromium.run("document.activeElement.htmlFor === '__navigation'"):
            break
    chromium.key("Enter", 13)
    chromium.wait(f"{left} === 0")


@with_chromium
def test_on_paper_there_is_only_the_text_in_light_colors(chromium, pages):
    chromium.open(next(page for name, page in pages.items() if name.endswith("_maml.html")).file.as_uri())
    chromium.run("document.body.dataset.theme = 'dark'")
    chromium.send("Emulation.setEmulatedMedia", media="print")
    shown = functools.partial("getComputedStyle(document.querySelector('{0}')).{1}".format)
    assert chromium.run(shown(".sidebar-drawer", "display")) == "none"
    assert chromium.run(shown("article img", "filter")) == "none"
    assert chromium.run(shown("article", "color")) == "rgb(0, 0, 0)"
    chromium.send("Emulation.setEmulatedMedia", media="")


@with_chromium
def test_long_outputs_are_closed_until_they_are_opened(chromium, pages):
    name = next(
        name for name, page in pages.items() if 'hide below-input"' in page.html and name.startswith("chapters/")
    )
    chromium.open(pages[name].file.as_uri())
    chromium.run("document.querySelector('article details.hide summary').focus()")
    assert not chromium.run("document.querySelector('article details.hide').open")
    chromium.key("Enter", 13)
    assert chromium.run("document.querySelector('article details.hide').open")
