"""Collection of predictions of many batches in arrays that grow in place.

Each array is allocated for the number of examples expected, or doubles when it is full, so that gathering n batches
costs O(n); ragged trailing dimensions are padded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PADDING = -100
"""Padding value of ragged outputs, which losses and metrics ignore."""


def map_nested(function: Callable[..., Any], *values: Any) -> Any:
    """Apply ``function`` to every leaf of equally nested tuples, lists and dicts; a list of texts is a leaf.

    Example:
        >>> map_nested(lambda a, b: a + b, (1, {"x": 2}), (10, {"x": 20}))
        (11, {'x': 22})
    """
    first = values[0]
    if isinstance(first, (tuple, list)) and not are_texts(first):
        return tuple(map_nested(function, *parts) for parts in zip(*values, strict=True))
    if isinstance(first, Mapping):
        return {key: map_nested(function, *(value[key] for value in values)) for key in first}
    return function(*values)


def leaves(value: Any) -> list[Any]:
    """Return every leaf of nested tuples, lists and dicts; a list of texts is a leaf."""
    found: list[Any] = []
    map_nested(found.append, value)
    return found


def are_texts(value: Any) -> bool:
    """Return whether ``value`` is a list of texts, one for each example, as collators build it."""
    return isinstance(value, (tuple, list)) and bool(value) and all(isinstance(part, str) for part in value)


class GrowingArray:
    """An array to which batches are appended along the first axis.

    Args:
        expected: Expected number of rows; None if unknown.
    """

    def __init__(self, expected: int | None = None) -> None:
        self.expected = expected
        self._rows: NDArray[Any] | None = None
        self._used: tuple[int, ...] = (0,)

    def append(self, batch: NDArray[Any]) -> None:
        """Add the rows of ``batch``; a scalar counts as one row."""
        batch = np.atleast_1d(batch)
        rows = self._room_for(batch)
        start = self._used[0]
        rows[(slice(start, start + len(batch)), *(slice(0, size) for size in batch.shape[1:]))] = batch
        widths = (max(pair) for pair in zip(self._used[1:], batch.shape[1:], strict=True))
        self._used = (start + len(batch), *widths)

    def array(self) -> NDArray[Any]:
        """Return all appended rows, padded to the widest batch."""
        if self._rows is None:
            return np.empty((0,))
        return self._rows[tuple(slice(0, size) for size in self._used)]

    def _room_for(self, batch: NDArray[Any]) -> NDArray[Any]:
        if self._rows is None:
            self._used = (0, *batch.shape[1:])
            self._rows = _filled((max(self.expected or 0, len(batch)), *batch.shape[1:]), batch.dtype)
            return self._rows
        rows, needed = self._rows, (self._used[0] + len(batch), *batch.shape[1:])
        dtype = np.promote_types(rows.dtype, batch.dtype)
        if all(have >= want for have, want in zip(rows.shape, needed, strict=True)) and dtype == rows.dtype:
            return rows
        # each dimension that is too small grows by at least half, so that growth is rare
        shape = [
            have if have >= want else max(want, have + have // 2) for have, want in zip(rows.shape, needed, strict=True)
        ]
        self._rows = _filled(tuple(shape), dtype)
        used = tuple(slice(0, size) for size in self._used)
        self._rows[used] = rows[used]
        return self._rows


class Collector:
    """Nested predictions of many batches, as one nested array each.

    Args:
        expected: Expected number of examples; None if unknown.
        concatenate: Whether to join the batches; otherwise the result is a list.
    """

    def __init__(self, expected: int | None = None, *, concatenate: bool = True) -> None:
        self._expected = expected
        self._concatenate = concatenate
        self._arrays: Any = None
        self._batches: list[Any] = []

    def append(self, batch: Any) -> None:
        """Add a nested batch of arrays on the host; ignore None."""
        if batch is None:
            return
        if not self._concatenate:
            self._batches.append(batch)
            return
        if self._arrays is None:
            self._arrays = map_nested(lambda _: GrowingArray(self._expected), batch)
        map_nested(lambda array, rows: array.append(rows), self._arrays, batch)

    def result(self) -> Any:
        """Return the gathered predictions; None if there are none."""
        if not self._concatenate:
            return self._batches or None
        return None if self._arrays is None else map_nested(lambda array: array.array(), self._arrays)


def _filled(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return np.full(shape, PADDING if np.issubdtype(dtype, np.number) else 0, dtype)
