"""terminate_on_nan, and a callback of one's own, see the loss of every update, whatever is logged."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from support.arrays import classified
from support.callback_examples import Listens

from trackside import TerminateOnNaNCallback, TrainerCallback, events

NAN, INF = float("nan"), float("inf")
UNLOGGED = [
    {"logging_steps": 1},
    {},
    {"logging_steps": 1, "logging_nan_inf_filter": True},
    {"logging_strategy": "no"},
    {"logging_strategy": "no", "logging_nan_inf_filter": True, "gradient_accumulation_steps": 2},
]


class Hears(TrainerCallback):
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def loss_not_finite(self, args, state, control, *, step, loss):
        self.told.append((step, str(loss), state.global_step))


def run(factory, *callbacks, step=2, factor=NAN, **options):
    trainer = factory(factory.disturbed(step, factor), callbacks=list(callbacks), **{"max_steps": 30, **options})
    trainer.train()
    return trainer


def seen_at(factory, step, every=20):
    """Return the update at whose end the host looks."""
    return step if factory.framework == "pytorch" else -(-step // every) * every


@pytest.mark.parametrize("options", UNLOGGED, ids=str)
def test_training_stops_whatever_is_logged(trainer_factory, options):
    trainer = run(trainer_factory, TerminateOnNaNCallback(), **options)

    assert trainer.state.stop_reason == "loss is nan at step 3"
    if "logging_steps" in options:  # the log looks, and shows the loss where it is not filtered
        assert trainer.state.global_step in (3, 4)
    else:
        assert trainer.state.global_step == seen_at(trainer_factory, 3)


def test_a_save_looks_too(trainer_factory):
    trainer = run(trainer_factory, TerminateOnNaNCallback(), save_strategy="steps", save_steps=4)

    assert trainer.state.stop_reason == "loss is nan at step 3"
    assert trainer.state.global_step <= 5


@pytest.mark.parametrize(("factor", "loss"), [(NAN, "nan"), (INF, "inf"), (-INF, "-inf")])
def test_a_callback_is_told_once_of_the_first(trainer_factory, factor, loss):
    hears = Hears()

    run(trainer_factory, hears, factor=factor, step=22, max_steps=50)

    (step, told, at), *more = hears.told
    assert (step, more) == (23, [])
    assert told == loss
    assert at == seen_at(trainer_factory, 23)


def test_a_resumed_run_counts_its_updates_from_the_beginning(trainer_factory):
    options = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    trainer_factory(max_steps=2, **options).train()
    hears = Hears()
    trainer = trainer_factory(trainer_factory.disturbed(4, NAN), callbacks=[hears], max_steps=8, **options)

    trainer.train(resume_from_checkpoint=True)

    assert hears.told[0][:2] == (5, "nan")


@pytest.mark.parametrize(("muted", "factor"), [(False, NAN), (True, NAN), (False, INF), (False, -INF)])
def test_without_a_callback_it_is_told_once_and_training_goes_on(trainer_factory, caplog, muted, factor):
    with events.on_step_end.muted() if muted else caplog.at_level(logging.WARNING):
        trainer = run(trainer_factory, max_steps=5, factor=factor)

    assert trainer.state.global_step == 5
    assert caplog.text.count(f"the loss of update 3 is {factor}") == 1


def test_finite_losses_tell_nothing(trainer_factory, caplog):
    hears = Hears()

    run(trainer_factory, hears, factor=1.0, max_steps=25)

    assert hears.told == []
    assert "the loss of update" not in caplog.text


def test_several_updates_in_one_call_stay_in_one_call(trainer_factory):
    if trainer_factory.framework == "pytorch":
        pytest.skip("steps_per_execution")
    hears = Hears()

    data = trainer_factory.dataset(160)
    trainer = run(trainer_factory, hears, steps_per_execution=10, max_steps=30, step=12, train_dataset=data)

    assert hears.told == [(13, "nan", 20)]
    assert set(trainer.trace_counts) == {"updates"}


def without_labels(factory, rows, count):
    """Return a dataset whose labels are -100, but for the last ``count`` of ``rows``."""
    features, labels = classified(rows)
    labels = np.where(np.arange(rows) < rows - count, -100, labels)
    if factory.framework == "tensorflow":
        return features, labels
    import torch

    return torch.utils.data.TensorDataset(torch.tensor(features), torch.tensor(labels))


@pytest.mark.parametrize("callbacks", [[], [Listens()]], ids=["in one", "in pieces"])
def test_updates_in_which_nothing_counts_are_in_no_mean_and_a_run_of_them_is_told(trainer_factory, callbacks, caplog):
    steady = {"learning_rate": 0.0, "per_device_train_batch_size": 10, "train_sampling_strategy": "sequential"}
    steady |= {"max_steps": 3, "logging_steps": 3, "callbacks": callbacks}
    some = trainer_factory(train_dataset=without_labels(trainer_factory, 30, 10), **steady)
    none = trainer_factory(train_dataset=without_labels(trainer_factory, 30, 0), **steady)

    some.train()
    is_told = ["nothing was learned" in caplog.text]
    none.train()

    wanted = some.evaluate(some.train_dataset)["eval_loss"]
    assert some.state.log_history[0]["loss"] == pytest.approx(wanted, rel=1e-5)
    assert some.state.log_history[1]["train_loss"] == pytest.approx(wanted, rel=1e-5)
    assert math.isnan(none.state.log_history[-1]["train_loss"])
    assert [*is_told, "nothing was learned: in none of the 3 updates" in caplog.text] == [False, True]
