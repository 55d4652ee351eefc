"""A loss of which the value for a batch is not the mean of those of its parts is told where a batch is cut."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trackside.trainer.tensorflow.objective.cutting import depends_on_cut, is_known
from trackside.trainer.tensorflow.objective.outputs import Objective

rng = np.random.default_rng(0)
LABELS, OUTPUTS = (tf.constant(rng.normal(size=(8, 2)), tf.float32) for _ in range(2))


def mean(labels, outputs):
    return tf.reduce_mean((labels - outputs) ** 2)


def root(labels, outputs):
    return tf.sqrt(mean(labels, outputs))


def selected(labels, outputs):
    return mean(tf.boolean_mask(labels, labels > 0), tf.boolean_mask(outputs, labels > 0))


def of_each(labels, outputs):
    return tf.reduce_mean(tf.abs(labels - outputs), axis=-1)


def centred(labels, outputs):
    return of_each(labels, outputs - tf.reduce_mean(outputs, axis=0))


@pytest.mark.parametrize("loss", [mean, of_each, keras.losses.MeanSquaredError(reduction="sum"), "mae"])
def test_a_mean_or_a_sum_of_examples_does_not_depend_on_the_cut(loss):
    assert not depends_on_cut(Objective(loss).items, LABELS, OUTPUTS, 8)


@pytest.mark.parametrize("loss", [root, selected, centred, keras.losses.Dice()])
def test_what_compares_examples_or_leaves_some_out_does(loss):
    assert not is_known(loss)
    assert depends_on_cut(Objective(loss).items, LABELS, OUTPUTS, 8)


@pytest.mark.parametrize(("loss", "accumulation", "told"), [(root, 2, 1), (root, 1, 0), (mean, 2, 0)])
def test_it_is_told_once_where_an_update_has_several_micro_batches(make_trainer, caplog, loss, accumulation, told):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    data = (OUTPUTS.numpy(), LABELS.numpy())
    options = {"gradient_accumulation_steps": accumulation, "num_train_epochs": 2}

    make_trainer(model=model, train_dataset=data, loss_fn=loss, per_device_train_batch_size=4, **options).train()

    assert caplog.text.count("is not the mean of the losses of its parts") == told
