"""A disk that is full for a moment costs nothing but the journal's events of that moment, and no line is joined.

In a save it is an error, and the checkpoints before it stay.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import time
from typing import Any

import pytest

from trackside import CSVLoggerCallback, JournalCallback, JSONLinesLoggerCallback, TrainerCallback
from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing.manifest import verify


class FullFor(TrainerCallback):
    """Leaves room for a part of a line in each file from step 4 on, and then enough again from step 5 on."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder

    def on_step_end(self, args, state, control, **kwargs):
        limit = resource.RLIM_INFINITY
        if state.global_step == 4:
            limit = max(os.path.getsize(self.folder / name) for name in ("log.csv", "log.jsonl")) + 40
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def test_a_disk_that_is_full_for_a_moment(trainer_factory):
    out = trainer_factory.folder / "out"
    logs = [CSVLoggerCallback(), JSONLinesLoggerCallback()]
    trainer = trainer_factory(callbacks=[FullFor(out), *logs], max_steps=8, logging_steps=1)
    trainer.add_callback(JournalCallback(), background=False)

    try:
        trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    history = trainer.state.log_history
    assert [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] == history
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert [(row["step"], row["loss"]) for row in rows] == [
        (str(item["step"]), str(item.get("loss", ""))) for item in history
    ]
    events = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    steps = {event["step"] for event in events}
    assert {3, 5, 8} <= steps
    assert events[-1]["event"] == "on_train_end"
    assert trainer.callback_report["journal"].failures > 3
    assert trainer.callback_report["journal"].detached_after is None


class FullFrom(TrainerCallback):
    """Leaves files no room for more than a part of a checkpoint from step 3 on, after that of step 2 is committed."""

    def __init__(self, room: int) -> None:
        self.room = room

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            give_up = time.monotonic() + 60
            while not os.path.exists(f"{args.output_dir}/checkpoint-2") and time.monotonic() < give_up:
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, resource.RLIM_INFINITY))


@pytest.mark.parametrize("in_background", [True, False])
@pytest.mark.parametrize("room", [100, 1500])
def test_a_disk_that_is_full_in_a_save_is_an_error_and_the_earlier_checkpoint_stays(
    trainer_factory, room, in_background
):
    saves = {"save_strategy": "steps", "save_steps": 2, "save_async": in_background}
    trainer = trainer_factory(callbacks=[FullFrom(room)], max_steps=8, **saves)

    try:
        with pytest.raises(CheckpointError, match=r"checkpoint-4 could not be written: OSError: \[Errno 27\]"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    out = trainer_factory.folder / "out"
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["checkpoint-2"]
    verify(out / "checkpoint-2")
