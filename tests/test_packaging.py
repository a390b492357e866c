"""The package: what it asks for, what it offers, how its rooms lie, and that a wheel of it works without the clone."""

import ast
import graphlib
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import meta_keras

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "meta_keras").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [
    "meta_keras",
    *(f"meta_keras.{module.name}" for module in pkgutil.iter_modules(meta_keras.__path__) if module.ispkg),
]

# Each room, and the rooms that it may import.
LAYERS = {
    "version": set(),
    "startup": set(),
    "checks": set(),
    "internals": set(),
    "inputs": set(),
    "functional": {"checks", "internals"},
    "copies": {"checks", "functional", "internals"},
    "networks": {"checks", "functional", "internals"},
    "tasks": {"checks", "inputs", "internals", "tasks"},
    "rules": {"checks", "copies", "functional", "internals", "networks", "tasks", "rules"},
    "parallel": {"checks", "functional", "internals"},
    "execution": set(),
    "faults": set(),
    "loop": {"functional", "tasks"},
    "learner": {"execution", "faults", "functional", "networks", "parallel", "rules", "tasks"},
    "report": {"checks", "inputs", "learner", "tasks", "report"},
    "classical": {"checks", "inputs", "tasks"},
    "transfer": {"checks", "copies", "inputs", "functional", "internals", "networks", "rules", "tasks", "transfer"},
}


def module_of(source):
    parts = source.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source):
    """The modules of ours that a file imports, wherever in it."""
    modules = {module_of(other) for other in SOURCES}
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source} imports by dots"
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            yield from whole or {node.module} & modules


def run(*command, folder):
    """Run Python in a folder, with no path to the clone; its output, or its complaint."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that a wheel, built from a copy of the sources, was installed into."""
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


def test_what_the_package_asks_for_stands_in_the_requirements():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = {re.sub(r"\s", "", line.partition("#")[0]) for line in lines} - {""}
    asked = {re.sub(r"\s", "", line) for line in PROJECT["project"]["dependencies"]}
    assert asked and asked <= required


def test_what_the_library_imports_it_asks_for():
    names = {"tensorflow_datasets": "tensorflow-datasets", "cycler": "matplotlib"}
    asked = {re.match(r"[\w-]+", line).group() for line in PROJECT["project"]["dependencies"]}
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
def test_a_room_imports_only_what_lies_below_it(source):
    _, _, inner = module_of(source).partition(".")
    if inner:
        room = inner.partition(".")[0]
        imported = {name.split(".")[1] for name in imports_of(source)}
        assert imported <= LAYERS[room] | ({room} if source.name == "__init__.py" else set())


def test_the_layers_are_those_of_the_library_and_no_import_runs_in_a_circle():
    assert {name.split(".")[1] for name in map(module_of, SOURCES) if "." in name} == set(LAYERS)
    order = list(graphlib.TopologicalSorter({module_of(s): set(imports_of(s)) for s in SOURCES}).static_order())
    assert order.index("meta_keras.functional") < order.index("meta_keras.learner") < order.index("meta_keras")


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
    assert {"glyphs.npz", "fashion.npz", "languages.npz", "SHA256SUMS", "README.md"} <= there
    tops = {folder.name for folder in installed.iterdir() if not folder.name.endswith(".dist-info")}
    assert tops - {"__pycache__"} == {"meta_keras"}
