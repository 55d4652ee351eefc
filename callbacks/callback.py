"""The base class of callbacks: what stands beside the track."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from .state import TrainerControl, TrainerState

Role = Literal["control", "observer"]
OnError = Literal["raise", "warn", "detach"]


class TrainerCallback:
    """Override the events you want; those you do not override cost nothing.

    Every method gets the arguments, the state and the control of the run, and by keyword ``trainer``, ``model``,
    ``optimizer``, ``lr_scheduler``, ``train_dataloader``, ``eval_dataloader``, ``processing_class`` and ``tokenizer``,
    plus what the event carries. Change ``control`` in place, or return one.

    A monitor adds values of its own to every training record: it has one more method, which this class leaves out so
    that others cost nothing, ``metrics_to_log(self, args, state, **context) -> dict[str, float]``. It is asked when a
    record is about to be written, and gets the same keywords as the events.

    Attributes:
        role: "control" steers the run; "observer" only watches it (trackers, progress bars).
        on_error: What an exception of this callback does: "raise" ends the run, "warn" reports it and detaches the
            callback after three failures in a row, "detach" detaches it at the first. Without a value: "raise" for
            control, "warn" for observers.
        name: The name under which its state, its costs and its place in the order are kept; without a value it is
            made from the class name (EarlyStoppingCallback: early_stopping).
        background: Whether an observer runs on a thread of its own, so that it never holds up training (see
            `trackside.callbacks.bus.background`).
        timeout_s: One call in the background that takes longer is given up, and the callback detached.
        waits_at: Events at which training waits for the callback although it runs in the background, since it reads
            what training changes, such as the weights.
        is_collective: Whether it calls ``trainer.gather_objects``, at which all processes must meet; train() sees to it
            that it is attached to all of them.

    Example:
        >>> class StopAt(TrainerCallback):
        ...     def on_step_end(self, args, state, control, **kwargs):
        ...         if state.global_step >= 10:
        ...             control.stop("ten steps are enough")
    """

    role: ClassVar[Role] = "control"
    on_error: ClassVar[OnError | None] = None
    name: ClassVar[str | None] = None
    background: ClassVar[bool] = False
    timeout_s: ClassVar[float] = 30.0
    waits_at: ClassVar[frozenset[str]] = frozenset()
    is_collective: ClassVar[bool] = False

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep of this callback, as JSON values; empty for nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def on_init_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The trainer is built."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """All is set up and restored; the first epoch comes next."""

    def on_load(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A checkpoint was restored: ``checkpoint`` is its path, ``differences`` the arguments that changed since."""

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """An epoch begins; the sampler knows which."""

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """An update begins; its first micro-batch comes next."""

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A micro-batch that is not the last of its update went forward and backward."""

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Gradients are unscaled and clipped; ``grad_norm`` is their norm before, on the device until read."""

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The optimizer stepped, gradients are still there; ``skipped`` if the loss scaler held the step back."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """``state.global_step`` rose by one."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A record was added to ``state.log_history``; ``logs`` is a copy of it."""

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A batch of an evaluation or a prediction is done."""

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """An evaluation is done and logged; ``metrics`` is a copy of its result."""

    def on_predict(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A prediction is done; ``metrics`` is a copy of its result."""

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A checkpoint is committed and old ones are removed; ``checkpoint`` is its path."""

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """An epoch ended, or was cut short."""

    def on_exception(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Training raised ``exception``."""

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Training is over, also after an exception."""

    def on_callback_error(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The observer named ``callback`` was detached because of ``error``."""
