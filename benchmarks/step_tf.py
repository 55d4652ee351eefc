"""Microseconds a step on TensorFlow: a hand-written tf.function loop, Keras' fit, and TFTrainer, interleaved.

    python benchmarks/step_tf.py [--steps 300] [--rounds 15] [--rows 200000] [--plain]

A 64-64-10 MLP at batch 32 on one thread. The hand-written loop does what TFTrainer does by default: forward, backward,
clipping by global norm, AdamW, a linear schedule, the sum of the losses, over a shuffled tf.data.Dataset with batch and
prefetch; with ``--plain`` that loop and fit do not shuffle. With several updates a call, it takes them from the
iterator inside the graph. Each contestant is made and traced once, and each round runs an epoch of every contestant, in
turn, so that noise hits all alike. Shown are medians over the rounds, with the quartiles as spread; ratios are to the
hand-written loop, round by round: of the time on the clock, and of the processor's time of all threads.

The second table is for a prediction over ``--rows`` rows, with the memory that it takes at most beside its result.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

from trackside import TFTrainer, TFTrainingArguments, TrainerCallback

BATCH = 32
PREDICT_BATCH = 256
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HAND = "hand-written loop"
SETTINGS = {  # updates a call, steps between logs (0: none)
    "1 update a call": (1, 0),
    "1 update a call, log every 10 steps": (1, 10),
    "20 updates a call": (20, 0),
    "10 updates a call, log every 10 steps": (10, 10),
}

Data = tuple[Any, Any]
Seconds = tuple[float, float]
Contestant = Callable[[Data, argparse.Namespace, int, int], Iterator[Seconds]]


def make_model() -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([layers.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(10)])


def make_data(examples: int) -> Data:
    generator = np.random.default_rng(0)
    return generator.normal(size=(examples, 64)).astype(np.float32), generator.integers(0, 10, examples)


def pipeline(data: Data, options: argparse.Namespace) -> Any:
    dataset = tf.data.Dataset.from_tensor_slices(data)
    dataset = dataset if options.plain else dataset.shuffle(len(data[1]))
    return dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def now() -> Seconds:
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    wall, cpu = now()
    return wall - start[0], cpu - start[1]


# -- the contestants: each is an iterator that trains an epoch and yields its seconds ---------------------------------


def by_hand(data: Data, options: argparse.Namespace, per_call: int, every: int) -> Iterator[Seconds]:
    model, dataset, total = make_model(), pipeline(data, options), tf.Variable(0.0)
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.0)
    optimizer.build(model.trainable_variables)

    def update(features: Any, labels: Any, learning_rate: Any) -> None:
        optimizer.learning_rate.assign(learning_rate)
        with tf.GradientTape() as tape:
            loss = LOSS(labels, model(features, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        total.assign_add(loss)

    one = tf.function(update)

    @tf.function
    def several(iterator: Any, learning_rates: Any) -> None:
        for index in tf.range(per_call):
            update(*next(iterator), learning_rates[index])

    rates = np.linspace(1e-3, 0.0, options.steps, dtype=np.float32)
    while True:
        start, iterator = now(), iter(dataset)
        for step in range(0, options.steps, per_call):
            if per_call == 1:
                one(*next(iterator), tf.constant(rates[step]))
            else:
                several(iterator, tf.constant(rates[step : step + per_call]))
            if every and (step + per_call) % every == 0:
                float(total)
                total.assign(0.0)
        yield since(start)


class FitTimer(keras.callbacks.Callback):  # type: ignore[misc]
    """Times each epoch of fit, and reads the logs as often as asked."""

    def __init__(self, every: int) -> None:
        super().__init__()
        if every:
            self.every = every
            self.on_train_batch_end = self._read

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.start = now()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = since(self.start)

    def _read(self, batch: int, logs: Any = None) -> None:
        if (batch + 1) % self.every == 0:
            float(logs["loss"])


def by_fit(data: Data, options: argparse.Namespace, per_call: int, every: int) -> Iterator[Seconds]:
    model, timer, dataset = make_model(), FitTimer(every), pipeline(data, options)
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.0, global_clipnorm=1.0)
    model.compile(optimizer, LOSS, steps_per_execution=per_call, jit_compile=False)
    while True:
        model.fit(dataset, epochs=1, verbose=0, callbacks=[timer])
        yield timer.seconds


class Turns(TrainerCallback):
    """Lets training wait at each epoch for its turn, and passes on how long the epoch took."""

    def __init__(self) -> None:
        self.go, self.seconds = threading.Semaphore(0), queue.Queue[Seconds]()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.go.acquire()
        self.start = now()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.put(since(self.start))


def by_trainer(data: Any, options: argparse.Namespace, per_call: int, every: int) -> Iterator[Seconds]:
    turns = Turns()
    args = TFTrainingArguments(
        tempfile.mkdtemp(prefix="step_tf-"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=options.rounds + 1,
        learning_rate=1e-3,
        save_strategy="no",
        logging_strategy="steps" if every else "no",
        logging_steps=every or 500,
        steps_per_execution=per_call,
        disable_tqdm=True,
    )
    trainer = TFTrainer(make_model(), args, data, loss_fn=LOSS, callbacks=[turns])
    trainer.pop_callback("printer")
    thread = threading.Thread(target=trainer.train, daemon=True)
    thread.start()
    try:
        for _ in range(options.rounds + 1):
            turns.go.release()
            yield turns.seconds.get(timeout=600)
    finally:  # the caller takes no more, and a process that ends while a thread is inside TensorFlow is aborted
        thread.join(60)


CONTESTANTS: dict[str, Contestant] = {
    HAND: by_hand,
    "Model.fit": by_fit,
    "TFTrainer, arrays": by_trainer,
    "TFTrainer, tf.data": lambda data, *rest: by_trainer(tf.data.Dataset.from_tensor_slices(data), *rest),
}


# -- prediction -------------------------------------------------------------------------------------------------------


def predictors(data: Data) -> dict[str, Callable[[], Any]]:
    """Return functions that predict over all rows, each with a model of its own."""
    features, model = data[0], make_model()

    @tf.function
    def step(batch: Any) -> Any:
        return model(batch, training=False)

    examples = tf.data.Dataset.from_tensor_slices(features)

    def hand() -> Any:
        batches = examples.batch(PREDICT_BATCH).prefetch(tf.data.AUTOTUNE)
        return np.concatenate([step(batch).numpy() for batch in batches])

    args = TFTrainingArguments(
        tempfile.mkdtemp(prefix="step_tf-"), per_device_eval_batch_size=PREDICT_BATCH, disable_tqdm=True
    )
    trainer, keras_model = TFTrainer(make_model(), args, loss_fn=LOSS), make_model()
    return {
        HAND: hand,
        "Model.predict": lambda: keras_model.predict(features, batch_size=PREDICT_BATCH, verbose=0),
        "TFTrainer, arrays": lambda: trainer.predict(features).predictions,
        "TFTrainer, tf.data": lambda: trainer.predict(examples).predictions,
    }


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def added_memory(call: Callable[[], Any]) -> float:
    """Return the largest growth of this process's memory during ``call``, in sizes of its result."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not taken for room
    before, largest, ended = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not ended.wait(0.002):
            largest = max(largest, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    size = call().nbytes
    ended.set()
    watcher.join()
    return max(largest - before, 0) / size


# -- the tables -------------------------------------------------------------------------------------------------------


def measured(runs: dict[str, Iterator[Seconds]], rounds: int) -> dict[str, list[Seconds]]:
    times: dict[str, list[Seconds]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            seconds = next(run)
            if number:  # the first round traces
                times[name].append(seconds)
    return times


def print_table(title: str, unit: str, scale: float, times: dict[str, list[Seconds]], notes: dict[str, str]) -> None:
    print(f"\n{title:40} {unit:>10} {'quartiles':>20} {'ratio':>7} {'cpu':>7}")
    for name, values in times.items():
        low, middle, high = (value * scale for value in statistics.quantiles([wall for wall, _ in values], n=4))
        ratios = [statistics.median(v[i] / b[i] for v, b in zip(values, times[HAND], strict=True)) for i in (0, 1)]
        spread = f"{low:.1f} - {high:.1f}"
        print(
            f"{name:40} {middle:10.1f} {spread:>20} {ratios[0]:7.3f} {ratios[1]:7.3f}{notes.get(name, '')}", flush=True
        )


def timed(call: Callable[[], Any]) -> Iterator[Seconds]:
    while True:
        start = now()
        call()
        yield since(start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="steps of an epoch, a multiple of 20")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the prediction; 0 for none")
    parser.add_argument("--plain", action="store_true", help="the hand-written loop and fit do not shuffle")
    parser.add_argument("--settings", type=int, nargs="*", default=range(len(SETTINGS)), help="rows of SETTINGS to run")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    logging.disable(logging.WARNING)
    data = make_data(options.steps * BATCH)
    for title, (per_call, every) in [list(SETTINGS.items())[index] for index in options.settings]:
        runs = {name: make(data, options, per_call, every) for name, make in CONTESTANTS.items()}
        print_table(title, "us a step", 1e6 / options.steps, measured(runs, options.rounds), {})
    if options.rows:
        calls = predictors(make_data(options.rows))
        memory = {name: added_memory(call) for name, call in calls.items() if call() is not None}
        times = measured({name: timed(call) for name, call in calls.items()}, options.rounds)
        notes = {name: f"   {size:.2f} times the size of the result" for name, size in memory.items()}
        print_table(f"prediction over {options.rows:,} rows", "ms", 1e3, times, notes)


if __name__ == "__main__":
    main()
