"""A run that is killed and started again: ``killed_run.py KIND FOLDER [LEFT_OUT]``; every step is a line of a file.

It draws random numbers in every place where a user may: in the dataset, in its workers, in the collator, in tf.data,
in the model; from the global generators and from those of the dataset's and the collator's own. LEFT_OUT is a state of
a random number generator that a resumed run does not restore.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from trackside import TrainerCallback

FEATURES = np.random.RandomState(0).normal(size=(24, 4)).astype(np.float32)
LABELS = FEATURES[:, :1] * 2
STEPS = 30
PAUSE_S = 0.01
"""After each step, so that checkpoints are committed while the run goes on."""


class Notes(TrainerCallback):
    """Writes a line for each step, and has a state of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.sum = path, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sum = state["sum"]

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.sum += logs["loss"] + float(np.random.rand()) + random.random()
            numbers = [logs["loss"], logs["grad_norm"], self.sum]
            line = f"{state.global_step} " + " ".join(float(number).hex() for number in numbers) + "\n"
            with open(self.path, "ab", buffering=0) as file:
                file.write(line.encode())
            time.sleep(PAUSE_S)


def options(folder: Path) -> dict[str, Any]:
    given = {
        "num_train_epochs": 5,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
        "save_total_limit": 2,
    }
    return given | {"output_dir": str(folder / "out"), "per_device_train_batch_size": 4, "disable_tqdm": True}


def on_pytorch(kind: str, folder: Path, left_out: str) -> tuple[Any, Any]:
    import torch
    from torch import nn

    from trackside import Trainer, TrainingArguments
    from trackside.trainer.pytorch import snapshot

    if left_out:
        keep = snapshot.random_state
        snapshot.random_state = lambda: {**keep(), left_out: torch.Generator().get_state()}
    torch.set_num_threads(1)

    rng, own, old = np.random.default_rng(0), torch.Generator().manual_seed(0), np.random.RandomState(0)

    def noise() -> Any:
        return torch.rand(4) + float(np.random.rand()) + random.random() + torch.rand((), generator=own)

    class Maps(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.rng = rng

        def __len__(self) -> int:
            return len(FEATURES)

        def __getitem__(self, index: int) -> Any:
            x = torch.from_numpy(FEATURES[index]) + noise() + float(self.rng.random())
            return {"x": x, "labels": torch.from_numpy(LABELS[index])}

    class Streams(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return iter(Maps()[index] for index in range(len(FEATURES)))

    def collate(examples: Any) -> Any:
        batch = torch.utils.data.default_collate(examples)
        return {**batch, "x": batch["x"] + noise() + old.rand()}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))

        def forward(self, x: Any, labels: Any = None) -> Any:
            return {"loss": nn.functional.mse_loss(self.layers(x), labels)}

    rest = {"max_steps": STEPS} if "iterable" in kind else {}
    args = TrainingArguments(**options(folder), **rest, dataloader_num_workers=int(kind[-1]), use_cpu=True)
    dataset = Streams() if "iterable" in kind else Maps()
    trainer = Trainer(Model(), args, train_dataset=dataset, data_collator=collate, callbacks=[Notes(folder / "notes")])
    return trainer, lambda: [value.numpy() for value in trainer.model.state_dict().values()]


def on_tensorflow(kind: str, folder: Path, left_out: str) -> tuple[Any, Any]:
    import keras
    import tensorflow as tf

    from trackside import TFTrainer, TFTrainingArguments
    from trackside.trainer.tensorflow import snapshot

    if left_out:
        keep = snapshot.random_state
        snapshot.random_state = lambda model: {**keep(model), "model": [[5, 5] for _ in keep(model)["model"]]}
    rng, layer = np.random.default_rng(0), keras.layers.GaussianNoise(0.1)
    spec = (tf.TensorSpec((4,)), tf.TensorSpec((1,)))

    def generate() -> Any:
        for index in np.random.permutation(24):
            yield FEATURES[index] + np.float32(rng.random()), LABELS[index]

    def drawn(value: Any) -> Any:
        return np.float32(value + np.random.rand() + random.random())

    def python(features: Any, labels: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(drawn, [features], tf.float32), (4,)), labels

    def noisy(features: Any, labels: Any) -> Any:
        return layer(features + tf.random.normal((4,)), training=True), labels

    numbers, own = tf.data.Dataset.random(rerandomize_each_iteration=True), tf.random.Generator.from_seed(5)

    def shifted(features: Any, labels: Any, number: Any) -> Any:
        return features + tf.cast(number % 100, tf.float32) / 100 + own.uniform(()), labels

    def inner(index: Any) -> Any:
        part = tf.data.Dataset.from_tensor_slices((FEATURES, LABELS)).skip(index * 6).take(6)
        return part.map(noisy).shuffle(6)

    def known(dataset: Any) -> Any:
        return dataset.apply(tf.data.experimental.assert_cardinality(24))

    slices = tf.data.Dataset.from_tensor_slices((FEATURES, LABELS))
    datasets = {
        "generator": lambda: known(tf.data.Dataset.from_generator(generate, output_signature=spec)).map(noisy),
        "map": lambda: slices.map(python).cache().shuffle(24).map(noisy, num_parallel_calls=2).shuffle(8, seed=3),
        "interleave": lambda: known(tf.data.Dataset.range(4).interleave(inner, cycle_length=2)).map(python),
        "own": lambda: slices.shuffle(24).map(noisy).batch(4),
        "stateful": lambda: slices.shuffle(24),
        "random": lambda: tf.data.Dataset.zip((slices, numbers.take(24))).map(lambda pair, seed: shifted(*pair, seed)),
    }
    made = datasets[kind.split()[-1]]()

    class Own(TFTrainer):
        def get_train_tfdataset(self) -> Any:
            return made

    class Noise(keras.layers.Layer):
        def call(self, x: Any, training: bool = False) -> Any:
            if not training:
                return x
            return x + keras.random.normal(keras.ops.shape(x), stddev=0.1) + 0.1 * tf.random.normal(()) + own.normal(())

    keras.utils.set_random_seed(1)
    rows = [keras.Input((4,)), keras.layers.Dense(8)]
    if kind.endswith("stateful"):
        rnn = keras.layers.SimpleRNN(8, stateful=True, recurrent_dropout=0.2)
        rows = [keras.Input((4,), batch_size=4), keras.layers.Reshape((4, 1)), rnn]
    parts = [*rows, keras.layers.Dropout(0.3), Noise(), keras.layers.Dense(1)]
    args = TFTrainingArguments(**options(folder))
    trainer = (Own if kind.endswith("own") else TFTrainer)(
        keras.Sequential(parts), args, train_dataset=made, loss_fn="mse", callbacks=[Notes(folder / "notes")]
    )
    return trainer, trainer.model.get_weights


def main() -> None:
    kind, folder, left_out = sys.argv[1], Path(sys.argv[2]), "".join(sys.argv[3:])
    make = on_pytorch if kind.startswith("torch") else on_tensorflow
    trainer, weights = make(kind, folder, left_out)
    trainer.train(resume_from_checkpoint=True)
    final = b"".join(np.ascontiguousarray(value).tobytes() for value in weights())
    (folder / "final.tmp").write_bytes(final)
    os.replace(folder / "final.tmp", folder / "final")


if __name__ == "__main__":
    main()
