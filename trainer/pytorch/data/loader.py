"""Resumable iteration over the batches of an epoch, for trackside's loader and for other loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from trackside.trainer.data.sharding import derive_seed

from ...train_step import TrainBatch
from .._compat import end_workers
from ..batches.parts import batch_size
from .changes import WorkersCopies
from .collators import Collator
from .own_loaders import SizeOf, begin_epoch, counted_of_own, read_batches, splits_by_rank
from .sampler import EpochBatchSampler
from .stream import ShardedIterable, StreamCollator
from .workers import SeededBatches, SeededDataset, fetch, host_state_kept


class EpochLoader(DataLoader[Any]):
    """A DataLoader with an epoch and a start position in it.

    Iteration yields the batches of the epoch that was set last.

    Args:
        measure: Returns the lengths of the examples, if batches are of similar length.

    Attributes:
        source: The dataset.
        order: The source of its batches: an EpochBatchSampler or a ShardedIterable.
    """

    def __init__(
        self,
        source: Any,
        order: EpochBatchSampler | ShardedIterable,
        collate_fn: Collator,
        seed: int,
        options: Mapping[str, Any],
        measure: Callable[[], Sequence[int] | None] = lambda: None,
    ) -> None:
        self.source = source
        self._measure = measure
        self.order = order
        self.seed = self.own_seed = seed
        # a separate generator, so that a new iterator does not draw from the global one
        generator = torch.Generator().manual_seed(derive_seed(seed, 0))
        if isinstance(order, ShardedIterable):
            if options["num_workers"]:
                order.share_with_workers()
            data: dict[str, Any] = {"dataset": order, "batch_size": None, "collate_fn": StreamCollator(collate_fn)}
        elif options["num_workers"]:
            data = {
                "dataset": SeededDataset(source, collate_fn),
                "batch_sampler": SeededBatches(order),
                "collate_fn": collate_fn,
            }
        else:
            data = {"dataset": source, "batch_sampler": order, "collate_fn": collate_fn}
        stays = options.get("persistent_workers", False)
        self._copies = WorkersCopies(dataset=source, data_collator=collate_fn) if stays else None
        super().__init__(**data, generator=generator, **options)

    def set_epoch(self, epoch: int, skip_examples: int = 0) -> None:
        """Go to ``epoch``, after the ``skip_examples`` that all ranks together have already used."""
        before = None if self._copies is None else self._copies.before_epoch()
        self.order.set_epoch(epoch, skip_examples)
        tell = getattr(self.dataset, "set_epoch", None)
        if callable(tell) and not isinstance(self.order, ShardedIterable):
            tell(epoch)
        if self._copies is not None and before is not None:
            self._copies.note_epoch(before)
        self.generator.manual_seed(derive_seed(self.seed, epoch))

    def refresh(self) -> bool:
        """Take the present number of examples of a map-style dataset; return whether it is another.

        Workers that stay begin anew, since they have copies of the dataset as it was.
        """
        order = self.order
        if isinstance(order, ShardedIterable) or len(self.source) == order.cut.num_examples:
            return False
        order.resize(len(self.source), self._measure())
        end_workers(self)
        return True

    def seed_order(self, seed: int | None) -> None:
        """Use ``seed`` from the next `set_epoch` on; None for the loader's own."""
        self.seed = self.order.seed = self.own_seed if seed is None else seed

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return (batch.inputs for batch in self.counted())

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch.

        Raises:
            TypeError: If it is unknown: the dataset has no length, or splits itself among workers.
        """
        if isinstance(self.order, ShardedIterable) and self.order.shards_itself and self.num_workers > 1:
            raise TypeError("the number of batches depends on how the dataset splits itself among workers")
        return len(self.order)

    def counted(self) -> Iterator[TrainBatch]:
        """Return the batches, each with the number of its examples that count."""
        self.refresh()
        if self._copies is not None and self._copies.are_old():
            end_workers(self)
        if isinstance(self.order, ShardedIterable):
            return self._batches()
        counts = self.order.cut.counts()
        return (TrainBatch(inputs, *each) for inputs, each in zip(self._batches(), counts, strict=True))

    def sample(self, count: int) -> Any:
        """Return a batch of the first ``count`` examples; the random numbers of the run stay as they are."""
        order, collate = self.order, cast(Callable[[Any], Any], self.collate_fn)
        with host_state_kept(self.seed):
            if isinstance(order, ShardedIterable):
                return collate(TrainBatch(list(islice(self.source, count)), count, count)).inputs
            indices = torch.arange(count, device="cpu")
            return collate(fetch(self.source, indices if order.as_tensors else indices.tolist()))

    def _batches(self) -> Iterator[Any]:
        if self.num_workers or self.pin_memory:
            with torch.device("cpu"):  # torch draws a seed there from a generator of the host
                return super().__iter__()
        collate: Callable[[Any], Any] = self.collate_fn
        if isinstance(self.order, ShardedIterable):
            return map(collate, self.order)
        dataset = self.source  # the work of a DataLoader without workers, at half its cost
        return (collate(fetch(dataset, indices)) for indices in self.order)


def expect(loader: Any, num_examples: int | None) -> bool:
    """Have a loader count with another number of examples until it is refreshed; return False if it cannot."""
    order = getattr(loader, "order", None)
    if not isinstance(order, EpochBatchSampler) or num_examples is None:
        return False
    order.resize(num_examples, order.lengths)
    return True


def batches_used(loader: Any, epoch: int, examples: int) -> int | None:
    """Return the number of this rank's batches for the epoch's first ``examples`` of all ranks; None if unknown.

    It is the number of all batches less those of the rest, whatever the batch size at the beginning was.
    """
    order = getattr(loader, "order", None)
    if not isinstance(order, EpochBatchSampler):
        return None
    order.set_epoch(epoch, examples)
    return len(order) - order.cut.num_batches


def iterate_epoch(
    loader: Any,
    *,
    seed: int,
    epoch: int,
    skip_examples: int = 0,
    size_of: SizeOf = batch_size,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[TrainBatch]:
    """Return the batches of an epoch, each with the number of its examples that count.

    An EpochLoader starts at the position directly (a stream is read up to it). Any other iterable of batches is read
    with random numbers that depend on ``seed``, ``epoch`` and the position; its ``set_epoch``, or that of its sampler,
    is called; skipped batches are read and discarded; generators that it refers to are seeded again. The run's own
    random numbers are not affected. For the batches on several ranks, see `counted`.

    Args:
        skip_examples: Examples of the epoch that all ranks together have already used.
        size_of: Returns the number of examples in a batch of another loader.
        rank, world_size: Number of this rank, and number of ranks.

    Returns:
        Batches, each with the number of examples of this rank (0 for padding), and of all ranks together.
    """
    seed = derive_seed(seed, epoch)
    if not isinstance(loader, EpochLoader):
        begin_epoch(loader, seed, epoch)
        started = read_batches(loader, seed, rank, seeds_own=True)
        return _behind(counted_of_own(loader, started, size_of, rank, world_size), skip_examples)
    loader.set_epoch(epoch, skip_examples)
    batches = _begun_when_read(loader)
    order = loader.order
    if isinstance(order, ShardedIterable) and order.shards_itself and loader.num_workers > 1:
        return _behind(batches, skip_examples)
    return batches


def _begun_when_read(loader: EpochLoader) -> Iterator[TrainBatch]:
    """Yield the batches; workers start with the first one, after on_epoch_begin, so that they see what it changed."""
    batches, order = loader.counted(), loader.order
    yield from order.compared(batches) if isinstance(order, ShardedIterable) else batches


def counted(loader: Any, size_of: SizeOf = batch_size, *, rank: int = 0, world_size: int = 1) -> Iterator[TrainBatch]:
    """Return this rank's batches of ``loader``, each with the number of its examples that count.

    An EpochLoader yields the batches of its rank. Any other loader yields the same batches on every rank, and the ranks
    take turns; a rank without a batch left repeats the last one, which does not count. A loader with torch's
    DistributedSampler, or another sampler with ``num_replicas``, yields different batches on each rank. On several
    ranks a loader that shuffles has the same order on all of them, in every epoch.
    """
    if isinstance(loader, EpochLoader):
        return loader.counted()
    started = loader if world_size == 1 else read_batches(loader, 0, rank)
    return counted_of_own(loader, started, size_of, rank, world_size)


def _behind(batches: Iterator[TrainBatch], skip_examples: int) -> Iterator[TrainBatch]:
    for batch in batches:
        if skip_examples > 0:
            skip_examples -= batch.examples_of_all
        else:
            yield batch


# -- sizes ------------------------------------------------------------------------------------------------------------


def batches_per_epoch(loader: Any, world_size: int = 1) -> int | None:
    """Return the number of batches in a whole epoch for this rank, or None if unknown."""
    length = _length(loader)
    if length is None or isinstance(loader, EpochLoader) or splits_by_rank(loader):
        return length
    return -(-length // world_size)


def num_examples(batches: Any) -> int | None:
    """Return the number of examples in a loader over all ranks, or None if unknown."""
    return _length(batches.source if isinstance(batches, EpochLoader) else getattr(batches, "dataset", None))


def expected_examples(batches: Any) -> int | None:
    """Return the number of examples with which a loader counts, which may be one of later; None if unknown."""
    order = getattr(batches, "order", None)
    return order.cut.num_examples if isinstance(order, EpochBatchSampler) else num_examples(batches)


def examples_of_batch(batches: Any) -> int | None:
    """Return the number of examples in a batch of all ranks together; None if the loader is not trackside's."""
    return batches.order.cut.global_batch_size if isinstance(batches, EpochLoader) else None


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except (TypeError, NotImplementedError):
        return None
