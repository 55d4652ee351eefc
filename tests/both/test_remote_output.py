"""Runs whose output_dir is an address: what is uploaded, resumed from, rotated, refused, and told."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from support.remote_folders import FailsAt, address_in

from trackside import TrainerCallback
from trackside.callbacks.builtin.csv_logger import CSVLoggerCallback
from trackside.callbacks.errors import ArgumentError
from trackside.trainer.base_trainer import checkpoints_of
from trackside.trainer.checkpointing import uploads
from trackside.trainer.checkpointing.remote import RemoteFolder


@pytest.fixture(autouse=True)
def staging(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(uploads, "PAUSES_S", (0.01, 0.01))
    (tmp_path / "tmp").mkdir()


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path):
    return address_in(request.param, tmp_path)


def made(trainer_factory, address, **args):
    values = {"max_steps": 6, "save_steps": 2, "save_strategy": "steps", "logging_steps": 1, **args}
    return trainer_factory(output_dir=address, **values)


def test_a_run_is_uploaded_and_resumes_exactly_where_nothing_is_staged(trainer_factory, address):
    whole = made(trainer_factory, str(trainer_factory.folder / "whole"), max_steps=8, save_steps=4)
    whole.train()
    first = made(trainer_factory, address, max_steps=8, save_steps=4)
    first.add_callback(StopsAt(4))
    first.train()
    shutil.rmtree(first.args.output_dir)

    resumed = made(trainer_factory, address, max_steps=8, save_steps=4)
    resumed.train(resume_from_checkpoint=True)

    assert resumed.state.global_step == 8
    assert np.array_equal(trainer_factory.weights(resumed), trainer_factory.weights(whole))
    assert list(RemoteFolder(address).checkpoints()) == ["checkpoint-4", "checkpoint-8"]
    assert resumed.args.to_dict()["output_dir"] == address
    assert resumed.args.replace(seed=1).output_dir == resumed.args.output_dir


class StopsAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


def test_remote_rotation_keeps_the_newest_and_other_files_are_uploaded(trainer_factory, address):
    trainer = made(trainer_factory, address, save_total_limit=1)
    trainer.add_callback(CSVLoggerCallback())
    trainer.train()
    trainer.save_state()

    remote = RemoteFolder(address)
    assert list(remote.checkpoints()) == ["checkpoint-6"]
    assert {"log.csv", "trainer_state.json"} <= set(remote.files())
    shutil.rmtree(trainer.args.output_dir)
    resumed = made(trainer_factory, address, max_steps=8)
    resumed.add_callback(CSVLoggerCallback())
    resumed.train(resume_from_checkpoint=f"{address}/checkpoint-6")
    rows = remote.fs.cat_file(f"{remote.root}/log.csv").decode().splitlines()
    assert len([row for row in rows if row and not row.startswith("step")]) >= 8


def test_a_checkpoint_of_another_run_is_refused_and_overwritten_on_demand(trainer_factory, address):
    first = made(trainer_factory, address)
    first.train()
    shutil.rmtree(first.args.output_dir)

    with pytest.raises(ArgumentError, match="it holds checkpoints of another run"):
        made(trainer_factory, address).train()
    made(trainer_factory, address, save_steps=5, max_steps=5, overwrite_output_dir=True).train()

    assert list(RemoteFolder(address).checkpoints()) == ["checkpoint-5"]


def test_weights_are_loaded_from_an_address_and_saved_to_one(trainer_factory, address):
    trainer = made(trainer_factory, address)
    trainer.train()
    trainer.save_model(f"{address}_final")

    for source in (f"{address}/checkpoint-6", f"{address}_final"):
        other = made(trainer_factory, str(trainer_factory.folder / "out"))
        other.load_weights(source)
        assert np.array_equal(trainer_factory.weights(other), trainer_factory.weights(trainer))


def test_an_upload_that_fails_for_a_while_is_tried_again(trainer_factory, address):
    trainer = made(trainer_factory, address)
    remote = checkpoints_of(trainer).remote.folder
    remote.fs = FailsAt(remote.fs, 3, 4)

    trainer.train()

    assert list(RemoteFolder(address).checkpoints()) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_an_upload_that_fails_for_good_is_told_and_the_local_checkpoint_stays(trainer_factory, address, caplog):
    trainer = made(trainer_factory, address, save_total_limit=1)
    remote = checkpoints_of(trainer).remote.folder
    remote.fs = FailsAt(remote.fs, 2, 10_000)  # the first is the probe

    trainer.train()

    assert RemoteFolder(address).checkpoints() == {}
    assert "kept in" in caplog.text
    assert "checkpoint-6" in caplog.text
    assert [path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*")] == ["checkpoint-6"]
    again = made(trainer_factory, address, max_steps=8)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 8


def test_an_address_that_cannot_be_written_is_refused_before_the_first_step(trainer_factory, tmp_path):
    (tmp_path / "file").write_text("")
    trainer = made(trainer_factory, f"file://{tmp_path}/file/run")

    with pytest.raises(ArgumentError, match="output_dir"):
        trainer.train()

    assert trainer.state.global_step == 0


def test_a_damaged_remote_checkpoint_is_skipped_with_its_reason(trainer_factory, address, caplog):
    trainer = made(trainer_factory, address)
    trainer.train()
    shutil.rmtree(trainer.args.output_dir)
    remote = RemoteFolder(address)
    remote.fs.rm_file(f"{remote.root}/checkpoint-6/{trainer_factory.weights_file}")

    resumed = made(trainer_factory, address)
    resumed.train(resume_from_checkpoint=True)

    assert f"skipped {address}/checkpoint-6: lacks {trainer_factory.weights_file}" in caplog.text
    assert resumed.state.global_step == 6
