"""Tasks that can be pickled and copied, although a `tf.data.Dataset` can not."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Repeatable:
    """A mixin for tasks that are fully described by the arguments they were made with.

    A pickle or a deep copy holds the arguments alone, and makes the tasks again from them.
    """

    def __new__(cls, *arguments: Any, **options: Any) -> "Repeatable":
        made = super().__new__(cls)
        made._made_with = arguments, options
        return made

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _make, (type(self), *self._made_with)


def _make(kind: type, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
    return kind(*arguments, **options)
