"""Random streams of a run: what draws from them, and what leaves them alone."""

from __future__ import annotations

import random

import numpy as np
import pytest


def draw(factory):
    """Draw from each generator that training may use; return the numbers."""
    if factory.framework == "pytorch":
        own = factory.torch.rand(()).item()
    else:
        import tensorflow as tf

        own = float(tf.random.get_global_generator().uniform(()))
    return random.random(), float(np.random.rand()), own


@pytest.mark.parametrize("by", ["schedule", "callback"])
def test_evaluation_leaves_the_random_streams_of_training_alone(trainer_factory, by):
    def bootstrapped(prediction):
        return {"drawn": draw(trainer_factory)[0]}

    def run(**options):
        seen = []
        trainer = trainer_factory(
            model=trainer_factory.model(dropout=0.5),
            eval_dataset=trainer_factory.dataset(16, seed=1),
            compute_metrics=bootstrapped,
            max_steps=6,
            learning_rate=0.1,
            **options,
        )
        trainer.on("on_step_begin")(lambda sender, **rest: seen.append(draw(trainer_factory)))
        return trainer, seen

    plain, plainly_seen = run()
    evaluated, seen = run(**({"eval_strategy": "steps", "eval_steps": 2} if by == "schedule" else {}))
    if by == "callback":
        evaluated.on("on_step_end")(lambda sender, **rest: sender.evaluate())

    plain.train()
    evaluated.train()

    assert len([record for record in evaluated.state.log_history if "eval_drawn" in record]) >= 3
    assert seen == plainly_seen
    np.testing.assert_array_equal(trainer_factory.weights(evaluated), trainer_factory.weights(plain))


def test_predictions_outside_of_training_draw_on(trainer_factory):
    drawn = []
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(16),
        max_steps=1,
        compute_metrics=lambda prediction: {"drawn": drawn.append(draw(trainer_factory)) or 0.0},
    )
    trainer.train()

    trainer.evaluate()
    trainer.evaluate()

    assert all(first != second for first, second in zip(*drawn, strict=True))
