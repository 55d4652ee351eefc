from __future__ import annotations

import json
from pathlib import Path

from trackside import JSONLinesLoggerCallback, TrainerState


def records(path="out/log.jsonl"):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_every_record_is_in_the_file_as_soon_as_it_is_logged(track):
    run = track(JSONLinesLoggerCallback())
    run.send("on_train_begin")

    for _ in range(3):
        run.step()
        run.log(loss=0.5, epoch=0.1)

        assert records() == run.state.log_history


def test_a_fresh_run_begins_a_new_file(track):
    Path("mine").mkdir()
    Path("mine/log.jsonl").write_text('{"loss": 9.0, "step": 1}\n')
    run = track(JSONLinesLoggerCallback("mine/log.jsonl"))

    run.send("on_train_begin")
    run.log(loss=1.0)

    assert records("mine/log.jsonl") == [{"loss": 1.0, "step": 0}]


def test_after_a_resume_no_step_appears_twice(track):
    killed = track(JSONLinesLoggerCallback())
    killed.send("on_train_begin")
    for _ in range(4):
        killed.step()
        killed.log(loss=1.0)
    with Path("out/log.jsonl").open("a") as file:
        file.write('{"loss": 0.')  # cut off in the middle of a line

    saved = TrainerState(global_step=2, max_steps=100, log_history=killed.state.log_history[:2])
    resumed = track(JSONLinesLoggerCallback(), state=saved)
    resumed.send("on_train_begin")
    resumed.step()
    resumed.log(loss=2.0)

    assert records() == [{"loss": 1.0, "step": 1}, {"loss": 1.0, "step": 2}, {"loss": 2.0, "step": 3}]


def test_an_evaluation_after_training_is_appended(track):
    run = track(JSONLinesLoggerCallback())
    run.send("on_train_begin")
    run.log(loss=1.0)

    again = track(JSONLinesLoggerCallback())
    again.evaluate(eval_loss=2.0)

    assert records() == [{"loss": 1.0, "step": 0}, {"eval_loss": 2.0, "step": 0}]


def test_what_json_has_no_form_for_is_written_as_text(track):
    run = track(JSONLinesLoggerCallback())

    run.log(loss=float("nan"), where=Path("a"))

    assert '"loss": NaN, "where": "a"' in Path("out/log.jsonl").read_text()
