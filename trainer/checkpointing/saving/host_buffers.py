"""Host memory that the copies of successive saves share.

Most of the time of a copy into new memory is that of mapping its pages. So the memory of a copy is kept after its
checkpoint is written, and the next copy of the same sizes takes it. Two saves may be in progress, so there are at most
two copies; a buffer whose size the next copy does not need is freed. Several threads copy at once, since one does not
use the whole bandwidth of the memory.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SMALL_BYTES = 1 << 16
"""Smaller copies are not worth a buffer: the allocator reuses mapped memory for them."""
CHUNK_BYTES = 4 << 20
MAX_THREADS = 8
"""More threads than these do not copy faster on most machines."""


def pageable(size: int) -> Bytes:
    """Return ``size`` bytes of host memory, in huge pages where numpy knows how."""
    return np.empty(size, dtype=np.uint8)


class Buffers:
    """The buffers of one copy.

    Args:
        spare: Buffers of an earlier copy, by size.
        allocate: Makes a buffer of a size.
        keep: Called with all of them by `give_back`.
    """

    def __init__(
        self, spare: dict[int, list[Bytes]], allocate: Callable[[int], Bytes], keep: Callable[[list[Bytes]], Any]
    ) -> None:
        self._spare = spare
        self._allocate = allocate
        self._keep = keep
        self._taken: list[Bytes] = []

    def take(self, size: int) -> Bytes:
        """Return a buffer of ``size`` bytes with any content."""
        spare = self._spare.get(size)
        buffer = spare.pop() if spare else self._allocate(size)
        self._taken.append(buffer)
        return buffer

    def complete(self) -> None:
        """Free what the earlier copy had and this one did not take."""
        self._spare = {}

    def give_back(self) -> None:
        """Let the next copy overwrite these buffers; called once, by whoever has written them."""
        taken, self._taken = self._taken, []
        self._keep(taken)


class HostBuffers:
    """The buffers of successive copies; a copy whose buffers are not given back is freed with its last reference.

    Args:
        allocate: Makes a buffer of a size.

    Example:
        >>> pool = HostBuffers()
        >>> first = pool.lend()
        >>> memory = first.take(1000)
        >>> first.give_back()
        >>> pool.lend().take(1000) is memory
        True
    """

    def __init__(self, allocate: Callable[[int], Bytes] = pageable) -> None:
        self._allocate = allocate
        self._idle: list[list[Bytes]] = []

    def lend(self) -> Buffers:
        """Return buffers for one copy, with the memory of one that is written, if there is one."""
        spare: dict[int, list[Bytes]] = defaultdict(list)
        for buffer in self._idle.pop() if self._idle else []:
            spare[buffer.size].append(buffer)
        return Buffers(spare, self._allocate, self._idle.append)

    def release(self) -> None:
        """Free all buffers that are not lent."""
        self._idle.clear()


def copy_all(pairs: Iterable[tuple[Bytes, Bytes]]) -> None:
    """Copy bytes into the first of each pair from the second, of the same size, in several threads.

    The threads take chunks as they finish others, so that a busy processor does not hold up the whole; each copies
    without Python's lock. All have ended when this returns.
    """
    chunks = deque(
        (target[start : start + CHUNK_BYTES], source[start : start + CHUNK_BYTES])
        for target, source in pairs
        for start in range(0, target.size, CHUNK_BYTES)
    )

    def work() -> None:
        with contextlib.suppress(IndexError):  # no chunks are left
            while True:
                np.copyto(*chunks.popleft())

    helpers = [
        threading.Thread(target=work, daemon=True) for _ in range(min(_processors(), MAX_THREADS, len(chunks)) - 1)
    ]
    with contextlib.suppress(RuntimeError):  # at the exit of the interpreter, and without threads left, alone
        for helper in helpers:
            helper.start()
    work()
    for helper in helpers:
        if helper.ident is not None:
            helper.join()


def _processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
