"""Both trainers count each example once, weigh the loss by what counts, and give the same names."""

from __future__ import annotations

import numpy as np
import pytest

from trackside import EvalPrediction


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


def test_an_empty_dataset_has_no_metrics(trainer_factory, accuracy):
    metrics = trainer_factory(compute_metrics=accuracy).evaluate(trainer_factory.dataset(0))

    assert {name for name in metrics if "per_second" not in name and "runtime" not in name} == set()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"prediction_loss_only": True}, "only the loss is asked for"),
        ({"batch_eval_metrics": True, "prediction_loss_only": True}, "only the loss is asked for"),
        ({}, "the batches have no labels"),
    ],
)
def test_it_is_told_once_why_compute_metrics_is_not_called(trainer_factory, caplog, options, reason):
    data = trainer_factory.dataset(9) if options else trainer_factory.unlabelled(9)
    trainer = trainer_factory(compute_metrics=lambda prediction, compute_result=True: {"called": 1}, **options)

    metrics = [trainer.evaluate(data), trainer.evaluate(data)]

    assert not any("eval_called" in each for each in metrics)
    assert caplog.text.count(f"compute_metrics is not called: {reason}") == 1


@pytest.mark.parametrize("examples", [8, 9])
def test_there_is_one_prediction_step_for_each_batch(trainer_factory, examples):
    trainer = trainer_factory(eval_dataset=trainer_factory.dataset(examples), prediction_loss_only=True)
    steps: list[int] = []
    trainer.on("on_prediction_step")(lambda sender, **kwargs: steps.append(1))

    first, second = trainer.evaluate(), trainer.evaluate()

    assert len(steps) == 2 * -(-examples // 8)
    assert first["eval_loss"] == second["eval_loss"] > 0


def test_weights_are_swapped_in_before_the_first_batch_and_back_after_the_last(trainer_factory):
    trainer = trainer_factory(eval_dataset=trainer_factory.dataset(9), eval_strategy="epoch", num_train_epochs=2)
    factors: list[float] = []

    def scale(model, factor):
        factors.append(factor)
        if hasattr(model, "set_weights"):
            model.set_weights([weight * factor for weight in model.get_weights()])
        else:
            for parameter in model.parameters():
                parameter.data *= factor

    for begin, end in (("on_evaluate_begin", "on_evaluate"), ("on_predict_begin", "on_predict")):
        trainer.on(begin)(lambda sender, **kwargs: scale(sender.model, 2.0**-20))
        trainer.on(end)(lambda sender, **kwargs: scale(sender.model, 2.0**20))
    trainer.train()
    swapped, logits = trainer.evaluate(), trainer.predict(trainer_factory.dataset(9)).predictions
    for event in ("on_evaluate_begin", "on_predict_begin"):
        trainer.on(event)(lambda sender, **kwargs: scale(sender.model, 2.0**20))

    assert factors[:8] == [2.0**-20, 2.0**20] * 4
    assert np.abs(logits).max() < 1e-5 < np.abs(trainer.predict(trainer_factory.dataset(9)).predictions).max()
    classes = logits.shape[-1]
    assert swapped["eval_loss"] == pytest.approx(np.log(classes), rel=1e-4) != trainer.evaluate()["eval_loss"]


def test_a_model_is_in_training_mode_when_an_evaluation_within_training_begins(trainer_factory):
    trainer = trainer_factory(eval_dataset=trainer_factory.dataset(9), eval_strategy="epoch", num_train_epochs=1)
    seen = []
    trainer.on("on_evaluate_begin")(lambda sender, **kwargs: seen.append(getattr(sender.model, "training", True)))
    trainer.on("on_prediction_step")(lambda sender, **kwargs: seen.append("batch"))

    trainer.train()

    assert seen == [True, "batch", "batch"]


def test_a_dict_of_sets_gives_metrics_for_each_and_one_on_evaluate(trainer_factory, accuracy):
    sets = {"easy": trainer_factory.dataset(9), "hard": trainer_factory.dataset(11, seed=1)}
    trainer = trainer_factory(eval_dataset=sets, compute_metrics=accuracy, eval_strategy="epoch", num_train_epochs=1)
    heard = []
    trainer.on("on_evaluate")(lambda sender, metrics, **kwargs: heard.append(metrics))

    trainer.train()
    metrics = trainer.evaluate()

    assert heard[-1] == metrics
    assert len(heard) == 2
    for name, data in sets.items():
        assert metrics[f"eval_{name}_accuracy"] == trainer.evaluate(data)["eval_accuracy"]
        assert metrics[f"eval_{name}_loss"] == trainer.evaluate(data)["eval_loss"]
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


@pytest.mark.parametrize("accumulation", [None, 1, 3])
def test_predictions_do_not_depend_on_how_often_they_move_to_the_host(trainer_factory, accuracy, accumulation):
    data = trainer_factory.dataset(37)
    trainer = trainer_factory(eval_accumulation_steps=accumulation, compute_metrics=accuracy)
    whole = trainer_factory(per_device_eval_batch_size=100)

    output, expected = trainer.predict(data), whole.predict(data)

    np.testing.assert_allclose(output.predictions, expected.predictions, rtol=1e-5)
    np.testing.assert_array_equal(output.label_ids, expected.label_ids)
    assert output.metrics["test_accuracy"] == accuracy(output)["accuracy"]


def test_a_dataset_of_unknown_length_is_evaluated_to_its_end(trainer_factory, accuracy):
    trainer = trainer_factory(compute_metrics=accuracy)

    streamed, known = trainer.evaluate(trainer_factory.stream(21)), trainer.evaluate(trainer_factory.dataset(21))

    assert streamed["eval_loss"] == pytest.approx(known["eval_loss"], rel=1e-6)
    assert streamed["eval_accuracy"] == known["eval_accuracy"]


def test_inputs_that_have_no_labels_are_predicted(trainer_factory):
    output = trainer_factory().predict(trainer_factory.unlabelled(11))

    assert output.predictions.shape == (11, 3)
    assert output.label_ids is None
    assert "test_loss" not in output.metrics


def test_metrics_are_asked_for_batch_by_batch(trainer_factory):
    seen: list[tuple[int, bool]] = []

    def metrics(prediction, compute_result=False):
        seen.append((len(prediction.label_ids), compute_result))
        return {"n": sum(size for size, _ in seen)} if compute_result else {}

    trainer = trainer_factory(batch_eval_metrics=True, compute_metrics=metrics)

    assert trainer.evaluate(trainer_factory.dataset(20))["eval_n"] == 20
    assert seen == [(8, False), (8, False), (4, True)]


def test_metrics_batch_by_batch_get_what_the_framework_computes_with_and_leave_predict_its_outputs(trainer_factory):
    seen: list[EvalPrediction] = []

    def metrics(prediction, compute_result):
        seen.append(prediction)
        return {"n": prediction.label_ids[0] * 0 + len(prediction.label_ids)} if compute_result else {}

    wanted = ["inputs", "loss"]
    trainer = trainer_factory(batch_eval_metrics=True, compute_metrics=metrics, include_for_metrics=wanted)

    output = trainer.predict(trainer_factory.dataset(20))

    assert (output.predictions.shape, output.label_ids.shape, output.metrics["test_n"]) == ((20, 3), (20,), 4)
    kind = type(seen[0].predictions).__name__
    assert kind == ("Tensor" if type(trainer).__name__ == "Trainer" else "ndarray")
    assert {type(part).__name__ for part in (seen[0].label_ids, seen[0].losses)} == {kind}
    assert seen[0].inputs is not None


def test_metrics_batch_by_batch_need_a_compute_metrics_that_takes_part(trainer_factory, accuracy):
    with pytest.raises(ValueError, match=r"batch_eval_metrics=True .*compute_result"):
        trainer_factory(compute_metrics=accuracy, batch_eval_metrics=True)


def test_metrics_that_are_no_dict_are_named(trainer_factory):
    with pytest.raises(TypeError, match="compute_metrics returned float; it returns a dict of numbers"):
        trainer_factory(compute_metrics=lambda prediction: 0.5).evaluate(trainer_factory.dataset(9))


def test_inputs_and_losses_reach_the_metrics_on_request(trainer_factory):
    seen = []
    trainer = trainer_factory(
        compute_metrics=lambda prediction: seen.append(prediction) or {}, include_for_metrics=["inputs", "loss"]
    )

    metrics = trainer.evaluate(trainer_factory.dataset(11))

    (prediction,) = seen
    inputs = prediction.inputs[0] if isinstance(prediction.inputs, tuple) else prediction.inputs
    assert inputs.shape == (11, 6)
    assert np.average(prediction.losses, weights=[8, 3]) == pytest.approx(metrics["eval_loss"], rel=1e-5)
    assert len([*seen[0]]) == 4
    assert seen[0][2] is seen[0].inputs
    assert [*seen[0]][3] is seen[0].losses


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_label_smoothing_is_that_of_the_paper_in_training_and_evaluation(trainer_factory, smoothing):
    data = trainer_factory.dataset(13)
    trainer = trainer_factory(
        train_dataset=data, loss_fn=None, label_smoothing_factor=smoothing, max_steps=1, logging_steps=1,
        per_device_train_batch_size=13, learning_rate=0.0,
    )  # fmt: skip

    trainer.train()
    output = trainer.predict(data)

    logits = output.predictions - np.log(np.exp(output.predictions).sum(-1, keepdims=True))
    target = -np.take_along_axis(logits, output.label_ids[:, None], 1)[:, 0]
    expected = ((1 - smoothing) * target - smoothing * logits.mean(-1)).mean()
    assert output.metrics["test_loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("delay", [0, 2, None])
def test_outputs_wait_for_the_host_by_the_delay_of_the_device_or_a_quarter_of_the_batches(trainer_factory, delay):
    trainer, data = trainer_factory(per_device_eval_batch_size=1), trainer_factory.dataset(100)
    evaluation, moved = trainer._engine.evaluation, [0]
    expected = trainer.predict(data).predictions
    fetch, evaluation.delay = evaluation.fetch, delay

    def counted(nested):
        wait = fetch(nested)
        return lambda: moved.append(moved.pop() + 1) or wait()

    evaluation.fetch = counted
    steps: list[tuple[int, int]] = []
    trainer.on("on_prediction_step")(lambda sender, **kwargs: steps.append((len(steps) + 1, moved[0])))

    predictions = trainer.predict(data).predictions

    assert moved == [100]
    np.testing.assert_array_equal(predictions, expected)
    if delay is None:
        assert max((done - moved) / done for done, moved in steps if done > 3) <= 0.25
    else:
        assert [done - moved for done, moved in steps[3:]] == [delay] * 97


def test_an_evaluate_that_returns_nothing_is_named(trainer_factory):
    class Forgets(trainer_factory.trainer_class):
        def evaluate(self, *args, **kwargs):
            super().evaluate(*args, **kwargs)

    trainer = trainer_factory(Forgets, eval_dataset=trainer_factory.dataset(8), eval_strategy="epoch")

    with pytest.raises(TypeError, match=r"Forgets.evaluate\(\) returned NoneType; it returns the metrics, a dict"):
        trainer.train()
