"""An update is that of one big batch as Keras computes it, however it is cut into micro-batches and replicas."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support.callback_examples import Listens
from support.tf_models import run_alone, weights_of

layers = keras.layers
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
GENERATOR = np.random.default_rng(0)
N, T = 10, 6
TOKENS = GENERATOR.integers(1, 6, (N, T))
for row, length in enumerate(GENERATOR.integers(1, T + 1, N)):
    TOKENS[row, length:] = 0
NEXT = TOKENS % 3
FIRST = np.where(GENERATOR.integers(0, 2, N) == 0, -100, GENERATOR.integers(0, 3, N))
PIXELS = GENERATOR.integers(0, 3, (N, T))
PIXELS[: N // 2, 1:] = 2


class Penalty(layers.Layer):
    """Adds a mean over the batch to the loss."""

    def call(self, values):
        self.add_loss(keras.ops.mean(keras.ops.square(values)))
        return values


def tagger(heads=("steps",), middle=lambda values: values, **options):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((T,), dtype="int32")
    hidden = middle(layers.Embedding(6, 8, mask_zero=True)(inputs))
    outputs = {}
    if "steps" in heads:
        outputs["steps"] = layers.Dense(3, name="steps", **options)(hidden)
    if "first" in heads:
        outputs["first"] = layers.Dense(3, name="first", **options)(layers.GlobalAveragePooling1D()(hidden))
    return keras.Model(inputs, outputs if len(outputs) > 1 else next(iter(outputs.values())))


BOTH = ("steps", "first")
IGNORES = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
CASES = {
    "a mask": (tagger, NEXT, CE),
    "an ignored class": (tagger, PIXELS, IGNORES),
    "a mask and labels that are -100": (
        lambda: tagger(BOTH), {"steps": NEXT, "first": FIRST}, {"steps": CE, "first": CE},
    ),
    "a mask and a penalty of a call": (lambda: tagger(middle=Penalty()), NEXT, CE),
    "a mask and a penalty on weights": (lambda: tagger(kernel_regularizer="l2"), NEXT, CE),
    "a mask and a sum": (
        lambda: tagger(BOTH), {"steps": NEXT, "first": PIXELS[:, 0]},
        {"steps": CE, "first": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")},
    ),
}  # fmt: skip


def trained(make_trainer, name, *, size, **options):
    make, labels, loss = CASES[name]
    model = make()
    model.compile(loss=loss)
    trainer = make_trainer(
        model=model, train_dataset=(TOKENS, labels), eval_dataset=(TOKENS, labels), loss_fn=None, logging_steps=1,
        max_steps=1, optim="sgd", learning_rate=0.5, lr_scheduler_type="constant", max_grad_norm=0.0,
        per_device_train_batch_size=size, per_device_eval_batch_size=size, **options,
    )  # fmt: skip
    evaluated = trainer.evaluate()["eval_loss"]
    trainer.train()
    return evaluated, trainer.state.log_history[-2]["loss"], weights_of(model)


@pytest.mark.parametrize("callbacks", [[], [Listens()]], ids=["in one", "in pieces"])
def test_penalties_on_weights_count_in_an_update_in_which_no_label_does(make_trainer, callbacks):
    fitted, model = tagger(kernel_regularizer="l2"), tagger(kernel_regularizer="l2")
    fitted.compile(keras.optimizers.SGD(0.5), CE)
    trainer = make_trainer(
        model=model, train_dataset=(TOKENS * 0, NEXT), loss_fn=CE, logging_steps=1, max_steps=1, callbacks=callbacks,
        per_device_train_batch_size=N, optim="sgd", learning_rate=0.5, lr_scheduler_type="constant", max_grad_norm=0.0,
    )  # fmt: skip

    trainer.train()

    assert trainer.state.log_history[0]["loss"] == pytest.approx(fitted.train_on_batch(TOKENS * 0, NEXT), rel=1e-6)
    np.testing.assert_allclose(weights_of(model), weights_of(fitted), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_parts_of_an_update_are_as_good_as_the_whole(make_trainer, name):
    make, labels, loss = CASES[name]
    whole = trained(make_trainer, name, size=N)
    parts = trained(make_trainer, name, size=4, gradient_accumulation_steps=3)
    pieces = trained(make_trainer, name, size=4, gradient_accumulation_steps=3, callbacks=[Listens()])

    is_sum = "sum" in name  # whose evaluation is the mean of the sums of batches, as in Keras
    for other in (parts, pieces):
        assert is_sum or other[0] == pytest.approx(whole[0], rel=1e-6)
        assert other[1] == pytest.approx(whole[1], rel=1e-6)
        np.testing.assert_allclose(other[2], whole[2], rtol=1e-4, atol=1e-6)
    if "-100" not in name:  # which Keras has no rule for
        of_keras = make()
        of_keras.compile(keras.optimizers.SGD(0.5), loss)
        history = of_keras.fit(TOKENS, labels, batch_size=N, shuffle=False, verbose=0)
        assert whole[0] == pytest.approx(history.history["loss"][0], rel=1e-6)
        np.testing.assert_allclose(whole[2], weights_of(of_keras), rtol=1e-4, atol=1e-6)


TWO = """
import sys
import tensorflow as tf
two = len(sys.argv) > 1
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * COUNT)
import keras, numpy as np
from trackside import TFTrainer, TFTrainingArguments
ids = np.array([[1, 2, 3, 4], [5, 0, 0, 0], [1, 4, 0, 0], [2, 2, 2, 0], [3, 0, 0, 0]])
labels = {"steps": ids % 3, "first": np.array([-100, 1, 2, -100, 0])}
args = TFTrainingArguments("out", per_device_train_batch_size=6 // COUNT, per_device_eval_batch_size=6 // COUNT,
    max_steps=3, optim="sgd",
    learning_rate=0.5, lr_scheduler_type="constant", max_grad_norm=0.0, disable_tqdm=True, save_strategy="no")
keras.utils.set_random_seed(1)
L = keras.layers
with args.strategy.scope():
    inputs = keras.Input((4,), dtype="int32")
    hidden = L.Embedding(6, 8, mask_zero=True)(inputs)
    steps = L.Dense(3, name="steps", kernel_regularizer="l2", activity_regularizer="l2")(hidden)
    model = keras.Model(inputs, {"steps": steps, "first": L.Dense(3, name="first")(L.GlobalAveragePooling1D()(hidden))})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss={"steps": loss, "first": loss}, loss_weights={"steps": 1.0, "first": 0.3})
trainer = TFTrainer(model, args, train_dataset=(ids, labels), eval_dataset=(ids, labels))
before, loss = trainer.evaluate()["eval_loss"], trainer.train().training_loss
print("RESULT", before, loss, trainer.evaluate()["eval_loss"])
"""


@pytest.mark.slow
def test_two_replicas_are_as_good_as_one():
    said = [run_alone(TWO.replace("COUNT", str(count))) for count in (1, 2)]
    one, two = ([float(word) for word in text.split("RESULT")[1].split()[:3]] for text in said)

    assert two == pytest.approx(one, rel=1e-5)
