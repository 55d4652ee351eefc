"""Collators: conversion of a list of examples to a batch."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from trackside.callbacks.errors import TracksideValueError, did_you_mean

from .._torch_util import fields_of, has_fields, unwrap
from ..model_io import forward_parameters

logger: logging.Logger = logging.getLogger("trackside.data")

Collator = Callable[[list[Any]], Any]

LABEL_COLUMNS = ("label", "label_ids")
"""Columns that `default_data_collator` renames to ``labels``."""


def default_data_collator(features: list[Any]) -> Any:
    """Return a batch of examples that all have the same form.

    Dicts, and objects with fields, become a dict of tensors; entries that are text or None in the first example are
    left out. ``label`` (one for each example) and ``label_ids`` (several) become ``labels``: integers as int64, others
    as float32. Tuples become a tuple; torch's ``default_collate`` handles all other types.

    Raises:
        TracksideValueError: If examples differ in shape; the message names the field.
    """
    first = features[0]
    if isinstance(first, tuple) and not hasattr(first, "_fields"):
        return tuple(default_collate(features))
    if not isinstance(first, Mapping):
        if isinstance(first, Tensor | np.ndarray) or not has_fields(first):
            return default_collate(features)
        features = [fields_of(feature) for feature in features]
        first = features[0]
    batch = _labels(first, features)
    for name, value in first.items():
        if name not in LABEL_COLUMNS and value is not None and not isinstance(value, str):
            batch[name] = _stacked(name, value, [feature[name] for feature in features])
    return batch


def _labels(first: Mapping[str, Any], features: list[Any]) -> dict[str, Any]:
    if first.get("label") is not None:
        values = [_plain(feature["label"]) for feature in features]
        return {"labels": torch.tensor(values, dtype=_label_dtype(values[0]))}
    if first.get("label_ids") is not None:
        several = [feature["label_ids"] for feature in features]
        if isinstance(several[0], Tensor | np.ndarray):
            return {"labels": _stacked("label_ids", several[0], several)}
        dtype = _label_dtype(_plain(several[0][0])) if len(several[0]) else torch.long
        return {"labels": _stacked("label_ids", several[0], several, dtype)}
    return {}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _label_dtype(value: Any) -> torch.dtype:
    return torch.long if isinstance(value, int) else torch.float


def _stacked(name: str, first: Any, values: list[Any], dtype: torch.dtype | None = None) -> Any:
    try:
        if isinstance(first, Tensor):
            return torch.stack(values)
        if isinstance(first, np.ndarray):
            return torch.from_numpy(np.stack(values))
        if isinstance(first, Mapping):
            return default_collate(values)
        return torch.tensor(values, dtype=dtype)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TracksideValueError(
            f"the examples of a batch cannot be stacked in {name!r}: {error}. Where lengths differ, give a "
            "data_collator that pads, such as DataCollatorWithPadding(tokenizer)"
        ) from error


@dataclasses.dataclass
class DataCollatorWithPadding:
    """Pad the examples of a batch to one length with a tokenizer; ``label`` and ``label_ids`` become ``labels``.

    Attributes:
        tokenizer: Anything with transformers' ``pad``.
        padding: True or "longest", "max_length", or False.
        max_length: The length for "max_length".
        pad_to_multiple_of: Round the length up to a multiple of this number, which is faster on some devices.
        return_tensors: The form of the batch; "pt" is torch's.
    """

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __call__(self, features: list[Any]) -> Any:
        if hasattr(self.tokenizer, "deprecation_warnings"):  # suppresses a warning against padding at collation
            self.tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
        lengths = {"max_length": self.max_length, "pad_to_multiple_of": self.pad_to_multiple_of}
        batch = dict(self.tokenizer.pad(features, padding=self.padding, return_tensors=self.return_tensors, **lengths))
        for name in LABEL_COLUMNS:
            if name in batch:
                batch["labels"] = batch.pop(name)
        return batch


# -- columns that the model does not take -----------------------------------------------------------------------------


class UsedColumns:
    """A collator that drops columns which the model does not take, then calls another; the dataset is unchanged.

    Attributes:
        collate_fn: The other collator.
        columns: Names that are kept.
        model_name: Name of the model, for messages.
    """

    def __init__(self, collate_fn: Collator, columns: Sequence[str], model_name: str) -> None:
        self.collate_fn = collate_fn
        self.columns: frozenset[str] = frozenset(columns)
        self.model_name = model_name
        self._has_told = False

    def __call__(self, features: list[Any]) -> Any:
        if isinstance(features[0], Mapping):
            self.check(features[0])
            features = [{key: row[key] for key in row if key in self.columns} for row in features]
        return self.collate_fn(features)

    def check(self, names: Sequence[str] | Mapping[str, Any]) -> None:
        """Log once which of ``names`` are dropped.

        Raises:
            TracksideValueError: If all of them are dropped.
        """
        if self._has_told:
            return
        dropped = [name for name in names if name not in self.columns]
        if dropped and len(dropped) == len(names):
            taken = ", ".join(sorted(self.columns))
            raise TracksideValueError(
                f"{self.model_name}.forward takes none of the dataset's columns {', '.join(dropped)}; it takes {taken}."
                f"{did_you_mean(dropped[0], self.columns)} Rename columns, or set "
                "remove_unused_columns=False and let the data_collator choose"
            )
        if dropped:
            logger.info("columns that %s.forward does not take are dropped: %s", self.model_name, ", ".join(dropped))
        self._has_told = True


def drop_unused_columns(collate_fn: Collator, dataset: Any, model: nn.Module, label_names: Sequence[str]) -> Collator:
    """Return a collator that drops columns which the model's forward does not take, and calls ``collate_fn``.

    It applies to datasets with named columns (datasets.Dataset); for other datasets, and for models whose forward takes
    no named arguments, ``collate_fn`` itself is returned.

    Raises:
        TracksideValueError: If no column is left; the message names them.
    """
    if not hasattr(dataset, "column_names"):
        return collate_fn
    taken = forward_arguments(model)
    if not taken:
        return collate_fn
    wrapped = UsedColumns(collate_fn, [*taken, *LABEL_COLUMNS, *label_names], type(model).__name__)
    form = getattr(dataset, "format", None)
    has_transform = isinstance(form, dict) and form.get("type") == "custom"  # its columns are known only at collation
    if isinstance(dataset.column_names, list | tuple) and not has_transform:
        wrapped.check(dataset.column_names)
    return wrapped


def forward_arguments(model: nn.Module) -> list[str]:
    """Return the argument names of the forward of ``model``, inside the wrappers of compile, DDP and PEFT."""
    inner: Any = unwrap(model)
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    return forward_parameters(inner)[0]
