"""Collators: conversion of a list of examples to a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from trackside.callbacks.errors import TracksideValueError

from ...evaluation.output_collector import leaves
from .._torch_util import fields_of, has_fields

Collator = Callable[[list[Any]], Any]

LABEL_COLUMNS = ("label", "label_ids")
"""Columns that `default_data_collator` renames to ``labels``."""


def default_data_collator(features: list[Any]) -> Any:
    """Return a batch of examples that all have the same form.

    Dicts, and objects with fields, become a dict of tensors; entries that are text or None in the first example are
    left out. ``label`` (one for each example) and ``label_ids`` (several) become ``labels``: integers as int64, others
    as float32. Tuples become a tuple; torch's ``default_collate`` handles all other types.

    Raises:
        TracksideValueError: If examples differ in shape or in their fields, or are not numbers; the message names the
            field.
    """
    first = features[0]
    if isinstance(first, tuple) and not hasattr(first, "_fields"):
        return tuple(_collated(features))
    if not isinstance(first, Mapping):
        if not is_object(first):
            return _collated(features)
        features = [fields_of(feature) for feature in features]
        first = features[0]
    try:
        batch = _labels(first, features)
        for name, value in first.items():
            if name not in LABEL_COLUMNS and not _is_left_out(value):
                batch[name] = _stacked(name, value, [feature[name] for feature in features])
    except KeyError:
        _check_same_fields(features)
        raise
    if any(len(feature) != len(first) for feature in features):
        _check_same_fields(features)
    return batch


def _check_same_fields(features: list[Any]) -> None:
    """Raise TracksideValueError if a field that is not text or None is in some of the examples only."""
    for name in {name: None for feature in features for name, value in feature.items() if not _is_left_out(value)}:
        number = sum(name in feature for feature in features)
        if number < len(features):
            raise TracksideValueError(
                f"examples of one batch have different fields: {name!r} is in {number} of {len(features)}. Give it to "
                "all of them, or give a data_collator"
            )


def _is_left_out(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _collated(features: list[Any]) -> Any:
    try:
        return default_collate(features)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        parts = dict(enumerate(features[0])) if isinstance(features[0], tuple | list) else {}
        places = (place for place in parts if not _is_collated([feature[place] for feature in features]))
        where = next((f"at place {place}" for place in places), f"of type {type(features[0]).__name__}")
        raise TracksideValueError(
            f"the examples of a batch cannot be stacked {where}: {error}. Make numbers or tensors of them in the "
            "dataset, or give a data_collator, which pads where lengths differ"
        ) from error


def _is_collated(values: list[Any]) -> bool:
    try:
        default_collate(values)
    except (ValueError, TypeError, RuntimeError, KeyError):
        return False
    return True


def is_object(example: Any) -> bool:
    """Return whether the fields of an example are its entries, as those of a dataclass are."""
    return not isinstance(example, Mapping | Tensor | np.ndarray) and has_fields(example)


def _labels(first: Mapping[str, Any], features: list[Any]) -> dict[str, Any]:
    if first.get("label") is not None:
        values = [_plain(feature["label"]) for feature in features]
        return {"labels": _stacked("label", values[0], values, _label_dtype(values[0]))}
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
        shown = str(error).rstrip(".")
        raise TracksideValueError(
            f"the examples of a batch cannot be stacked in {name!r}: {shown}. {_cure(values)}"
        ) from error


def _cure(values: list[Any]) -> str:
    """Return what to do with values that cannot be stacked."""
    if any(isinstance(value, str) for value in values):
        return "Give each class its number, and tokenize texts, in the dataset"
    kinds = int, float, Tensor, np.ndarray, np.generic
    if any(not isinstance(leaf, kinds) or getattr(leaf, "dtype", None) == np.object_ for leaf in leaves(values)):
        return "Make numbers of them in the dataset"
    return "Where lengths differ, give a data_collator that pads, such as DataCollatorWithPadding(tokenizer)"


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
