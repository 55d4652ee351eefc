"""Random numbers of the Python functions in a tf.data.Dataset, apart from those of the rest of the process.

A generator or a numpy function draws from Python's and numpy's global generators, on a thread of tf.data, ahead of
training. So each dataset has a state of these generators of its own, which is put in place while its functions run.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...checkpointing.own_generators import generators_in, reseed
from ...checkpointing.random_state import generators_lent, host_random_state, set_host_random_state
from ...data.sharding import derive_seed
from .._compat import PythonFunction, python_function


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
