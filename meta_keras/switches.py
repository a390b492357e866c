"""Switches that hold within a block, and in one thread alone."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")


@contextlib.contextmanager
def switched(switch: ContextVar[Value], value: Value) -> Iterator[None]:
    """Within this block, and in this thread alone, a switch has this value.

    >>> loud = ContextVar("loud", default=False)
    >>> with switched(loud, True):
    ...     loud.get()
    True
    >>> loud.get()
    False
    """
    token = switch.set(value)
    try:
        yield
    finally:
        switch.reset(token)
