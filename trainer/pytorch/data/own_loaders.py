"""Batches of a loader that is not trackside's, in the same order on all ranks and in a resumed run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any

import torch

from trackside.trainer.data.sharding import derive_seed

from ...train_step import TrainBatch
from ..preparation.own_randomness import generators_of, reseed_all
from .workers import host_state_kept

SizeOf = Callable[[Any], int]


def counted_of_own(
    loader: Any, started: Iterable[Any], size_of: SizeOf, rank: int, world_size: int
) -> Iterator[TrainBatch]:
    """Yield this rank's batches of the ``started`` loader, each with the number of its examples that count.

    Args:
        loader: The loader that was started.
        started: Its batches.
        size_of: Returns the number of examples in a batch.
        rank, world_size: Number of this rank, and number of ranks.
    """
    if world_size == 1 or splits_by_rank(loader):
        for inputs in started:
            size = size_of(inputs)
            yield TrainBatch(inputs, size, size * world_size)
        return
    batches = iter(started)
    while turn := list(islice(batches, world_size)):
        sizes = [size_of(inputs) for inputs in turn]
        yield TrainBatch(turn[min(rank, len(turn) - 1)], sizes[rank] if rank < len(turn) else 0, sum(sizes))


def splits_by_rank(loader: Any) -> bool:
    """Return whether a loader yields different batches on each rank, such as with a DistributedSampler."""
    return any(hasattr(part, "num_replicas") for part in _parts_of(loader))


def begin_epoch(loader: Any, seed: int, epoch: int) -> None:
    """Tell a loader and its parts the epoch, and seed their generators."""
    for part in _parts_of(loader):
        if callable(getattr(part, "set_epoch", None)):
            part.set_epoch(epoch)
        if isinstance(getattr(part, "generator", None), torch.Generator):
            part.generator.manual_seed(seed)


def read_batches(loader: Any, seed: int, rank: int, *, seeds_own: bool = False) -> Iterator[Any]:
    """Yield the batches of another loader, read with random numbers that follow from ``seed`` and the position.

    The random numbers are the same on all ranks, which must read the same batches. If each rank has its own batches,
    they are the same only up to the first batch: a sampler draws its order when its first index is requested.

    Args:
        seeds_own: Seed generators that the loader's dataset, samplers or collator refer to, too.
    """
    own_rank = rank if splits_by_rank(loader) else 0
    if seeds_own:  # only now, since a resumed run has restored the states of all that are reached
        parts = _parts_of(loader)
        seeded = {id(getattr(part, "generator", None)) for part in parts}
        others = generators_of(*parts, getattr(loader, "collate_fn", None))
        reseed_all([each for each in others if id(each) not in seeded], seed)
    with host_state_kept(seed):
        batches = iter(loader)
    for number in count():
        with host_state_kept(derive_seed(seed, number, own_rank if number else 0)):
            batch = list(islice(batches, 1))
        if not batch:
            return
        yield batch[0]


def _parts_of(loader: Any) -> list[Any]:
    """Return a loader and its parts (samplers and dataset), each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    parts = [loader, batch_sampler, getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None)]
    parts.append(getattr(loader, "dataset", None))
    return list({id(part): part for part in parts if part is not None}.values())
