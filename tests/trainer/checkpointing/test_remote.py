"""A remote checkpoint is complete or does not exist, whatever fails or dies during an upload."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.remote_folders import address_in, failing

from trackside.callbacks.errors import ArgumentError, MissingPackageError
from trackside.trainer.checkpointing.discovery import newest_valid
from trackside.trainer.checkpointing.manifest import MANIFEST, BrokenCheckpointError, verify
from trackside.trainer.checkpointing.remote import RemoteFolder
from trackside.trainer.checkpointing.store import CheckpointStore


def commit(folder, step, content="first", run_id="run"):
    def write(path):
        (path / "shards").mkdir()
        for name in ("weights", "shards/0"):
            (path / name).write_text(f"{content} {step}")

    return CheckpointStore(folder, run_id=run_id).commit(step, write)


@pytest.fixture(params=["memory", "file"])
def remote(request, tmp_path):
    return RemoteFolder(address_in(request.param, tmp_path))


def test_what_is_uploaded_is_downloaded_and_verifies(remote, tmp_path):
    remote.upload(commit(tmp_path / "a", 4))

    path = remote.download("checkpoint-4", tmp_path / "b")

    verify(path)
    assert (path / "shards" / "0").read_text() == "first 4"
    assert os.listdir(tmp_path / "b") == ["checkpoint-4"]


def test_a_probe_leaves_nothing(remote):
    remote.probe()

    assert (remote.names(), remote.files()) == ([], {})


def test_checkpoints_are_listed_by_their_commit_and_one_without_a_manifest_is_not(remote, tmp_path):
    for step in (10, 9, 2):
        remote.upload(commit(tmp_path / "a", step))
    remote.fs.rm_file(f"{remote.root}/checkpoint-9/{MANIFEST}")

    assert list(remote.checkpoints()) == ["checkpoint-10", "checkpoint-2"]
    with pytest.raises(BrokenCheckpointError, match="its upload is not complete"):
        remote.download("checkpoint-9", tmp_path / "b")
    with pytest.raises(BrokenCheckpointError, match=r"://.*/checkpoint-1 does not exist"):
        remote.download("checkpoint-1", tmp_path / "b")


@pytest.mark.parametrize("damage", ["truncated", "other", "no files"])
def test_a_damaged_checkpoint_is_not_taken(remote, tmp_path, damage):
    remote.upload(commit(tmp_path / "a", 4))
    weights, manifest = f"{remote.root}/checkpoint-4/weights", f"{remote.root}/checkpoint-4/{MANIFEST}"
    if damage == "truncated":
        remote.fs.pipe_file(manifest, remote.fs.cat_file(manifest)[:-9])
    elif damage == "other":
        remote.fs.pipe_file(weights, b"wrong 4")
    else:
        remote.fs.rm_file(weights)

    with pytest.raises(BrokenCheckpointError, match="manifest" if damage == "truncated" else "weights"):
        remote.download("checkpoint-4", tmp_path / "b")
    assert newest_valid(tmp_path / "b") == (None, [])
    assert list(remote.checkpoints()) == ([] if damage == "truncated" else ["checkpoint-4"])


@pytest.mark.parametrize("write", range(1, 4))
def test_an_upload_that_fails_at_any_write_leaves_the_earlier_checkpoint(remote, tmp_path, write):
    remote.upload(commit(tmp_path / "a", 4))
    path = commit(tmp_path / "a", 8)

    with pytest.raises(ConnectionError):
        failing(remote, write, write).upload(path)

    assert list(remote.checkpoints()) == ["checkpoint-4"]
    remote.upload(path)
    assert list(remote.checkpoints()) == ["checkpoint-4", "checkpoint-8"]
    verify(remote.download("checkpoint-8", tmp_path / "b"))


@pytest.mark.parametrize("write", range(1, 4))
def test_replacing_a_checkpoint_that_fails_leaves_the_old_one(remote, tmp_path, write):
    remote.upload(commit(tmp_path / "a", 4))
    path = commit(tmp_path / "a", 4, "second")

    with pytest.raises(ConnectionError):
        failing(remote, write, write).upload(path)

    (name,) = remote.checkpoints()
    assert (remote.download(name, tmp_path / "b") / "weights").read_text() == "first 4"
    remote.upload(path)
    assert list(remote.checkpoints()) == ["checkpoint-4"] == remote.names()
    assert (remote.download("checkpoint-4", tmp_path / "c") / "weights").read_text() == "second 4"


def test_rotation_deletes_only_this_run_and_keeps_the_best_and_the_newest(remote, tmp_path):
    remote.upload(commit(tmp_path / "b", 1, run_id="another"))
    for step in (2, 3, 4, 5):
        remote.upload(commit(tmp_path / "a", step))

    remote.rotate("run", 1, ["checkpoint-3"])

    assert list(remote.checkpoints()) == ["checkpoint-1", "checkpoint-3", "checkpoint-5"]


def test_a_name_that_leads_out_of_the_folder_is_not_downloaded(remote, tmp_path):
    remote.fs.pipe_file(f"{remote.root}/log.csv", b"a")

    remote.files = lambda: {"log.csv": 1, "../escaped": 1}
    remote.download_files(tmp_path / "b")

    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and "remote" not in path.parts) == [
        "log.csv"
    ]


@pytest.mark.parametrize(
    ("address", "error", "text"),
    [
        ("s4://b/run", ArgumentError, "Did you mean 's3'"),
        ("gs://b/run", MissingPackageError, "pip install gcsfs"),
        ("sftp://host/run", MissingPackageError, "pip install paramiko"),
    ],
)
def test_an_address_that_cannot_be_opened_is_told_with_what_to_install(address, error, text):
    with pytest.raises(error, match=text):
        RemoteFolder(address)


def test_an_address_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ArgumentError, match=r"output_dir=.file://.*can write to"):
        RemoteFolder(f"file://{tmp_path}/file/run").probe()


KILLED = """
import os, signal, sys
from pathlib import Path
from trackside.trainer.checkpointing.remote import RemoteFolder
local, address, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
remote = RemoteFolder(address)
put, calls = remote.fs.put_file, 0
def put_file(source, target, **kwargs):
    global calls
    calls += 1
    if calls == last:  # in the middle of this file
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).write_bytes(Path(source).read_bytes()[:5])
        os.kill(os.getpid(), signal.SIGKILL)
    put(source, target, **kwargs)
remote.fs.put_file = put_file
for step in (4, 8):
    remote.upload(local / f"checkpoint-{step}")
    remote.rotate("run", 1, [])
"""


@pytest.mark.parametrize("last", range(1, 7))
def test_a_process_killed_at_any_file_leaves_complete_checkpoints_only(tmp_path, last):
    for step in (4, 8):
        commit(tmp_path / "a", step)
    address = address_in("file", tmp_path)

    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a"), address, str(last)], check=False)

    assert ended.returncode == -signal.SIGKILL
    remote = RemoteFolder(address)
    assert list(remote.checkpoints()) == ([] if last <= 3 else ["checkpoint-4"])
    remote.clean()
    if last % 3:  # else its manifest is there, and damaged, which might have another cause
        assert remote.names() == list(remote.checkpoints())
    for step in (4, 8):
        remote.upload(tmp_path / "a" / f"checkpoint-{step}")
    for name in remote.checkpoints():
        verify(remote.download(name, tmp_path / "b"))
    assert json.loads(Path(tmp_path / "b" / "checkpoint-8" / MANIFEST).read_text())["step"] == 8
