"""Batches of iterable datasets, split across ranks and workers without changes to the dataset."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError
from trackside.trainer.data.sharding import BatchCut, derive_seed, share_of

from ...train_step import TrainBatch
from .._compat import unseen_as_worker
from .collators import Collator
from .workers import OwnGenerators, host_state_kept, seed_worker

logger: logging.Logger = logging.getLogger("trackside.data")

Seeds = tuple[int, ...]

Placed = tuple[int, list[Any]]
"""Examples, behind the position in the epoch of the first of them."""


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

    While the stream is read, the random numbers of Python, numpy and torch, and those of generators that the dataset
    refers to, follow from (seed, epoch, position), so that a dataset which shuffles or augments yields the same on all
    ranks, in any number of workers, and after a resume. The training process restores its random state after each
    batch; a worker collates with random numbers of its rank.

    Args:
        dataset: Any iterable that can be read more than once; ``set_epoch(epoch)`` is called if it exists.
        cut: The partition into global batches and shares; its number of examples is ignored.
        seed: Seed of the random numbers while the stream is read.
        collate_fn: What makes a batch of examples; the generators that it refers to are seeded in workers.
    """

    def __init__(self, dataset: Any, cut: BatchCut, seed: int = 0, collate_fn: Any = None) -> None:
        _check_stream(dataset, cut.world_size)
        self.dataset: Any = dataset
        self.cut: BatchCut = cut
        self.seed: int = seed
        self._is_told = False
        self._own = OwnGenerators(dataset)
        self._own_of_collator = OwnGenerators(collate_fn)
        self._epoch_and_skip = torch.zeros(2, dtype=torch.long, device="cpu")

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
        seeds: Seeds = (self.seed, epoch)
        view = nullcontext if info is None else unseen_as_worker
        if self.shards_itself:
            skip = skip if num_workers == 1 else 0  # where each worker was cannot be told from here
            seeds, view = (*seeds, worker), nullcontext
            worker, num_workers = 0, 1
        return self._batches(seeds, self._global_batches(seeds, view, skip), worker, num_workers)

    def _batches(self, seeds: Seeds, batches: Iterable[Placed], worker: int, num_workers: int) -> Iterator[TrainBatch]:
        """Yield this rank's share of those of the global batches that are this worker's."""
        for index, (position, examples) in enumerate(batches):
            if self.cut.drop_last and len(examples) < self.cut.global_batch_size:
                return
            if index % num_workers == worker:
                low, high = share_of(len(examples), self.cut.rank, self.cut.world_size)
                if get_worker_info() is not None:
                    seed_worker(derive_seed(*seeds, position + low, 1))
                    self._own_of_collator.reseed(*seeds, position + low, 1)
                yield TrainBatch(examples[low:high] or examples[-1:], high - low, len(examples))

    def _global_batches(self, seeds: Seeds, view: Callable[[], Any], skip: int) -> Iterator[Placed]:
        """Yield the examples of each global batch behind the first ``skip`` examples, with the position of its first.

        Args:
            seeds: What the random numbers follow from, besides the position.
            view: Makes the context in which the dataset is read.
        """
        position, stream = 0, None
        while True:
            size = self.cut.global_batch_size if position >= skip else min(self.cut.global_batch_size, skip - position)
            self._own.reseed(*seeds, position)
            with view(), host_state_kept(derive_seed(*seeds, position)):
                stream = iter(self.dataset) if stream is None else stream
                examples = list(islice(stream, size))
            if not examples:
                return
            if position >= skip:
                yield position, examples
            position += len(examples)

    def compared(self, batches: Iterable[TrainBatch]) -> Iterator[TrainBatch]:
        """Yield the batches of an epoch; tell once if they hold fewer or more examples than the dataset says it has."""
        try:
            length = len(self.dataset)
        except (TypeError, NotImplementedError):
            yield from batches
            return
        seen = int(self._epoch_and_skip[1])
        for batch in batches:
            seen += batch.examples_of_all
            if seen > length:
                self._tell_of_length(length, "has more")
            yield batch
        if seen + (self.cut.global_batch_size - 1 if self.cut.drop_last else 0) < length:
            self._tell_of_length(length, f"gave {seen} in an epoch")

    def _tell_of_length(self, length: int, found: str) -> None:
        if not self._is_told and self.cut.rank == 0:
            self._is_told = True
            logger.warning(
                "the length of %s is %d, but it %s: epochs, the schedule and the length of the run count with %d. "
                "Correct __len__, which is the number of examples, or leave it out and set max_steps",
                *(type(self.dataset).__name__, length, found, length),
            )


class StreamCollator:
    """A collator of the batches of a stream that keeps their counts."""

    def __init__(self, collate_fn: Collator) -> None:
        self.collate_fn = collate_fn

    def __call__(self, batch: TrainBatch) -> TrainBatch:
        return batch._replace(inputs=self.collate_fn(batch.inputs))


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
