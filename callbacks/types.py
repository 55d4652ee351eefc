"""Types of what a callback declares, what its methods are given, and the arguments that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

Role = Literal["control", "observer"]
"""Whether a callback steers the run or only watches it."""

OnError = Literal["raise", "warn", "detach"]
"""What an exception of a callback does."""

WhenFull = Literal["wait", "drop"]
"""What training does when the queue of a callback in the background is full."""

Record: TypeAlias = Mapping[str, Any]
"""A log record, or the metrics of an evaluation."""


class TrainingArgumentsLike(Protocol):
    """The training arguments as far as callbacks read them; those of transformers fit, too."""

    @property
    def output_dir(self) -> str: ...
    @property
    def logging_dir(self) -> str | None: ...
    @property
    def run_name(self) -> str | None: ...
    @property
    def logging_strategy(self) -> str: ...
    @property
    def logging_first_step(self) -> bool: ...
    @property
    def eval_strategy(self) -> str: ...
    @property
    def eval_delay(self) -> float: ...
    @property
    def save_strategy(self) -> str: ...
    @property
    def metric_for_best_model(self) -> str | None: ...
    @property
    def greater_is_better(self) -> bool | None: ...
    @property
    def gradient_accumulation_steps(self) -> int: ...


Args: TypeAlias = TrainingArgumentsLike
"""A short name, for signatures."""


class Context(TypedDict):
    """What every method of a callback, and every listener, gets by keyword; the last two are None outside of a run."""

    trainer: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any
    train_dataloader: Any
    eval_dataloader: Any
    processing_class: Any
    tokenizer: Any
    step_timer: Any
    evaluation_batch: Any
    current_epoch: Any
    header: Any


class LoadContext(Context):
    """What comes with on_load: the checkpoint's path, and the arguments that differ from those it was saved with."""

    checkpoint: str
    differences: dict[str, Any]


class PreOptimizerStepContext(Context):
    """What comes with on_pre_optimizer_step.

    ``grad_norm`` is the norm of all gradients before clipping, on the device until read. ``loss()`` is the mean loss of
    the update over all processes, None if nothing in it counts; a call waits for the device, and all processes make it
    together.
    """

    grad_norm: Any
    loss: Callable[[], float | None]


class OptimizerStepContext(Context):
    """What comes with on_optimizer_step: whether the loss scaler skipped the step."""

    skipped: bool


class LogContext(Context):
    """What comes with on_log: the receiver's own copy of the record."""

    logs: dict[str, Any]


class MetricsContext(Context):
    """What comes with on_predict: the receiver's own copy of the metrics."""

    metrics: dict[str, float]


class EvaluateContext(MetricsContext):
    """What comes with on_evaluate: the metrics, and whether it is the evaluation that the loop asked for."""

    scheduled: bool


class SaveContext(Context):
    """What comes with on_save: the path of the committed checkpoint."""

    checkpoint: str


class ExceptionContext(Context):
    """What comes with on_exception: the exception that ended training."""

    exception: BaseException


class CallbackErrorContext(Context):
    """What comes with on_callback_error: the name of the detached callback, and its last exception."""

    callback: str
    error: BaseException


CONTEXTS: dict[str, type[Context]] = {
    "on_load": LoadContext,
    "on_pre_optimizer_step": PreOptimizerStepContext,
    "on_optimizer_step": OptimizerStepContext,
    "on_log": LogContext,
    "on_evaluate": EvaluateContext,
    "on_predict": MetricsContext,
    "on_save": SaveContext,
    "on_exception": ExceptionContext,
    "on_callback_error": CallbackErrorContext,
}
"""What comes by keyword with the events that have a payload."""


def keywords_of(event: str) -> list[str]:
    """Return the names of what every method and listener of ``event`` gets by keyword."""
    return [*CONTEXTS.get(event, Context).__annotations__]
