"""A disk that is full for a moment costs nothing but the journal's events of that moment, and no line is joined."""

from __future__ import annotations

import csv
import json
import os
import resource
from typing import Any

from trackside import CSVLoggerCallback, JournalCallback, JSONLinesLoggerCallback, TrainerCallback


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
