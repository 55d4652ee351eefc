"""Microseconds for a batch of 32: a plain DataLoader beside the loader that Trainer makes, interleaved.

    python benchmarks/data.py [--examples 16000] [--rounds 7]

The datasets are a TensorDataset of 64 numbers and a label, a datasets.Dataset of 128 tokens, their mask and a label,
and the same as a list of dicts of lists. The plain DataLoader shuffles, and has torch's own collator, or for dicts the
trainer's, which does what that of transformers does. Shown are medians over the rounds of the processor's time, with
the quartiles, and ratios, round by round.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trackside import Trainer, TrainingArguments
from trackside.trainer.pytorch.data.collators import default_data_collator

BATCH = 32


class Model(nn.Module):
    """Takes the columns of the datasets; it is not called."""

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> None: ...


def make_datasets(examples: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, examples)
    found: dict[str, Any] = {
        "TensorDataset": TensorDataset(torch.randn(examples, 64), torch.from_numpy(labels)),
    }
    columns = {
        "input_ids": generator.integers(0, 30_000, (examples, 128)).tolist(),
        "attention_mask": np.ones((examples, 128), int).tolist(),
        "label": labels.tolist(),
    }
    try:
        import datasets
    except ImportError:
        print("datasets is not installed: its row is left out")
    else:
        found["datasets.Dataset"] = datasets.Dataset.from_dict(columns)
    found["list of dicts"] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return found


def loaders(dataset: Any) -> dict[str, Callable[[], Any]]:
    """Return functions that make an epoch's batches; the first is what the other is compared with."""
    args = TrainingArguments(tempfile.mkdtemp(prefix="data-"), per_device_train_batch_size=BATCH, disable_tqdm=True)
    trainer = Trainer(Model(), args, train_dataset=dataset)
    collate = None if isinstance(dataset, TensorDataset) else default_data_collator
    return {
        "plain DataLoader": lambda: DataLoader(dataset, batch_size=BATCH, shuffle=True, collate_fn=collate),
        "Trainer": trainer.get_train_dataloader,
    }


def microseconds_a_batch(make: Callable[[], Any]) -> float:
    start, count = time.process_time(), 0
    for _ in make():
        count += 1
    return (time.process_time() - start) / count * 1e6


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=16_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print("| | us a batch | quartiles | ratio |\n|---|---|---|---|")
    for title, dataset in make_datasets(options.examples).items():
        makes = loaders(dataset)
        times: dict[str, list[float]] = {name: [] for name in makes}
        for number in range(options.rounds + 1):
            for name, make in makes.items():
                value = microseconds_a_batch(make)
                if number:  # the first round warms up
                    times[name].append(value)
        for name, values in times.items():
            low, middle, high = statistics.quantiles(values, n=4)
            ratio = statistics.median(map(float.__truediv__, values, times["plain DataLoader"]))
            print(f"| {title}, {name} | {middle:.0f} | {low:.0f} to {high:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
