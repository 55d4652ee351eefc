"""Many callbacks, evaluation sets, keys, records and trainers: what one more costs stays the same, counted in calls."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from support.call_counts import assert_linear, calls_of

from trackside import CSVLoggerCallback, JournalCallback, JSONLinesLoggerCallback, TrainerCallback, events


class Control(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        pass


class Observer(TrainerCallback):
    role = "observer"

    def on_log(self, args, state, control, **kwargs):
        pass

    def state_dict(self):
        return {"seen": 1}


@pytest.mark.slow
def test_callbacks(trainer_factory):
    def calls(number):
        def run():
            trainer = trainer_factory(callbacks=[Control() for _ in range(number)], max_steps=2)
            for index in range(number):
                trainer.add_callback(Observer(), name=f"o{index}", after=f"o{index - 1}" if index else ())
            trainer.train()
            for index in range(number):
                trainer.remove_callback(f"o{index}")

        return calls_of(run)

    assert_linear(calls, 100)


def test_observers_whose_state_is_kept(trainer_factory):
    def calls(number):
        callbacks = [Observer() for _ in range(number)]
        trainer = trainer_factory(
            callbacks=callbacks, max_steps=1, save_strategy="steps", save_steps=1, overwrite_output_dir=True
        )
        return calls_of(trainer.train)

    assert_linear(calls, 200)


def test_evaluation_sets(trainer_factory):
    data = trainer_factory.dataset(4)

    def calls(number):
        sets = {f"set{index}": data for index in range(number)} or data
        trainer = trainer_factory(eval_dataset=sets, max_steps=1)
        trainer.evaluate()
        return calls_of(trainer.evaluate)

    assert_linear(calls, 20)


def test_keys_of_a_record(trainer_factory):
    def calls(number):
        loggers = [CSVLoggerCallback(f"{number}.csv"), JSONLinesLoggerCallback(), JournalCallback()]
        trainer = trainer_factory(callbacks=loggers, max_steps=1, logging_strategy="no")
        trainer.train()
        return calls_of(lambda: trainer.log({f"key{index}": 1.0 for index in range(number)}))

    assert_linear(calls, 2_500)


def test_records(trainer_factory):
    trainer = trainer_factory(max_steps=1, callbacks=[Control(), Observer()])

    def calls(number):
        return calls_of(lambda: [trainer.log({"loss": 1.0}) for _ in range(number)])

    first = calls(1_000)
    for index in range(98_000):
        trainer.state.log_history.append({"loss": 1.0, "step": index})
    last = calls(1_000)

    assert len(trainer.state.log_history) == 100_000
    assert last <= 1.01 * first


# -- what stays -------------------------------------------------------------------------------------------------------


def left() -> dict[str, int]:
    """What a trainer that is gone must not leave behind."""
    gc.collect()
    return {
        "receivers": sum(len(signal.receivers) for signal in events.EVENTS.values()),
        "senders": sum(len(signal._by_sender) for signal in events.EVENTS.values()),
        "holders": sum(len(signal._holders) for signal in events.EVENTS.values()),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0,
        "objects": len(gc.get_objects()),
    }


def made_and_dropped(trainer_factory: Any, number: int, model: Any) -> None:
    for _ in range(number):
        trainer = trainer_factory(model=model, callbacks=[Control, Observer])
        trainer.on("on_log")(lambda trainer: None)
        trainer.on("on_step_end", every=2)(lambda trainer: None)
        del trainer


def test_trainers_that_are_made_and_dropped_leave_nothing(trainer_factory):
    model = trainer_factory.model()
    made_and_dropped(trainer_factory, 20, model)
    before = left()
    made_and_dropped(trainer_factory, 60, model)
    after = left()
    grown = after.pop("objects") - before.pop("objects")

    assert after == before
    assert grown < 50  # not one object for each trainer


def test_trainers_that_have_trained_and_are_dropped_leave_nothing(trainer_factory):
    def train(number):
        for _ in range(number):
            trainer_factory(model=model, max_steps=2, callbacks=[Control, Observer]).train()

    model = trainer_factory.model()
    train(5)
    before = left()
    train(10)
    after = left()
    grown = after.pop("objects") - before.pop("objects")

    assert after == before
    assert grown < 500


def test_making_a_trainer_does_not_search_the_path_again(trainer_factory, monkeypatch):
    import importlib.metadata

    trainer_factory()
    searched = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **given: searched.append(given) or ())

    trainer_factory(callbacks=[Control])

    assert searched == []
