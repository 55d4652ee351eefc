"""Conformance check of callbacks: `check_callback` runs one through real trainings on every installed framework.

In a test of a package of callbacks::

    from trackside.testing import check_callback

    def test_my_callback_is_a_good_one():
        check_callback(MyCallback)
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackside.callbacks.errors import TracksideError
from trackside.testing.tiny_trainer import installed_frameworks, tiny_data, tiny_trainer

if TYPE_CHECKING:
    from trackside.callbacks.state import TrainerControl, TrainerState
    from trackside.trainer.base_trainer import BaseTrainer

FRAMEWORK_MODULES = ("torch", "tensorflow", "keras", "jax")


class ConformanceError(TracksideError, AssertionError):
    """A callback breaks rules that hold for every callback; the message lists all faults.

    Attributes:
        faults: The faults, one sentence each.
    """

    def __init__(self, name: str, faults: Sequence[str]) -> None:
        self.faults: list[str] = list(faults)
        super().__init__(f"{name} is not a good callback:\n" + "\n".join(f"- {fault}" for fault in faults))


def check_callback(make: Callable[[], Any], *, frameworks: Sequence[str] | None = None, **args: Any) -> None:
    """Run a callback through everything that a trainer does, and check that it follows the rules for callbacks.

    A trainer with the callback evaluates; then it trains with evaluation and checkpoints, evaluates and predicts, all
    of it twice; then a trainer with another callback of the class resumes the run, in the background if the class asks
    for it. The callback must not raise, change log records or the history, steer if it is an observer, import a
    framework with its module, or lose what `state_dict` returned; and its state must be JSON.

    Args:
        make: The class, or a function that returns a new callback at each call.
        frameworks: "pytorch", "tensorflow"; None for all that are installed.
        args: More fields of the training arguments.

    Raises:
        ConformanceError: If it breaks a rule; the message lists every fault.

    Example:
        >>> from trackside import TerminateOnNaNCallback
        >>> check_callback(TerminateOnNaNCallback, frameworks=[])
    """
    callback = make()
    faults = [*_module_faults(type(callback)), *_state_faults(make, callback, "before a run")]
    for framework in installed_frameworks() if frameworks is None else frameworks:
        # a folder that is removed with everything that a callback wrote there
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.chdir(folder):
            faults += [f"{fault} (on {framework})" for fault in _Check(make, framework, Path(folder), args).run()]
    if faults:
        raise ConformanceError(type(callback).__name__, list(dict.fromkeys(faults)))


class _Check:
    """The check of one callback on one framework."""

    def __init__(self, make: Callable[[], Any], framework: str, folder: Path, args: Mapping[str, Any]) -> None:
        self.make = make
        self.framework = framework
        self.folder = folder
        self.args = dict(args)
        self.faults: list[str] = []

    def run(self) -> list[str]:
        """Return the faults."""
        callback = self.make()
        trainer = self._do("attaching", self._trainer, callback)
        if trainer is None:
            return self.faults
        self._do("evaluate() before any training", trainer.evaluate)
        for turn in ("", "a second "):
            self._do(f"{turn}train()", trainer.train)
            self._do(f"{turn}evaluate()", trainer.evaluate)
            data = tiny_data() if self.framework == "tensorflow" else trainer.eval_dataset
            self._do(f"{turn}predict()", trainer.predict, data)
        self._note_failures(trainer)
        self.faults += _state_faults(self.make, callback, "after a run")
        fresh = self._do("attaching", self._trainer, self.make(), background=None, num_train_epochs=3)
        if fresh is not None:
            self._do("resuming", fresh.train, resume_from_checkpoint=True)
            self._note_failures(fresh)
        return self.faults

    def _trainer(self, callback: object, background: bool | None = False, **args: Any) -> Any:
        values = {"overwrite_output_dir": True, **self.args, **args}
        trainer = tiny_trainer(self.framework, self.folder / "out", [], **values)
        trainer.add_callback(_watched(callback, self.faults), background=background)
        return trainer

    def _do(self, what: str, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except Exception as error:
            self.faults.append(f"{what} raised {type(error).__name__}: {error}")
            return None

    def _note_failures(self, trainer: BaseTrainer) -> None:
        for item in trainer.callback_report.values():
            if item.failures:
                self.faults.append(f"it raised {item.failures} times, last {item.last_error!r}")


def _watched(callback: object, faults: list[str]) -> Any:
    """Wrap the events of ``callback`` so that changes of what belongs to the trainer are added to ``faults``."""
    from trackside.callbacks.bus.attachment import attachment_of
    from trackside.callbacks.bus.introspection import overridden_events

    is_observer = attachment_of(callback).role == "observer"
    for event in list(overridden_events(callback)):
        setattr(callback, event, _watching(getattr(callback, event), event, is_observer, faults))
    return callback


def _watching(method: Callable[..., Any], event: str, is_observer: bool, faults: list[str]) -> Callable[..., Any]:
    def watch(args: object, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        given = {key: copy.deepcopy(kwargs[key]) for key in ("logs", "metrics") if key in kwargs}
        history, flags = copy.deepcopy(state.log_history), copy.copy(control)
        try:
            return method(args, state, control, **kwargs)
        finally:
            faults.extend(f"{event} changes {key}" for key, value in given.items() if not _equal(kwargs[key], value))
            if not _equal(state.log_history, history):
                faults.append(f"{event} changes state.log_history")
            if is_observer and control != flags:
                faults.append(f'{event} steers the run, but its role is "observer"')

    return watch


def _equal(one: object, other: object) -> bool:
    return one == other or repr(one) == repr(other)  # NaN differs from itself


def _state_faults(make: Callable[[], Any], callback: object, when: str) -> Iterator[str]:
    """Yield faults of the state: it is not JSON, or another callback does not restore it."""
    if not hasattr(callback, "state_dict"):
        return
    state = callback.state_dict()
    try:
        kept = json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        yield f"state_dict() {when} is not JSON: {error}"
        return
    if kept != state and repr(kept) != repr(state):
        yield f"state_dict() {when} does not come back from JSON as it was: {state!r} becomes {kept!r}"
        return
    other = make()
    try:
        if kept:
            other.load_state_dict(kept)
        if not _equal(other.state_dict(), state):
            yield f"load_state_dict() {when} loses state: {state!r} becomes {other.state_dict()!r}"
    except Exception as error:
        yield f"load_state_dict() {when} raised {type(error).__name__}: {error}"


def _module_faults(cls: type) -> Iterator[str]:
    """Yield the frameworks that importing the module of ``cls`` loads, as seen by a fresh interpreter."""
    module = cls.__module__
    if module == "__main__" or importlib.util.find_spec(module.partition(".")[0]) is None:
        return  # the class of a test, which another process cannot import
    code = f"import sys, {module}; print(*[name for name in {FRAMEWORK_MODULES!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    if done.returncode:
        yield f"importing {module} fails: {done.stderr.strip().splitlines()[-1]}"
    for name in done.stdout.split():
        yield f"importing {module} imports {name}; import it where it is needed"
