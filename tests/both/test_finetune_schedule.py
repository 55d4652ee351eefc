"""Layers that are frozen by schedule, on both trainers."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
from support.callback_examples import Replaces

from trackside import FinetuneScheduleCallback, TrainerCallback
from trackside.callbacks.errors import ArgumentError

RUN = {"num_train_epochs": 3, "learning_rate": 0.05, "lr_scheduler_type": "constant", "weight_decay": 0.1}


class Changes(TrainerCallback):
    """Notes at the end of each epoch whether the first and the last layer have changed in it."""

    def __init__(self, factory):
        self.factory, self.before, self.changed = factory, None, []

    def weights(self, trainer):
        if self.factory.framework == "pytorch":
            return self.factory.weights(trainer)
        return np.concatenate([np.asarray(weight).ravel() for weight in trainer.model.weights])  # frozen ones, too

    def on_epoch_begin(self, args, state, control, trainer=None, **kwargs):
        self.before = self.weights(trainer)

    def on_epoch_end(self, args, state, control, trainer=None, **kwargs):
        changed = self.weights(trainer) != self.before
        self.changed.append((bool(changed[:112].any()), bool(changed[112:].any())))


@pytest.fixture
def stages(trainer_factory):
    def made(model):
        if trainer_factory.framework == "pytorch":
            return {0: ["3.*"], "2": "*"}
        return {0: [f"{model.layers[-1].name}/*"], "2": "*"}

    return made


def test_layers_are_trained_from_their_epoch_on_and_a_resumed_run_does_the_same(trainer_factory, stages, caplog):
    saves = {**RUN, "save_strategy": "epoch"}
    model, changes = trainer_factory.model(), Changes(trainer_factory)
    whole = trainer_factory(model=model, callbacks=[FinetuneScheduleCallback(stages(model)), changes], **saves)
    whole.train()

    assert changes.changed == [(False, True), (False, True), (True, True)]
    assert "finetune_schedule: 2 of 4 weights are trained from epoch 0 on" in caplog.text

    model, rest = trainer_factory.model(), Changes(trainer_factory)
    resumed = trainer_factory(model=model, callbacks=[FinetuneScheduleCallback(stages(model)), rest], **saves)
    resumed.train(resume_from_checkpoint=str(trainer_factory.folder / "out" / "checkpoint-5"))

    assert rest.changed == changes.changed[1:]
    np.testing.assert_array_equal(trainer_factory.weights(resumed), trainer_factory.weights(whole))
    if trainer_factory.framework == "pytorch":
        assert all(parameter.requires_grad for parameter in model.parameters())
    else:
        assert len(model.trainable_variables) == 4


def test_stages_that_cannot_be_are_told(trainer_factory):
    for stages, message in (
        ({1: ["*"]}, "a map with patterns for epoch 0"),
        ({0: ["*"], -1: ["*"]}, "a map from epochs, which are whole numbers, to patterns"),
    ):
        with pytest.raises(ArgumentError, match=message):
            FinetuneScheduleCallback(stages)
    trainer = trainer_factory(callbacks=[FinetuneScheduleCallback({0: ["heads.*"]})])
    with pytest.raises(ArgumentError, match=r"stages='heads\.\*' is not allowed: patterns that match the name of a"):
        trainer.train()


def test_weights_are_as_before_after_a_run_that_an_exception_ends(trainer_factory, stages):
    class Fails(TrainerCallback):
        role = "control"

        def on_step_begin(self, args, state, control, **kwargs):
            raise RuntimeError("an update")

        def on_train_end(self, args, state, control, **kwargs):
            raise RuntimeError("the end")

    def trained(model):
        weights = model.parameters() if is_torch else model.weights
        return [weight.requires_grad if is_torch else weight.trainable for weight in weights]

    is_torch, model = trainer_factory.framework == "pytorch", trainer_factory.model()
    first = next(model.parameters()) if is_torch else model.weights[0]
    if is_torch:
        first.requires_grad_(False)
    else:
        first.trainable = False
    before = trained(model)
    trainer = trainer_factory(model=model, callbacks=[Fails, FinetuneScheduleCallback(stages(model))])
    trainer._engine.train_step.end_run = Mock(side_effect=RuntimeError("the model cannot be left"))  # as on a full disk

    with pytest.raises(RuntimeError):
        trainer.train()

    assert trained(model) == before


def flags_of(model):
    if hasattr(model, "parameters"):
        return [parameter.requires_grad for parameter in model.parameters()]
    return [weight.trainable for weight in model.weights]


def test_removed_within_a_run_it_trains_all_weights_again_and_says_so(trainer_factory, stages, caplog):
    model, changes = trainer_factory.model(), Changes(trainer_factory)
    finetune = FinetuneScheduleCallback(stages(model))
    trainer = trainer_factory(model=model, callbacks=[finetune, Replaces(3, "finetune_schedule"), changes], **RUN)

    trainer.train()

    assert changes.changed == [(True, True)] * 3
    assert flags_of(model) == [True] * 4
    assert caplog.text.count("finetune_schedule was removed: the 2 weights that it had frozen are trained again") == 1


def test_attached_within_a_run_it_begins_with_the_next_epoch(trainer_factory, stages):
    model, changes = trainer_factory.model(), Changes(trainer_factory)
    add = Replaces(3, added=FinetuneScheduleCallback(stages(model)))
    trainer = trainer_factory(model=model, callbacks=[add, changes], **RUN)

    trainer.train()

    assert changes.changed == [(True, True), (False, True), (True, True)]


def test_a_run_that_is_resumed_without_it_says_what_stays_frozen(trainer_factory, stages, caplog):
    model = trainer_factory.model()
    first = trainer_factory(
        model=model, callbacks=[FinetuneScheduleCallback(stages(model))], **RUN, save_strategy="epoch"
    )
    first.train()
    model, changes = trainer_factory.model(), Changes(trainer_factory)
    resumed = trainer_factory(model=model, callbacks=[changes], **RUN)

    resumed.train(resume_from_checkpoint=str(trainer_factory.folder / "out" / "checkpoint-5"))

    assert changes.changed == [(False, True)] * 2
    assert "resuming: callbacks had frozen or unfrozen " in caplog.text
    assert "which holds until a callback changes it" in caplog.text


def test_without_the_states_of_callbacks_it_begins_with_the_layers_of_the_model(trainer_factory, stages):
    model = trainer_factory.model()
    first = trainer_factory(
        model=model, callbacks=[FinetuneScheduleCallback(stages(model))], **RUN, save_strategy="epoch"
    )
    first.train()
    model, changes = trainer_factory.model(), Changes(trainer_factory)
    resumed = trainer_factory(
        model=model,
        callbacks=[FinetuneScheduleCallback(stages(model)), changes],
        restore_callback_states_from_checkpoint=False,
        **RUN,
    )

    resumed.train(resume_from_checkpoint=str(trainer_factory.folder / "out" / "checkpoint-5"))

    assert changes.changed == [(False, True), (True, True)]
    assert flags_of(model) == [True] * 4


def test_what_a_callback_froze_once_is_frozen_in_a_resumed_run(trainer_factory):
    class FreezesOnce(TrainerCallback):
        def on_epoch_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 0 and trainer_factory.framework == "pytorch":
                model[0].requires_grad_(False)
            elif state.global_step == 0:
                model.layers[0].trainable = False

    options = {**RUN, "save_strategy": "epoch"}
    whole = trainer_factory(callbacks=[FreezesOnce()], **options)
    whole.train()
    resumed = trainer_factory(callbacks=[FreezesOnce()], **options)

    resumed.train(resume_from_checkpoint=str(trainer_factory.folder / "out" / "checkpoint-5"))

    assert flags_of(resumed.model) == flags_of(whole.model)
    np.testing.assert_array_equal(trainer_factory.weights(resumed), trainer_factory.weights(whole))
