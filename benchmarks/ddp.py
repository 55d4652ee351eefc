"""Steps per second of a hand-written DistributedDataParallel loop beside Trainer, two processes on gloo.

    torchrun --standalone --nproc-per-node 2 benchmarks/ddp.py [--blocks 300] [--block 10] [--width 512]

Both do the same: no_sync on all but the last micro-batch, clipping by global norm, fused AdamW that decays all weights
but biases, a linear schedule, batches from the same loader. Trainer also sums over the processes what its loss is a
mean of, hears of signals, and watches over the other process.

All contestants live in the same two processes and take turns, a block of ten updates each, so that noise hits all
alike. Shown is the median over the turns of the ratio within a turn, with its 95 % interval, and the quartiles of the
ratios. The hand-written loop runs twice: how far its second ratio is from one is what the machine's noise is worth. The
first turns, in which DDP arranges its buckets, warm up.
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import TensorDataset

from trackside import Trainer, TrainerCallback, TrainingArguments

BATCH = 32
DECAY = 0.01
WARMING_UP = 3
HAND, AGAIN = "hand-written DDP", "hand-written DDP again"


def make_model(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def make_data(batches: int) -> TensorDataset:
    examples = batches * BATCH * 2
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(examples, 64, generator=generator)
    return TensorDataset(features, torch.randint(0, 10, (examples,), generator=generator))


def make_trainer(steps: int, width: int, accumulation: int) -> Trainer:
    args = TrainingArguments(
        output_dir="unused",  # nothing is saved
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        learning_rate=1e-3,
        weight_decay=DECAY,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        no_cuda=True,
    )
    data = make_data(steps * accumulation)
    trainer = Trainer(make_model(width), args, train_dataset=data, loss_fn=nn.CrossEntropyLoss())
    trainer.pop_callback("printer")
    return trainer


def by_hand(steps: int, width: int, accumulation: int) -> Iterator[None]:
    """Train with a hand-written loop; yield after each update."""
    batches = make_trainer(steps, width, accumulation).get_train_dataloader()
    model, loss_fn = nn.parallel.DistributedDataParallel(make_model(width)), nn.CrossEntropyLoss()
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    weights = [parameter for name, parameter in model.named_parameters() if not name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": DECAY}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    model.train()
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
        yield


class Turns(TrainerCallback):
    """Times a block of Trainer's updates, then lets each hand-written loop have its block.

    Attributes:
        seconds: Of every block, by contestant.
    """

    role = "observer"

    def __init__(self, block: int, *loop: int) -> None:
        self.block = block
        self.loops = {HAND: by_hand(*loop), AGAIN: by_hand(*loop)}
        self.seconds: dict[str, list[float]] = {name: [] for name in (*self.loops, "Trainer")}
        self.order = random.Random(0)  # the same on both processes

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop("Trainer")
        for name in self.order.sample(list(self.loops), len(self.loops)):
            self.start()
            for _ in range(self.block):
                next(self.loops[name])
            self.stop(name)
        self.start()

    def start(self) -> None:
        dist.barrier()
        self.began = time.perf_counter()

    def stop(self, name: str) -> None:
        self.seconds[name].append(time.perf_counter() - self.began)


class Steering(TrainerCallback):
    """A control callback at every step, so that the processes agree at every step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass


def take_turns(options: argparse.Namespace, accumulation: int, *more: Any) -> dict[str, list[float]]:
    """Return the seconds of every block of each contestant, without those that warm up."""
    steps = (options.blocks + WARMING_UP) * options.block
    turns = Turns(options.block, steps, options.width, accumulation)
    trainer = make_trainer(steps, options.width, accumulation)
    trainer.add_callback(turns, every=options.block)
    for callback in more:
        trainer.add_callback(callback)
    trainer.train()
    return {name: seconds[WARMING_UP:] for name, seconds in turns.seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=300)
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--accumulation", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    for accumulation in options.accumulation:
        plain = take_turns(options, accumulation)
        steered = take_turns(options, accumulation, Steering())
        if dist.get_rank() == 0:
            print(f"accumulation {accumulation:<24} steps/s  of the hand-written loop      interval       quartiles")
            report(plain, options.block, plain)
            report({"Trainer, a control callback at steps": steered["Trainer"]}, options.block, steered)
    dist.destroy_process_group()


def report(times: dict[str, list[float]], block: int, beside: dict[str, list[float]]) -> None:
    for name, seconds in times.items():
        ratios = [base / own for base, own in zip(beside[HAND], seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:<36} {block / statistics.median(seconds):8.1f} {middle:25.3f} {_interval(ratios)} "
            f"{low:7.3f} -{high:6.3f}"
        )


def _interval(ratios: list[float]) -> str:
    """Return the 95 % interval of the median, by the ranks between which it lies (the binomial distribution)."""
    ordered, half = sorted(ratios), 0.98 * len(ratios) ** 0.5
    low, high = int(len(ratios) / 2 - half), int(len(ratios) / 2 + half)
    return f"{ordered[max(low, 0)]:6.3f} -{ordered[min(high, len(ratios) - 1)]:6.3f}"


if __name__ == "__main__":
    main()
