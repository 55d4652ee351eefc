"""Restoring Keras' optimizers and schedules under other options, layers and classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support.tf_models import tf

from trackside.trainer.tensorflow.optim.factory import PlateauSchedule, Schedule
from trackside.trainer.tensorflow.optim.resuming import TFMadeOptimizer
from trackside.trainer.tensorflow.snapshot import optimizer_arrays


def model_of(*, head: str = "head", frozen: bool = False) -> Any:
    layers = [keras.Input((3,)), keras.layers.Dense(4, name="body"), keras.layers.Dense(2, name=head)]
    model = keras.Sequential(layers)
    model.layers[0].trainable = not frozen
    return model


def go_on(tmp_path: Path, first: Any, then: Any, *, models: Any = None) -> tuple[Any, list[str]]:
    """Step ``first`` twice, restore it into ``then``; return that and what is said."""
    old_model, model = models or (model_of(), model_of())
    for optimizer, each in ((first, old_model), (then, model)):
        optimizer.build(each.trainable_variables)
    before = TFMadeOptimizer(first, None, old_model).record
    for _ in range(2):
        first.apply([tf.ones(each.shape) for each in old_model.trainable_variables], old_model.trainable_variables)
    np.savez(tmp_path / "optimizer.npz", **optimizer_arrays(first))
    notes = TFMadeOptimizer(then, None, model).load_optimizer(tmp_path / "optimizer.npz", before)
    then.apply([tf.ones(each.shape) for each in model.trainable_variables], model.trainable_variables)
    return then, notes


def values(optimizer: Any, kind: str) -> list[float]:
    return [float(np.max(each)) for each in optimizer.variables if each.name.endswith(kind)]


def test_the_state_of_layers_that_stay_trainable_is_kept(tmp_path: Path) -> None:
    models = (model_of(), model_of(frozen=True))

    optimizer, notes = go_on(tmp_path, keras.optimizers.SGD(0.1, 0.5), keras.optimizers.SGD(0.1, 0.5), models=models)

    assert notes == []
    assert int(optimizer.iterations) == 3
    assert values(optimizer, "momentum") == pytest.approx([-0.175, -0.175])


def test_a_new_head_begins_anew_and_is_named(tmp_path: Path) -> None:
    models = (model_of(), model_of(head="other"))

    optimizer, (note,) = go_on(tmp_path, keras.optimizers.SGD(0.1, 0.5), keras.optimizers.SGD(0.1, 0.5), models=models)

    assert "other/kernel, sequential/other/bias" in note
    assert values(optimizer, "momentum") == pytest.approx([-0.175, -0.175, -0.1, -0.1])


def test_an_option_with_less_or_more_state(tmp_path: Path) -> None:
    off, notes = go_on(tmp_path, keras.optimizers.SGD(0.1, 0.5), keras.optimizers.SGD(0.1))
    on, _ = go_on(tmp_path, keras.optimizers.Adam(0.1), keras.optimizers.Adam(0.1, amsgrad=True))

    assert notes == []
    assert [int(off.iterations), int(on.iterations)] == [3, 3]


def test_another_class_begins_anew_unless_the_state_fits(tmp_path: Path) -> None:
    dropped, (note,) = go_on(tmp_path, keras.optimizers.AdamW(0.1), keras.optimizers.SGD(0.02))
    kept, (other,) = go_on(tmp_path, keras.optimizers.Adam(0.1), keras.optimizers.AdamW(0.1))

    assert "SGD" in note
    assert "AdamW" in note
    assert "dropped" in note
    assert int(dropped.iterations) == 1
    assert float(dropped.learning_rate) == pytest.approx(0.02)
    assert "kept" in other
    assert int(kept.iterations) == 3


def test_a_rate_that_a_callback_changed_stays_while_its_argument_does(tmp_path: Path) -> None:
    def rate(then: float) -> float:
        first, second, model = keras.optimizers.SGD(0.1), keras.optimizers.SGD(then), model_of()
        first.build(model.trainable_variables)
        second.build(model.trainable_variables)
        before = TFMadeOptimizer(first, None, model).record
        first.learning_rate = 0.03
        np.savez(tmp_path / "optimizer.npz", **optimizer_arrays(first))
        TFMadeOptimizer(second, None, model).load_optimizer(tmp_path / "optimizer.npz", before)
        return float(second.learning_rate)

    assert rate(0.1) == pytest.approx(0.03)
    assert rate(0.2) == pytest.approx(0.2)


def test_schedules_of_two_kinds_follow_each_other() -> None:
    model = model_of()
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    plateau = TFMadeOptimizer(optimizer, PlateauSchedule(0.1), model)
    linear = TFMadeOptimizer(optimizer, Schedule(lambda step: 0.1 - 0.01 * step), model)

    (note,) = linear.load_schedule({"learning_rate": 0.05, "num_bad_epochs": 1}, plateau.record, 4)
    plateau.load_schedule({"last_epoch": 4}, linear.record, 4)

    assert "0.06" in note
    assert linear.schedule.get_last_lr() == pytest.approx([0.06])
    assert plateau.schedule.get_last_lr() == pytest.approx([0.1])


OPTIM, SCHEDULES = keras.optimizers, keras.optimizers.schedules
WRAPS = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap"}
ALL = {
    name: getattr(OPTIM, name) for name in dir(OPTIM) if isinstance(getattr(OPTIM, name), type) and name not in WRAPS
}
OPTIONS = {
    "momentum": lambda: OPTIM.SGD(0.1, 0.9, nesterov=True),
    "amsgrad": lambda: OPTIM.Adam(0.1, amsgrad=True),
    "centered": lambda: OPTIM.RMSprop(0.1, momentum=0.9, centered=True),
    "averaged": lambda: OPTIM.Adam(0.1, use_ema=True, ema_overwrite_frequency=3),
    "accumulating": lambda: OPTIM.Adam(0.1, gradient_accumulation_steps=3),
    "decaying": lambda: OPTIM.Adam(SCHEDULES.ExponentialDecay(0.1, 2, 0.5)),
    "restarting": lambda: OPTIM.SGD(SCHEDULES.CosineDecayRestarts(0.1, 3)),
    "clipped": lambda: OPTIM.SGD(0.1, clipvalue=0.01),
    "clipped by norm": lambda: OPTIM.Adam(0.1, global_clipnorm=0.1),
}


@pytest.mark.parametrize("name", [*ALL, *OPTIONS])
def test_every_optimizer_of_keras_goes_on_to_the_bit(tmp_path: Path, name: str) -> None:
    make = {**ALL, **OPTIONS}[name]
    generator = np.random.default_rng(0)
    gradients = [[generator.normal(size=shape) for shape in ((3, 4), (4,), (4, 2), (2,))] for _ in range(8)]

    def step(optimizer: Any, model: Any, many: Any) -> None:
        for each in many:
            optimizer.apply([tf.constant(part, tf.float32) for part in each], model.trainable_variables)

    models, optimizers = [model_of(), model_of()], [make(), make()]
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.build(model.trainable_variables)
    before = TFMadeOptimizer(optimizers[0], None, models[0]).record
    step(optimizers[0], models[0], gradients[:4])
    np.savez(tmp_path / "optimizer.npz", **optimizer_arrays(optimizers[0]))
    models[1].set_weights(models[0].get_weights())

    notes = TFMadeOptimizer(optimizers[1], None, models[1]).load_optimizer(tmp_path / "optimizer.npz", before)
    for model, optimizer in zip(models, optimizers, strict=True):
        step(optimizer, model, gradients[4:])

    assert notes == []
    for one, two in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, two)
