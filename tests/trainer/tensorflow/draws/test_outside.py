"""State outside of the model that a step changes: resumed to the bit, or told by name."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import weights_of

SAVES = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 4}


class Closing(keras.layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.kept = (lambda: function,)

    def call(self, value, training=False):
        return self.kept[0]()(value) if training else value


def made(change, *, in_loss=False):
    """A model whose layer, or whose loss, changes something that only a function refers to."""
    keras.utils.set_random_seed(0)

    def loss(labels, logits):
        value = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return change(value) if in_loss else value

    middle = Closing((lambda value: value) if in_loss else change)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), middle, keras.layers.Dense(3)])
    return {"model": model, "loss_fn": loss}


def generator():
    drawing = tf.random.Generator.from_seed(7)
    return lambda value: value + tf.cast(drawing.normal(tf.shape(value)), value.dtype)


def generator_of_keras():
    seed = keras.random.SeedGenerator(7)
    return lambda value: value + keras.random.normal(tf.shape(value), seed=seed, dtype=value.dtype)


def counter():
    count = tf.Variable([0.0, 1.0])

    def change(value):
        count.assign_add([0.1, 0.2])
        return value * tf.cast(1.0 + tf.reduce_sum(count), value.dtype)

    return change


def all_three():
    changes = generator(), generator_of_keras(), counter()
    return lambda value: changes[0](changes[1](changes[2](value)))


@pytest.mark.parametrize("in_loss", [False, True])
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "fp16": True}])
def test_a_resumed_run_goes_on_with_what_only_a_closure_refers_to(make_trainer, tmp_path, caplog, in_loss, options):
    def run(resume=None):
        trainer = make_trainer(**made(all_three(), in_loss=in_loss), **SAVES, **options)
        if options:  # in pieces
            trainer.on("on_substep_end")(lambda sender, **rest: None)
        trainer.train(resume_from_checkpoint=resume)
        return weights_of(trainer.model)

    whole = run()
    assert np.array_equal(run(str(tmp_path / "out" / "checkpoint-4")), whole)
    assert "resumed run will differ" not in caplog.text


def test_an_evaluation_leaves_the_generator_of_a_closure_alone(make_trainer):
    drawing = tf.random.Generator.from_seed(7)
    states = []

    def run(**options):
        drawing.reset_from_seed(7)
        layer = Closing(lambda value: value)
        layer.call = lambda value, training=False: value + drawing.normal(tf.shape(value))
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(3)])
        trainer = make_trainer(model=model, eval_dataset=classified(8), max_steps=3, **options)
        trainer.train()
        states.append(drawing.state.numpy().tolist())

    run()
    run(eval_strategy="steps", eval_steps=1)
    assert states[0] == states[1]


def large():
    table = tf.Variable(tf.zeros(5000))

    def change(value):
        table.assign_add(tf.ones(5000))
        return value + table[0]

    return change


def numpy_of_its_own():
    rng = np.random.default_rng(3)

    def noise(value):
        return np.float32(rng.random() + 0 * value.sum())

    return lambda value: value + tf.ensure_shape(tf.numpy_function(noise, [value], tf.float32), ())


def counting_table():
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

    def change(value):
        seen = tf.ensure_shape(table.lookup(tf.constant([1], tf.int64)), (1,))
        table.insert(tf.constant([1], tf.int64), seen + 1.0)
        return value + 0.0 * seen[0]

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (large, "a variable of float32 with shape (5000,)"),
        (counting_table, "the step changes a table"),
        (numpy_of_its_own, "noise, which the model calls, draws"),
    ],
)
def test_what_cannot_be_kept_is_told_once(make_trainer, caplog, change, told):
    trainer = make_trainer(**made(change()), eval_dataset=classified(8), max_steps=2)
    with caplog.at_level(logging.WARNING, logger="trackside"):
        trainer.train()

    assert caplog.text.count("resumed run will differ") == 1
    assert told in caplog.text


def test_the_tables_of_texts_are_only_read(make_trainer, caplog):
    inputs = keras.Input((1,), dtype="string")
    numbers = keras.layers.StringLookup(vocabulary=["good", "bad"])(inputs)
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Embedding(4, 2)(numbers)))
    data = (np.array([["good"], ["bad"]] * 8), np.array([0, 1] * 8))

    with caplog.at_level(logging.WARNING, logger="trackside"):
        make_trainer(model=keras.Model(inputs, outputs), train_dataset=data, max_steps=2).train()

    assert not caplog.messages
