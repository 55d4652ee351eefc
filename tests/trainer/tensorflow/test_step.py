"""TFTrainer's compiled step: pieces, several updates in a call, XLA, memory."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import mlp, weights_of

from trackside import TrainerCallback


def test_the_step_is_traced_once_for_each_length_of_a_window(make_trainer):
    trainer = make_trainer(
        train_dataset=classified(37),
        eval_dataset=classified(13),
        gradient_accumulation_steps=2,
        num_train_epochs=4,
        eval_strategy="epoch",
    )

    trainer.train()

    assert trainer.trace_counts == {"update": 2, "predict": 1}


def test_with_a_listener_inside_the_update_it_goes_in_pieces_to_the_same_weights(make_trainer):
    class Watch(TrainerCallback):
        norms: list = []

        def on_pre_optimizer_step(self, args, state, control, grad_norm=None, trainer=None, **kwargs):
            own = np.sqrt(sum(float(tf.reduce_sum(g * g)) for g in trainer.gradients))
            self.norms.append((float(grad_norm), own))

    options = {"train_dataset": classified(37), "gradient_accumulation_steps": 2, "max_grad_norm": 0.5}
    whole = make_trainer(model=mlp(dropout=0.3), **options)
    pieces = make_trainer(model=mlp(dropout=0.3), callbacks=[Watch()], **options)
    whole.train()
    pieces.train()

    assert pieces.trace_counts == {"accumulate": 2, "normalize": 1, "apply": 1}
    assert all(own == pytest.approx(min(norm, 0.5), rel=1e-3) for norm, own in Watch.norms)
    np.testing.assert_array_equal(weights_of(whole.model), weights_of(pieces.model))


def test_whoever_looks_at_the_model_sees_every_update(make_trainer):
    seen = {"single": [], "several": []}

    class Looks(TrainerCallback):
        def __init__(self, name):
            self.weights = seen[name]

        def on_step_end(self, args, state, control, model=None, **kwargs):
            self.weights.append(weights_of(model))

        on_epoch_end = on_log = on_step_end

    for name, steps in (("single", 1), ("several", 8)):
        trainer = make_trainer(train_dataset=classified(64), logging_steps=3, steps_per_execution=steps, max_steps=12)
        trainer.add_callback(Looks(name), on=["on_epoch_end", "on_log"])
        trainer.add_callback(Looks(name), on=["on_step_end"], every=5)
        trainer.train()

    np.testing.assert_allclose(seen["single"], seen["several"], atol=1e-6)


def test_xla_gives_the_same_numbers(make_trainer):
    plain, compiled = make_trainer(max_steps=5), make_trainer(max_steps=5, xla=True)
    plain.train()
    compiled.train()

    np.testing.assert_allclose(weights_of(compiled.model), weights_of(plain.model), atol=1e-5)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_update(make_trainer):
    class LittleRoom(TrainerCallback):
        """Leaves memory for two examples."""

        def on_train_begin(self, args, state, control, trainer=None, **kwargs):
            compiled = trainer._engine.train_step.compiled
            accumulate = compiled.accumulate

            def with_little_room(pair, is_first):
                if len(pair.labels) > 2:
                    raise tf.errors.ResourceExhaustedError(None, None, "no room")
                accumulate(pair, is_first)

            compiled.accumulate = with_little_room

    options = {"optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 1, "gradient_accumulation_steps": 2}
    plain, small = make_trainer(**options), make_trainer(callbacks=[LittleRoom()], auto_find_batch_size=True, **options)
    plain.train()
    small.train()

    assert small._engine.train_step.retrier.parts == 4
    np.testing.assert_allclose(weights_of(small.model), weights_of(plain.model), atol=1e-6)


@pytest.mark.parametrize("how", ["compile", "config"])
def test_a_step_runs_as_python_for_debugging(make_trainer, how):
    seen = []

    class Looks(keras.layers.Layer):
        def call(self, values):
            seen.append(tf.executing_eagerly())
            return values

    model = keras.Sequential([keras.Input((6,)), Looks(), keras.layers.Dense(3)])
    model.compile(run_eagerly=how == "compile")
    tf.config.run_functions_eagerly(how == "config")
    try:
        trainer = make_trainer(model=model, eval_dataset=classified(9))
        seen.clear()
        trainer.train()
        trainer.evaluate()
    finally:
        tf.config.run_functions_eagerly(False)

    assert len(seen) == 17  # 15 updates and 2 evaluation batches
    assert all(seen)


@pytest.mark.parametrize(("accumulation", "trainable", "told"), [(2, True, 1), (1, True, 0), (2, False, 0)])
def test_batch_normalization_is_told_once_where_a_batch_is_split(make_trainer, caplog, accumulation, trainable, told):
    layers = [
        tf.keras.layers.Dense(8),
        tf.keras.layers.BatchNormalization(trainable=trainable),
        tf.keras.layers.Dense(3),
    ]
    trainer = make_trainer(
        model=tf.keras.Sequential(layers), gradient_accumulation_steps=accumulation, num_train_epochs=2
    )

    trainer.train()

    messages = [record.message for record in caplog.records if "one large batch" in record.message]
    assert len(messages) == told
    assert all("computes statistics over the examples of a micro-batch" in message for message in messages)
