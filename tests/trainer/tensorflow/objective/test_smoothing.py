"""Label smoothing weighs, masks and leaves out labels, and takes them in the forms that Keras' losses take."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from trackside import TracksideError
from trackside.callbacks.errors import ArgumentError

layers = keras.layers
GENERATOR = np.random.default_rng(0)
N, EPSILON = 26, 0.1
FEATURES = GENERATOR.normal(size=(N, 6)).astype("float32")
CLASSES = GENERATOR.integers(0, 3, N)
ONE_HOT = np.eye(3, dtype="float32")
WEIGHTS = GENERATOR.random(N).astype("float32")
WORDS = GENERATOR.integers(1, 11, (N, 7))
WORDS[np.arange(7) >= GENERATOR.integers(2, 8, N)[:, None]] = 0
OF_CLASS = {0: 1.0, 1: 3.0, 2: 0.2}


def linear():
    return keras.Sequential([keras.Input((6,)), layers.Dense(3)])


def tagger():
    return keras.Sequential(
        [keras.Input((7,), dtype="int32"), layers.Embedding(11, 4, mask_zero=True), layers.Dense(3)]
    )


def two_outputs():
    inputs = keras.Input((6,))
    return keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(3)(inputs)])


def trained(make_trainer, make, data, *, smoothing=EPSILON, **options):
    """Return the loss of the only update, that of an evaluation before it, and the weights."""
    keras.utils.set_random_seed(0)
    trainer = make_trainer(
        model=make(), train_dataset=data, label_smoothing_factor=smoothing, max_steps=1, logging_steps=1,
        per_device_train_batch_size=N, per_device_eval_batch_size=N, optimizers=(keras.optimizers.SGD(0.1), None),
        max_grad_norm=0.0, **{"loss_fn": None, **options},
    )  # fmt: skip
    evaluated = trainer.evaluate(data)["eval_loss"]

    trainer.train()

    return trainer.state.log_history[0]["loss"], evaluated, trainer.model.get_weights()


def by_keras(make_trainer, make, data, **options):
    """Return what `trained` returns, of Keras' own label smoothing on distributions over the classes."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=EPSILON)
    return trained(make_trainer, make, data, smoothing=0.0, loss_fn=loss, **options)


def check_alike(own, wanted):
    assert own[0] == pytest.approx(wanted[0], rel=1e-6)
    assert own[1] == pytest.approx(wanted[1], rel=1e-6)
    for weight, other in zip(own[2], wanted[2], strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


LABELS = {
    "column": CLASSES[:, None],
    "uint8": CLASSES.astype("uint8"),
    "float32": CLASSES.astype("float32"),
    "one_hot": ONE_HOT[CLASSES],
    "one_hot_ints": ONE_HOT[CLASSES].astype("int64"),
    "mixed": ONE_HOT[CLASSES] * 0.7 + 0.1,
}


@pytest.mark.parametrize("form", LABELS)
def test_labels_in_each_form_that_losses_of_classes_take_are_smoothed(make_trainer, form):
    labels = LABELS[form]
    distributions = labels if labels.shape[-1] == 3 else ONE_HOT[CLASSES]

    own = trained(make_trainer, linear, (FEATURES, labels))

    check_alike(own, by_keras(make_trainer, linear, (FEATURES, distributions)))


def test_sample_weights_weigh_smoothed_losses(make_trainer):
    own = trained(make_trainer, linear, (FEATURES, CLASSES, WEIGHTS))

    check_alike(own, by_keras(make_trainer, linear, (FEATURES, ONE_HOT[CLASSES], WEIGHTS)))


def test_class_weights_weigh_smoothed_losses(make_trainer):
    own = trained(make_trainer, linear, (FEATURES, CLASSES), class_weight=OF_CLASS)

    check_alike(own, by_keras(make_trainer, linear, (FEATURES, ONE_HOT[CLASSES]), class_weight=OF_CLASS))


def test_a_mask_leaves_steps_out_of_smoothed_losses(make_trainer):
    labels = WORDS % 3

    own = trained(make_trainer, tagger, (WORDS, labels))

    check_alike(own, by_keras(make_trainer, tagger, (WORDS, ONE_HOT[labels])))


def test_the_labels_of_several_outputs_are_smoothed(make_trainer):
    other = GENERATOR.integers(0, 3, N)

    own = trained(make_trainer, two_outputs, (FEATURES, (CLASSES, other)))

    check_alike(own, by_keras(make_trainer, two_outputs, (FEATURES, (ONE_HOT[CLASSES], ONE_HOT[other]))))


@pytest.mark.parametrize(
    ("labels", "message"),
    [(CLASSES + 1, "there is a label value of 3"), (np.array(["a", "b"])[CLASSES % 2], "the labels are texts")],
)
def test_labels_that_are_no_classes_are_told_as_by_other_losses(make_trainer, labels, message):
    with pytest.raises(TracksideError, match=message):
        trained(make_trainer, linear, (FEATURES, labels))


def test_smoothing_beside_the_compute_loss_of_a_model_is_refused(make_trainer):
    class Own(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(y_pred)

    with pytest.raises(
        ArgumentError, match=r"label_smoothing_factor=0\.1 is not allowed: 0 beside compute_loss of Own"
    ):
        trained(make_trainer, lambda: Own([keras.Input((6,)), layers.Dense(3)]), (FEATURES, CLASSES))
