"""Files that are hashed while they are written, so that a commit does not read them again.

The size and the digest of a closed file are remembered until the commit ends, together with its identity and its time
of modification; if the file is not the same any more, it is read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20
"""A chunk is still in the processor's cache when it is hashed after it is written."""

Digests = dict[tuple[int, ...], str]

_digests: ContextVar[Digests | None] = ContextVar("digests", default=None)
"""Digests by the identity of the file, within `remembering`."""


class HashedFile:
    """A file that is written from the beginning to its end; the system's calls and the hash are made without the GIL.

    Attributes:
        error: The error of a write, for writers that replace it by their own.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        self._hash = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data``; return its size in bytes."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            chunk = rest[:CHUNK_BYTES]
            try:
                written = self._file.write(chunk)
            except OSError as error:
                self.error = self.error or error
                raise
            self._hash.update(chunk[:written])
            rest = rest[written:]
        return size

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def close(self) -> None:
        """Close the file and remember its digest."""
        digests = _digests.get()
        if digests is not None:
            digests[_identity(os.fstat(self._file.fileno()))] = self._hash.hexdigest()
        self._file.close()


@contextmanager
def hashed(path: Path) -> Iterator[HashedFile]:
    """Return a new file, hashed while it is written.

    Raises:
        OSError: If a write failed, whatever error its writer made of that.
    """
    file = HashedFile(path)
    try:
        yield file
    finally:
        file.close()
        if file.error is not None:
            raise file.error from None


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Return a context in which an error of safetensors that the system caused is one of the system, with its number.

    Raises:
        OSError: If the file ``path`` cannot be written.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found.group(1)), str(error), str(path)) from error


@contextmanager
def remembering() -> Iterator[None]:
    """Return a context in which the digests of files that are written in this thread are remembered."""
    token = _digests.set({})
    try:
        yield
    finally:
        _digests.reset(token)


def remembered(status: os.stat_result) -> str | None:
    """Return the SHA-256 of a file that was hashed as it was written, and not changed since; None if there is none."""
    return (_digests.get() or {}).get(_identity(status))


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
