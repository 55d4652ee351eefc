"""How costs grow with examples, steps, records, callbacks, parameters and processes: counts, exponents, and a picture.

    python benchmarks/all.py --rows growth      # measures, and writes docs/explanation/growth.md and its picture

Instructions are those of Python's bytecode, as in `counts`; they are the same on a busy machine. What happens in C is
measured in the processor's time, the least of several runs. The exponent is the slope of a straight line through the
upper half of the points, in logarithms: 0 for a cost that does not grow, 1 for one in proportion. Collectives are
counted in real processes on gloo (`growth_rank`), which exchange the same with any processor.
"""

from __future__ import annotations

import gc
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import counts
from harness import installed_versions, machine_name

Points = list[tuple[int, float]]


def instructions(make: Callable[[int], Callable[[], Any]], numbers: Sequence[int]) -> Points:
    """Return the instructions of what ``make`` returns for each number, after a run that warms up."""
    points = []
    for number in numbers:
        action = make(number)
        action()
        gc.collect()
        points.append((number, counts.instructions_of(action)))
    return points


def added(make: Callable[[int, int], Callable[[], Any]], numbers: Sequence[int], units: int) -> Points:
    """Return the instructions of a unit for each number, as the difference of two runs."""
    few, many = (instructions(lambda number, n=n: make(number, n), numbers) for n in (units, 2 * units))
    return [(number, (more - less) / units) for (number, less), (_, more) in zip(few, many, strict=True)]


def milliseconds(make: Callable[[int], Callable[[], Any]], numbers: Sequence[int], times: int = 3) -> Points:
    """Return the least of the processor's time of several runs, for each number."""
    points = []
    for number in numbers:
        action = make(number)
        action()
        costs = []
        for _ in range(times):
            start_s = time.process_time()
            action()
            costs.append(1e3 * (time.process_time() - start_s))
        points.append((number, min(costs)))
    return points


def exponent(points: Points) -> float:
    """Return the slope in logarithms over the upper half of the points."""
    import numpy as np

    upper = points[len(points) // 2 :] if len(points) > 3 else points
    numbers, costs = ([math.log(max(value, 1e-9)) for value in values] for values in zip(*upper, strict=True))
    return float(np.polyfit(numbers, costs, 1)[0])


# -- one process ------------------------------------------------------------------------------------------------------


def first_update(examples: int) -> Callable[[], Any]:
    """Return a run of one update of a dataset of that many examples."""
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from trackside import Trainer, TrainingArguments

    data = TensorDataset(torch.zeros(examples, 1), torch.zeros(examples, dtype=torch.int64))
    args = TrainingArguments("unused", max_steps=1, per_device_train_batch_size=32, **counts.QUIET)
    trainer = Trainer(nn.Linear(1, 2), args, train_dataset=data, loss_fn=nn.CrossEntropyLoss())
    trainer.pop_callback("printer")
    return trainer.train


def updates_of_layers(layers: int, steps: int, *, by_hand: bool = False) -> Callable[[], Any]:
    """Return updates of a model of that many layers, with Trainer or by hand."""
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from trackside import Trainer, TrainingArguments

    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(layers)))
    data = TensorDataset(torch.randn(6400, 8), torch.randint(0, 8, (6400,)))
    args = TrainingArguments("unused", max_steps=steps, per_device_train_batch_size=4, **counts.QUIET)
    trainer = Trainer(model, args, train_dataset=data, loss_fn=nn.CrossEntropyLoss())
    trainer.pop_callback("printer")
    if not by_hand:
        return trainer.train

    def train() -> None:
        loader, loss_fn = iter(trainer.get_train_dataloader()), nn.CrossEntropyLoss()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        for _ in range(steps):
            inputs, labels = next(loader)
            loss_fn(model(inputs), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    return train


def checkpoint_bytes(width: int) -> tuple[int, int]:
    """Return the number of parameters, and the size of a checkpoint."""
    import torch
    from torch import nn

    from trackside import Trainer, TrainingArguments

    model = nn.Linear(width, width)
    data = [{"input": torch.zeros(width), "labels": torch.zeros(width)}] * 4
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(folder, max_steps=1, **{**counts.QUIET, "save_strategy": "steps"}, save_steps=1)
        trainer = Trainer(model, args, train_dataset=data, loss_fn=nn.MSELoss())
        trainer.pop_callback("printer")
        trainer.train()
        size = sum(path.stat().st_size for path in Path(folder, "checkpoint-1").iterdir())
    return sum(parameter.numel() for parameter in model.parameters()), size


def records(before: int, more: int) -> Callable[[], Any]:
    """Return records in a run that has some already."""
    return counts.loop(before + more, logging_strategy="steps", logging_steps=1)


def in_one_process(*, is_quick: bool) -> dict[str, dict[str, Any]]:
    """Return the curves of one process, by title."""
    small = 2 if is_quick else 5
    hand = added(lambda n, steps: updates_of_layers(n, steps, by_hand=True), [1, 4, 16, 64, 256][:small], 4)
    with_trainer = added(updates_of_layers, [1, 4, 16, 64, 256][:small], 4)
    powers = [10**power for power in range(3, 5 if is_quick else 8)]
    counted = "instructions"
    made: dict[str, tuple[str, str, Points]] = {
        "a run, by its steps": ("steps", counted, instructions(counts.loop, [50, 100, 200, 400, 800][: small + 1])),
        "a record, by those before": ("records", counted, added(records, [10, 100, 1000][:small], 20)),
        "a send, by the callbacks": (
            "callbacks",
            counted,
            instructions(lambda number: counts.sending(1, number), [1, 4, 16, 64, 256][: small + 1]),
        ),
        "an update, by the layers": ("layers", counted, with_trainer),
        "the same by hand": ("layers", counted, hand),
        "a run of one update, by the examples": ("examples", counted, instructions(first_update, powers)),
        "the same, the processor's time": ("examples", "ms", milliseconds(first_update, powers)),
        "a checkpoint, by the parameters": (
            "parameters",
            "bytes",
            [checkpoint_bytes(n) for n in ([32, 128] if is_quick else [64, 256, 1024, 2048])],
        ),
    }
    return {
        title: {"of": of, "unit": unit, "points": points, "exponent": exponent(points)}
        for title, (of, unit, points) in made.items()
    }


# -- several processes ------------------------------------------------------------------------------------------------


def on_ranks(world_size: int) -> dict[str, Any]:
    """Train on real processes; return what the first of them exchanged, and its checkpoint's files."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        common = {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "MASTER_PORT": probe.getsockname()[1]}
        probe.close()
        processes = []
        for rank in range(world_size):
            own = {**common, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1}
            environment = {**os.environ, **{key: str(value) for key, value in own.items()}}
            script = Path(__file__).with_name("growth_rank.py")
            processes.append(subprocess.Popen([sys.executable, str(script), name], env=environment))
        statuses = [process.wait() for process in processes]
        if any(statuses):
            raise SystemExit(f"the processes of growth_rank.py ended with {statuses}")
        found = [json.loads(Path(name, f"rank{rank}.json").read_text()) for rank in range(world_size)]
    first = dict(found[0])
    for other in found[1:]:
        ours, theirs = ({kind: names(each["exchanged"][kind]) for kind in each["exchanged"]} for each in (first, other))
        assert ours == theirs, "all ranks call the same collectives"
    return first


def names(exchanged: dict[str, float]) -> dict[str, float]:
    """Return the numbers of the collectives alone."""
    return {name: number for name, number in exchanged.items() if not name.endswith(("bytes", "read"))}


def measure(*, is_quick: bool) -> dict[str, Any]:
    """Measure everything."""
    sizes = [2] if is_quick else [1, 2, 4, 8]
    ranks = {}
    for size in sizes:
        print(f"{size} processes", file=sys.stderr, flush=True)
        ranks[str(size)] = on_ranks(size)
    curves = in_one_process(is_quick=is_quick)
    return {"date": time.strftime("%Y-%m-%d"), "machine": machine_name(), "versions": installed_versions()} | {
        "curves": curves,
        "ranks": ranks,
    }
