"""Arrays that grow in place as batches are appended.

Each array is allocated for the number of rows expected, or grows in place when it is full, so that gathering n batches
costs O(n) and no more memory than the result; ragged trailing dimensions are padded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PADDING = -100
"""Padding value of ragged outputs, which losses and metrics ignore."""

SMALL_BYTES = 1 << 20
"""Size up to which an array doubles; a larger one grows by an eighth, since that moves pages and copies nothing."""


class GrowingArray:
    """An array to which batches are appended along the first axis.

    Rows are complete once they are written: padded to the width of the array, which may exceed that of all batches.

    Args:
        expected: Expected number of rows; None if unknown.
    """

    def __init__(self, expected: int | None = None) -> None:
        self.expected = expected
        self._rows: NDArray[Any] | None = None
        self._count = 0
        self._widths: tuple[int, ...] = ()
        self._is_shown = False

    def append_alike(self, batch: NDArray[Any]) -> bool:
        """Add the rows of ``batch`` if the array is of their type and width and has room for them; return whether."""
        rows, shape, start = self._rows, batch.shape, self._count
        if rows is None or not shape or rows.dtype != batch.dtype:
            return False
        room, end = rows.shape, start + shape[0]
        if end > room[0] or shape[1:] != room[1:]:
            return False
        rows[start:end] = batch
        self._count, self._widths = end, shape[1:]
        return True

    def append(self, batch: NDArray[Any], *, is_one_row: bool = False) -> None:
        """Add the rows of ``batch``; a scalar counts as one row.

        Args:
            is_one_row: Whether a batch of one dimension fewer than the others is a row without the first axis, as of a
                model that squeezes a batch of one example.

        Raises:
            ValueError: If the dimensions do not fit those of the batches before; the arguments are both shapes.
        """
        if type(batch) is np.ndarray and self.append_alike(batch):
            return
        batch, rows = self._with_room(np.atleast_1d(batch), is_one_row=is_one_row)
        if self.append_alike(batch):
            return
        start, widths = self._count, batch.shape[1:]
        self._count += len(batch)
        rows[start : self._count] = _padding_of(rows.dtype)
        rows[(slice(start, self._count), *map(slice, widths))] = batch
        self._widths = tuple(map(max, self._widths, widths))

    def array(self) -> NDArray[Any]:
        """Return all appended rows, padded to the widest batch."""
        if self._rows is None:
            return np.empty((0,))
        if len(self._rows) > self._count:
            self._rows = self._resized(self._rows, (self._count, *self._rows.shape[1:]), self._rows.dtype)
        self._is_shown = True
        return (
            self._rows if self._widths == self._rows.shape[1:] else self._rows[(slice(None), *map(slice, self._widths))]
        )

    def _with_room(self, batch: NDArray[Any], *, is_one_row: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the batch with as many dimensions as the array has, and the array with room for it."""
        rows = self._rows
        if rows is None:
            self._widths = batch.shape[1:]
            rows = np.empty((max(self.expected or 0, len(batch)), *self._widths), batch.dtype)
            self._rows = rows
            return batch, rows
        if is_one_row and batch.ndim + 1 == rows.ndim:
            batch = batch[None]
        if batch.ndim != rows.ndim:
            raise ValueError(f"the shape {batch.shape}", f"{rows.ndim} dimensions")
        dtype = np.promote_types(rows.dtype, batch.dtype)
        if self._widths != batch.shape[1:]:
            dtype = _with_padding(dtype)
        needed = (self._count + len(batch), *batch.shape[1:])
        # a dimension that is too small grows by more than it must, so that growth is rare
        shape = [
            have if have >= want else max(want, have + have // 2) for have, want in zip(rows.shape, needed, strict=True)
        ]
        if needed[0] > len(rows):
            shape[0] = max(needed[0], len(rows) + (len(rows) if rows.nbytes < SMALL_BYTES else len(rows) // 8))
        self._rows = self._resized(rows, tuple(shape), dtype)
        return batch, self._rows

    def _resized(self, rows: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the rows so far in an array of ``shape``, the same one where possible."""
        if shape == rows.shape and dtype == rows.dtype:
            return rows
        if shape[1:] == rows.shape[1:] and dtype == rows.dtype and not (self._is_shown or dtype.hasobject):
            rows.resize(shape, refcheck=False)  # nothing else refers to it yet
            return rows
        larger = np.empty(shape, dtype)
        if shape[1:] != rows.shape[1:]:
            larger[: self._count] = _padding_of(dtype)
        larger[(slice(self._count), *map(slice, rows.shape[1:]))] = rows[: self._count]
        return larger


def _with_padding(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the smallest type that holds the values of ``dtype`` and the padding: a signed one for bool, unsigned."""
    return np.promote_types(dtype, np.int8) if dtype.kind in ("b", "u") else dtype


def _padding_of(dtype: np.dtype[Any]) -> Any:
    return PADDING if dtype.kind in "ifc" else np.zeros((), dtype)
