"""Trainings in one process, with trackers, signals, failing observers and a full disk: ``FRAMEWORK RUNS``.

It prints a line of JSON: what the runs after the first left behind, MiB of memory among it.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from both.conftest import TensorFlow, Torch

from trackside import CSVLoggerCallback, JournalCallback, JSONLinesLoggerCallback, TrainerCallback, events

FIRST_RUNS = 17
"""After these, each kind of run has been there."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


class Fails(TrainerCallback):
    role = "observer"

    def on_log(self, args, state, control, **kwargs):
        raise SystemExit("not logged in")

    def state_dict(self):
        return {"seen": {1, 2}}


class FailsInBackground(Fails):
    background = True


class Signals(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


class FullDisk(TrainerCallback):
    """No file may grow at step 2."""

    def on_step_end(self, args, state, control, **kwargs):
        limit = 1 if state.global_step == 2 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


class Raises(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise ZeroDivisionError


def trackers(number: int, folder: Path) -> dict[str, Any]:
    """The trackers of a run: TensorBoard in each, those with a process or a database of their own in each tenth."""
    found: dict[str, Any] = {"tensorboard": {}}
    if number % 10 == 5:
        from support.tracker_readers import WANDB_QUIET

        found["wandb"] = {"settings": WANDB_QUIET}
    if number % 10 == 6:
        found["mlflow"] = {"tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    return found


def run(trainer_factory: Any, model: Any, number: int) -> None:
    disturbs = {1: Signals, 2: FullDisk, 3: Raises}.get(number % 4)
    callbacks = [CSVLoggerCallback, JSONLinesLoggerCallback, JournalCallback, Fails, FailsInBackground]
    trainer = trainer_factory(
        model=model,
        callbacks=[*callbacks, *([disturbs] if disturbs else [])],
        max_steps=4,
        logging_steps=1,
        save_strategy="steps",
        save_steps=3,
        on_stop_signal="return",
    )
    for name, options in trackers(number, trainer_factory.folder).items():
        trainer.add_callback(tracker_class(name)(**options))
    try:
        trainer.train()
    except ZeroDivisionError:
        assert disturbs is Raises
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, UNLIMITED)
    assert trainer.state.global_step == {Signals: 2, Raises: 3}.get(disturbs, 4)
    assert trainer.state.stopped_by == ("SIGTERM" if disturbs is Signals else None)
    shutil.rmtree(trainer_factory.folder / "out")


def tracker_class(name: str) -> Any:
    from trackside.callbacks.registry import load

    return load(name)


def left() -> Counter[str]:
    """What is there of each kind: receivers of events, threads, and open files by their paths."""
    gc.collect()
    files = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
    return Counter(files) + Counter(
        {
            "receivers": sum(len(item.receivers) for item in events.EVENTS.values()),
            "senders": sum(len(item._by_sender) for item in events.EVENTS.values()),
            "threads": threading.active_count(),
        }
    )


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(framework: str, runs: int) -> dict[str, Any]:
    trainer_factory = {"pytorch": Torch, "tensorflow": TensorFlow}[framework](Path.cwd())
    handlers = [signal.getsignal(number) for number in SIGNALS]
    model, seen = trainer_factory.model(), []
    for number in range(runs):
        run(trainer_factory, model, number)
        if number in (FIRST_RUNS - 1, runs - 1):
            seen.append((left(), resident_mib()))

    (first, first_mib), (last, last_mib) = seen
    same = handlers == [signal.getsignal(number) for number in SIGNALS]
    return {"left": last - first, "mib": last_mib - first_mib, "handlers_are_back": same}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
