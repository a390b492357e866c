"""Runs the programs of benchmarks/gpu.py on a GPU, next to the same work in PyTorch and JAX.

    python3 benchmarks/gpu_device.py FOLDER RESULT.json
    XLA_FLAGS="--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=2" python3 benchmarks/gpu_device.py ...

The second line makes XLA compile much faster; the programs for workload C need it.

It needs JAX, PyTorch and NumPy, but neither TensorFlow nor meta_keras: what is measured is our training step as XLA
compiles it, with the optimizer, and without the time that TensorFlow and Keras spend around it (reading data, starting
the program, callbacks). A whole `fit` on a GPU is therefore not measured. Data is on the GPU before the clock starts.

Every contestant is warmed up. Then a repeat makes several calls, one after another, and waits for the last one; we
report the median over repeats of the time per training step. All of them compute in float32 as their library does it by
default or recommends it on such a card, with matrix products and convolutions in TF32.

    ours            the ways of processing tasks that benchmarks/gpu.py exported, checked against float64 values
    torch vmap      torch.func: grad of the mean over vmap over tasks, with the inner grad within
    torch loop      one task after another, torch.autograd.grad(create_graph=True) within
    torch ..., patches   the same with every convolution as patches (unfold) times the kernel
    torch ..., graph     the same step, recorded as a CUDA graph and replayed
    jax vmap        jit of the gradient of the mean over vmap over tasks; x50: 50 steps in one call, by lax.scan

The useful work of a step is counted as 9 K F_S + 3 F_Q: F_S and F_Q are the multiplications and additions of one
forward pass through convolutions and dense layers for all support and query images, and K is the number of inner steps.
A gradient takes twice the work of its forward pass, and differentiating both takes twice that of both. It is compared
with the rate of a large matrix product in TF32 on the same card.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import peers
from peers import ADAM, FILTERS

TOGETHER, EPSILON = 50, 1e-3
CONV = {"support": 5}
WORKLOADS: dict[str, dict[str, Any]] = {
    "S": {"network": "mlp", "support": 10, "queries": 10, "tasks": 25, "rate": 0.01, "steps": 1},
    "O": CONV | {"network": "stride", "image": (28, 28, 1), "queries": 5, "tasks": 32, "rate": 0.4, "steps": 1},
    "C": CONV | {"network": "pool", "image": (84, 84, 3), "queries": 75, "tasks": 4, "rate": 0.01, "steps": 5},
    "C28": CONV | {"network": "pool", "image": (28, 28, 1), "queries": 75, "tasks": 4, "rate": 0.4, "steps": 5},
}
EXACT = ("S vectorized", "O map", "O slices", "O products", "O grouped")  # once more without TF32
REPEATS, SECONDS, SIZE = 15, 0.1, 8192  # how often; the shortest repeat; rows of the large matrix product
PARTS = ("xla", "torch", "unrolled")  # unrolled programs take minutes to compile, so they come last
Step = Callable[[], Any]


def episodes(work: dict[str, Any]) -> list[np.ndarray]:
    """Prepared tasks as peers.py draws them, with the integers of our programs."""
    return [part.astype("int32") if part.dtype.kind == "i" else part for part in peers.episodes(work)]


def operations(work: dict[str, Any]) -> float:
    """The useful floating-point operations of a training step, counted as the docstring above says."""
    forward = 2.0 * (40 + 40 * 40 + 40)
    if work["network"] != "mlp":
        (side, _, channels), forward = work["image"], 0.0
        for _ in range(4):
            smaller = -(-side // 2) if work["network"] == "stride" else side // 2
            outputs = smaller if work["network"] == "stride" else side
            forward += 2.0 * outputs**2 * 9 * channels * FILTERS
            side, channels = smaller, FILTERS
        forward += 2.0 * side**2 * FILTERS * 5
    return work["tasks"] * forward * (9 * work["steps"] * work["support"] + 3 * work["queries"])


def timed(step: Step, wait: Callable[[Any], None], together: int = 1) -> dict[str, Any]:
    """Milliseconds of a training step: the median over repeats, the least and the most."""
    for _ in range(min(3, REPEATS)):
        wait(step())
    began = time.perf_counter()
    wait(step())
    calls = max(1, min(200, round(SECONDS / (time.perf_counter() - began))))
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(calls):
            last = step()
        wait(last)
        times.append(1e3 * (time.perf_counter() - began) / calls / together)
    return {"median": median(times), "least": min(times), "most": max(times), "calls": calls, "repeats": REPEATS}


def reached(times: dict[str, Any], work: dict[str, Any], rate: float) -> dict[str, float]:
    """The rate of useful operations, and its share of that of a large matrix product."""
    achieved = operations(work) / times["median"] / 1e9
    return {"useful TFLOP/s": achieved, "share of a large matrix product": achieved / rate}


def stored(name: str, folder: Path) -> tuple[list[np.ndarray], float, list[np.ndarray]]:
    """Our initial weights, and in float64 the meta-loss and the meta-gradient."""
    values = np.load(folder / f"values_{name}.npz")
    keys = sorted((key for key in values if key.startswith(f"{name}/weight/")), key=lambda key: int(key.split("/")[-1]))
    gradients = [values[key.replace("/weight/", "/gradient/")] for key in keys]
    return [values[key] for key in keys], float(values[f"{name}/loss"]), gradients


def relative_errors(
    loss: float, gradients: list[np.ndarray], wanted: float, right: list[np.ndarray]
) -> dict[str, float]:
    """Of the loss, and of all gradients as one vector, by their norms."""
    apart = sum(float(np.sum((one - other) ** 2)) for one, other in zip(gradients, right, strict=True))
    return {"loss": abs(loss / wanted - 1), "gradient": (apart / sum(float(np.sum(one**2)) for one in right)) ** 0.5}


class Record:
    """Results that are stored as soon as they are known."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, {}

    def note(self, part: str, name: str, value: Any) -> None:
        self.found.setdefault(part, {})[name] = value
        print(part, name, json.dumps(value), flush=True)
        self.path.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    def attempt(self, part: str, name: str, function: Callable[[], Any]) -> Any:
        """What `function` returns is stored; or its error, which does not end the run."""
        try:
            value = function()
        except Exception as error:
            traceback.print_exc()
            value = {"error": f"{type(error).__name__}: {error}"[:1000]}
        self.note(part, name, value)
        return value


# ------------------------------------------------------------------------------------------ our programs, and JAX


class Program:
    """One exported training step. Its variables live on the device and are replaced by every call."""

    def __init__(self, folder: Path, name: str, exact: bool) -> None:
        self.folder, self.name, self.exact = folder, name, exact
        self.about = json.loads((folder / f"{name}.json").read_text("utf-8"))
        self.work, self.together = WORKLOADS[self.about["workload"]], self.about["together"]
        self.values = np.load(folder / f"values_{self.about['workload']}.npz")
        self.seconds = 0.0

    def compile(self) -> "Program":
        import jax
        from jax._src import compiler
        from jax._src.interpreters.mlir import make_ir_context
        from jax._src.lib import _jax
        from jax.extend.mlir import ir

        began, device = time.perf_counter(), jax.devices()[0]
        with make_ir_context():
            module = ir.Module.parse((self.folder / f"{self.name}.mlir").read_bytes())
            self.aliases = donated(module, ir)
            if self.exact:
                without_tf32(module, ir)
            options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
            devices = _jax.DeviceList((device,))
            self.executable = device.client.compile_and_load(module, devices, options)
        self.seconds = time.perf_counter() - began
        return self

    def start(self) -> None:
        """The data and the initial variables, on the device."""
        import jax

        parts = episodes(self.work)
        parts = [np.stack([part] * self.together) if self.together > 1 else part for part in parts]
        prefix = self.about["workload"]
        variables = [self.values[f"{prefix}/{path}"] for path in self.about["variables"]]
        self.arguments = [jax.device_put(part) for part in (*parts, *variables)]

    def __call__(self) -> list[Any]:
        apart = self.executable.execute_sharded(self.arguments).disassemble_into_single_device_arrays()
        results = [result for (result,) in apart]
        for argument, result in self.aliases.items():
            self.arguments[argument] = results[result]
        return results

    def errors(self) -> dict[str, float]:
        """Of the first step: the loss and the meta-gradient, which Adam's first moment contains (1 - 0.9 of it)."""
        self.start()
        results, moments = self(), {}
        for place, path in enumerate(self.about["variables"]):
            if f"{self.about['workload']}/gradient/{path}" in self.values:
                moments[int(path.split("/")[-1])] = np.asarray(self.arguments[4 + place], "float64")
        _, wanted, right = stored(self.about["workload"], self.folder)
        gradients = [10 * moments[place] for place in sorted(moments)]
        return relative_errors(float(np.asarray(results[0])), gradients, wanted, right)

    def megabytes(self) -> float:
        memory = self.executable.get_compiled_memory_stats()
        total = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        return (total + memory.temp_size_in_bytes) / 2**20


def donated(module: Any, ir: Any) -> dict[int, int]:
    """Which result replaces which argument, as JAX writes it; and no operation that only JAX on a CPU knows."""
    aliases = {}
    for one in map(ir.DictAttr, ir.ArrayAttr(module.operation.attributes["mhlo.input_output_alias"])):
        argument = int(ir.IntegerAttr(ir.DictAttr(one["alias"])["parameter_number"]).value)
        (aliases[argument],) = ir.DenseI64ArrayAttr(one["output_index"])
    for name in [name for name in module.operation.attributes if name.startswith("mhlo.")]:
        del module.operation.attributes[name]
    main = next(one for one in module.body.operations if ir.StringAttr(one.attributes["sym_name"]).value == "main")
    given: list[dict[str, Any]] = [{} for _ in main.arguments]
    for argument, result in aliases.items():
        given[argument]["tf.aliasing_output"] = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), result)
    main.arg_attrs = ir.ArrayAttr.get([ir.DictAttr.get(attributes) for attributes in given])
    copies = []

    def visit(operation: Any) -> Any:
        if operation.name == "mhlo.copy":
            copies.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for copy in copies:
        copy.results[0].replace_all_uses_with(copy.operands[0])
        copy.erase()
    return aliases


def without_tf32(module: Any, ir: Any) -> None:
    """Ask for the full precision of float32 in every matrix product and convolution."""
    highest = ir.Attribute.parse("[#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>]")

    def visit(operation: Any) -> Any:
        if operation.name in ("stablehlo.dot_general", "stablehlo.convolution"):
            operation.attributes["precision_config"] = highest
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)


def measure_xla(
    folder: Path, record: Record, names: list[str], peers: list[str], patience: float, more: set[str]
) -> None:
    """Compile all programs side by side, then check and time them one by one."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)  # for the 64-bit counters of Keras
    device = jax.devices()[0]
    record.note("about", "xla", {"device": device.device_kind, "jax": jax.__version__, "numpy": np.__version__})
    record.note("about", "XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    a, b = (jax.random.normal(jax.random.PRNGKey(n), (SIZE, SIZE), "float32") for n in (0, 1))
    product = timed(functools.partial(jax.jit(jnp.matmul), a, b), jax.block_until_ready)
    rate = 2.0 * SIZE**3 / product["median"] / 1e9
    record.note("ceiling", "jax TF32 matrix product", {"size": SIZE, "TFLOP/s": rate} | product)
    del a, b

    programs = [Program(folder, name, exact=False) for name in names]
    programs += [Program(folder, name, exact=True) for name in names if name in EXACT and "exact" in more]
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    compiling = {program: pool.submit(program.compile) for program in programs}
    wanted = [(name, 1) for name in peers] + [(name, TOGETHER) for name in peers if name == "S"]
    jobs = {job: pool.submit(jax_step, *job, folder) for job in wanted if "peers" in more}
    concurrent.futures.wait([*compiling.values(), *jobs.values()], timeout=patience)

    for program, future in compiling.items():

        def checked(program: Program = program, future: Any = future) -> dict[str, Any]:
            if not future.done():
                return {"error": f"not compiled after {patience:.0f} s"}
            future.result()
            found = {"workload": program.about["workload"], "compile seconds": program.seconds}
            if waiting := sum(not one.done() for one in (*compiling.values(), *jobs.values())):
                found["programs that compiled meanwhile"] = waiting  # which disturbs the times
            if program.together == 1:
                found["relative errors"] = program.errors()
            if program.exact:
                return found
            program.start()
            times = timed(program, jax.block_until_ready, program.together)
            return found | times | {"megabytes": program.megabytes()} | reached(times, program.work, rate)

        record.attempt("ours without TF32" if program.exact else "ours", program.name, checked)
        program.arguments = []
    for (name, together), future in jobs.items():

        def peer(name: str = name, together: int = together, future: Any = future) -> dict[str, Any]:
            step, about = future.result(timeout=1)
            times = timed(step, jax.block_until_ready, together)
            return {"workload": name} | about | times | reached(times, WORKLOADS[name], rate)

        record.attempt("peers", f"{name} jax vmap{f' x{together}' * (together > 1)}", peer)
    sys.stdout.flush()
    os._exit(0)  # a program that still compiles would be waited for


def jax_step(name: str, together: int, folder: Path) -> tuple[Step, dict[str, Any]]:
    """A compiled step, or `together` of them in one program; with its memory, and a single step's errors at first."""
    import jax
    import jax.numpy as jnp

    work = WORKLOADS[name]
    start, wanted, wanted_gradients = stored(name, folder)

    def network(weights: Any, x: Any) -> Any:
        if work["network"] == "mlp":
            for place in range(0, len(weights) - 2, 2):
                x = jax.nn.relu(x @ weights[place] + weights[place + 1])
            return x @ weights[-2] + weights[-1]
        strides = (2, 2) if work["network"] == "stride" else (1, 1)
        for place in range(0, 12, 3):
            kernel, scale, shift = weights[place : place + 3]
            x = jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + EPSILON)
            x = jax.nn.relu(x * scale + shift)
            if work["network"] == "pool":  # a maximum of slices: faster to differentiate than reduce_window
                even, odd = (slice(start, x.shape[1] // 2 * 2, 2) for start in (0, 1))
                parts = [x[:, i, j] for i in (even, odd) for j in (even, odd)]
                x = functools.reduce(jnp.maximum, parts)
        return x.reshape(len(x), -1) @ weights[-2] + weights[-1]

    def loss(weights: Any, x: Any, y: Any) -> Any:
        answers = network(weights, x)
        if work["network"] == "mlp":
            return jnp.mean((answers - y) ** 2)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(answers), y[:, None], axis=1))

    def one(weights: Any, support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> Any:
        for _ in range(work["steps"]):
            slopes = jax.grad(loss)(weights, support_x, support_y)
            weights = jax.tree.map(lambda w, s: w - work["rate"] * s, weights, slopes)
        return loss(weights, query_x, query_y)

    def update(state: Any, tasks: Any) -> Any:
        weights, mean, square, count = state
        value, slopes = jax.value_and_grad(lambda w: jnp.mean(jax.vmap(lambda *task: one(w, *task))(*tasks)))(weights)
        count += 1
        mean = jax.tree.map(lambda m, s: 0.9 * m + 0.1 * s, mean, slopes)
        square = jax.tree.map(lambda v, s: 0.999 * v + 0.001 * s * s, square, slopes)
        rate = ADAM * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7), weights, mean, square)
        return (weights, mean, square, count), value

    weights, mean, square = (list(map(jax.device_put, ws)) for ws in (start, *2 * [list(map(np.zeros_like, start))]))
    state, tasks = (weights, mean, square, jnp.zeros((), "float32")), list(map(jax.device_put, episodes(work)))
    if together > 1:
        tasks = [jnp.tile(part, (together, *[1] * part.ndim)) for part in tasks]

    def updates(state: Any, batches: Any) -> Any:
        return jax.lax.scan(update, state, batches)

    compiled = jax.jit(update if together == 1 else updates, donate_argnums=0).lower(state, tasks).compile()
    memory = compiled.memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes

    def step() -> Any:
        nonlocal state
        state, value = compiled(state, tasks)
        return value

    if together > 1:
        return step, {"megabytes": (total + memory.temp_size_in_bytes) / 2**20}
    value = float(step())
    errors = relative_errors(value, [np.asarray(m, "float64") * 10 for m in state[1]], wanted, wanted_gradients)
    return step, {"relative errors": errors, "megabytes": (total + memory.temp_size_in_bytes) / 2**20}


# ------------------------------------------------------------------------------------------------------- PyTorch


def torch_loss(work: dict[str, Any], *, patches: bool, like_keras: bool = False) -> Callable[..., Any]:
    """The loss of a network as a function of its weights. `like_keras` pads as Keras does, to compare values."""
    import torch
    from torch.nn import functional

    def convolution(x: Any, kernel: Any) -> Any:
        stride = 2 if work["network"] == "stride" else 1
        padding, side = 1, x.shape[-1]
        if like_keras and stride == 2 and side % 2 == 0:
            x, padding = functional.pad(x, (0, 1, 0, 1)), 0
        if not patches:
            return functional.conv2d(x, kernel, stride=stride, padding=padding)
        found = functional.unfold(x, 3, padding=padding, stride=stride)  # (examples, channels * 9, places)
        rows = -(-side // stride)
        return (kernel.flatten(1) @ found).unflatten(-1, (rows, rows))

    def network(weights: list[Any], x: Any) -> Any:
        if work["network"] == "mlp":
            for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
                x = torch.relu(x @ weight + bias)
            return x @ weights[-2] + weights[-1]
        for place in range(0, 12, 3):
            kernel, scale, shift = weights[place : place + 3]
            x = convolution(x, kernel)
            x = functional.batch_norm(x, None, None, scale, shift, training=True, eps=EPSILON)
            x = torch.relu(x)
            if work["network"] == "pool":
                x = functional.max_pool2d(x, 2)
        return x.permute(0, 2, 3, 1).flatten(1) @ weights[-2] + weights[-1]

    measure = functional.mse_loss if work["network"] == "mlp" else functional.cross_entropy
    return lambda weights, x, y: measure(network(weights, x), y)


def laid_out(array: np.ndarray) -> np.ndarray:
    """A kernel in PyTorch's layout."""
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1)) if array.ndim == 4 else array


def torch_gradients(work: dict[str, Any], loss: Callable[..., Any], tasks: list[Any], way: str) -> Callable[..., Any]:
    """A function of the weights that returns the meta-loss and the meta-gradient."""
    import torch
    from torch.func import grad, grad_and_value, vmap

    def meta_loss(start: list[Any]) -> Any:
        def one(support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> Any:
            weights = start
            for _ in range(work["steps"]):
                slopes = grad(loss)(weights, support_x, support_y)
                weights = [weight - work["rate"] * slope for weight, slope in zip(weights, slopes, strict=True)]
            return loss(weights, query_x, query_y)

        return vmap(one)(*tasks).mean()

    def together(weights: list[Any]) -> tuple[Any, Any]:
        slopes, value = grad_and_value(meta_loss)([weight.detach() for weight in weights])
        return value, slopes

    def one_by_one(start: list[Any]) -> tuple[Any, Any]:
        start, total, sums = [weight.detach().requires_grad_() for weight in start], 0.0, None
        for task in zip(*tasks, strict=True):
            weights = start
            for _ in range(work["steps"]):
                slopes = torch.autograd.grad(loss(weights, *task[:2]), weights, create_graph=True)
                weights = [weight - work["rate"] * slope for weight, slope in zip(weights, slopes, strict=True)]
            value = loss(weights, *task[2:]) / work["tasks"]
            slopes = torch.autograd.grad(value, start)
            total = total + value.detach()
            sums = list(slopes) if sums is None else [s + slope for s, slope in zip(sums, slopes, strict=True)]
        return total, sums

    return together if way == "vmap" else one_by_one


def measure_torch(folder: Path, record: Record, names: list[str], device: str, *, best: bool) -> None:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    cuda = device == "cuda"

    def wait(_: Any) -> None:
        if cuda:
            torch.cuda.synchronize()

    about = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if cuda else "cpu"}
    record.note("about", "torch", about | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()})
    a, b = (torch.randn(SIZE, SIZE, device=device) for _ in range(2))
    product = timed(functools.partial(torch.matmul, a, b), wait)
    rate = 2.0 * SIZE**3 / product["median"] / 1e9
    record.note("ceiling", "torch TF32 matrix product", {"size": SIZE, "TFLOP/s": rate} | product)
    del a, b
    for name in names:
        for way in ("vmap",) if best else ("vmap", "loop"):
            for patches in (False, True) if WORKLOADS[name]["network"] != "mlp" else (False,):
                for graph in (True,) if best else (False, True) if cuda else (False,):
                    title = f"{name} torch {way}{', patches' * patches}{', graph' * graph}"
                    record.attempt(
                        "peers",
                        title,
                        lambda name=name, way=way, patches=patches, graph=graph: torch_times(
                            name, folder, way, wait, patches=patches, graph=graph, rate=rate, device=device
                        ),
                    )
                    if cuda:
                        torch.cuda.empty_cache()


def torch_times(
    name: str,
    folder: Path,
    way: str,
    wait: Callable[[Any], None],
    *,
    patches: bool,
    graph: bool,
    rate: float,
    device: str,
) -> dict[str, Any]:
    """Check one peer against our float64 values, and time it with Adam."""
    import torch

    work = WORKLOADS[name]
    start, wanted, right = stored(name, folder)
    start = [torch.from_numpy(laid_out(array)).to(device) for array in start]
    parts = [np.ascontiguousarray(np.moveaxis(p, -1, 2)) if p.ndim == 5 else p for p in episodes(work)]
    tasks = [torch.from_numpy(part if part.dtype == "float32" else part.astype("int64")).to(device) for part in parts]
    value, slopes = torch_gradients(work, torch_loss(work, patches=patches, like_keras=True), tasks, way)(start)
    slopes = [slope.detach().double().cpu().numpy() for slope in slopes]
    errors = relative_errors(float(value), slopes, wanted, list(map(laid_out, right)))

    gradients = torch_gradients(work, torch_loss(work, patches=patches), tasks, way)
    weights = [torch.nn.Parameter(weight.clone()) for weight in start]
    optimizer = torch.optim.Adam(weights, ADAM, capturable=graph, fused=device == "cuda")

    def step() -> Any:
        value, slopes = gradients(weights)
        for weight, slope in zip(weights, slopes, strict=True):
            weight.grad = slope.detach().contiguous()
        optimizer.step()
        return value

    call: Step = step
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if graph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            step()
        call = recorded.replay
    times = timed(call, wait)
    if device == "cuda":
        times["megabytes"] = torch.cuda.max_memory_allocated() / 2**20
    return {"workload": name, "relative errors": errors} | times | reached(times, work, rate)


# ----------------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what benchmarks/gpu.py wrote")
    parser.add_argument("result", type=Path)
    parser.add_argument("--only", choices=PARTS, help="one part, in this process")
    parser.add_argument("--programs", help="these programs, such as 'O map,O products'; by default all in the folder")
    parser.add_argument("--workloads", help="the peers' workloads, such as S,O; by default those of the programs")
    parser.add_argument("--best", action="store_true", help="PyTorch only with vmap and in CUDA graphs")
    parser.add_argument("--patience", type=float, default=200, help="seconds that compiling may take")
    parser.add_argument("--without", default="", help="exact, peers: leave out full precision, or JAX")
    parser.add_argument("--trial", action="store_true", help="a single repeat, and PyTorch on the CPU, to try it")
    options = parser.parse_args()
    if options.trial:
        global REPEATS, SECONDS, SIZE
        REPEATS, SECONDS, SIZE = 1, 0.0, 256
    if not options.only:  # a process for each, as each library takes the memory of the GPU for itself
        found: dict[str, Any] = {}
        for only in PARTS:
            part = options.result.with_suffix(f".{only}.json")
            subprocess.run([sys.executable, __file__, *sys.argv[1:2], str(part), *sys.argv[3:], "--only", only])
            for key, values in json.loads(part.read_text("utf-8")).items() if part.exists() else ():
                found[key] = values | found.get(key, {})
        options.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    names = sorted(path.stem for path in options.folder.glob("*.mlir"))
    names = options.programs.split(",") if options.programs else names
    known = {name.split()[0] for name in names}
    workloads = options.workloads.split(",") if options.workloads else [one for one in WORKLOADS if one in known]
    if options.only == "torch":
        device = "cpu" if options.trial else "cuda"
        measure_torch(options.folder, Record(options.result), workloads, device, best=options.best)
    else:
        names = [name for name in names if ("unrolled" in name) == (options.only == "unrolled")]
        more = set() if options.only == "unrolled" else {"exact", "peers"} - set(options.without.split(","))
        measure_xla(options.folder, Record(options.result), names, workloads, options.patience, more)


if __name__ == "__main__":
    main()
