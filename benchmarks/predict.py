"""Prediction and evaluation in PyTorch: Trainer beside hand-written loops, interleaved, with the memory they add.

    python benchmarks/predict.py [--rows 200000] [--outputs 100] [--batch 256] [--rounds 7]

A 64-64-100 MLP on one thread. The hand-written loops write each batch into one array that is allocated before. One
takes its batches from a plain DataLoader, as one writes it; the other from the loader that Trainer makes, so that what
Trainer adds is the loop and nothing else. Those of the evaluation add up the loss and the hits, without keeping
outputs; Trainer gets its accuracy from compute_metrics, which wants all outputs. Each round runs every contestant once,
in turn. Shown are medians over the rounds of the processor's time, and ratios, round by round, to the loop over
Trainer's batches: of the processor's time, and in brackets of the time on the clock. The memory is the largest growth
of this process during a call, in sizes of the result.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from trackside import Trainer, TrainingArguments

WIDTH = 64
Call = Callable[[], Any]


class Stream(IterableDataset[Any]):
    """Rows one by one, without a length, so that the size of the result is not known before its end."""

    def __init__(self, features: torch.Tensor) -> None:
        self.features = features

    def __iter__(self) -> Any:
        return ((self.features[index],) for index in range(len(self.features)))


def make_model(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs)).eval()


class Quiet(Trainer):
    """A trainer that prints no records."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None: ...


def make_trainer(options: argparse.Namespace, **more: Any) -> Trainer:
    """Return a trainer of a fresh model."""
    args = TrainingArguments(
        tempfile.mkdtemp(prefix="predict-"), per_device_eval_batch_size=options.batch, disable_tqdm=True
    )
    return Quiet(make_model(options.outputs), args, loss_fn=nn.CrossEntropyLoss(), **more)


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def predictors(features: torch.Tensor, options: argparse.Namespace) -> dict[str, Call]:
    """Return functions that predict over all rows; the second is what the others are compared with."""
    dataset, trainer, model = TensorDataset(features), make_trainer(options), make_model(options.outputs)

    def hand(batches: Any) -> Any:
        result, start = np.empty((len(features), options.outputs), np.float32), 0
        with torch.no_grad():
            for (inputs,) in batches:
                outputs = model(inputs)
                result[start : start + len(outputs)] = outputs.numpy()
                start += len(outputs)
        return result

    return {
        "hand-written loop, plain DataLoader": lambda: hand(DataLoader(dataset, batch_size=options.batch)),
        "hand-written loop, Trainer's batches": lambda: hand(trainer.get_test_dataloader(dataset)),
        "Trainer.predict": lambda: trainer.predict(dataset).predictions,
        "Trainer.predict, a stream without a length": lambda: trainer.predict(Stream(features)).predictions,
    }


def evaluators(features: torch.Tensor, options: argparse.Namespace) -> dict[str, Call]:
    """Return functions that evaluate loss and accuracy over all rows; the second is what is compared with."""
    labels = torch.randint(0, options.outputs, (len(features),), generator=torch.Generator().manual_seed(0))
    dataset, model = TensorDataset(features, labels), make_model(options.outputs)
    loss_only, trainer = make_trainer(options), make_trainer(options, compute_metrics=accuracy)
    loss_fn = nn.CrossEntropyLoss()

    def hand(batches: Any, *, counts: bool = True) -> float:
        loss, hits = 0.0, 0
        with torch.no_grad():
            for inputs, expected in batches:
                outputs = model(inputs)
                loss += float(loss_fn(outputs, expected)) * len(expected)
                hits += int((outputs.argmax(-1) == expected).sum()) if counts else 0
        return loss / len(labels)

    return {
        "hand-written loop, plain DataLoader": lambda: hand(DataLoader(dataset, batch_size=options.batch)),
        "hand-written loop, Trainer's batches": lambda: hand(trainer.get_eval_dataloader(dataset)),
        "Trainer.evaluate, with accuracy": lambda: trainer.evaluate(dataset),
        "hand-written loop, Trainer's batches, loss only": lambda: hand(
            trainer.get_eval_dataloader(dataset), counts=False
        ),
        "Trainer.evaluate, loss only": lambda: loss_only.evaluate(dataset),
    }


def added_memory(call: Call) -> float | None:
    """Return the largest growth of this process's memory during ``call``, in sizes of its result."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not taken for room
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = memory_bytes("VmRSS")
        size = getattr(call(), "nbytes", 0)
        return (memory_bytes("VmHWM") - before) / size if size else None
    except (OSError, AttributeError):  # not Linux
        return None


def memory_bytes(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(text.split(f"{name}:")[1].split()[0])


def measured(calls: dict[str, Call], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of each call: of the processor, and on the clock."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time(), time.perf_counter()
            call()
            end = time.process_time(), time.perf_counter()
            if number:  # the first round warms up
                times[name].append((end[0] - start[0], end[1] - start[1]))
    return times


def show(title: str, calls: dict[str, Call], rounds: int) -> None:
    """Print a table in Markdown."""
    memory = {name: added_memory(call) for name, call in calls.items() if call() is not None}
    times = measured(calls, rounds)
    base = times[list(calls)[1]]
    print(f"\n| {title} | ms | quartiles | ratio | memory |\n|---|---|---|---|---|")
    for name, values in times.items():
        low, middle, high = (1e3 * value for value in statistics.quantiles([cpu for cpu, _ in values], n=4))
        ratios = [statistics.median(v[i] / b[i] for v, b in zip(values, base, strict=True)) for i in (0, 1)]
        size = memory[name]
        print(
            f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {ratios[0]:.3f} ({ratios[1]:.2f}) "
            f"| {'' if size is None else f'{size:.2f}'} |"
        )
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--outputs", type=int, default=100)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    features = torch.randn(options.rows, WIDTH, generator=torch.Generator().manual_seed(0))
    show(f"prediction over {options.rows:,} rows", predictors(features, options), options.rounds)
    show(f"evaluation over {options.rows:,} rows", evaluators(features, options), options.rounds)


if __name__ == "__main__":
    main()
