"""A factory of PyTorch trainers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.torch_models import classified, mlp
from torch import nn

from trackside import Trainer, TrainingArguments


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Return a factory: trainer options by their names, everything else goes into the arguments."""
    options = ("model", "train_dataset", "eval_dataset", "callbacks", "compute_metrics", "loss_fn", "data_collator")
    options += ("optimizers", "model_init", "preprocess_logits_for_metrics", "processing_class")

    def make(cls: type[Trainer] = Trainer, **values: Any) -> Trainer:
        given = {name: values.pop(name) for name in options if name in values}
        if "model_init" not in given:
            given.setdefault("model", mlp())
        given.setdefault("train_dataset", classified(40))
        given.setdefault("loss_fn", nn.CrossEntropyLoss())
        args = {"output_dir": str(tmp_path / "out"), "save_strategy": "no", "disable_tqdm": True, **values}
        trainer = cls(args=TrainingArguments(**args), **given)
        trainer.pop_callback("printer")
        return trainer

    return make
