"""Distillation: a small network, the student, is trained on the outputs of a large one, its teacher."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras import checks
from meta_keras.models import ExampleModel
from meta_keras.outputs import as_metrics, default_loss
from meta_keras.scaling import check_scaled
from meta_keras.traces import final_activation
from meta_keras.transfer.distillation_losses import (
    TEMPERATURES,
    check_class_outputs,
    feature_loss,
    in_single,
    logits_of,
    soft_loss,
)
from meta_keras.transfer.features import with_features
from meta_keras.transfer.layers import check_graph, fits, output_of


@keras.saving.register_keras_serializable(package="meta_keras")
class Distiller(ExampleModel):
    """Trains a student on the soft labels of a teacher and on the true labels (Formula 5.4).

        loss = soft * soft_loss + (1 - soft) * cross-entropy + feature_weight * feature_loss

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.

    student, teacher: built models with the same number of outputs, which are logits or end in a softmax. The student
        is trained in place, with the losses of its layers. The teacher runs with training=False and never changes.
        Both get the inputs unchanged, and pixels from 0 to 255 only if they scale them themselves.
    temperature: higher means softer labels (`soft_labels`).
    soft: the weight of the soft loss, from 0 to 1. With 1 the true labels are not used, and `fit(x)` needs none.
    features: (layer of the student, layer of the teacher); the features of the student are also trained to match those
        of the teacher (Formula 5.5; Romero et al., "FitNets: Hints for Thin Deep Nets", 2015). If their widths differ,
        they are compared after a linear projection W that is trained too:

        feature_loss = mean((W h_student - h_teacher)^2)

    Calling the distiller calls the student; `distiller.student` is a plain Keras model.

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
        checks.between(*TEMPERATURES, temperature=temperature)
        checks.fraction(soft=soft)
        checks.nonnegative(feature_weight=feature_weight)
        _check_pair(student, teacher)
        self.student, self.teacher = student, teacher
        self.temperature, self.soft, self.feature_weight = float(temperature), float(soft), float(feature_weight)
        self.features, self.projection = None, None
        if features is not None:
            of_student, of_teacher = self.features = _two_layers(features)
            self.projection = projection_between(student, of_student, teacher, of_teacher)
            self._student_with_features = with_features(student, of_student)
            self._teacher_with_features = with_features(teacher, of_teacher)
        self.built = True

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Those of the student and of the projection of its features. The teacher does not train."""
        return self.student.trainable_variables + (self.projection.trainable_variables if self.projection else [])

    trainable_weights = trainable_variables

    @property
    def metrics(self) -> list[keras.Metric]:
        """As Keras has them, without those that have seen no labels yet, and so have no result."""
        return [metric for metric in super().metrics if getattr(metric, "built", True)]

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        check_scaled(self.student, inputs)
        return self.student(inputs, training=training)

    def compile(self, optimizer: Any = "adam", metrics: Sequence[Any] | None = None, **kwargs: Any) -> None:
        """As `keras.Model.compile`, without a loss, because the distiller has its own."""
        if kwargs.get("loss") is not None:
            raise ValueError("A distiller has its own loss: leave loss out, and set soft and temperature instead.")
        checks.one_device(self)
        given = {"metrics": metrics, "weighted_metrics": kwargs.get("weighted_metrics")}
        kwargs |= as_metrics(given, final_activation(self.student))
        super().compile(optimizer=optimizer, **kwargs)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            outputs, loss = self.distill(x, y, weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, variables), variables, strict=True))
        return self._results(loss, x, y, outputs, weight)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        outputs, loss = self.distill(x, y, weight, training=False)
        return self._results(loss, x, y, outputs, weight)

    def distill(
        self, x: tf.Tensor, y: tf.Tensor | None = None, weight: tf.Tensor | None = None, *, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The student's outputs and the whole loss (Formula 5.4). weight: (rows,) the weight of each row."""
        for model in (self.student, self.teacher):
            check_scaled(model, x)
        if self.features is None:
            outputs, targets = self.student(x, training=training), self.teacher(x, training=False)
        else:
            student_features, outputs = self._student_with_features(x, training=training)
            teacher_features, targets = self._teacher_with_features(x, training=False)
        losses = self.soft * soft_loss(
            student=logits_of(self.student, outputs),
            teacher=logits_of(self.teacher, targets),
            temperature=self.temperature,
        )
        if self.soft < 1:
            losses += (1 - self.soft) * _hard_loss(self.student, y, outputs)
        if self.features is not None:
            projected = self.projection(student_features) if self.projection else student_features
            losses += self.feature_weight * feature_loss(student=projected, teacher=teacher_features)
        losses = losses if weight is None else losses * _by_row(weight, losses)
        return outputs, tf.add_n([tf.reduce_mean(losses), *self.student.losses])

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

    def _results(
        self, loss: tf.Tensor, x: tf.Tensor, y: tf.Tensor | None, outputs: tf.Tensor, weight: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        mean = next(metric for metric in self.metrics if metric.name == "loss")
        mean.update_state(loss, sample_weight=tf.shape(outputs)[0])
        if y is None:  # then there is nothing that metrics could compare with
            return {"loss": mean.result()}
        return self.compute_metrics(x, y, outputs, weight)


def projection_between(
    student: keras.Model, of_student: str, teacher: keras.Model, of_teacher: str
) -> keras.layers.Layer | None:
    """The linear map from the width of the student's layer to that of the teacher's; None if they are the same."""
    check_graph(student, name="student")
    check_graph(teacher, name="teacher")
    given, wanted = (tuple(output_of(*pair).shape) for pair in ((student, of_student), (teacher, of_teacher)))
    if not fits(given[:-1], wanted[:-1]):
        raise ValueError(
            f"Features may differ only in their width, the last number of their shape: {of_student!r} of the student "
            f"has the shape {given}, and {of_teacher!r} of the teacher {wanted}. Choose layers with equal others."
        )
    if given[-1] == wanted[-1]:
        return None
    projection = keras.layers.Dense(wanted[-1], use_bias=False, name="projection")
    projection.build(given)
    return projection


def _hard_loss(student: keras.Model, y: tf.Tensor | None, outputs: tf.Tensor) -> tf.Tensor:
    if y is None:
        raise ValueError("With soft below 1 labels are needed, and there are none: fit(x, y), or Distiller(soft=1.0).")
    if not y.dtype.is_integer or y.shape[1:].num_elements() != 1:
        raise ValueError(
            f"Labels must be integers, one per row; got {y.dtype.name} of shape {tuple(y.shape)}. "
            "One-hot labels become integers with y.argmax(axis=-1)."
        )
    return default_loss(final_activation(student), y.dtype).call(y, in_single(outputs))


def _two_layers(features: Sequence[str]) -> tuple[str, ...]:
    checks.names(features=features)
    if isinstance(features, str) or len(features) != 2:
        raise ValueError(f"features must be (layer of the student, layer of the teacher); got {features!r}.")
    return tuple(features)


def _check_pair(student: keras.Model, teacher: keras.Model) -> None:
    for role, model in (("student", student), ("teacher", teacher)):
        check_graph(model, one_input=False, name=role)
        check_class_outputs(model, role)
    for what in ("input_shape", "output_shape"):
        of_student, of_teacher = getattr(student, what), getattr(teacher, what)
        if type(of_student) is not type(of_teacher) or not fits(of_student, of_teacher):
            raise ValueError(
                f"Student and teacher must have the same {what}; {student.name!r} has {of_student}, and "
                f"{teacher.name!r} has {of_teacher}."
            )
    shared = {v.path for v in student.trainable_variables if any(v is other for other in teacher.variables)}
    if shared:
        raise ValueError(
            f"The teacher must not change, but it shares {len(shared)} weights with the student, such as "
            f"{min(shared)!r}. Use a separate student, for example same_structure(teacher)."
        )


def _by_row(weight: tf.Tensor, losses: tf.Tensor) -> tf.Tensor:
    """Weights of shape (rows,) or (rows, 1) in a shape that multiplies the losses row by row."""
    rank = losses.shape.rank
    shape = [-1, *weight.shape[1:rank], *[1] * (rank - len(weight.shape))]
    return tf.reshape(tf.cast(weight, losses.dtype), shape)
