"""Loggers written for Lightning, on either trainer."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.errors import TracksideTypeError
from trackside.callbacks.state import TrainerControl, TrainerState

from ._base.tracker import numbers, values_of

METHODS = ("log_hyperparams", "log_metrics", "save", "finalize")


class LightningLoggerAdapter(TrainerCallback):
    """Let a logger written for Lightning log the records and arguments of a run.

    A logger cannot be asked what it shows already. A resumed run therefore begins with the whole history, which is
    right where the logger writes to a new version, as loggers do unless they are told otherwise.

    Args:
        logger: Such as ``lightning.pytorch.loggers.CSVLogger("logs")``.

    Raises:
        TracksideTypeError: If it lacks a method of Lightning's loggers.
    """

    role = "observer"
    name = "lightning_logger"
    background = True

    def __init__(self, logger: Any) -> None:
        missing = [method for method in METHODS if not callable(getattr(logger, method, None))]
        if missing:
            raise TracksideTypeError(f"{type(logger).__name__} is no Lightning logger: it has no {', '.join(missing)}")
        self.logger = logger
        self._status = "success"

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._status = "success"
        self.logger.log_hyperparams(Namespace(**values_of(args)))
        for record in state.log_history:
            self._log(record, record["step"])

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            self._log(logs, state.global_step)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.logger.save()

    def on_exception(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        exception: BaseException | None = None,
        **kwargs: Any,
    ) -> None:
        self._status = "failed" if isinstance(exception, Exception) else "aborted"

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.logger.save()
            self.logger.finalize(self._status)

    def _log(self, logs: Mapping[str, Any], step: int) -> None:
        self.logger.log_metrics(numbers(logs), step)
