"""Both trainers send the same events, obey the same flags, and leave the same records."""

from __future__ import annotations

from typing import Any

import pytest
from drawing import Schedule, drawn_events

from trackside import EarlyStoppingCallback, TrainerCallback, events
from trackside.callbacks.errors import ArgumentError, UnknownMetricError


def pairs() -> Any:
    return events.EVENTS.items()


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_run_sends_the_events_that_the_docstring_draws(trainer_factory, accumulation):
    windows = [accumulation] * (5 // accumulation) + [5 % accumulation] * (5 % accumulation > 0)
    total = 2 * len(windows)
    seen: list[str] = []
    connected = [(signal, (lambda trainer, name=name, **_: seen.append(name))) for name, signal in pairs()]
    for signal, listener in connected:
        signal.connect(listener)

    trainer_factory(
        num_train_epochs=2,
        gradient_accumulation_steps=accumulation,
        logging_steps=2,
        save_strategy="steps",
        save_steps=3,
        eval_strategy="epoch",
        eval_dataset=trainer_factory.dataset(10),
        eval_on_start=True,
    ).train()

    for signal, listener in connected:
        signal.disconnect(listener)
    assert seen == drawn_events(
        Schedule(
            windows=windows,
            epochs=2,
            evaluation_batches=2,
            logs_at=set(range(2, total + 1, 2)),
            saves_at={*range(3, total + 1, 3), total},
            evaluates_at_epoch_end=True,
            evaluates_on_start=True,
        )
    )


class Flag(TrainerCallback):
    """Sets one flag at one step."""

    def __init__(self, flag: str, step: int) -> None:
        self.flag, self.step = flag, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            setattr(control, self.flag, True)


def test_should_training_stop_ends_the_run_after_that_step(trainer_factory):
    trainer = trainer_factory(callbacks=[Flag("should_training_stop", 3)])

    assert trainer.train().global_step == 3
    assert trainer.state.stop_reason == "flag asked for it at on_step_end"


def test_should_epoch_stop_goes_on_with_the_next_epoch(trainer_factory):
    trainer = trainer_factory(callbacks=[Flag("should_epoch_stop", 2)], max_steps=7)

    trainer.train()

    assert trainer.state.global_step == 7
    assert trainer.state.epoch == pytest.approx(2.0)  # 2 batches, then 5


@pytest.mark.parametrize(("flag", "event"), [("should_log", "on_log"), ("should_evaluate", "on_evaluate")])
def test_a_flag_is_acted_on_once_at_its_step(trainer_factory, flag, event):
    trainer = trainer_factory(
        callbacks=[Flag(flag, 2)], max_steps=4, logging_strategy="no", eval_dataset=trainer_factory.dataset(9)
    )
    steps: list[int] = []
    trainer.on(event)(lambda sender, state, **kwargs: steps.append(state.global_step))

    trainer.train()

    assert [step for step in steps if step < 4] == [2]


def test_should_save_leaves_a_checkpoint(trainer_factory):
    trainer = trainer_factory(callbacks=[Flag("should_save", 2)], max_steps=4)

    trainer.train()

    assert [path.name for path in (trainer_factory.folder / "out").iterdir()] == ["checkpoint-2"]


def test_records_have_the_same_names_and_steps(both_factories, accuracy):
    histories = []
    for factory in both_factories:
        trainer = factory(
            num_train_epochs=2,
            logging_steps=2,
            eval_strategy="epoch",
            eval_dataset=factory.dataset(9),
            compute_metrics=accuracy,
        )
        trainer.train()
        histories.append([(sorted(record), record["step"], record["epoch"]) for record in trainer.state.log_history])

    assert histories[0] == histories[1]
    assert histories[0][0][0] == ["epoch", "grad_norm", "learning_rate", "loss", "step"]


def test_the_loss_of_a_record_is_the_mean_since_the_last_one(trainer_factory):
    every, second = trainer_factory(logging_steps=1), trainer_factory(logging_steps=2)

    every.train()
    second.train()

    losses = [record["loss"] for record in every.state.log_history if "loss" in record]
    means = [record["loss"] for record in second.state.log_history if "loss" in record]
    assert means == pytest.approx([(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=False)])


def test_an_observer_that_fails_changes_no_weight_and_is_reported_once(trainer_factory, caplog):
    class Fails(TrainerCallback):
        role = "observer"

        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("boom")

        on_pre_optimizer_step = on_substep_end = on_log = on_step_end

    quiet = trainer_factory(gradient_accumulation_steps=2, max_steps=6)
    watched = trainer_factory(gradient_accumulation_steps=2, max_steps=6, callbacks=[Fails()])

    quiet.train()
    watched.train()

    assert (trainer_factory.weights(quiet) == trainer_factory.weights(watched)).all()
    assert watched.callback_report["fails"].detached_after == 3
    assert sum("boom" in record.message for record in caplog.records) == 1


def test_a_failing_control_callback_ends_the_run_and_on_train_end_comes(trainer_factory):
    seen: list[str] = []

    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("boom")

        def on_train_end(self, args, state, control, **kwargs):
            seen.append("on_train_end")

    with pytest.raises(RuntimeError, match="boom"):
        trainer_factory(callbacks=[Fails()]).train()
    assert seen == ["on_train_end"]


def test_early_stopping_ends_a_run_that_no_longer_improves(trainer_factory):
    trainer = trainer_factory(
        learning_rate=0.0,
        num_train_epochs=20,
        eval_strategy="epoch",
        eval_dataset=trainer_factory.dataset(9),
        metric_for_best_model="loss",
        callbacks=[EarlyStoppingCallback(2)],
    )

    trainer.train()

    assert trainer.state.epoch == 3
    assert "eval_loss" in trainer.state.stop_reason


def test_an_unknown_metric_fails_before_the_first_step(trainer_factory, accuracy):
    trainer = trainer_factory(
        eval_strategy="epoch",
        save_strategy="epoch",
        eval_dataset=trainer_factory.dataset(9),
        compute_metrics=accuracy,
        load_best_model_at_end=True,
        metric_for_best_model="acuracy",
    )

    with pytest.raises(UnknownMetricError, match="Did you mean"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_training_without_a_dataset_says_so(trainer_factory):
    with pytest.raises(ArgumentError, match="train_dataset"):
        trainer_factory(train_dataset=None).train()
