"""Observers in the background: what they may do with the trainer, and where what they log belongs."""

from __future__ import annotations

import copy
import time

import pytest

from trackside import TrainerCallback
from trackside.callbacks import events
from trackside.callbacks.bus.view import KEPT, REFUSED
from trackside.callbacks.errors import BusyError


class Background(TrainerCallback):
    """Does something with the trainer at every step, and keeps what comes of it."""

    role, background, name = "observer", True, "beside"

    def __init__(self, act, seconds=0.0):
        self.act, self.seconds, self.found = act, seconds, []

    def on_step_end(self, args, state, control, trainer=None, **kwargs):
        time.sleep(self.seconds)
        try:
            self.found.append(self.act(trainer, state))
        except BusyError as error:
            self.found.append(error)


def run(trainer_factory, act, *others, seconds=0.0, **arguments):
    callback = Background(act, seconds)
    data = trainer_factory.dataset(8)
    trainer = trainer_factory(
        callbacks=[*others, callback], eval_dataset=data, max_steps=4, logging_steps=100, **arguments
    )
    trainer.train()
    return trainer, callback.found


@pytest.mark.parametrize("method", ["evaluate", "predict", "train", "save_model", "compute_loss", "load_weights"])
def test_what_touches_the_model_is_refused_by_name_and_training_goes_on(trainer_factory, method):
    plain, _ = run(trainer_factory, lambda trainer, state: None)

    trainer, found = run(trainer_factory, lambda trainer, state: getattr(trainer, method)("x"))

    assert [type(error) for error in found] == [BusyError] * 4
    assert str(found[0]).startswith(f"the callback 'beside' at on_step_end: {method}() of the trainer is refused")
    assert "background=False" in str(found[0])
    assert (trainer_factory.weights(trainer) == trainer_factory.weights(plain)).all()


def test_all_methods_that_are_refused_exist(both_factories):
    names = {name for factory in both_factories for name in dir(factory.trainer_class)}

    assert names >= REFUSED


@pytest.mark.parametrize("name", sorted(KEPT))
def test_it_cannot_replace_the_model_or_the_state(trainer_factory, name):
    _, found = run(trainer_factory, lambda trainer, state: setattr(trainer, name, None))

    assert f"setting {name} of the trainer is refused" in str(found[0])


def test_the_trainer_that_it_gets_is_the_trainer_in_all_else(trainer_factory):
    heard = []

    def act(trainer, state):
        events.on_train_end.connect(lambda sender, **kwargs: heard.append(sender), sender=trainer)
        trainer.note = "mine"
        is_same = trainer == callbacks_trainer[0] and hash(trainer) == hash(callbacks_trainer[0])
        is_one = isinstance(trainer, trainer_factory.trainer_class)
        with pytest.raises(BusyError):
            copy.deepcopy(trainer)
        return is_one, is_same, trainer.state is state, trainer.args.max_steps

    callbacks_trainer = []

    class First(TrainerCallback):
        def on_init_end(self, args, state, control, trainer=None, **kwargs):
            callbacks_trainer.append(trainer)

    trainer, found = run(trainer_factory, act, First())

    assert found == [(True, True, True, 4)] * 4
    assert trainer.note == "mine"
    assert heard[0] is trainer


class Records(TrainerCallback):
    """A tracker, in the background or not: the records with the step at which it got each, until the end."""

    role = "observer"

    def __init__(self, background):
        self.background, self.name = background, f"records_{background}".lower()
        self.found = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "measured_at" in logs:
            self.found.append((logs["measured_at"], state.global_step, logs["epoch"]))

    def on_train_end(self, args, state, control, **kwargs):
        self.found.append("end")


@pytest.mark.parametrize("way", ["the trainer it got", "the trainer itself"])
def test_what_it_logs_belongs_to_the_step_that_it_heard_of_for_every_tracker(trainer_factory, way):
    trackers = [Records(background=True), Records(background=False)]
    own = []

    def act(trainer, state):
        (trainer if way == "the trainer it got" else own[0]).log({"measured_at": state.global_step})

    class Keeps(TrainerCallback):
        def on_train_begin(self, args, state, control, trainer=None, **kwargs):
            own.append(trainer)

    trainer, _ = run(trainer_factory, act, Keeps(), *trackers, seconds=0.02)

    records = [record for record in trainer.state.log_history if "measured_at" in record]
    expected = [(step, step, pytest.approx(step / 5)) for step in (1, 2, 3, 4)]
    assert [(record["measured_at"], record["step"], record["epoch"]) for record in records] == expected
    assert [tracker.found for tracker in trackers] == [[*expected, "end"]] * 2


def test_a_record_of_another_trainer_is_written_at_its_own_step(trainer_factory):
    other = trainer_factory(output_dir=str(trainer_factory.folder / "other"))

    run(trainer_factory, lambda trainer, state: other.log({"seen": state.global_step}))

    assert [record["step"] for record in other.state.log_history] == [0] * 4


def test_outside_of_a_run_what_it_logs_is_written_at_once(trainer_factory):
    class AfterEvaluation(Records):
        def on_evaluate(self, args, state, control, trainer=None, **kwargs):
            trainer.log({"measured_at": 0, "epoch": 0.0})

    callback = AfterEvaluation(background=True)
    trainer = trainer_factory(callbacks=[callback], eval_dataset=trainer_factory.dataset(8))
    start = time.perf_counter()

    trainer.evaluate()

    assert time.perf_counter() - start < 10  # it does not wait for itself
    assert trainer.state.log_history[-1]["measured_at"] == 0
