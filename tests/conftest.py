"""Every test starts with the same seed and with Keras' default precision, and leaves no figure open."""

import gc
import os
import sys

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
# The programs of tests run only a few steps, so optimizing them would take longer than it saves. `chapters` and
# `benchmarks` compile as users do.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores. TensorFlow reads this when it is imported, which is after this file.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Begin with the website: it is built once, and at the end two processes would need it and one would wait."""
    items.sort(key=lambda item: item.path.name != "test_site.py")


def pytest_collection_finish():
    """Leave what was imported out of garbage collection, which would go through it again and again.

    And go through all graphs that a process keeps ten times less often than is usual.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:  # as XLA_FLAGS above: graphs run as they are traced
        tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "slow: one of the tests that take much of the time; `run.py test` leaves them out without `--all`"
    )
    config.addinivalue_line(
        "markers",
        "eagerly(yes=True): run the body of each tf.function as Python, which takes less time than tracing and "
        "compiling it for a few steps; for tests whose claim does not depend on it",
    )


@pytest.fixture(autouse=True)
def eagerly(request):
    marker = request.node.get_closest_marker("eagerly")
    if marker is None or marker.args == (False,):
        yield
        return
    config = sys.modules["tensorflow"].config
    config.run_functions_eagerly(True)
    yield
    config.run_functions_eagerly(False)


@pytest.fixture(autouse=True)
def fresh_start():
    keras = sys.modules.get("keras")  # tests/test_run.py does not import it and therefore starts immediately
    if keras is not None:
        keras.utils.set_random_seed(0)
    yield
    if keras is not None:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
