from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from trackside import ControlFilesCallback, TrainerCallback
from trackside.callbacks.builtin.control_files import FOLDER, LISTENING
from trackside.callbacks.errors import ArgumentError
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer

CONTROL = Path("out") / FOLDER


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["pytorch", "tensorflow"])
def make_trainer(request):
    if request.param not in installed_frameworks():
        pytest.skip(f"{request.param} is not installed")
    quiet = {"eval_strategy": "no", "save_strategy": "no"}
    return lambda *callbacks, **args: tiny_trainer(request.param, "out", callbacks, **{**quiet, **args})


class Asks(TrainerCallback):
    """Leaves a request when a step begins, as another process would."""

    def __init__(self, **steps):
        self.steps = steps
        self.done = []

    def on_step_begin(self, args, state, control, **kwargs):
        for name, step in self.steps.items():
            if state.global_step == step:
                (CONTROL / name).touch()

    def on_evaluate(self, args, state, control, **kwargs):
        self.done.append(("evaluate", state.global_step, control.reasons["should_evaluate"]))

    def on_save(self, args, state, control, **kwargs):
        self.done.append(("save", state.global_step, control.reasons["should_save"]))


def test_each_request_is_done_once_after_the_step_with_its_reason(make_trainer):
    asks = Asks(save=3, evaluate=5)
    trainer = make_trainer(ControlFilesCallback(every_s=1e-6), asks)

    trainer.train()

    assert asks.done == [
        ("save", 4, "asked for by .control/save"),
        ("evaluate", 6, "asked for by .control/evaluate"),
    ]
    assert Path("out/checkpoint-4").is_dir()
    assert trainer.state.global_step == 12
    assert list(CONTROL.iterdir()) == []


def test_stop_saves_first_and_leaves_its_reason(make_trainer):
    trainer = make_trainer(ControlFilesCallback(every_s=1e-6), Asks(stop=6), save_strategy="epoch")

    trainer.train()

    assert (trainer.state.global_step, trainer.state.stop_reason) == (7, "asked for by .control/stop")
    assert Path("out/checkpoint-7").is_dir()


def test_stop_does_not_save_where_the_run_never_saves(make_trainer):
    trainer = make_trainer(ControlFilesCallback(every_s=1e-6), Asks(stop=6))

    assert trainer.train().global_step == 7
    assert list(Path("out").glob("checkpoint-*")) == []


def test_requests_to_an_earlier_run_are_not_done(make_trainer):
    CONTROL.mkdir(parents=True)
    (CONTROL / "stop").touch()

    assert make_trainer(ControlFilesCallback(every_s=1e-6)).train().global_step == 12
    assert not (CONTROL / "stop").exists()


def test_an_evaluation_without_data_is_refused_in_words_and_the_run_goes_on(make_trainer, caplog):
    trainer = make_trainer(ControlFilesCallback(every_s=1e-6), Asks(evaluate=3))
    trainer.eval_dataset = None

    assert trainer.train().global_step == 12
    assert ".control/evaluate: the trainer has no eval_dataset to evaluate on" in caplog.text


def test_the_folder_is_the_owners_and_says_who_looks_at_it(make_trainer):
    CONTROL.mkdir(parents=True, mode=0o755)
    seen = []

    class Looks(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append((stat.S_IMODE(CONTROL.stat().st_mode), (CONTROL / LISTENING).read_text()))

    make_trainer(ControlFilesCallback(), Looks(), max_steps=1).train()

    assert seen[0][0] == 0o700
    assert f'"pid": {os.getpid()}' in seen[0][1]
    assert not (CONTROL / LISTENING).exists()


def test_a_folder_that_cannot_be_used_is_told_and_the_run_goes_on(make_trainer, caplog):
    CONTROL.parent.mkdir()
    CONTROL.symlink_to("/tmp")

    assert make_trainer(ControlFilesCallback(every_s=1e-6)).train().global_step == 12
    assert "cannot be used, so the run takes no requests" in caplog.text


def test_the_folder_is_not_looked_at_more_often_than_asked(make_trainer):
    asks = Asks(save=3)

    make_trainer(ControlFilesCallback(every_s=3600), asks).train()

    assert asks.done == []
    assert (CONTROL / "save").exists()


def test_a_time_of_zero_is_an_error():
    with pytest.raises(ArgumentError, match="every_s=0 is not allowed: a number of seconds above 0"):
        ControlFilesCallback(every_s=0)
