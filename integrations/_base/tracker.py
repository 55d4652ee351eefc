"""What all trackers have in common: when a run is opened and closed, which values it gets, and under which names."""

from __future__ import annotations

import importlib
import random
import secrets
import sys
from collections.abc import Mapping
from typing import Any, Literal

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.errors import MissingPackageError
from trackside.callbacks.state import TrainerControl, TrainerState

from .metric_names import as_number, rewrite_logs

Status = Literal["finished", "failed", "killed"]


class Tracker(TrainerCallback):
    """Show every log record in a tool that keeps runs.

    A subclass says how to `open` a run, `write` values and `close` it. One run of the tool is one run of the trainer:
    a fresh ``train()`` starts a new one, a resumed one goes on with the one that the checkpoint knows. What that run
    shows already is not written again, also where a killed run had gone on after its checkpoint, and what it lacks is
    added from ``state.log_history``, so that in the end the run equals the history whatever happened in between.

    An evaluation outside of training goes to the run of the last training. Only the first process writes.

    Attributes:
        run_id: The run that is open, or was open last, as the tool names it.
    """

    role = "observer"
    background = True
    package = ""
    """The module of the tool."""
    extra = ""
    """The extra of trackside that brings it."""

    def __init__(self) -> None:
        if not is_installed(self.package):
            raise MissingPackageError(self.package, type(self).__name__, extra=self.extra)
        self.run_id: str | None = None
        self._is_open = False
        self._is_training = False
        self._status: Status | None = None
        self._shown: dict[str, int] | None = None

    # -- what a tool has to do ------------------------------------------------------------------------------------

    def open(self, args: Any, state: TrainerState, is_known: bool, **kwargs: Any) -> None:
        """Start a run, or go on with the run ``run_id`` if it ``is_known``; leave its id in ``run_id``."""
        raise NotImplementedError

    def write(self, values: dict[str, float], step: int) -> None:
        """Add one point to each curve."""
        raise NotImplementedError

    def last_step(self, name: str) -> int:
        """Return the last step of a curve in a run that was opened again; -1 for none."""
        raise NotImplementedError

    def close(self, status: Status, state: TrainerState) -> None:
        """End the run."""
        raise NotImplementedError

    # -- when it does it ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {} if self.run_id is None else {"run_id": self.run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run_id = state.get("run_id")

    def on_init_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # here, before any training: some of what trackers import draws from Python's global random numbers
        if self.is_writer(state):
            import_quietly(self.package)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self.is_writer(state):
            return
        if state.global_step == 0:
            self.run_id = None
        self._close("finished", state)
        self._is_training, self._status = True, None
        self._open(args, state, **kwargs)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not self.is_writer(state) or not logs:
            return
        if not self._is_open:
            self._open(args, state, **kwargs)
            if self._is_training:
                return  # the history, with this record, was written just now
        self._write(logs, state.global_step)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self._is_training:
            self._close("finished", state)

    def on_exception(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        exception: BaseException | None = None,
        **kwargs: Any,
    ) -> None:
        self._status = "failed" if isinstance(exception, Exception) else "killed"

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        killed = (state.stop_reason or "").startswith("received SIG")
        self._close(self._status or ("killed" if killed else "finished"), state)
        self._is_training = False

    def is_writer(self, state: TrainerState) -> bool:
        """Return whether this process writes."""
        return state.is_world_process_zero

    # -- how ------------------------------------------------------------------------------------------------------

    def _open(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        is_known = self.run_id is not None
        if self.run_id is None:
            self.run_id = new_id()  # at once, since a checkpoint may ask for it while the tool is still starting
        import_quietly(self.package)
        self.open(args, state, is_known, **kwargs)
        self._is_open = True
        self._shown = {} if is_known and self._is_training else None
        if self._is_training:
            for record in state.log_history:
                self._write(record, record["step"])

    def _write(self, logs: Mapping[str, Any], step: int) -> None:
        values = {name: value for name, value in numbers(logs).items() if step > self._last_shown(name)}
        if values:
            self.write(values, step)

    def _last_shown(self, name: str) -> int:
        if self._shown is None:
            return -1
        if name not in self._shown:
            self._shown[name] = self.last_step(name)
        return self._shown[name]

    def _close(self, status: Status, state: TrainerState) -> None:
        if self._is_open:
            self._is_open = False
            self.close(status, state)


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a number in a log record, under the names that trackers show."""
    named = {name: as_number(value) for name, value in rewrite_logs(logs).items()}
    return {name: value for name, value in named.items() if value is not None}


def values_of(args: Any) -> dict[str, Any]:
    """Return the arguments as plain values, whatever class they are of."""
    if hasattr(args, "to_sanitized_dict"):
        return dict(args.to_sanitized_dict())
    plain = bool | int | float | str
    return {name: value if isinstance(value, plain) else str(value) for name, value in vars(args).items()}


def import_quietly(package: str) -> None:
    """Import ``package``, and leave Python's global random numbers where they are."""
    if package not in sys.modules:
        before = random.getstate()
        importlib.import_module(package)
        random.setstate(before)


def new_id() -> str:
    """Return a new id for a run; does not touch the random numbers that training may use."""
    return secrets.token_hex(16)
