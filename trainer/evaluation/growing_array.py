"""Arrays that grow in place as batches are appended.

Each array is allocated for the number of rows expected, or doubles when it is full, so that gathering n batches costs
O(n); ragged trailing dimensions are padded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PADDING = -100
"""Padding value of ragged outputs, which losses and metrics ignore."""


class GrowingArray:
    """An array to which batches are appended along the first axis.

    Args:
        expected: Expected number of rows; None if unknown.
    """

    def __init__(self, expected: int | None = None) -> None:
        self.expected = expected
        self._rows: NDArray[Any] | None = None
        self._used: tuple[int, ...] = (0,)

    def append(self, batch: NDArray[Any], *, is_one_row: bool = False) -> None:
        """Add the rows of ``batch``; a scalar counts as one row.

        Args:
            is_one_row: Whether a batch of one dimension fewer than the others is a row without the first axis, as of a
                model that squeezes a batch of one example.

        Raises:
            ValueError: If the dimensions do not fit those of the batches before; the arguments are both shapes.
        """
        batch = np.atleast_1d(batch)
        if is_one_row and self._rows is not None and batch.ndim + 1 == self._rows.ndim:
            batch = batch[None]
        if self._rows is not None and batch.ndim != self._rows.ndim:
            raise ValueError(f"the shape {batch.shape}", f"{len(self._used)} dimensions")
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
        if self._used[1:] != batch.shape[1:]:
            dtype = _with_padding(dtype)
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


def _with_padding(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the smallest type that holds the values of ``dtype`` and the padding: a signed one for bool, unsigned."""
    return np.promote_types(dtype, np.int8) if dtype.kind in ("b", "u") else dtype


def _filled(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.full(shape, PADDING, dtype) if dtype.kind in "ifc" else np.zeros(shape, dtype)
