"""The batch-size finder, the summary of a model and metrics on the training data, on both trainers."""

from __future__ import annotations

import numpy as np
import pytest

from trackside.callbacks.errors import ArgumentError


def limited(factory, most):
    """Return a trainer class for which larger batches than ``most`` do not fit into memory."""

    class Limited(factory.trainer_class):
        if factory.framework == "pytorch":

            def compute_loss(self, model, inputs):
                if len(inputs[0]) > most:
                    raise factory.torch.OutOfMemoryError("CUDA out of memory")
                return super().compute_loss(model, inputs)

        else:

            def run_model(self, features, labels, training):
                if len(features) > most:
                    raise factory.parts.tf.errors.ResourceExhaustedError(None, None, "out of memory")
                return super().run_model(features, labels, training)

    return Limited


def eager(factory):
    """Return a model whose functions run as Python in TensorFlow, so that they can raise."""
    model = factory.model()
    model.run_eagerly = True
    return model


def test_the_largest_batch_that_fits_is_found_and_nothing_is_changed(trainer_factory):
    data, model = trainer_factory.dataset(200), eager(trainer_factory)
    trainer = trainer_factory(limited(trainer_factory, 20), model=model, train_dataset=data)
    before = trainer_factory.weights(trainer)

    assert trainer.find_batch_size() == 16
    assert trainer.find_batch_size(max_size=12) == 12
    trainer.train_dataset = trainer_factory.dataset(10)
    assert trainer.find_batch_size() == 10

    np.testing.assert_array_equal(trainer_factory.weights(trainer), before)
    assert trainer.args.per_device_train_batch_size == 8
    with pytest.raises(ArgumentError, match="max_size=0 is not allowed: at least 1"):
        trainer.find_batch_size(max_size=0)


def test_a_smaller_batch_is_found_where_the_first_one_does_not_fit(trainer_factory):
    trainer = trainer_factory(limited(trainer_factory, 3), model=eager(trainer_factory))

    assert trainer.find_batch_size() == 2


def test_the_summary_has_layers_and_counts(trainer_factory):
    text = trainer_factory().model_summary()

    assert "Linear" in text or "Dense" in text
    assert "163" in text


def test_metrics_on_the_training_data_come_on_request(trainer_factory, accuracy):
    train = trainer_factory.dataset(24, seed=1)
    trainer = trainer_factory(
        train_dataset=train,
        eval_dataset=trainer_factory.dataset(16),
        compute_metrics=accuracy,
        eval_strategy="epoch",
        eval_on_train=True,
        num_train_epochs=1,
        metric_for_best_model="eval_train_accuracy",
    )

    trainer.train()

    records = {name: value for record in trainer.state.log_history for name, value in record.items()}
    expected = trainer.evaluate(train, metric_key_prefix="again")
    assert records["eval_train_loss"] == expected["again_loss"] != records["eval_loss"]
    assert trainer.state.best_metric == records["eval_train_accuracy"] == expected["again_accuracy"]
    with pytest.raises(ArgumentError, match="eval_on_train=True is not allowed: only with eval_strategy"):
        trainer_factory(eval_on_train=True)
