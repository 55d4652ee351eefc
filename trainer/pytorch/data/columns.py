"""Columns of a dataset that the model does not take, dropped when examples are collated."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from trackside.callbacks.errors import TracksideValueError, did_you_mean

from .._torch_util import fields_of, unwrap
from ..model_io import forward_parameters
from .collators import LABEL_COLUMNS, Collator, default_data_collator, is_object

logger: logging.Logger = logging.getLogger("trackside.data")

LIBRARIES = ("trackside", "transformers", "torch")
"""Packages whose collators know no columns by name; those of others may read any column of a dataset of dicts."""


_told: WeakKeyDictionary[nn.Module, set[tuple[str, ...]]] = WeakKeyDictionary()
"""The columns that were told to be dropped, for each model."""


class UsedColumns:
    """A collator that drops columns which the model does not take, then calls another; the dataset is unchanged.

    Attributes:
        collate_fn: The other collator.
        columns: Names that are kept, those of labels included.
        labels: Names of labels.
        model_name: Name of the model, for messages.
        told: The columns that were told to be dropped, by other loaders too.
        level: Level of the message that tells what is dropped.
    """

    def __init__(
        self,
        collate_fn: Collator,
        taken: Iterable[str],
        labels: Iterable[str],
        model_name: str,
        told: set[tuple[str, ...]],
        level: int = logging.INFO,
    ) -> None:
        self.collate_fn = collate_fn
        self.labels: frozenset[str] = frozenset(labels)
        self.columns: frozenset[str] = frozenset(taken) | self.labels
        self.model_name = model_name
        self.told = told
        self.level = level
        # shared with workers, each of which has a copy of this object
        self._has_told = torch.zeros((), dtype=torch.bool, device="cpu").share_memory_()  # type: ignore[no-untyped-call]

    def __call__(self, features: list[Any]) -> Any:
        if self.collate_fn is default_data_collator and is_object(features[0]):
            features = [fields_of(feature) for feature in features]
        if isinstance(features[0], Mapping):
            self.check(features[0].keys())
            if not all(row.keys() <= self.columns for row in features):
                features = [{key: row[key] for key in row if key in self.columns} for row in features]
        return self.collate_fn(features)

    def check(self, names: Collection[str]) -> None:
        """Log once which of ``names`` are dropped.

        Raises:
            TracksideValueError: If all of them but labels are dropped.
        """
        if self._has_told:
            return
        dropped = [name for name in names if name not in self.columns]
        if dropped and not any(name in self.columns - self.labels for name in names):
            taken, given = ", ".join(sorted(self.columns)), ", ".join(map(str, dropped))
            raise TracksideValueError(
                f"{self.model_name}.forward takes none of the dataset's columns {given}; it takes {taken}."
                f"{did_you_mean(str(dropped[0]), self.columns)} Rename columns, or set "
                "remove_unused_columns=False and let the data_collator, or compute_loss, choose"
            )
        if dropped and tuple(dropped) not in self.told:
            self.told.add(tuple(dropped))
            logger.log(
                self.level,
                "columns that %s.forward does not take are dropped: %s (remove_unused_columns=False keeps them)",
                self.model_name,
                ", ".join(dropped),
            )
        self._has_told.fill_(True)


def drop_unused_columns(
    collate_fn: Collator, dataset: Any, model: nn.Module, label_names: Sequence[str], *, reads_batches: bool = False
) -> Collator:
    """Return a collator that drops columns which the model's forward does not take, and calls ``collate_fn``.

    It applies to datasets with named columns (datasets.Dataset, its streams, and subsets and concatenations of them),
    and to other datasets of dicts or objects. For the latter, ``collate_fn`` itself is returned if what it drops might
    be used: it is a function of the user, a method of the trainer reads the batches, or the model takes any name. It is
    also returned for models whose forward takes no named arguments.

    Args:
        reads_batches: Whether the trainer has methods of the user that get whole batches.

    Raises:
        TracksideValueError: If only labels are left; the message names the columns.
    """
    taken, takes_any = forward_arguments(model)
    has_columns, names = columns_of(dataset)
    is_unread = not (reads_batches or takes_any) and _is_of_library(collate_fn)
    if not taken or isinstance(dataset, TensorDataset) or not (has_columns or is_unread):
        return collate_fn
    level = logging.WARNING if reads_batches else logging.INFO
    told = _told.setdefault(model, set())
    wrapped = UsedColumns(collate_fn, taken, [*LABEL_COLUMNS, *label_names], type(model).__name__, told, level)
    if names is not None:
        wrapped.check(names)
    return wrapped


def columns_of(dataset: Any) -> tuple[bool, list[str] | None]:
    """Return whether a dataset has named columns, and their names, if they are the keys of its examples."""
    if isinstance(dataset, Subset):
        return columns_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        parts = [columns_of(part) for part in dataset.datasets]
        return any(has_columns for has_columns, _ in parts), parts[0][1] if parts else None
    names, form = getattr(dataset, "column_names", None), getattr(dataset, "format", None)
    has_transform = isinstance(form, dict) and form.get("type") == "custom"  # its columns are known only at collation
    known = list(names) if isinstance(names, list | tuple) and not has_transform else None
    return hasattr(dataset, "column_names"), known


def forward_arguments(model: nn.Module) -> tuple[list[str], bool]:
    """Return the argument names of a model's forward, and whether it takes any other names.

    The model may be inside the wrappers of compile, DDP and PEFT.
    """
    inner: Any = unwrap(model)
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    return forward_parameters(inner)


def _is_of_library(collate_fn: Any) -> bool:
    function = collate_fn.func if isinstance(collate_fn, partial) else collate_fn
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.partition(".")[0] in LIBRARIES
