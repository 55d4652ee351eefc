"""What training changes in objects of the user, and no checkpoint holds, is told once, by name, on both trainers."""

from __future__ import annotations

import time

import numpy as np
import pytest

from trackside import TrainerCallback

SAVES = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
TOLD = "training has changed what no checkpoint holds"


def told_of(caplog):
    return [record.message for record in caplog.records if TOLD in record.message]


def trainer_class(factory, change):
    """Return a class of trainers with state of their own, which ``change`` gets at each log record."""

    class Own(factory.trainer_class):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.temperature, self._seen, self.share = 1.0, 0, np.float32(0.5)
            self.table, self.history, self.begun = np.zeros(4), [], 0.0
            self.teacher = factory.model()

        def log(self, logs, *args, **kwargs):
            change(self)
            super().log(logs, *args, **kwargs)

    return Own


def anneal(trainer):
    trainer.temperature *= 0.9


def count(trainer):
    trainer._seen += 1


def halve(trainer):
    trainer.share = trainer.share / 2


def fill(trainer):
    trainer.table[0] += 1


def teach(trainer):
    if hasattr(trainer.teacher, "get_weights"):
        trainer.teacher.set_weights([0.9 * weight for weight in trainer.teacher.get_weights()])
    else:
        for parameter in trainer.teacher.parameters():
            parameter.data.mul_(0.9)
            parameter.grad = None


def record(trainer):
    trainer.history.append(1)
    trainer.begun = time.time()


@pytest.mark.parametrize(
    ("change", "name"),
    [(anneal, "temperature"), (count, "_seen"), (halve, "share"), (fill, "table"), (teach, "teacher"), (record, None)],
)
def test_state_of_a_trainer_is_told(trainer_factory, caplog, change, name):
    trainer = trainer_factory(trainer_class(trainer_factory, change), logging_steps=1, **SAVES)

    trainer.train()

    told = told_of(caplog)
    assert len(told) == (name is not None)
    assert f"may go on differently: trainer.{name}. Keep it" in "".join(told) or name is None


class Counts(TrainerCallback):
    """Does something at each third update."""

    def __init__(self):
        self.updates = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.updates += 1


class Keeps(Counts):
    def state_dict(self):
        return {"updates": self.updates}


class Watches(Counts):
    role = "observer"


@pytest.mark.parametrize(("cls", "is_told"), [(Counts, True), (Keeps, False), (Watches, False)])
def test_a_control_callback_without_a_state_is_told(trainer_factory, caplog, cls, is_told):
    trainer_factory(callbacks=[cls()], **SAVES).train()

    assert len(told_of(caplog)) == is_told
    assert not is_told or "differently: callbacks.counts.updates. Keep" in told_of(caplog)[0]


def test_an_attribute_that_was_added_to_the_state_is_told(trainer_factory, caplog):
    class Adds(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            state.mine = getattr(state, "mine", 0) + 1

    trainer_factory(callbacks=[Adds()], **SAVES).train()

    assert "may go on differently: state.mine. Keep it" in "".join(told_of(caplog))


def test_a_plain_run_with_an_average_and_a_schedule_tells_nothing(trainer_factory, caplog):
    from trackside import EarlyStoppingCallback, EMACallback

    trainer = trainer_factory(
        model=trainer_factory.model(dropout=0.1),
        callbacks=[EMACallback(), EarlyStoppingCallback(5)],
        eval_dataset=trainer_factory.dataset(8),
        eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, optim="adamw_torch", **SAVES,
    )  # fmt: skip

    trainer.train()

    assert told_of(caplog) == []
