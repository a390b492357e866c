#!/usr/bin/env python3
"""meta_keras: the one command. On Windows write `py run.py` for `python3 run.py`.

    python3 run.py                run every chapter on the embedded data
    python3 run.py 01 [02 ...]    run these chapters
    python3 run.py build [01]     make the stored notebooks anew
    python3 run.py check          look over the stored notebooks, links and tables; runs nothing
    python3 run.py verify [01]    run and compare with the stored numbers
    python3 run.py lint           ruff: the rules and the format
    python3 run.py test [...]     the tests; whatever follows goes to pytest
    python3 run.py lab            JupyterLab on the chapters; installs JupyterLab on first use
    python3 run.py help           this text

The first run makes a virtual environment in `.venv` beside this file (the variable META_KERAS_VENV
names another place) and installs requirements.txt into it; every later run starts at once.
"""

import contextlib
import hashlib
import importlib.util
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

if os.name == "nt":
    import msvcrt
else:
    import fcntl

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements.txt"
MARKER, STAMP, LOG = ".made_by_meta_keras", "meta_keras.stamp", "setup.log"
GIGABYTES_NEEDED = 4
SECONDS_TO_FIRST_ANSWER = 40
PIP = ["pip", "install", "--progress-bar", "off", "--no-input", "--disable-pip-version-check"]
PIP += ["--retries", "1", "--timeout", "15"]
JOBS = {
    "run": [["chapters/press.py", "run"]],
    "build": [["chapters/press.py", "build"]],
    "check": [["chapters/checks.py"]],
    "verify": [["chapters/press.py", "verify"]],
    "lint": [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."]],
    "test": [["-m", "pytest"]],
    "lab": [["-m", "jupyterlab", "-y", "chapters"]],
}
EXTRAS = {"lab": ["jupyterlab"]}

PYTHON = (
    "This is Python {version} ({python}), and meta_keras needs Python 3.11, 3.12 or 3.13: TensorFlow does "
    "not come for newer ones, nor today's Keras for older ones. Please install one of the three (python.org "
    "has them) and call it by name: `python3.12 run.py`, on Windows `py -3.12 run.py`."
)
VENV = (
    "This Python ({python}) lacks its own module `{found}`, which it takes to make an environment. Please "
    "install it (Debian and Ubuntu: `sudo apt install python3-venv`; elsewhere, a Python from python.org has "
    "it) and run this again."
)
FOREIGN = (
    "{folder} is there already, and run.py did not make it, so it stays as it is. The environment needs a "
    "place of its own: please move that one away, or set META_KERAS_VENV to a folder that does not exist "
    "yet, and run this again."
)
DISK = (
    "The disk is too full ({found}): the environment needs about {gigabytes} GB in {folder} and, while it is "
    "made, room in {temporary}. Please free some space, or set META_KERAS_VENV to a folder on a larger disk, "
    "and run this again."
)
NETWORK = (
    "pip cannot reach the package index, where the packages have to come from. Please connect to the "
    "Internet and run this again; behind a proxy set HTTPS_PROXY first, and if you have an index of your own "
    "in place of PyPI set PIP_INDEX_URL. All that pip said is in {log}."
)
PLATFORM = (
    "{found}: the package index answers, but has nothing that fits this computer ({computer}). TensorFlow "
    "comes for 64-bit Python on Windows, on macOS with Apple silicon, and on Linux with glibc (x86_64 or "
    "aarch64): please use one of these, or an index that has the package. All that pip said is in {log}."
)
PERMISSION = (
    "The environment in {folder} cannot be written ({found}). It needs a folder that you may write to and "
    "that no other program holds open: please allow that, or set META_KERAS_VENV to another folder, and run "
    "this again."
)
OTHER = (
    "The environment could not be made. Please see to what these last lines name and run this again; the "
    "whole log, as far as pip got, is {log}.\n{tail}"
)
NO_CONNECTION = r"Max retries|[Tt]imed out|Connection\w*Error|IncompleteRead|incomplete-download"
SIGNS = (
    (r".*(Errno (28|122)\b|WinError 112\b|No space left|not enough space|quota exceeded).*", DISK),
    (r"(?s)Retrying \(Retry.*from versions: none", NETWORK),
    (r"No matching distribution found for \S+", PLATFORM),
    (rf"(?m)^(?!WARNING).*({NO_CONNECTION})", NETWORK),
    (r".*(Errno (1|13|30)\b|WinError (5|32)\b|Permission denied|Access is denied).*", PERMISSION),
)


class SetUpError(Exception):
    """A paragraph for the reader: what was found, what is needed, what to do."""


def paragraph(template: str, folder: Path, found: str = "", said: str = "") -> str:
    """Fill a paragraph with the facts of this computer and the end of what pip or the system said."""
    lines = [line for line in said.splitlines() if line.strip()]
    return template.format(
        found=found.strip(),
        folder=folder,
        log=folder / LOG,
        tail="\n".join("    " + line for line in lines[-6:]),
        gigabytes=GIGABYTES_NEEDED,
        temporary=tempfile.gettempdir(),
        python=sys.executable,
        version=platform.python_version(),
        computer=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def diagnosis(said: str, folder: Path) -> SetUpError:
    """Tell from what pip or the system said why the set-up failed."""
    for sign, template in SIGNS:
        match = re.search(sign, said)
        if match:
            return SetUpError(paragraph(template, folder, match.group()))
    return SetUpError(paragraph(OTHER, folder, said=said))


def tell(text: str, end: str = "\n") -> None:
    """Speak to the reader without a trace in the job's own output."""
    print(text, end=end, file=sys.stderr, flush=True)


class Status:
    """One line saying what happens now: rewritten in place on a terminal, printed now and then elsewhere."""

    def __init__(self) -> None:
        self.began = self.printed = time.monotonic()
        self.doing = "Making the environment"

    def show(self, doing: str = "") -> None:
        """Say what happens now, or that it still does."""
        self.doing = doing or self.doing
        line = f"{time.monotonic() - self.began:5.0f} s  {self.doing}"
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            tell("\r" + line[:width].ljust(width), end="")
        elif time.monotonic() - self.printed > 15:
            self.printed = time.monotonic()
            tell(line)

    def erase(self) -> None:
        """Leave a terminal's line empty for what comes next."""
        if sys.stderr.isatty():
            tell("\r" + " " * (shutil.get_terminal_size().columns - 1), end="\r")


def environment_folder() -> Path:
    """A relative META_KERAS_VENV counts from here, so that it means one place in every current folder."""
    return ROOT / os.path.expanduser(os.environ.get("META_KERAS_VENV") or ".venv")


def python_in(folder: Path) -> str:
    """The environment's own Python."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def fingerprint() -> str:
    """What an environment is made from: it serves as long as neither changes."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    return f"{wanted} Python {sys.version_info[0]}.{sys.version_info[1]}"


def is_ready(folder: Path, extras: "list[str]") -> bool:
    """Whether a set-up with these requirements, this Python and these extras went to its end."""
    try:
        stamp = (folder / STAMP).read_text(errors="replace").splitlines()
    except OSError:
        return False
    return stamp[:1] == [fingerprint()] and set(extras) <= set(stamp) and os.path.isfile(python_in(folder))


def write_stamp(folder: Path, extras: "list[str]") -> None:
    """Declare the environment complete: after all else is on the disk, and whole or not at all."""
    if hasattr(os, "sync"):
        os.sync()
    fresh = folder / (STAMP + ".new")
    with fresh.open("w") as file:
        file.write("\n".join([fingerprint(), *extras]))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / STAMP)


def check_computer(folder: Path) -> None:
    """Stop where no environment can be made, before anything is changed."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise SetUpError(paragraph(PYTHON, folder))
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetUpError(paragraph(VENV, folder, module))
    # An empty folder is nobody's: there is nothing in it to lose.
    if os.path.lexists(str(folder)):
        names = os.listdir(str(folder)) if folder.is_dir() else [folder.name]
        if names and MARKER not in names:
            raise SetUpError(paragraph(FOREIGN, folder))


def try_lock(handle: int) -> bool:
    """Take the lock on an open file if no other process holds it."""
    try:
        if os.name == "nt":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def locked(folder: Path) -> "Iterator[None]":
    """Have the folder to ourselves; the system frees the lock of a process that is no more."""
    handle = os.open(str(folder / MARKER), os.O_RDWR | os.O_CREAT)
    try:
        # pip inherits the lock: should run.py be killed, the next one waits until its orphan has ended too.
        os.set_inheritable(handle, True)
        if not try_lock(handle):
            tell(f"Another set-up is at work in {folder}; this one waits for it to end.")
            while not try_lock(handle):
                time.sleep(0.3)
        yield
    finally:
        os.close(handle)


def clear(folder: Path) -> None:
    """Empty an environment of ours: its stamp first and never its marker, so that the next run can go on."""
    (folder / STAMP).unlink(missing_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(str(entry))
        elif entry.name != MARKER:
            entry.unlink()


def gist(line: str) -> str:
    """What a line of pip's tells about its progress, if anything."""
    if line.startswith("Installing collected packages"):
        return f"Installing packages ({line.count(',') + 1})"
    steps = "Collecting|Downloading|Using cached|Processing|Building wheel for|Requirement already satisfied:"
    tags_of_a_wheel = r"(?:(?:-[^-\s]+){3}\.whl\S*)?"
    match = re.match(rf"\s*({steps}) (?:\S*[/\\])?(\S+?){tags_of_a_wheel}( \([\d.]+ .?B\))?(?:\s|$)", line)
    return "{} {}{}".format(*match.groups("")) if match else ""


def lines_of(process: "subprocess.Popen[str]") -> "Iterator[str]":
    """The lines a process says as they come, and an empty one for every second in which it is silent."""
    lines = queue.Queue()

    def listen() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            line = ""
        if line is None:
            return
        yield line


def watch(arguments: "list[str]", folder: Path, status: Status) -> None:
    """Run a module in the environment: all it says goes to the log, the gist of it to the status line."""
    command = [python_in(folder), "-I", "-X", "utf8", "-m", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, close_fds=False, encoding="utf-8", errors="replace", **pipes)
    said, answered, began = "", False, time.monotonic()
    try:
        with (folder / LOG).open("a", encoding="utf-8") as log:
            for line in lines_of(process):
                log.write(line)
                said += line
                answered = answered or gist(line) != ""
                # A firewall that swallows everything would keep pip trying for minutes.
                if not answered and time.monotonic() - began > SECONDS_TO_FIRST_ANSWER:
                    raise SetUpError(paragraph(NETWORK, folder))
                # pip has changed nothing up to this line; from here on a former stamp would be a lie.
                if line.startswith("Installing collected packages"):
                    (folder / STAMP).unlink(missing_ok=True)
                status.show(gist(line))
        if process.wait() != 0:
            raise diagnosis(said, folder)
    finally:
        process.kill()
        process.wait()


def make(folder: Path, status: Status) -> None:
    """Make the bare environment. Always from nothing: what is installed over an older state, or over half
    of one, may keep what nobody asks for any more. pip still has its downloads, so that little is lost."""
    import venv  # not at the top: check_computer makes sure first that it is there

    tell(f"Setting up, once, in {folder}: about 600 MB to download, 2.5 GB on disk, a few minutes.")
    clear(folder)
    free = shutil.disk_usage(str(folder)).free / 1e9
    if free < GIGABYTES_NEEDED:
        raise SetUpError(paragraph(DISK, folder, f"{free:.1f} GB free"))
    venv.EnvBuilder(symlinks=os.name != "nt").create(str(folder))
    watch(["ensurepip", "--default-pip"], folder, status)


def prepare(folder: Path, extras: "list[str]") -> None:
    """See to it that the environment is there: a look at its stamp, or else the set-up."""
    if is_ready(folder, extras):
        return
    check_computer(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        status = Status()
        try:
            if is_ready(folder, extras):
                return
            if is_ready(folder, []):
                tell(f"Adding {', '.join(extras)} to the environment, once.")
            else:
                make(folder, status)
            status.show("Asking the package index")
            watch([*PIP, "-r", str(REQUIREMENTS), *extras], folder, status)
            write_stamp(folder, extras)
        finally:
            status.erase()
        tell(f"The environment is ready after {time.monotonic() - status.began:.0f} s.")


def call(command: "list[str]") -> int:
    """Run a job's command to its end and return its exit code as a shell would."""
    paths = [str(ROOT)] + [path for path in [os.environ.get("PYTHONPATH")] if path]
    variables = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), PYTHONUTF8="1")
    process = subprocess.Popen(command, cwd=str(ROOT), env=variables)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # Ctrl-C reaches the job too: it gets the time to tidy up after itself.
        with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.terminate()
        raise
    return code if code >= 0 else 128 - code


def commands(job: str, more: "list[str]", python: str) -> "list[list[str]]":
    """The command lines of a job; what follows the job's name goes to each of them."""
    return [[python, *arguments, *more] for arguments in JOBS[job]]


def main(arguments: "list[str]") -> int:
    """Do the job that the arguments name and return the exit code."""
    job, more = (arguments[0], arguments[1:]) if arguments else ("run", [])
    if job[:1].isdigit():
        job, more = "run", arguments
    if job in ("help", "-h", "--help"):
        print(__doc__.strip())
        return 0
    if job not in JOBS:
        tell(f"run.py knows no job named '{job}'.\n\n{__doc__.strip()}")
        return 2
    folder = environment_folder()
    try:
        try:
            prepare(folder, EXTRAS.get(job, []))
        except OSError as error:
            raise diagnosis(str(error), folder) from error
        codes = [call(command) for command in commands(job, more, python_in(folder))]
    except SetUpError as error:
        tell(str(error))
        return 1
    except KeyboardInterrupt:
        tell("\nStopped.")
        return 130
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
