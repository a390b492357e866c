"""Every public callable of `transfer`, with each argument replaced by something meaningless: it works, or says why not.

An error is clear if it is a ValueError or a TypeError that a line of this library has raised.
"""

import traceback
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import meta_keras as mk
from meta_keras import transfer

PACKAGE = Path(mk.__file__).parent
BAD = {
    "None": None,
    "nan": float("nan"),
    "infinity": float("inf"),
    "minus one": -1,
    "zero": 0,
    "a half": 0.5,
    "True": True,
    "text": "x",
    "empty text": "",
    "empty list": [],
    "empty mapping": {},
    "numbers": [1, 2],
    "array": np.zeros(3),
    "matrix": np.full((2, 2), np.nan),
    "words": np.array(["a", "b"]),
    "tensor": tf.constant([1.0]),
    "object": object(),
    "class": keras.Model,
    "function": len,
    "layer": layers.Dense(2),
    "unbuilt": keras.Sequential([layers.Dense(2)]),
}


def model(units=3, given=4):
    hidden = layers.Dense(5, activation="tanh", name="hidden")
    return keras.Sequential([keras.Input((given,)), hidden, layers.Dense(units, name="head")])


X, Y = np.ones((4, 4), "float32"), np.array([0, 1, 2, 0])
LOGITS = tf.constant(np.eye(3), tf.float32)
SOUND = {
    "Distiller": lambda: {
        **{"student": model(), "teacher": model(), "temperature": 4.0, "soft": 0.5},
        **{"features": ("hidden", "hidden"), "feature_weight": 1.0},
    },
    "DomainAdaptation": lambda: {
        **{"network": model(), "layer": "hidden", "method": "reversal", "weight": 1.0, "hidden": 3}
    },
    "Frozen": lambda: {"model": model()},
    "GradientReversal": lambda: {"strength": 1.0},
    "RisingWeight": lambda: {"weight": 1.0, "steps": 10},
    "LayerwiseLearningRates": lambda: {"optimizer": "adam", "decay": 0.5},
    "Strategy": lambda: {
        **{"source": model(), "learning_rate": 0.1, "steps": 1, "layers": None, "coefficient": 0.5, "learn": True}
    },
    "StrategyNetwork": lambda: {"source": model(), "source_x": X, "learning_rate": 0.1, "steps": 1, "hidden": 3},
    "ZeroShot": lambda: {"encoder": model(), "descriptions": np.eye(3)},
    "blend_weights": lambda: {"source": model(), "target": model(), "coefficient": 0.5, "layers": None},
    "calibrated": lambda: {"scores": np.eye(3), "seen": [0], "penalty": 1.0},
    "coral_loss": lambda: {"a": LOGITS, "b": LOGITS},
    "describe_names": lambda: {"names": ["ankle boot", "bag"], "by": "words"},
    "extract_features": lambda: {"model": model(), "data": X, "batch_size": 2},
    "feature_extractor": lambda: {"model": model(), "layer": "hidden", "units": [0]},
    "feature_loss": lambda: {"student": LOGITS, "teacher": LOGITS},
    "fine_tune": lambda: {
        **{"model": model(), "data": (X, Y), "train": "head", "learning_rate": 0.1, "optimizer": "adam"},
        **{"epochs": 1, "batch_size": 2},
    },
    "freeze": lambda: {"model": model(), "train": "head", "batch_norm": False},
    "harmonic_mean": lambda: {"seen_accuracy": 0.5, "unseen_accuracy": 0.5},
    "pair_domains": lambda: {"source_x": X, "source_y": Y, "target_x": X, "batch_size": 2, "seed": 0},
    "same_structure": lambda: {"model": model(), "layers": ["hidden"]},
    "soft_labels": lambda: {"network": model(), "x": X, "temperature": 2.0},
    "soft_loss": lambda: {"student": LOGITS, "teacher": LOGITS, "temperature": 2.0},
    "split_model": lambda: {"model": model(), "at": "hidden"},
    "transfer_weights": lambda: {"source": model(), "target": model(), "layers": None},
    "unfreeze_gradually": lambda: {"model": model(), "data": (X, Y), "train": "all", "epochs_per_layer": 1},
    "with_low_rank": lambda: {"source": model(), "rank": 1, "layers": None, "train": None},
    "with_residual": lambda: {"source": model(), "adapter": None},
}
NOT_CALLED = {"TransferReport", "join_models"}


def call(name, arguments):
    if name in ("fine_tune", "unfreeze_gradually"):
        arguments = arguments | {"verbose": 0}
    return getattr(transfer, name)(**arguments)


def no_fit(*_, **__):
    history = keras.callbacks.History()
    history.on_train_begin()
    return history


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch):
    """What is accepted would take long, because there are 2,500 calls."""
    monkeypatch.setattr(keras.Model, "fit", no_fit)


def complaint(name, arguments):
    """None if the call works, or raises a clear error; else what is wrong."""
    try:
        result = call(name, arguments)
    except (TypeError, ValueError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        return None if raised_in.is_relative_to(PACKAGE) else f"{type(error).__name__} in {raised_in}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    values = [one for one in tf.nest.flatten(result) if isinstance(one, tf.Tensor | np.ndarray | float)]
    numbers = [np.asarray(value) for value in values if np.asarray(value).dtype.kind == "f"]
    return None if all(np.isfinite(value).all() for value in numbers) else "an infinite result, or none"


def test_every_public_callable_is_here_and_works_as_it_is_called():
    assert set(SOUND) | NOT_CALLED == set(transfer.__all__)
    wrong = {name: complaint(name, arguments()) for name, arguments in SOUND.items()}
    assert not any(wrong.values()), wrong
    for name, arguments in SOUND.items():
        call(name, arguments())


@pytest.mark.parametrize("name", SOUND)
def test_a_meaningless_argument_works_or_is_refused_with_a_clear_error(name):
    wrong, sound = {}, SOUND[name]()
    for argument in sound:
        for kind, value in BAD.items():
            found = complaint(name, sound | {argument: value})
            if found:
                wrong[f"{argument}={kind}"] = found[:300]
    assert not wrong, "\n".join(f"{call}: {found}" for call, found in wrong.items())


@pytest.mark.parametrize("kind", BAD)
def test_a_meaningless_part_is_not_joined(kind):
    for parts in ((model(), BAD[kind]), (BAD[kind],), (model(4), {"head": BAD[kind]})):
        with pytest.raises((TypeError, ValueError)) as error:
            transfer.join_models(*parts)
        assert Path(error.traceback[-1].path).is_relative_to(PACKAGE), str(error.value)
