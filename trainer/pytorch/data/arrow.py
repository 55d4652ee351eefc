"""Whole batches of a datasets.Dataset: its columns become tensors at once, without a Python object for each number."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .collators import LABEL_COLUMNS, Collator, default_data_collator
from .columns import UsedColumns
from .workers import fetch


class ArrowBatches(Dataset[Any]):
    """A datasets.Dataset that returns whole batches: the result of ``collate``, several times faster.

    The first batch is also made by ``collate``. If the two differ, or a later batch has a column that is not made of
    numbers in rows of one length, all batches are made by ``collate`` from then on.

    Args:
        dataset: The dataset.
        collate: `default_data_collator`, or a `UsedColumns` of it.
    """

    def __init__(self, dataset: Any, collate: Collator) -> None:
        self.dataset = dataset
        self.collate = collate
        self._format = dataset.format
        self._is_tried = False
        self._table: Any = None

    @staticmethod
    def suit(dataset: Any, collate: Collator) -> bool:
        """Return whether ``dataset`` is a datasets.Dataset that gives Python objects to the default collator."""
        inner = collate.collate_fn if isinstance(collate, UsedColumns) else collate
        kind = type(dataset)
        is_arrow = kind.__name__ == "Dataset" and kind.__module__ == "datasets.arrow_dataset"
        return inner is default_data_collator and is_arrow and dataset.format["type"] is None

    def __getitems__(self, indices: list[int]) -> Any:
        """Return the batch of the examples at ``indices``."""
        if self._table is not None and self.dataset.format == self._format:
            batch = batch_of(self._table[indices])
            if batch is not None:
                return batch
            self._table = None
        batch = self.collate(fetch(self.dataset, indices))
        if not self._is_tried:
            self._is_tried = True
            table = self._numbers()
            if table is not None and _are_equal(batch, batch_of(table[indices])):
                self._table = table
        return batch

    def __len__(self) -> int:
        return len(self.dataset)

    def _numbers(self) -> Any:
        """Return the dataset as a table of the columns that the collator may use; None without any."""
        known = self.collate.columns if isinstance(self.collate, UsedColumns) else None
        features = self.dataset.features
        names = [name for name in self._format["columns"] if known is None or name in known]
        names = [name for name in names if getattr(features[name], "dtype", "") not in ("string", "large_string")]
        return self.dataset.with_format("arrow", columns=names) if names else None


def batch_of(table: Any) -> dict[str, Tensor] | None:
    """Return what `default_data_collator` makes of the rows of an arrow table; None where that is left to it."""
    columns = {
        name: numbers_of(column.combine_chunks())
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    if any(numbers is None for numbers in columns.values()):
        return None
    batch = {}
    label = next((name for name in LABEL_COLUMNS if name in columns), None)
    if label is not None:
        batch["labels"] = _tensor(columns[label], is_label=True, is_list=label == "label_ids")
    return batch | {name: _tensor(numbers) for name, numbers in columns.items() if name not in LABEL_COLUMNS}


def numbers_of(column: Any) -> Any:
    """Return an arrow array of numbers, or of lists of one length, as an array; None if it is anything else.

    uint64 is left out, as torch has no whole numbers of its range.
    """
    import pyarrow.compute as compute
    from pyarrow import types

    shape = [len(column)]
    while types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
        lengths = compute.min_max(compute.list_value_length(column)).as_py()
        if column.null_count or not lengths["min"] or lengths["min"] != lengths["max"]:
            return None
        shape.append(lengths["min"])
        column = column.flatten()
    kind = column.type
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    if not is_number or types.is_uint64(kind) or column.null_count:
        return None
    return column.to_numpy(zero_copy_only=False).reshape(shape)


def _tensor(numbers: Any, *, is_label: bool = False, is_list: bool = False) -> Tensor:
    """Return numbers in the type that torch gives to those of Python; labels as whole numbers or float32."""
    kind = numbers.dtype.kind
    if is_label:
        is_whole = kind in "iub" and (is_list or numbers.ndim == 1)
        return torch.from_numpy(numbers.astype(np.int64 if is_whole else np.float32))
    if kind == "f":
        return torch.from_numpy(numbers.astype(np.float64)).to(torch.get_default_dtype())
    return torch.from_numpy(numbers.astype(np.bool_ if kind == "b" else np.int64))


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether two batches have the same names in the same order, types, shapes and values."""
    if not isinstance(one, dict) or other is None or list(one) != list(other):
        return False
    return all(
        isinstance(a, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip(one.values(), other.values(), strict=True)
    )
