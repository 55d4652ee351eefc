"""Methods that are set on a trainer, or replaced in its class, count like those of a subclass, on both trainers."""

from __future__ import annotations

from typing import Any

import pytest

import trackside
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer

NAMES = {
    "pytorch": ["training_step", "create_optimizer", "get_train_dataloader", "get_eval_dataloader"],
    "tensorflow": ["run_model", "apply_gradients", "get_train_tfdataset", "get_eval_tfdataset", "training_step"],
}
BOTH = ["compute_loss", "prediction_step", "evaluation_loop", "floating_point_ops", "save_model", "log", "evaluate"]
CLASSES = {"pytorch": "Trainer", "tensorflow": "TFTrainer"}

pytestmark = pytest.mark.parametrize("framework", installed_frameworks())


def counting(method: Any, calls: list[str]) -> Any:
    def called(*args: Any, **kwargs: Any) -> Any:
        calls.append(method.__name__)
        return method(*args, **kwargs)

    return called


def test_methods_set_on_a_trainer_are_called(framework, tmp_path):
    trainer = tiny_trainer(framework, tmp_path, num_train_epochs=1)
    calls: list[str] = []
    names = [*BOTH, *NAMES[framework]]
    for name in names:
        setattr(trainer, name, counting(getattr(trainer, name), calls))

    trainer.train()
    trainer.evaluate()

    assert sorted(set(calls)) == sorted(names)


def test_a_loss_set_on_a_trainer_is_that_of_training_and_evaluation(framework, tmp_path):
    trainer = tiny_trainer(framework, tmp_path, max_steps=1, logging_steps=1, eval_strategy="no", save_strategy="no")
    before = trainer.evaluate()["eval_loss"]
    plain = trainer.compute_loss

    def tripled(*args: Any, **kwargs: Any) -> Any:
        loss = plain(*args, **kwargs)
        return (3 * loss[0], *loss[1:]) if isinstance(loss, tuple) else 3 * loss

    trainer.compute_loss = tripled
    after = trainer.evaluate()["eval_loss"]

    assert after == pytest.approx(3 * before, rel=1e-5)


def test_a_loss_fn_that_is_exchanged_is_that_of_the_next_evaluation(framework, tmp_path):
    trainer = tiny_trainer(framework, tmp_path)
    plain = trainer.loss_fn
    before = trainer.evaluate()["eval_loss"]

    trainer.loss_fn = lambda *parts: 2 * plain(*parts)

    assert trainer.evaluate()["eval_loss"] == pytest.approx(2 * before, rel=1e-5)


def test_a_method_replaced_in_the_class_is_called(framework, tmp_path, monkeypatch):
    calls: list[str] = []
    cls = getattr(trackside, CLASSES[framework])
    for name in ("compute_loss", "save_model"):
        monkeypatch.setattr(cls, name, counting(getattr(cls, name), calls))
    trainer = tiny_trainer(framework, tmp_path, max_steps=1)

    trainer.train()

    assert set(calls) == {"compute_loss", "save_model"}
