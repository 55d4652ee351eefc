"""Instructions of the paths that every run takes, counted instead of timed, and compared with stored numbers.

    python benchmarks/counts.py [--framework none|torch|tensorflow] [--renew]
    python benchmarks/counts.py --callgrind     # also those of the processor, with valgrind; a minute for each row

Counted are the instructions of Python's bytecode, and the calls of functions of Python and of C. Both are the same on
every machine with the same versions, also on a busy one. A row is the difference of two runs, of N and of 2 N units,
after a run that warms up, so that what happens once a run falls out. The instructions of the processor depend on the C
library and on the kind of processor as well; they are shown, and not stored.

The stored numbers are in tests/counts.json, by the version of Python; ``--renew`` measures and writes them.
tests/test_counts.py compares them.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import importlib.metadata
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "tests" / "counts.json"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = {"none": ("blinker", "numpy"), "torch": ("torch",), "tensorflow": ("tensorflow", "keras")}
"""Whose code is counted too; another version may have other counts."""

Work = Callable[[int], Callable[[], Any]]
"""Prepares a number of units of work, and returns what does them."""

QUIET = {"save_strategy": "no", "disable_tqdm": True, "log_level": "error", "logging_strategy": "no"}


class OnStep:
    """A control callback at every step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass


def loop(steps: int, **options: Any) -> Callable[[], Any]:
    """Return a run of the loop over a stub in place of a framework."""
    sys.path.append(str(ROOT / "tests"))
    from support import fake_engine
    from support.fake_group import FakeGroup

    fake_engine.BATCHES = 10_000  # the run lies within one epoch
    trainer = fake_engine.FakeTrainer(
        FakeGroup(1).collectives(0),
        Path(tempfile.gettempdir(), "unused"),
        sizes=[],
        fault=lambda place, count: None,
        steers={},
        max_steps=steps,
        **{**QUIET, "eval_strategy": "no", **options},
    )
    trainer.pop_callback("Steers")
    return trainer.train


def sending(times: int, callbacks: int = 10) -> Callable[[], Any]:
    """Return the sending of an event to callbacks, a number of times."""
    from trackside.callbacks.bus.dispatcher import Dispatcher
    from trackside.callbacks.state import TrainerControl, TrainerState

    class Sender:
        pass

    sender = Sender()
    dispatcher = Dispatcher(sender, None, TrainerState(), TrainerControl())
    dispatcher.attach_all([(OnStep(), {"name": f"callback{index}"}) for index in range(callbacks)])

    def send() -> None:
        assert sender is not None  # the signals hold it weakly
        for _ in range(times):
            dispatcher.send("on_step_end")

    return send


def with_torch(steps: int, **options: Any) -> Callable[[], Any]:
    """Return a run of Trainer, of a number of updates."""
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from trackside import Trainer, TrainingArguments

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    data = TensorDataset(torch.randn(6400, 64), torch.randint(0, 10, (6400,)))
    args = TrainingArguments("unused", max_steps=steps, per_device_train_batch_size=32, **{**QUIET, **options})
    trainer = Trainer(model, args, train_dataset=data, loss_fn=nn.CrossEntropyLoss())
    trainer.pop_callback("printer")
    return trainer.train


def evaluating(batches: int, *, predicts: bool = False) -> Callable[[], Any]:
    """Return an evaluation by the loss, or a prediction, of a number of batches."""
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from trackside import Trainer, TrainingArguments

    torch.manual_seed(0)
    torch.set_num_threads(1)
    features, labels = torch.randn(32 * batches, 64), torch.randint(0, 10, (32 * batches,))
    args = TrainingArguments("unused", per_device_eval_batch_size=32, **QUIET)
    trainer = Trainer(nn.Linear(64, 10), args, loss_fn=nn.CrossEntropyLoss())
    trainer.pop_callback("printer")
    data = TensorDataset(features) if predicts else TensorDataset(features, labels)
    return lambda: (trainer.predict if predicts else trainer.evaluate)(data)


def with_tensorflow(steps: int, **options: Any) -> Callable[[], Any]:
    """Return a run of TFTrainer, of a number of updates."""
    import keras
    import numpy as np

    from trackside import TFTrainer, TFTrainingArguments

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([layers.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(10)])
    data = np.ones((6400, 64), np.float32), np.zeros(6400, np.int64)
    args = TFTrainingArguments("unused", max_steps=steps, per_device_train_batch_size=32, **{**QUIET, **options})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer = TFTrainer(model, args, data, loss_fn=loss)
    trainer.pop_callback("printer")
    return trainer.train


LOGGED = {"logging_strategy": "steps", "logging_steps": 1}
ROWS: dict[str, dict[str, tuple[int, Work]]] = {
    "none": {
        "200 steps of the loop without a framework": (200, loop),
        "20 steps, each with a record": (20, lambda steps: loop(steps, **LOGGED)),
        "a send to 10 callbacks": (1, sending),
    },
    "torch": {
        "10 updates of Trainer": (10, with_torch),
        "10 updates of Trainer, accumulation 4": (10, lambda steps: with_torch(steps, gradient_accumulation_steps=4)),
        "10 updates of Trainer, each with a record": (10, lambda steps: with_torch(steps, **LOGGED)),
        "10 batches of Trainer.evaluate": (10, evaluating),
        "10 batches of Trainer.predict": (10, lambda batches: evaluating(batches, predicts=True)),
    },
    "tensorflow": {
        "10 updates of TFTrainer": (10, with_tensorflow),
        "10 updates of TFTrainer, each with a record": (10, lambda steps: with_tensorflow(steps, **LOGGED)),
    },
}


def instructions_of(action: Callable[[], Any]) -> int:
    """Return how many instructions of bytecode an action runs on this thread."""
    count = 0

    def each(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
        return each

    def call(frame: Any, event: str, arg: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return each

    before = sys.gettrace()
    sys.settrace(call)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def calls_of(action: Callable[[], Any]) -> int:
    """Return how many functions, of Python and of C, an action calls on this thread."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        action()
    finally:
        profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


def counted(units: int, work: Work) -> dict[str, int]:
    """Return the counts of a number of units: those of twice as many, less those of as many."""
    counts = []
    for factor in (1, 2):
        action = work(factor * units)
        action()
        gc.collect()
        gc.disable()
        try:
            counts.append({"instructions": instructions_of(action), "calls": calls_of(action)})
        finally:
            gc.enable()
    few, many = counts
    return {name: many[name] - few[name] for name in few}


def measured(framework: str) -> dict[str, dict[str, int]]:
    """Return the counts of the rows of a framework."""
    logging.disable(logging.WARNING)
    return {title: counted(*row) for title, row in ROWS[framework].items()}


def versions(framework: str) -> dict[str, str]:
    """Return the versions of the packages whose code is counted with a framework."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES[framework]}


def in_a_process(*words: str, under: Sequence[str] = ()) -> str:
    """Run this script in a process with a fixed order of sets; return what it prints."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [*under, sys.executable, __file__, *words]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout


def callgrind(framework: str, title: str) -> int:
    """Return how many instructions of the processor a row takes."""
    collected = []
    for factor in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "out")
            under = ("valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={file}")
            in_a_process("--framework", framework, "--only", title, "--times", str(factor), under=under)
            collected.append(int(re.findall(r"^(?:totals|summary): (\d+)", file.read_text(), re.MULTILINE)[-1]))
    return collected[1] - collected[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=tuple(ROWS), help="only these rows")
    parser.add_argument("--only", help="only this row")
    parser.add_argument("--renew", action="store_true", help=f"write {STORED.relative_to(ROOT)}")
    parser.add_argument("--callgrind", action="store_true", help="count instructions of the processor, too")
    parser.add_argument("--json", action="store_true", help="count in this process, and print JSON")
    parser.add_argument("--times", type=int, help="do the row so many times, and count nothing")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measured(options.framework)))
    elif options.times:
        units, work = ROWS[options.framework][options.only]
        work(1)()
        work(options.times * units)()
    else:
        show(options)


def show(options: argparse.Namespace) -> None:
    """Print the counts beside those that are stored, and store them if asked."""
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    known = stored.setdefault(VERSION, {})
    print(f"{'Python ' + VERSION:44} {'instructions':>13} {'stored':>9} {'calls':>9} {'stored':>9} {'processor':>12}")
    for framework in [options.framework] if options.framework else ROWS:
        counts = json.loads(in_a_process("--framework", framework, "--json").splitlines()[-1])
        for title, now in counts.items():
            if options.only not in (None, title):
                continue
            old = known.get(framework, {}).get("rows", {}).get(title, {"instructions": 0, "calls": 0})
            of_machine = f"{callgrind(framework, title):12,}" if options.callgrind else ""
            numbers = f"{now['instructions']:13,} {old['instructions']:9,} {now['calls']:9,} {old['calls']:9,}"
            print(f"{title:44} {numbers} {of_machine}", flush=True)
        known[framework] = {"versions": versions(framework), "rows": counts}
    if options.renew:
        STORED.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
