"""A training begun anew, for another seed or another start, without compiling again."""

from collections.abc import Sequence

import keras
import numpy as np


def restart(model: keras.Model, weights: Sequence[np.ndarray] | None = None) -> None:
    """Puts a compiled model back before its first step: these weights, and an optimizer that remembers nothing.

    Compiling takes longer than training a small network. So compile once, and restart for every seed.

    weights: as `get_weights` gives them. None keeps those that the model has.

    A learning rate stays as it is now; a schedule begins at its first step.

    >>> import numpy as np
    >>> import meta_keras as mk
    >>> model = mk.networks.mlp(1, input_shape=(3,))
    >>> model.compile("adam", "mse")
    >>> start = model.get_weights()
    >>> for seed in range(2):
    ...     restart(model, start)
    ...     _ = model.fit(np.ones((4, 3)), np.ones(4), verbose=0)
    >>> int(model.optimizer.iterations)
    1
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(f"{model.name!r} has no optimizer to restart; compile it first.")
    if weights is not None:
        model.set_weights(weights)
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.trainable_variables)
    for variable, start in zip(optimizer.variables, fresh.variables, strict=True):
        variable.assign(start)
