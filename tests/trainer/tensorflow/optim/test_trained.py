"""Layers that callbacks freeze and unfreeze within a run: what is trained from then on, also after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support.arrays import classified
from support.tf_models import mlp, run_alone

from trackside import TFTrainer, TFTrainingArguments, TrainerCallback
from trackside.callbacks.errors import TracksideValueError

STEPS = 8


class Changes(TrainerCallback):
    """Calls a function with the model at one event of one step."""

    def __init__(self, change: Any, at: int = 3, event: str = "on_step_end") -> None:
        self.change, self.at, self.event = change, at, event

    def note(self, event: str, state: Any, model: Any) -> None:
        if event == self.event and state.global_step == self.at:
            self.change(model)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.note("on_epoch_begin", state, model)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.note("on_train_begin", state, model)

    def on_log(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.note("on_log", state, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.note("on_step_end", state, model)


class AtEpoch(TrainerCallback):
    """Unfreezes the body in the middle of a run, and listens to nothing at a step."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == STEPS // 2:
            unfreeze(model)


class WithinUpdates(TrainerCallback):
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...


class Watch(TrainerCallback):
    """Keeps the weights of the body after each update."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append(np.array(model.layers[0].kernel))

    @property
    def moved(self) -> list[bool]:
        """Whether each update but the first changed them."""
        return [not np.array_equal(a, b) for a, b in zip(self.seen, self.seen[1:], strict=False)]


def unfreeze(model: Any) -> None:
    model.layers[0].trainable = True


def freeze(model: Any) -> None:
    model.layers[0].trainable = False


def frozen() -> Any:
    model = mlp()
    freeze(model)
    return model


def make(folder: Path, model: Any, *callbacks: Any, optimizer: Any = None, **options: Any) -> TFTrainer:
    values = {"save_strategy": "no", "logging_steps": 1, "max_steps": STEPS, "disable_tqdm": True, **options}
    args = TFTrainingArguments(str(folder), learning_rate=0.05, per_device_train_batch_size=10, **values)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    own = (optimizer, None)
    return TFTrainer(model, args, classified(40), loss_fn=loss, callbacks=list(callbacks), optimizers=own)


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_step_end", "on_log"])
def test_a_layer_is_trained_from_the_event_on_at_which_it_is_unfrozen(tmp_path, caplog, event):
    at = {"on_train_begin": 0, "on_epoch_begin": 4}.get(event, 3)
    watch = Watch()

    trainer = make(tmp_path, frozen(), Changes(unfreeze, at, event), watch)
    trainer.train()

    assert watch.moved == [step >= at for step in range(1, STEPS)]
    assert trainer.trace_counts["update"] == (2 if at else 1)
    (told,) = [each.message for each in caplog.records if "frozen or unfrozen" in each.message]
    assert told.startswith("sequential")


@pytest.mark.parametrize("callbacks", [(), (WithinUpdates(),)], ids=["in one piece", "in pieces"])
def test_a_layer_is_frozen_and_unfrozen_again(tmp_path, callbacks):
    watch = Watch()

    make(tmp_path, mlp(), Changes(freeze, 2), Changes(unfreeze, 5), watch, *callbacks).train()

    assert watch.moved == [True, False, False, False, True, True, True]


def test_updates_in_one_call_end_where_a_layer_is_unfrozen(tmp_path):
    model = frozen()
    before = np.array(model.layers[0].kernel)

    trainer = make(tmp_path, model, AtEpoch(), steps_per_execution=3, logging_steps=100)
    trainer.train()

    assert not np.array_equal(before, model.layers[0].kernel)
    assert trainer.trace_counts == {"update": 2, "updates": 2}


def test_updates_without_a_callback_between_them_look_at_no_layer(tmp_path, monkeypatch):
    trainer = make(tmp_path, mlp(), AtEpoch())
    looks = []
    take = type(trainer._engine.train_step).take_trainable
    monkeypatch.setattr(type(trainer._engine.train_step), "take_trainable", lambda s: looks.append(1) or take(s))

    trainer.train()

    assert len(looks) == 2  # once an epoch


def test_a_frozen_batch_normalization_without_weights_keeps_its_statistics(tmp_path):
    norm = keras.layers.BatchNormalization(center=False, scale=False)
    model = keras.Sequential([keras.Input((6,)), norm, keras.layers.Dense(3)])
    kept = []

    def stop(model: Any) -> None:
        norm.trainable = False
        kept.append(np.array(norm.moving_mean))

    make(tmp_path, model, Changes(stop)).train()

    np.testing.assert_array_equal(norm.moving_mean, kept[0])
    assert np.any(kept[0])


def test_a_callback_that_freezes_every_layer_is_an_error(tmp_path):
    def freeze_all(model: Any) -> None:
        model.trainable = False

    with pytest.raises(TracksideValueError, match="froze every layer"):
        make(tmp_path, mlp(), Changes(freeze_all)).train()


def test_the_bias_of_an_unfrozen_layer_is_not_decayed(tmp_path):
    model = frozen()
    model.layers[0].bias.assign(np.full(16, -50.0))  # after the activation, it has no gradient

    make(tmp_path, model, Changes(unfreeze), weight_decay=0.5).train()

    np.testing.assert_array_equal(model.layers[0].bias, np.full(16, -50.0))


@pytest.mark.parametrize(
    ("optimizer", "step"),
    [
        (None, 2),
        (None, 6),
        (lambda: keras.optimizers.Adam(0.05, use_ema=True), 6),
        (lambda: keras.optimizers.Adafactor(0.05), 6),
    ],
    ids=["before", "after", "ema", "adafactor"],
)
def test_a_resumed_run_trains_the_layers_that_the_checkpoint_had_unfrozen(tmp_path, optimizer, step):
    def made(folder: Path) -> TFTrainer:
        own = None if optimizer is None else optimizer()
        options = {"save_strategy": "steps", "save_steps": 2}
        return make(folder, frozen(), AtEpoch(), optimizer=own, **options)

    whole = made(tmp_path / "whole")
    whole.train()

    resumed = made(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))

    assert resumed.model.layers[0].trainable
    for one, two in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(whole.optimizer.variables, resumed.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_model_with_other_frozen_layers_keeps_them_on_resume_and_it_is_told(tmp_path, caplog):
    make(tmp_path / "a", frozen(), Changes(unfreeze), save_strategy="steps", save_steps=4).train()
    model = mlp()
    model.layers[-1].trainable = False

    make(tmp_path / "b", model).train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))

    assert [layer.trainable for layer in model.layers] == [True, True, False]
    assert "this run keeps those that its own model has trainable" in caplog.text


TWO_REPLICAS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tempfile
from pathlib import Path
from trainer.tensorflow.optim import test_trained as tests

keras = tests.keras
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = tests.frozen()
    watch = tests.Watch()
    trainer = tests.make(Path(tempfile.mkdtemp()), model, tests.Changes(tests.unfreeze), watch)
trainer.train()
print(trainer.args.n_replicas, watch.moved)
"""


@pytest.mark.slow
def test_a_layer_is_unfrozen_on_two_replicas():
    assert run_alone(TWO_REPLICAS).splitlines()[-1] == "2 [False, False, True, True, True, True, True]"
