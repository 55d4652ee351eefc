"""Milliseconds of a step whose batches a thread, or a worker, fetches ahead: why Trainer has no such thread (ADR 15).

    python benchmarks/prefetch.py [--batches 40] [--rounds 5]

Each contestant trains an MLP on the batches of Trainer's own loader, on one thread of torch: fetched as they are
needed, by a thread two batches ahead, and by one worker (``dataloader_num_workers=1``). Shown are medians of the time
on the clock from step to step, without the first three, over all rounds, in each of which every contestant has a turn.
"""

from __future__ import annotations

import argparse
import logging
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from trackside import Trainer, TrainingArguments

BATCH, WIDTH, DEPTH, SKIPPED = 32, 256, 2, 3


class Examples(Dataset[Any]):
    """Examples that a function makes of their index."""

    def __init__(self, length: int, make: Callable[[int], Any]) -> None:
        self.length, self.make = length, make

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def of_numpy(index: int) -> Any:
    """Return an example that numpy computes, without Python's lock."""
    return np.sort(np.full((16, WIDTH), float(index), np.float32) @ WEIGHTS, axis=1).mean(0)


def of_python(index: int) -> Any:
    """Return an example that Python computes, with its lock."""
    return np.array([(index * number) % 251 for number in range(WIDTH)], np.float32)


def waited_for(index: int) -> Any:
    """Return an example after 0.1 ms, as from a network."""
    time.sleep(1e-4)
    return np.full(WIDTH, float(index), np.float32)


def from_file(index: int) -> Any:
    """Return the beginning of a file of 64 kB, which the system has in its memory."""
    return np.frombuffer((FOLDER / str(index % 64)).read_bytes(), np.float32)[:WIDTH].copy()


WEIGHTS = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
FOLDER = Path(tempfile.mkdtemp(prefix="prefetch-"))
KINDS = {"computed by numpy": of_numpy, "by Python": of_python, "waited for": waited_for, "read from files": from_file}


def ahead(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches that a thread fetches ahead."""
    waiting: queue.Queue[Any] = queue.Queue(DEPTH)

    def fill() -> None:
        for batch in chain(batches, [None]):
            waiting.put(batch)

    threading.Thread(target=fill, daemon=True).start()
    yield from iter(waiting.get, None)


def steps(make: Callable[[int], Any], width: int, batches: int, how: str) -> list[float]:
    """Return the milliseconds from step to step."""
    args = TrainingArguments(
        str(FOLDER), per_device_train_batch_size=BATCH, disable_tqdm=True, dataloader_num_workers=int(how == "a worker")
    )
    collate = lambda rows: torch.from_numpy(np.stack(rows))  # noqa: E731
    trainer = Trainer(nn.Linear(1, 1), args, train_dataset=Examples(BATCH * batches, make), data_collator=collate)
    loader = trainer.get_train_dataloader()
    model = nn.Sequential(nn.Linear(WIDTH, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    optimizer, times = torch.optim.AdamW(model.parameters(), fused=True), []
    for inputs in ahead(loader) if how == "a thread" else loader:
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(1e3 * time.perf_counter())
    return [later - earlier for earlier, later in pairwise(times)][SKIPPED:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    for number in range(64):
        (FOLDER / str(number)).write_bytes(np.ones(16384, np.float32).tobytes())
    contestants = ("as needed", "a thread", "a worker")
    print(f"| examples | width of the model | {' | '.join(contestants)} |\n|---|---|---|---|---|")
    for title, make in KINDS.items():
        for width in (64, 512):
            times: dict[str, list[float]] = {how: [] for how in contestants}
            for _ in range(options.rounds):
                for how, values in times.items():
                    values += steps(make, width, options.batches, how)
            medians = [statistics.median(values) for values in times.values()]
            cells = [f"{value:.1f} ({value / medians[0]:.2f})" for value in medians]
            print(f"| {title} | {width} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
