"""Layer-wise learning rates: the deeper a layer, the more slowly it learns."""

from collections.abc import Sequence
from typing import Any

import keras

from meta_keras import checks
from meta_keras.internals import decays, exclude_as


@keras.saving.register_keras_serializable(package="meta_keras")
class LayerwiseLearningRates(keras.optimizers.Optimizer):
    """An optimizer that multiplies the learning rate by `decay` from each layer to the one below (Formula 3.3).

        alpha_d = alpha * decay ** d,   where d = 0 for the last layer that trains, 1 for the one before it, ...

    Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018, call this discriminative
    fine-tuning. Each layer is trained by its own copy of the optimizer with its own learning rate. Scaling the
    gradients instead would have no effect on Adam, which normalizes them.

    optimizer: a Keras optimizer or its name, whose settings all layers use. Its learning rate, a number or a schedule,
        is alpha. `learning_rate` may be changed at any time, also by a callback. What either of the two optimizers
        excludes from weight decay has none.
    decay: above 0, and at most 1.

    Like every optimizer it is saved with a compiled model; loading the file requires `import meta_keras`.

    >>> optimizer = LayerwiseLearningRates(keras.optimizers.SGD(0.1), decay=0.5)
    >>> low, high = (keras.Variable([1.0], name=name) for name in ("low", "high"))
    >>> optimizer.apply([keras.ops.ones(1)] * 2, [low, high])
    >>> [round(float(weight[0]), 2) for weight in (low, high)]
    [0.95, 0.9]
    """

    def __init__(
        self, optimizer: str | keras.optimizers.Optimizer = "adam", decay: float = 0.5, *, name: str | None = None
    ) -> None:
        checks.positive(decay=decay)
        checks.fraction(decay=decay)
        if name is not None:
            checks.text(name=name)
            if "/" in name:  # Keras separates the parts of a path by it
                raise ValueError(f"name must not contain '/'; got {name!r}.")
        settings = _settings_of(optimizer)
        rate = settings["learning_rate"]
        super().__init__(
            keras.saving.deserialize_keras_object(rate) if isinstance(rate, dict) else rate,
            loss_scale_factor=settings.get("loss_scale_factor"),
            name=name or "layerwise_learning_rates",
        )
        self.template, self.decay = keras.optimizers.get(optimizer), float(decay)
        exclude_as(self, self.template)
        self.settings = settings  # read here, since `build` may run while a graph is traced
        self.layer_optimizers: list[keras.optimizers.Optimizer] = []
        self.depths: dict[int, int] = {}

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        layers = _layers_of(variables)
        for depth, layer in enumerate(reversed(layers)):
            own = {"learning_rate": self._learning_rate_at(depth), "name": f"layer_{len(layers) - depth}"}
            optimizer = type(self.template).from_config(dict(self.settings) | own)
            optimizer.exclude_from_weight_decay(
                [one for one in layer if not (decays(self, one) and decays(self.template, one))]
            )
            optimizer.build(layer)
            self.layer_optimizers.append(optimizer)
            self.depths |= {id(variable): depth for variable in layer}

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Update each variable by its gradient. Every layer takes a step of its own optimizer."""
        if trainable_variables is None:
            raise ValueError("Give the variables beside their gradients: apply(grads, trainable_variables).")
        variables = list(trainable_variables)
        self.build(variables)
        unknown = [variable for variable in variables if id(variable) not in self.depths]
        if unknown:
            raise ValueError(
                f"This optimizer was built for other variables, without {unknown[0].path!r}. Compile the model again "
                "after changing which layers train."
            )
        if all(gradient is None for gradient in grads):
            raise ValueError("The loss depends on none of the variables: all gradients are None.")
        for depth, optimizer in enumerate(self.layer_optimizers):
            pairs = [
                (gradient, variable)
                for gradient, variable in zip(grads, variables, strict=True)
                if self.depths[id(variable)] == depth and gradient is not None
            ]
            if pairs:
                optimizer.apply(*zip(*pairs, strict=True))
        self.iterations.assign_add(1)

    @property
    def variables(self) -> list[keras.Variable]:
        """The state of this optimizer and of those of the layers."""
        return [*super().variables, *(v for optimizer in self.layer_optimizers for v in optimizer.variables)]

    def save_own_variables(self, store: Any) -> None:
        """The state of this optimizer alone, since Keras saves those of the layers as its attributes."""
        for place, variable in enumerate(super().variables):
            store[str(place)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """As `save_own_variables` has stored them."""
        for place, variable in enumerate(super().variables):
            variable.assign(store[str(place)])

    def get_config(self) -> dict[str, Any]:
        template = keras.optimizers.serialize(self.template)
        template["config"]["learning_rate"] = super().get_config()["learning_rate"]
        return {"optimizer": template, "decay": self.decay, "name": self.name}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "LayerwiseLearningRates":
        return cls(**config | {"optimizer": keras.optimizers.deserialize(config["optimizer"], custom_objects)})

    def _learning_rate_at(self, depth: int) -> Any:
        return lambda: self.learning_rate * self.decay**depth


def _settings_of(optimizer: Any) -> dict[str, Any]:
    """The configuration of the optimizer, if its steps may be taken layer by layer; else an error."""
    if not isinstance(optimizer, str | keras.optimizers.Optimizer):
        raise ValueError(f"optimizer must be a Keras optimizer or the name of one; got {checks.shown(optimizer)}.")
    try:
        settings = keras.optimizers.get(optimizer).get_config()
    except ValueError as error:
        raise ValueError(f"optimizer must be a Keras optimizer or the name of one; got {optimizer!r}.") from error
    whole = [name for name in ("global_clipnorm", "use_ema") if settings.get(name)]
    if "learning_rate" not in settings or whole:
        what = f"with {whole[0]}" if whole else f"of type {type(optimizer).__name__}"
        raise ValueError(
            f"An optimizer {what} needs all layers at once, so they cannot have their own optimizers. Take a plain "
            "optimizer, such as Adam with clipnorm."
        )
    return settings


def _layers_of(variables: Sequence[keras.Variable]) -> list[list[keras.Variable]]:
    """The variables, which come in the order of the model, as one list per layer.

    The paths of a layer's variables differ only in their last part. A path that comes twice belongs to two layers with
    one name.
    """
    layers: list[list[keras.Variable]] = []
    for variable in variables:
        layer, _, _ = variable.path.rpartition("/")
        before = [other.path for other in layers[-1]] if layers else []
        same = bool(layer) and before and before[-1].rpartition("/")[0] == layer and variable.path not in before
        if not same:
            layers.append([])
        layers[-1].append(variable)
    return layers
