"""Options of ``Model.compile`` without an effect are told at the start of a run, with what to set instead."""

from __future__ import annotations

import keras
import pytest
from support.tf_models import LOSS, mlp

from trackside.trainer.tensorflow.objective._compat import compiled_with


def told(caplog):
    return [message for message in caplog.messages if message.startswith("compile(")]


def test_an_optimizer_and_ways_of_running_that_have_no_effect_are_named(make_trainer, caplog):
    model = mlp()
    model.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=True, steps_per_execution=4)

    make_trainer(model=model, max_steps=1).train()

    optimizer, jit, several = told(caplog)
    assert optimizer.startswith("compile(optimizer=SGD) of the model has no effect here: the arguments have the optimi")
    assert "give TFTrainer optimizers=(model.optimizer, None)" in optimizer
    assert jit.endswith("has no effect here: xla=True compiles the step")
    assert several.endswith("set steps_per_execution=4 in the arguments")


@pytest.mark.parametrize("how", ["given", "default"])
def test_what_the_trainer_does_is_not_told(make_trainer, caplog, how):
    model, options = mlp(), {}
    if how == "given":
        model.compile("adam", LOSS, steps_per_execution=2)
        options = {"optimizers": (model.optimizer, None), "steps_per_execution": 2}
    else:
        model.compile(loss=LOSS)

    make_trainer(model=model, max_steps=1, **options).train()

    assert not told(caplog)


@pytest.mark.parametrize("options", [{"loss": "mae"}, {"loss": LOSS, "loss_weights": [0.5]}], ids=["loss", "weights"])
def test_a_compiled_loss_beside_that_of_the_trainer_is_named(make_trainer, caplog, options):
    model = mlp()
    model.compile(**options)

    make_trainer(model=model, loss_fn=LOSS, max_steps=1).train()

    (message,) = told(caplog)
    assert "has no effect here: TFTrainer was given loss_fn" in message


def test_a_model_that_does_not_tell_its_options_has_none():
    assert compiled_with(object()) == {}
