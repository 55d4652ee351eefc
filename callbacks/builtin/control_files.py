"""Control files: a running job saves, evaluates or stops when a file of that name appears in its folder."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from .._util.atomic_files import write_atomically
from ..callback import TrainerCallback
from ..errors import ArgumentError, CheckpointError, describe
from ..state import TrainerControl, TrainerState
from ..types import Args, Role

logger: logging.Logger = logging.getLogger("trackside.callbacks")

FOLDER = ".control"
"""The folder in ``output_dir``; hidden, so that a run whose ``output_dir`` is an address does not upload it."""

LISTENING = "listening"
"""A file in it that exists while a run looks at the folder; it names the process."""


class ControlFilesCallback(TrainerCallback):
    """Save, evaluate or stop after a step if ``output_dir/.control`` has a file ``save``, ``evaluate`` or ``stop``.

    The files are requests: ``touch out/.control/save`` in a shell, or a button on the page of `trackside watch`. The
    callback removes a file when it takes the request. What is there when training begins is of an earlier run, and is
    removed. ``stop`` saves first, unless save_strategy is "no".

    The folder can be read and written by its owner only, and is looked at once in ``every_s`` seconds: the other steps
    read a clock. The first process looks, and all processes do what it has found at the same step.

    Args:
        every_s: Seconds between two looks.

    Raises:
        ArgumentError: If ``every_s`` is not above 0.
    """

    role: Role = "control"

    def __init__(self, every_s: float = 1.0) -> None:
        if not every_s > 0:
            raise ArgumentError("every_s", every_s, "a number of seconds above 0")
        self.every_s = every_s
        self._looks_at = float("inf")
        self._folder: Path | None = None
        self._told: set[str] = set()

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._looks_at, self._folder = float("inf"), None
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / FOLDER
        try:
            make_private(folder)
            for name in REQUESTS:
                (folder / name).unlink(missing_ok=True)
            told = {"pid": os.getpid(), "host": socket.gethostname()}
            write_atomically(folder / LISTENING, json.dumps(told), sync=False)
        except (OSError, CheckpointError) as error:
            self._tell(f"{folder} cannot be used, so the run takes no requests: {describe(error)}")
            return
        self._looks_at, self._folder = monotonic() + self.every_s, folder

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = monotonic()
        if now < self._looks_at or self._folder is None:
            return
        self._looks_at = now + self.every_s
        for name, act in REQUESTS.items():
            if self._takes(name):
                problem = act(args, control, kwargs, f"asked for by {FOLDER}/{name}")
                if problem is not None:
                    self._tell(f"{FOLDER}/{name}: {problem}")

    def on_train_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / LISTENING).unlink(missing_ok=True)
        self._looks_at, self._folder = float("inf"), None

    def _takes(self, name: str) -> bool:
        """Remove a request; return whether there was one. What cannot be removed is not done, again and again."""
        assert self._folder is not None
        try:
            (self._folder / name).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._tell(f"{self._folder / name} cannot be removed, and is not done: {describe(error)}")
            return False
        return True

    def _tell(self, what: str) -> None:
        """Log a warning, once for each text."""
        if what not in self._told:
            self._told.add(what)
            logger.warning("%s", what)


def make_private(folder: Path) -> None:
    """Make a folder that only its owner can read and write, or take these rights from others.

    Raises:
        OSError: If it cannot be made, is a link, or belongs to another user.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def _save(args: Args, control: TrainerControl, context: dict[str, Any], reason: str) -> str | None:
    control.request("should_save", reason)
    return None


def _evaluate(args: Args, control: TrainerControl, context: dict[str, Any], reason: str) -> str | None:
    if context.get("eval_dataloader") is None:
        return "the trainer has no eval_dataset to evaluate on"
    control.request("should_evaluate", reason)
    return None


def _stop(args: Args, control: TrainerControl, context: dict[str, Any], reason: str) -> str | None:
    control.stop(reason)
    if args.save_strategy != "no":
        control.request("should_save", reason)
    return None


REQUESTS: dict[str, Callable[[Args, TrainerControl, dict[str, Any], str], str | None]] = {
    "evaluate": _evaluate,
    "save": _save,
    "stop": _stop,
}
"""What each request does, by the name of its file; it returns why it cannot."""
