"""Run record: what a journal tells of a run, put together event by event as if the run had not been interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ROUTINE = (
    *("logging_steps=", "logging_first_step=", "logging_strategy=", "eval_steps=", "eval_strategy="),
    *("save_steps=", "save_strategy=", "max_steps="),
)
"""How reasons begin that the arguments give for a flag, which are counted instead of told."""

KEPT_UNTIL_END = ("should_training_stop", "should_epoch_stop")
"""Flags that stay set after the event at which they were, and are told once."""


@dataclass
class Start:
    """One start of the run's process.

    Attributes:
        time: When training began, in seconds since 1970.
        step: Updates completed by then.
        args: The arguments, by name.
        header: Model, data, output and callbacks in four lines; None in older journals.
        checkpoint: What it was resumed from; None for a fresh start.
        differences: The arguments that changed since the checkpoint, each with its old and its new value.
        repeated: Updates of the start before that came after the checkpoint, and were done again.
        last_time: Time of the last event.
        last_step: Updates completed by then.
        has_ended: Whether the journal holds its end.
        exception: What training raised; None if it did not.
        stop_reason: Why it ended before the last step; None if it did not.
        costs: The costs of each callback so far, by name.
    """

    time: float
    step: int
    args: dict[str, Any]
    header: str | None = None
    checkpoint: str | None = None
    differences: dict[str, Any] = field(default_factory=dict)
    repeated: int = 0
    last_time: float = 0.0
    last_step: int = 0
    has_ended: bool = False
    exception: str | None = None
    stop_reason: str | None = None
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Record:
    """Numbers that were logged at a step.

    Attributes:
        step: Updates completed.
        epoch: Epochs completed, with the fraction of the current one; None if unknown.
        hours: Hours of training until then, pauses between starts left out; None if unknown.
        start: Number of the start that logged it, from 0.
        values: The numbers, by name.
    """

    step: int
    epoch: float | None
    hours: float | None
    start: int
    values: dict[str, Any]


def numbers_in(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a log record, by name, without its place in the run: alike in journals and checkpoints."""
    return {name: value for name, value in logs.items() if name not in ("step", "epoch")}


@dataclass
class Happening:
    """Something that the run did at a step, and why.

    Attributes:
        time: When, in seconds since 1970; None if unknown.
        step: Updates completed.
        what: What it did: the name of a flag, a path, or metrics.
        reason: Why; None if the journal does not tell.
    """

    time: float | None
    step: int
    what: Any
    reason: str | None


class RunRecord:
    """The last run of a journal.

    What a killed start had logged after the checkpoint from which the next one went on is left out, as in
    `trackside.callbacks.replay.last_run`.

    Attributes:
        starts: Its starts, oldest first.
        records: What was logged.
        evaluations: The evaluations; ``what`` has their metrics.
        decisions: What callbacks, signals and the loop decided; ``what`` is a flag, or words.
        saves: The checkpoints that were written; ``what`` is the path.
        routine: How often the arguments' own schedule set each flag.
        skipped: Updates whose gradients were not used.
        state: The fields of the state that the journal tells.
        run_id: The id of the run; None if nothing tells it.
        earlier: Number of other runs that the journal holds before this one.
    """

    def __init__(self) -> None:
        self.earlier = -1
        self._new_run(None)
        self._pending_load: Mapping[str, Any] | None = None
        self._is_between = True

    def _new_run(self, run_id: str | None) -> None:
        self.run_id = run_id
        self.earlier += 1
        self.starts: list[Start] = []
        self.records: list[Record] = []
        self.evaluations: list[Happening] = []
        self.decisions: list[Happening] = []
        self.saves: list[Happening] = []
        self.routine: dict[str, int] = {}
        self.skipped = 0
        self.state: dict[str, Any] = {}
        self._hours_before = 0.0
        self._last_decisions: dict[str, tuple[int, str]] = {}

    @property
    def args(self) -> dict[str, Any]:
        """The arguments of the last start."""
        return self.starts[-1].args if self.starts else {}

    @property
    def hours(self) -> float:
        """Hours that all starts took together."""
        return sum(start.last_time - start.time for start in self.starts) / 3600

    @property
    def step(self) -> int:
        """Updates completed."""
        steps = [*(record.step for record in self.records[-1:]), *(start.last_step for start in self.starts[-1:])]
        return max([*steps, int(self.state.get("global_step") or 0)])

    def follow(self, entry: Mapping[str, Any]) -> None:
        """Take the next event of a journal."""
        event, step = entry["event"], int(entry["step"])
        if event == "on_init_end" or (event == "on_load" and self._is_between):
            self._is_between = True
            self._pending_load = entry if event == "on_load" else None
            return
        if event == "on_train_begin":
            self._begin(entry, step)
        self.state.update(entry.get("state") or {})
        if not self.starts:
            return
        now = self.starts[-1]
        if not now.has_ended:
            now.last_time, now.last_step = float(entry.get("time") or now.last_time), step
        self._decide(entry, step)
        if event in FOLLOWED:
            FOLLOWED[event](self, entry, step, now)
        if isinstance(entry.get("costs"), dict):
            now.costs = {name: cost for name, cost in entry["costs"].items() if isinstance(cost, dict)}

    # -- events ---------------------------------------------------------------------------------------------------

    def _begin(self, entry: Mapping[str, Any], step: int) -> None:
        is_same = step > 0 and entry["run"] == self.run_id and bool(self.starts)
        load, self._pending_load, self._is_between = self._pending_load, None, False
        repeated = max(self.step - step, 0) if is_same else 0
        if is_same:
            self._go_back(step)
        elif self.starts:
            self._new_run(entry["run"])
        self.run_id = entry["run"]
        time = float(entry.get("time") or 0.0)
        start = Start(time, step, dict(entry["args"]), entry.get("header"), repeated=repeated, last_time=time)
        start.last_step = step
        if load is not None:
            start.checkpoint, start.differences = load.get("checkpoint"), dict(load.get("differences") or {})
        self.starts.append(start)
        self._last_decisions = {}

    def _go_back(self, step: int) -> None:
        """Leave out what came after the checkpoint from which the run goes on."""
        self.records = [record for record in self.records if record.step <= step]
        for happenings in (self.evaluations, self.saves):
            happenings[:] = [item for item in happenings if item.step <= step]
        known = [record.hours for record in self.records if record.hours is not None]
        self._hours_before = known[-1] if known else 0.0

    def _decide(self, entry: Mapping[str, Any], step: int) -> None:
        decisions = entry.get("decisions")
        for flag, given in (decisions if isinstance(decisions, dict) else {}).items():
            reason = str(given)
            last = self._last_decisions.get(flag)
            if last == (step, reason) or (flag in KEPT_UNTIL_END and last is not None and last[1] == reason):
                continue
            self._last_decisions[flag] = (step, reason)
            if reason.startswith(ROUTINE):
                self.routine[flag] = self.routine.get(flag, 0) + 1
            else:
                self.decisions.append(Happening(entry.get("time"), step, str(flag), reason))
        self.skipped += entry.get("skipped") is True

    def _follow_log(self, entry: Mapping[str, Any], step: int, now: Start) -> None:
        hours = self._hours_before + (float(entry.get("time") or now.time) - now.time) / 3600
        epoch = entry["epoch"] if is_number(entry["epoch"]) else None
        self.records.append(Record(step, epoch, hours, len(self.starts) - 1, numbers_in(entry["logs"])))

    def _follow_evaluate(self, entry: Mapping[str, Any], step: int, now: Start) -> None:
        reason = entry.get("because")
        self.evaluations.append(Happening(entry.get("time"), step, dict(entry["metrics"]), reason and str(reason)))

    def _follow_save(self, entry: Mapping[str, Any], step: int, now: Start) -> None:
        reason = entry.get("because")
        self.saves.append(Happening(entry.get("time"), step, str(entry.get("checkpoint")), reason and str(reason)))

    def _follow_load(self, entry: Mapping[str, Any], step: int, now: Start) -> None:
        what, reason = f"went back to {entry.get('checkpoint')}", entry.get("because")
        self.decisions.append(Happening(entry.get("time"), step, what, reason and str(reason)))

    def _follow_callback_error(self, entry: Mapping[str, Any], step: int, now: Start) -> None:
        what = f"detached the callback {entry.get('callback')}"
        self.decisions.append(Happening(entry.get("time"), step, what, str(entry.get("error"))))

    def _follow_exception(self, entry: Mapping[str, Any], step: int, now: Start) -> None:
        now.exception = str(entry.get("exception"))

    def _follow_train_end(self, entry: Mapping[str, Any], step: int, now: Start) -> None:
        now.has_ended = self._is_between = True
        now.stop_reason = self.state.get("stop_reason")


FOLLOWED: dict[str, Callable[[RunRecord, Mapping[str, Any], int, Start], None]] = {
    "on_log": RunRecord._follow_log,
    "on_evaluate": RunRecord._follow_evaluate,
    "on_save": RunRecord._follow_save,
    "on_load": RunRecord._follow_load,
    "on_callback_error": RunRecord._follow_callback_error,
    "on_exception": RunRecord._follow_exception,
    "on_train_end": RunRecord._follow_train_end,
}
"""What each event adds to a record, besides its state and its decisions."""


def is_number(value: Any) -> bool:
    """Return whether a logged value is a number that can be drawn; True and False are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= sys.float_info.max
