"""Random numbers of the Python functions in a tf.data.Dataset, apart from those of the rest of the process.

A generator or a numpy function draws from Python's and numpy's global generators, on a thread of tf.data, ahead of
training. So each dataset has a state of these generators of its own, which is put in place while its functions run.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ...checkpointing.random_state import generators_lent, host_random_state, set_host_random_state
from ...data.sharding import derive_seed
from .._compat import PythonFunction, python_function

DEPTH = 12
"""References that are followed from a function to a generator."""


class HostStream:
    """A state of Python's and numpy's random number generators, in place while functions of a dataset run.

    Generators of numpy and Python that the functions refer to are seeded with it.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None
        self._functions: dict[bytes, PythonFunction] = {}
        self._generators: list[Any] = []

    def adopt(self, tokens: Iterable[bytes]) -> None:
        """Run the functions with these tokens with this stream."""
        for token in tokens:
            function = self._functions.get(token) or python_function(token)
            if function is None or function.original.__module__.startswith("trackside."):
                continue
            if token not in self._functions:
                self._functions[token] = function
                weakref.finalize(self, function.replace, function.original)
                self._generators += generators_in(function.original)
            function.replace(with_stream(function.original, weakref.ref(self)))

    def seed_also(self, function: Any) -> None:
        """Seed the generators that a function refers to with this stream, too."""
        self._generators += generators_in(function)

    def restart(self, *parts: int) -> None:
        """Seed this stream and the generators of the functions by ``parts``."""
        with self.in_place():
            random.seed(derive_seed(*parts))
            np.random.seed(derive_seed(*parts) % 2**32)
        for index, generator in enumerate(self._generators):
            reseed(generator, derive_seed(*parts, index))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Return a context in which the global generators have the state of this stream."""
        with generators_lent():
            before = host_random_state()
            if self._state is not None:
                set_host_random_state(self._state)
            try:
                yield
            finally:
                self._state = host_random_state()
                set_host_random_state(before)


def with_stream(function: Callable[..., Any], stream: weakref.ref[HostStream]) -> Callable[..., Any]:
    """Return ``function`` with the random numbers of a stream, as long as that exists."""

    def call(*args: Any, **kwargs: Any) -> Any:
        own = stream()
        if own is None:
            return function(*args, **kwargs)
        with own.in_place():
            return function(*args, **kwargs)

    call.is_of_stream, call.__wrapped__ = True, function  # type: ignore[attr-defined]
    return call


def reseed(generator: Any, seed: int) -> None:
    """Seed a generator of numpy or Python."""
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        bits.state = type(bits)(seed).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(seed % 2**32)
    else:
        generator.seed(seed)


def generators_in(function: Any) -> list[Any]:
    """Return the generators of numpy and Python that a function refers to, in a fixed order."""
    return [part for part in _reached(function, set(), DEPTH) if isinstance(part, KINDS)]


def may_draw(function: Any) -> bool:
    """Return whether a function, or one that it refers to, has a generator or names random numbers."""
    for part in _reached(function, set(), DEPTH):
        if isinstance(part, KINDS) or (isinstance(part, ModuleType) and "random" in part.__name__):
            return True
        code = getattr(part, "__code__", None)
        if code is not None and any("rand" in name or "shuffle" in name for name in code.co_names):
            return True
    return False


KINDS = (np.random.Generator, np.random.RandomState, random.Random)


def _reached(value: Any, seen: set[int], depth: int) -> Iterator[Any]:
    """Yield what a value refers to, itself included."""
    if id(value) in seen or depth == 0 or isinstance(value, (str, bytes, int, float, type, np.ndarray, type(None))):
        return
    seen.add(id(value))
    yield value
    for part in _references(value):
        yield from _reached(part, seen, depth - 1)


def _references(value: Any) -> list[Any]:
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        named = [value.__globals__[name] for name in _names_in(value.__code__) if name in value.__globals__]
        return [*cells, *(value.__defaults__ or ()), *named]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, Mapping):
        return list(value.values())[:100]
    if isinstance(value, (list, tuple, set)):
        return list(value)[:100]
    package = type(value).__module__.split(".")[0]
    is_state = type(value).__name__ == "_GeneratorState"
    return list(vars(value).values()) if hasattr(value, "__dict__") and (is_state or package not in LIBRARIES) else []


LIBRARIES = ("builtins", "numpy", "tensorflow", "keras", "random", "threading", "trackside")


def _names_in(code: Any) -> list[str]:
    inner = [name for constant in code.co_consts if hasattr(constant, "co_names") for name in _names_in(constant)]
    return [*code.co_names, *inner]


def _is_filled(cell: Any) -> bool:
    try:
        return bool(cell.cell_contents is not None)
    except ValueError:
        return False
