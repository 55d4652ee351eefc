"""Host memory that the copies of successive saves share.

Most of the time of a copy into new memory is that of mapping its pages. So the memory of a copy is kept after its
checkpoint is written, and the next copy of the same sizes takes it. Two saves may be in progress, so there are at most
two copies; a buffer whose size the next copy does not need is freed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SMALL_BYTES = 1 << 16
"""Smaller copies are not worth a buffer: the allocator reuses mapped memory for them."""


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
