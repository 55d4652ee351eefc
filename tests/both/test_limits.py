"""Few batches: overfit_batches, limit_train_batches and limit_eval_batches, on both trainers."""

from __future__ import annotations

import numpy as np
import pytest

from trackside import PrinterCallback, ProgressCallback
from trackside.callbacks.builtin import progress
from trackside.callbacks.errors import ArgumentError

BY_STEP = {"logging_steps": 1, "learning_rate": 0.0}
"""The losses of a model that does not change tell which batches are the same."""


def losses(trainer):
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


@pytest.mark.parametrize("source", ["dataset", "stream", "in_order"])
def test_overfit_batches_trains_on_the_same_batches_in_every_epoch(trainer_factory, source):
    data = trainer_factory.stream(40) if source == "stream" else trainer_factory.dataset(40)
    cls = trainer_factory.in_order() if source == "in_order" else None
    trainer = trainer_factory(cls, train_dataset=data, overfit_batches=2, max_steps=6, **BY_STEP)

    trainer.train()

    one, two, *others = losses(trainer)
    assert one != two
    assert others == [one, two, one, two]
    if source != "stream":  # whose epoch is as long as the run, for the count
        assert trainer.state.epoch == 3.0


def test_limit_train_batches_ends_each_epoch_early_and_the_next_has_others(trainer_factory):
    trainer = trainer_factory(
        limit_train_batches=3, gradient_accumulation_steps=2, num_train_epochs=2, eval_strategy="epoch",
        eval_dataset=trainer_factory.dataset(8), **BY_STEP,
    )  # fmt: skip

    output = trainer.train()

    assert output.global_step == 4
    assert [record["epoch"] for record in trainer.state.log_history if "eval_loss" in record] == [1.0, 2.0]
    assert len(set(losses(trainer))) == 4
    assert output.metrics["train_samples_per_second"] > 0


def test_a_limited_run_is_resumed_exactly(trainer_factory):
    limits = {"overfit_batches": 3, "learning_rate": 0.01, "save_strategy": "steps", "save_steps": 4, "max_steps": 9}
    whole = trainer_factory(**limits)
    whole.train()

    resumed = trainer_factory(**limits)
    resumed.train(resume_from_checkpoint=str(trainer_factory.folder / "out" / "checkpoint-4"))

    np.testing.assert_array_equal(trainer_factory.weights(resumed), trainer_factory.weights(whole))


def test_limit_eval_batches_evaluates_on_the_first_ones_and_predicts_on_all(trainer_factory, accuracy):
    data = trainer_factory.dataset(40)
    trainer = trainer_factory(limit_eval_batches=2, eval_dataset=data, compute_metrics=accuracy)
    whole = trainer_factory(compute_metrics=accuracy)

    metrics = trainer.evaluate()

    predicted = whole.predict(data)
    correct = (predicted.predictions.argmax(-1) == predicted.label_ids)[:16]
    assert metrics["eval_accuracy"] == pytest.approx(correct.mean())
    assert metrics["eval_loss"] != pytest.approx(predicted.metrics["test_loss"])
    assert len(trainer.predict(data).predictions) == 40


@pytest.mark.parametrize("several", [False, True])
def test_the_bar_of_an_evaluation_has_as_many_batches_as_it_will_take(trainer_factory, monkeypatch, several):
    bars, make = [], progress.make_bar
    monkeypatch.setattr(progress, "make_bar", lambda *args, **kwargs: bars.append(make(*args, **kwargs)) or bars[-1])
    data, limits = trainer_factory.dataset(40), {"limit_train_batches": 3, "limit_eval_batches": 2}
    sets = {"one": data, "two": trainer_factory.dataset(8)} if several else data
    trainer = trainer_factory(eval_dataset=sets, callbacks=[ProgressCallback()], num_train_epochs=1, **limits)

    trainer.train()
    trainer.evaluate()
    trainer.predict(data)

    expected = [3, 2, 1, 5] if several else [3, 2, 5]
    assert [(bar.n, bar.total) for bar in bars] == [(count, count) for count in expected]


def test_limits_are_told_in_the_header(trainer_factory, capsys):
    trainer = trainer_factory(overfit_batches=1, limit_eval_batches=2, num_train_epochs=1)
    trainer.add_callback(PrinterCallback)

    trainer.train()

    _, data, output, _ = capsys.readouterr().out.splitlines()[:4]
    assert data == (
        "data       40 examples in batches of 8, the same 1 batch in each epoch (overfit_batches): 1 update an epoch, "
        "1 in all"
    )
    assert output.endswith("never evaluates, an evaluation has 2 batches (limit_eval_batches)")


@pytest.mark.parametrize("name", ["overfit_batches", "limit_train_batches", "limit_eval_batches"])
def test_a_limit_is_at_least_one_batch(trainer_factory, name):
    with pytest.raises(ArgumentError, match=f"{name}=0 is not allowed: .*at least 1"):
        trainer_factory(**{name: 0})


def test_two_limits_of_training_contradict_each_other(trainer_factory):
    with pytest.raises(ArgumentError, match="overfit_batches=2 is not allowed: overfit_batches or limit_train_batches"):
        trainer_factory(overfit_batches=2, limit_train_batches=3)
