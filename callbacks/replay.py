"""Replay: the events of a finished run, sent to other callbacks without training."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ._util.plain_data import sanitized
from .builtin.journal import LEFT_OUT, PAYLOAD, read_journal
from .bus.dispatcher import Dispatcher
from .bus.report import CallbackReport
from .config.attach import attach_from_map
from .errors import TracksideValueError
from .state import TrainerControl, TrainerState

RECORDED = {item.name for item in fields(TrainerState)} - LEFT_OUT
"""Fields of the state that a journal holds."""

ENDS = ("on_exception", "on_train_end")


class RecordedArguments(SimpleNamespace):
    """Arguments as a journal holds them, with the methods of training arguments that callbacks use."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return dict(vars(self))

    def to_json_string(self) -> str:
        """Return all fields as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_sanitized_dict(self) -> dict[str, Any]:
        """Return all fields as bool, int, float or text."""
        return sanitized(vars(self))


class Replay:
    """The sender in place of the trainer: arguments and state of the run as they were, and the callbacks.

    Attributes:
        stopped_at: The step at which a callback would have stopped the run; None if none would.
        is_complete: Whether the journal holds the end of the run.
    """

    model = optimizer = lr_scheduler = eval_dataset = None

    def __init__(self, args: Mapping[str, Any], output_dir: str | os.PathLike[str]) -> None:
        folder = time.strftime("%Y-%m-%d_%H-%M-%S_replay")  # a new one each time, so that no curve is drawn twice
        here = {"output_dir": str(output_dir), "logging_dir": str(Path(output_dir) / "runs" / folder)}
        folder_of_run = os.path.abspath(str(args.get("output_dir", output_dir)))
        name = str(args.get("run_name") or os.path.basename(folder_of_run))
        recorded = {key: value for key, value in args.items() if not hasattr(RecordedArguments, key)}
        self.args: RecordedArguments = RecordedArguments(
            **{"process_index": 0, "world_size": 1, **recorded, **here, "run_name": name}
        )
        self.state: TrainerState = TrainerState()
        self.control: TrainerControl = TrainerControl()
        self.dispatcher: Dispatcher = Dispatcher(self, self.args, self.state, self.control)
        names = ("model", "optimizer", "lr_scheduler", "train_dataloader", "eval_dataloader", "processing_class")
        self.dispatcher.context.update(dict.fromkeys((*names, "tokenizer")))
        self.stopped_at: int | None = None
        self.is_complete: bool = False

    @property
    def callback_report(self) -> CallbackReport:
        """The callbacks, by name, with their costs."""
        return CallbackReport(self.dispatcher.attachments)

    def run(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Send all events until a callback stops the run; on_train_end is always sent, so that files are closed."""
        for entry in entries:
            if self.stopped_at is not None and (entry["step"] > self.stopped_at or entry["event"] in ENDS):
                break
            self._send(entry)
            self.is_complete = self.is_complete or entry["event"] == "on_train_end"
            if self.control.should_training_stop and self.stopped_at is None:
                self.stopped_at = entry["step"]
                self.state.stop_reason = self.control.stop_reason
        if not self.is_complete:
            self._send({"event": "on_train_end", "step": self.state.global_step, "epoch": self.state.epoch})

    def _send(self, entry: Mapping[str, Any]) -> None:
        state, event = self.state, entry["event"]
        for name, value in entry.get("state", {}).items():
            if name in RECORDED and (name != "stop_reason" or self.stopped_at is None):
                setattr(state, name, value)
        state.global_step, state.epoch = entry["step"], entry["epoch"]
        payload = {key: entry[key] for key in PAYLOAD if key in entry}
        if event == "on_log":
            state.log_history.append({**payload["logs"], "step": entry["step"]})
        self.dispatcher.send(event, **payload)
        for item in self.dispatcher.attachments.values():
            if item.thread is not None:  # there is no training to slow, so wait for every call
                item.thread.wait(item.thread.timeout_s)


def replay(
    path: str | os.PathLike[str],
    callbacks: Sequence[Any] | Mapping[str, Any],
    *,
    output_dir: str | os.PathLike[str] | None = None,
) -> Replay:
    """Send the events of the last run in a journal to ``callbacks``.

    A run that was killed and resumed is one run: events after the checkpoint are those of its second part. A callback
    that stops the run ends the replay at that step, so that another patience can be tried without training.

    Args:
        path: The journal.
        callbacks: Callbacks, as instances or classes, or a map from names to options as in a config.
        output_dir: The ``args.output_dir`` that callbacks get. None: the folder ``replay`` beside the journal, so that
            files of the run itself are not overwritten.

    Raises:
        TracksideValueError: If no run begins in the journal.
    """
    entries = last_run(read_journal(path))
    if not any(entry["event"] == "on_train_begin" for entry in entries):
        raise TracksideValueError(f"{path}: no run begins in this journal (no line has the event on_train_begin)")
    args = next(entry["args"] for entry in entries if entry["event"] == "on_train_begin")
    sender = Replay(args, output_dir or Path(path).parent / "replay")
    if isinstance(callbacks, Mapping):
        attach_from_map(sender.dispatcher, callbacks)
    else:
        sender.dispatcher.attach_all((callback, {}) for callback in callbacks)
    sender.run(entries)
    return sender


def last_run(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the events of the last run in a journal, as if it had not been interrupted."""
    kept: list[Mapping[str, Any]] = []
    waiting: list[Mapping[str, Any]] = []
    run: str | None = None
    for entry in entries:
        is_before = bool(waiting) or not kept or kept[-1]["event"] == "on_train_end"  # not a way back within a run
        if entry["event"] == "on_init_end" or (entry["event"] == "on_load" and is_before):
            waiting.append(entry)
        elif entry["event"] != "on_train_begin":
            kept.append(entry)
        elif entry["step"] > 0 and entry["run"] == run:
            kept, waiting = _until_checkpoint(kept, entry["step"]), []
        else:
            kept, waiting, run = [*waiting, entry], [], entry["run"]
    return kept


def _until_checkpoint(entries: list[Mapping[str, Any]], step: int) -> list[Mapping[str, Any]]:
    """Return the events up to the one at which the run saved at ``step``."""
    saves = [n for n, entry in enumerate(entries) if entry["event"] == "on_save" and entry["step"] == step]
    if saves:
        return entries[: saves[-1] + 1]
    return [entry for entry in entries if entry["step"] <= step and entry["event"] not in ENDS]
