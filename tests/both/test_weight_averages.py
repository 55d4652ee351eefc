"""EMA and SWA: averages of the weights, evaluated, saved, resumed and kept, on both trainers."""

from __future__ import annotations

import numpy as np
import pytest
from support.callback_examples import Replaces

from trackside import EMACallback, SWACallback, TrainerCallback
from trackside.callbacks.errors import ArgumentError, CallbackError

RUN = {"learning_rate": 0.05, "optim": "sgd", "lr_scheduler_type": "constant", "max_steps": 10, "max_grad_norm": 0.0}
SAVES = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}


class Trace(TrainerCallback):
    """Notes the weights after each update and after each epoch, as they are trained."""

    def __init__(self, factory):
        self.factory, self.steps, self.epochs = factory, [], []

    def on_step_end(self, args, state, control, trainer=None, **kwargs):
        self.steps.append(self.factory.weights(trainer).astype(np.float64))

    def on_epoch_end(self, args, state, control, trainer=None, **kwargs):
        self.epochs.append(self.factory.weights(trainer).astype(np.float64))


def averaged(factory, first, steps, decay):
    """Return the exponential moving average of the weights of each step."""
    for count, weights in enumerate(steps):
        share = 1 - min(decay, (1 + count) / (10 + count))
        first = first + share * (weights - first)
    return first


def test_the_average_is_evaluated_saved_and_kept_and_training_goes_on_beside_it(trainer_factory):
    data, plain, trace = trainer_factory.dataset(40), Trace(trainer_factory), Trace(trainer_factory)
    alone = trainer_factory(callbacks=[plain], eval_dataset=data, **RUN)
    alone.train()
    trainer = trainer_factory(callbacks=[EMACallback(0.9), trace], eval_dataset=data, **RUN, **SAVES)
    first = trainer_factory.weights(trainer)

    trainer.train()

    np.testing.assert_array_equal(trace.steps, plain.steps)  # also after an evaluation and a save
    half, whole = (averaged(trainer_factory, first, trace.steps[:count], 0.9) for count in (5, 10))
    np.testing.assert_allclose(trainer_factory.weights(trainer), whole, rtol=1e-4, atol=1e-6)
    evaluated = [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]
    assert trainer.evaluate()["eval_loss"] == evaluated[-1] != alone.evaluate()["eval_loss"]
    trainer.load_weights(trainer_factory.folder / "out" / "checkpoint-5")
    np.testing.assert_allclose(trainer_factory.weights(trainer), half, rtol=1e-4, atol=1e-6)
    assert trainer.evaluate()["eval_loss"] == evaluated[0]


@pytest.mark.parametrize("make", [lambda: EMACallback(0.9), lambda: SWACallback(0.2)])
def test_a_run_with_an_average_is_resumed_exactly(trainer_factory, make):
    data = trainer_factory.dataset(40)
    options = {**RUN, **SAVES, "optim": "adamw_torch", "save_steps": 6, "eval_dataset": data}
    whole = trainer_factory(callbacks=[make()], **options)
    whole.train()

    trace = Trace(trainer_factory)
    resumed = trainer_factory(callbacks=[make(), trace], **options)
    resumed.train(resume_from_checkpoint=str(trainer_factory.folder / "out" / "checkpoint-6"))

    assert len(trace.steps) == 4
    np.testing.assert_array_equal(trainer_factory.weights(resumed), trainer_factory.weights(whole))


def test_the_best_model_is_that_of_the_average(trainer_factory):
    options = {**RUN, **SAVES, "learning_rate": 3.0, "load_best_model_at_end": True}
    trainer = trainer_factory(callbacks=[EMACallback(0.5)], eval_dataset=trainer_factory.dataset(40), **options)

    trainer.train()

    assert trainer.evaluate()["eval_loss"] == trainer.state.best_metric
    trainer.save_model(str(trainer_factory.folder / "final"))
    again = trainer_factory(eval_dataset=trainer_factory.dataset(40))
    again.load_weights(trainer_factory.folder / "final")
    assert again.evaluate()["eval_loss"] == trainer.state.best_metric


def test_without_the_callback_a_resumed_run_goes_on_with_the_weights_that_were_trained(trainer_factory, caplog):
    trace = Trace(trainer_factory)
    trainer_factory(callbacks=[EMACallback(0.9), trace], **RUN, save_strategy="steps", save_steps=5).train()

    rest = Trace(trainer_factory)
    resumed = trainer_factory(callbacks=[rest], **RUN)
    resumed.train(resume_from_checkpoint=str(trainer_factory.folder / "out" / "checkpoint-5"))

    np.testing.assert_array_equal(rest.steps, trace.steps[5:])
    assert "has an average of the weights, and no callback averages them now" in caplog.text


def test_swa_is_the_mean_of_the_last_epochs(trainer_factory):
    trace = Trace(trainer_factory)
    trainer = trainer_factory(callbacks=[SWACallback(0.5), trace], **{**RUN, "max_steps": -1}, num_train_epochs=4)

    trainer.train()

    expected = np.mean(trace.epochs[1:], axis=0)
    np.testing.assert_allclose(trainer_factory.weights(trainer), expected, rtol=1e-4, atol=1e-6)


def test_two_averages_and_options_out_of_range_are_errors(trainer_factory):
    with pytest.raises(CallbackError, match="EMACallback and SWACallback both average the weights"):
        trainer_factory(callbacks=[EMACallback(), SWACallback()], **RUN).train()
    for make, message in (
        (lambda: EMACallback(1.0), r"decay=1.0 is not allowed: from 0 to less than 1"),
        (lambda: EMACallback(update_every=0), r"update_every=0 is not allowed: at least 1"),
        (lambda: SWACallback(1.5), r"start=1.5 is not allowed: a share from 0 to 1"),
        (lambda: SWACallback(update_every=0), r"update_every=0 is not allowed: at least 1, or None"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make()


def test_an_average_goes_with_its_callback(trainer_factory, caplog):
    plain = trainer_factory(**RUN)
    plain.train()
    trainer = trainer_factory(callbacks=[EMACallback(0.9), Replaces(5, "ema")], **RUN)

    trainer.train()

    np.testing.assert_array_equal(trainer_factory.weights(trainer), trainer_factory.weights(plain))
    assert caplog.text.count("EMACallback was removed: the average of the weights is dropped") == 1


def test_an_average_that_is_attached_within_a_run_begins_there(trainer_factory):
    trace = Trace(trainer_factory)
    trainer = trainer_factory(callbacks=[trace, Replaces(5, added=EMACallback(0.9))], **RUN)

    trainer.train()

    expected = averaged(trainer_factory, trace.steps[5], trace.steps[5:], 0.9)
    np.testing.assert_allclose(trainer_factory.weights(trainer), expected, rtol=1e-4, atol=1e-6)
