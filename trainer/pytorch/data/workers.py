"""DataLoader worker processes: their random numbers and their signals."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator
from torch.utils.data import Dataset

from trackside.trainer.checkpointing.random_state import generators_lent
from trackside.trainer.data.sharding import derive_seed
from trackside.trainer.stop_signals import STOP_SIGNALS

from ..preparation.own_randomness import generators_of, reseed_all
from .sampler import EpochBatchSampler

START_METHOD = "fork" if sys.platform == "linux" else None
"""Start method of workers; None is Python's default. A fork takes 0.1 s; other methods take seconds and need a
picklable dataset. Workers use neither the device nor torch's threads."""


ASIDE = np.random.MT19937(0)
"""Replacement of numpy's generator in `host_state_kept`; shared, because its creation is slow."""


def seed_worker(seed: int) -> None:
    """Seed the generators of Python, numpy and torch's CPU, which augmentation in a worker uses."""
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32, 1])  # without the 1, numpy would repeat Python's random numbers
    torch.default_generator.manual_seed(seed)


@contextmanager
def host_state_kept(seed: int) -> Iterator[None]:
    """Return a context in which the generators of `seed_worker` start from ``seed``; restore them at the end.

    numpy's generator is replaced, since reading and writing its state takes five times as long as the rest. Its cached
    second normal number is lost, at the same positions in every run.
    """
    with generators_lent():
        python, numpy, host = random.getstate(), get_bit_generator(), torch.get_rng_state()
        set_bit_generator(ASIDE)
        try:
            seed_worker(seed)
            yield
        finally:
            random.setstate(python)
            set_bit_generator(numpy)
            torch.set_rng_state(host)


class OwnGenerators:
    """Generators that a dataset, a collator and other objects refer to, found when they are first seeded."""

    def __init__(self, *parts: Any) -> None:
        self._parts = parts
        self._found: list[Any] | None = None

    def reseed(self, *seeds: int) -> None:
        """Seed each by ``seeds`` and its position among them."""
        if self._found is None:
            self._found = generators_of(*self._parts)
        if self._found:
            reseed_all(self._found, *seeds)


# -- map-style datasets -----------------------------------------------------------------------------------------------


class SeededBatches:
    """A batch sampler that sends a seed and the epoch along with the indices of each batch.

    The seed follows from (seed, epoch, position of the batch in the epoch), so that random augmentation in a worker is
    the same in any worker and after a resume, and differs between epochs, ranks and batches.
    """

    def __init__(self, sampler: EpochBatchSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        seed, epoch, cut = self.sampler.seed, self.sampler.epoch, self.sampler.cut
        batches = enumerate(self.sampler)  # later changes of the sampler do not affect them
        return ((derive_seed(seed, epoch, cut.span(index)[0]), epoch, indices) for index, indices in batches)

    def __len__(self) -> int:
        return len(self.sampler)


class SeededDataset(Dataset[Any]):
    """A dataset in a worker, indexed by the items of `SeededBatches`; other attributes are those of ``dataset``.

    Generators that the dataset or ``collate_fn`` refers to are seeded for each batch, too.
    """

    def __init__(self, dataset: Any, collate_fn: Any = None) -> None:
        self.dataset = dataset
        self._own = OwnGenerators(dataset, collate_fn)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Call ``set_epoch`` of the dataset, if it exists."""
        self._epoch = epoch
        if callable(getattr(self.dataset, "set_epoch", None)):
            self.dataset.set_epoch(epoch)

    def __getitems__(self, job: tuple[int, int, Any]) -> Any:
        seed, epoch, indices = job
        if epoch != self._epoch:  # in a persistent worker
            self.set_epoch(epoch)
        seed_worker(seed)
        self._own.reseed(seed)
        return fetch(self.dataset, indices)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not yet set while a copy is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def fetch(dataset: Any, indices: Any) -> Any:
    """Return the examples at ``indices``, in one call if the dataset supports it."""
    if callable(getattr(dataset, "__getitems__", None)):
        return dataset.__getitems__(indices)
    return [dataset[index] for index in indices]


# -- signals ----------------------------------------------------------------------------------------------------------


def init_worker(worker_id: int) -> None:
    """Ignore signals in a worker that are meant for the trainer, and make new tensors there on the host.

    Ctrl-C, and the signals of a scheduler or of torchrun, reach the whole process group. The trainer finishes its
    step and saves, and needs its workers until then. A SIGTERM from the parent still ends a worker immediately.
    """
    torch.set_default_device("cpu")
    for name in STOP_SIGNALS:
        if name != "SIGTERM" and hasattr(signal, name):
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_parent_says_so, daemon=True).start()


def _exit_when_parent_says_so() -> None:
    parent = os.getppid()
    while True:
        info = signal.sigwaitinfo({signal.SIGTERM})
        if info.si_pid in (parent, os.getpid()) or os.getppid() != parent:
            os._exit(0)
