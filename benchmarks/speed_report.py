"""How benchmarks/speed.py reports its measurements: medians, goals, and figures."""

import statistics
from pathlib import Path
from typing import Any


def summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds per iteration over all rounds; for ours also the seconds of the first fit, including compilation."""
    times = [1e3 * second for answer in answers for second in answer["seconds"]]
    found = {"median": statistics.median(times), "least": min(times), "most": max(times), "samples": len(times)}
    if "first" in answers[0]:
        found |= {"first": statistics.median(a["first"] for a in answers), "parallel": answers[0]["parallel"]}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}


def goals(parts: dict[str, Any], together: int) -> dict[str, dict[str, Any]]:
    """Every goal whose part has been measured, with the number reached."""
    found = {}

    def note(goal: str, reached: float, wanted: float, *, least: bool = True) -> None:
        met = reached >= wanted if least else reached <= wanted
        found[goal] = {"reached": round(reached, 3), "wanted": wanted, "met": met}
        print(f"{goal}: {reached:.2f}, wanted {'at least' if least else 'at most'} {wanted}{'' if met else '  MISSED'}")

    def best(part: str, *names: str) -> float:
        return min(times["median"] for name, times in parts[part].items() if name.startswith(names))

    for name in ("S", "S5", "O", "C"):
        if not any(key.startswith("jax") for key in parts.get(name, {})):
            continue
        if name.startswith("S"):
            for call in (f"{together} steps a call", "1 step a call"):
                note(f"{name}: JAX over ours, {call}", best(name, f"jax vmap, {call}") / best(name, f"ours, {call}"), 1)
            note(f"{name}: learn2learn's way over ours", best(name, "torch loop") / best(name, "ours"), 40)
        else:
            ratio = best(name, "torch", "jax") / best(name, "ours")
            note(f"{name}: the best peer over ours", ratio, {"O": 1.5, "C": 1.7}[name])
    if "C" in parts:
        first = parts["C"]["ours, threads: all"]["first"]
        note("C: seconds of the first step, compiling included", first, 10, least=False)
    if "memory" in parts:
        note("C: memory with 32 tasks over 4", parts["memory"]["32"] / parts["memory"]["4"], 1.15, least=False)
    return found


def draw(curves: dict[str, Any], path: Path) -> None:
    """One dot per measurement, and the straight line with the best fit."""
    import matplotlib.pyplot as plt
    import numpy as np

    from meta_keras.report.figures import PALETTE, in_style

    with in_style():
        figure, grid = plt.subplots(len(curves), 2, figsize=(7.0, 2.6 * len(curves)), squeeze=False)
        for row, (name, kinds) in zip(grid, curves.items(), strict=True):
            for axes, (kind, points) in zip(row, kinds.items(), strict=True):
                x, y = np.array([int(key) for key in points]), np.array(list(points.values()))
                slope, start = np.polyfit(x, y, 1)
                axes.plot(x, y, "o", color=PALETTE[1])
                axes.plot(x, start + slope * x, "-", color=PALETTE[0], label=f"{start:.2g} + {slope:.2g} n")
                axes.set(title=f"Workload {name}", xlabel=f"{kind}, n", ylabel="ms per iteration", ylim=(0, None))
                axes.legend()
        figure.savefig(path)
        plt.close(figure)


def say(title: str, times: dict[str, Any] | str = "") -> None:
    if isinstance(times, dict):
        extra = f"; first fit {times['first']:.1f} s, {times['parallel']}" if "first" in times else ""
        times = f"{times['median']:9.3f} ms ({times['least']:.3f} to {times['most']:.3f}, {times['samples']}){extra}"
    print(f"  {title} {times}", flush=True)
