from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import timeit

import pytest
from support.terminals import Terminal

from trackside import PrinterCallback, ProgressCallback, TrainerState
from trackside.callbacks.builtin import progress as progress_module
from trackside.callbacks.builtin.progress import LineFile, length_of


@pytest.fixture
def bars(monkeypatch):
    """Every bar that is made, in order."""
    made, make = [], progress_module.make_bar

    def make_and_keep(*args, **kwargs):
        made.append(make(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(progress_module, "make_bar", make_and_keep)
    return made


def predict(run, loader, event="on_evaluate", batches=None):
    run.dispatcher.context["eval_dataloader"] = loader
    for _ in range(len(loader) if batches is None else batches):
        run.send("on_prediction_step")
    if event:
        run.send(event, metrics={})


def test_the_bar_follows_the_steps_and_closes_at_the_end(track, bars):
    callback = ProgressCallback()
    run = track(callback)

    run.send("on_train_begin")
    run.step(7)
    run.send("on_train_end")

    assert [(bar.n, bar.total, bar.disable) for bar in bars] == [(7, 100, True)]
    assert callback.training_bar is None


def test_a_resumed_run_begins_where_it_was(track, bars):
    run = track(ProgressCallback(), state=TrainerState(global_step=40, max_steps=100))

    run.send("on_train_begin")
    run.step()

    assert (bars[0].initial, bars[0].n) == (40, 41)
    run.send("on_train_end")


def test_evaluations_and_predictions_come_in_any_order(track, bars):
    run = track(ProgressCallback())

    predict(run, [1, 2], "on_predict")
    predict(run, [1, 2, 3])
    run.send("on_train_begin")
    run.step()
    predict(run, [1, 2])
    run.step()
    predict(run, [1], "on_predict")
    run.send("on_train_end")
    predict(run, [1, 2, 3, 4])

    assert [(bar.desc.split(":")[0], bar.n, bar.total, bar.leave) for bar in bars] == [
        ("evaluate", 2, 2, True),
        ("evaluate", 3, 3, True),
        ("train", 2, 100, True),
        ("evaluate", 2, 2, False),
        ("evaluate", 1, 1, False),
        ("evaluate", 4, 4, True),
    ]
    assert all(bar.disable for bar in bars)


def test_an_evaluation_that_broke_off_leaves_nothing_behind(track, bars):
    run = track(ProgressCallback())

    predict(run, [1, 2, 3], event=None, batches=2)
    predict(run, [1, 2])

    assert [(bar.n, bar.disable) for bar in bars] == [(2, True), (2, True)]


def test_a_loader_without_length_has_a_bar_without_total(track, bars):
    run = track(ProgressCallback())

    predict(run, iter([]), batches=3)

    assert (bars[0].n, bars[0].total) == (3, None)
    assert length_of(None) is None


def test_an_exception_closes_all_bars(track, bars):
    callback = ProgressCallback()
    run = track(callback)

    run.send("on_train_begin")
    predict(run, [1, 2], event=None, batches=1)
    run.send("on_exception", exception=RuntimeError())

    assert all(bar.disable for bar in bars)
    assert callback.training_bar is callback.prediction_bar is None


def test_only_the_first_process_shows_anything(track, bars):
    run = track(ProgressCallback())
    run.state.is_world_process_zero = False

    run.send("on_train_begin")
    run.step()
    predict(run, [1])
    run.log(loss=1.0)
    run.send("on_train_end")

    assert bars == []


def test_in_a_pipe_there_are_few_plain_lines_without_control_characters(track, capsys):
    run = track(ProgressCallback())

    run.send("on_train_begin")
    for _ in range(20):
        run.step(5)
        predict(run, [1, 2])
    run.log(loss=0.5, epoch=1.0)
    run.send("on_train_end")
    out, err = capsys.readouterr()

    assert out == "step 100, epoch 1: loss 0.5\n"
    assert not re.search(r"[\r\x1b]", err)
    lines = err.splitlines()
    assert len(lines) <= 3
    assert "0/100" in lines[0]
    assert "100/100" in lines[-1]


def test_lines_are_cleaned_of_cursor_movements():
    stream = io.StringIO()
    file = LineFile(stream)

    for text in ("\r  50%|#####", "\n", "\x1b[A", "\r      \r", "\n\x1b[A\r done"):
        file.write(text)

    assert stream.getvalue() == "50%|#####\ndone\n"


IN_A_TERMINAL = """
import sys
sys.path[:0] = {path!r}
from trackside import ProgressCallback, TrainerControl, TrainerState
from trackside.callbacks.bus.dispatcher import Dispatcher
state = TrainerState(max_steps=50)
class Trainer: pass
trainer = Trainer()
run = Dispatcher(trainer, None, state, TrainerControl())
run.attach(ProgressCallback())
run.context["eval_dataloader"] = [1, 2, 3]
run.send("on_train_begin")
for state.global_step in range(1, 51):
    run.send("on_step_end")
    if state.global_step == 25:
        for _ in range(3):
            run.send("on_prediction_step")
        run.send("on_log", logs={{"loss": 0.5}})
        run.send("on_log", logs={{"eval_loss": 0.25, "eval_runtime": 1.5}})
        run.send("on_evaluate", metrics={{}})
run.send("on_train_end")
print("the end")
"""


def shown_in_terminals(columns, count, term="xterm"):
    """Run the script on one terminal, or with the standard output and error on one each; return them."""
    script = IN_A_TERMINAL.format(path=sys.path)
    terminals = [Terminal(columns) for _ in range(count)]
    stdout, stderr = terminals[0].its_end, terminals[-1].its_end
    environ = {**os.environ, "TERM": term}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=stdout, stderr=stderr, env=environ)
    for terminal in terminals:
        os.close(terminal.its_end)
    for terminal in terminals:
        terminal.read_to_end()
    assert process.wait(60) == 0
    return terminals


@pytest.mark.parametrize("columns", [80, 120, 0])
@pytest.mark.parametrize("count", [1, 2])
def test_in_a_terminal_the_bar_stays_on_one_line_and_logs_stand_above_it(columns, count):
    terminal, *others = shown_in_terminals(columns, count)

    assert [other.text for other in others] == [""] * (count - 1)
    assert "\r" in terminal.text
    assert re.search(r"50/50 .*loss 0.5", terminal.text)
    assert re.search(r"(\r|\n|\x1b\[A)step 25: eval_loss 0.25 *\r?\n", terminal.text)
    assert terminal.text.rstrip().endswith("the end")
    if columns:
        assert max(map(len, terminal.lines)) <= columns


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines():
    (terminal,) = shown_in_terminals(80, 1, term="dumb")

    assert "\x1b" not in terminal.text
    assert "\r" not in terminal.text.replace("\r\n", "")
    assert "step 25: eval_loss 0.25\r\n" in terminal.text
    assert re.search(r"train: 100%.*50/50", terminal.text)


def test_a_step_takes_about_a_microsecond(track):
    callback = ProgressCallback()
    run = track(callback, state=TrainerState(max_steps=10**9))
    run.send("on_train_begin")

    def step():
        run.state.global_step += 1
        callback.on_step_end(run.args, run.state, run.control)

    timeit.timeit(step, number=20000)
    seconds = min(timeit.repeat(step, number=2000, repeat=20))

    assert seconds / 2000 < 5e-6  # far above what it takes, so that a busy machine does not fail it
    run.send("on_train_end")


class Console(io.StringIO):
    """A console of an editor: a terminal without a file behind it."""

    def isatty(self):
        return True


class Tee:
    """An object that writes to two places, as scripts put in the place of stderr."""

    def __init__(self):
        self.written = []

    def write(self, text):
        self.written.append(text)


class Closed(io.StringIO):
    def isatty(self):
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize("make", [Console, Tee, Closed, lambda: None], ids=["console", "tee", "closed", "none"])
@pytest.mark.parametrize("callback", [ProgressCallback, PrinterCallback])
def test_any_object_may_stand_in_the_place_of_the_standard_streams(track, monkeypatch, make, callback):
    monkeypatch.setattr(sys, "stderr", make())
    monkeypatch.setattr(sys, "stdout", make())
    run = track(callback)

    run.send("on_train_begin")
    run.step(3)
    run.log(loss=1.0)
    predict(run, [1, 2])
    run.send("on_train_end")

    (attachment,) = run.dispatcher.attachments.values()
    assert attachment.last_error is None


@pytest.mark.parametrize("callback", [ProgressCallback, PrinterCallback])
def test_what_a_terminal_cannot_show_is_escaped(track, monkeypatch, callback):
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    run = track(callback)

    run.dispatcher.context["header"] = "output     r\u00e9sultats"
    run.send("on_train_begin")
    run.step()
    run.log(**{"pr\u00e9cision": 1.0, "note": "two\nlines \x1b[2J", "of a file \udcff": 2.0})
    run.send("on_train_end")

    (attachment,) = run.dispatcher.attachments.values()
    assert attachment.last_error is None
    assert stdout.buffer.getvalue().decode("ascii").strip().splitlines() == [
        "output     r\\xe9sultats",
        "step 1: pr\\xe9cision 1, note two\\nlines \\x1b[2J, of a file \\udcff 2",
    ]
