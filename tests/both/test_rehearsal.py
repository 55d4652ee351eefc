"""What would fail at the first save, or could not be read afterwards, is told before the first update."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

from trackside import TrainerCallback
from trackside.callbacks.errors import ArgumentError, CheckpointError, NotPlainError, TracksideError

SAVES = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


class Keeps(TrainerCallback):
    """A control callback with a state."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = True

    def state_dict(self) -> dict[str, Any]:
        assert self.began
        return {"kept": self.state}


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"best": [object()]}, r"state_dict\(\)\['kept'\]\['best'\]\[0\] is of type object"),
        (lambda: 0, "of type function"),
        (10**5000, "more than 4300 digits"),
        ((number for number in ()), "of type generator"),
    ],
    ids=["object", "lambda", "huge", "generator"],
)
def test_the_state_of_a_control_callback_is_tried_before_the_first_update(trainer_factory, state, told):
    trainer = trainer_factory(callbacks=[Keeps(state)], **SAVES)

    with pytest.raises(NotPlainError, match=told) as raised:
        trainer.train()

    assert trainer.state.global_step == 0
    assert any("'keeps'" in note for note in raised.value.__notes__)


def test_a_state_that_appears_later_is_told_when_it_is_saved_and_nothing_is_committed(trainer_factory):
    class Late(Keeps):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                self.state = object()

    trainer = trainer_factory(callbacks=[Late(1)], **SAVES)

    with pytest.raises(NotPlainError, match="'kept'"):
        trainer.train()

    assert trainer_factory.checkpoints() == ["checkpoint-2"]


def test_without_saving_nothing_is_tried(trainer_factory):
    trainer = trainer_factory(callbacks=[Keeps(object())], max_steps=2)

    trainer.train()

    assert trainer.state.global_step == 2


class Halving:
    """All that training needs of a schedule, and nothing that a checkpoint needs."""

    def __init__(self) -> None:
        self.learning_rate = 0.1

    def step(self) -> None:
        self.learning_rate /= 2

    def get_last_lr(self) -> list[float]:
        return [self.learning_rate]


class Stateful(Halving):
    def __init__(self, extra: Any) -> None:
        super().__init__()
        self.extra = extra

    def state_dict(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, "extra": self.extra}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learning_rate, self.extra = state["learning_rate"], state["extra"]


def optimizer_of(factory: Any, model: Any) -> Any:
    if factory.framework == "pytorch":
        return factory.torch.optim.SGD(model.parameters(), lr=0.1)
    return factory.parts.keras.optimizers.SGD(0.1)


def with_schedule(factory: Any, schedule: Any, **options: Any) -> Any:
    model = factory.model()
    return factory(model=model, optimizers=(optimizer_of(factory, model), schedule), **options)


def test_a_schedule_without_a_state_is_told(trainer_factory):
    trainer = with_schedule(trainer_factory, Halving(), **SAVES)

    with pytest.raises(ArgumentError, match=r"lr_scheduler=.*state_dict"):
        trainer.train()

    assert trainer.state.global_step == 0
    for options in ({**SAVES, "save_only_model": True}, {"max_steps": 2}):
        assert with_schedule(trainer_factory, Halving(), overwrite_output_dir=True, **options).train().global_step


def test_numbers_of_numpy_in_a_schedule_come_back(trainer_factory):
    schedule = Stateful(np.float64(0.5))
    with_schedule(trainer_factory, schedule, **SAVES).train()

    again = Stateful(np.float64(0.5))
    with_schedule(trainer_factory, again, **{**SAVES, "max_steps": 6}).train(resume_from_checkpoint=True)

    assert again.extra == 0.5
    assert type(again.extra) is np.float64


class Refers(Stateful):
    """Refers to its optimizer, as schedules do, and keeps what it has seen."""

    loaded: Any = None

    def __init__(self, optimizer: Any) -> None:
        super().__init__({})
        self.optimizer = optimizer

    def step(self, *args: Any) -> None:
        super().step(*args)
        self.extra[len(self.extra)] = (1,)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.loaded = dict(state["extra"])


def test_a_schedule_that_refers_to_its_optimizer_gets_its_state_back(trainer_factory):
    def run(resume: Any, **options: Any) -> Any:
        model = trainer_factory.model()
        optimizer = optimizer_of(trainer_factory, model)
        pair = optimizer, Refers(optimizer)
        trainer_factory(model=model, optimizers=pair, **{**SAVES, **options}).train(resume_from_checkpoint=resume)
        return pair[1]

    run(None)
    again = run(True, max_steps=6)

    assert again.loaded == dict.fromkeys(range(len(again.extra) - 2), (1,))


@pytest.mark.parametrize("extra", [object(), lambda: 0, (item for item in ())], ids=["object", "lambda", "generator"])
def test_a_schedule_with_a_state_that_cannot_be_kept_is_told(trainer_factory, extra):
    trainer = with_schedule(trainer_factory, Stateful(extra), **SAVES)

    with pytest.raises(NotPlainError, match=r"the state in scheduler\.(pt|json)\['extra'\] is of type"):
        trainer.train()

    assert trainer.state.global_step == 0


def test_an_output_dir_that_is_a_file_is_told(trainer_factory):
    (trainer_factory.folder / "out").write_text("")
    trainer = trainer_factory(**SAVES)

    with pytest.raises(TracksideError, match="output_dir"):
        trainer.train()

    assert trainer.state.global_step == 0


def test_a_disk_without_room_for_one_checkpoint_is_told(trainer_factory, monkeypatch):
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10_000, 9_200, 800))
    trainer = trainer_factory(**SAVES)

    with pytest.raises(
        CheckpointError, match=r"no room for a checkpoint: 800 bytes are free, .* at least [0-9,]+\."
    ) as raised:
        trainer.train()

    assert raised.value.errno == errno.ENOSPC
    assert trainer.state.global_step == 0
    assert trainer_factory(max_steps=2).train().global_step == 2


def test_the_size_of_a_checkpoint_is_known_before_the_first_update(trainer_factory):
    trainer = trainer_factory(**SAVES)
    weights = sum(value.size for value in [np.empty((6, 16)), np.empty(16), np.empty((16, 3)), np.empty(3)]) * 4
    estimated: list[int] = []
    sizes = trainer._engine.checkpoint.sizes_needed
    trainer.on("on_train_begin")(lambda sender, **kwargs: estimated.append(sum(sizes())))

    trainer.train()

    assert 3 * weights <= estimated[0] <= 3 * weights + 100  # AdamW has two moments
    assert estimated[0] <= sum(sizes()) <= estimated[0] + 100


def test_a_rehearsal_leaves_nothing_and_moves_no_random_number(trainer_factory):
    def run(**options: Any) -> Any:
        trainer = trainer_factory(model=trainer_factory.model(0.3), overwrite_output_dir=True, **{**SAVES, **options})
        trainer.train()
        return trainer_factory.weights(trainer)

    np.testing.assert_array_equal(run(), run(save_strategy="no"))
    assert not [path.name for path in (trainer_factory.folder / "out").glob(".checkpoint-*")]
