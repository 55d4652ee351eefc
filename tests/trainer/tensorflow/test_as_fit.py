"""Whole models of many kinds train as ``Model.fit`` trains them from the same start on the same batches.

The losses of each epoch, the weights and the evaluation agree to 1e-5, relative to values of about 1.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trackside import TFTrainer
from trackside.trainer.tensorflow.weights.model_state import seed_generators

layers, ops = keras.layers, keras.ops
SEED, EPOCHS, BATCH = 42, 2, 8
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 255, (24, 16, 16, 3)).astype("float32")
CLASSES = GENERATOR.integers(0, 3, 24)
STEADY = {"seed": SEED, "num_train_epochs": EPOCHS, "max_grad_norm": 0.0, "logging_strategy": "epoch",
          "learning_rate": 0.01, "lr_scheduler_type": "constant", "per_device_train_batch_size": BATCH,
          "per_device_eval_batch_size": 24}  # fmt: skip
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def batches(data: Any) -> Any:
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH)


def given(pairs: Any) -> Any:
    """Return batches of features and labels as a dataset."""
    features, labels = (tf.stack(part) for part in zip(*pairs, strict=True))
    return tf.data.Dataset.from_tensor_slices((features, labels))


class InOrder(TFTrainer):
    def get_train_tfdataset(self):
        return batches(self.train_dataset)


def adam() -> Any:
    return keras.optimizers.Adam(0.01)


def sgd() -> Any:
    return keras.optimizers.SGD(0.01, momentum=0.9)


def check_as_fit(make_trainer, make, data, *, optimizer=adam, **compiled):
    """Train two models that ``make`` returns; compare the losses of each epoch, the weights and the evaluation."""
    models = [make(), make()]
    for model in models:
        model.compile(optimizer(), **compiled)
        seed_generators(model, SEED)
    trainer = make_trainer(cls=InOrder, model=models[0], train_dataset=data, eval_dataset=data, loss_fn=None,
                           optimizers=(optimizer(), None), **STEADY)  # fmt: skip

    trainer.train()

    history = models[1].fit(batches(data), epochs=EPOCHS, verbose=0, shuffle=False).history
    check_alike(trainer, models, history["loss"])
    whole = tf.data.Dataset.from_tensor_slices(data).batch(24)
    wanted = models[1].evaluate(whole, verbose=0, return_dict=True)["loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-5)


def check_alike(trainer, models, history):
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    np.testing.assert_allclose(losses, history, **CLOSE)
    for own, wanted in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(own, wanted, **CLOSE)


# -- losses -----------------------------------------------------------------------------------------------------------


class Sampling(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs):
        mean, log_variance = inputs
        self.add_loss(-0.5 * ops.mean(1 + log_variance - ops.square(mean) - ops.exp(log_variance)))
        return mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.seeds)


def vae() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    hidden = layers.Dense(8, "relu")(inputs)
    latent = Sampling()([layers.Dense(2)(hidden), layers.Dense(2)(hidden)])
    return keras.Model(inputs, layers.Dense(12, "sigmoid")(layers.Dense(8, "relu")(latent)))


def test_a_variational_autoencoder_with_add_loss(make_trainer):
    x = GENERATOR.random((24, 12)).astype("float32")

    check_as_fit(make_trainer, vae, (x, x), loss="binary_crossentropy")


def unet() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    scaled = layers.Rescaling(1 / 255)(inputs)
    top = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", activation="relu")(scaled))
    bottom = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.MaxPooling2D()(top))
    up = layers.Conv2DTranspose(4, 2, strides=2)(bottom)
    return keras.Model(inputs, layers.Conv2D(3, 1)(layers.Concatenate()([top, up])))


def test_a_segmentation_network_with_pixels_of_no_class(make_trainer):
    masks = GENERATOR.integers(0, 3, (24, 16, 16))
    masks[GENERATOR.random(masks.shape) < 0.3] = 255
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)

    check_as_fit(make_trainer, unet, (IMAGES, masks), loss=loss)


def tagger() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int64")
    hidden = layers.Embedding(12, 6, mask_zero=True)(inputs)
    return keras.Model(inputs, layers.Dense(4)(layers.LSTM(6, return_sequences=True)(hidden)))


def test_a_tagger_of_sequences_of_many_lengths(make_trainer):
    words = GENERATOR.integers(1, 12, (24, 9))
    words[np.arange(9) >= GENERATOR.integers(1, 10, 24)[:, None]] = 0
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    # in Adam, fit squares the gradient of each occurrence of a word by itself, and not their sum
    check_as_fit(make_trainer, tagger, (words, words % 4), optimizer=sgd, loss=loss)


def transformer() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9,), dtype="int64")
    words = layers.Embedding(12, 6, mask_zero=True)(inputs)
    hidden = layers.LayerNormalization()(words + layers.MultiHeadAttention(2, 3)(words, words, use_causal_mask=True))
    hidden = layers.Attention(use_scale=True, score_mode="concat")([hidden, hidden])
    return keras.Model(inputs, layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(hidden)))


def test_attention_with_masks_by_a_schedule_of_keras(make_trainer):
    words = GENERATOR.integers(1, 12, (24, 9))
    words[np.arange(9) >= GENERATOR.integers(2, 10, 24)[:, None]] = 0

    def scheduled() -> Any:
        return keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.0, 6, warmup_target=0.1, warmup_steps=2))

    loss, labels = keras.losses.CategoricalCrossentropy(label_smoothing=0.1), np.eye(3, dtype="float32")[CLASSES]
    check_as_fit(make_trainer, transformer, (words, labels), optimizer=scheduled, loss=loss)


def two_tasks() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, "tanh")(inputs)
    return keras.Model(inputs, {"kind": layers.Dense(3, name="kind")(hidden), "size": layers.Dense(1)(hidden)})


def test_two_tasks_with_missing_labels(make_trainer):
    x = GENERATOR.normal(size=(24, 6)).astype("float32")
    labels = {"kind": CLASSES, "size": x[:, :1]}
    known = {name: (GENERATOR.random(24) < 0.5).astype("float32") for name in labels}
    losses = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "huber"}

    check_as_fit(make_trainer, two_tasks, (x, labels, known), loss=losses, loss_weights={"kind": 0.5, "size": 2.0})


# -- images -----------------------------------------------------------------------------------------------------------


def test_transfer_learning_on_a_frozen_base_of_keras_applications(make_trainer):
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None, pooling="avg")
    base.trainable = False
    before = base.get_weights()

    def transfer() -> Any:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((16, 16, 3))
        hidden = keras.applications.mobilenet_v2.preprocess_input(layers.UpSampling2D()(inputs))
        return keras.Model(inputs, layers.Dense(3, "softmax")(base(hidden, training=False)))

    check_as_fit(make_trainer, transfer, (IMAGES, CLASSES), loss="sparse_categorical_crossentropy")

    assert all(np.array_equal(*pair) for pair in zip(before, base.get_weights(), strict=True))


def augmentation() -> list[Any]:
    seeded = [layers.RandomFlip(seed=3), layers.RandomRotation(0.2, seed=4)]
    return [layers.Rescaling(1 / 255), *seeded]


def classifier(*inside: Any) -> Any:
    keras.utils.set_random_seed(0)
    rest = [layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    return keras.Sequential([keras.Input((16, 16, 3)), *inside, *rest])


def test_an_image_pipeline_in_the_model(make_trainer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    check_as_fit(make_trainer, lambda: classifier(*augmentation()), (IMAGES, CLASSES), loss=loss)


def test_an_image_pipeline_in_tf_data(make_trainer):
    class Augments(TFTrainer):
        def get_train_tfdataset(self):
            augment = keras.Sequential(augmentation())
            return batches(self.train_dataset).map(lambda images, labels: (augment(images, training=True), labels))

    models = [classifier(), classifier()]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer = make_trainer(cls=Augments, model=models[0], train_dataset=(IMAGES, CLASSES), loss_fn=loss,
                           optimizers=(adam(), None), **STEADY)  # fmt: skip

    trainer.train()

    models[1].compile(adam(), loss)
    history = []
    for epoch in range(EPOCHS):  # fit has no seed for the epochs of a pipeline: it gets the images of each
        images = list(trainer._engine.train_batches.epoch(epoch))
        history.append(models[1].fit(given(images), verbose=0, shuffle=False).history["loss"][0])
    check_alike(trainer, models, history)
    first, second = (next(trainer._engine.train_batches.epoch(epoch)).features.numpy() for epoch in range(2))
    assert first.max() <= 1.0
    assert np.abs(first - second).max() > 0.1
