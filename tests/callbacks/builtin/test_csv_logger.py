from __future__ import annotations

import csv
from pathlib import Path

from trackside import CSVLoggerCallback, TrainerState


def rows(path="out/log.csv"):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_record_is_a_row_as_soon_as_it_is_logged(track):
    run = track(CSVLoggerCallback())
    run.send("on_train_begin")

    for step in (1, 2, 3):
        run.step()
        run.log(loss=step / 2, epoch=0.5)

        assert rows()[-1] == {"step": str(step), "epoch": "0.5", "loss": str(step / 2)}
        assert len(rows()) == step


def test_a_new_value_gets_a_column_and_earlier_rows_an_empty_field(track):
    run = track(CSVLoggerCallback())
    run.send("on_train_begin")

    run.log(loss=1.0, epoch=0.0)
    run.evaluate(eval_loss=2.0, epoch=0.0)
    run.log(loss=3.0, epoch=0.0)

    assert Path("out/log.csv").read_text() == "step,epoch,loss,eval_loss\n0,0.0,1.0,\n0,0.0,,2.0\n0,0.0,3.0,\n"


def test_values_with_commas_quotes_and_line_breaks_come_back(track):
    run = track(CSVLoggerCallback())
    text = 'a,"b"\nc'

    run.log(note=text)
    run.log(note=text, other=1)

    assert [row["note"] for row in rows()] == [text, text]


def test_after_a_resume_no_step_appears_twice(track):
    killed = track(CSVLoggerCallback())
    killed.send("on_train_begin")
    for _ in range(4):
        killed.step()
        killed.evaluate(eval_loss=1.0)

    saved = TrainerState(global_step=2, max_steps=100, log_history=killed.state.log_history[:2])
    resumed = track(CSVLoggerCallback(), state=saved)
    resumed.send("on_train_begin")
    resumed.step()
    resumed.log(loss=2.0)

    assert [(row["step"], row["eval_loss"], row["loss"]) for row in rows()] == [
        ("1", "1.0", ""),
        ("2", "1.0", ""),
        ("3", "", "2.0"),
    ]


def test_a_path_of_its_own_is_made_with_its_folders(track):
    run = track(CSVLoggerCallback("deep/down/run.csv"))

    run.log(loss=1.0)

    assert rows("deep/down/run.csv") == [{"step": "0", "epoch": "", "loss": "1.0"}]


def test_a_text_that_is_not_valid_unicode_costs_no_record(track):
    run = track(CSVLoggerCallback())

    run.send("on_train_begin")
    run.log(loss=1.0)
    run.log(file="a\udcff.txt")
    run.log(loss=2.0, file="b.txt")

    assert [row["file"] for row in rows()] == ["", "a\\udcff.txt", "b.txt"]
