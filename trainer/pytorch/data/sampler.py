"""Sampling of map-style datasets: an order that is a function of (seed, epoch), and the batches of each rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from trackside.trainer.data.sharding import BatchCut, derive_seed

MEGABATCH = 1024
"""Number of examples that are sorted by length together. It is independent of the batch size, because an epoch that was
begun with one batch size must continue in the same order with another."""


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> Tensor:
    """Return a permutation of the indices below ``num_examples`` that depends on ``seed`` and ``epoch`` alone."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    return torch.randperm(num_examples, generator=generator, device="cpu")


def length_grouped_order(lengths: Sequence[int], *, seed: int, epoch: int) -> Tensor:
    """Return an order in which neighbors have similar lengths, as a function of ``seed`` and ``epoch``.

    The examples are permuted, cut into megabatches, and sorted by decreasing length in each. The longest example of all
    comes first, so that a batch which is too large for the memory fails immediately.

    Source:
        ``get_length_grouped_indices`` of transformers, except the size of a megabatch.
    """
    if not len(lengths):
        return torch.empty(0, dtype=torch.long, device="cpu")
    size = max(1, min(MEGABATCH, len(lengths) // 4))
    known = torch.as_tensor(lengths, device="cpu")
    parts = [
        part[torch.argsort(known[part], descending=True, stable=True)]
        for part in torch.split(epoch_order(len(lengths), seed=seed, epoch=epoch), size)
    ]
    longest = max(range(len(parts)), key=lambda index: int(known[parts[index][0]]))
    first = parts[0][0].clone()
    parts[0][0], parts[longest][0] = parts[longest][0].clone(), first
    return torch.cat(parts)


class EpochBatchSampler(Sampler[Any]):
    """One rank's batches of indices. The position in an epoch is counted in examples over all ranks together.

    `BatchCut` defines the batches. Because the order depends only on (seed, epoch), an interrupted epoch continues
    exactly at its position, at no cost, with any batch size and any number of ranks.

    Without shuffling and ``drop_last`` it is the sampler of an evaluation: each example occurs exactly once over all
    ranks, and the concatenation of the ranks' examples, batch by batch, is the dataset in its order.

    Args:
        cut: The partition of the dataset into batches; after `set_epoch`, of the rest of an epoch.
        seed: Seed of the order.
        shuffle: Whether the order is shuffled.
        lengths: The length of each example, for batches of similar length.
        as_tensors: Yield tensors of indices instead of lists.
    """

    def __init__(
        self,
        cut: BatchCut,
        *,
        seed: int,
        shuffle: bool = True,
        lengths: Sequence[int] | None = None,
        as_tensors: bool = False,
    ) -> None:
        self.cut: BatchCut = cut
        self.seed: int = seed
        self.shuffle: bool = shuffle
        self.lengths: Sequence[int] | None = lengths
        self.as_tensors: bool = as_tensors
        self.epoch: int = 0

    def set_epoch(self, epoch: int, skip_examples: int = 0) -> None:
        """Go to ``epoch``, after the ``skip_examples`` that all ranks together have already used."""
        self.epoch = epoch
        self.cut = replace(self.cut, start=skip_examples)

    def resize(self, num_examples: int, lengths: Sequence[int] | None = None) -> None:
        """Go on with another number of examples, and with their lengths, if batches are of similar length."""
        self.cut = replace(self.cut, num_examples=num_examples)
        self.lengths = lengths

    def __iter__(self) -> Iterator[Any]:
        """Yield the indices of this rank's batches; later calls of `set_epoch` do not affect the iteration."""
        return self._batches(self.cut, self.order())

    def _batches(self, cut: BatchCut, order: Tensor) -> Iterator[Any]:
        for index in range(cut.num_batches):
            low, high = cut.span(index)
            if low == high:  # an empty share: one example of another rank as padding
                low, high = cut.num_examples - 1, cut.num_examples
            yield order[low:high] if self.as_tensors else order[low:high].tolist()

    def order(self) -> Tensor:
        """Return the order of the whole epoch."""
        if not self.shuffle:
            return torch.arange(self.cut.num_examples, device="cpu")
        if self.lengths is not None:
            return length_grouped_order(self.lengths, seed=self.seed, epoch=self.epoch)
        return epoch_order(self.cut.num_examples, seed=self.seed, epoch=self.epoch)

    def __len__(self) -> int:
        """Return the number of batches of every rank in a whole epoch."""
        return replace(self.cut, start=0).num_batches
