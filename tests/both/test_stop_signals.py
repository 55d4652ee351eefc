"""Signals that stop a run: what is saved, what is said, and who learns of them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

import pytest

from trackside import TrainerCallback

CODES = {"SIGINT": KeyboardInterrupt, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}
EVERY_TEN = {"max_steps": 30, "eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps", "save_steps": 100}


class Send(TrainerCallback):
    """Sends this process a signal at the ``count``-th event of a kind."""

    def __init__(self, name: str, event: str, count: int) -> None:
        self.name, self.left = name, count
        self.on = event
        self.heard: list[str] = []

    def _hear(self, event: str) -> None:
        self.heard.append(event)
        if event == self.on:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.Signals[self.name])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hear("step_end")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hear("prediction_step")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hear("evaluate")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hear("save")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hear("train_end")


@pytest.fixture(autouse=True)
def default_handlers() -> Any:
    """Undo what ``nohup`` does to SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def stopped(trainer: Any, name: str = "SIGTERM", **options: Any) -> None:
    """Train until the signal ``name`` is passed on."""
    raised = KeyboardInterrupt if name == "SIGINT" else SystemExit
    with pytest.raises(raised) as caught:
        trainer.train(**options)
    if raised is SystemExit:
        assert caught.value.code == CODES[name]
    assert trainer.state.stopped_by == name


@pytest.mark.parametrize("name", CODES)
def test_a_signal_saves_stops_and_is_passed_on(
    trainer_factory: Any, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    send = Send(name, "step_end", 3)
    trainer = trainer_factory(callbacks=[send], max_steps=20, save_strategy="steps")

    stopped(trainer, name)

    assert trainer.state.global_step == 3
    assert trainer_factory.checkpoints() == ["checkpoint-3"]
    assert send.heard[-2:] == ["save", "train_end"]
    assert f"{name}: saving and stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(signal.Signals[name]) in (signal.SIG_DFL, signal.default_int_handler)


def test_train_returns_if_asked_to(trainer_factory: Any) -> None:
    trainer = trainer_factory(callbacks=[Send("SIGINT", "step_end", 3)], max_steps=20, on_stop_signal="return")

    output = trainer.train()

    assert (output.global_step, trainer.state.stopped_by) == (3, "SIGINT")


def test_without_saving_the_answer_says_so(trainer_factory: Any, capfd: pytest.CaptureFixture[str]) -> None:
    stopped(trainer_factory(callbacks=[Send("SIGTERM", "step_end", 3)], max_steps=20))

    assert "stopping, without saving (save_strategy='no')" in capfd.readouterr().err
    assert trainer_factory.checkpoints() == []


def test_a_signal_in_an_evaluation_saves_at_once_and_the_evaluation_comes_on_resume(trainer_factory: Any) -> None:
    options = {"eval_dataset": trainer_factory.dataset(60, seed=1), "per_device_eval_batch_size": 4, **EVERY_TEN}
    whole = trainer_factory(output_dir=str(trainer_factory.folder / "whole"), **options)
    whole.train()
    send = Send("SIGTERM", "prediction_step", 17)  # the second batch of the evaluation at step 20
    stopped(trainer_factory(callbacks=[send], **options))
    assert trainer_factory.checkpoints() == ["checkpoint-20"]
    assert send.heard[-3:] == ["prediction_step", "save", "train_end"]

    resumed = trainer_factory(callbacks=[Send("SIGTERM", "step_end", 100)], **options)
    resumed.train(resume_from_checkpoint=True)

    assert evaluations(resumed) == evaluations(whole)
    assert (trainer_factory.weights(resumed) == trainer_factory.weights(whole)).all()


def test_an_evaluation_that_is_due_at_the_signal_comes_on_resume(trainer_factory: Any) -> None:
    options = {"eval_dataset": trainer_factory.dataset(12, seed=1), **EVERY_TEN}
    whole = trainer_factory(output_dir=str(trainer_factory.folder / "whole"), **options)
    whole.train()
    send = Send("SIGTERM", "step_end", 10)
    stopped(trainer_factory(callbacks=[send], **options))
    assert "evaluate" not in send.heard

    resumed = trainer_factory(**options)
    resumed.train(resume_from_checkpoint=True)

    assert evaluations(resumed) == evaluations(whole)


@pytest.mark.parametrize("step", [3, 5])  # within an epoch, and at its last update
def test_a_run_by_epochs_saves_once_and_does_not_evaluate(trainer_factory: Any, step: int) -> None:
    options = {
        "eval_dataset": trainer_factory.dataset(12, seed=1),
        "num_train_epochs": 3,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
    }
    whole = trainer_factory(output_dir=str(trainer_factory.folder / "whole"), **options)
    whole.train()
    send = Send("SIGTERM", "step_end", step)
    stopped(trainer_factory(callbacks=[send], **options))
    assert send.heard == ["step_end"] * step + ["save", "train_end"]

    resumed = trainer_factory(**options)
    resumed.train(resume_from_checkpoint=True)

    assert evaluations(resumed) == evaluations(whole)
    assert (trainer_factory.weights(resumed) == trainer_factory.weights(whole)).all()


def evaluations(trainer: Any) -> list[Any]:
    return [(record["step"], record["eval_loss"]) for record in trainer.state.log_history if "eval_loss" in record]


def test_a_run_inside_another_leaves_the_signal_to_the_outer_one(trainer_factory: Any) -> None:
    inner: list[Any] = []

    class Probe(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                for number in range(2):
                    send = Send("SIGTERM", "step_end", 2 if number == 0 else 100)
                    folder = str(trainer_factory.folder / f"inner{number}")
                    inner.append(trainer_factory(callbacks=[send], max_steps=9, output_dir=folder))
                    inner[-1].train()

    outer = trainer_factory(callbacks=[Probe], max_steps=20)

    stopped(outer)

    assert [(run.state.global_step, run.state.stopped_by) for run in inner] == [(2, "SIGTERM"), (0, "SIGTERM")]
    assert outer.state.global_step == 4


def test_a_second_signal_stops_at_once(trainer_factory: Any) -> None:
    class Twice(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            raise AssertionError("not reached")

    trainer = trainer_factory(callbacks=[Twice], max_steps=9, save_strategy="steps")

    with pytest.raises(KeyboardInterrupt):
        trainer.train()

    assert trainer_factory.checkpoints() == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_the_wait_for_callbacks_that_hang(trainer_factory: Any, caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()

    class Hangs(TrainerCallback):
        role = "observer"
        background = True

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            go_on.wait(20)

    class Twice(Send):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            again.start()

    again = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    trainer = trainer_factory(callbacks=[Twice("SIGINT", "step_end", 2)], max_steps=9, save_strategy="steps")
    for name in ("one", "two"):
        trainer.add_callback(Hangs(), name=name)
    start = time.monotonic()

    stopped(trainer, "SIGINT")
    go_on.set()

    assert time.monotonic() - start < 15
    assert trainer_factory.checkpoints() == ["checkpoint-2"]
    for name in ("one", "two"):
        assert f"the callback '{name}' is still working and is not waited for; not delivered yet: on_" in caplog.text


@pytest.mark.parametrize("names", [("SIGUSR1", "SIGUSR1", "SIGTERM"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGTERM")])
def test_a_notice_and_the_copy_of_a_launcher_do_not_stop_at_once(trainer_factory: Any, names: tuple[str, ...]) -> None:
    class Several(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                for name in names:
                    os.kill(os.getpid(), signal.Signals[name])

    trainer = trainer_factory(callbacks=[Several], max_steps=9, save_strategy="steps")

    stopped(trainer)

    assert trainer_factory.checkpoints() == ["checkpoint-2"]


def test_an_ignored_signal_stays_ignored_and_a_handler_of_the_user_is_called(trainer_factory: Any) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        trainer = trainer_factory(callbacks=[Send("SIGHUP", "step_end", 3)], max_steps=6)
        trainer.train()
        assert (trainer.state.global_step, trainer.state.stopped_by) == (6, None)

        stopped(trainer_factory(callbacks=[Send("SIGUSR1", "step_end", 3)], max_steps=6), "SIGUSR1")
        assert heard == [1]
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGUSR1, before[1])


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_child_that_a_callback_forks_dies_of_its_signal(trainer_factory: Any) -> None:
    statuses: list[int] = []

    class Forks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            statuses.append(os.waitpid(child, 0)[1])

    trainer = trainer_factory(callbacks=[Forks], max_steps=1)

    trainer.train()

    assert [os.WTERMSIG(status) for status in statuses] == [signal.SIGTERM]
    assert trainer.state.stopped_by is None


def test_a_search_ends_and_passes_the_signal_on_even_if_no_trial_finished(trainer_factory: Any) -> None:
    trainer = trainer_factory(
        model=None,
        model_init=lambda: trainer_factory.model(),
        eval_dataset=trainer_factory.dataset(8),
        callbacks=[Send("SIGTERM", "step_end", 2)],
        max_steps=6,
    )

    with pytest.raises(SystemExit) as passed_on:
        trainer.hyperparameter_search(lambda trial: {"learning_rate": 0.01}, n_trials=3, backend="optuna")

    assert (passed_on.value.code, trainer.state.global_step) == (143, 2)
