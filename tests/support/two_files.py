"""Checkpoints of two files that agree, one of them in a folder below, for tests of the store."""

from __future__ import annotations

import os
from pathlib import Path

from trackside.trainer.checkpointing.manifest import verify


def writer(content: str):
    """Return what fills a checkpoint."""

    def write(folder: Path) -> None:
        with open(folder / "weights", "w") as file:
            file.write(content)
        os.mkdir(folder / "shards")
        with open(folder / "shards" / "0", "w") as file:
            file.write(content * 100)

    return write


def content_of(path: Path) -> str:
    """Return what `writer` was given, of a checkpoint that verifies."""
    verify(path)
    content = (path / "weights").read_text()
    assert (path / "shards" / "0").read_text() == content * 100
    return content
