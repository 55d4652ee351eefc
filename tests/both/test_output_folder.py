"""One run at a time in a folder; what a new run replaces there, and which best checkpoint is its own."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.damages import flip_a_byte

from trackside import JournalCallback, TrainerCallback, TrainerState, events
from trackside.callbacks.builtin.csv_logger import CSVLoggerCallback
from trackside.callbacks.errors import ArgumentError

SAVES = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "logging_steps": 1}
BEST = {
    **SAVES,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "learning_rate": 5.0,
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
}
HOLDER = """
import sys
from pathlib import Path
from trackside.trainer.checkpointing.locks.run_lock import locked
with locked(Path(sys.argv[1]), "theirs"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_writes_nothing_and_reading_needs_no_lock(trainer_factory):
    trainer_factory(**SAVES).train()
    folder = trainer_factory.folder / "out"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        loggers = [CSVLoggerCallback(), JournalCallback()]
        trainer = trainer_factory(callbacks=loggers, eval_dataset=trainer_factory.dataset(8), **SAVES)

        for wanted in (None, True):
            with pytest.raises(ArgumentError, match=rf"another run writes into it: process {process.pid} on .*theirs"):
                trainer.train(resume_from_checkpoint=wanted)

        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
        reader = trainer_factory(eval_dataset=trainer_factory.dataset(8))
        reader.load_weights(folder / "checkpoint-4")
        assert "eval_loss" in reader.evaluate()
        process.communicate("")


def test_the_lock_is_held_while_training_and_gone_afterwards(trainer_factory):
    seen = []

    class Nested(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append((trainer_factory.folder / "out" / ".trackside.lock").exists())
            if state.global_step == 1:
                trainer_factory(max_steps=1).train()

    trainer_factory(callbacks=[Nested()], **SAVES).train()
    failing = trainer_factory(max_steps=2, overwrite_output_dir=True)
    failing.on("on_step_end")(lambda sender, **rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.train()

    assert seen == [True] * 4
    assert not (trainer_factory.folder / "out" / ".trackside.lock").exists()


def test_overwriting_removes_the_earlier_run_and_nothing_else(trainer_factory):
    folder = trainer_factory.folder / "out"
    first = trainer_factory(callbacks=[CSVLoggerCallback()], **{**SAVES, "max_steps": 8})
    metrics = first.train().metrics
    first.save_metrics("train", metrics)
    first.save_state()
    for name in ("notes.txt", "checkpoint-mine/data", "checkpoint-99/model.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    kept = set()

    second = trainer_factory(**SAVES, overwrite_output_dir=True)
    second.on("on_step_end")(lambda sender, state, **rest: kept.add((state.global_step, len(list(folder.iterdir())))))
    second.train()

    assert sorted(path.name for path in folder.iterdir()) == [
        *("checkpoint-2", "checkpoint-4", "checkpoint-99", "checkpoint-mine", "notes.txt")
    ]
    assert (1, 12) in kept  # the earlier run stays until the new one has a checkpoint
    state = TrainerState.load_from_json(folder / "checkpoint-4" / "trainer_state.json")
    assert state.run_id == second.state.run_id


def test_overwriting_without_saving_removes_the_earlier_run_at_the_end(trainer_factory):
    trainer_factory(**SAVES).train()
    failing = trainer_factory(max_steps=2, overwrite_output_dir=True)
    failing.on("on_step_end")(lambda sender, **rest: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        failing.train()
    assert trainer_factory.checkpoints() == ["checkpoint-2", "checkpoint-4"]
    trainer_factory(max_steps=2, overwrite_output_dir=True).train()

    assert trainer_factory.checkpoints() == []


def test_a_run_that_is_resumed_after_a_failed_overwriting_is_not_removed(trainer_factory):
    trainer_factory(**SAVES).train()
    trainer = trainer_factory(**{**SAVES, "max_steps": 6}, overwrite_output_dir=True)
    fails = trainer.on("on_step_end")(lambda sender, **rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    events.on_step_end.disconnect(fails, trainer)

    trainer.train(resume_from_checkpoint=True)

    assert trainer_factory.checkpoints() == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


# -- the best checkpoint ----------------------------------------------------------------------------------------------


@pytest.fixture
def diverged(trainer_factory):
    """A run whose best checkpoint is the first of two."""
    trainer = trainer_factory(eval_dataset=trainer_factory.dataset(8), **BEST)
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    return trainer


def resumed(factory, folder, checkpoint=True):
    trainer = factory(eval_dataset=factory.dataset(8), output_dir=str(folder), **{**BEST, "max_steps": 6})
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def weights_of(factory, folder):
    reader = factory()
    reader.load_weights(folder)
    return factory.weights(reader)


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_a_copied_or_moved_folder_uses_its_own_best_checkpoint(trainer_factory, diverged, how, caplog):
    original, folder = trainer_factory.folder / "out", trainer_factory.folder / "elsewhere"
    shutil.copytree(original, folder)
    best = weights_of(trainer_factory, folder / "checkpoint-2")
    if how == "moved":
        shutil.rmtree(original)
    else:
        flip_a_byte(original / "checkpoint-2" / trainer_factory.weights_file)

    trainer = resumed(trainer_factory, folder)

    assert trainer.state.best_model_checkpoint == str(folder / "checkpoint-2")
    np.testing.assert_array_equal(trainer_factory.weights(trainer), best)
    assert not [text for text in caplog.messages if "the last weights stay" in text]


def test_a_best_checkpoint_of_another_run_is_not_taken(trainer_factory, diverged, caplog):
    folder = trainer_factory.folder / "elsewhere"
    trainer_factory(output_dir=str(folder), seed=1, **SAVES).train()  # checkpoint-2 and checkpoint-4 of another run
    shutil.rmtree(folder / "checkpoint-4")
    shutil.move(trainer_factory.folder / "out" / "checkpoint-4", folder / "checkpoint-4")

    with caplog.at_level(logging.WARNING):
        trainer = resumed(trainer_factory, folder, folder / "checkpoint-4")

    assert trainer.state.global_step == 6
    told = [text for text in caplog.messages if "best checkpoint" in text]
    assert told[0] == f"the best checkpoint of this run so far, checkpoint-2, is not in {folder}"
    assert told[1].startswith("load_best_model_at_end: the last weights stay, since the best checkpoint ")
    last = weights_of(trainer_factory, folder / "checkpoint-6")
    np.testing.assert_array_equal(trainer_factory.weights(trainer), last)


def test_a_run_resumed_into_a_new_folder_finds_its_best_beside_the_checkpoint_it_was_given(trainer_factory, diverged):
    original = trainer_factory.folder / "out"

    trainer = resumed(trainer_factory, trainer_factory.folder / "new", original / "checkpoint-4")

    best = weights_of(trainer_factory, original / "checkpoint-2")
    np.testing.assert_array_equal(trainer_factory.weights(trainer), best)


class Moves(TrainerCallback):
    """Changes the current folder within the run."""

    def on_step_end(self, args, state, control, **kwargs):
        os.chdir(self.to)


def test_a_run_stays_in_its_folder_whatever_becomes_the_current_one(trainer_factory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    moves = Moves()
    moves.to = tmp_path / "elsewhere"
    moves.to.mkdir()
    callbacks = [moves, JournalCallback(), CSVLoggerCallback(path="own.csv")]
    trainer = trainer_factory(callbacks=callbacks, output_dir="out", logging_dir="logs", **SAVES)
    assert trainer.args.output_dir == "out"

    trainer.train()
    trainer.save_state()

    assert list(moves.to.iterdir()) == []
    assert (tmp_path / "own.csv").read_text().count("\n") > SAVES["max_steps"]
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"checkpoint-2", "checkpoint-4", "journal.jsonl", "trainer_state.json"} <= found
    assert trainer.args.logging_dir == str(tmp_path / "logs")
    assert trainer.args.to_dict()["output_dir"] == "out"
