"""Tiny trainers for tests of callbacks: a small network on 24 examples, on each framework."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.builtin.printer import PrinterCallback
from trackside.callbacks.errors import ArgumentError
from trackside.config.run_config import FRAMEWORKS, arguments_class

if TYPE_CHECKING:
    from trackside.trainer.base_trainer import BaseTrainer
    from trackside.trainer.outputs import EvalPrediction

EXAMPLES, FEATURES, CLASSES = 24, 4, 3

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 0.01,
    "logging_steps": 2,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "disable_tqdm": True,
}
"""Training arguments of a tiny trainer, unless others are given."""


def installed_frameworks() -> list[str]:
    """Return the frameworks that are installed, without importing them."""
    return [name for name, module in FRAMEWORKS.items() if is_installed(module)]


def frameworks_to_check(names: Sequence[str] | None) -> list[str]:
    """Return the frameworks of a check: those that are named, or else all that are installed.

    Raises:
        ArgumentError: If a name is not that of a framework.
    """
    if isinstance(names, str) or any(name not in FRAMEWORKS for name in names or ()):
        raise ArgumentError("frameworks", names, f"a list of {' and '.join(FRAMEWORKS)}, or None")
    return installed_frameworks() if names is None else list(names)


def tiny_trainer(framework: str, output_dir: str | os.PathLike[str], callbacks: Sequence[Any] = (), **args: Any) -> Any:
    """Return a trainer of a tiny network, with evaluation data and an accuracy; it prints nothing.

    It trains two epochs of six updates, logs every two, and evaluates and saves after each epoch, unless ``args`` says
    otherwise. The initial weights are always the same.

    Args:
        framework: "pytorch" or "tensorflow".
        output_dir: Folder for the files of the run.
        callbacks: As for `trackside.Trainer`.
        args: Fields of `trackside.TrainingArguments` to add or to change.
    """
    return build(
        framework, arguments_class(framework)(**{"output_dir": str(output_dir), **DEFAULTS, **args}), callbacks
    )


def build(framework: str, args: Any, callbacks: Sequence[Any]) -> Any:
    """Return a trainer of the tiny network with these training arguments; it prints nothing."""
    trainer = _BUILDERS[framework](args, callbacks)
    for item in list(trainer.callback_report.values()):
        if isinstance(item.callback, PrinterCallback) and item.origin == "default":
            trainer.pop_callback(item.name)
    return trainer


def tiny_data() -> tuple[Any, Any]:
    """Return the features and the classes of the examples, always the same.

    Shapes:
        (24, 4) and (24,).
    """
    import numpy as np

    generator = np.random.default_rng(0)
    classes = generator.integers(0, CLASSES, EXAMPLES)
    features = generator.normal(size=(EXAMPLES, FEATURES)).astype("float32")
    features[np.arange(EXAMPLES), classes] += 2.0
    return features, classes


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of examples for which the score of their class is the highest."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def weights_of(trainer: BaseTrainer) -> list[Any]:
    """Return copies of all weights of a trainer's model as arrays."""
    if hasattr(trainer.model, "named_parameters"):
        return [parameter.detach().cpu().numpy().copy() for parameter in trainer.model.parameters()]
    return [weight.copy() for weight in trainer.model.get_weights()]


def _pytorch(args: Any, callbacks: Sequence[Any]) -> Any:
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from trackside import Trainer

    features, classes = tiny_data()
    dataset = TensorDataset(torch.tensor(features), torch.tensor(classes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    return Trainer(
        model,
        args,
        train_dataset=dataset,
        eval_dataset=dataset,
        compute_metrics=accuracy,
        callbacks=callbacks,
        loss_fn=nn.CrossEntropyLoss(),
    )


def _tensorflow(args: Any, callbacks: Sequence[Any]) -> Any:
    import keras

    from trackside import TFTrainer

    first, last = (keras.initializers.GlorotUniform(seed=seed) for seed in (0, 1))
    layers = [
        keras.Input((FEATURES,)),
        keras.layers.Dense(8, activation="relu", kernel_initializer=first, name="first"),
        keras.layers.Dense(CLASSES, kernel_initializer=last, name="last"),
    ]
    return TFTrainer(
        keras.Sequential(layers, name="tiny"),
        args,
        train_dataset=tiny_data(),
        eval_dataset=tiny_data(),
        compute_metrics=accuracy,
        callbacks=callbacks,
        loss_fn=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none"),
    )


_BUILDERS: dict[str, Callable[[Any, Sequence[Any]], Any]] = {"pytorch": _pytorch, "tensorflow": _tensorflow}
