from __future__ import annotations

import sys
import time

import pytest
from support.tracker_readers import WANDB_QUIET

from trackside.integrations._compat.wandb_datastore import is_complete, read_last_steps, wait_until_complete

wandb = pytest.importorskip("wandb")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    """The file of an offline run."""
    from pathlib import Path

    folder = str(tmp_path_factory.mktemp("wandb"))
    settings = wandb.Settings(**WANDB_QUIET)
    run = wandb.init(dir=folder, mode="offline", id="one", settings=settings, reinit="create_new")
    run.log({"train/loss": 0.5, "train/epoch": 1.0}, step=3)
    run.log({"train/loss": 0.25, "text": "x" * 100_000}, step=4)  # longer than a block of the file
    run.finish()
    path = Path(run.dir).parent / "run-one.wandb"
    wait_until_complete(path)
    return path


def test_wandb_writes_the_file_that_is_read_here(run_file):
    found = read_last_steps([run_file])

    assert (found["train/loss"], found["train/epoch"]) == (4, 3)
    assert is_complete(run_file)


def test_a_torn_file_is_read_up_to_the_tear_and_is_not_complete(run_file, tmp_path):
    torn = tmp_path / "torn.wandb"
    torn.write_bytes(run_file.read_bytes()[:-200])

    assert read_last_steps([torn])["train/epoch"] == 3
    assert is_complete(torn) is False
    assert is_complete(tmp_path / "missing.wandb") is False


def test_another_format_is_unknown_and_is_not_waited_for(tmp_path, caplog):
    other = tmp_path / "other.wandb"
    other.write_bytes(bytes(7) + b"\0\0\0\0\x04\0\x01\xff\xff\xff\xff")  # one whole part that is not a record

    began = time.monotonic()
    wait_until_complete(other, timeout_s=30)

    assert time.monotonic() - began < 10
    assert read_last_steps([other]) is None
    assert "wandb_datastore.read_last_steps failed, its result is unknown: DecodeError" in caplog.text


def test_the_steps_are_unknown_without_the_private_module(run_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb.proto", None)

    assert read_last_steps([run_file]) is None
