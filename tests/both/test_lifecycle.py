"""The life of a trainer: made, evaluated, trained twice, within another, in a thread, and gone."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

from trackside import TrainerCallback
from trackside.callbacks.errors import BusyError


def test_evaluating_before_training_training_twice_and_predicting_after(trainer_factory):
    trainer = trainer_factory(eval_dataset=trainer_factory.dataset(8), max_steps=2, save_strategy="steps", save_steps=1)

    trainer.evaluate()
    outputs = [trainer.train(), trainer.train()]

    assert [output.global_step for output in outputs] == [2, 2]
    assert trainer.predict(trainer_factory.dataset(8)).predictions.shape == (8, 3)


def test_model_init_gives_the_same_run_each_time(trainer_factory):
    trainer = trainer_factory(model_init=lambda: trainer_factory.model(0.3), learning_rate=0.01)

    trainer.train()
    first = trainer_factory.weights(trainer)
    trainer.train()

    np.testing.assert_array_equal(first, trainer_factory.weights(trainer))


def test_a_trainer_trains_within_a_callback_of_another(trainer_factory):
    class Nested(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            trainer_factory(output_dir=str(trainer_factory.folder / "inner"), max_steps=1).train()

    assert trainer_factory(callbacks=[Nested()], max_steps=3).train().global_step == 3


class Calls(TrainerCallback):
    """Calls a method of the trainer at one event, once, here or in another thread; keeps what it raises."""

    def __init__(self, event, method, *args, in_thread=False):
        self.method, self.args, self.in_thread, self.errors = method, args, in_thread, []
        setattr(self, event, self._once)

    def _once(self, args, state, control, trainer=None, **kwargs):
        if self.errors:
            return
        self.errors.append(None)
        if not self.in_thread:
            self._call(trainer)
            return
        thread = threading.Thread(target=self._call, args=[trainer])
        thread.start()
        thread.join(timeout=60)

    def _call(self, trainer):
        try:
            getattr(trainer, self.method)(*self.args)
        except BusyError as error:
            self.errors[0] = str(error)


@pytest.mark.parametrize("event", ["on_epoch_end", "on_step_end", "on_evaluate", "on_prediction_step", "on_train_end"])
@pytest.mark.parametrize("method", ["train", "hyperparameter_search"])
def test_a_run_cannot_begin_within_one_of_the_same_trainer(trainer_factory, event, method):
    callback = Calls(event, method)
    trainer = trainer_factory(
        callbacks=[callback], eval_dataset=trainer_factory.dataset(8), max_steps=4, eval_strategy="epoch"
    )

    assert trainer.train().global_step == 4
    within = "evaluate()" if event == "on_prediction_step" else "train()"
    assert callback.errors[0].startswith(f"{method}() was called within")
    assert within in callback.errors[0] or "prediction_loop()" in callback.errors[0]


@pytest.mark.parametrize("event", ["on_evaluate_begin", "on_prediction_step", "on_evaluate"])
def test_a_run_cannot_begin_within_an_evaluation_outside_of_training(trainer_factory, event):
    callback = Calls(event, "train")
    trainer = trainer_factory(callbacks=[callback], eval_dataset=trainer_factory.dataset(8), max_steps=2)

    trainer.evaluate()

    assert "train() was called within" in callback.errors[0]
    assert trainer.train().global_step == 2


@pytest.mark.parametrize("method", ["evaluate", "predict", "train"])
def test_nothing_touches_the_model_from_another_thread_during_a_run(trainer_factory, method):
    data = trainer_factory.dataset(8)
    callback = Calls("on_step_end", method, *([data] if method != "train" else []), in_thread=True)
    trainer = trainer_factory(callbacks=[callback], eval_dataset=data, max_steps=3)

    assert trainer.train().global_step == 3
    assert callback.errors[0].startswith(f"{method}() was called while another thread is in train()")
    assert "control.should_evaluate" in callback.errors[0]


def test_train_runs_in_a_thread_that_is_not_the_main_one(trainer_factory):
    steps: list[int] = []
    thread = threading.Thread(target=lambda: steps.append(trainer_factory(max_steps=2).train().global_step))

    thread.start()
    thread.join(timeout=120)

    assert steps == [2]


def test_a_trainer_without_references_is_collected(trainer_factory):
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(8), max_steps=2, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1,
    )  # fmt: skip
    trainer.train()
    references = [weakref.ref(trainer), weakref.ref(trainer.model), weakref.ref(trainer.optimizer)]

    del trainer
    gc.collect()

    assert [reference() for reference in references] == [None, None, None]


def test_train_leaves_a_trainer_with_the_attributes_that_it_had(trainer_factory):
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(9),
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
    )
    before = set(vars(trainer))

    trainer.train()
    trainer.predict(trainer.train_dataset)

    assert set(vars(trainer)) == before
    assert len(before) <= 25


class Steps(TrainerCallback):
    """Counts the steps that it hears of."""

    def __init__(self):
        self.heard = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.heard += 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
def test_a_copy_of_a_trainer_trains_by_itself(trainer_factory, copied):
    trainer = trainer_factory(callbacks=[Steps], max_steps=3)
    trainer.on("on_step_end")(lambda *args, **kwargs: None)

    again = copied(trainer)
    again.train()

    assert (again.state.global_step, trainer.state.global_step) == (3, 0)
    assert (again.callback_report["steps"].callback.heard, trainer.callback_report["steps"].callback.heard) == (3, 0)
    assert again.callback_report.keys() == trainer.callback_report.keys()
    assert not np.array_equal(trainer_factory.weights(again), trainer_factory.weights(trainer))
