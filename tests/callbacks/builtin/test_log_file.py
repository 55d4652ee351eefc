"""Log files of every kind, in places that are not plain files, and with records that never have the same columns."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trackside import CSVLoggerCallback, JournalCallback, JSONLinesLoggerCallback
from trackside.callbacks._util import atomic_files
from trackside.callbacks.builtin import log_file
from trackside.callbacks.errors import CallbackError

LOGGERS = {"csv": CSVLoggerCallback, "jsonl": JSONLinesLoggerCallback, "journal": JournalCallback}


def run_with(track, callback):
    run = track(callback)
    run.send("on_train_begin")
    run.step()
    run.log(loss=1.0)
    run.step()
    run.log(loss=0.5, accuracy=0.25)
    run.send("on_train_end")
    return run


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_link_stays_and_the_file_behind_it_is_written(logger, track):
    Path("shared").mkdir()
    Path("link").symlink_to("shared/log")

    run_with(track, LOGGERS[logger]("link"))

    assert Path("link").readlink() == Path("shared/log")
    assert "0.25" in Path("shared/log").read_text()
    assert [path.name for path in Path("shared").iterdir()] == ["log"]


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_pipe_gets_every_record_as_it_comes_and_stays_a_pipe(logger, track):
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)

    run_with(track, LOGGERS[logger]("pipe"))
    heard = os.read(reader, 1 << 16).decode().splitlines()
    os.close(reader)

    assert Path("pipe").is_fifo()
    if logger == "csv":
        assert heard == ["step,epoch,loss", "1,,1.0", "step,epoch,loss,accuracy", "2,,0.5,0.25"]
    else:
        assert sum("loss" in line for line in heard) >= 2


def test_a_pipe_that_is_not_read_holds_nothing_up_and_says_so(track, monkeypatch, caplog):
    monkeypatch.setattr(atomic_files, "READER_S", 0.01)
    os.mkfifo("pipe")
    run = track(JSONLinesLoggerCallback("pipe"))
    run.send("on_train_begin")

    for _ in range(3):
        run.log(text="x" * 40_000)

    assert "nothing reads from the pipe" in caplog.text


SCRIPT = """
from trackside import CSVLoggerCallback, JSONLinesLoggerCallback, TrainerControl, TrainerState
from trackside.callbacks.builtin.journal import JournalCallback
class Args: output_dir = "out"
print("before", flush=True)
for logger in (CSVLoggerCallback, JSONLinesLoggerCallback, JournalCallback):
    callback = logger("/dev/stdout")
    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(Args(), state, control)
    callback.on_log(Args(), state, control, logs={"loss": 0.5})
    callback.on_train_end(Args(), state, control)
print("after", flush=True)
"""


@pytest.mark.parametrize("to", ["a pipe", "a file"])
def test_the_standard_output_is_added_to(to):
    with open("out.txt", "a") as file:
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            stdout=file if to == "a file" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=100,
        )

    lines = (ended.stdout or Path("out.txt").read_text()).splitlines()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (lines[0], lines[-1]) == ("before", "after")
    assert lines[1:4] == ["step,epoch,loss", "0,,0.5", '{"step": 0, "loss": 0.5}']
    assert '"on_train_begin"' in lines[4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_device_that_takes_nothing_is_told_and_stays(track, caplog):
    run_with(track, CSVLoggerCallback("/dev/full"))

    assert Path("/dev/full").is_char_device()
    assert "No space left on device" in caplog.text


def test_records_that_all_have_a_new_column_cost_a_share_of_the_run(track, monkeypatch):
    monkeypatch.setattr(log_file, "REWRITING_S", 0.0)
    now = iter(range(1_000_000))
    monkeypatch.setattr(log_file, "perf_counter", lambda: next(now) / 1000)  # each question takes a millisecond
    written = []
    monkeypatch.setattr(
        log_file, "write_atomically", lambda path, text, **how: written.append(Path(path).write_text(text))
    )
    run = track(CSVLoggerCallback())
    run.send("on_train_begin")

    for step in range(400):
        run.step()
        run.log(**{f"layer{step}": 1.0})
    run.send("on_train_end")

    with Path("out/log.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row[f"layer{step}"] for step, row in enumerate(found)] == ["1.0"] * 400
    assert len(written) < 40


def test_after_the_run_a_new_column_is_written_at_once(track, monkeypatch):
    monkeypatch.setattr(log_file, "REWRITING_S", -1.0)
    run = run_with(track, CSVLoggerCallback())

    run.evaluate(eval_loss=2.0)

    assert Path("out/log.csv").read_text().splitlines()[-1].endswith(",2.0")


@pytest.mark.parametrize("logger", LOGGERS)
def test_two_in_one_file_are_refused_and_two_in_one_stream_are_not(logger, track):
    run = track(make := LOGGERS[logger])

    with pytest.raises(
        CallbackError, match=rf"would write to out.*, as '{logger}' does; give one of them another path"
    ):
        run.dispatcher.attach(make())
    run.dispatcher.attach(make("other"))
    run.dispatcher.attach_all([(make("/dev/null"), {}), (make("/dev/null"), {})])

    assert len(run.dispatcher.attachments) == 4


@pytest.mark.parametrize("logger", [CSVLoggerCallback, JSONLinesLoggerCallback])
def test_only_the_first_process_writes(track, logger):
    run = track(logger())
    run.state.is_world_process_zero = False

    run.send("on_train_begin")
    run.log(loss=1.0)

    assert not Path("out").exists()
