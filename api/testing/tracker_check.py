"""Conformance check of trackers: `check_tracker` reads back what one wrote of real runs.

In a test of a package with a tracker::

    from trackside.testing import check_tracker

    def test_my_tracker_writes_what_is_logged():
        check_tracker(MyTracker, read=lambda run: read_my_file(run.folder / "my_file"))
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trackside.callbacks.bus.attachment import attachment_of
from trackside.callbacks.bus.introspection import location_of, overridden_events
from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.errors import describe
from trackside.callbacks.secrets import MASK
from trackside.config.run_config import arguments_class
from trackside.integrations._base.tracker import values_of

from .conformance import OUTSIDE, RESUMED, LogsOddValues, temporary_folder
from .findings import ConformanceError, Findings, named, shorten
from .odd_values import odd_part, odd_values
from .points import Found, Names, differences, odd_differences, points_found, points_of, shown_names
from .rules import check_methods, mute
from .tiny_trainer import DEFAULTS, accuracy, build, frameworks_to_check, tiny_data
from .watch import Watch

SECRET = "conformance-secret-5f1c0a"
"""The value of the argument ``tool_api_key`` in the runs of this check."""

STEPS: dict[str, Any] = {
    "max_steps": 6,
    "logging_steps": 1,
    **dict.fromkeys(("eval_strategy", "save_strategy"), "steps"),
    "eval_steps": 2,
    "save_steps": 4,
}

CRASHES_AT = 6
"""The step, after a checkpoint and a record, at which a run fails and is resumed."""


class TrackedRun(NamedTuple):
    """A run that is read back.

    Attributes:
        folder: The output folder of the run; the working folder is the one above.
        tracker: The tracker that wrote it, which may know a path or an id.
    """

    folder: Path
    tracker: Any


Reader = Callable[[TrackedRun], Found]


def check_tracker(
    make: Callable[[], Any],
    *,
    read: Reader,
    hyperparameters: Callable[[TrackedRun], Mapping[str, Any]] | None = None,
    names: Names = "grouped",
    frameworks: Sequence[str] | None = None,
    **args: Any,
) -> None:
    """Run a tracker through real trainings, read back what it wrote, and compare it with what was logged.

    A trainer evaluates two sets before any training, and trains until it fails at step 6. Another trainer resumes it
    from the checkpoint of step 4, evaluates, predicts, and trains a second time, with values that are not finite, not
    numbers, nested, very large or very long. After each of these, ``read`` must find the records of the run: all
    numbers, at their steps, once. Predictions are expected of trackers that have a method ``on_predict``.

    The runs have an argument ``tool_api_key``, which must not be readable in any file.

    Args:
        make: The class, or a function that returns a new tracker at each call. The working folder is temporary.
        read: A function that is given a `TrackedRun`, and returns the points of the run that the tracker wrote last:
            (name, step, value) in any order or, if the tool cannot hold a step twice, a dict {(name, step): value}.
        hyperparameters: A function that returns the arguments of the run that the tracker wrote last, by name; None if
            it does not write them.
        names: How the tracker names values: "grouped" as other trackers do (``train/loss``, ``eval/accuracy``), without
            the epoch of an evaluation; "record" as in the record; or a function of a record that returns what is shown.
        frameworks: "pytorch", "tensorflow"; None for all that are installed.
        args: More fields of the training arguments.

    Returns:
        None, if all that was logged was found.

    Raises:
        ConformanceError: If something is missing, wrong or shown twice, or the tracker raises; the message lists every
            fault, and what to do.
        ArgumentError: If ``frameworks`` or ``names`` has a value that is not allowed, or ``read`` returns something
            else.

    Example:
        >>> from trackside import CSVLoggerCallback
        >>> check_tracker(CSVLoggerCallback, read=lambda run: [], names="record", frameworks=[])
    """
    shown_names(names)
    installed, findings, tracker = frameworks_to_check(frameworks), Findings(), make()
    muted = check_methods(tracker, findings)
    if muted is not None and attachment_of(tracker).role != "observer":
        findings.add(f'{type(tracker).__name__} ({location_of(type(tracker))}) has the role "control"', OBSERVES)
    if muted is not None:
        for framework in installed:
            with temporary_folder() as folder:
                _Runs(make, findings, framework, folder, args, muted, read, hyperparameters, names).make_all()
    if faults := findings.sentences():
        raise ConformanceError(type(tracker).__name__, faults, "tracker")


OBSERVES = 'declare role = "observer", so that a failure of the tool never ends a run'


@dataclasses.dataclass
class _Runs:
    """The runs of one framework."""

    make: Callable[[], Any]
    findings: Findings
    framework: str
    folder: Path
    args: Mapping[str, Any]
    muted: tuple[str, ...]
    read: Reader
    hyperparameters: Callable[[TrackedRun], Mapping[str, Any]] | None
    names: Names

    def make_all(self) -> None:
        self.findings.framework = self.framework
        self.watch = Watch(self.findings)
        first, tracker = self._trainer(CrashesAt())
        self._do("evaluate() before any train()", first, tracker, first.evaluate, OUTSIDE)
        self._do("a train() that raises at step 6", first, tracker, first.train, "on_train_end comes then, too: close")
        resumed, tracker = self._trainer(background=False)
        self._do("a resumed train()", resumed, tracker, resumed.train, RESUMED, resume_from_checkpoint=True)
        self._check_arguments(resumed, tracker)
        self._do("evaluate() after train()", resumed, tracker, resumed.evaluate, OUTSIDE)
        data = tiny_data() if self.framework == "tensorflow" else next(iter(resumed.eval_dataset.values()))
        self._do("predict()", resumed, tracker, resumed.predict, OUTSIDE, data)
        resumed.compute_metrics = lambda prediction: {**accuracy(prediction), **odd_values()}
        resumed.add_callback(LogsOddValues())
        advice = "a train() that is not a resume begins a new run; what is not a number costs that value only"
        self._do("a second train(), with odd values", resumed, tracker, resumed.train, advice)
        self._check_secrets(tracker)

    def _trainer(self, *others: Any, background: bool | None = None) -> tuple[Any, Any]:
        kind = arguments_class(self.framework)
        key = ("tool_api_key", str, dataclasses.field(default=SECRET))
        with_key = dataclasses.make_dataclass("ArgumentsWithKey", [key], bases=(kind,))
        values = {"output_dir": "out", **DEFAULTS, **STEPS, **self.args}
        trainer = build(self.framework, with_key(**values), others)
        trainer.eval_dataset = dict.fromkeys(("first", "second"), trainer.eval_dataset)
        self.watch.is_background = background is None
        tracker = self.watch.on(mute(self.make(), self.muted), "observer")
        trainer.add_callback(tracker, role="observer", background=background)
        trainer.add_callback(Predictions())
        return trainer, tracker

    def _do(
        self,
        phase: str,
        trainer: Any,
        tracker: Any,
        action: Callable[..., Any],
        advice: str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.findings.begin(phase, advice)
        try:
            action(*args, **kwargs)
        except Crash:
            pass
        except Exception as error:
            self.findings.add(f"{type(tracker).__name__} ended the run: {describe(error)}", advice)
        for item in trainer.callback_report.values():
            if item.callback is tracker and item.failures:
                self.findings.add(f"{type(tracker).__name__} failed, last with {item.last_error!r}", advice)
        self._compare(trainer, tracker)

    def _compare(self, trainer: Any, tracker: Any) -> None:
        records = [(record["step"], record) for record in trainer.state.log_history]
        if "on_predict" in overridden_events(tracker):
            kept = [item.callback for item in trainer.callback_report.values() if type(item.callback) is Predictions]
            records += kept[0].seen
        try:
            found = points_found(self.read(TrackedRun(self.folder / "out", tracker)))
        except Exception as error:
            where = f"{type(tracker).__name__}: its reader raised {describe(error)}"
            self.findings.add(where, "it returns (name, step, value) for each number that the tool holds")
            return
        odd = {name: value for _, record in records for name, value in odd_part(record).items()}
        faults = [*differences(points_of(records, self.names), found), *odd_differences(odd, found, self.names)]
        for what, advice in faults:
            self.findings.add(f"{named(tracker, _hook_of(what))} {what}", advice)

    def _check_arguments(self, trainer: Any, tracker: Any) -> None:
        if self.hyperparameters is None:
            return
        shown = self.hyperparameters(TrackedRun(self.folder / "out", tracker))
        what = named(tracker, "on_train_begin")
        for name, value in values_of(trainer.args).items():
            if not isinstance(value, bool | int | float | str) or value == "":
                continue
            if name not in shown:
                self.findings.add(f"{what} does not write the argument {name}", "write args.to_sanitized_dict()")
            elif not _is_shown(value, shown[name]):
                advice = "write args.to_sanitized_dict()"
                self.findings.add(f"{what} writes {shorten(shown[name])} for {name}={value!r}", advice)

    def _check_secrets(self, tracker: Any) -> None:
        self.findings.begin("")
        for name, content in _contents(self.folder):
            if SECRET.encode() in content:
                what = f"{named(tracker, 'on_train_begin')} writes the value of the argument tool_api_key into {name}"
                self.findings.add(what, f"write args.to_sanitized_dict(), which has {MASK} for it")


class Crash(RuntimeError):
    """The error with which a run of the check ends."""


class CrashesAt(TrainerCallback):
    """Raises at the end of a step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise at one step."""
        if state.global_step == CRASHES_AT:
            raise Crash(f"step {CRASHES_AT} fails")


class Predictions(TrainerCallback):
    """Keeps what predictions returned since the last training began."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Mapping[str, Any]]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget."""
        self.seen = []

    def on_predict(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep."""
        self.seen.append((state.global_step, kwargs["metrics"]))


def _hook_of(what: str) -> str:
    return "on_predict" if "test/" in what else "on_log"


def _is_shown(value: Any, shown: Any) -> bool:
    if str(shown).lower() == str(value).lower():
        return True
    try:
        return float(shown) == float(value)
    except (TypeError, ValueError):
        return False


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of every file in a folder, and of the files in zip files."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        yield name, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{name}/{member}", archive.read(member)) for member in archive.namelist())
