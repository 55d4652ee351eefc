"""Tracker: base class of integrations that write log records to an experiment tracker."""

from __future__ import annotations

import importlib
import logging
import random
import secrets
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from trackside.callbacks._util.imports import require_package
from trackside.callbacks._util.plain_data import sanitized
from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.state import TrainerControl, TrainerState
from trackside.callbacks.types import Record, Role

from .metric_names import numbers_in, rewrite_logs

logger: logging.Logger = logging.getLogger("trackside.integrations")

Status = Literal["finished", "failed", "killed"]


class Tracker(TrainerCallback, ABC):
    """Write every log record to a tool that keeps runs.

    A subclass defines how to `open` a run, `write` values and `close` the run. One run of the tool is one run of the
    trainer: a fresh ``train()`` starts a new run, a resumed one continues the run named in the checkpoint. Points that
    this run holds already are not written again, even if the killed process had continued after the checkpoint. Points
    that it lacks are added from ``state.log_history``, so that in the end the run equals the history.

    What is logged outside of training, such as an evaluation, goes to the run of the last training, which is opened for
    each record and closed again. Only the first process writes.

    Attributes:
        package: Top-level module of the tool; empty if there is nothing to import.
        writes_elsewhere: Whether it stays out of a development run (``fast_dev_run``).
        run_id: Id in the tool of the run that is open, or was open last.

    Raises:
        MissingPackageError: If the package is not installed.
    """

    role: Role = "observer"
    background: bool = True
    package: str = ""
    writes_elsewhere: bool = True

    def __init__(self) -> None:
        if self.package:
            require_package(self.package, type(self).__name__, self.name)
        self.run_id: str | None = None
        self._is_open = False
        self._is_training = False
        self._status: Status | None = None
        self._last_steps: Mapping[str, int] | None = None
        self._shown: dict[str, int] | None = None
        self._opened_at_step = 0
        self._left_out: set[str] = set()

    # -- what a subclass defines ----------------------------------------------------------------------------------

    @abstractmethod
    def open(self, args: Any, state: TrainerState, resume: bool, **kwargs: Any) -> None:
        """Start a run and store its id in ``run_id``, or continue the run ``run_id``.

        Args:
            args: Arguments of the run.
            state: State of the run.
            resume: Whether ``run_id`` is that of an earlier part of this run; otherwise it is new.
            kwargs: Context of the event, such as ``model``.
        """

    @abstractmethod
    def write(self, values: dict[str, float], step: int) -> None:
        """Add one point to each curve.

        Args:
            values: Numbers by name of the curve, such as ``train/loss``.
            step: Step of all of them.
        """

    @abstractmethod
    def close(self, status: Status, state: TrainerState) -> None:
        """End the run that is open."""

    def last_steps(self) -> Mapping[str, int] | None:
        """Return the last step of every curve in a run that is continued; called once, after `open`.

        Returns:
            Steps by name of the curve; a curve that is missing has no points. None if the steps are unknown: then all
            points up to the step of the checkpoint count as written.
        """
        return {}

    def last_step(self, name: str) -> int | None:
        """Return the last step of a curve in a run that is continued, -1 if it has no points, or None if unknown.

        Override it instead of `last_steps` for a tool that is asked curve by curve.
        """
        return None if self._last_steps is None else self._last_steps.get(name, -1)

    def new_run_id(self, args: Any) -> str:
        """Return the id of a new run. Does not draw from the random numbers that training may use."""
        return secrets.token_hex(16)

    def is_writer(self, state: TrainerState) -> bool:
        """Return whether this process writes."""
        return state.is_world_process_zero

    # -- events ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {} if self.run_id is None else {"run_id": self.run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run_id = state.get("run_id")

    def on_init_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.package and self.is_writer(state):
            # before training: some tools draw from Python's global random numbers when they are imported
            import_quietly(self.package)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self.is_writer(state):
            return
        if state.global_step == 0:
            self.run_id = None
        self._close("finished", state)
        self._is_training, self._status = True, None
        self._open(args, state, **kwargs)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        if not self.is_writer(state) or not logs:
            return
        if not self._is_training:
            self._add(logs, args, state, **kwargs)
        elif self._is_open:
            self._write(logs, state.global_step)
        else:
            self._open(args, state, **kwargs)  # this writes the history, which holds this record

    def on_predict(
        self, args: Any, state: TrainerState, control: TrainerControl, *, metrics: Record, **kwargs: Any
    ) -> None:
        if not self.is_writer(state) or not metrics:
            return
        if not self._is_training:
            self._add(metrics, args, state, **kwargs)
            return
        if not self._is_open:
            self._open(args, state, **kwargs)
        self._write(metrics, state.global_step)

    def on_exception(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._status = "failed" if isinstance(kwargs.get("exception"), Exception) else "killed"

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._status = self._status or ("killed" if state.stopped_by else "finished")
        self._close(self._status, state)
        self._is_training = False

    def undo(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        """End the run in the tool when the callback is removed within a run; attached again, it continues that run."""
        self._close("finished", state)

    # -- opening, writing, closing --------------------------------------------------------------------------------

    def _open(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        resume = self.run_id is not None
        if self.run_id is None:
            self.run_id = self.new_run_id(args)  # at once: a checkpoint may be saved while the tool is still starting
        if self.package:
            import_quietly(self.package)
        self.open(args, state, resume, **kwargs)
        self._is_open = True
        self._shown, self._opened_at_step = None, state.global_step
        if resume and self._is_training:
            self._shown, self._last_steps = {}, self.last_steps()
        if self._is_training:
            for record in state.log_history:
                self._write(record, record["step"])

    def _add(self, logs: Record, args: Any, state: TrainerState, **kwargs: Any) -> None:
        """Add a record outside of training to the run of the last training, which ends as it had ended."""
        if not numbers_in(rewrite_logs(logs)):
            self._write(logs, state.global_step)  # which tells what is left out
            return
        self._open(args, state, **kwargs)
        try:
            self._write(logs, state.global_step)
        finally:
            self._close(self._status or "finished", state)

    def _write(self, logs: Record, step: int) -> None:
        shown = rewrite_logs(logs)
        numbers = numbers_in(shown)
        if left_out := shown.keys() - numbers.keys() - self._left_out:
            self._left_out |= left_out
            names = ", ".join(sorted(left_out))
            logger.warning("%s shows only numbers; it leaves out %s", type(self).__name__, names)
        values = {name: value for name, value in numbers.items() if step > self._last_shown(name)}
        if values:
            self.write(values, step)

    def _last_shown(self, name: str) -> int:
        if self._shown is None:
            return -1
        if name not in self._shown:
            last = self.last_step(name)
            self._shown[name] = self._opened_at_step if last is None else last
        return self._shown[name]

    def _close(self, status: Status, state: TrainerState) -> None:
        if self._is_open:
            self._is_open = False
            self.close(status, state)


def run_name_of(args: Any, chosen: str | None = None) -> str:
    """Return the name of a run: the one that was chosen, else ``args.run_name``, else the name of the output folder."""
    return str(chosen or getattr(args, "run_name", None) or Path(args.output_dir).resolve().name)


def values_of(args: Any) -> dict[str, Any]:
    """Return arguments of any class as plain values by name."""
    if hasattr(args, "to_sanitized_dict"):
        return dict(args.to_sanitized_dict())
    return dict(sanitized(vars(args)))


def import_quietly(package: str) -> None:
    """Import ``package``, and restore the state of Python's global random numbers, which some packages change."""
    if package not in sys.modules:
        before = random.getstate()
        importlib.import_module(package)
        random.setstate(before)
