"""Stall of training by a save, beside a blocking save of the same state to the same disk, interleaved in one run.

    python benchmarks/checkpoint.py [--framework torch|tf] [--parameters 50e6] [--rounds 5] [--folder .]

A stack of square linear layers trains with AdamW, one example a step. Each round, in turn: a blocking save (torch.save;
on TensorFlow also tf.train.Checkpoint.write), which fills the page cache, and the fsync after it; a save of the trainer
after a pause; one as soon as the former is committed, that is at a spacing of its own write time; and two at successive
steps. The stall is the time from on_step_end to the next on_step_begin, with everything that the loop does there. The
first save of a run, which allocates the memory of the copy, has its own row. So has the update after a save: a copy
that a framework makes only then is part of its cost. Ratios are of medians, against the blocking save alone and, as a
committed checkpoint is on the disk, against the blocking save with its fsync. On a busy machine, page faults tell more
than times: memory that is used again has none, and what remains of a stall is one copy of the checkpoint.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from trackside import TrainerCallback

Save = Callable[[Path], None]
Times = dict[str, list[float]]
BASE = "blocking torch.save"


class Saves(TrainerCallback):
    """Alternates blocking saves with saves of the trainer, and times both.

    Args:
        blocking: Blocking saves to a path, by name.
        output_dir: The trainer's output folder.
        rounds: How often to do all.
    """

    def __init__(self, blocking: dict[str, Save], output_dir: Path, rounds: int) -> None:
        self.output_dir = output_dir
        self.times: Times = {}
        self.sizes_bytes: list[int] = []
        self.plan = self.rounds(blocking, rounds)
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

    def rounds(self, blocking: dict[str, Save], rounds: int) -> Iterator[bool]:
        """Yield at every step whether to save, and keep the times."""
        for _ in range(3):
            yield False
        for number in range(rounds):
            for name, save in blocking.items():
                self.time_blocking(name, save)
                yield False
            self.note("an update", self.step_s)
            resident = memory_bytes("VmRSS")
            yield from self.save("the first save" if number == 0 else "save after a pause")
            yield from self.save("save at a spacing of its write time")
            yield from self.save_twice()
            self.note("memory added, MB", (memory_bytes("VmHWM") - resident) / 1e6)

    def save(self, name: str) -> Iterator[bool]:
        """Save once and train until it is committed."""
        yield True
        asked_s, folder = self.ended_s, self.folder
        self.note(name, self.stall_s)
        self.note(f"{name}, page faults", self.faults)
        self.note("the update after a save", self.step_s)
        start_step = self.step
        while not folder.exists():
            yield False
        self.note("seconds until committed", time.perf_counter() - asked_s)
        self.note("updates while it is written, number", self.step - start_step)
        self.sizes_bytes.append(sum(path.stat().st_size for path in folder.iterdir()))

    def save_twice(self) -> Iterator[bool]:
        """Save at two successive steps and train until both are committed."""
        yield False  # until the checkpoint before the last is deleted
        yield True
        yield True
        self.note("second of two saves at once", self.stall_s)
        folder = self.folder
        while not folder.exists():
            yield False

    @property
    def folder(self) -> Path:
        return self.output_dir / f"checkpoint-{self.step - 1}"

    def time_blocking(self, name: str, save: Save) -> None:
        path = self.output_dir / "blocking"
        start = time.perf_counter()
        save(path)
        self.note(name, time.perf_counter() - start)
        start = time.perf_counter()
        for item in self.output_dir.glob("blocking*"):
            with open(item, "rb") as file:
                os.fsync(file.fileno())
            item.unlink()
        self.note(f"fsync of {name}", time.perf_counter() - start)

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


def with_torch(width: int, layers: int, folder: Path, rounds: int) -> Saves:
    """Return the times of a run of Trainer."""
    import torch
    from torch import nn

    from trackside import Trainer, TrainingArguments

    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    data = [{"input": torch.randn(width), "labels": torch.zeros(width)}] * 100_000
    args = TrainingArguments(**arguments(folder))

    def save(path: Path) -> None:
        torch.save({"model": model.state_dict(), "optimizer": trainer.optimizer.state_dict()}, path)

    saves = Saves({BASE: save}, folder, rounds)
    trainer = Trainer(model, args, train_dataset=data, loss_fn=nn.MSELoss(), callbacks=[saves])
    trainer.train()
    return saves


def with_tf(width: int, layers: int, folder: Path, rounds: int) -> Saves:
    """Return the times of a run of TFTrainer."""
    import keras
    import numpy as np
    import tensorflow as tf
    import torch

    from trackside import TFTrainer, TFTrainingArguments

    model = keras.Sequential([keras.layers.Input((width,)), *(keras.layers.Dense(width) for _ in range(layers))])
    data = tf.data.Dataset.from_tensors((np.ones(width, "float32"), np.zeros(width, "float32"))).repeat(100_000)
    args = TFTrainingArguments(**arguments(folder))

    def save_by_torch(path: Path) -> None:
        variables = [*model.variables, *trainer.optimizer.variables]
        torch.save([torch.from_numpy(np.asarray(tf.convert_to_tensor(variable.value))) for variable in variables], path)

    def save_by_tf(path: Path) -> None:
        tf.train.Checkpoint(model=model, optimizer=trainer.optimizer).write(str(path))

    blocking = {BASE: save_by_torch, "blocking tf.train.Checkpoint.write": save_by_tf}
    saves = Saves(blocking, folder, rounds)
    loss = keras.losses.MeanSquaredError()
    trainer = TFTrainer(model, args, train_dataset=data, loss_fn=loss, callbacks=[saves])
    trainer.train()
    return saves


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 1,
        "max_steps": 100_000,
        "save_strategy": "no",
        "save_total_limit": 1,
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
    }


def show(times: Times, sizes_bytes: list[int]) -> None:
    middles = {name: statistics.median(values) for name, values in times.items()}
    durable = statistics.median(map(sum, zip(times[BASE], times[f"fsync of {BASE}"], strict=True)))
    print(f"checkpoint of {statistics.median(sizes_bytes) / 1e6:.0f} MB")
    print(f"{'seconds':48} {'median':>9} {'lowest':>9} {'highest':>9} {'ratio':>6} {'to fsynced':>10}")
    for name, values in times.items():
        ratios = f"{middles[name] / middles[BASE]:6.3f} {middles[name] / durable:10.3f}" if "," not in name else ""
        print(f"{name:48} {middles[name]:9.3f} {min(values):9.3f} {max(values):9.3f} {ratios}")


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
        saves = run(width, options.layers, Path(folder), options.rounds)
    show(saves.times, saves.sizes_bytes)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
