"""Creation of resumable data loaders, whose order on each rank is a function of (seed, epoch).

The position in an epoch is counted in examples over all ranks together. In the training process this module does not
use the global random number generators; in workers they are seeded for each batch.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from trackside.callbacks.errors import ArgumentError, TracksideTypeError, TracksideValueError

from ...data.sharding import BatchCut
from .arrow import ArrowBatches
from .collators import Collator, default_data_collator
from .loader import EpochLoader
from .sampler import EpochBatchSampler
from .stream import ShardedIterable
from .workers import START_METHOD, init_worker

logger: logging.Logger = logging.getLogger("trackside.data")

_told: weakref.WeakSet[DataLoader[Any]] = weakref.WeakSet()


def make_loader(
    dataset: Any,
    *,
    batch_size: int,
    collate_fn: Collator,
    args: Any,
    seed: int,
    shuffle: bool,
    drop_last: bool,
    rank: int = 0,
    world_size: int = 1,
    global_batch_size: int | None = None,
) -> EpochLoader:
    """Return the loader of one rank's batches.

    Args:
        dataset: A map-style dataset (with a length and items), or anything that can be iterated over more than once;
            see `check_dataset`.
        batch_size: Examples in one batch of one rank.
        global_batch_size: Examples in one batch of all ranks, if it is not ``batch_size`` for each rank.
        args: Read for dataloader_num_workers, dataloader_pin_memory, dataloader_persistent_workers,
            dataloader_prefetch_factor, dataloader_multiprocessing_context, group_by_length and length_column_name.
        shuffle: Shuffle a map-style dataset; an iterable one keeps its own order.

    Raises:
        ArgumentError: If group_by_length is requested, and there are no lengths.
    """
    options = _worker_options(args)
    by_length = shuffle and getattr(args, "group_by_length", False)
    is_map_style = _is_map_style(dataset)
    size = len(dataset) if is_map_style else 0
    cut = BatchCut(size, global_batch_size or batch_size * world_size, rank, world_size, drop_last)
    if not is_map_style:
        if by_length:
            raise ArgumentError("group_by_length", True, "False, since the dataset has no items to sort")
        return EpochLoader(dataset, ShardedIterable(dataset, cut, seed, collate_fn), collate_fn, seed, options)
    measure = partial(example_lengths, dataset, args.length_column_name) if by_length else lambda: None
    as_tensors = _is_quick(dataset, collate_fn)
    sampler = EpochBatchSampler(cut, seed=seed, shuffle=shuffle, lengths=measure(), as_tensors=as_tensors)
    if as_tensors:
        dataset, collate_fn = WholeBatches(dataset), _as_is
    elif ArrowBatches.suit(dataset, collate_fn):
        dataset, collate_fn = ArrowBatches(dataset, collate_fn), _as_is
    return EpochLoader(dataset, sampler, collate_fn, seed, options, measure)


def check_same_data(sizes: Sequence[tuple[int | None, int | None]]) -> None:
    """Raise if the processes have training data of different sizes; some would wait for others that have finished.

    Args:
        sizes: The number of examples, and of batches per epoch, on each process; None if unknown.

    Raises:
        TracksideValueError: If they differ; the message has the first rank that differs from rank 0.
    """
    other = next((rank for rank, size in enumerate(sizes) if size != sizes[0]), None)
    if other is not None:
        words = "{1} batches an epoch, of {0} examples"
        first, odd = (words.format(*size).replace("None", "?") for size in (sizes[0], sizes[other]))
        raise TracksideValueError(
            f"train_dataset is not the same on all processes: rank 0 has {first}, rank {other} has {odd}. Give the "
            "whole of it to each; the trainer splits it evenly"
        )


def tell_of_loader(loader: DataLoader[Any], batch_size: int, rank: int) -> None:
    """Log once that a DataLoader of the user is used as it is, and what does not apply to it."""
    if loader in _told or rank > 0:
        return
    _told.add(loader)
    own = "batches of its own" if loader.batch_size is None else f"batches of {loader.batch_size}"
    logger.warning(
        "a DataLoader is used as it is, with %s: the batch size of the arguments (%d), data_collator, dataloader_* and "
        "group_by_length do not apply, and no column is dropped",
        own,
        batch_size,
    )


def example_lengths(dataset: Any, column: str = "length") -> list[int]:
    """Return the length of each example: from the column of that name, or else by counting its input_ids.

    Raises:
        ArgumentError: If the examples have neither.
    """
    if column in (getattr(dataset, "column_names", None) or ()):
        return [int(length) for length in dataset[column]]
    first = dataset[0] if len(dataset) else {}
    name = next((name for name in (column, "input_ids") if isinstance(first, Mapping) and name in first), None)
    if name is None and len(dataset):
        allowed = f"False, unless examples are dicts with {column!r} (length_column_name) or 'input_ids'"
        raise ArgumentError("group_by_length", True, allowed)
    values = (dataset[index][name] for index in range(len(dataset)))
    return [int(value) if name == column else len(value) for value in values]


def check_dataset(dataset: Any) -> None:
    """Check that a dataset gives examples, before anything is made of their names.

    Raises:
        TracksideTypeError: If not; the message has what to give instead.
    """
    kind = type(dataset).__name__
    if isinstance(dataset, tuple) and len({getattr(part, "shape", None) for part in dataset}) > 1:
        raise TracksideTypeError(
            "a tuple of arrays is not a dataset of examples; give TensorDataset(*map(torch.as_tensor, arrays))"
        )
    if hasattr(dataset, "columns") and (hasattr(dataset, "dtypes") or hasattr(dataset, "schema")):
        made = FROM_TABLES.get(type(dataset).__module__.partition(".")[0], "Dataset.from_pandas(table)")
        raise TracksideTypeError(
            f"{kind} is a table of columns, not a dataset of examples; give datasets.{made}, or TensorDataset of "
            "tensors of its columns"
        )
    if isinstance(dataset, Mapping):
        raise TracksideTypeError(f"{kind} is not a dataset of examples: {_instead_of(dataset)}")
    if isinstance(dataset, list | tuple) and dataset and all(map(_is_dataset, dataset)):
        raise TracksideTypeError(
            f"{kind} of {len(dataset)} datasets is not a dataset of examples: give one of them, or their "
            "ConcatDataset; eval_dataset may also be a dict of datasets by name"
        )
    if isinstance(dataset, str | bytes) or not (_has_items(dataset) or isinstance(dataset, Iterable)):
        raise TracksideTypeError(
            f"{kind} is not a dataset: it needs __getitem__ and __len__, or __iter__ that starts anew"
        )


FROM_TABLES = {"pyarrow": "Dataset(table)", "polars": "Dataset.from_polars(table)"}


def _is_dataset(part: Any) -> bool:
    return isinstance(part, Dataset | DataLoader) or hasattr(part, "column_names")


def _instead_of(dataset: Mapping[Any, Any]) -> str:
    if dataset and all(isinstance(key, int) for key in dataset):
        return "its keys are numbers; give the examples, list(dataset.values())"
    if dataset and all(map(_is_dataset, dataset.values())):
        return f"it holds several by name; give one of them, such as dataset[{next(iter(dataset))!r}]"
    return "it holds columns by name; give datasets.Dataset.from_dict(columns), or TensorDataset of its tensors"


# -- fast loading of tensors ------------------------------------------------------------------------------------------


class WholeBatches(Dataset[Any]):
    """A TensorDataset that returns whole batches: the result of `default_data_collator`, ten times faster."""

    def __init__(self, dataset: TensorDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: Tensor) -> tuple[Tensor, ...]:
        return tuple([tensor.index_select(0, indices) for tensor in self.dataset.tensors])

    def __len__(self) -> int:
        return len(self.dataset)


def _as_is(batch: Any) -> Any:
    return batch


def _is_quick(dataset: Any, collate_fn: Collator) -> bool:
    """Return whether indexing whole tensors has the same result as collating examples."""
    return (
        type(dataset) is TensorDataset
        and collate_fn is default_data_collator
        and all(
            type(tensor) is Tensor
            and tensor.device.type == "cpu"
            and tensor.layout is torch.strided
            and not tensor.requires_grad
            for tensor in dataset.tensors
        )
    )


def _is_map_style(dataset: Any) -> bool:
    return _has_items(dataset) and not isinstance(dataset, IterableDataset)


def _has_items(dataset: Any) -> bool:
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def _worker_options(args: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and torch.cuda.is_available(),
    }
    if args.dataloader_num_workers:
        options |= {
            "persistent_workers": args.dataloader_persistent_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
            "multiprocessing_context": args.dataloader_multiprocessing_context or START_METHOD,
            "worker_init_fn": init_worker,
        }
    return options
