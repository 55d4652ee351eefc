"""Links, pipes and devices in the place of a checkpoint's files are told and never opened."""

from __future__ import annotations

import os
import shutil

import pytest
from support.damages import reseal

from trackside.trainer.checkpointing.discovery import find_checkpoints, newest_valid
from trackside.trainer.checkpointing.files.regular_files import IrregularFileError, read_regular
from trackside.trainer.checkpointing.manifest import (
    MANIFEST,
    BrokenCheckpointError,
    open_checkpoint,
    read_manifest,
    seal,
    verify,
)
from trackside.trainer.checkpointing.remote import get_last_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "out" / "checkpoint-5"
    (folder / "shards").mkdir(parents=True)
    (folder / "weights").write_text("weights")
    (folder / "shards" / "0").write_text("shard")
    seal(folder, run_id="run", step=5, committed_at=1)
    return folder


@pytest.fixture
def no_pipe_is_waited_for(monkeypatch):
    """Opening a pipe would wait for ever: let the test fail instead."""
    monkeypatch.setattr("trackside.trainer.checkpointing.files.regular_files.open_descriptor", watched_open)


def watched_open(path, flags):
    assert os.path.isfile(path), f"{path} was opened"
    return os.open(path, flags)


REPLACEMENTS = {
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a folder": lambda path: path.mkdir(),
    "a named pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", ["weights", "shards/0", MANIFEST])
@pytest.mark.parametrize("kind", REPLACEMENTS)
@pytest.mark.usefixtures("no_pipe_is_waited_for")
def test_a_file_that_was_replaced_by_something_else_is_told(checkpoint, name, kind):
    (checkpoint / name).unlink()
    REPLACEMENTS[kind](checkpoint / name)

    with pytest.raises(BrokenCheckpointError) as caught:
        open_checkpoint(checkpoint)

    told = kind.replace("a device", "a link")
    assert caught.value.reason == f"has {told} in the place of the file {name}"
    assert find_checkpoints(checkpoint.parent) == [checkpoint]
    assert get_last_checkpoint(checkpoint.parent) is None


def test_a_folder_of_shards_that_is_a_link_is_told(checkpoint, tmp_path):
    shutil.move(checkpoint / "shards", tmp_path / "elsewhere")
    (checkpoint / "shards").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(BrokenCheckpointError, match="has a link in the place of the folder shards"):
        verify(checkpoint)


@pytest.mark.parametrize(
    "name", ["/dev/zero", "/etc/passwd", "../checkpoint-5/weights", "shards/../weights", "./weights"]
)
def test_a_name_that_leads_out_of_the_folder_is_not_read(checkpoint, name):
    manifest = read_manifest(checkpoint)
    manifest["files"][name] = manifest["files"]["weights"]
    reseal(checkpoint, manifest)

    with pytest.raises(BrokenCheckpointError, match="is not a relative path inside of the folder"):
        verify(checkpoint)
    assert newest_valid(checkpoint.parent)[0] is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("step", -1, "step is -1; allowed is a whole number from 0"),
        ("step", 7, "has another name than its manifest, which is of step 7"),
        ("committed_at", 10**30, "allowed is a whole number from 0"),
        ("run_id", None, "run_id is None; allowed is a text"),
        ("files", [], r"files is \[\]; allowed is an object"),
        ("files", {"weights": {"size": -1, "sha256": "0" * 64}}, "files.weights.size is -1"),
        ("files", {"weights": {"size": 7}}, "files.weights lacks 'sha256'"),
    ],
)
def test_a_manifest_with_a_value_that_is_not_allowed_is_told(checkpoint, key, value, message):
    reseal(checkpoint, read_manifest(checkpoint) | {key: value})

    with pytest.raises(BrokenCheckpointError, match=message):
        verify(checkpoint)
    assert find_checkpoints(checkpoint.parent) == [checkpoint]


def test_a_checkpoint_of_another_folder_name_verifies(checkpoint):
    good = checkpoint.rename(checkpoint.with_name("good"))

    assert verify(good)["step"] == 5


def test_links_and_pipes_that_a_callback_leaves_are_not_part_of_a_checkpoint(tmp_path):
    (tmp_path / "weights").write_text("weights")
    (tmp_path / "latest").symlink_to("weights")
    os.mkfifo(tmp_path / "pipe")

    seal(tmp_path, run_id="run", step=1, committed_at=1)

    assert list(verify(tmp_path)["files"]) == ["weights"]


def test_weights_that_are_a_link_are_not_committed(tmp_path):
    (tmp_path / "weights").symlink_to("/etc/passwd")

    with pytest.raises(IrregularFileError, match="has a link in the place of the file weights"):
        seal(tmp_path, run_id="run", step=1, committed_at=1, roles={"weights": "weights"})


def test_a_state_of_another_step_is_told(tmp_path):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "trainer_state.json").write_text('{"global_step": 4}')

    with pytest.raises(BrokenCheckpointError, match=r"has global_step 4 in trainer_state\.json; its manifest says 5"):
        seal(folder, run_id="run", step=5, committed_at=1, roles={"trainer_state.json": "state"})


def test_a_file_that_is_too_large_is_not_read_into_memory(tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(IrregularFileError, match="has 1099511627776 bytes in large; at most 10 are read"):
        read_regular(tmp_path, "large", limit=10)
