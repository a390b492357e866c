"""Distillation: a small network learns to answer as a large one does.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015; hints.py adds Romero et al., 2015.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras.transfer.graph import check_graph, fits
from meta_keras.transfer.hints import bridge_between, feature_loss, seeing
from meta_keras.transfer.losses import default_loss
from meta_keras.transfer.soft import check_temperature, in_single, scores_of, soft_loss


@keras.saving.register_keras_serializable(package="meta_keras")
class Distiller(keras.Model):
    """Trains a student to answer as a teacher does, and as the labels say (Formula 5.4).

        loss = soft * soft_loss + (1 - soft) * cross-entropy + feature_weight * feature_loss

    student, teacher: built models with the same number of outputs, scores or probabilities. The student is trained in
        place, with what its layers add to the loss. The teacher runs with training=False and never changes.
    temperature: how soft the teacher's answers are made (`soft_labels`).
    soft: the share of the teacher. With 1 the labels are not looked at, and `fit(x)` needs none.
    features: (layer of the student, layer of the teacher); the student is also trained to see there what the teacher
        sees (Formula 5.5), through a linear map that is learned with it, if their widths differ:

        feature_loss = mean((W h_student - h_teacher)^2)

    Calling the distiller answers as the student does; `distiller.student` is a plain Keras model.

    >>> import meta_keras as mk
    >>> student, teacher = mk.networks.mlp(3, hidden=(4,)), mk.networks.mlp(3)
    >>> distiller = Distiller(student, teacher, soft=1.0)
    >>> distiller.compile(optimizer="adam")
    >>> history = distiller.fit(tf.ones((8, 1)), verbose=0)
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        *,
        temperature: float = 4.0,
        soft: float = 0.9,
        features: Sequence[str] | None = None,
        feature_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_settings(temperature, soft, feature_weight)
        _check_pair(student, teacher)
        self.student, self.teacher = student, teacher
        self.temperature, self.soft, self.feature_weight = float(temperature), float(soft), float(feature_weight)
        self.features, self.bridge = None, None
        if features is not None:
            ours, theirs = self.features = _two_layers(features)
            self.bridge = bridge_between(student, ours, teacher, theirs)
            # Functions, since Keras would count and save a model a second time.
            self._student_sees, self._teacher_sees = seeing(student, ours), seeing(teacher, theirs)
        self.built = True

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Those of the student, and of the map between features. The teacher does not learn."""
        return self.student.trainable_variables + (self.bridge.trainable_variables if self.bridge else [])

    trainable_weights = trainable_variables

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        return self.student(inputs, training=training)

    def compile(self, optimizer: Any = "adam", metrics: Sequence[Any] | None = None, **kwargs: Any) -> None:
        """As `keras.Model.compile`, without a loss: it is the distiller's own."""
        if kwargs.get("loss") is not None:
            raise ValueError("A distiller has a loss of its own: leave loss out, and set soft and temperature instead.")
        super().compile(optimizer=optimizer, metrics=metrics, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras does when it loads a file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            answers, loss = self.distil(x, y, weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, variables), variables, strict=True))
        return self._measured(loss, x, y, answers, weight)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        answers, loss = self.distil(x, y, weight, training=False)
        return self._measured(loss, x, y, answers, weight)

    def distil(
        self, x: tf.Tensor, y: tf.Tensor | None = None, weight: tf.Tensor | None = None, *, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The student's answers and the whole loss (Formula 5.4). weight: (rows,) how much each row counts."""
        if self.features is None:
            answers, taught = self.student(x, training=training), self.teacher(x, training=False)
        else:
            answers, seen = self._student_sees(x, training)
            taught, shown = self._teacher_sees(x, False)
        losses = self.soft * soft_loss(
            scores_of(self.teacher, taught), scores_of(self.student, answers), self.temperature
        )
        if self.soft < 1:
            losses += (1 - self.soft) * _hard_loss(self.student, y, answers)
        if self.features is not None:
            losses += self.feature_weight * feature_loss(shown, self.bridge(seen) if self.bridge else seen)
        losses = losses if weight is None else losses * tf.cast(weight, losses.dtype)
        return answers, tf.add_n([tf.reduce_mean(losses), *self.student.losses])

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """As Keras does, without the metrics that have seen no labels and so have nothing to say."""
        results: dict[str, tf.Tensor] = {}
        for metric in self.metrics:
            if getattr(metric, "built", True):
                result = metric.result()
                results |= result if isinstance(result, dict) else {metric.name: result}
        return results

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "student": keras.saving.serialize_keras_object(self.student),
            "teacher": keras.saving.serialize_keras_object(self.teacher),
            "temperature": self.temperature,
            "soft": self.soft,
            "features": self.features,
            "feature_weight": self.feature_weight,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "Distiller":
        models = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects) for name in ("student", "teacher")
        }
        return cls(**(config | models))

    def _measured(
        self, loss: tf.Tensor, x: tf.Tensor, y: tf.Tensor | None, answers: tf.Tensor, weight: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        mean = next(metric for metric in self.metrics if metric.name == "loss")
        mean.update_state(loss, sample_weight=tf.shape(answers)[0])
        if y is None:  # then there is nothing that metrics could compare with
            return {"loss": mean.result()}
        return self.compute_metrics(x, y, answers, weight)


def _hard_loss(student: keras.Model, y: tf.Tensor | None, answers: tf.Tensor) -> tf.Tensor:
    if y is None:
        raise ValueError("With soft below 1 the labels count, and none were given: fit(x, y), or Distiller(soft=1.0).")
    if not y.dtype.is_integer or y.shape[1:].num_elements() != 1:
        raise ValueError(
            f"Labels are whole numbers, one a row; these are {y.dtype.name} of shape {tuple(y.shape)}. "
            "One-hot labels become numbers with y.argmax(axis=-1)."
        )
    return default_loss(student, y).call(y, in_single(answers))


def _two_layers(features: Sequence[str]) -> tuple[str, ...]:
    if isinstance(features, str) or len(features) != 2:
        raise ValueError(f"features are (layer of the student, layer of the teacher); {features!r} was given.")
    return tuple(features)


def _check_settings(temperature: float, soft: float, feature_weight: float) -> None:
    check_temperature(temperature)
    if not 0 <= soft <= 1:
        raise ValueError(f"soft is a share between 0 and 1; {soft!r} was given.")
    if not 0 <= feature_weight < np.inf:
        raise ValueError(f"feature_weight is 0 or more; {feature_weight!r} was given.")


def _check_pair(student: keras.Model, teacher: keras.Model) -> None:
    for role, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, keras.Model) or not model.built:
            raise ValueError(f"The {role} must be a built Keras model; begin it with keras.Input(shape).")
        check_graph(model, one_input=False)
    for what in ("input_shape", "output_shape"):
        ours, theirs = getattr(student, what), getattr(teacher, what)
        if not fits(ours, theirs):
            raise ValueError(
                f"Student and teacher need the same {what}: {student.name!r} has {ours}, {teacher.name!r} {theirs}."
            )
    shared = {v.path for v in student.trainable_variables if any(v is other for other in teacher.variables)}
    if shared:
        raise ValueError(
            f"The teacher must not change, and shares {len(shared)} weights with the student, such as "
            f"{min(shared)!r}. Take a student of its own, for example same_structure(teacher)."
        )
