"""How Keras trains on tasks: `fit`, `evaluate` and `predict` on datasets of episodes, with every batch checked."""

import contextlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.faults import check_finite, raise_fault
from meta_keras.inputs import check_inputs
from meta_keras.internals import local_loss_tracker
from meta_keras.scaling import scaling_error, seem_scaled
from meta_keras.stepping import StepModel
from meta_keras.targets import BINARY, check_takes_labels
from meta_keras.tasks.episodes import Episode, continued, is_endless
from meta_keras.tasks.inspection import (
    Inputs,
    Inspected,
    as_batch,
    as_tensor,
    check_batch,
    check_episodes,
    check_images,
    check_shapes,
    first_of,
    scaled_examples,
)


class TaskModel(StepModel):
    """A Keras model whose inputs are tasks. A subclass has a `network` and defines `ways_of` and `answer_width`."""

    network: keras.Model
    needs_every_class = False  # whether queries may only ask for labels of the support set

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._validation: tf.data.Dataset | None = None
        self._specs: dict[str, Any] = {}
        self._scaling_error: str | None = None  # "" if the network does not scale pixels

    def ways_of(self, episode: Episode, tasks: Any = None) -> int | None:
        """How many classes the tasks have, from the dataset or its first batch; None for a regression."""
        raise NotImplementedError

    def check_regression(self, targets: tf.Tensor) -> None:
        """Raise a ValueError if targets that are no labels meet a loss for labels."""
        if isinstance(self.loss, keras.losses.SparseCategoricalCrossentropy):
            raise ValueError(
                f"These tasks have {targets.dtype.name} targets, as of a regression; the loss is "
                'cross-entropy, for integer labels. Use compile(loss="mse").'
            )

    def answer_width(self, ways: int) -> int:
        """How many numbers a query is answered with."""
        raise NotImplementedError

    def fit(self, x: tf.data.Dataset, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`, on an endless dataset of episodes: say how many with `steps_per_epoch`.

        Step n of the training sees batch n of the tasks, so training that is resumed, or continued by a second
        `fit`, goes on where it stopped. A finite dataset starts again in every epoch, and with `steps_per_epoch` only
        in the epoch after all of it was used.
        """
        for name in ("y", "batch_size", "class_weight", "sample_weight", "validation_split"):
            if kwargs.get(name) is not None:
                raise ValueError(f"Episodes contain their labels, in batches of tasks; fit cannot use {name}.")
        checks.at_least(0, epochs=kwargs.get("epochs", 1))
        self.fault.assign(-1)
        with contextlib.ExitStack() as stack:
            if kwargs.get("validation_data") is not None:
                steps = kwargs.pop("validation_steps", None)
                validation = self._inspected(kwargs["validation_data"], steps, "validation_steps", "test")
                stack.enter_context(validation.reporting())
                kwargs["validation_data"] = self._validation = validation.batches
            training = self._inspected(x, kwargs.get("steps_per_epoch"), "steps_per_epoch", "train")
            stack.enter_context(training.reporting())
            kwargs["callbacks"] = self._prepare_steps(training.batches, kwargs)
            stack.callback(self._end_steps)
            kwargs.setdefault("shuffle", False)  # episodes are drawn at random already
            return super().fit(training.batches, **kwargs)

    def evaluate(self, x: tf.data.Dataset, steps: int | None = None, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, on `steps` batches. `meta_keras.evaluate` adds an interval."""
        if x is self._validation and x is not None:  # `fit` validates on what it has prepared
            return super().evaluate(x, **kwargs)
        inspected = self._inspected(x, steps, "steps", "test")
        if self.replicas is not None and not self.replicas.is_chief:
            kwargs["verbose"] = 0
        with inspected.reporting():
            results = super().evaluate(inspected.batches, **kwargs)
        check_finite(self)
        return results

    def predict(self, x: Any, steps: int | None = None, **kwargs: Any) -> np.ndarray:
        """The answers to all queries: of `steps` batches of episodes, or of one batch of tasks

        `(support_x, support_y, query_x)`.
        """
        if isinstance(x, tf.data.Dataset):
            inspected = self._inspected(x, steps, "steps", "predict")
            with inspected.reporting():
                return super().predict(inspected.batches.map(lambda inputs, _: (inputs,)), **kwargs)
        inputs, _ = self._one_batch(x)
        return super().predict(tf.data.Dataset.from_tensors((inputs,)), **kwargs)

    def train_on_batch(self, x: Any, y: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`, on `(support_x, support_y, query_x)` and the labels of the queries."""
        results = super().train_on_batch(*self._one_batch(x, y=y), **kwargs)
        raise_fault(self)
        return results

    def test_on_batch(self, x: Any, y: Any, **kwargs: Any) -> Any:
        """As `keras.Model.test_on_batch`, on `(support_x, support_y, query_x)` and the labels of the queries."""
        return super().test_on_batch(*self._one_batch(x, y=y), **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """An adapted model can be exported, but not the learner, whose inputs are tasks."""
        raise ValueError("Export the model for a task: learner.adapt(support_x, support_y).export(path).")

    def batches_of(self, tasks: tf.data.Dataset) -> Inspected:
        """Episodes as the batches `(inputs, query_y)` that this model is called on and trained on, each one checked."""
        return self._batches(tasks)

    def _batches(self, tasks: tf.data.Dataset, source: tf.data.Dataset | None = None) -> Inspected:
        checks.outside_of_scopes()
        check_episodes(tasks)
        first = first_of(tasks)
        ways = self._checked_ways(first, tasks)
        self._make_metrics(as_batch(first, ways))
        return Inspected(tasks, ways, every_class=self.needs_every_class, source=source)

    def _inspected(self, tasks: Any, steps: int | None, name: str, use: str) -> Inspected:
        """The batches to "train", "test" or "predict" on: after those that training has seen, or the first `steps`."""
        check_episodes(tasks)
        if steps is None and is_endless(tasks):
            raise ValueError(f"These tasks are endless; say how many batches of them to use, such as {name}=100.")
        if steps is not None:
            checks.at_least(1, **{name: steps})
        inspected = self._batches(tasks, continued(tasks, self.batches_seen.value) if use == "train" else None)
        if use != "train" and steps is not None:
            inspected.batches = inspected.batches.take(steps)
        # Keras would trace a known function for both shapes, and therefore with less information about each.
        spec = inspected.batches.element_spec
        if self._specs.setdefault(use, spec) != spec:
            self._specs[use] = spec
            setattr(self, f"{use}_function", None)
        return inspected

    def _one_batch(self, x: Any, **given: Any) -> tuple[Inputs, tf.Tensor | None]:
        """One batch of tasks as this model is called on it, once it is checked. given: `y`, if it is needed."""
        checks.outside_of_scopes()
        if not isinstance(x, list | tuple) or len(x) not in (3, 4):
            raise ValueError(
                "Inputs are tasks: a dataset of episodes, or (support_x, support_y, query_x) with one row per task; "
                f"got {checks.shown(x)}. For inputs without a support set use learner.network."
            )
        checks.examples(**given)
        y = given.get("y")
        support_x, support_y, query_x = map(as_tensor, ("support_x", "support_y", "query_x"), x[:3])
        # Without labels, only the shape of the queries can be checked, for which any label of the support set will do.
        labels = tf.gather(support_y, tf.zeros(tf.shape(query_x)[1], tf.int32), axis=1) if y is None else y
        episode = Episode(support_x, support_y, query_x, as_tensor("y", labels))
        check_shapes(episode)
        check_images(episode)
        ways = self._checked_ways(episode)
        inputs, query_y = as_batch(episode, ways)
        self._make_metrics((inputs, query_y))
        return inputs, None if y is None else query_y

    def _checked_ways(self, episode: Episode, tasks: Any = None) -> int | None:
        """How many classes the tasks have, once the values of this batch are checked."""
        ways = self.ways_of(episode, tasks)
        if ways is not None:
            several = episode.query_y.shape.rank > 2  # labels per query, of which each may be for one answer
            targets = {name: one for name, one in self.targets.items() if not (several and one == BINARY)}
            check_takes_labels(targets, self.answer_width(ways))
        check_batch(episode, ways, self.needs_every_class)
        self._check_range(scaled_examples(episode.support_x))
        return ways

    def _check_examples(self, x: tf.Tensor, name: str) -> None:
        """Raise a ValueError unless examples fit the network, which must not scale them once more."""
        check_inputs(self.network, x, name)
        self._check_range(x)

    def _check_range(self, x: tf.Tensor) -> None:
        """Raise a ValueError if the network would scale examples once more. What it does is found out only once."""
        if self._scaling_error is None:
            self._scaling_error = scaling_error(network=self.network) or ""
        if self._scaling_error and seem_scaled(x, self.network):
            raise ValueError(self._scaling_error)

    def _make_metrics(self, batch: tuple[Inputs, tf.Tensor]) -> None:
        """Let the metrics create their variables: if the first step did this, it would be traced twice."""
        if not self.compiled or self.metrics_made:
            return
        self.metrics_made = True
        if self.replicas is not None:
            local_loss_tracker(self)  # which Keras may have created within the strategy's scope
        inputs, query_y = batch
        shape = list(query_y.shape)
        if query_y.dtype.is_integer:
            shape.append(self.answer_width(inputs[3].shape[-1]))
        self.compute_metrics(inputs, query_y, tf.zeros(shape, self.compute_dtype))
        self.reset_metrics()
