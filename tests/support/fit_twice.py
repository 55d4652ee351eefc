"""The same training by ``fit`` of Keras and by TFTrainer, on the same batches with the same callbacks."""

from __future__ import annotations

import contextlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trackside import KerasCallbackAdapter, TFTrainer, TFTrainingArguments

C = keras.callbacks

EXAMPLES, BATCH = 20, 8  # the last batch of an epoch has 4 examples
NOISE = np.random.default_rng(0)
X = NOISE.normal(size=(EXAMPLES, 4)).astype("float32")
Y = (X @ NOISE.normal(size=(4, 1)) + NOISE.normal(size=(EXAMPLES, 1))).astype("float32")
VALIDATION = X[::-1].copy(), (Y[::-1] + 0.5).astype("float32")


def model():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(1)])


def sgd(rate=0.05, **options):
    return keras.optimizers.SGD(rate, **options)


def by_fit(*callbacks, epochs=6, y=Y, optimizer=None, validation=VALIDATION):
    """Train by Keras; return the model."""
    made = model()
    made.compile(loss="mse", optimizer=optimizer or sgd())
    shown = {"validation_data": validation, "validation_batch_size": BATCH, "verbose": 0, "shuffle": False}
    made.fit(X, y, batch_size=BATCH, epochs=epochs, callbacks=list(callbacks), **shown)
    return made


def by_trackside(*callbacks, epochs=6, y=Y, optimizer=None, resume=None, **options):
    """Train by TFTrainer on the same batches; return the trainer."""

    class InOrder(TFTrainer):
        def get_train_tfdataset(self):
            return tf.data.Dataset.from_tensor_slices((X, y)).batch(BATCH)

    defaults = {
        "num_train_epochs": epochs,
        "max_steps": 3 * epochs,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "disable_tqdm": True,
    }
    args = TFTrainingArguments("out", **{**defaults, **options})
    trainer = InOrder(
        model(),
        args,
        eval_dataset=VALIDATION,
        loss_fn="mse",
        optimizers=(optimizer or sgd(), None),
        callbacks=[KerasCallbackAdapter(callback) for callback in callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def in_folder(name, run, *callbacks, **options):
    Path(name).mkdir(exist_ok=True)
    with contextlib.chdir(name):
        return run(*callbacks, **options)


def both(make, **options):
    """Run the callbacks of ``make()`` by both, each in a folder of its own; return what they hold, and the models."""
    ours, theirs = make(), make()
    trainer = in_folder("trackside", by_trackside, *ours, **options)
    fitted = in_folder("fit", by_fit, *theirs, **options)
    return ours, theirs, trainer, fitted


def assert_same_weights(one, other):
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


class Notes(C.Callback):
    """Writes down every call, with its logs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs):
        self.seen.append(("train_begin", {**logs, **self.params}))

    def on_train_end(self, logs):
        self.seen.append(("train_end", dict(logs)))


def _noting(name):
    def with_number(self, number, logs):
        self.seen.append((name, number, dict(logs)))

    def without(self, logs):
        self.seen.append((name, dict(logs)))

    return with_number if "epoch" in name or "batch" in name else without


for _name in ("epoch_begin", "epoch_end", "test_begin", "test_end", "train_batch_begin", "train_batch_end"):
    setattr(Notes, f"on_{_name}", _noting(_name))
for _name in ("test_batch_begin", "test_batch_end"):
    setattr(Notes, f"on_{_name}", _noting(_name))


def rounded(calls):
    return [
        tuple(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in p.items()} if isinstance(p, dict) else p
            for p in c
        )
        for c in calls
    ]
