"""The package: what it requires and exports, which module may import which, and a wheel that works on its own."""

import ast
import graphlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import meta_keras

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "meta_keras").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = sorted({".".join(source.parent.relative_to(ROOT).parts) for source in SOURCES})
DEPENDENCIES = [Requirement(line) for line in PROJECT["project"]["dependencies"]]

# What Google Colab had installed in August 2026, with Python 3.13. `pip install` replaces none of it.
COLAB = {
    "tensorflow": "2.20.0",
    "keras": "3.13.2",
    "numpy": "2.1.3",
    "matplotlib": "3.10.0",
    "tensorflow-datasets": "4.9.10",
}

# Each module or subpackage, and those that it may import.
LAYERS = {
    "version": set(),
    "startup": set(),
    "checks": set(),
    "internals": set(),
    "embedded": set(),
    "inputs": {"checks", "internals"},
    "switches": set(),
    "convolutions": {"switches"},
    "batch_norm": {"convolutions", "switches"},
    "pooling": {"convolutions", "switches"},
    "targets": {"internals"},
    "outputs": {"internals", "targets"},
    "traces": {"internals", "pooling"},
    "scaling": {"checks", "inputs", "internals", "traces"},
    "functional": {"checks", "internals", "batch_norm"},
    "copies": {"checks", "functional", "internals"},
    "networks": {"checks"},
    "tasks": {"checks", "embedded", "inputs", "internals", "tasks"},
    "models": {"internals", "targets", "tasks"},
    "rules": {"checks", "copies", "embedded", "functional", "internals", "outputs", "traces", "rules"},
    "per_task": {"functional", "outputs", "traces", "rules"},
    "predictors": {"inputs", "internals", "per_task", "rules", "tasks"},
    "parallel": {"checks", "convolutions", "functional", "internals"},
    "execution": set(),
    "faults": set(),
    "replicas": {"internals"},
    "stepping": {
        "checks",
        "convolutions",
        "execution",
        "faults",
        "internals",
        "models",
        "pooling",
        "replicas",
        "targets",
        "tasks",
    },
    "training": {"checks", "faults", "inputs", "internals", "scaling", "stepping", "targets", "tasks"},
    "learned_optimizer": {"checks", "internals", "rules"},
    "training_runs": {"copies", "functional", "internals", "outputs", "traces", "parallel", "rules"},
    "unrolled_training": {
        "checks",
        "functional",
        "outputs",
        "traces",
        "rules",
        "scaling",
        "tasks",
        "training",
        "training_runs",
    },
    "loop": {"checks", "functional", "outputs", "traces", "rules", "scaling", "tasks"},
    "learner": {
        *(
            "predictors",
            "checks",
            "functional",
            "inputs",
            "networks",
            "outputs",
            "traces",
            "parallel",
            "per_task",
            "replicas",
            "rules",
            "scaling",
            "tasks",
        ),
        "training",
    },
    "report": {"checks", "embedded", "inputs", "learner", "outputs", "targets", "tasks", "report"},
    "classical": {"checks", "inputs", "outputs", "traces", "tasks"},
    "multitask": {
        "checks",
        "inputs",
        "internals",
        "models",
        "multitask",
        "networks",
        "outputs",
        "targets",
        "traces",
        "scaling",
        "tasks",
    },
    "transfer": {
        *(
            "checks",
            "copies",
            "functional",
            "inputs",
            "internals",
            "models",
            "networks",
            "outputs",
            "traces",
            "rules",
            "scaling",
            "targets",
            "tasks",
        ),
        "transfer",
    },
    "unsupervised": {
        *("checks", "inputs", "internals", "learner", "models", "outputs", "report", "rules", "scaling", "tasks"),
        "unsupervised",
    },
}


def module_of(source):
    parts = source.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source):
    """Our modules that a file imports, anywhere in it."""
    modules = {module_of(other) for other in SOURCES}
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source} has a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            yield from whole or {node.module} & modules


def run(*command, folder):
    """Run Python in a folder, without a path to the clone, and return its output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which a wheel, built from a copy of the sources, was installed."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "copy"
    leave = shutil.ignore_patterns("__pycache__", "make")
    for name in ("meta_keras", "data"):
        shutil.copytree(ROOT / name, copy / name, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    pip = ("-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), folder=copy)
    (wheel,) = folder.glob("meta_keras-*.whl")
    run(*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel), folder=folder)
    shutil.rmtree(copy)
    return folder / "site"


def test_the_dependencies_of_the_package_are_in_the_requirements():
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert DEPENDENCIES and set(DEPENDENCIES) <= {Requirement(line) for line in lines if line}


@pytest.mark.parametrize("name", COLAB)
def test_an_installation_on_colab_replaces_nothing(name):
    here = {"python_version": "3.13"}
    (needed,) = (d for d in DEPENDENCIES if d.name == name and (d.marker is None or d.marker.evaluate(here)))
    assert needed.specifier.contains(COLAB[name])


def test_binder_installs_the_project_on_a_python_that_it_supports():
    lines = (ROOT / ".binder" / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")][0] == ".", "a path from the root of the project"
    version = (ROOT / ".binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(version)


def test_the_build_needs_the_setuptools_that_the_tests_have():
    (needed,) = map(Requirement, PROJECT["build-system"]["requires"])
    assert str(needed) + "," in next(line for line in (ROOT / "requirements.txt").open() if "setuptools" in line)


def test_the_package_requires_what_it_imports():
    names = {"tensorflow_datasets": "tensorflow-datasets", "cycler": "matplotlib"}
    asked = {needed.name for needed in DEPENDENCIES}
    imported = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"meta_keras"}
    assert {names.get(name, name) for name in others} <= asked


def test_every_package_is_in_the_wheel():
    assert {*PACKAGES, "meta_keras.data"} == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_offers_is_there_and_in_order(package):
    module = importlib.import_module(package)
    offered = module.__all__
    # As ruff sorts them: CONSTANTS, Classes, functions.
    assert offered == sorted(offered, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert len(set(offered)) == len(offered) and all(hasattr(module, name) for name in offered)


@pytest.mark.parametrize("source", SOURCES, ids=module_of)
def test_a_module_imports_only_from_the_layers_below_it(source):
    _, _, inner = module_of(source).partition(".")
    if inner:
        layer = inner.partition(".")[0]
        imported = {name.split(".")[1] for name in imports_of(source)}
        assert imported <= LAYERS[layer] | ({layer} if source.name == "__init__.py" else set())


def test_the_layers_are_those_of_the_library_and_imports_are_not_circular():
    assert {name.split(".")[1] for name in map(module_of, SOURCES) if "." in name} == set(LAYERS)
    order = list(graphlib.TopologicalSorter({module_of(s): set(imports_of(s)) for s in SOURCES}).static_order())
    assert order.index("meta_keras.functional") < order.index("meta_keras.learner") < order.index("meta_keras")


def test_the_readmes_table_lists_all_modules_and_each_below_those_that_it_imports():
    rows = re.findall(r"^\| (`\w+(?:\.py|/)`.*?) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    place = {name: number for number, row in enumerate(rows) for name in re.findall(r"`(\w+)(?:\.py|/)`", row)}
    assert set(LAYERS) <= set(place)
    wrong = {
        f"{layer} imports {one}" for layer, imported in LAYERS.items() for one in imported if place[one] > place[layer]
    }
    assert wrong == set()


@pytest.mark.slow
def test_a_wheel_works_without_the_clone(installed):
    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import meta_keras as mk\n"
        "print(mk.__file__, mk.__version__, len(mk.load('glyphs')), sys.path, sep='\\n')"
    )
    file, version, glyphs, path = run("-c", program, folder=installed.parent).splitlines()
    assert Path(file).is_relative_to(installed) and version == meta_keras.__version__ and glyphs == "1201"
    assert str(ROOT) not in ast.literal_eval(path)


def test_a_wheel_holds_the_data_and_no_tests(installed):
    there = {file.name for file in (installed / "meta_keras" / "data").iterdir()}
    assert {"glyphs.npz", "hanzi.npz", "fashion.npz", "languages.npz", "SHA256SUMS", "README.md"} <= there
    tops = {folder.name for folder in installed.iterdir() if not folder.name.endswith(".dist-info")}
    assert tops - {"__pycache__"} == {"meta_keras"}
