"""D2's generalization learning: a meta-model that maps the parameters of a task to a model of the task."""

import math
from typing import Any

import keras
import tensorflow as tf

from meta_keras import checks, networks
from meta_keras.tasks import Curves


def generalize(
    space: Curves,
    features: keras.Model,
    *,
    meta_model: keras.Model | None = None,
    ridge: float = 1e-3,
    learning_rate: float = 0.003,
    steps: int = 1500,
    batch_size: int = 32,
) -> keras.Model:
    """A model of every task of a task space, learned from some of them (一般化学习, D2 3.1.2; Formula 4.7).

        f(x; xi) = features(x) . meta_model(xi)

    The three steps are those of D2: (1) draw tasks from the task space, with their parameters xi; (2) fit a model to
    each of them, and describe the task by the weights of this model (`describe_tasks`); (3) train the meta-model to
    predict the description of a task from its parameters.

    space: what tasks are drawn from; step 1 takes its first batch, so `space.meta_batch` tasks.
    features: a built model that maps x to (rows, m) features. It is not trained.
    meta_model: a built model from (rows, parameters) to (rows, m), which is trained in place by Adam; by default a
        multilayer perceptron. It sees parameters that are standardized over the tasks, and its outputs are scaled by
        the standard deviation of the descriptions.

    Returns a plain Keras model with the inputs [x, parameters], which can be trained further. What it answers for
    parameters outside of the range of the tasks in step 1 is extrapolation by the meta-model.

    >>> from meta_keras import Sinusoids
    >>> waves = keras.Sequential([keras.Input((1,)), keras.layers.Dense(8, activation="tanh")])
    >>> model = generalize(Sinusoids(meta_batch=50), waves, steps=2)
    >>> model([tf.zeros((3, 1)), tf.ones((3, 2))]).shape
    TensorShape([3, 1])
    """
    _check_space_and_features(space, features)
    checks.positive(learning_rate=learning_rate)
    checks.at_least(1, steps=steps, batch_size=batch_size)
    parameters, tasks = space.draw_with_parameters(tf.constant([space.seed, 0], tf.int64))
    x = tf.concat([tasks.support_x, tasks.query_x], axis=1)
    y = tf.concat([tasks.support_y, tasks.query_y], axis=1)
    descriptions = describe_tasks(features, x, y, ridge=ridge)
    if meta_model is None:
        meta_model = networks.mlp(descriptions.shape[1], input_shape=(parameters.shape[1],), hidden=(64, 64))
    _check_meta_model(meta_model, parameters.shape[1], descriptions.shape[1])
    standard = keras.layers.Normalization()
    standard.adapt(parameters)
    deviations = tf.math.reduce_std(descriptions, axis=0)
    scale = tf.where(deviations > 0, deviations, 1)  # 0 if all tasks are alike
    pairs = tf.data.Dataset.from_tensor_slices((standard(parameters), descriptions / scale))
    batches = pairs.shuffle(len(parameters), seed=space.seed).repeat().batch(batch_size)
    meta_model.compile(keras.optimizers.Adam(learning_rate), loss="mse", steps_per_execution=math.gcd(steps, 50))
    meta_model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
    return _conditioned(features, standard, meta_model, scale)


def describe_tasks(features: keras.Model, x: Any, y: Any, *, ridge: float = 1e-3) -> tf.Tensor:
    """(tasks, m) the weights of a linear model on these features that is fitted to each task by ridge regression.

        w = (F^T F + n * ridge * I)^-1 F^T y,     F = features(x)

    The penalty makes them unique, unlike the weights of hidden layers, whose units have no order, so a meta-model can
    learn them.

    x, y: (tasks, n, ...) and (tasks, n, 1) the examples of each task. ridge: the penalty per example.

    >>> identity = keras.Sequential([keras.Input((1,)), keras.layers.Identity()])
    >>> x = tf.constant([[[1.0], [2.0]]])
    >>> describe_tasks(identity, x, 3 * x, ridge=1e-6).numpy().round(2)
    array([[3.]], dtype=float32)
    """
    _check_features(features)
    checks.positive(ridge=ridge)
    checks.examples(x=x, y=y)
    checks.numbers(x=x, y=y)
    checks.finite_numbers(x=x, y=y)
    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    if y.shape.rank != 3 or y.shape[2] != 1 or x.shape.rank < 3 or x.shape[:2] != y.shape[:2]:
        raise ValueError(
            "x must have the shape (tasks, n, ...) and y the shape (tasks, n, 1); got "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )
    tasks, count = x.shape[:2]
    rows = features(tf.reshape(x, (tasks * count, *x.shape[2:])), training=False)
    known = tf.cast(tf.reshape(rows, (tasks, count, -1)), tf.float64)
    matrix = tf.matmul(known, known, transpose_a=True) + count * ridge * tf.eye(known.shape[2], dtype=tf.float64)
    weights = tf.linalg.solve(matrix, tf.matmul(known, tf.cast(y, tf.float64), transpose_a=True))
    return tf.cast(weights[..., 0], tf.float32)


def _conditioned(
    features: keras.Model, standard: keras.layers.Layer, meta_model: keras.Model, scale: tf.Tensor
) -> keras.Model:
    """The model f(x; xi), with the inputs [x, xi]."""
    # Under names of their own, since two parts of a saved model must not have the same one.
    features = keras.Model(features.inputs[0], features.outputs[0], name="features")
    meta_model = keras.Model(meta_model.inputs[0], meta_model.outputs[0], name="meta_model")
    x = keras.Input(features.input_shape[1:], name="x")
    parameters = keras.Input((standard.mean.shape[-1],), name="parameters")
    scaled = keras.layers.Rescaling(scale.numpy().tolist())(meta_model(standard(parameters)))
    answers = keras.layers.Dot(axes=1)([features(x), scaled])
    return keras.Model([x, parameters], answers, name="generalized")


def _check_space_and_features(space: Any, features: Any) -> None:
    if not isinstance(space, Curves):
        raise ValueError(f"space must be tasks with parameters, such as Sinusoids(); got {checks.shown(space)}.")
    _check_features(features)
    if tuple(features.input_shape[1:]) != (1,):
        raise ValueError(
            f"features must take inputs of shape (1,), as the curves have; {features.name!r} takes inputs of shape "
            f"{tuple(features.input_shape[1:])}."
        )


def _check_features(features: Any) -> None:
    checks.fittable_model(features=features)
    checks.one_input(features=features)
    shape = getattr(features, "output_shape", None) if getattr(features, "inputs", None) else None
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(
            "features must be a Sequential or functional model with one output of shape (rows, m); the output of "
            f"{features.name!r} has the shape {shape}."
        )


def _check_meta_model(meta_model: Any, inputs: int, outputs: int) -> None:
    checks.fittable_model(meta_model=meta_model)
    checks.one_input(meta_model=meta_model)
    known = bool(getattr(meta_model, "inputs", None))
    found = (meta_model.input_shape[1:], meta_model.output_shape[1:]) if known else None
    if found != ((inputs,), (outputs,)):
        raise ValueError(
            f"meta_model must map {inputs} parameters to the weights of {outputs} features; {meta_model.name!r} maps "
            f"{'unknown shapes' if found is None else ' to '.join(map(str, found))}."
        )
