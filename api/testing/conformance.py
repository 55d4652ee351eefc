"""Conformance check of callbacks: `check_callback` runs one through real trainings on every installed framework.

In a test of a package of callbacks::

    from trackside.testing import check_callback

    def test_my_callback_is_a_good_one():
        check_callback(MyCallback)
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackside.callbacks._util.exact_data import returned
from trackside.callbacks.bus.attachment import attachment_of
from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.errors import describe

from .findings import ConformanceError, Findings, named
from .odd_values import odd_values
from .reference import Outcome, outcome_of, reference_outcome
from .rules import check_methods, check_module, check_state, check_state_is_own, mute, states_of_new
from .tiny_trainer import accuracy, frameworks_to_check, tiny_data, tiny_trainer
from .watch import Watch, same

if TYPE_CHECKING:
    from trackside.trainer.base_trainer import BaseTrainer

STEPS: dict[str, Any] = {
    "overwrite_output_dir": True,
    "max_steps": 4,
    "logging_steps": 2,  # a flag that is set already hides that an observer sets it
    **dict.fromkeys(("eval_strategy", "save_strategy"), "steps"),
    **dict.fromkeys(("eval_steps", "save_steps"), 2),
}
"""Training arguments of the runs, unless others are given."""

OUTSIDE = "events come outside of train(), too: open there what is missing, or do nothing"
AGAIN = "a callback is used for several runs: begin anew in on_train_begin"
RESUMED = "on_train_begin of a resumed run comes after load_state_dict, with state.global_step above 0"
BACKGROUND = "the thread that calls is not the one that made it: open files and connections in on_train_begin"
WITHOUT_STATE = "a callback may be new to a run that is resumed, and train() may run in any thread"
ODD = "a record holds any plain data: pass over what is not a finite number, or write it as text"


def check_callback(make: Callable[[], Any], *, frameworks: Sequence[str] | None = None, **args: Any) -> None:
    """Run a callback through everything that a trainer does, and check that it follows the rules for callbacks.

    A trainer with the callback evaluates before any training; then it trains with evaluations and checkpoints,
    evaluates and predicts, and does so again. Other callbacks of the class resume the run: one after another callback
    and, if it is an observer, in the background; one under a new name, in another thread. Records and metrics with
    values that are not finite, not numbers, nested, very large or very long follow.

    The callback must have methods that can be called, must not raise, change log records or the history, import a
    framework with its module, share state with others of its class, leave a thread behind that keeps the process alive,
    or lose what `state_dict` returned, which must be JSON. An observer must not set flags, change the weights, or draw
    from the global random numbers.

    Args:
        make: The class, or a function that returns a new callback at each call.
        frameworks: "pytorch", "tensorflow"; None for all that are installed. Odd values come on the first only: how
            they reach a callback does not depend on the framework.
        args: More fields of the training arguments.

    Returns:
        None, if no rule is broken.

    Raises:
        ConformanceError: If it breaks a rule; the message lists every fault, with file, line and what to do.
        ArgumentError: If ``frameworks`` has a name that is not one of these.

    Example:
        >>> from trackside import TerminateOnNaNCallback
        >>> check_callback(TerminateOnNaNCallback, frameworks=[])
    """
    names, findings, callback = frameworks_to_check(frameworks), Findings(), make()
    check_module(type(callback), findings)
    muted = check_methods(callback, findings)
    check_state(make, callback, "before a run", findings)
    if muted is not None:
        before = list(threading.enumerate())
        for framework in names:
            with temporary_folder() as folder:
                check = _Check(make, findings, framework, folder, args, muted)
                check.run(with_odd_values=framework == names[0])
        findings.framework = ""
        _check_threads(callback, before, findings)
    if faults := findings.sentences():
        raise ConformanceError(type(callback).__name__, faults)


@contextlib.contextmanager
def temporary_folder() -> Any:
    """Enter a folder that is removed with everything that a callback wrote there."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.chdir(folder):
        yield Path(folder)


class _Check:
    """The check of one callback on one framework."""

    def __init__(
        self,
        make: Callable[[], Any],
        findings: Findings,
        framework: str,
        folder: Path,
        args: Mapping[str, Any],
        muted: tuple[str, ...],
    ) -> None:
        self.make = make
        self.findings = findings
        self.framework = findings.framework = framework
        self.folder = folder
        self.args = {**STEPS, **args}
        self.muted = muted
        self.watch = Watch(findings)
        self.is_observer = False

    def run(self, *, with_odd_values: bool) -> None:
        """Make the runs.

        Args:
            with_odd_values: Whether to log odd values, too; how they come to a callback does not depend on a framework.
        """
        callback = self.make()
        states = states_of_new(self.make)
        self._train(callback)
        self.findings.begin("")
        check_state(self.make, callback, "after a run", self.findings)
        check_state_is_own(self.make, states, self.findings)
        self._resume()
        self._resume_elsewhere()
        if with_odd_values:
            self._odd_values()

    def _train(self, callback: Any) -> None:
        trainer = self._trainer(callback)
        if trainer is None:
            return
        data = tiny_data() if self.framework == "tensorflow" else trainer.eval_dataset
        self._do("evaluate() before any train()", trainer.evaluate, advice=OUTSIDE)
        self._do("train()", trainer.train)
        if self.is_observer:
            self._compare(callback, outcome_of(trainer))
        self._do("evaluate() after train()", trainer.evaluate, advice=OUTSIDE)
        self._do("predict()", trainer.predict, data, advice=OUTSIDE)
        self._do("a second train()", trainer.train, advice=AGAIN)
        self._do("a second evaluate()", trainer.evaluate, advice=OUTSIDE)
        self._note_failures(trainer)

    def _resume(self) -> None:
        """Resume after another callback; an observer is in the background."""
        background = self.is_observer or None
        advice = f"{RESUMED}; {BACKGROUND}" if background else RESUMED
        trainer = self._trainer(callback := self.make(), background=background, max_steps=6)
        if trainer is not None:
            self.watch.loaded.clear()
            phase = f"a resumed train(){' in the background' if background else ''}"
            self._do(phase, trainer.train, resume_from_checkpoint=True, advice=advice)
            self._note_failures(trainer)
            self._check_restored(callback, trainer)

    def _resume_elsewhere(self) -> None:
        """Resume under another name, in another thread."""
        trainer = self._trainer(self.make(), name="renamed", max_steps=7)
        if trainer is not None:
            phase = "a resumed train() in another thread, as a callback that is new to the run"
            self._do(phase, _in_a_thread, trainer, advice=WITHOUT_STATE)
            self._note_failures(trainer)

    def _odd_values(self) -> None:
        trainer = self._trainer(self.make())
        if trainer is None:
            return
        trainer.add_callback(LogsOddValues())
        trainer.compute_metrics = lambda prediction: {**accuracy(prediction), **odd_values()}
        self._do("a train() with odd values", trainer.train, advice=ODD)
        data = tiny_data() if self.framework == "tensorflow" else trainer.eval_dataset
        self._do("a predict() with odd values", trainer.predict, data, advice=ODD)
        self._note_failures(trainer)

    def _trainer(self, callback: Any, background: bool | None = False, name: str | None = None, **args: Any) -> Any:
        """Return a trainer with the callback; None, and a finding, if it cannot be attached."""
        self.findings.begin("attaching")
        trainer = tiny_trainer(self.framework, self.folder / "out", [Bystander()], **{**self.args, **args})
        self.watch.is_background = bool(background)
        watched = self.watch.on(callback, role := attachment_of(mute(callback, self.muted)).role)
        self.is_observer = role == "observer"
        try:
            trainer.add_callback(watched, background=background, name=name)
        except Exception as error:
            self.findings.add(f"{type(callback).__name__} cannot be attached: {describe(error)}")
            return None
        return trainer

    def _do(self, phase: str, action: Callable[..., Any], *args: Any, advice: str = "", **kwargs: Any) -> None:
        self.findings.begin(phase, advice)
        try:
            action(*args, **kwargs)
        except Exception as error:
            self.findings.add(f"{self.make().__class__.__name__} ended {phase}: {describe(error)}")

    def _note_failures(self, trainer: BaseTrainer) -> None:
        """Add what the trainer has counted beyond what the callback raised: a call that took too long, a lost value."""
        for item in trainer.callback_report.values():
            if item.failures:
                found = f"{type(item.callback).__name__} ({item.location}) failed {item.failures} times"
                self.findings.add(f"{found}, last {item.last_error!r}", self.findings.advice)

    def _check_restored(self, callback: Any, trainer: BaseTrainer) -> None:
        """Add that the state in the checkpoint did not reach the callback."""
        path = sorted((self.folder / "out").glob("checkpoint-4/trainer_state.json"))
        states = json.loads(path[0].read_text(encoding="utf-8"))["stateful_callbacks"] if path else {}
        name = next(item.name for item in trainer.callback_report.values() if item.callback is callback)
        if states.get(name) and not any(same(returned(states[name]), state) for state in self.watch.loaded):
            what = f"{named(callback, 'accepts_state')} refuses the state that a callback of the class has saved"
            self.findings.add(what, "return True for a state of the same options")

    def _compare(self, callback: Any, found: Outcome) -> None:
        """Add how a run with an observer differs from one without."""
        if not reference_outcome(self.framework, self.args).equals(found):
            what = f'{named(callback, "role")} changes the losses or the weights of a run, but its role is "observer"'
            self.findings.add(what, 'a callback that takes part in a run declares role = "control"')


class Bystander(TrainerCallback):
    """Stands before the callback in the list."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do nothing."""


class LogsOddValues(TrainerCallback):
    """Logs a record for each odd value, and at last a loss that is not finite."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log at the second step."""
        if state.global_step == 2:
            for number, (name, value) in enumerate(odd_values().items()):
                kwargs["trainer"].log({name: value, f"beside_{number}": 1.0})


def _in_a_thread(trainer: BaseTrainer) -> None:
    errors: list[Exception] = []

    def train() -> None:
        try:
            trainer.train(resume_from_checkpoint=True)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    for error in errors:
        raise error


def _check_threads(callback: Any, before: Sequence[threading.Thread], findings: Findings) -> None:
    findings.begin("")
    for thread in threading.enumerate():
        if thread not in before and not thread.daemon:
            thread.join(1.0)
            if thread.is_alive():
                what = f"{named(callback, 'on_train_end')} leaves the thread {thread.name!r} running"
                findings.add(what, "end it, or make it a daemon, so that the process can end")
