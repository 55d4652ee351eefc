"""Microseconds a step on TensorFlow: a hand-written tf.function loop, Keras' fit, and TFTrainer, interleaved.

    python benchmarks/step_tf.py [--steps 300] [--rounds 7] [--every 10]

A 64-64-10 MLP at batch 32. The hand-written loop does what TFTrainer does by default: shuffled tf.data, forward,
backward, clipping by global norm, AdamW, a linear schedule. Every contestant trains two epochs and the second is timed,
so that no trace is in it. Each round runs every contestant once, in turn, so that noise hits all alike; the number
shown is the median over the rounds, with the quartiles as spread.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

from trackside import TFTrainer, TFTrainingArguments, TrainerCallback

BATCH = 32
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

Data = tuple[Any, Any]


def make_model() -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([layers.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(10)])


def make_data(steps: int) -> Data:
    generator = np.random.default_rng(0)
    examples = steps * BATCH
    return generator.normal(size=(examples, 64)).astype(np.float32), generator.integers(0, 10, examples)


def pipeline(data: Data) -> Any:
    examples = len(data[1])
    return tf.data.Dataset.from_tensor_slices(data).shuffle(examples).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def by_hand(data: Data, steps: int, every: int) -> float:
    """Return seconds for the second epoch of a hand-written loop."""
    model, dataset = make_model(), pipeline(data)
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.0)
    optimizer.build(model.trainable_variables)
    total = tf.Variable(0.0)

    @tf.function
    def step(features: Any, labels: Any, learning_rate: Any) -> None:
        optimizer.learning_rate.assign(learning_rate)
        with tf.GradientTape() as tape:
            loss = LOSS(labels, model(features, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        total.assign_add(loss)

    for epoch in range(2):
        start = time.perf_counter()
        for index, (features, labels) in enumerate(dataset):
            step(features, labels, tf.constant(1e-3 * (1.0 - (index + epoch * steps) / (2 * steps))))
            if every and (index + 1) % every == 0:
                float(total)
                total.assign(0.0)
    return time.perf_counter() - start


class FitTimer(keras.callbacks.Callback):  # type: ignore[misc]
    """Times each epoch of fit, and reads the logs as often as asked."""

    def __init__(self, every: int) -> None:
        super().__init__()
        if every:
            self.every = every
            self.on_train_batch_end = self._read

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = time.perf_counter() - self.start

    def _read(self, batch: int, logs: Any = None) -> None:
        if (batch + 1) % self.every == 0:
            float(logs["loss"])


def by_fit(data: Data, steps: int, every: int) -> float:
    """Return seconds for the second epoch of Keras' fit."""
    model, timer = make_model(), FitTimer(every)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.0, global_clipnorm=1.0), LOSS)
    model.fit(pipeline(data), epochs=2, verbose=0, callbacks=[timer])
    return timer.seconds


class Stopwatch(TrainerCallback):
    """Times each epoch."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def by_trainer(data: Any, steps: int, every: int, **options: Any) -> float:
    """Return seconds for the second epoch of TFTrainer."""
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        args = TFTrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=2,
            learning_rate=1e-3,
            save_strategy="no",
            logging_strategy="steps" if every else "no",
            logging_steps=every or 500,
            disable_tqdm=True,
            **options,
        )
        trainer = TFTrainer(make_model(), args, data, loss_fn=LOSS, callbacks=[stopwatch])
        trainer.pop_callback("printer")
        trainer.train()
    return stopwatch.seconds


CONTESTANTS: dict[str, Callable[[Data, int, int], float]] = {
    "hand-written tf.function loop": by_hand,
    "Model.fit": by_fit,
    "TFTrainer, tf.data": lambda data, *rest: by_trainer(tf.data.Dataset.from_tensor_slices(data), *rest),
    "TFTrainer, arrays": by_trainer,
    "TFTrainer, arrays, steps_per_execution=10": lambda *given: by_trainer(*given, steps_per_execution=10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--every", type=int, default=10, help="log every so many steps in the second table")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    logging.disable(logging.WARNING)
    data = make_data(options.steps)
    times: dict[tuple[int, str], list[float]] = {(e, name): [] for e in (0, options.every) for name in CONTESTANTS}
    for number in range(options.rounds + 1):
        for (every, name), values in times.items():
            seconds = CONTESTANTS[name](data, options.steps, every)
            if number:  # the first round warms up
                values.append(seconds / options.steps * 1e6)
    for every in (0, options.every):
        _print(f"a log every {every} steps" if every else "no log", {n: v for (e, n), v in times.items() if e == every})


def _print(title: str, times: dict[str, list[float]]) -> None:
    hand = times["hand-written tf.function loop"]
    print(f"\n{title:44} {'us a step':>10} {'quartiles':>16} {'ratio':>6}")
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        ratio = statistics.median(value / base for value, base in zip(values, hand, strict=True))
        print(f"{name:44} {middle:10.1f} {low:7.1f} -{high:7.1f} {ratio:6.3f}")


if __name__ == "__main__":
    main()
