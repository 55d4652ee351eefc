"""A callback that fails: observers never touch a run, control callbacks end it, on_train_end comes in any case."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from trackside import TrainerCallback, events


def failing(role: str) -> Any:
    """A callback that fails at every event, after it has drawn random numbers."""

    def fail(self, args, state, control, **kwargs):
        random.random(), np.random.rand()
        raise RuntimeError("the tracker is down")

    return type("BrokenTracker", (TrainerCallback,), {"role": role, **dict.fromkeys(events.EVENTS, fail)})()


def test_an_observer_that_always_fails_changes_no_weight_and_is_reported_once(trainer_factory, caplog):
    reported: list[str] = []

    def run(callbacks: list[Any]) -> Any:
        trainer = trainer_factory(
            model=trainer_factory.model(0.3), callbacks=callbacks, gradient_accumulation_steps=2, logging_steps=1
        )
        trainer.on("on_callback_error")(lambda sender, callback, **kwargs: reported.append(callback))
        trainer.train()
        return trainer

    quiet, watched = run([]), run([failing("observer")])

    np.testing.assert_array_equal(trainer_factory.weights(quiet), trainer_factory.weights(watched))
    assert reported == ["broken_tracker"]
    assert watched.callback_report["broken_tracker"].detached_after == 3
    assert sum("the tracker is down" in record.message for record in caplog.records) == 1


def test_a_failing_control_callback_ends_the_run_with_its_name_and_on_train_end_comes(trainer_factory):
    seen: list[str] = []

    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("boom")

        def on_exception(self, args, state, control, exception=None, **kwargs):
            seen.append(f"on_exception {exception}")

        def on_train_end(self, args, state, control, **kwargs):
            seen.append("on_train_end")

    with pytest.raises(RuntimeError, match="boom") as caught:
        trainer_factory(callbacks=[Fails()]).train()

    assert seen == ["on_exception boom", "on_train_end"]
    assert "raised by the callback 'fails'" in caught.value.__notes__[0]
