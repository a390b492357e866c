"""How the library responds to invalid and unusual arguments: 10,000 calls of its public functions, each with one
argument replaced.

    .venv/bin/python benchmarks/fuzz.py --calls 10000 --seed 0        (several minutes on two cores)
    .venv/bin/python benchmarks/fuzz.py --only transfer --calls 500   (functions whose names match)
    .venv/bin/python benchmarks/fuzz.py --resume                      (continues a run that was stopped)

Each call takes valid arguments (fuzz_arguments.py) and replaces one of them by a value from fuzz_values.py. When an
error counts as clear is defined in fuzz_verdict.py. The cases iterate over the functions in turn, in an order that the
seed determines, and run in a separate process, which is replaced when it crashes or a call takes too long.

Every call is a line of benchmarks/results/fuzz.jsonl; the counts and everything that is not clear are in fuzz.json.
"""

import argparse
import collections
import importlib.metadata
import itertools
import json
import os
import platform
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))
RECORD = ROOT / "benchmarks" / "results" / "fuzz.jsonl"
SECONDS_PER_CALL, CALLS_PER_PROCESS = 20.0, 2000
FINDINGS = ("rejected cryptically", "accepted, not finite", "hung", "crashed")


class Case(NamedTuple):
    """One call: the function, the argument that is replaced, and the name of the value that replaces it."""

    target: str
    argument: str
    value: str


def cases_of(calls: int, seed: int, only: str = "") -> list[Case]:
    """At most `calls` cases, iterating over the functions repeatedly."""
    import meta_keras  # noqa: F401  (before TensorFlow, so that it starts without its log)

    # isort: split
    from benchmarks.fuzz_targets import targets
    from benchmarks.fuzz_values import names_for

    generator, decks = random.Random(seed), []
    for target in targets():
        deck = [Case(target.name, argument, value) for argument in target.parameters for value in names_for(argument)]
        generator.shuffle(deck)
        decks += [deck] if re.search(only, target.name) else []
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*decks))
    return list(itertools.islice((case for case in rounds if case is not None), calls))


def work(cases: list[Case]) -> None:
    """Run cases, and append the outcome of each to the record."""
    import meta_keras  # noqa: F401  (before TensorFlow, so that it starts without its log)

    # isort: split
    import tensorflow as tf

    from benchmarks.fuzz_targets import targets
    from benchmarks.fuzz_verdict import outcome_of

    tf.get_logger().setLevel("ERROR")  # it warns of every function that is traced again
    known = {target.name: target for target in targets()}
    with RECORD.open("a", encoding="utf-8") as record:
        for case in cases:
            began = time.perf_counter()
            outcome = outcome_of(known[case.target], case.argument, case.value)
            outcome |= {"seconds": round(time.perf_counter() - began, 2)}
            record.write(json.dumps(case._asdict() | outcome, ensure_ascii=False) + "\n")
            record.flush()


def supervise(cases: list[Case], arguments: list[str]) -> None:
    """Let processes run the cases that are not in the record, and show the progress."""
    while (done := len(outcomes())) < len(cases):
        worker = subprocess.Popen([sys.executable, __file__, *arguments, "--worker"], stdout=subprocess.DEVNULL)
        fault = None
        changed = time.monotonic()
        while worker.poll() is None and fault is None:
            time.sleep(0.5)
            if (now := len(outcomes())) > done:
                done, changed = now, time.monotonic()
                print(f"\r{done} of {len(cases)} calls, {' '.join(cases[done - 1][:2])}".ljust(78), end="", flush=True)
            elif time.monotonic() - changed > SECONDS_PER_CALL:
                fault = "hung"
                worker.kill()
        worker.wait()
        done = len(outcomes())
        if (fault or worker.returncode) and done < len(cases):
            with RECORD.open("a", encoding="utf-8") as record:
                record.write(json.dumps(cases[done]._asdict() | {"verdict": fault or "crashed"}) + "\n")
    print()


def outcomes() -> list[str]:
    """The complete lines of the record."""
    text = RECORD.read_text(encoding="utf-8") if RECORD.exists() else ""
    return text.split("\n")[:-1]


def discard_half_a_line() -> None:
    """Remove the incomplete line that a stopped process may have left at the end of the record."""
    RECORD.write_text("".join(f"{line}\n" for line in outcomes()), encoding="utf-8")


def check_same_calls(cases: list[Case]) -> None:
    """Raise a ValueError if the record is that of other calls, so that a run cannot be continued by another one."""
    for number, (line, case) in enumerate(zip(outcomes(), cases, strict=False)):
        if case._asdict() != {name: json.loads(line)[name] for name in Case._fields}:
            raise ValueError(f"Call {number} of the record is not one of these calls; leave --resume out.")


def summary(seed: int, seconds: float) -> dict[str, Any]:
    """The counts, overall and for each function, and all findings."""
    lines = [json.loads(line) for line in outcomes()]
    by_function: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for line in lines:
        by_function[line["target"]][line["verdict"]] += 1
    return {
        "calls": len(lines),
        "seed": seed,
        "seconds": round(seconds),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: importlib.metadata.version(name) for name in ("keras", "tensorflow", "numpy")},
        "counts": dict(collections.Counter(line["verdict"] for line in lines).most_common()),
        "functions": {name: dict(counts) for name, counts in sorted(by_function.items())},
        "findings": [line for line in lines if line["verdict"] in FINDINGS],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="functions whose names match this pattern")
    parser.add_argument("--resume", action="store_true", help="continue the record of these calls")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    cases = cases_of(chosen.calls, chosen.seed, chosen.only)
    if chosen.worker:
        done = len(outcomes())
        work(cases[done : done + CALLS_PER_PROCESS])
        return
    if chosen.resume:
        discard_half_a_line()
        check_same_calls(cases)
    else:
        RECORD.unlink(missing_ok=True)
    began = time.monotonic()
    supervise(cases, [f"--calls={chosen.calls}", f"--seed={chosen.seed}", f"--only={chosen.only}"])
    found = summary(chosen.seed, time.monotonic() - began)
    print(json.dumps(found["counts"], indent=1))
    if not chosen.only:
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        RECORD.with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
