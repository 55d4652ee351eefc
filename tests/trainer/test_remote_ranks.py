"""Several ranks with one remote output_dir: the first uploads, the first of each machine downloads."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid

import pytest
from support.fake_engine import BATCHES, FakeTrainer
from support.fake_group import FakeGroup

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.arguments.base import BaseTrainingArguments
from trackside.trainer.base_trainer import checkpoints_of
from trackside.trainer.checkpointing.remote import RemoteFolder
from trackside.trainer.checkpointing.remote_output import RemoteOutput

RANKS = 2


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def run(address, resume=False, **args):
    """Return the last step of each rank, or what it raised, and how often each checkpoint was downloaded."""
    downloads = []

    def rank(collectives):
        trainer = FakeTrainer(
            collectives, address, sizes=[1] * BATCHES, fault=lambda place, count: None, steers={}, **args
        )
        folder = checkpoints_of(trainer).remote.folder
        download = folder.download
        folder.download = lambda *call: downloads.append(collectives.rank) or download(*call)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.state.global_step

    return FakeGroup(RANKS, timeout_s=20.0).run(rank), downloads


def test_ranks_upload_once_and_download_once():
    address = f"memory://{uuid.uuid4().hex}/run"

    ended, _ = run(address, max_steps=4)
    shutil.rmtree(BaseTrainingArguments(address).output_dir)
    resumed, downloads = run(address, resume=True, max_steps=8)

    assert ended == [4, 4]
    assert resumed == [8, 8]
    assert downloads == [0]
    assert list(RemoteFolder(address).checkpoints()) == [f"checkpoint-{step}" for step in (2, 4, 6, 8)]


def test_shards_of_several_machines_need_a_folder_that_they_share(monkeypatch):
    args = BaseTrainingArguments("memory://shards/run")
    vars(args).update(fsdp="full_shard", place=type("Place", (), {"world_size": 4})())
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "2")

    with pytest.raises(ArgumentError, match="staging_dir=None is not allowed: a folder that all machines share"):
        RemoteOutput(args)
