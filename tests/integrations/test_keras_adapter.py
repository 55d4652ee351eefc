"""Keras callbacks on TFTrainer, and those that touch no weights on Trainer too."""

from __future__ import annotations

import pytest

from trackside.callbacks.errors import CallbackError
from trackside.integrations.keras_adapter import KerasCallbackAdapter

keras = pytest.importorskip("keras")


@pytest.fixture(params=["pytorch", "tensorflow"])
def make(request, tmp_path):
    if request.param == "pytorch":
        from support.arrays import accuracy
        from support.torch_models import classified, mlp
        from torch import nn

        from trackside import Trainer as cls
        from trackside import TrainingArguments as args_cls

        loss = nn.CrossEntropyLoss()
    else:
        from support.arrays import accuracy, classified
        from support.tf_models import LOSS as loss
        from support.tf_models import mlp

        from trackside import TFTrainer as cls
        from trackside import TFTrainingArguments as args_cls

    def make(*callbacks, **options):
        options = {"save_strategy": "no", "disable_tqdm": True, "eval_strategy": "epoch", "logging_steps": 2, **options}
        return cls(
            mlp(),
            args_cls(str(tmp_path / "out"), **options),
            train_dataset=classified(40),
            eval_dataset=classified(9),
            compute_metrics=accuracy,
            callbacks=[KerasCallbackAdapter(callback) for callback in callbacks],
            loss_fn=loss,
        )

    return make


def test_early_stopping_of_keras_ends_the_run(make):
    callback = keras.callbacks.EarlyStopping(monitor="val_loss", patience=2)
    trainer = make(callback, num_train_epochs=9, learning_rate=0.0)

    trainer.train()

    assert trainer.state.epoch == 3
    assert trainer.state.stop_reason == "EarlyStopping of Keras asked for it"


def test_the_model_that_a_callback_knows_is_the_trainers_and_is_left_as_it_is(make):
    seen = []

    def look(epoch, logs):
        known = callback.model
        known.note = "set on the model"
        seen.append((known.optimizer is not None, float(known.optimizer.learning_rate) >= 0, known.stop_training))
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            known.nothing  # noqa: B018

    callback = keras.callbacks.LambdaCallback(on_epoch_end=look)
    trainer = make(callback)
    before = set(vars(trainer.model))
    trainer.train()

    assert seen == [(True, True, False)] * 3
    assert trainer.model.note == "set on the model"
    assert set(vars(trainer.model)) - before <= {"note"}


def test_several_keras_callbacks_get_names_of_their_own(make):
    lambdas = [keras.callbacks.LambdaCallback(), keras.callbacks.History()]

    assert {"keras_LambdaCallback", "keras_History"} <= set(make(*lambdas).callback_report)


def test_something_else_is_refused():
    with pytest.raises(CallbackError, match="Keras callback"):
        KerasCallbackAdapter("EarlyStopping")
