"""What a save costs training, beside a blocking save of the same state to the same disk, interleaved in one run.

    python benchmarks/checkpoint.py [--framework torch|tf] [--parameters 50e6] [--rounds 5] [--folder .]

A stack of square linear layers trains with AdamW, one example a step. Each round is a run of its own, with, in turn: a
blocking save (torch.save of the same tensors; on TensorFlow also tf.train.Checkpoint.write) into the page cache, and
the fsync after it; the first save of the run; a save at a spacing of its own write time; the blocking saves again; a
save after this pause; and two at successive steps, twice, since the first of these makes memory for a second copy.

The stall is the time from on_step_end to the next on_step_begin, with everything that the loop does there. What a
framework does only in the update after it, such as a copy of what is still in use, is a cost of the save too: a row
"with the update after it" has the stall and what that update took longer than the median of the round's others.
Ratios are of medians, against the blocking save alone and, as a committed checkpoint is on the disk, against the
blocking save with its fsync. On a busy machine, page faults tell more than times: memory that is used again has none.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from trackside import TrainerCallback

Save = Callable[[Path], None]
Times = dict[str, list[float]]
BASE = "blocking torch.save"
DURABLE = f"{BASE}, with its fsync"
KINDS = (
    *("first save of a run", "save after a pause", "save at a spacing of its write time"),
    *("second of two saves at once, into new memory", "second of two saves at once"),
)
ADDED = ", with the update after it"


class Saves(TrainerCallback):
    """Alternates blocking saves with saves of the trainer in one run, and times both.

    Args:
        output_dir: The trainer's output folder.
        times: Where the times of each round are kept, by name.

    Attributes:
        blocking: Blocking saves to a path, by name.
    """

    def __init__(self, output_dir: Path, times: Times) -> None:
        self.output_dir = output_dir
        self.times = times
        self.blocking: dict[str, Save] = {}
        self.plan = self.round()
        self.ended_s = self.begun_s = self.stall_s = self.step_s = 0.0
        self.step = self.faults = self.faults_before = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun_s = time.perf_counter()
        self.stall_s = self.begun_s - self.ended_s
        self.faults = page_faults() - self.faults_before

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step_s = time.perf_counter() - self.begun_s
        self.step = state.global_step
        wanted = next(self.plan, None)
        if wanted is None:
            control.should_training_stop = True
        elif wanted:
            control.should_save = True
        self.faults_before = page_faults()
        self.ended_s = time.perf_counter()

    def round(self) -> Iterator[bool]:
        """Yield at every step whether to save, and keep the times."""
        first, pause, spaced, *seconds = KINDS
        updates: list[float] = []
        stalls: dict[str, tuple[float, float]] = {}
        yield from (False, False, False)
        yield from self.time_blocking(updates)
        resident = reset_peak()
        for name in (first, spaced):
            stalls[name] = yield from self.save(name)
        yield from self.time_blocking(updates)
        stalls[pause] = yield from self.save(pause)
        for name in seconds:
            yield from (False, False)  # until the checkpoint before the last is deleted
            yield True
            yield True
            self.note(f"{name}, page faults", self.faults)
            stall_s = self.stall_s
            yield False
            stalls[name] = stall_s, self.step_s
            yield from self.committed(self.output_dir / f"checkpoint-{self.step - 2}")
        for name in KINDS:
            stall_s, after_s = stalls[name]
            self.note(name, stall_s)
            self.note(name + ADDED, stall_s + after_s - statistics.median(updates))
        for update_s in updates:
            self.note("an update", update_s)
        self.note("memory that saves add to the first copy, MB", (memory_bytes("VmHWM") - resident) / 1e6)

    def save(self, name: str) -> Iterator[bool]:
        """Save once, and train until it is committed; return the stall and the time of the update after it."""
        yield True
        asked_s, start_step, stall_s = self.ended_s, self.step, self.stall_s
        self.note(f"{name}, page faults", self.faults)
        folder, update_s = self.output_dir / f"checkpoint-{self.step - 1}", self.step_s
        yield from self.committed(folder)
        self.note("seconds until committed", time.perf_counter() - asked_s)
        self.note("updates while it is written, number", self.step - start_step)
        self.note("size, MB", sum(path.stat().st_size for path in folder.iterdir()) / 1e6)
        return stall_s, update_s

    def committed(self, folder: Path) -> Iterator[bool]:
        """Train until a checkpoint is committed."""
        while not folder.exists():
            yield False

    def time_blocking(self, updates: list[float]) -> Iterator[bool]:
        """Do each of the blocking saves, with some updates before it."""
        for name, save in self.blocking.items():
            yield False
            for _ in range(3):
                yield False
                updates.append(self.step_s)
            path, start_s = self.output_dir / "blocking", time.perf_counter()
            save(path)
            self.note(name, time.perf_counter() - start_s)
            for item in self.output_dir.glob("blocking*"):
                with open(item, "rb") as file:
                    os.fsync(file.fileno())
            self.note(f"{name}, with its fsync", time.perf_counter() - start_s)
            for item in self.output_dir.glob("blocking*"):
                item.unlink()

    def note(self, name: str, value: float) -> None:
        self.times.setdefault(name, []).append(value)


def page_faults() -> int:
    """Return the number of pages that were mapped into this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def memory_bytes(name: str) -> int:
    """Return the resident memory of this process (VmRSS) or its peak so far (VmHWM); 0 where /proc does not exist."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return 1024 * int(text.split(f"{name}:")[1].split()[0])


def reset_peak() -> int:
    """Begin to measure the peak of the resident memory anew, where the system allows it; return the present one."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return memory_bytes("VmRSS")


def with_torch(width: int, layers: int, folder: Path, rounds: int) -> Times:
    """Return the times of runs of Trainer."""
    import torch
    from torch import nn

    from trackside import Trainer, TrainingArguments

    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    data = [{"input": torch.randn(width), "labels": torch.zeros(width)}] * 100_000
    times: Times = {}
    for number in range(rounds):
        saves = Saves(folder / str(number), times)
        args = TrainingArguments(**arguments(saves.output_dir))
        trainer = Trainer(model, args, train_dataset=data, loss_fn=nn.MSELoss(), callbacks=[saves])

        def save(path: Path, trainer: Any = trainer) -> None:
            torch.save({"model": model.state_dict(), "optimizer": trainer.optimizer.state_dict()}, path)

        saves.blocking = {BASE: save}
        trainer.train()
    return times


def with_tf(width: int, layers: int, folder: Path, rounds: int) -> Times:
    """Return the times of runs of TFTrainer."""
    import keras
    import numpy as np
    import tensorflow as tf
    import torch

    from trackside import TFTrainer, TFTrainingArguments

    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    model = keras.Sequential([keras.layers.Input((width,)), *(keras.layers.Dense(width) for _ in range(layers))])
    data = tf.data.Dataset.from_tensors((np.ones(width, "float32"), np.zeros(width, "float32"))).repeat(100_000)
    times: Times = {}
    for number in range(rounds):
        saves = Saves(folder / str(number), times)
        args, loss = TFTrainingArguments(**arguments(saves.output_dir)), keras.losses.MeanSquaredError()
        trainer = TFTrainer(model, args, train_dataset=data, loss_fn=loss, callbacks=[saves])

        def by_torch(path: Path, trainer: Any = trainer) -> None:
            variables = [*model.variables, *trainer.optimizer.variables]  # whose memory the tensors share
            arrays = [np.asarray(tf.convert_to_tensor(variable.value)) for variable in variables]
            torch.save([torch.from_numpy(array) for array in arrays], path)

        def by_tf(path: Path, trainer: Any = trainer) -> None:
            tf.train.Checkpoint(model=model, optimizer=trainer.optimizer).write(str(path))

        saves.blocking = {BASE: by_torch, "blocking tf.train.Checkpoint.write": by_tf}
        trainer.train()
    return times


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 1,
        "max_steps": 100_000,
        "save_strategy": "steps",
        "save_steps": 1_000_000,  # the callback asks for saves, and the end of the run is the last one
        "save_total_limit": 1,
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
    }


def show(times: Times) -> None:
    middles = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'seconds':73} {'median':>8} {'lowest':>8} {'highest':>8} {'ratio':>6} {'to fsynced':>10}")
    for name, values in times.items():
        ratios = f"{middles[name] / middles[BASE]:6.3f} {middles[name] / middles[DURABLE]:10.3f}"
        is_time = not name.endswith(("faults", "number", "MB"))
        print(f"{name:73} {middles[name]:8.3f} {min(values):8.3f} {max(values):8.3f} {ratios if is_time else ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=("torch", "tf"), default="torch")
    parser.add_argument("--parameters", type=float, default=50e6)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(), help="a folder on the disk to write to")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    width = round((options.parameters / options.layers) ** 0.5)
    run = {"torch": with_torch, "tf": with_tf}[options.framework]
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="checkpoints-") as folder:
        times = run(width, options.layers, Path(folder), options.rounds)
    show(times)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
