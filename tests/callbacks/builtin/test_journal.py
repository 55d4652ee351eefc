from __future__ import annotations

import json
import pickle
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
from support.callback_examples import RaisesAt
from support.fork_process import Fork

from trackside import EarlyStoppingCallback, TrainerCallback
from trackside.callbacks.builtin.csv_logger import CSVLoggerCallback
from trackside.callbacks.builtin.journal import JournalCallback, _plain, read_journal
from trackside.callbacks.errors import TracksideValueError
from trackside.callbacks.events import EVENTS
from trackside.callbacks.replay import last_run, replay
from trackside.callbacks.state import TrainerControl, TrainerState
from trackside.cli.replay import ending
from trackside.report import read_run
from trackside.testing.tiny_trainer import FRAMEWORKS, installed_frameworks, tiny_trainer

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
    assert stop["decisions"]["should_training_stop"] == "three are enough"
    assert entries[-1]["costs"]["stops"]["calls"] == 3
    costs = [entry["costs"] for entry in entries if entry["event"] == "on_log"]
    assert [1 < item["stops"]["calls"] <= 3 for item in costs] == [True] * len(trainer.state.log_history)


def test_every_decision_has_a_reason(make_trainer):
    class Asks(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = state.global_step == 3

    args = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 100, "max_steps": 7}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    make_trainer(JournalCallback(), Asks(), **args, **best).train()

    entries = list(read_journal(JOURNAL))
    decided = {
        entry["step"]: entry["decisions"]
        for entry in entries
        if entry["event"] == "on_step_end" and "decisions" in entry
    }
    assert decided[2] == {"should_log": "logging_steps=2"}
    assert decided[3] == {"should_save": "asks at on_step_end"}
    assert decided[4] == {"should_log": "logging_steps=2", "should_evaluate": "eval_steps=4"}
    assert decided[7] == {"should_training_stop": "max_steps=7"}
    because = [
        (entry["event"], entry["step"], entry["because"].split(" to ")[0]) for entry in entries if "because" in entry
    ]
    assert because[:3] == [
        ("on_save", 3, "asks at on_step_end"),
        ("on_evaluate", 4, "eval_steps=4"),
        ("on_save", 4, "eval_accuracy has improved"),
    ]
    assert because[3:][0] == ("on_evaluate", 7, "training stops")
    assert because[-1][:2] == ("on_save", 7)


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


def test_a_run_that_was_cut_off_is_replayed_and_its_callbacks_are_closed(make_trainer):
    make_trainer(JournalCallback()).train()
    lines = JOURNAL.read_text().splitlines(keepends=True)
    whole = [line for line in lines if json.loads(line)["step"] <= 7]
    JOURNAL.write_text("".join(whole) + lines[-1][:40])

    replayed = replay(JOURNAL, [heard := Recorder()])

    assert ending(replayed)[:2] == [
        "replayed up to step 7 of 12, 4 records",
        "the journal ends there: the run was cut off, or is still going on",
    ]
    assert (heard.heard[-1], replayed.is_complete) == (("on_train_end", 7), False)


def test_callbacks_of_others_find_the_methods_of_the_arguments(make_trainer):
    class Foreign:
        role = "observer"
        on_error = "raise"

        def on_train_begin(self, args, state, control, **kwargs):
            self.given = args.to_dict(), json.loads(args.to_json_string()), args.to_sanitized_dict()

    make_trainer(JournalCallback(), learning_rate=0.5).train()
    replay(JOURNAL, [callback := Foreign()])

    assert {values["learning_rate"] for values in callback.given} == {0.5}
    assert {values["run_name"] for values in callback.given} == {"out"}
    assert all(isinstance(value, bool | int | float | str) for value in callback.given[2].values())


def test_a_journal_without_a_run_is_an_error(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text('{"event": "on_log"\nno json\n[1]\n')

    with pytest.raises(TracksideValueError, match="no run begins in this journal"):
        replay(path, [])


def test_what_json_cannot_write_becomes_text():
    class Thing:
        def __repr__(self):
            return "a thing"

    assert _plain({"a": (1, Thing()), 2: None, "b": {3}}) == {"a": [1, "a thing"], "2": None, "b": [3]}


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_journal_is_read_while_the_run_goes_on_and_after_it_was_killed_up_to_the_last_full_line(framework):
    if framework not in installed_frameworks():
        pytest.skip(f"{framework} is not installed")
    code = """
import sys, time
from trackside import TrainerCallback
from trackside.testing.tiny_trainer import tiny_trainer
from trackside.callbacks.builtin.journal import JournalCallback

class TakesItsTime(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(0.01)

tiny_trainer(sys.argv[1], "out", [JournalCallback(), TakesItsTime()], num_train_epochs=1000, save_strategy="no").train()
"""
    process = Fork(FRAMEWORKS[framework], ["-c", code, framework], Path.cwd())
    seen = []
    while len(seen) < 20:
        assert process.poll() is None, process.errors
        time.sleep(0.05)
        seen = steps_in(JOURNAL) if JOURNAL.exists() else []

    was_running = process.poll() is None
    process.kill()
    process.wait()

    assert was_running
    *lines, torn = JOURNAL.read_text().split("\n")
    assert all(json.loads(line)["event"] in EVENTS for line in lines)
    assert len(torn) < max(map(len, lines))
    assert steps_in(JOURNAL) == list(range(1, len(steps_in(JOURNAL)) + 1))
    assert steps_in(JOURNAL)[: len(seen)] == seen
    replayed = replay(JOURNAL, [recorder := Recorder()])
    assert replayed.state.global_step >= 20
    assert recorder.heard[-1][0] == "on_train_end"


def steps_in(path):
    return [entry["step"] for entry in read_journal(path) if entry["event"] == "on_step_end"]


def test_a_journal_that_is_open_can_go_to_another_process(tmp_path):
    journal = JournalCallback(tmp_path / "journal.jsonl")
    control = TrainerControl()
    journal.on_epoch_begin(None, TrainerState(), control)

    there = pickle.loads(pickle.dumps(journal))
    there.on_epoch_begin(None, TrainerState(), control)

    assert [entry["event"] for entry in read_journal(journal.path)] == ["on_epoch_begin", "on_epoch_begin"]


def test_a_journal_whose_folder_is_removed_within_the_run_comes_back(make_trainer, tmp_path):
    class Removes(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                shutil.rmtree(args.output_dir, ignore_errors=True)  # the journal may write into it at that moment

    trainer = make_trainer(JournalCallback(), Removes(), logging_steps=2)
    trainer.train()

    first, *entries = read_journal(JOURNAL)
    events = [(event["event"], event["step"]) for event in entries]
    assert events[-1] == ("on_train_end", trainer.state.global_step)
    assert ("on_step_begin", 4) in events
    assert first["event"] == "on_train_begin"
    assert first["step"] <= 4  # a journal writes in the background: it may have begun after that very step
    assert first["args"] == _plain(trainer.args.to_dict())
    assert first["state"]["max_steps"] == trainer.state.max_steps
    assert "weights, all trained" in first["header"]
    assert [event["event"] for event in entries].count("on_train_begin") == 0

    told = read_run("out")
    assert [start.step for start in told.record.starts] == [first["step"]]
    assert [record.step for record in told.record.records if "loss" in record.values] == [2, 4, 6, 8, 10, 12]
    assert last_run(read_journal(JOURNAL))[0]["event"] == "on_train_begin"
