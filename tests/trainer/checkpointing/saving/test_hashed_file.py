"""A file that is hashed while it is written is not read at the commit, unless it was changed since."""

from __future__ import annotations

import errno
import hashlib
import os

import numpy as np
import pytest

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing import manifest
from trackside.trainer.checkpointing.saving import hashed_file
from trackside.trainer.checkpointing.saving.hashed_file import HashedFile, hashed, remembered, remembering
from trackside.trainer.checkpointing.store import CheckpointStore

BYTES = bytes(range(256)) * 10


@pytest.fixture
def reads(monkeypatch):
    """The number of files that are read to be hashed."""
    done = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: done.append(args) or digest(*args))
    return done


def write(path):
    with hashed(path) as file:
        file.write(BYTES)


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_the_digest_is_that_of_the_file(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(hashed_file, "CHUNK_BYTES", chunk)

    with remembering():
        with hashed(tmp_path / "file") as file:
            sizes = [file.write(part) for part in (b"", BYTES, memoryview(np.arange(6.0).reshape(2, 3)), bytearray(3))]
        digest = remembered((tmp_path / "file").stat())

    written = (tmp_path / "file").read_bytes()
    assert sizes == [0, len(BYTES), 48, 3]
    assert written == BYTES + np.arange(6.0).tobytes() + bytes(3)
    assert digest == hashlib.sha256(written).hexdigest()
    assert remembered((tmp_path / "file").stat()) is None  # the commit has ended


def test_a_commit_does_not_read_what_was_hashed_and_verifies(tmp_path, reads):
    path = CheckpointStore(tmp_path, run_id="run").commit(1, lambda folder: write(folder / "weights"))

    assert reads == []
    assert manifest.verify(path)["files"]["weights"]["sha256"] == hashlib.sha256(BYTES).hexdigest()


@pytest.mark.parametrize("change", ["appended", "replaced", "overwritten"])
def test_a_file_that_was_changed_after_it_was_hashed_is_read(tmp_path, reads, change):
    def write_and_change(folder):
        write(folder / "weights")
        if change == "appended":
            with open(folder / "weights", "ab") as file:
                file.write(b"more")
        elif change == "replaced":
            (folder / "new").write_bytes(bytes(len(BYTES)))
            os.replace(folder / "new", folder / "weights")
        else:
            (folder / "weights").write_bytes(bytes(len(BYTES)))
            os.utime(folder / "weights", ns=(1, 1))  # time passes

    path = CheckpointStore(tmp_path, run_id="run").commit(1, write_and_change)

    assert len(reads) == 1
    manifest.verify(path)


class Full:
    """A disk with room for a number of bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        written = self.file.write(data[: self.room])
        self.room -= written
        if not written and len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("missing", [1, 100, 20_000, 45_000])
def test_a_disk_that_is_full_at_any_byte_is_an_error_with_its_number(tmp_path, monkeypatch, missing):
    torch = pytest.importorskip("torch")
    from trackside.trainer.pytorch.snapshot import write_torch

    content = {"a": torch.zeros(5000), "b": torch.zeros(5000)}
    write_torch(content, tmp_path / "whole")
    room = (tmp_path / "whole").stat().st_size - missing
    begin = HashedFile.__init__

    def limited(self, path):
        begin(self, path)
        self._file = Full(self._file, room)

    monkeypatch.setattr(HashedFile, "__init__", limited)
    monkeypatch.setattr(hashed_file, "CHUNK_BYTES", 1000)

    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        CheckpointStore(tmp_path / "out", run_id="run").commit(1, lambda folder: write_torch(content, folder / "x.pt"))

    assert caught.value.errno == errno.ENOSPC
    assert list((tmp_path / "out").iterdir()) == []
