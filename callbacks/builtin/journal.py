"""Journal: every event of a run as one line of JSON, in the order of sending."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .._util.atomic_files import append_line, is_at, open_to_append
from .._util.conversion import convert, hints_of
from .._util.plain_data import plain
from ..errors import TracksideValueError
from ..events import EVENTS
from ..secrets import masked, scrub
from ..state import FLAGS, TrainerControl, TrainerState
from ..types import Args
from .log_file import FileCallback

logger: logging.Logger = logging.getLogger("trackside.callbacks")

PAYLOAD = ("logs", "metrics", "checkpoint", "differences", "scheduled", "skipped", "callback", "error", "exception")
"""The payload that is written; without the gradient norm, since reading it waits for the device."""

DECIDED_BY = {"on_evaluate": "should_evaluate", "on_save": "should_save", "on_load": "should_roll_back"}
"""The flag that each of these events follows from; it is cleared by then."""

COUNTED_AT = ("on_log", "on_train_end")
"""Events at which the costs are written: often enough for a killed run to have them."""

COSTS = ("calls", "seconds", "background_s", "dropped", "failures", "detached_after")
"""What is written of each callback's costs."""

LEFT_OUT = frozenset({"log_history", "stateful_callbacks", "callback_classes", "extra"})
"""Fields of the state that are not written; the records are in the journal as events."""


SHAPES: dict[str, Any] = {
    "event": str,
    "step": int,
    "epoch": int | float | None,
    "run": str,
    "header": str,
    "checkpoint": str | None,
    **dict.fromkeys(("args", "state", "logs", "metrics", "differences"), dict),
}
"""Keys of a line, each with the types of its value."""

NEEDED = {"on_train_begin": ("run", "args"), "on_log": ("logs",), "on_evaluate": ("metrics",)}
"""What a line of these events has besides."""


class JournalCallback(FileCallback):
    """Append every event to a file, by default ``output_dir/journal.jsonl``.

    A line holds ``event``, ``time``, ``step`` and ``epoch``; ``state``, the fields that changed since the line before;
    ``decisions``, the flags that are set, each with the callback that set it or why the trainer did; and what the event
    carries. on_train_begin also has the ``run``'s id, its ``args`` and its ``header``; on_evaluate and on_save have the
    reason (``because``); each record and the end of the run have the ``costs`` of all callbacks so far. Each line is
    written at once, so that a killed run leaves all lines but the last, which may be torn. A resumed run appends to the
    same file.

    Receiving every event has a price: on_save makes commits synchronous, and the events within an update prevent
    several updates in one call. ``on:`` in a config, or ``on=`` of `add_callback`, leaves events out.

    Args:
        path: The file; None: journal.jsonl in ``args.output_dir``.
    """

    name: str | None = "journal"
    default_name: str = "journal.jsonl"
    background: bool = True

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(path)
        self.run: str | None = None
        """The id of the run; a resumed run keeps it."""
        self._known: dict[str, Any] = {}
        self._is_in_run = False
        self._first: tuple[Path, dict[str, Any]] | None = None
        self._begun: dict[str, Any] = {}
        for event in EVENTS:
            setattr(self, event, partial(self._note, event))

    def state_dict(self) -> dict[str, Any]:
        return {} if self.run is None else {"run": self.run}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run = state.get("run")

    def _note(self, event: str, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        entry: dict[str, Any] = {"event": event, "time": time.time(), "step": state.global_step, "epoch": state.epoch}
        if event == "on_train_begin":
            entry.update(self._begin(args, state))
            if isinstance(header := kwargs.get("header"), str):
                entry["header"] = scrub(header)
            self._begun = {key: entry[key] for key in ("run", "args", "header") if key in entry}
        elif changed := self._changes(state):
            entry["state"] = _plain(changed)
        if decisions := decisions_of(control):
            entry["decisions"] = decisions
        if self._is_in_run and event in DECIDED_BY and (reason := control.reasons.get(DECIDED_BY[event])):
            entry["because"] = reason
        entry.update({key: _plain(kwargs[key]) for key in PAYLOAD if key in kwargs})
        if event in COUNTED_AT:
            report = dict(getattr(kwargs.get("trainer"), "callback_report", {}))
            entry["costs"] = {name: {key: getattr(item, key) for key in COSTS} for name, item in report.items()}
        if event == "on_init_end":  # the folder may be another run's: this one has not asked for it yet
            self._first = (self.log_file_of(args).absolute(), entry)
            self._known.update(self._changes(state))
            return
        try:
            self._write(args, entry)
            self._known.update(self._changes(state))
        finally:
            self._is_in_run = self._is_in_run and event != "on_train_end"
            if not self._is_in_run:  # an event that comes after the end must not leave the file open
                self.close()

    def _begin(self, args: Args, state: TrainerState) -> dict[str, Any]:
        if state.global_step == 0 or self.run is None:
            self.run = uuid.uuid4().hex
        self.stay()
        self.close()  # events before the run may have gone into another folder
        self._known = {}
        self._is_in_run = True
        values = args.to_dict() if hasattr(args, "to_dict") else masked(vars(args))
        return {"run": self.run, "args": _plain(values), "state": _plain(self._changes(state))}

    def _changes(self, state: TrainerState) -> dict[str, Any]:
        values = {key: value for key, value in vars(state).items() if key not in LEFT_OUT and not key.startswith("_")}
        del values["global_step"], values["epoch"]
        return {key: value for key, value in values.items() if key not in self._known or self._known[key] != value}

    def _write(self, args: Args, entry: Mapping[str, Any]) -> None:
        if self._first is not None:
            path, first = self._first
            self._first = None
            with open_to_append(path) as file:
                append_line(file, json.dumps(first) + "\n")
        path = self.log_file_of(args)
        if self._file is not None and not is_at(self._file, path):
            self.close()
        if self._file is None:
            self._file = open_to_append(path)
            if self._is_in_run and entry["event"] != "on_train_begin" and path.stat().st_size == 0:
                append_line(self._file, json.dumps(self._begin_again(entry)) + "\n")
        append_line(self._file, json.dumps(entry) + "\n")

    def _begin_again(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the first line of a file that was removed within the run: the run goes on here, as a resumed one."""
        place = {key: entry[key] for key in ("time", "step", "epoch")}
        return {"event": "on_train_begin", **place, **self._begun, "state": _plain(self._known)}


def _plain(value: Any) -> Any:
    return plain(value, "an event", rest=lambda other: scrub(repr(other)))


def decisions_of(control: TrainerControl) -> dict[str, Any]:
    """Return the flags that are set, each with its reason."""
    decisions = {flag: control.reasons.get(flag, "a listener") for flag in FLAGS if getattr(control, flag)}
    if control.rate_factor != 1.0:
        decisions["rate_factor"] = control.reasons.get("rate_factor", "a listener")
    if control.stop_reason is not None:
        decisions["should_training_stop"] = control.stop_reason
    return decisions


def read_journal(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield every event of a journal.

    Torn lines are left out; so are lines that no journal holds, of which one warning tells the number.
    """
    foreign = 0
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if is_event(entry):
                yield entry
            else:
                foreign += 1
    if foreign:
        logger.warning("%s: lines that are not events are left out: %d", path, foreign)


def is_event(entry: Any) -> bool:
    """Return whether ``entry`` is an event as a journal holds it.

    Example:
        >>> is_event({"event": "on_step_end", "step": 3, "epoch": 0.5}), is_event({"event": "on_log", "step": "3"})
        (True, False)
    """
    if not isinstance(entry, dict) or not {"event", "step", "epoch"} <= set(entry):
        return False
    if any(not isinstance(entry[key], kinds) for key, kinds in SHAPES.items() if key in entry):
        return False
    if entry["event"] not in EVENTS or not 0 <= entry["step"] < 2**63 or isinstance(entry["step"], bool):
        return False
    return set(NEEDED.get(entry["event"], ())) <= set(entry) and _fits(entry.get("state", {}))


def _fits(state: Mapping[str, Any]) -> bool:
    """Return whether each field of a state has its type."""
    hints = hints_of(TrainerState)
    try:
        for name in state.keys() & hints.keys():
            convert(state[name], hints[name])
    except TracksideValueError:
        return False
    return True
