"""The start of a resumed run: from the call of train() to the end of its first step, beside a hand-written loop.

    python benchmarks/resume.py [--framework torch|tf] [--examples 2000000] [--step 20000] [--rounds 7]

A 64-64-10 MLP trains on arrays at batch 32; the run is resumed in the middle of its first epoch. The hand-written loop
loads weights, optimizer, schedule and random numbers from one file, draws the order of the epoch from its seed, goes on
behind the examples that were seen, and does one step. Each round runs both in turn, each with a model of its own that
is made before. Shown are medians over the rounds of the processor's time, with the quartiles; ratios, round by round,
of the processor's time, and in brackets of the time on the clock.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from trackside import TrainerCallback

BATCH = 32
Seconds = tuple[float, float]
HAND = "hand-written loop"


def now() -> Seconds:
    return time.process_time(), time.perf_counter()


def since(start: Seconds) -> Seconds:
    end = now()
    return end[0] - start[0], end[1] - start[1]


class StopAt(TrainerCallback):
    """Ends a run at a step, and saves it there; or ends it behind its first step."""

    def __init__(self, step: int | None = None) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.step is None or state.global_step >= self.step:
            self.ended = now()
            control.should_save = self.step is not None
            control.stop("the benchmark has what it needs")


def arguments(folder: Path, examples: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "max_steps": examples // BATCH,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
    }


def with_torch(folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], Seconds]]:
    """Return functions that resume a run of PyTorch, and return their seconds."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Subset, TensorDataset

    from trackside import Trainer, TrainingArguments

    torch.set_num_threads(1)
    examples, loss_fn = options.examples, nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(examples, 64, generator=generator)
    dataset = TensorDataset(features, torch.randint(0, 10, (examples,), generator=generator))

    def make_model() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def make_trainer(callback: StopAt) -> Trainer:
        args = TrainingArguments(**arguments(folder, examples))
        trainer = Trainer(make_model(), args, train_dataset=dataset, loss_fn=loss_fn, callbacks=[callback])
        trainer.pop_callback("printer")
        return trainer

    def optimizer_and_schedule(model: nn.Module) -> Any:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step * BATCH / examples)

    def step(model: nn.Module, optimizer: Any, schedule: Any, inputs: Any, labels: Any) -> None:
        optimizer.zero_grad()
        loss_fn(model(inputs), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    trained = make_trainer(StopAt(options.step))
    trained.train()
    model = make_model()
    optimizer, schedule = optimizer_and_schedule(model)
    step(model, optimizer, schedule, *dataset[:BATCH])
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    torch.save({**state, "random": torch.get_rng_state()}, folder / "by_hand.pt")

    def by_hand() -> Seconds:
        model = make_model()
        gc.collect()
        start = now()
        optimizer, schedule = optimizer_and_schedule(model)
        state = torch.load(folder / "by_hand.pt")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        order = torch.randperm(examples, generator=torch.Generator().manual_seed(0))[options.step * BATCH :]
        batches = iter(DataLoader(Subset(dataset, order), batch_size=BATCH))
        step(model, optimizer, schedule, *next(batches))
        return since(start)

    return {HAND: by_hand, "Trainer": resumes(make_trainer, folder / f"checkpoint-{options.step}")}


def with_tf(folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], Seconds]]:
    """Return functions that resume a run of TensorFlow, and return their seconds."""
    import keras
    import numpy as np
    import tensorflow as tf

    from trackside import TFTrainer, TFTrainingArguments

    examples, loss_fn = options.examples, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(examples, 64)).astype(np.float32)
    labels = generator.integers(0, 10, examples)

    def make_model() -> Any:
        layers = keras.layers
        return keras.Sequential([layers.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(10)])

    def make_trainer(callback: StopAt) -> TFTrainer:
        args = TFTrainingArguments(**arguments(folder, examples))
        trainer = TFTrainer(make_model(), args, (features, labels), loss_fn=loss_fn, callbacks=[callback])
        trainer.pop_callback("printer")
        return trainer

    def hand_written(model: Any) -> tuple[Any, Any]:
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.0, global_clipnorm=1.0)
        optimizer.build(model.trainable_variables)

        @tf.function
        def step(inputs: Any, labels: Any) -> None:
            with tf.GradientTape() as tape:
                loss = loss_fn(labels, model(inputs, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        return optimizer, step

    make_trainer(StopAt(options.step)).train()
    model = make_model()
    optimizer, step = hand_written(model)
    step(features[:BATCH], labels[:BATCH])
    tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(folder / "by_hand"))

    def by_hand() -> Seconds:
        model = make_model()
        gc.collect()
        start = now()
        optimizer, step = hand_written(model)
        tf.train.Checkpoint(model=model, optimizer=optimizer).read(str(folder / "by_hand")).expect_partial()
        order = np.random.default_rng(0).permutation(examples)[options.step * BATCH :]
        step(features[order[:BATCH]], labels[order[:BATCH]])
        return since(start)

    return {HAND: by_hand, "TFTrainer": resumes(make_trainer, folder / f"checkpoint-{options.step}")}


def resumes(make_trainer: Callable[[StopAt], Any], checkpoint: Path) -> Callable[[], Seconds]:
    """Return a function that resumes a run, and returns the seconds up to the end of its next update."""

    def resumed() -> Seconds:
        callback = StopAt()
        trainer = make_trainer(callback)
        gc.collect()
        start = now()
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return callback.ended[0] - start[0], callback.ended[1] - start[1]

    return resumed


def show(title: str, times: dict[str, list[Seconds]]) -> None:
    """Print a table in Markdown."""
    print(f"\n| {title} | ms | quartiles | added | ratio |\n|---|---|---|---|---|")
    for name, values in times.items():
        low, middle, high = (1e3 * value for value in statistics.quantiles([cpu for cpu, _ in values], n=4))
        pairs = list(zip(values, times[HAND], strict=True))
        ratios = [statistics.median(value[i] / base[i] for value, base in pairs) for i in (0, 1)]
        added = 1e3 * statistics.median(value[0] - base[0] for value, base in pairs)
        print(f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {added:+.1f} | {ratios[0]:.2f} ({ratios[1]:.2f}) |")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=("torch", "tf"), default="torch")
    parser.add_argument("--examples", type=int, default=2_000_000)
    parser.add_argument("--step", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="resume-") as name:
        runs = {"torch": with_torch, "tf": with_tf}[options.framework](Path(name), options)
        times: dict[str, list[Seconds]] = {name: [] for name in runs}
        for number in range(options.rounds + 1):
            for name, run in runs.items():
                seconds = run()
                if number:  # the first round warms up
                    times[name].append(seconds)
    show(f"resuming at step {options.step:,} of {options.examples // BATCH:,}", times)


if __name__ == "__main__":
    main()
