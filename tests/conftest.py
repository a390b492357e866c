"""Every test starts from one seed, with Keras' default precision, and leaves no figure open."""

import os
import sys

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def fresh_start():
    keras = sys.modules.get("keras")  # tests/test_run.py does without, and so starts at once
    if keras is not None:
        keras.utils.set_random_seed(0)
    yield
    if keras is not None:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
