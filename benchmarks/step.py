"""Microseconds a step: a hand-written PyTorch loop beside Trainer, interleaved, for a 64-64-10 MLP at batch 32.

    python benchmarks/step.py [--steps 400] [--rounds 15]

The hand-written loops do what Trainer does by default: zero_grad, forward, backward, clipping by global norm, fused
AdamW, a linear schedule. One takes its batches from a plain DataLoader, as one writes it; the other from the loader
that Trainer makes, which is quicker for a TensorDataset, so that what Trainer adds is the loop and nothing else. Each
round runs every contestant once, in turn, so that noise hits all alike; the number shown is the median over the rounds,
with the quartiles as spread.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trackside import Trainer, TrainerCallback, TrainingArguments

BATCH = 32


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def make_data(steps: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    examples = steps * BATCH
    return TensorDataset(
        torch.randn(examples, 64, generator=generator), torch.randint(0, 10, (examples,), generator=generator)
    )


def by_hand(dataset: TensorDataset, steps: int, loader: Any = None) -> float:
    """Return seconds for ``steps`` steps of a hand-written loop."""
    model, loss_fn = make_model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    loader = loader or DataLoader(dataset, batch_size=BATCH, shuffle=True)
    model.train()
    start = time.perf_counter()
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return time.perf_counter() - start


def by_hand_with_same_batches(dataset: TensorDataset, steps: int) -> float:
    """Return seconds for ``steps`` steps of a hand-written loop over the batches that Trainer makes."""
    args = TrainingArguments(output_dir="unused", per_device_train_batch_size=BATCH)
    return by_hand(dataset, steps, Trainer(make_model(), args, train_dataset=dataset).get_train_dataloader())


class Stopwatch(TrainerCallback):
    """Times the steps alone, as the hand-written loop is timed."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def with_trainer(dataset: TensorDataset, steps: int, **options: Any) -> float:
    """Return seconds for ``steps`` steps of Trainer."""
    with tempfile.TemporaryDirectory() as folder:
        stopwatch = Stopwatch()
        args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=1e-3,
            save_strategy="no",
            **{"logging_strategy": "no", "disable_tqdm": True, **options},
        )
        trainer = Trainer(
            make_model(), args, train_dataset=dataset, loss_fn=nn.CrossEntropyLoss(), callbacks=[stopwatch]
        )
        trainer.pop_callback("printer")
        trainer.train()
        return stopwatch.seconds


def watched(dataset: TensorDataset, steps: int) -> float:
    """Return seconds with a log every 10 steps, a progress bar and TensorBoard."""
    return with_trainer(
        dataset, steps, logging_strategy="steps", logging_steps=10, disable_tqdm=False, report_to=["tensorboard"]
    )


CONTESTANTS: dict[str, Callable[[TensorDataset, int], float]] = {
    "hand-written loop, plain DataLoader": by_hand,
    "hand-written loop, Trainer's batches": by_hand_with_same_batches,
    "Trainer": with_trainer,
    "Trainer, log every 10 steps, progress bar, TensorBoard": watched,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    dataset = make_data(options.steps)
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(options.rounds + 1):
        for name, run in CONTESTANTS.items():
            seconds = run(dataset, options.steps)
            if number:  # the first round warms up
                times[name].append(seconds / options.steps * 1e6)
    hand = times["hand-written loop, Trainer's batches"]
    print("added and ratio: against the hand-written loop over Trainer's batches, round by round")
    print(f"{'':56} {'us a step':>10} {'quartiles':>16} {'added':>8} {'ratio':>6}")
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        added = statistics.median(value - base for value, base in zip(values, hand, strict=True))
        ratio = statistics.median(value / base for value, base in zip(values, hand, strict=True))
        print(f"{name:56} {middle:10.1f} {low:7.1f} -{high:7.1f} {added:+8.1f} {ratio:6.3f}")


if __name__ == "__main__":
    main()
