"""Keras adapter: Keras callbacks on either trainer."""

from __future__ import annotations

from typing import Any

from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.errors import CallbackError
from trackside.callbacks.state import TrainerControl, TrainerState
from trackside.callbacks.types import Role

from ._base.metric_names import Record

STEP_HOOKS = {"on_step_begin": "on_train_batch_begin", "on_step_end": "on_train_batch_end"}


class KerasCallbackAdapter(TrainerCallback):
    """Call a Keras callback when ``Model.fit`` would call it, and stop when the callback sets ``stop_training``.

    A Keras batch is an update of the trainer. ``on_epoch_end`` is called once the metrics of the epoch are known: after
    the evaluation, or the log, that the arguments request at the end of each epoch. ``logs`` holds the newest training
    record and the newest evaluation, under names that begin with ``val_`` as in Keras.

    The callback's ``model`` is the trainer's model, with the trainer's optimizer. The learning rate belongs to the
    trainer's schedule, which overwrites a value that the callback sets at the next update. A callback that saves, reads
    or sets weights through methods of a Keras model works with TFTrainer only.

    Args:
        callback: Instance of a subclass of ``keras.callbacks.Callback``.

    Raises:
        CallbackError: If ``callback`` is not such an instance.
    """

    role: Role = "control"

    def __init__(self, callback: Any) -> None:
        if not hasattr(callback, "set_model") or not hasattr(callback, "on_train_batch_end"):
            raise CallbackError(f"KerasCallbackAdapter needs an instance of a Keras callback, not {callback!r}")
        self.callback = callback
        self.name: str | None = f"keras_{type(callback).__name__}"
        self.logs: dict[str, Any] = {}
        self._ended_epoch: int | None = None
        self._epoch = self._step_in_epoch = 0
        self._reports_after = "log"
        self._in_test = False
        for event, hook in STEP_HOOKS.items():  # only if needed, since a listener may keep steps from being fused
            if _is_own(callback, hook):
                setattr(self, event, getattr(self, f"_{event}"))

    # -- training -------------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        steps = -(-state.max_steps // max(1, state.num_train_epochs))
        self.callback.set_params({"epochs": state.num_train_epochs, "steps": steps, "verbose": 0})
        self.callback.set_model(FittedModel(kwargs.get("model"), kwargs.get("optimizer")))
        self.logs, self._ended_epoch, self._in_test = {}, None, False
        self.callback.on_train_begin()

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._report_epoch_end(control)
        self._step_in_epoch = 0
        self._epoch = int(state.epoch or 0)
        self.callback.on_epoch_begin(self._epoch)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._ended_epoch = self._epoch
        self._reports_after = "evaluate" if args.eval_strategy == "epoch" else "log"
        if args.eval_strategy != "epoch" and args.logging_strategy != "epoch":
            self._report_epoch_end(control)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._report_epoch_end(control)
        self.callback.on_train_end(dict(self.logs))

    def _on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.callback.on_train_batch_begin(self._step_in_epoch, {})

    def _on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.callback.on_train_batch_end(self._step_in_epoch, dict(self.logs))
        self._step_in_epoch += 1
        self._stop_if_asked(control)

    # -- logs and evaluation --------------------------------------------------------------------------------------

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        if "loss" in logs:
            self.logs |= {name: value for name, value in logs.items() if name not in ("epoch", "step")}
            if self._ended_epoch is not None and self._reports_after == "log":
                self._report_epoch_end(control)

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self._in_test and self.callback.model is not None:
            self._in_test = True
            self.callback.on_test_begin()

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics: Record = kwargs["metrics"]
        found = {key.replace("eval_", "val_", 1): value for key, value in metrics.items() if key != "epoch"}
        self.logs |= {key: value for key, value in found.items() if not key.endswith(("_runtime", "_per_second"))}
        if self._in_test:
            self._in_test = False
            self.callback.on_test_end({key.removeprefix("val_"): value for key, value in found.items()})
        self._report_epoch_end(control)

    def _report_epoch_end(self, control: TrainerControl) -> None:
        if self._ended_epoch is not None:
            epoch, self._ended_epoch = self._ended_epoch, None
            self.callback.on_epoch_end(epoch, dict(self.logs))
            self._stop_if_asked(control)

    def _stop_if_asked(self, control: TrainerControl) -> None:
        if getattr(self.callback.model, "stop_training", False):
            control.stop(f"{type(self.callback).__name__} of Keras asked for it")


class FittedModel:
    """A proxy of a model, with the attributes that a Keras callback expects during ``Model.fit``.

    Args:
        model: Model that all other attributes are read from and set on, and that calls are passed to.
        optimizer: Optimizer of the trainer.
    """

    OWN = frozenset({"optimizer", "stop_training", "train_function"})

    def __init__(self, model: Any, optimizer: Any) -> None:
        vars(self).update(model=model, optimizer=optimizer, stop_training=False, train_function=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["model"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.OWN:
            vars(self)[name] = value
        else:
            setattr(vars(self)["model"], name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)["model"](*args, **kwargs)


def _is_own(callback: Any, hook: str) -> bool:
    """Return whether the callback overrides ``hook``, or its older name such as ``on_batch_end``."""
    base = next(cls for cls in type(callback).__mro__ if cls.__name__ == "Callback")
    names = (hook, hook.replace("train_batch", "batch"))
    return any(getattr(getattr(callback, name), "__func__", None) is not getattr(base, name) for name in names)
