"""Mixed precision: the policy reaches every layer, float16 scales its loss, checkpoints keep the scale."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support.arrays import classified
from support.tf_models import LOSS, mlp, weights_of

from trackside import TFTrainer, TrainerCallback
from trackside.callbacks.errors import ArgumentError, TracksideValueError
from trackside.trainer.tensorflow.precision.amp import INITIAL_SCALE

layers = keras.layers


class Late(keras.Model):
    """Makes its layers when it is first called."""

    def build(self, shape):
        self.dense, self.norm = layers.Dense(3), layers.LayerNormalization()
        self.dense.build(shape)
        self.norm.build((shape[0], 3))
        self.built = True

    def call(self, features):
        return self.norm(self.dense(features))


def made_in_policy():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return mlp()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(("flag", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
@pytest.mark.parametrize("how", ["built", "late", "model_init"])
def test_the_policy_reaches_every_layer_however_the_model_was_built(make_trainer, how, flag, dtype):
    model = {"built": {"model": mlp()}, "late": {"model": Late()}, "model_init": {"model_init": lambda: mlp()}}[how]
    trainer = make_trainer(**model, **{flag: True}, learning_rate=0.01, logging_steps=5, num_train_epochs=4)

    trainer.train()

    inner = [layer for layer in trainer.model._flatten_layers() if layer.weights]
    assert {layer.compute_dtype for layer in inner} == {dtype}
    assert {variable.dtype for variable in trainer.model.trainable_variables} == {"float32"}
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert losses[-1] < losses[0]
    assert trainer.predict(classified(5)).predictions.dtype == np.float32
    assert keras.config.dtype_policy().name == "float32"


def test_a_model_made_in_the_policy_stays_in_it_with_its_head_in_float32(make_trainer):
    body = made_in_policy()
    model = keras.Sequential([body, layers.Dense(3, dtype="float32")])
    trainer = make_trainer(model=model, fp16=True, max_steps=2)

    trainer.train()

    assert body.layers[0].compute_dtype == "float16"
    assert model.layers[-1].compute_dtype == "float32"


def test_a_model_made_in_float16_needs_the_scale(make_trainer):
    with pytest.raises(ArgumentError, match="fp16=False is not allowed: True for a model that computes in float16"):
        make_trainer(model=made_in_policy()).train()


def functional():
    inputs = keras.Input((6,))
    steps = layers.Reshape((6, 1))(inputs)
    hidden = layers.BatchNormalization()(layers.Conv1D(4, 3)(layers.MultiHeadAttention(2, 3)(steps, steps)))
    return keras.Model(inputs, layers.Dense(3)(layers.Bidirectional(layers.LSTM(3))(hidden)))


@pytest.mark.parametrize(("flag", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_the_policy_reaches_layers_inside_of_layers(make_trainer, flag, dtype):
    model = functional()
    trainer = make_trainer(model=model, **{flag: True}, max_steps=3, logging_steps=1)

    trainer.train()

    assert {layer.compute_dtype for layer in model._flatten_layers() if layer.weights} == {dtype}
    assert np.isfinite([record["loss"] for record in trainer.state.log_history if "loss" in record]).all()


def test_a_model_of_another_precision_says_what_to_do(make_trainer):
    model = keras.Sequential([layers.Input((6,)), layers.Dense(3, dtype="float64")])

    with pytest.raises(TracksideValueError, match="set_dtype_policy"):
        make_trainer(model=model, fp16=True).train()


class InjectsInf(TFTrainer):
    """The loss is infinite as long as the scale is the first one and the update is the third."""

    def run_model(self, features, labels, training):
        loss, logits = super().run_model(features, labels, training)
        if training:
            import tensorflow as tf

            now = tf.equal(self.optimizer.iterations.value, 2) & tf.equal(
                self._engine.train_step.precision.scale, INITIAL_SCALE
            )
            loss = loss * tf.where(now, np.float32(np.inf), np.float32(1.0))
        return loss, logits


class Watch(TrainerCallback):
    def __init__(self):
        self.skipped = []

    def on_optimizer_step(self, args, state, control, skipped=None, **kwargs):
        self.skipped.append(skipped)


@pytest.mark.parametrize("watched", [True, False])
def test_an_update_that_overflows_is_skipped_and_the_schedule_waits(make_trainer, watched):
    watch = Watch()
    callbacks = [watch] if watched else []
    trainer = make_trainer(InjectsInf, fp16=True, max_steps=5, logging_steps=1, callbacks=callbacks)

    trainer.train()

    rates = [record["learning_rate"] for record in trainer.state.log_history if "learning_rate" in record]
    assert rates[1] > rates[2] == rates[3] > rates[4]
    assert int(trainer.optimizer.iterations.value) == 4
    assert trainer._engine.train_step.precision.state_dict()["scale"] == INITIAL_SCALE / 2
    assert np.isfinite(weights_of(trainer.model)).all()
    if watched:
        assert watch.skipped == [False, False, True, False, False]


def test_float16_trains_as_float32_does(make_trainer):
    half, full = make_trainer(fp16=True, max_steps=10), make_trainer(max_steps=10)
    half.train()
    full.train()

    np.testing.assert_allclose(weights_of(half.model), weights_of(full.model), atol=2e-3)


def test_the_scale_is_kept_in_a_checkpoint(make_trainer):
    options = {"fp16": True, "save_strategy": "steps", "save_steps": 4, "max_steps": 4}
    first = make_trainer(InjectsInf, **options)
    first.train()
    again = make_trainer(InjectsInf, **{**options, "max_steps": 5})
    again.train(resume_from_checkpoint=True)

    assert again._engine.train_step.precision.state_dict() == {"scale": INITIAL_SCALE / 2, "good_steps": 2}


def test_a_resumed_run_goes_on_with_the_scale_of_the_checkpoint(make_trainer):
    older = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=INITIAL_SCALE * 2)
    options = {"fp16": True, "save_strategy": "steps", "save_steps": 2}
    make_trainer(optimizers=(older, None), max_steps=2, **options).train()
    again = make_trainer(optimizers=(keras.optimizers.SGD(0.1), None), max_steps=3, **options)

    again.train(resume_from_checkpoint=True)

    assert again._engine.train_step.precision.state_dict() == {"scale": INITIAL_SCALE * 2, "good_steps": 3}


def as_in_fit(optimizer):
    """Train the same model with ``fit`` in float16; return its weights, its updates and its scale."""
    model = made_in_policy()
    model.compile(optimizer, LOSS, jit_compile=False)
    features, labels = classified(8)
    model.fit(features, labels, batch_size=4, epochs=3, shuffle=False, verbose=0)
    return weights_of(model), int(model.optimizer.iterations), float(model.optimizer.dynamic_scale)


@pytest.mark.parametrize("options", [{}, {"initial_scale": 2.0**24, "dynamic_growth_steps": 2}])
@pytest.mark.parametrize("scheduled", [False, True])
def test_float16_scales_the_loss_and_skips_updates_as_fit_does(make_trainer, options, scheduled):
    def optimizer():
        decay = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.9)
        inner = keras.optimizers.SGD(decay if scheduled else 0.1)
        return keras.optimizers.LossScaleOptimizer(inner, **options) if options or scheduled else inner

    expected = as_in_fit(optimizer())
    trainer = make_trainer(
        model=made_in_policy(),
        loss_fn=LOSS,
        optimizers=(optimizer(), None),
        fp16=True,
        num_train_epochs=3,
        per_device_train_batch_size=4,
        train_dataset=classified(8),
        lr_scheduler_type="constant",
        max_grad_norm=0,
        train_sampling_strategy="sequential",
    )

    trainer.train()

    scale = trainer._engine.train_step.precision.state_dict()["scale"]
    assert (int(trainer.optimizer.iterations), scale) == expected[1:]
    assert expected[1] < 6 if options else expected[1:] == (6, INITIAL_SCALE)
    np.testing.assert_allclose(weights_of(trainer.model), expected[0], rtol=1e-6)


def test_a_loss_scale_without_fp16_is_told_to_have_no_effect(make_trainer, caplog):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))

    make_trainer(optimizers=(optimizer, None), max_steps=1).train()

    assert "LossScaleOptimizer has no effect without fp16=True: the loss is not scaled" in caplog.text


@pytest.mark.parametrize("flag", ["fp16_full_eval", "bf16_full_eval"])
def test_full_evaluation_in_half_precision_leaves_the_model_as_it_was(make_trainer, flag):
    half, full = make_trainer(eval_dataset=classified(9), **{flag: True}), make_trainer(eval_dataset=classified(9))

    found, expected = half.evaluate()["eval_loss"], full.evaluate()["eval_loss"]

    assert found == pytest.approx(expected, rel=2e-2)
    assert found != expected
    assert half.model.layers[0].compute_dtype == "float32"
