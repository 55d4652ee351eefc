from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from trackside.callbacks import EarlyStoppingCallback, TrainerCallback
from trackside.callbacks.csv_logger import CSVLoggerCallback
from trackside.callbacks.errors import ConfigError, TracksideValueError
from trackside.callbacks.events import EVENTS
from trackside.replay import main
from trackside.tiny import installed_frameworks, tiny_trainer
from trackside.trainer.journal import JournalCallback, plain, read_journal
from trackside.trainer.replay import last_run, replay

JOURNAL = Path("out/journal.jsonl")


@pytest.fixture(params=["pytorch", "tensorflow"])
def make_trainer(request):
    if request.param not in installed_frameworks():
        pytest.skip(f"{request.param} is not installed")
    return lambda *callbacks, **args: tiny_trainer(request.param, "out", callbacks, **args)


class Recorder(TrainerCallback):
    """Notes every event with its step."""

    role = "observer"

    def __init__(self):
        self.heard = []
        for event in EVENTS:
            setattr(self, event, partial(self.note, event))

    def note(self, event, args, state, control, **kwargs):
        self.heard.append((event, state.global_step))


class RaisesAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("boom")


def test_every_event_is_a_line_in_order(make_trainer):
    trainer = make_trainer(JournalCallback(), recorder := Recorder())
    trainer.train()

    lines = [(entry["event"], entry["step"]) for entry in read_journal(JOURNAL)]
    assert lines == recorder.heard
    assert all(json.loads(line) for line in JOURNAL.read_text().splitlines())


def test_lines_hold_logs_decisions_with_reasons_and_costs(make_trainer):
    class Stops(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                control.stop("three are enough")

    trainer = make_trainer(JournalCallback(), Stops(), learning_rate=0.02)
    trainer.train()

    entries = list(read_journal(JOURNAL))
    assert [{**e["logs"], "step": e["step"]} for e in entries if e["event"] == "on_log"] == trainer.state.log_history
    (begin,) = [entry for entry in entries if entry["event"] == "on_train_begin"]
    assert (begin["args"]["learning_rate"], begin["state"]["max_steps"]) == (0.02, 12)
    (stop,) = [e for e in entries if e["event"] == "on_step_end" and e["step"] == 3]
    assert stop["decisions"]["should_training_stop"]
    assert stop["decisions"]["stop_reason"] == "three are enough"
    assert entries[-1]["costs"]["stops"]["calls"] == 3


def test_a_resumed_run_goes_on_in_the_file_and_reads_as_one_run(make_trainer):
    with pytest.raises(RuntimeError):
        make_trainer(JournalCallback(), RaisesAt(9)).train()
    with JOURNAL.open("a") as file:
        file.write('{"event": "on_st')  # as a killed run leaves it
    second = make_trainer(JournalCallback())
    second.train(resume_from_checkpoint=True)

    entries = last_run(read_journal(JOURNAL))
    records = [{**entry["logs"], "step": entry["step"]} for entry in entries if entry["event"] == "on_log"]
    assert records == second.state.log_history
    steps = [entry["step"] for entry in entries if entry["event"] == "on_step_end"]
    assert steps == list(range(1, 13))
    assert [entry["event"] for entry in entries].count("on_train_begin") == 1


def test_replay_sends_what_the_run_sent(make_trainer):
    trainer = make_trainer(JournalCallback(), recorder := Recorder(), CSVLoggerCallback("first.csv"))
    trainer.train()

    replayed = replay(JOURNAL, [again := Recorder(), CSVLoggerCallback("second.csv")])

    assert again.heard == recorder.heard
    assert Path("first.csv").read_text() == Path("second.csv").read_text()
    assert replayed.state.log_history == trainer.state.log_history
    assert replayed.state.best_metric == trainer.state.best_metric


def test_replay_into_tensorboard_gives_the_same_curves_as_the_run(make_trainer):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from trackside.integrations.tensorboard import TensorBoardCallback

    make_trainer(JournalCallback(), TensorBoardCallback("live")).train()
    replay(JOURNAL, [TensorBoardCallback("again")])

    def curves(folder):
        events = EventAccumulator(folder).Reload()
        return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    assert curves("live") == curves("again")
    assert "eval/accuracy" in curves("again")


def test_another_patience_can_be_tried_without_training(make_trainer):
    trainer = make_trainer(
        JournalCallback(), num_train_epochs=6, learning_rate=0.0, metric_for_best_model="loss", save_strategy="no"
    )
    trainer.train()

    stops = [replay(JOURNAL, [EarlyStoppingCallback(patience)]).stopped_at for patience in (1, 3, 99)]
    assert stops == [12, 24, None]


def test_the_command_replays_by_name_and_says_how_it_went(make_trainer, capsys, monkeypatch):
    make_trainer(JournalCallback()).train()
    made = []
    monkeypatch.setattr(
        "trackside.trainer.replay.attach_from_map",
        lambda dispatcher, callbacks: made.append(callbacks) or dispatcher.attach(CSVLoggerCallback()),
    )

    code = main([str(JOURNAL), "--callback", "csv", "--callbacks.early_stopping.patience", "2"])

    assert code == 0
    assert made == [{"csv": {}, "early_stopping": {"patience": 2}}]
    assert "replayed up to step 12 of 12" in capsys.readouterr().out
    assert Path("out/replay/log.csv").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere.jsonl", "--callback", "csv"], "nowhere.jsonl"),
        (["x", "--callback", "csv", "--patience", "3"], "'--patience' is not understood"),
        (["x"], "nothing to replay to"),
    ],
)
def test_a_wrong_command_is_a_config_error(argv, message):
    with pytest.raises(ConfigError, match=message):
        main(argv)


def test_a_journal_without_a_run_is_an_error(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text('{"event": "on_log"\nno json\n[1]\n')

    with pytest.raises(TracksideValueError, match="no run begins in this journal"):
        replay(path, [])


def test_what_json_cannot_write_becomes_text():
    class Thing:
        def __repr__(self):
            return "a thing"

    assert plain({"a": (1, Thing()), 2: None, "b": {3}}) == {"a": [1, "a thing"], "2": None, "b": [3]}


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_killed_run_leaves_every_full_line(framework, tmp_path):
    code = """
import os, signal, sys, time
from trackside import TrainerCallback
from trackside.tiny import tiny_trainer
from trackside.trainer.journal import JournalCallback

class Dies(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 9:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)

tiny_trainer(sys.argv[1], "out", [JournalCallback(), Dies()]).train()
"""
    done = subprocess.run([sys.executable, "-c", code, framework], cwd=tmp_path, timeout=120, capture_output=True)

    assert done.returncode == -signal.SIGKILL
    steps = [entry["step"] for entry in read_journal(JOURNAL) if entry["event"] == "on_step_end"]
    assert steps == list(range(1, 9))
