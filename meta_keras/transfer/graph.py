"""Which layer of a model feeds which: read from the model itself, since a layer may belong to several models."""

from collections.abc import Sequence

import keras

from meta_keras.internals import Node, call_of

Shape = tuple[int | None, ...]


def check_graph(model: keras.Model, *, one_input: bool = True) -> None:
    """Raise an error unless the layers of the model are known, with one output, and one input if that is needed."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"A Keras model is needed; this is a {type(model).__name__}.")
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(
            f"The layers of {model.name!r}, a {type(model).__name__}, are not known before it runs. Build it as a "
            "Sequential model that begins with keras.Input(shape), or as a functional model."
        )
    if len(outputs) > 1 or (one_input and len(inputs) > 1):
        raise ValueError(
            f"{'One input and one output are' if one_input else 'One output is'} needed; {model.name!r} has "
            f"{len(inputs)} inputs and {len(outputs)} outputs."
        )


def calls(model: keras.Model) -> list[Node]:
    """The calls of layers that lead from the model's inputs to its outputs, in an order to run them in."""
    found: dict[int, Node] = {}
    waiting = [call_of(tensor) for tensor in model.outputs]
    while waiting:
        before = [call for call in map(call_of, waiting[-1].input_tensors) if id(call) not in found]
        if before:
            waiting += before
        else:
            call = waiting.pop()
            found[id(call)] = call
    return list(found.values())


def layer_names(model: keras.Model) -> list[str]:
    """The names of the layers that a model calls, inputs left out."""
    return [call.operation.name for call in calls(model) if not call.is_input]


def chosen(model: keras.Model, names: str | Sequence[str]) -> list[str]:
    """The names as a list, each one of a layer of the model."""
    names, there = [names] if isinstance(names, str) else list(names), layer_names(model)
    unknown = [name for name in names if name not in there]
    if unknown or not names:
        raise ValueError(
            f"The model {model.name!r} has the layers {listed(there)}; "
            f"{f'there is no {unknown[0]!r}' if unknown else 'name at least one'}."
        )
    return names


def output_of(model: keras.Model, name: str) -> keras.KerasTensor:
    """What the layer of this name gives within the model (`layer.output` may be that of another model)."""
    chosen(model, name)
    found = [call.output_tensors for call in calls(model) if call.operation.name == name]
    if len(found) > 1 or len(found[0]) > 1:
        raise ValueError(f"The layer {name!r} gives {sum(map(len, found))} outputs in this model; one is needed.")
    return found[0][0]


def with_layer(model: keras.Model, name: str) -> keras.Model:
    """The same model with two outputs: what the layer of this name gives, and the answers."""
    return keras.Model(model.inputs[0], [output_of(model, name), model.outputs[0]])


def fits(given: Shape, taken: Shape) -> bool:
    """Whether outputs of one shape can be the inputs of another, where None is any number."""
    same_rank = len(given) == len(taken)
    return same_rank and all(None in pair or pair[0] == pair[1] for pair in zip(given, taken, strict=True))


def listed(words: Sequence[str]) -> str:
    return ", ".join(map(repr, dict.fromkeys(words)))
