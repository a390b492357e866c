"""run.py, the one command: its setup recovers, its errors say what to do, and its jobs get their arguments.

No test needs a network: the package index is an address at which no server answers. Where this is fast, run.py
is actually started, in a small project without requirements whose press.py prints how it was called.
"""

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

RUN = Path(__file__).resolve().parent.parent / "run.py"
PRESS = """
import json, os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
print(json.dumps({"argv": sys.argv, "folder": os.getcwd(), "utf8": sys.flags.utf8_mode,
                  "path": os.environ["PYTHONPATH"].split(os.pathsep)}), flush=True)
if "wait" in sys.argv:
    time.sleep(60)
if "crash" in sys.argv:
    os.abort()
sys.exit(int(os.environ.get("PRESS_CODE", "0")))
"""


def load(path):
    """Import a run.py by its path."""
    spec = importlib.util.spec_from_file_location("run_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variables(**changes):
    """An explicit environment in which pip reaches no index."""
    strange = ("PIP_", "PYTHON", "META_KERAS_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(strange) and not name.upper().endswith("_PROXY")
    }
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/", **changes}


def start(project, *arguments, first="", **changes):
    """Start a project's run.py, from a folder that is not the project's, after a first statement."""
    command = [sys.executable, str(project / "run.py"), *arguments]
    if first:
        program = f"import runpy, sys\n{first}\nsys.argv = sys.argv[1:]\n"
        command[1:1] = ["-c", program + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    return subprocess.Popen(
        command,
        cwd=project.parent,
        env=variables(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    """The exit code, the job's output and the messages of run.py."""
    output, told = process.communicate(timeout=120)
    return process.returncode, output, told


def call(project, *arguments, **options):
    """Start a project's run.py and wait for its end."""
    return finish(start(project, *arguments, **options))


def make_project(folder):
    """A minimal project."""
    (folder / "chapters" / "site").mkdir(parents=True)
    shutil.copy(RUN, folder / "run.py")
    (folder / "requirements.txt").touch()
    (folder / "chapters" / "press.py").write_text(PRESS)
    (folder / "chapters" / "site" / "build.py").touch()
    return folder


def state_of(folder):
    """Everything in a folder: names, contents and times."""
    entries = [folder, *sorted(folder.rglob("*"))]
    return [(entry, entry.is_file() and entry.read_bytes(), entry.lstat().st_mtime_ns) for entry in entries]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A project whose environment was created by run.py."""
    project = make_project(tmp_path_factory.mktemp("prepared") / "project")
    code, _, told = call(project)
    assert code == 0, told
    return project


@pytest.fixture
def ready(prepared, tmp_path):
    """A copy of the prepared project, to be damaged."""
    return Path(shutil.copytree(prepared, tmp_path / "project", symlinks=True))


@pytest.fixture
def bare(tmp_path):
    """A project without an environment."""
    return make_project(tmp_path / "project")


@pytest.fixture
def run():
    """The project's run.py as a module."""
    return load(RUN)


def assert_one_paragraph(result, *parts):
    """The set-up ended with exit code 1 and one paragraph, its last line, that has all these parts."""
    code, output, told = result
    assert code == 1
    assert output == ""
    assert "Traceback" not in told
    paragraph = told.rstrip().splitlines()[-1]
    for part in parts:
        assert part in paragraph


# The jobs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["run"]),
        (["01", "02"], ["run", "01", "02"]),
        (["run", "01"], ["run", "01"]),
        (["build"], ["build"]),
        (["build", "01"], ["build", "01"]),
        (["verify", "01"], ["verify", "01"]),
    ],
)
def test_the_press_gets_the_job_and_the_chapters(prepared, arguments, expected):
    code, output, told = call(prepared, *arguments, PYTHONPATH="elsewhere")
    said = json.loads(output)
    assert (code, told) == (0, "")
    assert said["argv"] == ["chapters/press.py", *expected]
    assert said["folder"] == str(prepared)
    assert said["path"] == [str(prepared), "elsewhere"]
    assert said["utf8"] == 1


@pytest.mark.parametrize(
    ("job", "more", "expected"),
    [
        ("check", [], ["py chapters/checks.py"]),
        ("lint", [], ["py -m ruff check .", "py -m ruff format --check ."]),
        ("test", [], ["py -m pytest -n 2 --dist worksteal -m not slow"]),
        ("test", ["--all"], ["py -m pytest -n 2 --dist worksteal"]),
        ("test", ["-k", "run"], ["py -m pytest -k run"]),
        ("lab", [], ["py -m jupyterlab -y chapters"]),
        ("serve", [], ["py chapters/site/serve.py"]),
        ("run", ["01"], ["py chapters/press.py run 01", "py chapters/site/build.py"]),
        ("build", ["01"], ["py chapters/press.py build 01", "py chapters/site/build.py"]),
    ],
)
def test_the_other_jobs_call_their_programs(run, job, more, expected):
    assert [" ".join(command) for command in run.commands(job, more, "py")] == expected


def test_the_exit_code_is_the_jobs(prepared):
    assert call(prepared, PRESS_CODE="7")[0] == 7


def test_one_failing_command_fails_the_job(prepared):
    assert call(prepared, "lint")[0] == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal")
def test_a_job_ended_by_a_signal_has_the_shells_exit_code(prepared):
    assert call(prepared, "run", "crash")[0] == 128 + signal.SIGABRT


@pytest.mark.skipif(os.name == "nt", reason="a process group gets its Ctrl-C in another way on Windows")
def test_ctrl_c_ends_both(prepared):
    # A shell lets background processes ignore Ctrl-C, and the tests may run in the background.
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = start(prepared, "run", "wait", first=hear)
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process) == (130, "", "\nStopped.\n")


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_help_is_the_usage_and_sets_nothing_up(bare, word):
    code, output, told = call(bare, word)
    assert (code, told) == (0, "")
    assert "python3 run.py verify [01]" in output
    assert not (bare / ".venv").exists()


def test_the_usage_names_every_job(run):
    for job in run.JOBS:
        assert job == "run" or f"python3 run.py {job} " in run.__doc__


def test_an_unknown_job_is_named(bare):
    code, output, told = call(bare, "tests")
    assert (code, output) == (2, "")
    assert told.startswith("run.py has no job named 'tests'. It has these:\n")
    assert "python3 run.py test " in told
    assert not (bare / ".venv").exists()


# The stamp and the set-up


def test_a_second_run_looks_at_the_stamp_alone(ready):
    for pip in ready.glob(".venv/[Ll]ib/**/site-packages/pip"):
        shutil.rmtree(pip)
    before = state_of(ready / ".venv")
    code, _, told = call(ready, first="sys.modules['venv'] = None")
    assert (code, told) == (0, "")
    assert state_of(ready / ".venv") == before


@pytest.fixture
def watched(ready, monkeypatch):
    """The module of a ready project, and the list of what its set-up would have run."""
    module, calls = load(ready / "run.py"), []
    monkeypatch.delenv("META_KERAS_VENV", raising=False)
    monkeypatch.setattr(module, "watch", lambda arguments, folder, status: calls.append(arguments))
    return module, calls, ready / ".venv"


def test_a_stamp_serves_its_own_requirements_and_python_only(watched, monkeypatch):
    module, _, folder = watched
    assert module.is_ready(folder, [])
    assert not module.is_ready(folder, ["jupyterlab"])
    with monkeypatch.context() as patch:
        patch.setattr(module.sys, "version_info", (3, 99, 0))
        assert not module.is_ready(folder, [])
    module.REQUIREMENTS.write_text("# another line\n")
    assert not module.is_ready(folder, [])


@pytest.mark.parametrize("damage", ["requirements", "no stamp", "half a stamp", "no python"])
def test_an_environment_that_does_not_fit_is_made_anew(watched, damage):
    module, calls, folder = watched
    stamp = folder / module.STAMP
    (folder / "left over").mkdir()
    if damage == "requirements":
        module.REQUIREMENTS.write_text("# another line\n")
    elif damage == "no stamp":
        stamp.unlink()
    elif damage == "half a stamp":
        stamp.write_bytes(stamp.read_bytes()[:20] + b"\xff")
    else:
        Path(module.python_in(folder)).unlink()
    module.prepare(folder, [])
    assert [arguments[0] for arguments in calls] == ["ensurepip", "pip"]
    assert calls[1][-2:] == ["-r", str(module.REQUIREMENTS)]
    assert module.is_ready(folder, [])
    assert not (folder / "left over").exists()


def test_jupyterlab_is_added_once(watched, capsys):
    module, calls, folder = watched
    module.prepare(folder, ["jupyterlab"])
    assert [arguments[-3:] for arguments in calls] == [["-r", str(module.REQUIREMENTS), "jupyterlab"]]
    assert "Adding jupyterlab" in capsys.readouterr().err
    assert module.is_ready(folder, ["jupyterlab"])
    assert module.is_ready(folder, [])


def test_there_is_no_stamp_while_or_after_pip_fails(watched, monkeypatch):
    module, _, folder = watched
    module.REQUIREMENTS.write_text("# another line\n")

    def fail(arguments, folder, status):
        assert not (folder / module.STAMP).exists()
        raise module.SetUpError

    monkeypatch.setattr(module, "watch", fail)
    with pytest.raises(module.SetUpError):
        module.prepare(folder, [])
    assert not (folder / module.STAMP).exists()


def test_the_stamp_falls_when_pip_begins_to_install(ready):
    module = load(ready / "run.py")
    (ready / "says.py").write_text("print('Installing collected packages: a, b'); raise SystemExit(1)")
    shutil.copy(ready / "says.py", next(ready.glob(".venv/[Ll]ib/**/site-packages")))
    with pytest.raises(module.SetUpError):
        module.watch(["says"], ready / ".venv", module.Status())
    assert not (ready / ".venv" / module.STAMP).exists()


def test_a_clearing_cut_short_can_go_on(ready, monkeypatch):
    module = load(ready / "run.py")
    monkeypatch.setattr(module.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        module.clear(ready / ".venv")
    assert not module.is_ready(ready / ".venv", [])
    module.check_computer(ready / ".venv")


@pytest.mark.slow
def test_a_killed_set_up_heals(bare):
    process = start(bare)
    while not (bare / ".venv" / "setup.log").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    code, output, told = call(bare)
    assert code == 0
    assert json.loads(output)["argv"][1:] == ["run"]
    assert "Setting up " in told
    assert "The environment is ready after " in told


def test_a_second_set_up_waits_for_the_first(ready):
    module = load(ready / "run.py")
    folder = ready / ".venv"
    (folder / module.STAMP).unlink()
    with module.locked(folder):
        process = start(ready)
        assert "Another setup is running in " in process.stderr.readline()
        module.write_stamp(folder, [])
    code, output, told = finish(process)
    assert (code, told) == (0, "")
    assert json.loads(output)["argv"][1:] == ["run"]


def test_the_variable_names_another_place(ready):
    (ready / ".venv").rename(ready / "place")
    code, _, told = call(ready, META_KERAS_VENV="place")
    assert (code, told) == (0, "")
    assert not (ready / ".venv").exists()


# The oldest versions


REQUIREMENTS = [
    line.partition("#")[0].strip()
    for line in RUN.with_name("requirements.txt").read_text().splitlines()
    if line.partition("#")[0].strip()
]


def test_the_oldest_versions_are_the_lower_bounds_of_the_requirements(run):
    oldest = run.oldest_versions()
    assert len(oldest) == len(REQUIREMENTS)
    for line, pinned in zip(map(Requirement, REQUIREMENTS), map(Requirement, oldest), strict=True):
        (version,) = pinned.specifier
        (bound,) = (part for part in line.specifier if part.operator == ">=")
        assert (pinned.name, pinned.marker) == (line.name, line.marker)
        assert (version.operator, version.version) == ("==", bound.version)
        assert line.specifier.contains(version.version)


@pytest.fixture
def jobs(watched, monkeypatch):
    """The command lines of the jobs that a ready project would have run."""
    commands = []
    monkeypatch.setattr(watched[0], "call", lambda command: commands.append(command) or 0)
    return commands


def test_the_oldest_versions_have_an_environment_of_their_own(watched, jobs):
    module, calls, folder = watched
    module.REQUIREMENTS.write_text("a>=2.0,<3; python_version < '3.13'\nb>=1.5  # a comment\n")
    before, oldest = state_of(folder), folder.with_name(".venv-oldest")
    assert module.main(["test", "-k", "x", "--oldest"]) == 0
    assert calls[1][-4:] == ["-r", str(module.REQUIREMENTS), "a==2.0; python_version < '3.13'", "b==1.5"]
    assert jobs == [[module.python_in(oldest), "-m", "pytest", "-k", "x"]]
    assert state_of(folder) == before
    assert (oldest / module.MARKER).exists()
    # A second time only the stamp is read.
    calls.clear()
    assert module.main(["test", "--oldest", "--all"]) == 0
    assert (calls, jobs[1][3:]) == ([], ["-n", "2", "--dist", "worksteal"])
    # Other lower bounds need another environment.
    module.REQUIREMENTS.write_text("a>=2.1,<3\n")
    assert module.main(["test", "--oldest"]) == 0
    assert [arguments[0] for arguments in calls] == ["ensurepip", "pip"] and calls[1][-1] == "a==2.1"


def test_the_oldest_environment_never_replaces_a_foreign_folder(watched, jobs, capsys):
    module, calls, folder = watched
    foreign = folder.with_name(".venv-oldest")
    foreign.mkdir()
    (foreign / "mine").write_text("mine")
    before = state_of(foreign)
    assert module.main(["test", "--oldest"]) == 1
    assert f"{foreign} already exists" in capsys.readouterr().err
    assert (state_of(foreign), calls, jobs) == (before, [], [])


def test_the_oldest_environment_is_next_to_the_one_that_the_variable_names(watched, jobs, monkeypatch):
    module, _, _ = watched
    monkeypatch.setenv("META_KERAS_VENV", "place")
    assert module.main(["test", "--oldest"]) == 0
    assert jobs[0][0] == module.python_in(module.ROOT / "place-oldest")


@pytest.mark.parametrize("job", ["check", "lint"])
def test_other_jobs_pass_the_option_on(watched, jobs, job):
    assert watched[0].main([job, "--oldest"]) == 0
    assert all(command[-1] == "--oldest" for command in jobs) and watched[1] == []


# The errors


def test_the_file_parses_under_python_3_6():
    ast.parse(RUN.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_a_reader_meets_plain_characters_only():
    assert RUN.read_text(encoding="utf-8").isascii()


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 14, 0)])
def test_error_wrong_python(bare, version):
    result = call(bare, first=f"sys.version_info = {version}")
    assert_one_paragraph(result, "This is Python ", "needs Python 3.11, 3.12 or 3.13", "`python3.12 run.py`")
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_error_no_venv_module(bare, module):
    result = call(bare, first=f"sys.modules['{module}'] = None")
    assert_one_paragraph(result, f"`{module}`", "`sudo apt install python3-venv`")
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize("kind", ["folder", "file", "link to nowhere"])
def test_error_a_foreign_folder_stays_untouched(bare, tmp_path, kind):
    foreign = tmp_path / "elsewhere"
    if kind == "folder":
        foreign.mkdir()
        (foreign / "pyvenv.cfg").write_text("home = somewhere\n")
    elif kind == "file":
        foreign.write_text("mine")
    else:
        foreign.symlink_to(tmp_path / "nowhere")
    before = state_of(foreign)
    result = call(bare, META_KERAS_VENV=str(foreign))
    assert_one_paragraph(result, str(foreign), "run.py did not create it", "set META_KERAS_VENV to")
    assert state_of(foreign) == before
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_folder_may_be_filled(run, tmp_path):
    run.check_computer(tmp_path)


def test_error_no_network_leaves_the_environment_as_it_was(ready):
    result = call(ready, "lab")
    assert_one_paragraph(result, "cannot reach the package index", "HTTPS_PROXY", "PIP_INDEX_URL", "setup.log")
    assert "Retrying" in (ready / ".venv" / "setup.log").read_text()
    assert "WARNING" not in result[2]
    assert call(ready)[::2] == (0, "")


def test_error_an_index_that_stays_silent(ready, monkeypatch):
    module = load(ready / "run.py")
    monkeypatch.setattr(module, "SECONDS_TO_FIRST_ANSWER", 0)
    with pytest.raises(module.SetUpError, match="cannot reach the package index"):
        module.watch(["timeit", "-n1", "-r1", "__import__('time').sleep(30)"], ready / ".venv", module.Status())


def test_error_no_wheel_for_this_computer(ready):
    result = call(ready, "lab", PIP_NO_INDEX="1")
    assert_one_paragraph(result, "No matching distribution found for jupyterlab", "no version for this computer")


def test_error_any_other_shows_the_last_lines_and_the_log(ready):
    code, output, told = call(ready, "lab", PIP_CONSTRAINT=str(ready / "no-such-file"))
    assert (code, output) == (1, "")
    assert "Traceback" not in told
    assert str(ready / ".venv" / "setup.log") in told
    assert "no-such-file" in told.splitlines()[-1]


def test_error_disk_full_beforehand(bare):
    result = call(bare, first="import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free=1e9)")
    assert_one_paragraph(result, "1.0 GB free", "about 4 GB", "META_KERAS_VENV")


def test_error_no_write_permission(bare):
    first = "def mkdir(*_, **__): raise PermissionError(13, 'Permission denied', 'here')"
    result = call(bare, first=f"{first}\nimport pathlib; pathlib.Path.mkdir = mkdir")
    assert_one_paragraph(result, "cannot write to", "([Errno 13] Permission denied: 'here')", "META_KERAS_VENV")


@pytest.mark.parametrize(
    ("said", "beginning"),
    [
        (
            "ERROR: Could not install packages: [Errno 28] No space left on device: '/x'\nhint",
            "There is not enough disk space",
        ),
        ("[WinError 112] a sentence in another language", "There is not enough disk space"),
        ("WARNING: Retrying (Retry(total=0\nERROR: Could not find (from versions: none)", "pip cannot reach"),
        ("pip._vendor.urllib3.exceptions.ReadTimeoutError: Read timed out.", "pip cannot reach"),
        ("ERROR: HTTPSConnectionPool(host='x', port=443): Max retries exceeded", "pip cannot reach"),
        (
            "ERROR: (from versions: 2.16)\nERROR: No matching distribution found for a==2",
            "No matching distribution",
        ),
        ("OSError: [Errno 30] Read-only file system: '/x'\nhint", "run.py cannot write"),
        ("[WinError 5] a sentence in another language", "run.py cannot write"),
        ("WARNING: Retrying: Read timed out\nerror: no compiler", "The environment could not be created"),
    ],
)
def test_the_cause_is_told_from_what_was_said(run, tmp_path, said, beginning):
    assert str(run.diagnosis(said, tmp_path)).startswith(beginning)


@pytest.mark.parametrize(
    ("line", "gist"),
    [
        ("Collecting keras<4 (from -r requirements.txt (line 2))\n", "Collecting keras<4"),
        (
            "  Downloading a_b-2.21.0-cp311-cp311-win_amd64.whl (630.1 MB)\n",
            "Downloading a_b-2.21.0 (630.1 MB)",
        ),
        ("Downloading https://index/a-1.tar.gz (9 kB)\n", "Downloading a-1.tar.gz (9 kB)"),
        ("Installing collected packages: a, b, c\n", "Installing packages (3)"),
        ("WARNING: something\n", ""),
    ],
)
def test_the_status_tells_the_gist_of_a_line(run, line, gist):
    assert run.gist(line) == gist
