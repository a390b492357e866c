"""What benchmarks/fuzz.py calls: every public function, class and method of `meta_keras`, found by inspection.

A new function is called as soon as it is public. Excluded are records (named tuples), which only hold their arguments,
and the interfaces for extensions: methods that Keras or a MetaLearner calls, and users only override.
"""

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import keras

import meta_keras as mk
from benchmarks.fuzz_arguments import ARGUMENTS, RECEIVERS, SPECIAL, Factories, inputs, labels, learner
from benchmarks.fuzz_values import UNKNOWN

MODULES = (
    mk, mk.tasks, mk.networks, mk.functional, mk.report, mk.rules, mk.transfer, mk.multitask, mk.unsupervised,
    mk.classical,
)  # fmt: skip
CALLED_BY_OTHERS = {
    "answer_width", "build", "call", "carry_on", "check_regression", "compile_from_config", "compute_loss",
    "compute_metrics", "compute_output_shape", "distill", "export", "from_config",
    "get_compile_config", "get_config", "get_metrics_result", "load_own_variables", "make_train_function",
    "meta_gradients", "on_epoch_end", "on_replicas", "pretext", "running_values", "save_own_variables", "test_step",
    "train_step",
    "ways_of",
}  # fmt: skip
ABSTRACT = (mk.Tasks, mk.Curves, mk.rules.Rule, mk.rules.Update)  # which users subclass and do not create
# Of these classes and their subclasses, users call only the methods that are named.
INTERFACES: dict[type, set[str]] = {
    mk.rules.Rule: {"coefficients"},
    mk.Tasks: {"from_batch"},
    mk.rules.Update: set(),
    keras.optimizers.Optimizer: set(),
}
# Arguments that are passed to Keras unchanged.
KERAS_OWN = {
    "optimizer", "loss", "metrics", "callbacks", "verbose", "validation_data", "validation_steps", "epochs",
    "steps_per_epoch", "initial_epoch", "jit_compile", "steps", UNKNOWN,
}  # fmt: skip


class Target(NamedTuple):
    """A public callable. needed: makers of valid arguments; optional: the names of the others."""

    name: str
    function: Callable[..., Any]
    receiver: Callable[[], Any] | None
    needed: Factories
    optional: tuple[str, ...]
    positional: str | None

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self.needed, *self.optional, UNKNOWN)

    def call(self, replaced: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The result with some arguments replaced, after using it, and all arguments."""
        arguments = {name: make() for name, make in self.needed.items() if name not in replaced} | replaced
        named = dict(arguments)
        several = () if self.positional is None else (named.pop(self.positional),)
        owner = () if self.receiver is None else (self.receiver(),)
        result = self.function(*owner, *several, **named)
        used(result)
        return (*owner, result), arguments


def used(result: Any) -> None:
    """Use the result, because some arguments take effect only then."""
    if isinstance(result, mk.rules.Rule) and type(result) is not mk.rules.Rule:
        learner(result).adapt(inputs(), labels())


def targets() -> Iterator[Target]:
    """Every public callable, once."""
    seen: set[int] = set()
    for module in MODULES:
        prefix = "" if module in (mk, mk.tasks) else f"{module.__name__.rpartition('.')[2]}."
        for name, value in public(module).items():
            if (
                id(value) in seen
                or not callable(value)
                or name in CALLED_BY_OTHERS
                or (isinstance(value, type) and issubclass(value, tuple))
            ):
                continue
            seen.add(id(value))
            if value not in ABSTRACT:
                yield _target(prefix + name, value)
            if isinstance(value, type):
                yield from _methods(prefix + name, value)


def public(module: ModuleType) -> dict[str, Any]:
    """What a module offers: what it lists in __all__, or else what it defines without an underscore."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    return {name: getattr(module, name) for name in names if not isinstance(getattr(module, name), ModuleType)}


def _methods(prefix: str, owner: type) -> Iterator[Target]:
    allowed = next((names for base, names in INTERFACES.items() if issubclass(owner, base)), None)
    # For a learner, also the methods of its base classes, which are not public themselves.
    bases = reversed(owner.__mro__) if owner is mk.MetaLearner else [owner]
    ours = [base for base in bases if base.__module__.startswith("meta_keras")]
    methods = {name: value for base in ours for name, value in vars(base).items()}
    for name, value in methods.items():
        if name.startswith("_") or name in CALLED_BY_OTHERS or (allowed is not None and name not in allowed):
            continue
        bound = isinstance(value, classmethod | staticmethod)
        if bound or inspect.isfunction(value):
            full = f"{prefix}.{name}"
            receiver = None if bound else RECEIVERS.get(full, RECEIVERS.get(prefix))
            yield _target(full, getattr(owner, name), receiver=receiver, method=not bound)


def _target(name: str, function: Any, *, receiver: Any = None, method: bool = False) -> Target:
    parameters = list(inspect.signature(function).parameters.values())[1 if method else 0 :]
    special = SPECIAL.get(name, {})
    needed: Factories = dict(special)
    several = None
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            several = parameter.name
        elif parameter.kind is not parameter.VAR_KEYWORD and parameter.default is parameter.empty:
            if parameter.name not in ARGUMENTS and parameter.name not in special:
                raise LookupError(f"{name} needs {parameter.name}: add a valid one to benchmarks/fuzz_arguments.py.")
            needed.setdefault(parameter.name, ARGUMENTS.get(parameter.name))
    if method and receiver is None:
        raise LookupError(f"{name} needs something to be called on: add it to RECEIVERS in fuzz_arguments.py.")
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    optional = tuple(one.name for one in parameters if one.name not in needed and one.kind not in kinds)
    return Target(name, function, receiver, needed, optional, several)
