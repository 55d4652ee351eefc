"""Microseconds a step in PyTorch: hand-written loops, Trainer and, where they are installed, other trainers, in turn.

    python benchmarks/step.py [--steps 400] [--rounds 15] [--accumulation 1] [--watched] [--peers]

A 64-64-10 MLP at batch 32 on one thread. The hand-written loops do what Trainer does by default: zero_grad, forward,
backward, clipping by global norm, fused AdamW, a linear schedule. One takes its batches from a plain DataLoader, as one
writes it; the other from the loader that Trainer makes, which is quicker for a TensorDataset, so that what Trainer adds
to it is the loop and nothing else. With ``--watched``, each logs every 10 steps, to a progress bar and to TensorBoard.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from harness import Call, Cost, Result, Watch, in_turn, table
from mlp import BATCH, Setting, make_model, optimizers
from torch import nn
from torch.utils.data import DataLoader

from trackside import Trainer, TrainerCallback, TrainingArguments

HAND = "hand-written loop"
SAME = "hand-written loop, Trainer's batches"


def by_hand(setting: Setting, loader: Any = None) -> Cost:
    """Train with a hand-written loop."""
    from tqdm import tqdm

    model, loss_fn, accumulation = make_model(), nn.CrossEntropyLoss(), setting.accumulation
    optimizer, schedule = optimizers(model, setting)
    loader = loader or DataLoader(setting.data(), batch_size=BATCH, shuffle=True)
    total = torch.zeros(())
    if setting.is_watched:
        from torch.utils.tensorboard import SummaryWriter
    model.train()
    folder = tempfile.TemporaryDirectory() if setting.is_watched else nullcontext("")
    with folder as path:
        writer = SummaryWriter(path) if setting.is_watched else None
        watch = Watch()
        with tqdm(total=setting.steps) if writer else nullcontext() as bar:
            for index, (inputs, labels) in enumerate(loader, start=1):
                loss = loss_fn(model(inputs), labels) / accumulation
                loss.backward()
                if writer:
                    total += loss.detach()
                if index % accumulation:
                    continue
                norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                if writer:
                    bar.update()
                    if index // accumulation % 10 == 0:
                        mean, total = float(total) / 10, torch.zeros(())
                        record = {"loss": mean, "grad_norm": float(norm), "learning_rate": schedule.get_last_lr()[0]}
                        for name, value in record.items():
                            writer.add_scalar(f"train/{name}", value, index // accumulation)
                        bar.set_postfix(record, refresh=False)
        return watch.stop()


def by_hand_with_same_batches(setting: Setting) -> Cost:
    """Train with a hand-written loop over the batches that Trainer makes."""
    args = TrainingArguments(output_dir="unused", per_device_train_batch_size=BATCH)
    return by_hand(setting, Trainer(make_model(), args, train_dataset=setting.data()).get_train_dataloader())


class Stopwatch(TrainerCallback):
    """Times the steps alone, as the hand-written loop is timed."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch = Watch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.cost = self.watch.stop()


def with_trainer(setting: Setting, callbacks: Iterable[Any] = ()) -> Cost:
    """Train with Trainer."""
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=setting.accumulation,
            num_train_epochs=1,
            learning_rate=1e-3,
            save_strategy="no",
            logging_strategy="steps" if setting.is_watched else "no",
            logging_steps=10,
            disable_tqdm=not setting.is_watched,
            report_to=["tensorboard"] if setting.is_watched else "none",
        )
        loss, callbacks = nn.CrossEntropyLoss(), [stopwatch, *callbacks]
        trainer = Trainer(make_model(), args, train_dataset=setting.data(), loss_fn=loss, callbacks=callbacks)
        trainer.pop_callback("printer")
        trainer.train()
    return stopwatch.cost


def contestants(setting: Setting) -> dict[str, Call]:
    """Return what trains without another trainer."""
    functions = {HAND: by_hand, SAME: by_hand_with_same_batches, "Trainer": with_trainer}
    return {name: lambda train=train: setting.a_step(train(setting)) for name, train in functions.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--watched", action="store_true", help="log every 10 steps, to a bar and to TensorBoard")
    parser.add_argument("--peers", action="store_true", help="also other trainers that are installed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    setting = Setting(options.steps, options.accumulation, options.watched)
    calls = contestants(setting)
    if options.peers:
        import peers

        calls |= peers.training(setting)
    print(table(Result("step", "a step", "us", HAND, in_turn(calls, options.rounds))))


if __name__ == "__main__":
    main()
