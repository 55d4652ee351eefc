"""The base class of callbacks."""

from __future__ import annotations

from typing import Any, Unpack

from ._util.display import called_with, options_of, short_repr
from .state import TrainerControl as Control
from .state import TrainerState as State
from .types import (
    Args,
    CallbackErrorContext,
    Context,
    EvaluateContext,
    ExceptionContext,
    LoadContext,
    LogContext,
    MetricsContext,
    OnError,
    OptimizerStepContext,
    PreOptimizerStepContext,
    Role,
    SaveContext,
)


class TrainerCallback:
    """Watch or steer a run: override the methods of the events that you need; the others are never called.

    Every method gets the arguments, the state and the control of the run, and by keyword ``trainer``, ``model``,
    ``optimizer``, ``lr_scheduler``, ``train_dataloader``, ``eval_dataloader``, ``processing_class``, ``tokenizer`` and
    the payload of the event. Change ``control`` in place, or return one.

    A monitor, which adds values to every training record, has one more method that this class leaves out so that the
    others cost nothing: ``metrics_to_log(self, args, state, **context) -> dict[str, float]``. It is called when a
    record is about to be written, with the same keywords as the events.

    A method ``loss_not_finite(self, args, state, control, *, step, loss)`` is called once in a run, when the loss of an
    update is not finite: on a CPU at the end of that update, on a device when the host waits for it anyway.

    Another method that this class leaves out is ``accepts_state(self, args, state) -> bool``: whether a state in a
    checkpoint is the callback's own. With it, a callback begins anew where the state under its name is of something
    else, and finds its own under another name.

    A callback that changes the model or the trainer, or holds something open, has a method ``undo(self, args, state,
    **context)``: it is called when the callback is removed within a run, with the keywords of the events, and puts back
    what it has changed, and closes what it has opened.

    Attributes:
        role: "control" steers the run; "observer" only watches it (trackers, progress bars).
        on_error: What an exception of this callback does: "raise" ends the run, "warn" reports it and detaches the
            callback after three failures in a row, "detach" detaches it at the first. None: "raise" for control, "warn"
            for observers.
        name: The name under which its state, its costs and its position are kept. None: a name made from that of the
            class (EarlyStoppingCallback: early_stopping).
        background: Whether an observer runs on a thread of its own, so that it does not slow training (see
            `trackside.callbacks.bus.background`).
        timeout_s: A call in the background that takes longer is abandoned, and the callback detached.
        waits_at: Events at which training waits for a callback in the background, since it reads what training changes,
            such as the weights.
        is_collective: Whether it calls ``trainer.gather_objects``, or ``loss()`` of on_pre_optimizer_step, which all
            processes must call together; train() checks that it is attached on all of them.

    Example:
        >>> class StopAt(TrainerCallback):
        ...     def on_step_end(self, args, state, control, **kwargs):
        ...         if state.global_step >= 10:
        ...             control.stop("ten steps are enough")
    """

    role: Role = "control"
    on_error: OnError | None = None
    name: str | None = None
    background: bool = False
    timeout_s: float = 30.0
    waits_at: frozenset[str] = frozenset()
    is_collective: bool = False

    @short_repr
    def __repr__(self) -> str:
        """Return the class and those options that are not the default."""
        return called_with(type(self).__name__, options_of(self))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep of this callback, as JSON values; empty for nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def on_init_end(self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]) -> Control | None:
        """The trainer is built."""

    def on_train_begin(self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]) -> Control | None:
        """Everything is set up and restored; the first epoch comes next."""

    def on_load(self, args: Args, state: State, control: Control, **kwargs: Unpack[LoadContext]) -> Control | None:
        """A checkpoint was restored: ``checkpoint`` is its path, ``differences`` the arguments that changed since."""

    def on_epoch_begin(self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]) -> Control | None:
        """An epoch begins; the sampler knows its number."""

    def on_step_begin(self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]) -> Control | None:
        """An update begins; its first micro-batch comes next."""

    def on_substep_end(self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]) -> Control | None:
        """A micro-batch that is not the last of its update went forward and backward."""

    def on_pre_optimizer_step(
        self, args: Args, state: State, control: Control, **kwargs: Unpack[PreOptimizerStepContext]
    ) -> Control | None:
        """Gradients are unscaled and clipped; ``grad_norm`` is their norm before, on the device until read.

        ``loss()`` returns the mean loss of the update, over all processes, which call it together.
        """

    def on_optimizer_step(
        self, args: Args, state: State, control: Control, **kwargs: Unpack[OptimizerStepContext]
    ) -> Control | None:
        """The optimizer stepped, or not (``skipped``: by the loss scaler, or a callback); the schedule is as before."""

    def on_step_end(self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]) -> Control | None:
        """``state.global_step`` rose by one."""

    def on_log(self, args: Args, state: State, control: Control, **kwargs: Unpack[LogContext]) -> Control | None:
        """A record was added to ``state.log_history``; ``logs`` is a copy of it."""

    def on_evaluate_begin(
        self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]
    ) -> Control | None:
        """An evaluation begins; no batch of it was read, and the model is still in training mode."""

    def on_predict_begin(self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]) -> Control | None:
        """A prediction begins; no batch of it was read, and the model is still in training mode."""

    def on_prediction_step(
        self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]
    ) -> Control | None:
        """A batch of an evaluation or a prediction is done."""

    def on_evaluate(
        self, args: Args, state: State, control: Control, **kwargs: Unpack[EvaluateContext]
    ) -> Control | None:
        """An evaluation is done and logged: a copy of its ``metrics``, and whether the run ``scheduled`` it."""

    def on_predict(
        self, args: Args, state: State, control: Control, **kwargs: Unpack[MetricsContext]
    ) -> Control | None:
        """A prediction is done; ``metrics`` is a copy of its result."""

    def on_save(self, args: Args, state: State, control: Control, **kwargs: Unpack[SaveContext]) -> Control | None:
        """A checkpoint is committed and old ones are removed; ``checkpoint`` is its path."""

    def on_epoch_end(self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]) -> Control | None:
        """An epoch ended, or was cut short."""

    def on_exception(
        self, args: Args, state: State, control: Control, **kwargs: Unpack[ExceptionContext]
    ) -> Control | None:
        """Training raised ``exception``."""

    def on_train_end(self, args: Args, state: State, control: Control, **kwargs: Unpack[Context]) -> Control | None:
        """Training is over, also after an exception."""

    def on_callback_error(
        self, args: Args, state: State, control: Control, **kwargs: Unpack[CallbackErrorContext]
    ) -> Control | None:
        """The observer named ``callback`` was detached because of ``error``."""
