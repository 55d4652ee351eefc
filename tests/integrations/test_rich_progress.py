from __future__ import annotations

import io

import pytest

pytest.importorskip("rich")

from rich.console import Console

from trackside import TrainerState
from trackside.callbacks.errors import ArgumentError
from trackside.integrations._base.live_display import time_left
from trackside.integrations.rich_progress import RichProgressCallback


def test_the_table_shows_steps_epochs_and_every_metric(make_trainer):
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    trainer = make_trainer(RichProgressCallback(console=console), disable_tqdm=False)
    trainer.train()

    printed = console.file.getvalue()
    for text in ("step 12/12", "epoch 2.00", "loss", "eval_accuracy", "0:00:00 left"):
        assert text in printed
    assert "eval_runtime" not in printed
    assert f"{trainer.state.log_history[-2]['eval_accuracy']:.4g}" in printed
    assert trainer.callback_report["rich_progress"].failures == 0
    assert not {"progress", "printer"} & set(trainer.callback_report)


def test_newest_least_and_greatest_of_each_metric_are_kept(track):
    run = track(callback := RichProgressCallback())
    for loss in (3.0, 1.0, 2.0):
        run.log(loss=loss)

    assert callback.values == {"loss": (2.0, 1.0, 3.0)}


def test_a_resumed_run_goes_on_with_the_values_of_its_history(track):
    state = TrainerState(global_step=2, max_steps=9, log_history=[{"loss": 3.0, "step": 1}, {"loss": 1.0, "step": 2}])
    console = Console(file=io.StringIO(), force_terminal=True)
    run = track(callback := RichProgressCallback(console=console), state=state)
    run.send("on_train_begin")
    run.log(loss=2.0)
    run.send("on_train_end")

    assert callback.values == {"loss": (2.0, 1.0, 3.0)}


def test_an_exception_gives_the_terminal_back(track):
    run = track(callback := RichProgressCallback(console=Console(file=io.StringIO(), force_terminal=True)))
    run.send("on_train_begin")
    run.send("on_exception", exception=RuntimeError())

    assert not callback._live.is_started


def test_time_left_goes_by_the_steps_that_were_done():
    assert time_left(10, 20, 45.0) == "0:01:30"
    assert time_left(1, 7200, 1.0) == "2:00:00"
    assert time_left(0, 20, 1.0) == "?"


def test_options_are_checked():
    with pytest.raises(ArgumentError, match="transient='yes'"):
        RichProgressCallback(transient="yes")


def test_names_are_shown_as_they_are_in_the_characters_of_the_terminal(track):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    run = track(RichProgressCallback(console=Console(file=file, width=100)))
    run.send("on_train_begin")
    run.log(**{"map[iou]": 1.0, "[/bold]": 2.0, "pr\u00e9cision": 3.0})
    run.send("on_train_end")

    file.flush()
    printed = file.buffer.getvalue().decode("ascii")
    assert all(name in printed for name in ("map[iou]", "[/bold]", "pr\\xe9cision"))
    assert run.dispatcher.attachments["rich_progress"].last_error is None
