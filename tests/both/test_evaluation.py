"""Both trainers count each example once, weigh the loss by what counts, and give the same names."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("examples", [1, 8, 9, 23])
def test_evaluation_over_a_ragged_set_is_that_of_one_big_batch(trainer_factory, accuracy, examples):
    data = trainer_factory.dataset(examples)
    small = trainer_factory(eval_dataset=data, compute_metrics=accuracy, per_device_eval_batch_size=8)
    big = trainer_factory(eval_dataset=data, compute_metrics=accuracy, per_device_eval_batch_size=100)

    metrics, expected = small.evaluate(), big.evaluate()

    assert metrics["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)
    assert metrics["eval_accuracy"] == expected["eval_accuracy"]


def test_both_trainers_evaluate_alike(both_factories, accuracy):
    found = []
    for factory in both_factories:
        trainer = factory(eval_dataset=factory.dataset(23), compute_metrics=accuracy)
        metrics = trainer.evaluate()
        found.append([metrics["eval_loss"], metrics["eval_accuracy"]])

    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("examples", [8, 9])
def test_there_is_one_prediction_step_for_each_batch(trainer_factory, examples):
    trainer = trainer_factory(eval_dataset=trainer_factory.dataset(examples), prediction_loss_only=True)
    steps: list[int] = []
    trainer.on("on_prediction_step")(lambda sender, **kwargs: steps.append(1))

    first, second = trainer.evaluate(), trainer.evaluate()

    assert len(steps) == 2 * -(-examples // 8)
    assert first["eval_loss"] == second["eval_loss"] > 0


def test_a_dict_of_sets_gives_metrics_for_each(trainer_factory, accuracy):
    sets = {"easy": trainer_factory.dataset(9), "hard": trainer_factory.dataset(11, seed=1)}
    trainer = trainer_factory(eval_dataset=sets, compute_metrics=accuracy, eval_strategy="epoch", num_train_epochs=1)

    trainer.train()
    metrics = trainer.evaluate()

    for name, data in sets.items():
        assert metrics[f"eval_{name}_accuracy"] == trainer.evaluate(data)["eval_accuracy"]
    assert "eval_loss" not in metrics


def test_predict_gives_every_row_in_order(trainer_factory, accuracy):
    trainer = trainer_factory(compute_metrics=accuracy)
    data = trainer_factory.dataset(21)

    output = trainer.predict(data)

    assert output.predictions.shape == (21, 3)
    alone = trainer.predict(data, metric_key_prefix="again").predictions
    np.testing.assert_array_equal(output.predictions, alone)
    assert output.metrics["test_accuracy"] == accuracy(output)["accuracy"]


def test_evaluation_changes_nothing_in_training(trainer_factory):
    data = trainer_factory.dataset(9)
    without = trainer_factory(model=trainer_factory.model(0.5), max_steps=6)
    within = trainer_factory(
        model=trainer_factory.model(0.5), max_steps=6, eval_strategy="steps", eval_steps=2, eval_dataset=data
    )

    without.train()
    within.train()

    np.testing.assert_array_equal(trainer_factory.weights(without), trainer_factory.weights(within))
