"""The ten faults of the original TFTrainer that REFERENCE.md lists, in its order: a test for each keeps it out."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import LOSS, mlp, weights_of

from trackside import EarlyStoppingCallback, TrainerCallback
from trackside.callbacks.errors import ArgumentError
from trackside.trainer.evaluation import growing_array
from trackside.trainer.progress import Progress
from trackside.trainer.tensorflow.data.readers import inputs_of

layers = keras.layers


# -- 1: no callbacks at all -------------------------------------------------------------------------------------------


def test_fault_1_callbacks_are_called_and_steer(make_trainer):
    seen = []

    class Notes(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            seen.append((model is trainer.model, optimizer is trainer.optimizer))

    trainer = make_trainer(
        callbacks=[Notes(), EarlyStoppingCallback(1)],
        eval_dataset=classified(9),
        eval_strategy="epoch",
        learning_rate=0.0,
        metric_for_best_model="loss",
    )

    assert trainer.train().global_step == 10  # of 15
    assert seen == [(True, True)]


# -- 2 to 4: evaluation without end with prediction_loss_only; a batch too many; a second loss of 0 -------------------


@pytest.mark.parametrize("known", [True, False])
def test_fault_2_evaluation_of_the_loss_only_ends(make_trainer, known):
    data = tf.data.Dataset.from_tensor_slices(classified(17))
    data = data if known else data.filter(lambda features, label: True)
    trainer = make_trainer(eval_dataset=data, prediction_loss_only=True)

    assert trainer.evaluate()["eval_loss"] > 0
    assert trainer.predict(data).predictions is None


def test_fault_2_evaluation_without_end_is_refused(make_trainer):
    data = tf.data.Dataset.from_tensor_slices(classified(17)).repeat()

    with pytest.raises(ArgumentError, match="take"):
        make_trainer(eval_dataset=data, prediction_loss_only=True).evaluate()


@pytest.mark.parametrize(("examples", "batches"), [(16, 2), (17, 3)])
@pytest.mark.parametrize("only_loss", [True, False])
def test_fault_3_evaluation_takes_each_batch_once_and_none_too_many(make_trainer, examples, batches, only_loss):
    trainer = make_trainer(
        eval_dataset=classified(examples),
        prediction_loss_only=only_loss,
        compute_metrics=lambda prediction: {"rows": len(prediction.label_ids)},
    )
    steps = []
    trainer.on("on_prediction_step")(lambda sender, **kwargs: steps.append(1))

    metrics = trainer.evaluate()

    assert len(steps) == batches
    assert only_loss or metrics["eval_rows"] == examples


def test_fault_4_the_second_evaluation_has_the_loss_of_the_first(make_trainer):
    trainer = make_trainer(eval_dataset=classified(17))
    features, labels = classified(17)

    losses = [trainer.evaluate()["eval_loss"] for _ in range(3)]

    assert losses[0] == losses[1] == losses[2]
    assert losses[0] == pytest.approx(float(LOSS(labels, trainer.model(features))), rel=1e-5)


# -- 5: clipping by value, and only under accumulation ----------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
def test_fault_5_gradients_are_clipped_by_norm_with_and_without_accumulation(make_trainer, accumulation):
    def moved(max_grad_norm):
        trainer = make_trainer(
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_steps=1,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=max_grad_norm,
        )
        before = weights_of(trainer.model)
        trainer.train()
        return weights_of(trainer.model) - before

    free, clipped = moved(0.0), moved(0.01)

    assert np.linalg.norm(clipped) == pytest.approx(0.01, rel=1e-3)
    np.testing.assert_allclose(clipped, free * (0.01 / np.linalg.norm(free)), rtol=2e-3, atol=1e-7)  # one direction


# -- 6: float16 without loss scaling ----------------------------------------------------------------------------------


def test_fault_6_gradients_too_small_for_float16_survive(make_trainer):
    def tiny(labels, logits):
        return LOSS.call(labels, logits) * 1e-7  # unscaled, float16 would make zeros of its gradients

    norms = []
    for half in (False, True):
        trainer = make_trainer(loss_fn=tiny, fp16=half, max_steps=1, logging_steps=1)
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])

    assert norms[1] == pytest.approx(norms[0], rel=0.05)
    assert norms[0] > 0


# -- 7: truncated fractional epochs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 5), (1.5, 15), (2.25, 23)])
def test_fault_7_fractions_of_an_epoch_are_trained(make_trainer, epochs, steps):
    trainer = make_trainer(train_dataset=classified(80), num_train_epochs=epochs)

    trainer.train()

    assert trainer.state.global_step == steps
    assert trainer.state.epoch == steps / 10


# -- 8: shuffling after repeat ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_dataset", [True, False])
def test_fault_8_each_epoch_has_each_example_once_in_an_order_of_its_own(make_trainer, as_dataset):
    features = np.arange(21, dtype=np.float32)[:, None] * np.ones((1, 6), np.float32)
    data = features, np.zeros(21, np.int64)
    trainer = make_trainer(train_dataset=tf.data.Dataset.from_tensor_slices(data) if as_dataset else data)
    trainer._engine.prepare_data()

    def order(epoch, skip=0):
        tf.random.set_seed(1)
        batches = trainer._engine.epoch_batches(Progress(epoch=epoch, examples_in_epoch=skip))
        return [int(x) for batch in batches for x in np.asarray(inputs_of(batch).features)[:, 0]]

    first, second = order(0), order(1)
    assert sorted(first) == sorted(second) == list(range(21))
    assert first != second
    assert first == order(0)
    assert order(0, skip=8) == first[8:]


# -- 9: dict labels broken --------------------------------------------------------------------------------------------


def test_fault_9_labels_may_be_a_dict_in_training_evaluation_and_prediction(make_trainer):
    features, labels = classified(23)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, {"small": layers.Dense(3)(inputs), "large": layers.Dense(3)(inputs)})
    model.compile(loss={"small": LOSS, "large": LOSS}, loss_weights={"small": 1.0, "large": 0.5})
    data = tf.data.Dataset.from_tensor_slices((features, {"small": labels, "large": labels}))
    trainer = make_trainer(model=model, train_dataset=data, eval_dataset=data, loss_fn=None, learning_rate=0.01)

    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    metrics, output = trainer.evaluate(), trainer.predict(data)

    expected = [LOSS(labels, output.predictions[name]) for name in ("small", "large")]
    assert metrics["eval_loss"] == pytest.approx(float(expected[0] + 0.5 * expected[1]), rel=1e-5)
    assert metrics["eval_loss"] < before
    assert output.label_ids["small"].tolist() == labels.tolist()


# -- 10: quadratic np.append ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("known", "most"), [(True, 1), (False, 20)])
def test_fault_10_predictions_are_gathered_in_place(make_trainer, monkeypatch, known, most):
    allocated = []
    resized = growing_array.GrowingArray._resized
    count = lambda *args: allocated.append(1) or resized(*args)  # noqa: E731
    monkeypatch.setattr(growing_array.GrowingArray, "_resized", count)
    data = tf.data.Dataset.from_tensor_slices(classified(300)[0])
    data = data if known else data.filter(lambda features: True)

    output = make_trainer(model=mlp(), per_device_eval_batch_size=1).predict(data)

    assert output.predictions.shape == (300, 3)
    assert len(allocated) <= most  # np.append would be 300 copies of all there is so far
