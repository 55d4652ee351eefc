"""What is known about the callbacks of Keras itself: which are refused and why, and what they need here."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import CallbackError

from .fitted_model import is_keras_model

logger: logging.Logger = logging.getLogger("trackside.integrations")

BATCH_HOOKS = {
    "on_step_begin": ("on_train_batch_begin", "on_batch_begin"),
    "on_step_end": ("on_train_batch_end", "on_batch_end"),
    "on_prediction_step": (
        *("on_test_batch_begin", "on_test_batch_end", "on_predict_batch_begin", "on_predict_batch_end"),
    ),
}
"""The events at which an adapter listens only if the callback overrides one of these methods."""

ON_FIRST_RANK = ("CSVLogger", "ProgbarLogger", "RemoteMonitor", "TensorBoard")
"""Callbacks that only write, to one place: they are called on the first process only."""

INSTEAD_OF_BACKUP = (
    "the checkpoints of the run replace it: remove it, save with save_strategy='epoch' (or 'steps'), and go on with "
    "train(resume_from_checkpoint=True)"
)


def check_callback(callback: Any) -> None:
    """Check that an adapter can call ``callback``.

    Raises:
        CallbackError: If it is not one instance of a callback of Keras, or one that the trainer replaces.
    """
    name = callback.__name__ if isinstance(callback, type) else type(callback).__name__
    if not hasattr(callback, "set_model") or not hasattr(callback, "on_train_batch_end"):
        raise CallbackError(f"KerasCallbackAdapter needs an instance of a Keras callback, not {callback!r}")
    if isinstance(callback, type):
        raise CallbackError(f"KerasCallbackAdapter needs an instance, not the class: KerasCallbackAdapter({name}(...))")
    if is_a(callback, "CallbackList"):
        raise CallbackError(
            "KerasCallbackAdapter takes one callback, not a CallbackList: give callbacks=[KerasCallbackAdapter(item) "
            "for item in callback_list.callbacks]"
        )
    if is_a(callback, "BackupAndRestore"):
        raise CallbackError(f"KerasCallbackAdapter does not take {name}: {INSTEAD_OF_BACKUP}")


def is_a(callback: Any, *names: str) -> bool:
    """Return whether a callback is of a class of Keras with one of these names, or of a subclass of it."""
    return any(cls.__name__ in names and "keras" in cls.__module__ for cls in type(callback).__mro__)


def overrides(callback: Any, *hooks: str) -> bool:
    """Return whether the callback overrides one of the methods, on its class or on itself."""
    base = next(cls for cls in type(callback).__mro__ if cls.__name__ == "Callback")
    return any(getattr(getattr(callback, hook), "__func__", None) is not getattr(base, hook) for hook in hooks)


def needs_batches(callback: Any, event: str) -> bool:
    """Return whether a callback does something at the batches of ``event``, so that each of them is worth a call."""
    if event == "on_step_end" and _is_exactly(callback, "ModelCheckpoint") and callback.save_freq == "epoch":
        return False
    if _is_exactly(callback, "TensorBoard") and not callback.write_steps_per_second:
        is_idle = callback.update_freq == "epoch" and not callback._should_trace
        return not is_idle and overrides(callback, *BATCH_HOOKS[event])
    return overrides(callback, *BATCH_HOOKS[event])


def _is_exactly(callback: Any, name: str) -> bool:
    return type(callback).__name__ == name and type(callback).__module__.startswith("keras.")


def check_run(callback: Any, args: Any, context: Mapping[str, Any], *, has_own_schedule: bool) -> None:
    """Check that a callback can do here what it does in ``fit``.

    Raises:
        CallbackError: If it cannot; the message says what to do instead.
    """
    name, kind = type(callback).__name__, str(getattr(args, "lr_scheduler_type", "constant"))
    if context.get("model") is not None and not is_keras_model(context["model"]):
        _check_without_keras(callback, name)
    elif is_a(callback, "SwapEMAWeights") and not getattr(context.get("optimizer"), "use_ema", True):
        raise CallbackError(
            f"{name} of Keras needs an optimizer that averages the weights: give "
            "optimizers=(keras.optimizers.AdamW(..., use_ema=True), None), or any other of Keras with use_ema=True"
        )
    elif is_a(callback, "ReduceLROnPlateau") and (kind != "constant" or has_own_schedule):
        schedule = "the schedule in optimizers=" if has_own_schedule else f"lr_scheduler_type={kind!r}"
        raise CallbackError(
            f"{name} of Keras lowers the learning rate, which {schedule} sets at each update: give "
            "lr_scheduler_type='constant', or leave the callback out and give lr_scheduler_type='reduce_lr_on_plateau'"
        )


def _check_without_keras(callback: Any, name: str) -> None:
    """Raise CallbackError if a callback needs a Keras model."""
    cures = {
        "ReduceLROnPlateau": "give lr_scheduler_type='reduce_lr_on_plateau'",
        "LearningRateScheduler": "give lr_scheduler_type, or a schedule in optimizers=",
        "ModelCheckpoint": "give save_strategy, and load_best_model_at_end=True for the best weights",
        "SwapEMAWeights": "average the weights in a callback, with torch.optim.swa_utils.AveragedModel",
    }
    cure = next((cure for kind, cure in cures.items() if is_a(callback, kind)), None)
    if is_a(callback, "EarlyStopping") and callback.restore_best_weights:
        name, cure = f"{name}(restore_best_weights=True)", "give load_best_model_at_end=True"
    if is_a(callback, "TensorBoard") and (callback.histogram_freq or callback.embeddings_freq):
        name, cure = f"{name} with histogram_freq or embeddings_freq", "leave these options out"
    if cure is not None:
        raise CallbackError(f"{name} of Keras needs a Keras model, and so TFTrainer. With Trainer, {cure}")


def set_direction(callback: Any) -> None:
    """Find out whether the metric that a callback monitors should rise or fall, before the first update.

    Keras does so at the end of the first epoch, from the metrics of the compiled model.

    Raises:
        CallbackError: If its name does not tell.
    """
    if getattr(callback, "monitor_op", "") is not None or not hasattr(callback, "_set_monitor_op"):
        return
    try:
        callback._set_monitor_op()
    except ValueError:
        mode = _mode_of(callback.monitor.removeprefix("val_"))
        if mode is None:
            raise CallbackError(
                f"{type(callback).__name__}(monitor={callback.monitor!r}) does not say whether the metric should rise "
                "or fall: give it mode='max' or mode='min'"
            ) from None
        callback.mode = mode
        callback._set_monitor_op()


def _mode_of(metric: str) -> str | None:
    """Return "max" or "min" for a metric of Keras by its name; None if it is not known."""
    import keras

    if metric.endswith(("accuracy", "acc")):
        return "max"
    try:
        found = keras.metrics.get(metric)
    except ValueError:
        return None
    direction = getattr(found() if isinstance(found, type) else found, "_direction", None)
    return None if direction is None else "max" if direction == "up" else "min"


# -- resuming ---------------------------------------------------------------------------------------------------------


def outside_state(callback: Any) -> dict[str, Any]:
    """Return what a checkpoint keeps of a callback beside its attributes: the length of the file of a CSVLogger."""
    if is_a(callback, "CSVLogger") and os.path.exists(callback.filename):
        return {"file_bytes": os.path.getsize(callback.filename)}
    return {}


def prepare_resumed(callback: Any, outside: Mapping[str, Any]) -> None:
    """Before on_train_begin of a resumed run: let a CSVLogger go on after the rows that the checkpoint knows."""
    if not is_a(callback, "CSVLogger"):
        return
    callback.append = True
    path, size = Path(callback.filename), outside.get("file_bytes")
    if size is not None and path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def remove(callback: Any, *, is_called: bool) -> None:
    """Have a callback leave a run: swap weights back, and warn of an on_train_end that is not called.

    Args:
        is_called: Whether its methods are called in this process.
    """
    undo_swap(callback)
    if is_called and overrides(callback, "on_train_end"):
        text = "%s of Keras is removed within the run, so that its on_train_end, which may close files, is not called"
        logger.warning(text, type(callback).__name__)


def undo_swap(callback: Any) -> None:
    """Let a SwapEMAWeights swap back, which Keras up to 3.15 leaves out after on_predict_end."""
    if is_a(callback, "SwapEMAWeights") and callback._ema_weights_in_model:
        callback._swap_variables()
        callback._ema_weights_in_model = False
