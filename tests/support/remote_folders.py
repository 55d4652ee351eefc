"""Remote folders for tests: on the disk, in memory and on an S3 server, and file systems that fail or kill."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from trackside.trainer.checkpointing.remote import RemoteFolder


def address_in(kind: str, folder: Path) -> str:
    """Return an address that nothing has used."""
    return f"memory://{uuid.uuid4().hex}/run" if kind == "memory" else f"file://{folder}/remote/run"


class FailsAt:
    """A file system whose writes fail from the ``first`` to the ``last``, counted from 1."""

    def __init__(self, fs: Any, first: int, last: int) -> None:
        self.fs, self.first, self.last = fs, first, last
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fs, name)

    def put_file(self, source: str, target: str) -> None:
        self.writes += 1
        if self.first <= self.writes <= self.last:
            raise ConnectionError("the network is gone")
        self.fs.put_file(source, target)


def failing(remote: RemoteFolder, first: int, last: int) -> RemoteFolder:
    """Return ``remote`` with writes that fail."""
    remote.fs = FailsAt(remote.fs, first, last)
    return remote
