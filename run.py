#!/usr/bin/env python3
"""meta_keras: the one command. On Windows write `py run.py` instead of `python3 run.py`.

    python3 run.py                run every chapter on the embedded data, and build the website of the book
    python3 run.py 01 [02 ...]    run these chapters, and build the website
    python3 run.py serve          build the website, serve it on this computer, and open it in the browser
    python3 run.py build [01]     run chapters, store the notebooks, and build the website
    python3 run.py check          check the stored notebooks, links and tables without running anything
    python3 run.py verify [01]    run chapters and compare with the stored numbers
    python3 run.py lint           check the code and its format with ruff
    python3 run.py test           run the tests in two processes, without those marked as slow
    python3 run.py test --all     run all tests in two processes
    python3 run.py test [...]     run pytest with these arguments, for example a file or `-k name`
    python3 run.py test --oldest  the same as each of these, with the oldest supported versions of all packages
    python3 run.py lab            open the chapters in JupyterLab, which is installed on first use
    python3 run.py help           show this text

The first run creates a virtual environment in `.venv` next to this file (set META_KERAS_VENV to
choose another folder) and installs requirements.txt into it; later runs start immediately. The
oldest supported versions are the lower bounds in requirements.txt; they have an environment of
their own, `.venv-oldest`.
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
OLDEST, ALL = "--oldest", "--all"
JOBS = {
    "run": [["chapters/press.py", "run"]],
    "serve": [["chapters/site/serve.py"]],
    "build": [["chapters/press.py", "build"]],
    "check": [["chapters/checks.py"]],
    "verify": [["chapters/press.py", "verify"]],
    "lint": [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."]],
    "test": [["-m", "pytest"]],
    "lab": [["-m", "jupyterlab", "-y", "chapters"]],
}
# What follows a job, without its further arguments: the website shows all chapters.
AFTER = {"run": [["chapters/site/build.py"]], "build": [["chapters/site/build.py"]]}
EXTRAS = {"lab": ["jupyterlab"]}
# Not for single files: starting two processes takes longer than most single tests.
TWO_PROCESSES = ["-n", "2", "--dist", "worksteal"]
# The few that take much of the time, such as those that start processes, compile large programs, or open all pages.
WITHOUT_SLOW = ["-m", "not slow"]

PYTHON = (
    "This is Python {version} ({python}), but meta_keras needs Python 3.11, 3.12 or 3.13: TensorFlow does not "
    "support newer versions yet, and Keras no longer supports older ones. Please install one of the three, for "
    "example from python.org, and start run.py with it: `python3.12 run.py`, on Windows `py -3.12 run.py`."
)
VENV = (
    "This Python ({python}) does not have its standard module `{found}`, which is needed to create an "
    "environment. Please install it (on Debian and Ubuntu: `sudo apt install python3-venv`; elsewhere, use a "
    "Python from python.org) and run this command again."
)
FOREIGN = (
    "{folder} already exists, but run.py did not create it, so run.py will not change it. Please move it away, "
    "or set META_KERAS_VENV to a folder that does not exist yet, and run this command again."
)
DISK = (
    "There is not enough disk space ({found}): the environment needs about {gigabytes} GB in {folder}, and "
    "additional space in {temporary} during installation. Please free some space, or set META_KERAS_VENV to a "
    "folder on a larger disk, and run this command again."
)
NETWORK = (
    "pip cannot reach the package index to download the packages. Please connect to the Internet and run this "
    "command again; behind a proxy, set HTTPS_PROXY first, and to use another index than PyPI, set "
    "PIP_INDEX_URL. The complete output of pip is in {log}."
)
PLATFORM = (
    "{found}: the package index has no version for this computer ({computer}). TensorFlow is available for "
    "64-bit Python on Windows, on macOS with Apple silicon, and on Linux with glibc (x86_64 or aarch64): please "
    "use one of these, or an index that has the package. The complete output of pip is in {log}."
)
PERMISSION = (
    "run.py cannot write to the environment in {folder} ({found}). It needs a folder to which you have write "
    "access and in which no other program keeps files open: please change the permissions, or set "
    "META_KERAS_VENV to another folder, and run this command again."
)
OTHER = (
    "The environment could not be created. Please fix the problem that these last lines describe and run this "
    "command again; the complete output of pip is in {log}.\n{tail}"
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
    """A paragraph for the user: what was found, what is needed, and how to fix it."""


def paragraph(template: str, folder: Path, found: str = "", said: str = "") -> str:
    """Complete a paragraph with facts about this computer and the last lines of the output of pip."""
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
    """Find the reason why the setup failed in the output of pip or in an error of the system."""
    for sign, template in SIGNS:
        match = re.search(sign, said)
        if match:
            return SetUpError(paragraph(template, folder, match.group()))
    return SetUpError(paragraph(OTHER, folder, said=said))


def tell(text: str, end: str = "\n") -> None:
    """Print a message to the user, separate from the output of the job."""
    print(text, end=end, file=sys.stderr, flush=True)


class Status:
    """One line that shows progress: updated in place on a terminal, printed from time to time elsewhere."""

    def __init__(self) -> None:
        self.began = self.printed = time.monotonic()
        self.doing = "Creating the environment"

    def show(self, doing: str = "") -> None:
        """Show the current activity, or that the last one still continues."""
        self.doing = doing or self.doing
        line = f"{time.monotonic() - self.began:5.0f} s  {self.doing}"
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            tell("\r" + line[:width].ljust(width), end="")
        elif time.monotonic() - self.printed > 15:
            self.printed = time.monotonic()
            tell(line)

    def erase(self) -> None:
        """Clear the line on a terminal."""
        if sys.stderr.isatty():
            tell("\r" + " " * (shutil.get_terminal_size().columns - 1), end="\r")


def environment_folder() -> Path:
    """The environment's folder. A relative META_KERAS_VENV is relative to this file, not to the current folder."""
    return ROOT / os.path.expanduser(os.environ.get("META_KERAS_VENV") or ".venv")


def oldest_versions() -> "list[str]":
    """All requirements, each pinned to its lower bound: `keras>=3.13,<3.16` becomes `keras==3.13`."""
    lines = [line.partition("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    return [re.sub(r">=\s*([\w.]+)[^;]*", r"==\1", line, count=1) for line in lines if line]


def python_in(folder: Path) -> str:
    """The environment's Python."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def fingerprint() -> str:
    """What an environment depends on: the requirements and the version of Python."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    return f"{wanted} Python {sys.version_info[0]}.{sys.version_info[1]}"


def is_ready(folder: Path, extras: "list[str]") -> bool:
    """Whether a setup with these requirements, this version of Python and these extras was completed."""
    try:
        stamp = (folder / STAMP).read_text(errors="replace").splitlines()
    except OSError:
        return False
    return stamp[:1] == [fingerprint()] and set(extras) <= set(stamp) and os.path.isfile(python_in(folder))


def write_stamp(folder: Path, extras: "list[str]") -> None:
    """Mark the environment as complete. The mark is written atomically, after everything else is on the disk."""
    if hasattr(os, "sync"):
        os.sync()
    fresh = folder / (STAMP + ".new")
    with fresh.open("w") as file:
        file.write("\n".join([fingerprint(), *extras]))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / STAMP)


def check_computer(folder: Path) -> None:
    """Stop before anything is changed if no environment can be created here."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise SetUpError(paragraph(PYTHON, folder))
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetUpError(paragraph(VENV, folder, module))
    # An empty folder may be used: nothing in it can be lost.
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
    """Lock the folder against other setups; the system releases the lock if this process is killed."""
    handle = os.open(str(folder / MARKER), os.O_RDWR | os.O_CREAT)
    try:
        # pip inherits the lock: if run.py is killed while pip continues, the next setup waits for pip as well.
        os.set_inheritable(handle, True)
        if not try_lock(handle):
            tell(f"Another setup is running in {folder}; waiting until it has finished.")
            while not try_lock(handle):
                time.sleep(0.3)
        yield
    finally:
        os.close(handle)


def clear(folder: Path) -> None:
    """Empty our environment, its stamp first. The marker stays, so that a later run can continue."""
    (folder / STAMP).unlink(missing_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(str(entry))
        elif entry.name != MARKER:
            entry.unlink()


def gist(line: str) -> str:
    """What a line of pip's output says about its progress, if anything."""
    if line.startswith("Installing collected packages"):
        return f"Installing packages ({line.count(',') + 1})"
    steps = "Collecting|Downloading|Using cached|Processing|Building wheel for|Requirement already satisfied:"
    tags_of_a_wheel = r"(?:(?:-[^-\s]+){3}\.whl\S*)?"
    match = re.match(rf"\s*({steps}) (?:\S*[/\\])?(\S+?){tags_of_a_wheel}( \([\d.]+ .?B\))?(?:\s|$)", line)
    return "{} {}{}".format(*match.groups("")) if match else ""


def lines_of(process: "subprocess.Popen[str]") -> "Iterator[str]":
    """The lines that a process prints, and an empty line for every second without output."""
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
    """Run a module in the environment: its output goes to the log, a summary to the status line."""
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
                # Behind a firewall that drops all packets, pip would retry for minutes.
                if not answered and time.monotonic() - began > SECONDS_TO_FIRST_ANSWER:
                    raise SetUpError(paragraph(NETWORK, folder))
                # pip has changed nothing before this line; from here on, an earlier stamp is no longer true.
                if line.startswith("Installing collected packages"):
                    (folder / STAMP).unlink(missing_ok=True)
                status.show(gist(line))
        if process.wait() != 0:
            raise diagnosis(said, folder)
    finally:
        process.kill()
        process.wait()


def make(folder: Path, status: Status) -> None:
    """Create the bare environment, always in an empty folder: installing over an older or incomplete state could
    leave packages behind that are no longer required. pip caches its downloads, so little is lost."""
    import venv  # not at the top: check_computer first makes sure that it exists

    tell(f"Setting up {folder}, which is needed once: about 600 MB to download, 2.5 GB on disk, a few minutes.")
    clear(folder)
    free = shutil.disk_usage(str(folder)).free / 1e9
    if free < GIGABYTES_NEEDED:
        raise SetUpError(paragraph(DISK, folder, f"{free:.1f} GB free"))
    venv.EnvBuilder(symlinks=os.name != "nt").create(str(folder))
    watch(["ensurepip", "--default-pip"], folder, status)


def prepare(folder: Path, extras: "list[str]") -> None:
    """Make sure that the environment exists: check its stamp, and set it up if necessary."""
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
                tell(f"Adding {', '.join(extras)} to the environment, which is needed once.")
            else:
                make(folder, status)
            status.show("Querying the package index")
            watch([*PIP, "-r", str(REQUIREMENTS), *extras], folder, status)
            write_stamp(folder, extras)
        finally:
            status.erase()
        tell(f"The environment is ready after {time.monotonic() - status.began:.0f} s.")


def call(command: "list[str]") -> int:
    """Run a job's command and return its exit code as a shell would."""
    paths = [str(ROOT)] + [path for path in [os.environ.get("PYTHONPATH")] if path]
    variables = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), PYTHONUTF8="1")
    process = subprocess.Popen(command, cwd=str(ROOT), env=variables)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # Ctrl-C reaches the job too: give it time to clean up.
        with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.terminate()
        raise
    return code if code >= 0 else 128 - code


def commands(job: str, more: "list[str]", python: str) -> "list[list[str]]":
    """The command lines of a job with the further arguments, and those of what follows it.

    Without any, the tests that are not slow run in two processes, and with `--all` the slow ones, too.
    """
    if job == "test" and more in ([], [ALL]):
        more = TWO_PROCESSES if more else TWO_PROCESSES + WITHOUT_SLOW
    return [[python, *a, *more] for a in JOBS[job]] + [[python, *a] for a in AFTER.get(job, [])]


def main(arguments: "list[str]") -> int:
    """Run the job that the arguments name and return the exit code."""
    job, more = (arguments[0], arguments[1:]) if arguments else ("run", [])
    if job[:1].isdigit():
        job, more = "run", arguments
    if job in ("help", "-h", "--help"):
        print(__doc__.strip())
        return 0
    if job not in JOBS:
        tell(f"run.py has no job named '{job}'. It has these:\n\n{__doc__.strip()}")
        return 2
    folder, extras = environment_folder(), EXTRAS.get(job, [])
    if job == "test" and OLDEST in more:
        more = [argument for argument in more if argument != OLDEST]
        folder, extras = folder.with_name(folder.name + "-oldest"), oldest_versions()
    try:
        try:
            prepare(folder, extras)
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
