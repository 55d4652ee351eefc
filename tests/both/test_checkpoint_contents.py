"""What a checkpoint must hold to be resumed, and what it may hold besides."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.damages import rewritten, without_role

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing.manifest import BrokenCheckpointError

SAVES = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 0.1, "lr_scheduler_type": "constant"}


@pytest.fixture
def checkpoint(trainer_factory):
    trainer_factory(**SAVES, max_steps=2).train()
    return trainer_factory.folder / "out" / "checkpoint-2"


@pytest.mark.parametrize("role", ["weights", "schedule", "rng", "state", "arguments", "progress"])
def test_a_missing_role_that_resuming_needs_is_named(trainer_factory, checkpoint, role):
    without_role(checkpoint, role)

    with pytest.raises(CheckpointError) as caught:
        trainer_factory(**SAVES, max_steps=4).train(checkpoint)

    assert {"state": "trainer_state.json", "weights": "no weights"}.get(role, f"role {role!r}") in str(caught.value)


def test_fields_of_a_later_version_are_kept_and_written_back(trainer_factory, checkpoint):
    for name in ("progress.json", "trainer_state.json", "training_args.json"):
        rewritten(checkpoint / name, lambda values: values | {"of_a_later_version": [1, 2]})
    trainer = trainer_factory(**SAVES, max_steps=4)

    trainer.train(checkpoint)

    written = checkpoint.with_name("checkpoint-4")
    for name in ("progress.json", "trainer_state.json"):
        assert json.loads((written / name).read_text())["of_a_later_version"] == [1, 2]
    whole = trainer_factory(**SAVES, max_steps=4, output_dir=str(trainer_factory.folder / "whole"))
    whole.train()
    np.testing.assert_array_equal(trainer_factory.weights(trainer), trainer_factory.weights(whole))


def test_a_position_of_another_type_is_told(trainer_factory, checkpoint):
    rewritten(checkpoint / "progress.json", lambda values: values | {"examples_in_epoch": "16"})

    with pytest.raises(BrokenCheckpointError, match="examples_in_epoch is '16'; allowed is a whole number from 0"):
        trainer_factory(**SAVES, max_steps=4).train(checkpoint)


def test_a_checkpoint_without_its_manifest_is_told(trainer_factory, checkpoint):
    (checkpoint / "manifest.json").unlink()

    for use in (lambda trainer: trainer.train(checkpoint), lambda trainer: trainer.load_weights(checkpoint)):
        with pytest.raises(BrokenCheckpointError, match=r"has lost its manifest\.json"):
            use(trainer_factory(**SAVES, max_steps=4))


def test_a_checkpoint_of_the_other_framework_is_told(both_factories):
    for first, second in (both_factories, both_factories[::-1]):
        first(**SAVES, max_steps=2, overwrite_output_dir=True).train()

        with pytest.raises(CheckpointError, match="the trainer of another framework wrote it"):
            second(**SAVES, max_steps=4).train(first.folder / "out" / "checkpoint-2")


class Exports:
    """A callback with the state of transformers."""

    def __init__(self, patience=3):
        self.patience, self.count, self.secret = patience, 0, "mine"

    def on_train_begin(self, args, state, control, **kwargs):
        pass

    def state(self):
        return {"args": {"patience": self.patience}, "attributes": {"count": self.count}}

    @classmethod
    def from_state(cls, state):
        raise NotImplementedError


def test_a_checkpoint_sets_only_the_attributes_that_a_callback_declares(trainer_factory):
    callback = Exports()
    trainer = trainer_factory(callbacks=[Exports()], **SAVES, max_steps=2)
    trainer.train()
    checkpoint = trainer_factory.folder / "out" / "checkpoint-2"
    name = next(iter(json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]))
    state = {"args": {"patience": 5, "secret": 1}, "attributes": {"count": 7, "on_step_end": 1, "__class__": 1}, "x": 1}
    rewritten(checkpoint / "trainer_state.json", lambda values: values | {"stateful_callbacks": {name: state}})

    trainer_factory(callbacks=[callback], **SAVES, max_steps=2).train(checkpoint)

    assert vars(callback) == {"patience": 5, "count": 7, "secret": "mine"}


def test_a_state_that_a_callback_cannot_take_is_told_by_its_name(trainer_factory):
    trainer_factory(callbacks=[Exports()], **SAVES, max_steps=2).train()
    checkpoint = trainer_factory.folder / "out" / "checkpoint-2"
    rewritten(
        checkpoint / "trainer_state.json",
        lambda values: values | {"stateful_callbacks": {key: {"args": 1} for key in values["stateful_callbacks"]}},
    )

    with pytest.raises(CheckpointError, match="state of Exports cannot be restored: TypeError"):
        trainer_factory(callbacks=[Exports()], **SAVES, max_steps=4).train(checkpoint)
