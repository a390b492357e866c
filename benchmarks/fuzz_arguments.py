"""Valid arguments for every public function of `meta_keras`, cheap to make, for benchmarks/fuzz_targets.py.

`ARGUMENTS` has one entry per parameter name, since a name has the same meaning throughout the library. `SPECIAL` has
what a single function needs in addition or instead, and `RECEIVERS` has the objects that methods are called on.
"""

import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import meta_keras as mk

Factories = dict[str, Callable[[], Any]]


def labels() -> np.ndarray:
    return np.array([0, 1, 0, 1, 0, 1], np.int32)


def inputs() -> np.ndarray:
    return np.linspace(-1, 1, 6, dtype=np.float32)[:, None]


def network(units: int = 2) -> keras.Model:
    """A network that is built in milliseconds, with every relevant type of layer."""
    layers = keras.layers
    hidden, norm = layers.Dense(3, name="hidden"), layers.BatchNormalization(name="norm")
    return keras.Sequential([keras.Input((1,)), hidden, norm, layers.Dense(units, name="head")])


def encoder_of_images() -> keras.Model:
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])


def decoder() -> keras.Model:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(16), keras.layers.Reshape((4, 4, 1))])


def pixels() -> np.ndarray:
    return np.linspace(0, 1, 48, dtype=np.float32).reshape(3, 4, 4, 1)


@lru_cache
def folder() -> str:
    """A folder of images, two classes of three each."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for number in range(6):
        image = tf.io.encode_png(tf.fill((4, 4, 1), tf.cast(40 * number, tf.uint8)))
        file = root / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(image.numpy())
    return str(root)


def pool() -> mk.ClassPool:
    examples, classes, splits = np.tile(inputs(), (4, 1)), np.tile(labels(), 4), ["train"] * 12 + ["test"] * 12
    return mk.ClassPool(examples, classes, splits=splits, groupings={"kind": ["one", "one"]})


def pool_of_images() -> mk.ClassPool:
    return mk.ClassPool(np.full((24, 4, 4, 1), 0.5, np.float32), np.tile(labels(), 4))


@lru_cache
def tasks() -> tf.data.Dataset:
    """The same batch repeated, since drawing tasks takes longer than using them."""
    drawn = mk.FewShot(pool(), ways=2, shots=2, queries=2, meta_batch=2)
    return tf.data.Dataset.from_tensors(next(iter(drawn))).repeat()


@lru_cache
def sinusoids() -> mk.Tasks:
    return mk.Sinusoids(shots=2, queries=2, meta_batch=2)


@lru_cache
def episode_of_images() -> mk.Episode:
    return next(iter(mk.FewShot(pool_of_images(), ways=2, shots=1, queries=2, meta_batch=2)))


def guess(support_x: Any, support_y: Any, query_x: Any) -> np.ndarray:
    """A learner that always answers with the first of two classes."""
    return np.tile([1.0, 0.0], (len(query_x), 1))


def compiled(model: keras.Model, **kwargs: Any) -> keras.Model:
    """Eager, since tracing would take longer than the single step that is run."""
    model.compile(run_eagerly=True, **kwargs)
    return model


def learner(rule: Any = None) -> mk.MetaLearner:
    rule = mk.rules.GradientDescent(0.1) if rule is None else rule
    return compiled(mk.MetaLearner(network=network(), rule=rule, parallel="unrolled"))


def prepared(rule: Any) -> Any:
    """The rule, after a learner has let it create its weights."""
    return learner(rule).rule


def update() -> mk.rules.UpdateNetwork:
    return mk.rules.UpdateNetwork(0.1, hidden=(2,))


def unrolled() -> mk.UnrolledTraining:
    return compiled(mk.UnrolledTraining(network(), update(), steps=2, truncation=1, batch_size=2, starts=2))


def logits() -> tf.Tensor:
    return tf.constant([[1.0, 2.0], [0.5, 0.1]])


def weights() -> mk.functional.Weights:
    return mk.functional.PureModel(network()).weights()


def as_tensors() -> Factories:
    return {"x": lambda: tf.constant(inputs()), "y": lambda: tf.constant(labels())}


def labels_of_tasks() -> dict[str, np.ndarray]:
    return {"kind": labels(), "size": inputs()}


def multitask() -> mk.multitask.MultiTask:
    heads = {"kind": keras.layers.Dense(2), "size": keras.layers.Dense(1)}
    return compiled(mk.multitask.MultiTask(network(), heads))


def pairs() -> tf.data.Dataset:
    return mk.transfer.pair_domains(inputs(), labels(), inputs(), batch_size=2)


ARGUMENTS: Factories = {
    "a": inputs,
    "arrows": lambda: [("a", "b", "word")],
    "at": lambda: "hidden",
    "augment": lambda: keras.layers.RandomTranslation(0.1, 0.1),
    "b": inputs,
    "boxes": lambda: {"a": (0.1, 0.5, "A"), "b": (0.9, 0.5, "B")},
    "classes": lambda: [0, 1],
    "clusters": lambda: 2,
    "count": lambda: 2,
    "curves": lambda: {"a": [1.0, 2.0]},
    "data": lambda: (inputs(), labels()),
    "decoder": decoder,
    "descriptions": lambda: np.eye(2),
    "encode": lambda: lambda x: x,
    "encoder": network,
    "episode": episode_of_images,
    "features": network,
    "first": logits,
    "gradients": logits,
    "examples": inputs,
    "function": lambda: lambda x: x,
    "heads": lambda: {"kind": keras.layers.Dense(2)},
    "generated": logits,
    "generator": decoder,
    "images": lambda: np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1),
    "labels": labels,
    "layer": lambda: "hidden",
    "learner": lambda: guess,
    "learning_rate": lambda: 0.1,
    "log_variance": lambda: tf.zeros((2, 3)),
    "loss": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "losses": lambda: [1.0, 2.0],
    "mean": lambda: tf.ones((2, 3)),
    "meta_batch": lambda: 2,
    "model": network,
    "name": lambda: "train",
    "names": lambda: ["ankle boot", "boot"],
    "network": network,
    "num_classes": lambda: 2,
    "number": lambda: 0,
    "path": folder,
    "penalty": lambda: 1.0,
    "pool": pool,
    "projections": lambda: tf.eye(4),
    "queries": lambda: 1,
    "regression": lambda: [True, False],
    "real": logits,
    "right": lambda: tf.constant(labels()),
    "rows": lambda: [{"learner": "a", "accuracy": 0.5}],
    "scores": lambda: np.eye(2),
    "second": logits,
    "seed": lambda: 0,
    "seen": lambda: [0],
    "seen_accuracy": lambda: 0.5,
    "shots": lambda: 1,
    "source": network,
    "space": sinusoids,
    "source_x": inputs,
    "source_y": labels,
    "student": network,
    "support_x": inputs,
    "support_y": labels,
    "target": network,
    "target_x": inputs,
    "task": lambda: 1,
    "tasks": tasks,
    "teacher": network,
    "temperature": lambda: 2.0,
    "trunk": network,
    "units": lambda: 2,
    "unseen_accuracy": lambda: 0.5,
    "values": lambda: [0.1, 0.2],
    "ways": lambda: 2,
    "weights": weights,
    "within": lambda: "kind",
    "x": inputs,
    "x_train": inputs,
    "y": labels,
    "y_train": lambda: np.eye(2, dtype=np.float32)[labels()],
    "z": lambda: np.zeros((2, 2), np.float32),
}

FIT: Factories = {"epochs": lambda: 1, "verbose": lambda: 0}
ON_TASKS: Factories = {"x": tasks, "steps": lambda: 1, "verbose": lambda: 0}


def one_batch() -> tuple[np.ndarray, ...]:
    return inputs()[None], labels()[None], inputs()[None]


SPECIAL: dict[str, Factories] = {
    "ClassPool.with_at_least": {"examples": lambda: 2},
    "FewShot": {"ways": lambda: 2, "queries": lambda: 1},
    "MetaLearner": {"num_classes": lambda: None, "network": network},
    "MetaLearner.evaluate": ON_TASKS,
    "MetaLearner.fit": FIT | {"x": tasks, "steps_per_epoch": lambda: 1, "validation_data": lambda: None},
    "MetaLearner.predict": ON_TASKS,
    "MetaLearner.test_on_batch": {"x": one_batch, "y": lambda: labels()[None]},
    "MetaLearner.train_on_batch": {"x": one_batch, "y": lambda: labels()[None]},
    "LearnedOptimizer": {"update": update},
    "UnrolledTraining": {"network": network, "update": update, "steps": lambda: 2, "truncation": lambda: 1},
    "UnrolledTraining.evaluate": ON_TASKS,
    "UnrolledTraining.fit": FIT | {"x": tasks, "steps_per_epoch": lambda: 1, "validation_data": lambda: None},
    "UnrolledTraining.learning_curves": {"tasks": tasks, "batches": lambda: 1},
    "UnrolledTraining.predict": ON_TASKS,
    "UnrolledTraining.test_on_batch": {"x": one_batch, "y": lambda: labels()[None]},
    "UnrolledTraining.train_on_batch": {"x": one_batch, "y": lambda: labels()[None]},
    "classical.main": {"dataset": lambda: "fashion", "epochs": lambda: 1},
    "classical.train_model": {"epochs": lambda: 1, "model": lambda: mk.classical.create_model((1,), 2)},
    "evaluate": {"episodes": lambda: 2},
    "load": {"name": lambda: "languages"},
    "report.measured": {"name": lambda: "chapter_10"},
    "maml_loop": {"iterations": lambda: 1},
    "restart": {"model": lambda: compiled(network(), loss="mse"), "weights": lambda: network().get_weights()},
    "unsupervised.cluster_classes": {"features": inputs},
    "unsupervised.k_means": {"features": inputs},
    "multitask.MultiTask.task_gradients": {"x": inputs, "y": labels_of_tasks},
    "multitask.describe_tasks": {"x": lambda: inputs()[None], "y": lambda: inputs()[None]},
    "multitask.generalize": {"steps": lambda: 1},
    "multitask.mix_tasks": {"data": lambda: {"kind": (inputs(), labels()), "color": (inputs(), labels())}},
    "multitask.uncertainty_loss": {"log_variances": lambda: tf.zeros(2)},
    "transfer.Distiller.distill": as_tensors(),
    "transfer.Distiller.fit": FIT,
    "transfer.DomainAdaptation.fit": FIT | {"x": pairs, "y": lambda: None, "steps_per_epoch": lambda: 1},
    "transfer.RisingWeight": {"weight": lambda: 1.0, "steps": lambda: 10},
    "transfer.StrategyNetwork.coefficients": {"support_x": inputs, "support_y": labels},
    "transfer.ZeroShot.fit": FIT,
    "transfer.extract_features": {"data": inputs},
    "transfer.fine_tune": FIT,
    "transfer.join_models": {"parts": network},
    "transfer.coral_loss": {"a": logits, "b": logits},
    "transfer.feature_loss": {"teacher": logits, "student": logits},
    "transfer.soft_loss": {"teacher": logits, "student": logits},
    "unsupervised.Contrastive": {"encoder": encoder_of_images},
    "unsupervised.GAN": {"encoder": encoder_of_images},
    "unsupervised.Rotation": {"encoder": encoder_of_images},
    "unsupervised.VAE": {"encoder": encoder_of_images},
    "unsupervised.VAE.encode": {"x": pixels},
    "unsupervised.VAE.posterior": {"x": pixels},
    "unsupervised.VAE.reconstruct": {"x": pixels},
    "unsupervised.UMTRA": {"augment": lambda: keras.layers.GaussianNoise(0.1)},
    "unsupervised.density_and_coverage": {"real": inputs, "generated": inputs},
    "unsupervised.few_shot_score": {"ways": lambda: 2, "queries": lambda: 1, "episodes": lambda: 2},
}
RECEIVERS: Factories = {
    "ClassPool": pool,
    "ClassPool.rotated": pool_of_images,
    "ClassPool.split_classes": lambda: mk.ClassPool(np.zeros((30, 2), np.float32), np.arange(30) // 2),
    "MetaLearner": learner,
    "Tasks": sinusoids,
    "functional.PureModel": lambda: mk.functional.PureModel(network()),
    "UnrolledTraining": unrolled,
    "multitask.MultiTask": multitask,
    "transfer.Distiller": lambda: compiled(mk.transfer.Distiller(network(), network())),
    "transfer.DomainAdaptation": lambda: compiled(mk.transfer.DomainAdaptation(network(), layer="hidden")),
    "transfer.Strategy": lambda: prepared(mk.transfer.Strategy(network(), 0.1)),
    "transfer.StrategyNetwork": lambda: prepared(mk.transfer.StrategyNetwork(network(), inputs(), 0.1)),
    "transfer.ZeroShot": lambda: compiled(mk.transfer.ZeroShot(network(), np.eye(2))),
    "unsupervised.GAN": lambda: mk.unsupervised.GAN(encoder_of_images(), decoder()),
    "unsupervised.Rotation": lambda: mk.unsupervised.Rotation(encoder_of_images()),
    "unsupervised.VAE": lambda: mk.unsupervised.VAE(encoder_of_images(), decoder()),
}
