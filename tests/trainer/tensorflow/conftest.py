"""A factory of TensorFlow trainers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OPTIONS = (
    "model",
    "train_dataset",
    "eval_dataset",
    "callbacks",
    "compute_metrics",
    "loss_fn",
    "optimizers",
    "class_weight",
)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Any]:
    """Return a factory: trainer options by their names, everything else goes into the arguments."""
    from support.arrays import classified
    from support.tf_models import LOSS, mlp

    from trackside import TFTrainer, TFTrainingArguments

    def make(cls: Any = TFTrainer, **values: Any) -> Any:
        given = {name: values.pop(name) for name in (*OPTIONS, "model_init") if name in values}
        if "model_init" not in given:
            given.setdefault("model", mlp())
        given.setdefault("train_dataset", classified(40))
        given.setdefault("loss_fn", LOSS)
        args = {"output_dir": str(tmp_path / "out"), "save_strategy": "no", "disable_tqdm": True, **values}
        trainer = cls(args=TFTrainingArguments(**args), **given)
        trainer.pop_callback("printer")
        return trainer

    return make
