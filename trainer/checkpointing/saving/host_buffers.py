"""Host memory that the copies of successive saves share.

Most of the time of a copy into new memory is that of mapping its pages. So the memory of a copy is kept after its
checkpoint is written, and the next copy of the same sizes takes it; that of the first copy is made in the background
when the run begins. Two saves may be in progress, so there are at most two copies; a buffer whose size the next copy
does not need is freed. Several threads copy at once, since one does not use the whole bandwidth of the memory.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SMALL_BYTES = 1 << 16
"""Smaller copies are not worth a buffer: the allocator reuses mapped memory for them."""
CHUNK_BYTES = 64 << 20
"""The C library copies large chunks, of 20 MB or more, without reading what it overwrites, in half the time."""
TOUCHED_BYTES = 1 << 20
"""Memory that is mapped at once, so that it need not be waited for long."""
MAX_THREADS = 8
"""More threads than these do not copy faster on most machines."""


def pageable(size: int) -> Bytes:
    """Return ``size`` bytes of host memory, in huge pages where numpy knows how."""
    return np.empty(size, dtype=np.uint8)


class Copying:
    """A copy of bytes, in several threads.

    The threads take chunks as they finish others, so that a busy processor does not hold up the whole; each copies
    without Python's lock. A source is let go as soon as it is copied.

    Args:
        pairs: The target and the source of each part, of the same size. A source must not change before `wait` returns.
    """

    def __init__(self, pairs: Iterable[tuple[Bytes, Bytes]]) -> None:
        self._chunks = deque(
            (target[start : start + CHUNK_BYTES], source[start : start + CHUNK_BYTES])
            for target, source in pairs
            for start in range(0, target.size, CHUNK_BYTES)
        )
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None

    def start(self, threads: int) -> None:
        """Start so many threads, at most; what they leave is copied by `wait`."""
        with contextlib.suppress(RuntimeError):  # at the exit of the interpreter, and without threads left
            for _ in range(min(threads, len(self._chunks))):
                thread = threading.Thread(target=self._work, name="trackside-copy", daemon=True)
                thread.start()
                self._threads.append(thread)

    def wait(self) -> None:
        """Copy what is left, and return when all is copied and the threads have ended; raise a failure."""
        self._work()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while True:
                np.copyto(*self._chunks.popleft())
        except IndexError:  # no chunks are left
            pass
        except BaseException as error:
            self._failure = self._failure or error


def copy_all(pairs: Iterable[tuple[Bytes, Bytes]]) -> None:
    """Copy bytes into the first of each pair from the second, of the same size, in several threads, which then end."""
    copying = Copying(pairs)
    copying.start(_threads() - 1)
    copying.wait()


class Buffers:
    """The buffers of one copy.

    Args:
        pool: Where they come from, and are given back.
        spare: Buffers of an earlier copy, by size.
    """

    def __init__(self, pool: HostBuffers, spare: dict[int, list[Bytes]]) -> None:
        self._pool = pool
        self._spare = spare
        self._taken: list[Bytes] = []
        self._later: list[tuple[Bytes, Bytes]] = []
        self._copying: Copying | None = None

    def take(self, size: int) -> Bytes:
        """Return a buffer of ``size`` bytes with any content."""
        spare = self._spare.get(size)
        buffer = spare.pop() if spare else self._pool.allocate(size)
        self._taken.append(buffer)
        return buffer

    def copy_later(self, source: Bytes) -> Bytes:
        """Return a buffer with the content that ``source`` has, and keeps: `complete` begins to copy it."""
        buffer = self.take(source.size)
        self._later.append((buffer, source))
        return buffer

    def complete(self) -> None:
        """Free what the earlier copy had and this one did not take; begin to copy, in the background."""
        self._spare = {}
        if self._later:
            self._copying = Copying(self._later)
            self._later = []  # a source that is copied is let go
            self._copying.start(max(_threads() - 1, 1))
            self._pool.copying = self._copying

    def wait(self) -> None:
        """Return when the copy is complete."""
        if self._copying is not None:
            self._copying.wait()

    def give_back(self) -> None:
        """Let the next copy overwrite these buffers; called once, by what has written them."""
        taken, self._taken = self._taken, []
        self._pool.idle.append(taken)


class HostBuffers:
    """The buffers of successive copies; a copy whose buffers are not given back is freed with its last reference.

    Args:
        allocate: Makes a buffer of a size.

    Attributes:
        idle: The buffers of copies that are written.
        copying: The last copy that was made in the background.

    Example:
        >>> pool = HostBuffers()
        >>> first = pool.lend()
        >>> memory = first.take(1000)
        >>> first.give_back()
        >>> pool.lend().take(1000) is memory
        True
    """

    def __init__(self, allocate: Callable[[int], Bytes] = pageable) -> None:
        self.allocate = allocate
        self.idle: list[list[Bytes]] = []
        self.copying: Copying | None = None
        self._prepared: Prepared | None = None

    def prepare(self, sizes: Iterable[int]) -> None:
        """Make the buffers of the first copy, in the background; smaller ones than a copy takes are left out."""
        self._end_preparing()
        if not self.idle:
            self._prepared = Prepared([size for size in sizes if size >= SMALL_BYTES], self.allocate)

    def lend(self) -> Buffers:
        """Return buffers for one copy, with the memory of one that is written, if there is one.

        A copy that is still made in the background is waited for, so that the values of one copy only are held.
        """
        if self.copying is not None:
            self.copying.wait()
            self.copying = None
        self._end_preparing()
        spare: dict[int, list[Bytes]] = defaultdict(list)
        for buffer in self.idle.pop() if self.idle else []:
            spare[buffer.size].append(buffer)
        return Buffers(self, spare)

    def release(self) -> None:
        """Free all buffers that are not lent."""
        self._end_preparing()
        self.idle.clear()
        self.copying = None

    def _end_preparing(self) -> None:
        if self._prepared is not None:
            self.idle.append(self._prepared.end())
            self._prepared = None


class Prepared:
    """Buffers that a thread makes, one after the other, and maps by writing to them.

    Args:
        sizes: Of the buffers.
        allocate: Makes a buffer of a size.
    """

    def __init__(self, sizes: list[int], allocate: Callable[[int], Bytes]) -> None:
        self._buffers: list[Bytes] = []
        self._is_ended = False
        self._thread = threading.Thread(target=self._work, args=(sizes, allocate), name="trackside-memory", daemon=True)
        with contextlib.suppress(RuntimeError):  # without threads left, the first copy makes its memory itself
            self._thread.start()

    def end(self) -> list[Bytes]:
        """Return the buffers made by now; the thread has ended."""
        self._is_ended = True
        if self._thread.ident is not None:
            self._thread.join()
        return self._buffers

    def _work(self, sizes: list[int], allocate: Callable[[int], Bytes]) -> None:
        with contextlib.suppress(MemoryError):  # the first copy raises it
            for size in sizes:
                buffer = allocate(size)
                self._buffers.append(buffer)
                for start in range(0, size, TOUCHED_BYTES):
                    if self._is_ended:
                        return
                    buffer[start : start + TOUCHED_BYTES] = 0


def _threads() -> int:
    """Return the number of threads that copy at once."""
    return min(_processors(), MAX_THREADS)


def _processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
