"""Steps per second of a hand-written DistributedDataParallel loop beside Trainer, interleaved, two processes on gloo.

    torchrun --standalone --nproc-per-node 2 benchmarks/ddp.py [--steps 200] [--rounds 11] [--width 512]

Both do the same: no_sync on all but the last micro-batch, clipping by global norm, fused AdamW, a linear schedule,
batches from the same loader. Trainer also sums over the processes what its loss is a mean of, hears of signals, and
watches over the other process. Each round runs every contestant once, in an order of its own, so that noise hits all
alike; shown is the median over the rounds of the ratio within a round. The hand-written loop runs twice in a round: how
far its second ratio is from one is what the machine's noise is worth.
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import tempfile
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import TensorDataset

from trackside import Trainer, TrainerCallback, TrainingArguments

BATCH = 32


def make_model(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def make_data(batches: int) -> TensorDataset:
    examples = batches * BATCH * 2
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(examples, 64, generator=generator)
    return TensorDataset(features, torch.randint(0, 10, (examples,), generator=generator))


class Stopwatch(TrainerCallback):
    """Times an epoch's steps alone, as the hand-written loop is timed."""

    role = "observer"

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        dist.barrier()
        self.start = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.start


class Steering(TrainerCallback):
    """A control callback at every step, so that the processes agree at every step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass


def make_trainer(options: argparse.Namespace, accumulation: int, callbacks: list[Any]) -> Trainer:
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        learning_rate=1e-3,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        no_cuda=True,
    )
    data = make_data(options.steps * accumulation)
    trainer = Trainer(
        make_model(options.width), args, train_dataset=data, loss_fn=nn.CrossEntropyLoss(), callbacks=callbacks
    )
    trainer.pop_callback("printer")
    return trainer


def with_trainer(options: argparse.Namespace, accumulation: int, *more: Any) -> float:
    """Return seconds for all steps of Trainer."""
    stopwatch = Stopwatch()
    make_trainer(options, accumulation, [stopwatch, *more]).train()
    return stopwatch.seconds


def by_hand(options: argparse.Namespace, accumulation: int) -> float:
    """Return seconds for all steps of a hand-written loop."""
    batches = make_trainer(options, accumulation, []).get_train_dataloader()
    model, loss_fn = nn.parallel.DistributedDataParallel(make_model(options.width)), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / options.steps)
    model.train()
    dist.barrier()
    start = time.perf_counter()
    for index, (inputs, labels) in enumerate(batches, start=1):
        if index % accumulation:
            with model.no_sync():
                (loss_fn(model(inputs), labels) / accumulation).backward()
            continue
        (loss_fn(model(inputs), labels) / accumulation).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    contestants = {"hand-written DDP": by_hand, "hand-written DDP again": by_hand, "Trainer": with_trainer}
    contestants["Trainer, a control callback at steps"] = lambda *args: with_trainer(*args, Steering())
    order = random.Random(0)  # the same on both processes
    for accumulation in (1, 4):
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):
            for name in order.sample(list(contestants), len(contestants)):
                seconds = contestants[name](options, accumulation)
                if number:  # the first round warms up
                    times[name].append(seconds)
        if dist.get_rank() == 0:
            report(times, options.steps, accumulation)
    dist.destroy_process_group()


def report(times: dict[str, list[float]], steps: int, accumulation: int) -> None:
    hand = times["hand-written DDP"]
    print(f"accumulation {accumulation:<26} {'steps/s':>9} {'of the hand-written loop':>25} {'quartiles':>16}")
    for name, seconds in times.items():
        ratios = [base / own for base, own in zip(hand, seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:<39} {steps / statistics.median(seconds):9.1f} {middle:25.3f} {low:8.3f} -{high:6.3f}")


if __name__ == "__main__":
    main()
