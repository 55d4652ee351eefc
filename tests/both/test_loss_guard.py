"""The loss guard: bad batches leave a run as good as without them, on both trainers."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from support.arrays import classified

from trackside import JournalCallback, LossGuardCallback, TrainerCallback
from trackside.callbacks.builtin.journal import read_journal

BAD = 333
"""An example that comes at about the middle of the first epoch."""

OPTIONS = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "learning_rate": 0.2,
    "lr_scheduler_type": "linear",
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "logging_steps": 10,
}


def poisoned(factory, by, examples=800):
    features, labels = classified(examples)
    if by != 1.0:
        features[BAD], labels[BAD] = features[BAD] * by, (labels[BAD] + 1) % 3
    return factory.from_arrays(features, labels)


def trained(factory, by=1.0, *callbacks, folder="out", **options):
    trainer = factory(
        train_dataset=poisoned(factory, by),
        eval_dataset=factory.dataset(200, seed=1),
        callbacks=list(callbacks),
        output_dir=str(factory.folder / folder),
        **{**OPTIONS, **options},
    )
    trainer.train()
    return trainer


def final_loss(trainer):
    return trainer.evaluate()["eval_loss"]


@pytest.mark.parametrize("by", [math.inf, 1000.0], ids=["inf", "spike"])
@pytest.mark.parametrize(
    "options",
    [{}, {"non_finite": "roll_back", "spike": "roll_back"}, {"rate_factor": 0.98}],
    ids=["skip", "roll back", "lower"],
)
def test_a_run_with_a_bad_batch_ends_as_the_clean_one(trainer_factory, by, options):
    saves = {"save_strategy": "steps", "save_steps": 5}
    clean = final_loss(trained(trainer_factory, folder="clean"))
    guard = LossGuardCallback(min_updates=5, **options)

    trainer = trained(trainer_factory, by, guard, **saves)

    assert len(guard.bad_steps) == 1
    assert trainer.state.global_step == 100
    assert final_loss(trainer) == pytest.approx(clean, rel=0.01)
    assert all(math.isfinite(record["loss"]) for record in trainer.state.log_history if "loss" in record)
    unguarded = final_loss(trained(trainer_factory, by, folder="unguarded"))
    assert not abs(unguarded / clean - 1) < 0.01


class Spy(TrainerCallback):
    """Notes what an update leaves."""

    def __init__(self):
        self.skipped, self.rates, self.loaded, self.losses = [], [], [], []

    def on_pre_optimizer_step(self, args, state, control, *, loss, **kwargs):
        self.losses.append(loss())

    def on_optimizer_step(self, args, state, control, *, skipped, lr_scheduler=None, **kwargs):
        if skipped:
            self.skipped.append(state.global_step + 1)
        self.rates.append(lr_scheduler.get_last_lr()[0])

    def on_load(self, args, state, control, *, checkpoint, **kwargs):
        self.loaded.append((state.global_step, checkpoint.rsplit("-", 1)[1]))


class AtSteps(TrainerCallback):
    """Decides something when the gradients of certain updates are complete."""

    def __init__(self, *steps, decide):
        self.steps, self.decide = steps, decide

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 in self.steps:
            self.decide(control)


def skip(control):
    control.should_skip_update = True


def go_back(control):
    control.request("should_skip_update", "a bad one")
    control.request("should_roll_back", "a bad one")


def halve(control):
    control.scale_rates(0.5, "a bad one")


def weights_of(trainer):
    model = trainer.model
    values = model.parameters() if hasattr(model, "parameters") else model.trainable_variables
    return [np.array(value.detach() if hasattr(value, "detach") else value) for value in values]


def test_a_skipped_update_changes_neither_weights_nor_schedule_nor_the_records(trainer_factory):
    spy = Spy()
    options = {"max_steps": 6, "logging_steps": 1, "lr_scheduler_type": "linear", "learning_rate": 0.6}
    trainer = trainer_factory(callbacks=[AtSteps(2, 3, decide=skip), spy], **options)

    result = trainer.train()

    losses = {record["step"]: record["loss"] for record in trainer.state.log_history if "loss" in record}
    assert spy.skipped == [2, 3]
    assert spy.losses[1] != spy.losses[0]
    assert spy.rates == pytest.approx([0.6, 0.5, 0.5, 0.5, 0.4, 0.3])
    assert sorted(losses) == [1, 4, 5, 6]
    assert [losses[step] for step in sorted(losses)] == pytest.approx([spy.losses[step - 1] for step in sorted(losses)])
    assert result.training_loss == pytest.approx(np.mean([spy.losses[step - 1] for step in (1, 4, 5, 6)]))


def test_a_way_back_restores_weights_and_rates_and_the_run_goes_on(trainer_factory):
    spy, seen = Spy(), {}

    class Weights(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen[state.global_step] = weights_of(trainer)

    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "linear"}
    trainer = trainer_factory(
        callbacks=[AtSteps(5, decide=go_back), spy, Weights(), JournalCallback()], learning_rate=0.8, **options
    )

    result = trainer.train()

    assert (result.global_step, trainer.state.epoch) == (8, 1.6)
    assert spy.loaded == [(5, "3")]
    assert all(np.array_equal(a, b) for a, b in zip(seen[5], seen[3], strict=True))
    assert spy.rates == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.5, 0.4, 0.3])
    entries = list(read_journal(trainer_factory.folder / "out/journal.jsonl"))
    (decided,) = [e["decisions"] for e in entries if e["event"] == "on_pre_optimizer_step" and "decisions" in e]
    assert decided == {"should_skip_update": "a bad one", "should_roll_back": "a bad one"}
    assert [e["because"] for e in entries if e["event"] == "on_load"] == ["a bad one"]


def test_without_a_checkpoint_the_way_back_is_left_out_and_said_once(trainer_factory, caplog):
    trainer = trainer_factory(callbacks=[AtSteps(2, 3, decide=go_back)], max_steps=4)

    with caplog.at_level(logging.WARNING):
        assert trainer.train().global_step == 4

    assert [record.message for record in caplog.records].count(
        "a checkpoint to go back to does not exist yet: the weights stay as they are"
    ) == 1


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "reduce_lr_on_plateau"])
def test_lower_rates_last_over_a_way_back_and_a_resume(trainer_factory, kind):
    options = {"learning_rate": 0.08, "lr_scheduler_type": kind, "save_strategy": "steps", "save_steps": 2}
    options |= {"eval_strategy": "steps", "eval_steps": 100, "eval_dataset": trainer_factory.dataset(8)}
    whole, clean, resumed = Spy(), Spy(), Spy()

    def deciders():
        return [AtSteps(3, decide=halve), AtSteps(5, decide=lambda control: setattr(control, "should_roll_back", True))]

    trainer_factory(callbacks=[clean], output_dir=str(trainer_factory.folder / "a"), max_steps=8, **options).train()
    first = trainer_factory(callbacks=[*deciders(), whole], max_steps=8, **options)
    first.train()
    second = trainer_factory(callbacks=[*deciders(), resumed], max_steps=8, **options)
    second.train(resume_from_checkpoint=str(trainer_factory.folder / "out/checkpoint-4"))

    # three updates at the first rate, two at half of it, and from the checkpoint of step 4 on
    assert whole.rates == pytest.approx(
        [*clean.rates[:3], clean.rates[3] / 2, clean.rates[4] / 2, *(rate / 2 for rate in clean.rates[4:7])]
    )
    assert resumed.rates == whole.rates[4:]
    assert all(np.array_equal(a, b) for a, b in zip(weights_of(first), weights_of(second), strict=True))
