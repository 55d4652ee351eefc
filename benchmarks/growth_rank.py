"""One rank of `growth`: trains under counters, and writes what it exchanged as JSON to FOLDER/rank{n}.json.

Counted are the collectives that are called through torch.distributed, the buckets of DistributedDataParallel, the
examples that are read, and the files of a checkpoint. Each kind of work is the difference of two runs.
"""

import functools
import json
import logging
import os
import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils.data import Dataset

from trackside import Trainer, TrainerCallback, TrainingArguments

counts: Counter[str] = Counter()
"""Number of each collective, and under NAME + " bytes" what this rank sends in it."""

COLLECTIVES = ("all_reduce", "all_gather_object", "all_gather", "gather_object")
COLLECTIVES += ("broadcast", "broadcast_object_list", "barrier")


def size_of(name: str, words: tuple[Any, ...]) -> int:
    """Return the bytes that a rank gives to a collective."""
    if name == "barrier" or not words:
        return 0
    given = words[1] if name == "all_gather_object" else words[0]
    return given.nbytes if isinstance(given, torch.Tensor) else len(pickle.dumps(given))


def count_collectives() -> None:
    """Count from now on, in this process; a collective within another is a part of it."""
    depth = 0

    def counted(name: str, function: Any) -> Any:
        @functools.wraps(function)
        def call(*words: Any, **options: Any) -> Any:
            nonlocal depth
            if depth == 0:
                counts[name] += 1
                counts[f"{name} bytes"] += size_of(name, words)
            depth += 1
            try:
                return function(*words, **options)
            finally:
                depth -= 1

        return call

    for name in COLLECTIVES:
        setattr(dist, name, counted(name, getattr(dist, name)))
    make = nn.parallel.DistributedDataParallel.__init__

    def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        nonlocal depth
        counts["bucket of gradients"] += 1
        counts["bucket of gradients bytes"] += bucket.buffer().nbytes
        depth += 1
        try:
            return allreduce_hook(state, bucket)
        finally:
            depth -= 1

    @functools.wraps(make)
    def init(self: Any, *words: Any, **options: Any) -> None:
        make(self, *words, **options)
        self.register_comm_hook(None, hook)

    nn.parallel.DistributedDataParallel.__init__ = init  # type: ignore[method-assign]


class Counted(Dataset[Any]):
    """Examples that count how often they are read."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        counts["examples read"] += 1
        return {"input": torch.full((64,), float(index % 7)), "labels": index % 10}


class Steering(TrainerCallback):
    """A control callback at every step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass


def train(folder: Path, steps: int, callbacks: Any = (), **options: Any) -> Counter[str]:
    """Train a new model; return what was counted."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    quiet = {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "log_level": "error"}
    args = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        no_cuda=True,
        **{**quiet, "overwrite_output_dir": True, **options},
    )
    world = int(os.environ["WORLD_SIZE"])
    trainer = Trainer(
        model,
        args,
        train_dataset=Counted(64 * world),
        eval_dataset=Counted(8 * world),
        loss_fn=nn.CrossEntropyLoss(),
        callbacks=list(callbacks),
    )
    trainer.pop_callback("printer")
    counts.clear()
    trainer.train()
    return Counter(counts)


def less(many: Counter[str], few: Counter[str], units: int) -> dict[str, float]:
    """Return what a unit costs."""
    return {name: (many[name] - few[name]) / units for name in sorted(many) if many[name] != few[name]}


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    count_collectives()
    plain, longer = train(folder / "out", 4), train(folder / "out", 8)
    steered = train(folder / "out", 8, [Steering()])
    logged = train(folder / "out", 8, logging_strategy="steps", logging_steps=1)
    evaluated = train(folder / "out", 8, eval_strategy="steps", eval_steps=2)
    saved = train(folder / "out", 8, save_strategy="steps", save_steps=2)
    update = less(longer, plain, 4)
    result = {
        "a start": less(plain, Counter({name: round(4 * value) for name, value in update.items()}), 1),
        "an update": update,
        "a control callback at a step": less(steered, longer, 8),
        "a record": less(logged, longer, 8),
        "an evaluation": less(evaluated, longer, 4),
        "a save": less(saved, longer, 4),
    }
    checkpoint = folder / "out" / "checkpoint-8"
    files = {path.name: path.stat().st_size for path in sorted(checkpoint.iterdir())} if rank == 0 else {}
    text = json.dumps({"exchanged": result, "files": files})
    (folder / f"rank{rank}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
