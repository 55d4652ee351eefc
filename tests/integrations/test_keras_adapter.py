"""Keras callbacks on TFTrainer, and those that touch no weights on Trainer too."""

from __future__ import annotations

import csv

import pytest
from support.tracker_readers import as_float32, read_tensorboard

from trackside.callbacks.errors import CallbackError
from trackside.integrations.keras_adapter import KerasCallbackAdapter
from trackside.testing.tiny_trainer import tiny_trainer

keras = pytest.importorskip("keras")


@pytest.fixture(params=["pytorch", "tensorflow"])
def make(request, tmp_path):
    if request.param == "pytorch":
        from support.torch_models import accuracy, classified, mlp
        from torch import nn

        from trackside import Trainer as cls
        from trackside import TrainingArguments as args_cls

        loss = nn.CrossEntropyLoss()
    else:
        from support.tf_models import LOSS as loss
        from support.tf_models import classified, mlp
        from support.torch_models import accuracy

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


def test_hooks_come_in_the_order_of_fit(make):
    seen = []

    class Notes(keras.callbacks.Callback):
        pass

    for name in ("train_begin", "train_end", "epoch_begin", "epoch_end", "test_begin", "test_end"):
        setattr(Notes, f"on_{name}", lambda self, *args, name=name, **kwargs: seen.append(name))
    Notes.on_train_batch_end = lambda self, batch, logs=None: seen.append(batch)

    make(Notes(), num_train_epochs=2).train()

    epoch = ["epoch_begin", 0, 1, 2, 3, 4, "test_begin", "test_end", "epoch_end"]
    assert seen == ["train_begin", *epoch, *epoch, "train_end"]


def test_early_stopping_of_keras_ends_the_run(make):
    callback = keras.callbacks.EarlyStopping(monitor="val_loss", patience=2)
    trainer = make(callback, num_train_epochs=9, learning_rate=0.0)

    trainer.train()

    assert trainer.state.epoch == 3
    assert trainer.state.stop_reason == "EarlyStopping of Keras asked for it"


def test_the_csv_logger_of_keras_writes_a_row_for_each_epoch(make, tmp_path):
    trainer = make(keras.callbacks.CSVLogger(str(tmp_path / "log.csv")), num_train_epochs=3)

    trainer.train()

    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    accuracies = [r["eval_accuracy"] for r in trainer.state.log_history if "eval_accuracy" in r]
    assert [float(row["val_accuracy"]) for row in rows] == pytest.approx(accuracies)


def test_the_tensorboard_of_keras_shows_the_records(make):
    trainer = make(keras.callbacks.TensorBoard("tensorboard"), num_train_epochs=3)

    trainer.train()

    shown = read_tensorboard("tensorboard/validation")
    records = [record for record in trainer.state.log_history if "eval_accuracy" in record]
    for name in ("accuracy", "loss"):
        expected = [(epoch, record[f"eval_{name}"]) for epoch, record in enumerate(records)]
        assert shown[f"epoch_{name}"] == as_float32({name: expected})[name]


def test_a_checkpoint_of_keras_holds_the_best_weights():
    pytest.importorskip("tensorflow")  # Keras saves Keras models only
    callback = keras.callbacks.ModelCheckpoint(
        "best.weights.h5", "val_loss", save_best_only=True, save_weights_only=True
    )
    trainer = tiny_trainer("tensorflow", "out", [KerasCallbackAdapter(callback)])

    trainer.train()

    losses = [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]
    last = [weight.copy() for weight in trainer.model.get_weights()]
    trainer.model.load_weights("best.weights.h5")
    assert callback.best == min(losses) == losses[-1]
    assert all((a == b).all() for a, b in zip(trainer.model.get_weights(), last, strict=True))


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
