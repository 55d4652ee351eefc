"""Epoch partitioning: the examples of each batch on each rank, and the seeds of an epoch, without a framework."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, repeat

from trackside.callbacks.errors import ArgumentError, TracksideValueError


def derive_seed(*parts: int) -> int:
    """Return a seed in [0, 2**63) that depends on every part and their order, the same on every machine and version.

    Example:
        >>> derive_seed(42, 0) == derive_seed(42, 0), derive_seed(42, 0) == derive_seed(0, 42)
        (True, False)
    """
    text = ",".join(str(int(part)) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def share_of(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the start and the stop of the share of ``rank`` in ``count`` examples, as even as possible.

    Example:
        >>> [share_of(5, rank, 3) for rank in range(3)]
        [(0, 2), (2, 4), (4, 5)]
    """
    whole, rest = divmod(count, world_size)
    start = rank * whole + min(rank, rest)
    return start, start + whole + (rank < rest)


def even_spans(count: int, parts: int) -> list[tuple[int, int]]:
    """Return the start and the stop of each of at most ``parts`` non-empty parts of ``count`` examples.

    Example:
        >>> even_spans(5, 2), even_spans(1, 2)
        ([(0, 2), (2, 5)], [(0, 1)])
    """
    edges = [round(part * count / parts) for part in range(parts + 1)]
    return [(start, stop) for start, stop in pairwise(edges) if stop > start]


@dataclass(frozen=True)
class BatchCut:
    """The partition of the rest of an epoch into the batches of one rank.

    The order of the epoch is cut into global batches, of which each rank gets a contiguous share; shares are as even as
    possible. The last batch may be smaller. A rank whose share is empty still has a batch of one example, which only
    another rank counts, so that all ranks do the same number of steps.

    Attributes:
        num_examples: Examples in the whole epoch.
        global_batch_size: Examples in one batch of all ranks together.
        rank, world_size: Number of this rank, and number of ranks.
        drop_last: Leave out a last global batch that is smaller.
        start: Examples at the beginning of the epoch that all ranks together have already used.

    Example:
        >>> cut = BatchCut(num_examples=10, global_batch_size=4, rank=1, world_size=2)
        >>> cut.num_batches, [cut.span(index) for index in range(3)]
        (3, [(2, 4), (6, 8), (9, 10)])
    """

    num_examples: int
    global_batch_size: int
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    start: int = 0

    def __post_init__(self) -> None:
        size, rank, world_size = self.global_batch_size, self.rank, self.world_size
        if size < 1 or not 0 <= rank < world_size:
            raise TracksideValueError(f"global_batch_size={size}, {rank=}, {world_size=} make no batches")

    @property
    def num_batches(self) -> int:
        """Batches of every rank from ``start`` to the end of the epoch."""
        left = max(0, self.num_examples - self.start)
        return left // self.global_batch_size if self.drop_last else -(-left // self.global_batch_size)

    def span(self, batch_index: int) -> tuple[int, int]:
        """Return the start and the stop of this rank's batch in the order of the epoch."""
        begin = self.start + batch_index * self.global_batch_size
        low, high = share_of(self.num_global_examples(batch_index), self.rank, self.world_size)
        return begin + low, begin + high

    def num_real_examples(self, batch_index: int) -> int:
        """Return the number of examples in this rank's batch that count; 0 if the batch is only padding."""
        low, high = self.span(batch_index)
        return high - low

    def num_global_examples(self, batch_index: int) -> int:
        """Return the number of examples in this batch of all ranks together."""
        begin = self.start + batch_index * self.global_batch_size
        return min(self.global_batch_size, self.num_examples - begin)

    def counts(self) -> Iterator[tuple[int, int]]:
        """Yield, for each batch, the number of examples that count on this rank, and on all ranks together."""
        whole = max(0, self.num_examples - self.start) // self.global_batch_size
        low, high = share_of(self.global_batch_size, self.rank, self.world_size)
        yield from repeat((high - low, self.global_batch_size), whole)
        if self.num_batches > whole:
            yield self.num_real_examples(whole), self.num_global_examples(whole)


def cut_update(examples: int, *, most: int, world_size: int) -> tuple[int, int]:
    """Return the number of equal micro-batches of an update, and the examples in each, over all processes.

    The number is the smallest with at most ``most`` examples and at least one for each process.

    Raises:
        ArgumentError: If the update cannot be cut so; the message has the nearest numbers of examples that can be cut.

    Example:
        >>> cut_update(128, most=32, world_size=4), cut_update(128, most=32, world_size=3)
        ((1, 128), (2, 64))
    """
    found = _number_of_cuts(examples, most, world_size)
    if found is None:
        near = sorted(range(1, 2 * examples + world_size), key=lambda number: abs(number - examples))
        fits = [number for number in near if _number_of_cuts(number, most, world_size)][:2]
        raise ArgumentError(
            "global_batch_size",
            examples,
            f"a number that can be cut into equal micro-batches of {world_size} to {most * world_size} examples, such "
            f"as {' or '.join(map(str, sorted(fits)))} ({world_size} processes, per_device_train_batch_size={most})",
        )
    return found, examples // found


def _number_of_cuts(examples: int, most: int, world_size: int) -> int | None:
    fewest = -(-examples // (most * world_size))
    return next((n for n in range(fewest, examples // world_size + 1) if examples % n == 0), None)
