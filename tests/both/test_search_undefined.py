"""A search passes over evaluations in which the objective has no value."""

from __future__ import annotations

import pytest

from trackside.trainer.outputs import BestRun

pytest.importorskip("optuna")


@pytest.mark.parametrize("undefined", [None, float("nan")])
def test_an_evaluation_without_an_objective_is_passed_over(trainer_factory, undefined):
    scores = iter([undefined, 0.2, 0.8, undefined])
    trainer = trainer_factory(
        model_init=lambda: trainer_factory.model(),
        eval_dataset=trainer_factory.dataset(8, seed=1),
        compute_metrics=lambda prediction: {"score": next(scores)},
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
    )

    best = trainer.hyperparameter_search(
        lambda trial: {}, lambda metrics: metrics["eval_score"], n_trials=2, direction="maximize", backend="optuna"
    )

    assert best == BestRun("0", 0.2, {})
