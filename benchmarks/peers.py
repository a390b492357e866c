"""The peers of benchmarks/speed.py: second-order MAML in PyTorch and in JAX. Runs in a separate environment.

    peers/bin/python benchmarks/peers.py '[{"way": "torch loop", "threads": 2, ...}]'

The jobs come from benchmarks/speed.py, as JSON. Each is answered by one line: the seconds of each iteration, that is,
of one meta-gradient with its Adam update. The first call, which compiles, is excluded.

    torch loop        learn2learn's way: a loop over tasks, torch.autograd.grad(create_graph=True) within
    torch vmap        torch.func: vmap over tasks, grad of grad
    jax vmap          jit of vmap over tasks; with "together", that many steps per call by lax.scan
    jax map           jit of lax.map over tasks, which takes the gradient of each task within
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

FILTERS, ADAM = 64, 1e-3


def episodes(work: dict[str, Any]) -> list[np.ndarray]:
    """Prepared tasks: support_x, support_y, query_x, query_y. Images have their channels last."""
    rng, parts = np.random.default_rng(0), []
    for examples in (work["support"], work["queries"]):
        if work["network"] == "mlp":
            x = rng.uniform(-5, 5, (work["tasks"], examples, 1)).astype("float32")
            parts += [x, np.sin(x)]
        else:
            shape = (work["tasks"], examples, *work.get("image", (28, 28, 1)))
            parts.append(rng.random(shape, "float32"))
            parts.append(np.tile(np.arange(examples) % 5, (work["tasks"], 1)))
    return parts


def torch_step(job: dict[str, Any]) -> Callable[[], object]:
    import torch
    from torch.func import functional_call, grad, vmap

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    work, count = job["work"], job["work"]["tasks"]
    network = torch_network(work["network"])
    optimizer = torch.optim.Adam(network.parameters(), ADAM)
    measure = torch.nn.functional.mse_loss if work["network"] == "mlp" else torch.nn.functional.cross_entropy
    tasks = [torch.from_numpy(part) for part in episodes(work)]
    tasks = [part.movedim(-1, 2).contiguous() if part.ndim == 5 else part for part in tasks]

    def loss(weights: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return measure(functional_call(network, weights, (x,)), y)

    def one_after_another() -> None:
        optimizer.zero_grad()
        for task in range(count):
            support_x, support_y, query_x, query_y = (part[task] for part in tasks)
            weights = dict(network.named_parameters())
            for _ in range(work["steps"]):
                inner = loss(weights, support_x, support_y)
                slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
                weights = {k: v - work["rate"] * s for (k, v), s in zip(weights.items(), slopes, strict=True)}
            (loss(weights, query_x, query_y) / count).backward()
        optimizer.step()

    def meta_loss(start: dict) -> torch.Tensor:
        def one(support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> torch.Tensor:
            weights = start
            for _ in range(work["steps"]):
                slopes = grad(loss)(weights, support_x, support_y)
                weights = {name: weights[name] - work["rate"] * slopes[name] for name in weights}
            return loss(weights, query_x, query_y)

        return vmap(one)(*tasks).mean()

    def side_by_side() -> None:
        slopes = grad(meta_loss)({name: value.detach() for name, value in network.named_parameters()})
        for name, parameter in network.named_parameters():
            parameter.grad = slopes[name]
        optimizer.step()

    return one_after_another if job["way"] == "torch loop" else side_by_side


def torch_network(kind: str) -> Any:
    from torch import nn

    if kind == "mlp":
        return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    layers, channels = [], 1
    for _ in range(4):
        layers.append(nn.Conv2d(channels, FILTERS, 3, 2 if kind == "stride" else 1, padding=1, bias=False))
        layers += [nn.BatchNorm2d(FILTERS, track_running_stats=False), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if kind == "pool" else []
        channels = FILTERS
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(FILTERS * (4 if kind == "stride" else 1), 5))


def jax_step(job: dict[str, Any]) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp

    work, together = job["work"], job["together"]
    weights, network = jax_network(work["network"])
    tasks = [jnp.asarray(part) for part in episodes(work)]

    def loss(weights: Any, x: Any, y: Any) -> Any:
        answers = network(weights, x)
        if work["network"] == "mlp":
            return jnp.mean((answers - y) ** 2)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(answers), y[:, None], axis=1))

    def one(start: Any, support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> Any:
        weights = start
        for _ in range(work["steps"]):
            slopes = jax.grad(loss)(weights, support_x, support_y)
            weights = jax.tree.map(lambda w, s: w - work["rate"] * s, weights, slopes)
        return loss(weights, query_x, query_y)

    def gradients(weights: Any, tasks: Any) -> Any:
        if job["way"] == "jax map":
            each = jax.lax.map(lambda task: jax.value_and_grad(one)(weights, *task), tasks)
            return jax.tree.map(lambda values: jnp.mean(values, axis=0), each)
        return jax.value_and_grad(lambda w: jnp.mean(jax.vmap(lambda *task: one(w, *task))(*tasks)))(weights)

    def update(state: Any, tasks: Any) -> Any:
        weights, mean, square, count = state
        value, slopes = gradients(weights, tasks)
        count += 1
        mean = jax.tree.map(lambda m, s: 0.9 * m + 0.1 * s, mean, slopes)
        square = jax.tree.map(lambda v, s: 0.999 * v + 0.001 * s * s, square, slopes)
        rate = ADAM * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7), weights, mean, square)
        return (weights, mean, square, count), value

    if together == 1:
        call, data = jax.jit(update), tasks
    else:  # one batch per step, as in training
        call = jax.jit(lambda state, batches: jax.lax.scan(update, state, batches))
        data = [jnp.tile(part, (together, *[1] * part.ndim)) for part in tasks]
    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = (weights, zeros, zeros, 0.0)

    def step() -> None:
        nonlocal state
        state, value = call(state, data)
        jax.block_until_ready((state, value))

    return step


def jax_network(kind: str) -> tuple[list[Any], Callable[[Any, Any], Any]]:
    import jax
    import jax.numpy as jnp

    keys = iter(jax.random.split(jax.random.PRNGKey(0), 8))

    def drawn(*shape: int) -> Any:
        return jax.random.normal(next(keys), shape) * (2 / np.prod(shape[:-1])) ** 0.5

    def mlp(weights: Any, x: Any) -> Any:
        for weight, bias in weights[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        return x @ weights[-1][0] + weights[-1][1]

    def conv4(weights: Any, x: Any) -> Any:
        strides = (2, 2) if kind == "stride" else (1, 1)
        for kernel, scale, shift in weights[:-1]:
            x = jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5)
            x = jax.nn.relu(x * scale + shift)
            x = halved(x) if kind == "pool" else x
        return x.reshape(len(x), -1) @ weights[-1][0] + weights[-1][1]

    def halved(x: Any) -> Any:
        """Max-pooling as a maximum over a reshaped array, which is faster to differentiate than reduce_window."""
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        return x[:, : 2 * rows, : 2 * columns].reshape(len(x), rows, 2, columns, 2, -1).max((2, 4))

    if kind == "mlp":
        return [(drawn(*shape), jnp.zeros(shape[1])) for shape in ((1, 40), (40, 40), (40, 1))], mlp
    blocks = [(drawn(3, 3, c, FILTERS), jnp.ones(FILTERS), jnp.zeros(FILTERS)) for c in (1, *[FILTERS] * 3)]
    return [*blocks, (drawn(FILTERS * (4 if kind == "stride" else 1), 5), jnp.zeros(5))], conv4


def timed(step: Callable[[], object], job: dict[str, Any]) -> list[float]:
    """Seconds of each iteration, until there are enough of them or `limit` seconds have passed."""
    step()
    seconds, began = [], time.perf_counter()
    while len(seconds) < job["iterations"] and (not seconds or time.perf_counter() - began < job["limit"]):
        before = time.perf_counter()
        step()
        seconds.append((time.perf_counter() - before) / job["together"])
    return seconds


def main() -> None:
    if sys.argv[1] == "versions":
        print(json.dumps({name: importlib.metadata.version(name) for name in ("torch", "jax")}))
        return
    for job in json.loads(sys.argv[1]):
        step = torch_step(job) if job["way"].startswith("torch") else jax_step(job)
        print(json.dumps({"seconds": timed(step, job)}), flush=True)


if __name__ == "__main__":
    main()
