"""Functions of a trainer are traced once, whatever the lengths of the batches."""

from __future__ import annotations

import numpy as np
import pytest
from support.tf_models import LOSS, tf

from trackside import TFTrainer

WIDTHS = (3, 5, 3, 3, 5)


def generate():
    for width in WIDTHS:
        features = np.arange(4 * width).reshape(4, width) % 5
        yield features, features % 3


def padded():
    rows = tf.data.Dataset.from_generator(
        lambda: (pair for features, labels in generate() for pair in zip(features, labels, strict=True)),
        output_signature=(tf.TensorSpec((None,), tf.int64),) * 2,
    )
    return rows.padded_batch(4, padding_values=(np.int64(0), np.int64(-100)))


def bucketed():
    rows = tf.data.Dataset.from_generator(
        lambda: ((row, row % 3) for features, _ in generate() for row in features),
        output_signature=(tf.TensorSpec((None,), tf.int64),) * 2,
    )
    return rows.bucket_by_sequence_length(lambda row, _: tf.size(row), [4, 6], [2, 3, 4])


class Own(TFTrainer):
    build = staticmethod(padded)

    def get_train_tfdataset(self):
        return type(self).build()

    def get_eval_tfdataset(self, eval_dataset=None):
        return type(self).build()


class Bucketed(Own):
    build = staticmethod(bucketed)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (TFTrainer, {}),
        (TFTrainer, {"xla": True}),
        (TFTrainer, {"steps_per_execution": 2}),
        (Own, {"steps_per_execution": 2}),
        (Bucketed, {}),
    ],
    ids=["generator", "xla", "several", "padded", "bucketed"],
)
def test_batches_of_several_lengths_are_trained_and_evaluated_with_one_trace_each(make_trainer, cls, options):
    import keras

    layers = keras.layers
    given = keras.Input((None,), dtype="int64")
    model = keras.Model(given, layers.Dense(3)(layers.Embedding(5, 4)(given)))
    data = {"train_dataset": generate, "eval_dataset": generate}

    trainer = make_trainer(
        cls, model=model, loss_fn=LOSS, **data, max_steps=10, per_device_train_batch_size=4, **options
    )
    trainer.train()
    trainer.evaluate()

    counts = trainer.trace_counts
    assert counts.pop("updates", 0) <= 1
    assert counts == {"update": 1, "predict": 1}
