"""Both trainers do what the control flags ask for, once, at its step."""

from __future__ import annotations

from typing import Any

import pytest

from trackside import (
    CSVLoggerCallback,
    EarlyStoppingCallback,
    JSONLinesLoggerCallback,
    PrinterCallback,
    TrainerCallback,
)
from trackside.callbacks.errors import ArgumentError, NotPlainError, TracksideTypeError, UnknownMetricError


class Flag(TrainerCallback):
    """Sets one flag at one step."""

    def __init__(self, flag: str, step: int) -> None:
        self.flag, self.step = flag, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            setattr(control, self.flag, True)


def test_should_training_stop_ends_the_run_after_that_step_with_its_reason(trainer_factory):
    trainer = trainer_factory(callbacks=[Flag("should_training_stop", 3)])

    assert trainer.train().global_step == 3
    assert trainer.state.stop_reason == "flag asked for it at on_step_end"


def test_should_epoch_stop_goes_on_with_the_next_epoch(trainer_factory):
    trainer = trainer_factory(callbacks=[Flag("should_epoch_stop", 2)], max_steps=7)
    epochs: list[float] = []
    trainer.on("on_epoch_begin")(lambda sender, state, **kwargs: epochs.append(state.epoch))

    trainer.train()

    assert trainer.state.global_step == 7
    assert epochs == [0.0, 1.0]
    assert trainer.state.epoch == pytest.approx(2.0)  # 2 batches, then 5


def test_epochs_that_were_cut_short_are_not_made_up_for(trainer_factory):
    class TwoUpdatesEach(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            self.last = state.global_step + 2

        def on_step_end(self, args, state, control, **kwargs):
            control.should_epoch_stop = state.global_step == self.last

    steps = {"save_strategy": "steps", "eval_strategy": "steps", "eval_dataset": trainer_factory.dataset(9)}
    trainer = trainer_factory(callbacks=[TwoUpdatesEach()], num_train_epochs=3, **steps)

    assert trainer.train().global_step == 6
    assert trainer.state.epoch == 3.0
    assert trainer.state.stop_reason == "num_train_epochs=3 are over, some of them cut short"
    assert trainer_factory.checkpoints() == ["checkpoint-6"]
    assert [record["step"] for record in trainer.state.log_history if "eval_loss" in record] == [6]


@pytest.mark.parametrize(
    ("flag", "event"), [("should_log", "on_log"), ("should_evaluate", "on_evaluate"), ("should_save", "on_save")]
)
def test_a_flag_is_acted_on_once_at_its_step_and_cleared(trainer_factory, flag, event):
    trainer = trainer_factory(
        callbacks=[Flag(flag, 2)], max_steps=4, logging_strategy="no", eval_dataset=trainer_factory.dataset(9)
    )
    steps: list[int] = []
    trainer.on(event)(lambda sender, state, **kwargs: steps.append(state.global_step))

    trainer.train()

    assert [step for step in steps if step < 4] == [2]
    assert not getattr(trainer.control, flag)
    assert trainer_factory.checkpoints() == (["checkpoint-2"] if flag == "should_save" else [])


# -- what cannot be done is said before anything is -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"save_strategy": "epoch", "load_best_model_at_end": True},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
    ],
    ids=["best model", "plateau"],
)
@pytest.mark.parametrize(
    ("examples", "name", "nearest"), [(8, "eval_acuracy", "eval_accuracy"), (9, "eval_los", "eval_loss")]
)
def test_an_unknown_metric_fails_before_the_first_step(trainer_factory, accuracy, options, examples, name, nearest):
    """With compute_metrics only if one batch is all of the data."""
    trainer = trainer_factory(
        eval_strategy="epoch",
        eval_dataset=trainer_factory.dataset(examples),
        compute_metrics=accuracy if examples == 8 else None,
        metric_for_best_model=name,
        **options,
    )

    with pytest.raises(UnknownMetricError, match=rf"{name}.*is not among.*Did you mean '{nearest}'"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_compute_metrics_is_never_called_on_a_part_of_the_data(trainer_factory):
    """A class that is not in the first batch has a metric all the same."""
    sizes = []

    def count(prediction):
        sizes.append(len(prediction.label_ids))
        return {"whole": 1.0} if len(prediction.label_ids) == 9 else {}

    trainer = trainer_factory(
        max_steps=2, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, compute_metrics=count,
        eval_dataset=trainer_factory.dataset(9), load_best_model_at_end=True, metric_for_best_model="whole",
    )  # fmt: skip

    trainer.train()

    assert sizes == [9]
    assert trainer.state.best_metric == 1.0


@pytest.mark.parametrize("values", [[None, 0.5, 0.6], [float("nan"), 0.5, 0.6], [0.6, None, 0.5]])
def test_a_metric_without_a_value_is_passed_over_and_told_once(trainer_factory, caplog, monkeypatch, values):
    monkeypatch.chdir(trainer_factory.folder)
    given = iter(values)
    trainer = trainer_factory(
        eval_strategy="steps",
        eval_steps=1,
        max_steps=3,
        eval_dataset=trainer_factory.dataset(9),
        compute_metrics=lambda prediction: {"f1": next(given)},
        metric_for_best_model="f1",
        greater_is_better=True,
        save_strategy="best",
        load_best_model_at_end=True,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0},
        callbacks=[
            EarlyStoppingCallback(3),
            CSVLoggerCallback("out.csv"),
            JSONLinesLoggerCallback("out.jsonl"),
            PrinterCallback,
        ],
    )

    trainer.train()

    assert trainer.state.global_step == 3
    assert trainer.state.best_metric == 0.6
    assert sum("eval_f1 is " in text and "is passed over" in text for text in caplog.messages) == 1
    assert not any(item.failures for item in trainer.callback_report.values())


def test_a_metric_that_only_some_evaluations_have_is_not_refused(trainer_factory):
    given = iter([{"recall": 0.5}, {}, {"recall": 0.7}])
    trainer = trainer_factory(
        eval_strategy="steps",
        eval_steps=1,
        max_steps=3,
        eval_dataset=trainer_factory.dataset(9),
        compute_metrics=lambda prediction: next(given),
        metric_for_best_model="recall",
        save_strategy="best",
        callbacks=[EarlyStoppingCallback(1)],
    )

    trainer.train()

    assert trainer.state.best_global_step == 3


def test_metrics_are_never_computed_on_a_part_of_the_data(trainer_factory):
    seen = []

    def count(prediction):
        seen.append(len(prediction.label_ids))
        return {f"recall_{label}": 1.0 for label in set(prediction.label_ids.tolist())}

    data = trainer_factory.dataset(40)
    trainer = trainer_factory(
        eval_strategy="steps",
        eval_steps=1,
        max_steps=2,
        eval_dataset=data,
        compute_metrics=count,
        metric_for_best_model="recall_2",
        save_strategy="best",
        per_device_eval_batch_size=1,
    )

    trainer.train()

    assert seen == [40, 40]


def test_training_without_a_dataset_says_so(trainer_factory):
    with pytest.raises(ArgumentError, match="train_dataset"):
        trainer_factory(train_dataset=None).train()


def test_evaluation_in_training_without_a_dataset_fails_when_the_trainer_is_built(trainer_factory):
    with pytest.raises(ArgumentError, match="eval_strategy='epoch' is not allowed: 'no', since"):
        trainer_factory(eval_strategy="epoch")


def test_a_trainer_without_a_model_says_so(trainer_factory):
    with pytest.raises(TracksideTypeError, match="Trainer needs model"):
        trainer_factory(model=None)


def test_without_an_optimizer_the_method_that_makes_none_is_named(trainer_factory):
    class Nothing(trainer_factory.trainer_class):
        def create_optimizer_and_scheduler(self, num_training_steps):
            pass

    with pytest.raises(ValueError, match=r"create_optimizer_and_scheduler\(\) made no optimizer"):
        trainer_factory(Nothing).train()


def test_train_names_an_unknown_argument(trainer_factory):
    with pytest.raises(TracksideTypeError, match="Did you mean 'resume_from_checkpoint'"):
        trainer_factory().train(resume_from_checkpont=True)


def test_a_dataset_without_length_needs_max_steps_and_is_repeated_until_then(trainer_factory):
    stream: Any = trainer_factory.stream(20)

    with pytest.raises(ArgumentError, match="max_steps=-1"):
        trainer_factory(train_dataset=stream).train()
    assert trainer_factory(train_dataset=stream, max_steps=7, per_device_train_batch_size=4).train().global_step == 7


def test_label_smoothing_beside_a_loss_of_ones_own_is_refused(trainer_factory):
    with pytest.raises(ArgumentError, match=r"label_smoothing_factor=0\.1 is not allowed: 0 beside loss_fn"):
        trainer_factory(label_smoothing_factor=0.1)


def test_a_value_that_a_callback_returns_and_that_steers_nothing_is_told_once(trainer_factory, caplog):
    class Returns(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            return "stop"

    class Expression(TrainerCallback):
        on_step_end = lambda self, args, state, control, **kwargs: 3  # noqa: E731  (a lambda returns something always)

    trainer = trainer_factory(callbacks=[Returns(), Expression()], max_steps=3)

    trainer.train()

    assert caplog.text.count("which has no effect") == caplog.text.count("Returns.on_step_end") == 1
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("state", [None, [1], "text"])
def test_a_state_of_a_callback_that_is_not_a_dict_is_named_before_the_first_update(trainer_factory, state):
    class Stateful(TrainerCallback):
        def state_dict(self):
            return state

    trainer = trainer_factory(callbacks=[Stateful()], save_strategy="steps")

    with pytest.raises(NotPlainError, match=rf"state_dict\(\) is {type(state).__name__}; it is a dict"):
        trainer.train()

    assert trainer.state.global_step == 0


def test_a_callback_may_have_slots(trainer_factory):
    class Slotted:
        __slots__ = ("steps",)

        def on_step_end(self, args, state, control, **kwargs):
            self.steps = state.global_step

    callback = Slotted()

    trainer_factory(callbacks=[callback], max_steps=3).train()

    assert callback.steps == 3
