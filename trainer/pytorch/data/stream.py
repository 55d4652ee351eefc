"""Batches of iterable datasets, split across ranks and workers without changes to the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError
from trackside.trainer.data.sharding import BatchCut, derive_seed, share_of

from ...engine import TrainBatch
from .workers import host_state_kept, seed_worker, unseen_as_worker


class ShardedIterable(IterableDataset[TrainBatch]):
    """One rank's batches of a stream, the same with any number of workers.

    Every rank and every worker reads the whole stream and keeps its part: a rank keeps its share of each global batch,
    and worker k keeps every num_workers-th batch of the rank. Shares are as even as possible; a rank with an empty
    share of a smaller last batch gets an example of another rank, which does not count. So all ranks have the same
    number of batches, and the order is the same with 0, 1 or more workers. The cost is that the stream is read more
    than once.

    Examples to skip are read again and discarded.

    A dataset that splits itself with ``get_worker_info`` declares this with an attribute ``shards_itself = True``
    (datasets.IterableDataset needs no declaration). Then each worker's part is cut into global batches separately: each
    example still occurs exactly once, but the order depends on the number of workers, and one batch for each worker may
    be smaller. Without the attribute, ``get_worker_info`` returns None for such a dataset, and it yields all examples.

    While the stream is read, the random numbers of Python, numpy and torch follow from (seed, epoch, position), so that
    a dataset which shuffles or augments yields the same on all ranks, in any number of workers, and after a resume. The
    training process restores its random state after each batch; a worker collates with random numbers of its rank.

    Args:
        dataset: Any iterable that can be read more than once; ``set_epoch(epoch)`` is called if it exists.
        cut: The partition into global batches and shares; its number of examples is ignored.
        seed: Seed of the random numbers while the stream is read.
    """

    def __init__(self, dataset: Any, cut: BatchCut, seed: int = 0) -> None:
        _check_stream(dataset, cut.world_size)
        self.dataset: Any = dataset
        self.cut: BatchCut = cut
        self.seed: int = seed
        self._epoch_and_skip = torch.zeros(2, dtype=torch.long)

    @property
    def shards_itself(self) -> bool:
        """Whether the dataset splits itself among workers."""
        known = getattr(self.dataset, "shards_itself", None)
        return bool(_is_hugging_face(self.dataset) if known is None else known)

    def share_with_workers(self) -> None:
        """Share the epoch with persistent workers."""
        self._epoch_and_skip.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int, skip_examples: int = 0) -> None:
        """Go to ``epoch``, after the ``skip_examples`` that all ranks together have already used."""
        self._epoch_and_skip[0] = epoch
        self._epoch_and_skip[1] = skip_examples

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch, if the dataset has a length."""
        return replace(self.cut, num_examples=len(self.dataset)).num_batches

    def __iter__(self) -> Iterator[TrainBatch]:
        epoch, skip = self._epoch_and_skip.tolist()
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        reader = _Reader(self, (self.seed, epoch), info is not None, self.shards_itself)
        if self.shards_itself:
            skip = skip if num_workers == 1 else 0  # the position of each worker is unknown here
            reader.seeds += (worker,)
            worker, num_workers = 0, 1
        return self._batches(reader, skip, worker, num_workers)

    def _batches(self, reader: _Reader, skip: int, worker: int, num_workers: int) -> Iterator[TrainBatch]:
        whole = self.cut.global_batch_size
        reader.skip(skip, whole)
        index = 0
        while examples := reader.read(whole):
            if self.cut.drop_last and len(examples) < whole:
                return
            if index % num_workers == worker:
                yield self._own_share(examples, reader)
            index += 1

    def _own_share(self, examples: list[Any], reader: _Reader) -> TrainBatch:
        low, high = share_of(len(examples), self.cut.rank, self.cut.world_size)
        if reader.is_worker:
            seed_worker(reader.seed_at(low - len(examples), 1))
        return TrainBatch(examples[low:high] or examples[-1:], high - low, len(examples))


class _Reader:
    """Reads a stream one global batch at a time, and tracks the position.

    Attributes:
        seeds: Seeds of the random numbers, besides the position.
    """

    def __init__(self, stream: ShardedIterable, seeds: tuple[int, ...], is_worker: bool, shards_itself: bool) -> None:
        self.seeds = seeds
        self.is_worker = is_worker
        self.position = 0
        self._view = nullcontext if shards_itself or not is_worker else unseen_as_worker
        self._stream = stream
        self._examples: Iterator[Any] | None = None

    def seed_at(self, offset: int, *more: int) -> int:
        """Return the seed for an offset from the position."""
        return derive_seed(*self.seeds, self.position + offset, *more)

    def read(self, count: int) -> list[Any]:
        """Return the next ``count`` examples, or the remaining ones."""
        with self._view(), host_state_kept(self.seed_at(0)):
            if self._examples is None:
                self._examples = iter(self._stream.dataset)
            examples = list(islice(self._examples, count))
        self.position += len(examples)
        return examples

    def skip(self, count: int, step: int) -> None:
        """Skip ``count`` examples."""
        while self.position < count and self.read(min(step, count - self.position)):
            pass


def _is_hugging_face(dataset: Any) -> bool:
    return any(
        cls.__module__ == "datasets.iterable_dataset" and cls.__name__ == "IterableDataset"
        for cls in type(dataset).__mro__
    )


def _check_stream(dataset: Any, world_size: int) -> None:
    if hasattr(dataset, "__next__"):
        raise TracksideTypeError(
            f"a dataset of type {type(dataset).__name__} can be read only once; "
            "give an object whose __iter__ starts anew"
        )
    if world_size > 1 and getattr(dataset, "_distributed", None) is not None:
        raise TracksideValueError(
            "the dataset is already split by rank (split_dataset_by_node); give it whole, the trainer splits it evenly"
        )
