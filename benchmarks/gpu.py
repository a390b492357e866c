"""Exports our training step for benchmarks/gpu_device.py, which runs it on a GPU.

    PYTHONPATH=. .venv/bin/python benchmarks/gpu.py FOLDER

A program is one call of `MetaLearner.train_step` as `fit` compiles it, without metrics other than the loss: the
meta-gradient with second derivatives, the test for non-finite results, the Adam update, and the running mean of the
loss. TensorFlow lowers it to StableHLO, the input of the XLA compiler, and the folder can then be copied to a machine
with a GPU. It contains

    NAME.mlir       a program for one workload and one way of processing its tasks
    NAME.json       the variables that are its arguments, after the four parts of the data, and the versions
    values_W.npz    for workload W the variables before the step, and in float64 the meta-loss and the meta-gradient

The data is not exported: the other script draws it again. Programs are lowered for XLA's CPU backend, because
TensorFlow cannot lower variables for a device that is not there.

    PYTHONPATH=. .venv/bin/python benchmarks/gpu.py FOLDER --references S,O,C
    PYTHONPATH=. .venv/bin/python benchmarks/gpu.py FOLDER --check

compute the values, and compare all ways in float64 on this machine, with smaller images and fewer filters.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import meta_keras as mk  # before Keras and TensorFlow, so that they start without their logs

# isort: split
import keras
import numpy as np
import tensorflow as tf
from gpu_convolutions import way_of
from gpu_device import ADAM, TOGETHER, WORKLOADS, episodes

COMPARED = ("map", "slices", "products", "grouped")
PROGRAMS = {
    **{f"S {way}": ("S", way, 1) for way in ("map", "unrolled", "vectorized")},
    f"S vectorized x{TOGETHER}": ("S", "vectorized", TOGETHER),
    **{f"O {way}": ("O", way, 1) for way in (*COMPARED, "unrolled")},
    **{f"C {way}": ("C", way, 1) for way in (*COMPARED, "unrolled")},
}
SMALL = {
    "O": {"image": (8, 9, 1), "tasks": 3, "steps": 2},
    "C": {"image": (17, 18, 3), "tasks": 3, "queries": 10, "steps": 2},
}


def learner_for(work: dict[str, Any], way: str, filters: int = 64) -> mk.MetaLearner:
    """A learner with the same initial weights for every way."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    if work["network"] == "mlp":
        network = mk.networks.mlp(1)
    else:
        network = mk.networks.conv4(5, downsample=work["network"], input_shape=work["image"], filters=filters)
    rule = mk.rules.GradientDescent(work["rate"], steps=work["steps"])
    learner = mk.MetaLearner(network=network, rule=rule, parallel=way if way in mk.parallel.PARALLEL else "vectorized")
    loss = "mse" if work["network"] == "mlp" else None
    learner.compile(keras.optimizers.Adam(ADAM), loss=loss, metrics=[], jit_compile=True)
    learner.optimizer.build(learner.trainable_variables)
    return learner


def program_for(learner: mk.MetaLearner, together: int) -> Callable[..., Any]:
    """One training step; or `together` steps on as many batches in one loop, as `fit` runs short ones."""

    def step(*task: tf.Tensor) -> dict[str, tf.Tensor]:
        return learner.train_step((task[:3], task[3]))

    def steps(*batches: tf.Tensor) -> dict[str, tf.Tensor]:
        def one(number: tf.Tensor) -> tuple[tf.Tensor]:
            step(*(tf.gather(part, number) for part in batches))
            return (number + 1,)

        tf.while_loop(lambda number: number < together, one, (tf.constant(0),))
        return learner.get_metrics_result()

    return tf.function(step if together == 1 else steps, jit_compile=True, autograph=False)


def export(name: str, folder: Path) -> dict[str, Any]:
    """Write NAME.mlir; returns the names of its arguments and results, in order."""
    workload, way, together = PROGRAMS[name]
    began = time.perf_counter()
    learner = learner_for(WORKLOADS[workload], way)
    parts = [np.stack([part] * together) if together > 1 else part for part in episodes(WORKLOADS[workload])]
    with way_of(way):
        function = program_for(learner, together)
        arguments = [tf.constant(part) for part in parts]
        lowered = function.experimental_get_compiler_ir(*arguments)(stage="stablehlo_serialized")
    (folder / f"{name}.mlir").write_bytes(lowered)
    concrete = function.get_concrete_function(*arguments)
    names = {variable.handle.ref(): variable.path for variable in tensors_of(learner)}
    captured = [names[handle.ref()] for handle in concrete.captured_inputs]
    print(f"{name}: {len(lowered):,} bytes, {time.perf_counter() - began:.0f} s", flush=True)
    return {"workload": workload, "way": way, "together": together, "variables": captured}


class Named:
    """A tf.Variable with a name that is the same in every learner."""

    def __init__(self, path: str, variable: tf.Variable) -> None:
        self.path, self.handle, self.value = path, variable.handle, variable


def tensors_of(learner: mk.MetaLearner) -> list[Named]:
    groups = {"learner": learner.variables, "optimizer": learner.optimizer.variables}
    groups["metrics"] = learner.metrics_variables
    found = [Named(f"{group}/{n}", v.value) for group, vs in groups.items() for n, v in enumerate(vs)]
    return [Named("fault", learner.fault), *found]


def reference(workload: str) -> dict[str, np.ndarray]:
    """The variables before the step, and in float64 the meta-loss and the meta-gradient, one task after another."""
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    learner = learner_for(WORKLOADS[workload], "map")
    values = {f"{workload}/{one.path}": one.value.numpy() for one in tensors_of(learner)}
    start = [variable.numpy() for variable in learner.trainable_variables]
    moments = {id(v): f"optimizer/{n}" for n, v in enumerate(learner.optimizer.variables)}
    places = [moments[id(moment)] for moment in learner.optimizer._momentums]
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    learner = learner_for(WORKLOADS[workload], "map")
    for variable, value in zip(learner.trainable_variables, start, strict=True):
        variable.assign(value)
    parts = [tf.constant(p.astype("float64") if p.dtype == "float32" else p) for p in episodes(WORKLOADS[workload])]
    function = tf.function(learner.meta_gradients, autograph=False)
    _, _, (loss, gradients) = function(tuple(parts[:3]), parts[3])
    found = {f"{workload}/loss": loss.numpy()}
    for path, gradient, value in zip(places, gradients, start, strict=True):
        found[f"{workload}/gradient/{path}"] = gradient.numpy()
        values[f"{workload}/weight/{path}"] = value
    print(f"{workload}: the meta-loss is {float(loss)}", flush=True)
    return values | found


def check() -> dict[str, float]:
    """The largest error of a meta-gradient, relative to its largest element, over all weights, compared with "map".

    Only XLA computes gradients of grouped convolutions on a CPU, and it has no second derivative of max pooling in
    float64. Therefore "grouped" is checked without pooling.
    """
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    errors = {}
    for workload, smaller in SMALL.items():
        work, found = WORKLOADS[workload] | smaller, {}
        parts = [tf.constant(p.astype("float64") if p.dtype == "float32" else p) for p in episodes(work)]
        for way in COMPARED if workload == "O" else ("map", "slices", "products"):
            learner = learner_for(work, way, filters=3)
            with way_of(way):
                function = tf.function(learner.meta_gradients, jit_compile=way == "grouped", autograph=False)
                _, _, (loss, gradients) = function(tuple(parts[:3]), parts[3])
            found[way] = [loss.numpy(), *(gradient.numpy() for gradient in gradients)]
        for way in list(found)[1:]:
            pairs = zip(found[way], found["map"], strict=True)
            errors[f"{workload} {way}"] = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
            print(f"{workload} {way}: {errors[f'{workload} {way}']:.1e}", flush=True)
    return errors


def commit_now() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(PROGRAMS), help="these programs, such as 'O map,O products'")
    parser.add_argument("--check", action="store_true", help="compare all ways in float64 instead; stores checks.json")
    parser.add_argument("--references", help="compute the reference values of these workloads instead, such as S,O")
    options = parser.parse_args()
    tf.get_logger().setLevel("ERROR")  # it warns of every convolution that cannot be vectorized
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.check:
        (options.folder / "checks.json").write_text(json.dumps(check(), indent=1) + "\n", encoding="utf-8")
        return
    if options.references:
        for workload in options.references.split(","):
            np.savez_compressed(options.folder / f"values_{workload}.npz", **reference(workload))
        return
    for name in options.only.split(","):
        record = export(name, options.folder) | {"commit": commit_now(), "tensorflow": tf.__version__}
        (options.folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
