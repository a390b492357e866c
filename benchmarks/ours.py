"""Our side of benchmarks/speed.py, which starts it: one line of JSON per job.

We time `learner.fit` as users call it. The seconds of an iteration are those of an epoch divided by its steps, so they
include the data, the metrics and the callbacks; the first one also includes the start of `fit`.
"""

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import meta_keras as mk  # before Keras and TensorFlow, so that they start without their logs

# isort: split
import keras
import tensorflow as tf
from peers import ADAM, episodes

tf.get_logger().setLevel("ERROR")  # it warns of every convolution that cannot be vectorized


class Clock(keras.callbacks.Callback):
    """When each epoch ended. Training ends when `limit` seconds have passed."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit, self.ends = limit, [time.perf_counter()]

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.ends.append(time.perf_counter())
        self.model.stop_training = self.ends[-1] - self.ends[0] > self.limit


def learner_for(job: dict[str, Any]) -> mk.MetaLearner:
    work = job["work"]
    if work["network"] == "mlp":
        network = mk.networks.mlp(1)
    elif work["network"] == "dense":
        network = mk.networks.mlp(5, input_shape=(28, 28, 1), hidden=[work["width"]] * 2)
    else:
        shape = work.get("image", (28, 28, 1))
        network = mk.networks.conv4(5, downsample=work["network"], input_shape=shape)
    rule = mk.rules.GradientDescent(work["rate"], steps=work["steps"])
    learner = mk.MetaLearner(network=network, rule=rule, parallel=job["way"])
    loss = "mse" if work["network"] == "mlp" else None
    together, by_xla = job["together"], job["jit"]
    learner.compile(keras.optimizers.Adam(ADAM), loss=loss, jit_compile=by_xla, steps_per_execution=together)
    return learner


@contextlib.contextmanager
def watching_gpu() -> Iterator[dict[str, Any]]:
    """The GPU's name, and afterwards its largest memory and which share of the time it computed, as nvidia-smi says."""
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        sys.exit("TensorFlow finds no GPU.")
    found = {"gpu": tf.config.experimental.get_device_details(devices[0]).get("device_name")}
    ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=250"]
    with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) as watch:
        tf.config.experimental.reset_memory_stats("GPU:0")
        yield found
        watch.terminate()
        percents = [float(line) for line in watch.stdout.read().split()]
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    found |= {"gpu megabytes": round(peak / 2**20), "gpu percent": statistics.median(percents) if percents else None}


def timed(job: dict[str, Any]) -> dict[str, Any]:
    """A first fit, which compiles, and a second one, which counts."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    learner = learner_for(job)
    tasks = tf.data.Dataset.from_tensors(mk.Episode(*map(tf.constant, episodes(job["work"])))).repeat()
    began = time.perf_counter()
    automatic = job["together"] == "auto"
    learner.fit(tasks, steps_per_epoch=job["epoch"] if automatic else job["together"], verbose=0)
    first = time.perf_counter() - began
    if job.get("waits"):  # until it is this program's turn
        print("ready", flush=True)
        sys.stdin.readline()
    clock = Clock(job["limit"])
    with watching_gpu() if job.get("gpu") else contextlib.nullcontext({}) as gpu:
        learner.fit(tasks, steps_per_epoch=job["epoch"], epochs=job["iterations"], callbacks=[clock], verbose=0)
    return gpu | {
        "seconds": [(end - start) / job["epoch"] for start, end in zip(clock.ends, clock.ends[1:], strict=False)],
        "first": first,
        "parallel": learner.parallel,
        "together": learner.steps_per_execution,
        "weights": learner.network.count_params(),
        "megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    for each in json.loads(sys.argv[1]):
        print(json.dumps(timed(each)), flush=True)
