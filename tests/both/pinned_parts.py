"""Parts of the runs in test_pinned_numbers.py: data, models and a fingerprint of the kernels, for each framework.

Data and weights are whole numbers over powers of two, the same on every processor. The test and its parts use nothing
but the public names of trackside, and no other file of the tests.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
for _name, _value in {**THREADS, "TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}.items():
    os.environ.setdefault(_name, _value)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np  # noqa: E402  # the environment comes first


def classified(examples: int, seed: int = 0) -> tuple[Any, Any]:
    """Return features (examples, 6) and labels of three classes."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, examples)
    features = (generator.integers(-256, 257, (examples, 6)) / 128).astype(np.float32)
    features[np.arange(examples), labels] += 1.0
    return features, labels


def token_sequences(examples: int, seed: int = 0) -> tuple[Any, Any]:
    """Return token ids and labels (examples, 5); about a fourth of the labels are -100, but never all of an example."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, 11, (examples, 5))
    labels = np.where(generator.integers(0, 3, ids.shape) == 0, -100, (3 * ids + 1) % 11)
    labels[:, 0] = ids[:, 0]
    return ids, labels


def initial_weights(*shapes: tuple[int, ...]) -> list[Any]:
    generator = np.random.default_rng(0)
    return [(generator.integers(-512, 513, shape) / 1024).astype(np.float32) for shape in shapes]


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


class Torch:
    """The parts of a run on PyTorch."""

    def __init__(self) -> None:
        import torch

        from trackside import Trainer, TrainingArguments

        torch.set_num_threads(1)
        self.torch, self.trainer_class, self.args_class = torch, Trainer, TrainingArguments
        self.version = f"torch {torch.__version__}"

    def dataset(self, data: str, examples: int, seed: int = 0) -> Any:
        features, labels = map(self.torch.tensor, (token_sequences if data == "tokens" else classified)(examples, seed))
        pairs = list(zip(features, labels, strict=True))
        return pairs if data == "tuples" else [{"features": x, "labels": y} for x, y in pairs]

    def model(self, data: str) -> Any:
        nn = self.torch.nn
        cross_entropy = nn.CrossEntropyLoss()

        class WithLoss(nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self, layers: Any) -> None:
                super().__init__()
                self.layers = layers

            def forward(self, features: Any, labels: Any = None) -> dict[str, Any]:
                logits = self.layers(features)
                if labels is None:
                    return {"logits": logits}
                return {"loss": cross_entropy(logits.flatten(0, -2), labels.flatten()), "logits": logits}

        if data == "tokens":
            layers, shapes = [nn.Embedding(11, 8), nn.Linear(8, 11)], [(11, 8), (11, 8), (11,)]
        else:
            layers = [nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3)]
            shapes = [(16, 6), (16,), (3, 16), (3,)]
        network = nn.Sequential(*layers)
        with self.torch.no_grad():
            for parameter, value in zip(network.parameters(), initial_weights(*shapes), strict=True):
                parameter.copy_(self.torch.tensor(value))
        return network if data == "tuples" else WithLoss(network)

    def options(self, data: str, values: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model(data), "loss_fn": self.torch.nn.CrossEntropyLoss() if data == "tuples" else None}

    def own_loss(self) -> Any:
        class OwnLoss(self.trainer_class):  # type: ignore[misc, name-defined]
            def compute_loss(self, model: Any, inputs: Any) -> Any:
                outputs = model(inputs["features"])
                return 0.5 * model(**inputs)["loss"] + outputs["logits"].square().mean()

        return OwnLoss

    def weights(self, trainer: Any) -> list[Any]:
        return [parameter.detach().numpy() for parameter in trainer.model.parameters()]

    def fingerprint(self) -> list[Any]:
        torch = self.torch
        x = torch.tensor(initial_weights((64, 64))[0])
        found = [x.double() @ x.double(), x @ x, x.tanh(), x.sum(), *(x[:, :n].log_softmax(-1) for n in (3, 11, 64))]
        for data, dtype in [("", torch.float32), ("tokens", torch.float32), ("", torch.bfloat16), ("", torch.float16)]:
            torch.manual_seed(0)
            model = self.model(data)
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
            for index in range(3):
                batch = torch.utils.data.default_collate(self.dataset(data, 8, seed=index))
                with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                    loss = model(**batch)["loss"]
                loss.backward()
                found += [loss, torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)]
                optimizer.step()
                optimizer.zero_grad()
            found += model.parameters()
        return [value.detach().double().numpy() for value in found]


class TensorFlow:
    """The parts of a run on TensorFlow."""

    def __init__(self) -> None:
        import keras
        import tensorflow as tf

        from trackside import TFTrainer, TFTrainingArguments

        self.keras, self.tf = keras, tf
        self.trainer_class, self.args_class = TFTrainer, TFTrainingArguments
        self.version = f"tensorflow {tf.__version__}, keras {keras.__version__}"

    def dataset(self, data: str, examples: int, seed: int = 0) -> Any:
        return (token_sequences if data == "tokens" else classified)(examples, seed)

    def model(self, data: str) -> Any:
        layers = self.keras.layers
        if data == "tokens":
            inputs = layers.Input((5,), dtype="int32", name="inputs")
            parts, shapes = [layers.Embedding(11, 8, name="first")], [(11, 8), (8, 11), (11,)]
        else:
            inputs = layers.Input((6,), name="inputs")
            parts = [layers.Dense(16, activation="relu", name="first"), layers.Dropout(0.1, seed=3, name="dropout")]
            shapes = [(6, 16), (16,), (16, 3), (3,)]
        model = self.keras.Sequential([inputs, *parts, layers.Dense(shapes[-1][0], name="last")], name="model")
        model.set_weights(initial_weights(*shapes))
        return model

    def options(self, data: str, values: dict[str, Any]) -> dict[str, Any]:
        loss = self.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"model_init": lambda: self.model(data), "loss_fn": values.get("loss", loss)}

    def own_loss(self) -> Any:
        tf = self.tf

        class OwnLoss(self.trainer_class):  # type: ignore[misc, name-defined]
            def compute_loss(self, labels: Any, logits: Any) -> Any:
                return 0.5 * super().compute_loss(labels, logits) + tf.reduce_mean(tf.square(logits), axis=-1)

        return OwnLoss

    def weights(self, trainer: Any) -> list[Any]:
        return [np.asarray(variable.value) for variable in trainer.model.trainable_variables]

    def fingerprint(self) -> list[Any]:
        tf = self.tf

        @tf.function
        def compute(x: Any, kernels: list[Any], features: Any, labels: Any) -> Any:
            found = [x @ x, tf.cast(x, tf.float64) @ tf.cast(x, tf.float64), tf.tanh(x), tf.exp(x), tf.reduce_sum(x)]
            for dtype in (tf.float32, tf.bfloat16, tf.float16):
                with tf.GradientTape() as tape:
                    tape.watch(kernels)
                    first, bias, last = (tf.cast(kernel, dtype) for kernel in kernels)
                    hidden = tf.nn.relu(tf.nn.bias_add(tf.cast(features, dtype) @ first, bias))
                    logits = tf.cast(hidden @ last, tf.float32)
                    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                gradients = tape.gradient(loss, kernels)
                found += [
                    loss,
                    tf.linalg.global_norm(gradients),
                    *(tf.math.rsqrt(part**2 + 1e-8) for part in gradients),
                ]
            return [tf.cast(value, tf.float64) for value in found]

        x, *kernels = initial_weights((64, 64), (6, 16), (16,), (16, 3))
        return [value.numpy() for value in compute(x, list(map(tf.constant, kernels)), *classified(8))]


FRAMEWORKS: dict[str, Callable[[], Any]] = {"torch": Torch, "tensorflow": TensorFlow}


@functools.cache
def environment(framework: str) -> str:
    """Return what the numbers depend on: the versions, and what the kernels of this machine compute."""
    parts = FRAMEWORKS[framework]()
    return f"{parts.version}, fingerprint {digest(b''.join(value.tobytes() for value in parts.fingerprint()))[:16]}"


def digest(value: str | bytes) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def in_hex(value: Any) -> str:
    """Return a whole number as it is, and others as ``float.hex()`` without the zeros at the end of the mantissa."""
    return str(value) if type(value) is int else re.sub(r"\.?0+p", "p", float(value).hex())


def files_below(folder: Path) -> str:
    return " ".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))


# -- processes of their own --------------------------------------------------------------------------------------------


def run_processes(commands: list[list[str]]) -> None:
    """Run Python with each of ``commands`` at the same time, as ranks that train together; fail if one does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **THREADS, **place(rank, len(commands), port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]
    try:
        said = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n".join(said)


def place(rank: int, count: int, port: int) -> dict[str, str]:
    """Return what torchrun sets; nothing for a single process."""
    if count == 1:
        return {"TF_NUM_INTEROP_THREADS": "2"}
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}
