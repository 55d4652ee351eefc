"""Uploads in the background, beside a rotation that deletes what they read."""

from __future__ import annotations

import shutil
import threading

import pytest
from support.remote_folders import address_in

from trackside.trainer.checkpointing import uploads
from trackside.trainer.checkpointing.remote import RemoteFolder
from trackside.trainer.checkpointing.store import CheckpointStore


@pytest.fixture(params=["memory", "file"])
def remote(request, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "PAUSES_S", (0.0,))
    return RemoteFolder(address_in(request.param, tmp_path))


def commit(folder, step):
    def write(path):
        for name in ("a", "b"):
            (path / name).write_text(f"{name} {step}")

    return CheckpointStore(folder, run_id="run").commit(step, write)


class Slow:
    """A file system that waits before its second write."""

    def __init__(self, fs):
        self.fs, self.writes = fs, 0
        self.reached, self.goes_on = threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self.fs, name)

    def put_file(self, source, target):
        self.writes += 1
        if self.writes == 2:
            self.reached.set()
            assert self.goes_on.wait(30)
        self.fs.put_file(source, target)


def test_what_is_being_uploaded_is_held_and_what_waits_is_left_out_once_deleted(remote, tmp_path):
    first, second, third = (commit(tmp_path / "out", step) for step in (1, 2, 3))
    remote.fs = Slow(remote.fs)
    queue = uploads.Uploads(remote, tmp_path / "out", None)

    for path in (first, second, third):
        queue.add(path, None, "run")
    assert remote.fs.reached.wait(30)
    held = queue.held()
    shutil.rmtree(second)
    remote.fs.goes_on.set()
    queue.finish(show=False)

    assert held == {str(first)}
    assert remote.names() == list(remote.checkpoints()) == ["checkpoint-1", "checkpoint-3"]
    assert (queue.held(), queue.failed) == (set(), [])


@pytest.fixture
def uploading(remote, tmp_path):
    """Return a checkpoint whose upload waits in its middle, and the queue."""
    path = commit(tmp_path / "out", 1)
    remote.fs = Slow(remote.fs)
    queue = uploads.Uploads(remote, tmp_path / "out", None)
    queue.add(path, None, "run")
    assert remote.fs.reached.wait(30)
    return path, queue


def test_a_checkpoint_that_is_deleted_during_its_upload_leaves_nothing(remote, uploading):
    path, queue = uploading

    shutil.rmtree(path)
    remote.fs.goes_on.set()
    queue.finish(show=False)

    assert (remote.names(), queue.failed) == ([], [])


def test_a_checkpoint_replaced_during_its_upload_is_uploaded_whole(remote, uploading, tmp_path):
    path, queue = uploading

    commit(path.parent, 1)
    remote.fs.goes_on.set()
    queue.finish(show=False)

    assert (remote.download("checkpoint-1", tmp_path / "b") / "b").read_text() == "b 1"
