"""What cannot be done here as in fit is refused at once, with what to do instead."""

from __future__ import annotations

import numpy as np
import pytest

from trackside import KerasCallbackAdapter, LightningLoggerAdapter, TrainerCallback
from trackside.callbacks.bus.attachment import attachment_of
from trackside.callbacks.errors import CallbackError
from trackside.testing.tiny_trainer import tiny_trainer, weights_of

pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
C = keras.callbacks


def torch_trainer(*callbacks, **options):
    return tiny_trainer("pytorch", "out", [*callbacks], **options)


def tf_trainer(*callbacks, **options):
    return tiny_trainer("tensorflow", "out", [*callbacks], **options)


TRAINERS = pytest.mark.parametrize("trainer_of", [torch_trainer, tf_trainer])


class Own(C.Callback):
    def on_epoch_end(self, epoch, logs=None):
        pass


@pytest.mark.parametrize(
    ("callback", "cure"),
    [
        (lambda: C.BackupAndRestore("backup"), r"BackupAndRestore.*resume_from_checkpoint=True"),
        (lambda: C.CallbackList([C.History()]), r"\[KerasCallbackAdapter\(item\) for item"),
        (lambda: C.History, r"KerasCallbackAdapter\(History\(\.\.\.\)\)"),
        (lambda: "EarlyStopping", "an instance of a Keras callback, not 'EarlyStopping'"),
        (lambda: KerasCallbackAdapter(Own()), "an instance of a Keras callback"),
    ],
)
def test_what_an_adapter_does_not_take_is_refused(callback, cure):
    with pytest.raises(CallbackError, match=cure):
        KerasCallbackAdapter(callback())


@TRAINERS
@pytest.mark.parametrize("callback", [C.EarlyStopping(), C.EarlyStopping, C.CSVLogger("a.csv"), Own(), Own])
def test_a_callback_of_keras_without_an_adapter_is_refused_by_name(callback, trainer_of):
    with pytest.raises(CallbackError, match=r"wrap it: callbacks=\[KerasCallbackAdapter\(\w+\(\.\.\.\)\)\]"):
        trainer_of(callback)


def test_a_logger_of_lightning_without_an_adapter_is_refused_by_name():
    with pytest.raises(CallbackError, match=r"LightningLoggerAdapter\(FakeLogger"):
        attachment_of(FakeLogger())


def test_two_adapters_of_different_callbacks_are_not_duplicates(caplog):
    shared = C.History()
    loggers = [LightningLoggerAdapter(FakeLogger()) for _ in range(2)]
    lambdas = [KerasCallbackAdapter(C.LambdaCallback()) for _ in range(2)]
    trainer = torch_trainer(*lambdas, *loggers, KerasCallbackAdapter(shared))
    before = caplog.text
    trainer.add_callback(KerasCallbackAdapter(shared))

    assert "a second callback" not in before
    assert "a second callback of class KerasCallbackAdapter" in caplog.text
    assert {"keras_LambdaCallback", "keras_LambdaCallback_2"} <= set(trainer.callback_report)


class FakeLogger:
    def log_hyperparams(self, params):
        pass

    def log_metrics(self, metrics, step):
        pass

    def save(self):
        pass

    def finalize(self, status):
        pass


ON_KERAS_MODELS = {
    "scheduler": (lambda: C.LearningRateScheduler(lambda epoch: 0.1), "a schedule in optimizers="),
    "plateau": (C.ReduceLROnPlateau, "lr_scheduler_type='reduce_lr_on_plateau'"),
    "checkpoint": (lambda: C.ModelCheckpoint("m.keras"), "save_strategy"),
    "average": (C.SwapEMAWeights, "AveragedModel"),
    "best weights": (lambda: C.EarlyStopping(restore_best_weights=True), "load_best_model_at_end=True"),
    "histograms": (lambda: C.TensorBoard("tb", histogram_freq=1), "leave these options out"),
}


@pytest.mark.parametrize(("make", "cure"), ON_KERAS_MODELS.values(), ids=ON_KERAS_MODELS)
def test_what_needs_a_keras_model_is_refused_by_trainer_and_taken_by_tftrainer(make, cure):
    with pytest.raises(CallbackError, match=f"needs a Keras model.*{cure}"):
        torch_trainer(KerasCallbackAdapter(make()))
    tf_trainer(KerasCallbackAdapter(make()), lr_scheduler_type="constant")


@pytest.mark.parametrize("options", [{}, {"lr_scheduler_type": "cosine"}])
def test_a_plateau_beside_a_schedule_is_refused_when_it_is_attached(options):
    with pytest.raises(CallbackError, match=r"lowers the learning rate.*'constant'"):
        tf_trainer(KerasCallbackAdapter(C.ReduceLROnPlateau()), **options)


def test_a_plateau_that_is_attached_later_is_refused_before_the_first_update():
    trainer = tf_trainer()
    trainer.add_callback(KerasCallbackAdapter(C.ReduceLROnPlateau()))

    with pytest.raises(CallbackError, match="lowers the learning rate, which lr_scheduler_type='linear' sets"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_averaged_weights_without_an_average_are_refused_before_the_first_update():
    trainer = tf_trainer(KerasCallbackAdapter(C.SwapEMAWeights()))

    with pytest.raises(CallbackError, match="use_ema=True"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_averaged_weights_are_swapped_back_when_their_callback_is_removed():
    class Remove(TrainerCallback):
        def on_step_end(self, args, state, control, trainer=None, **kwargs):
            own.append(weights_of(trainer))

        def on_prediction_step(self, args, state, control, trainer=None, **kwargs):
            if "keras_SwapEMAWeights" in trainer.callback_report:
                seen.extend((own[-1], weights_of(trainer)))
                trainer.remove_callback("keras_SwapEMAWeights")
                seen.append(weights_of(trainer))

    own, seen = [], []
    trainer = tf_trainer(KerasCallbackAdapter(C.SwapEMAWeights()), Remove(), max_steps=3, eval_strategy="steps")
    trainer.optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    trainer.train()

    before, average, swapped_back = seen
    assert not np.allclose(average[0], before[0], atol=1e-4)
    assert all(map(np.allclose, swapped_back, before))  # Keras swaps by sums and differences, which round


@TRAINERS
@pytest.mark.parametrize(("metric", "mode"), [("val_accuracy", "max"), ("auc", "max"), ("mean_squared_error", "min")])
def test_the_direction_of_a_metric_of_keras_is_known(trainer_of, metric, mode):
    callback = C.EarlyStopping(metric)

    trainer_of(KerasCallbackAdapter(callback)).train()

    assert callback.mode == mode
    assert callback.min_delta == 0


@TRAINERS
def test_a_metric_of_unknown_direction_is_refused_before_the_first_update(trainer_of):
    trainer = trainer_of(KerasCallbackAdapter(C.EarlyStopping("val_gain")))

    with pytest.raises(CallbackError, match=r"monitor='val_gain'.*mode='max' or mode='min'"):
        trainer.train()
    assert trainer.state.global_step == 0
