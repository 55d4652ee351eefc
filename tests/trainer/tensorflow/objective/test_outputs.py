"""Losses of one and of several outputs train and are reported as in Model.fit and Model.evaluate."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import weights_of

from trackside.callbacks.errors import TracksideError, TracksideValueError

L = keras.losses
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(20, 4)).astype("float32")
A, B, C = (GENERATOR.normal(size=(20, size)).astype("float32") for size in (1, 1, 3))
LABELS = GENERATOR.integers(0, 3, 20)
STEADY = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "max_steps": 5}


def model_of(form, sizes, activation=None):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(size, activation, name=name)(inputs) for name, size in sizes.items()}
    first = next(iter(outputs.values()))
    return keras.Model(inputs, {"dict": outputs, "list": list(outputs.values()), "tensor": first}[form])


def check_like_fit(make_trainer, make_model, labels, *, given=None, **compiled):
    """Compare an evaluation and five updates of one batch with those of Keras."""
    of_keras, own = make_model(), make_model()
    compiled = compiled or {"loss": given}
    of_keras.compile(optimizer=keras.optimizers.SGD(0.05), **compiled)
    labels_of_keras = list(labels) if isinstance(labels, tuple) else labels
    if given is None:
        own.compile(**compiled)
    data = (X, labels)
    sizes = {"per_device_train_batch_size": 20, "per_device_eval_batch_size": 20}
    trainer = make_trainer(model=own, train_dataset=data, eval_dataset=data, loss_fn=given, **sizes, **STEADY)

    wanted = of_keras.evaluate(X, labels_of_keras, batch_size=20, verbose=0, return_dict=True)
    found = {name[5:]: value for name, value in trainer.evaluate().items() if name.endswith("loss")}
    assert found == pytest.approx(wanted, rel=1e-6)

    of_keras.fit(X, labels_of_keras, batch_size=20, epochs=5, shuffle=False, verbose=0)
    trainer.train()
    np.testing.assert_allclose(weights_of(own), weights_of(of_keras), rtol=1e-5, atol=1e-6)


FORMS = [
    *(("tensor", A, loss) for loss in ("mse", {"a": "mse"}, ["mse"])),
    *(("dict", {"a": A}, loss) for loss in ("mse", {"a": "mse"})),
    *(("dict", A, "mse"), ("list", (A,), ["mse"]), ("list", A, {"a": "mse"})),
]


@pytest.mark.parametrize(("form", "labels", "loss"), FORMS)
def test_one_output_in_any_form_is_trained_as_by_keras(make_trainer, form, labels, loss):
    check_like_fit(make_trainer, lambda: model_of(form, {"a": 1}), labels, loss=loss)


TWO = {
    "one loss, same shapes": ("list", 1, (A, B), {"loss": "mse"}),
    "one loss, other shapes": ("list", 3, (A, C), {"loss": "mse"}),
    "a list with weights": ("list", 1, (A, B), {"loss": ["mse", "mae"], "loss_weights": [1.0, 0.2]}),
    "dicts": ("dict", 1, {"a": A, "b": B}, {"loss": {"a": "mse", "b": "mae"}, "loss_weights": {"a": 1.0, "b": 0.2}}),
    "dict of losses, tuple of labels": ("list", 1, (A, B), {"loss": {"a": "mse", "b": "mae"}}),
    "no loss for one": ("list", 1, (A, B), {"loss": ["mse", None]}),
    "a sum beside a mean": ("list", 1, (A, B), {"loss": [L.MeanSquaredError(reduction="sum"), "mae"]}),
    "a scalar": ("list", 3, (A, C), {"loss": lambda t, p: tf.reduce_mean(tf.square(t - p))}),
}


@pytest.mark.parametrize("name", TWO)
def test_the_losses_of_two_outputs_are_added_as_by_keras(make_trainer, name):
    form, size, labels, compiled = TWO[name]

    check_like_fit(make_trainer, lambda: model_of(form, {"a": 1, "b": size}), labels, **compiled)


FIT = {
    "sum": (L.MeanSquaredError(reduction="sum"), A),
    "unreduced": (L.MeanSquaredError(reduction=None), A),
    "labels (n,)": ("mse", A[:, 0]),
    "int labels": (lambda t, p: tf.reduce_mean(tf.square(t - p), axis=-1), LABELS),
    "a scalar": (lambda t, p: tf.reduce_mean(tf.square(t - p)), A[:, 0]),
}


@pytest.mark.parametrize("name", FIT)
def test_a_loss_is_trained_on_as_by_keras(make_trainer, name):
    loss, labels = FIT[name]

    check_like_fit(make_trainer, lambda: model_of("tensor", {"a": 1}), labels, loss=loss)


BITS, POSITIVE, ONE_HOT = (A > 0).astype("float32"), abs(A) + 0.5, np.eye(3, dtype="float32")[LABELS]
HEADS = {  # units, activation and labels for each loss of Keras
    **dict.fromkeys(("MeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError"), (1, "sigmoid", POSITIVE)),
    **dict.fromkeys(("MeanSquaredLogarithmicError", "Huber", "LogCosh", "Poisson"), (1, "sigmoid", POSITIVE)),
    **dict.fromkeys(("BinaryCrossentropy", "BinaryFocalCrossentropy", "Hinge", "SquaredHinge"), (1, "sigmoid", BITS)),
    **dict.fromkeys(("CategoricalCrossentropy", "CategoricalFocalCrossentropy"), (3, "softmax", ONE_HOT)),
    **dict.fromkeys(("CategoricalHinge", "Dice", "Tversky", "KLDivergence"), (3, "softmax", ONE_HOT)),
    "CosineSimilarity": (3, "softmax", ONE_HOT),
    **dict.fromkeys(("SparseCategoricalCrossentropy", "CategoricalGeneralizedCrossEntropy"), (3, "softmax", LABELS)),
    "Circle": (3, "unit_norm", LABELS),
    "CTC": (12, "linear", LABELS[:, None] % 2 + 1),
}


def model_of_all_losses():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    outputs = {}
    for name, (units, activation, _) in HEADS.items():
        layer = keras.layers.Dense(units, None if activation == "unit_norm" else activation, name=f"{name}_head")
        outputs[name] = layer(inputs)
    outputs["Circle"] = keras.layers.UnitNormalization()(outputs["Circle"])
    outputs["CTC"] = keras.layers.Reshape((4, 3))(outputs["CTC"])
    return keras.Model(inputs, outputs)


@pytest.mark.slow
def test_each_loss_of_keras_is_trained_on_as_by_keras(make_trainer):
    losses = {name: getattr(L, name)() for name in HEADS} | {"Circle": L.Circle(gamma=2.0)}  # 80 amplifies rounding
    labels = {name: given for name, (_, _, given) in HEADS.items()}

    check_like_fit(make_trainer, model_of_all_losses, labels, given=losses)

    assert HEADS.keys() == {name for name in dir(L) if isinstance(getattr(L, name), type)} - {"Loss"}


# -- functions of the user's own --------------------------------------------------------------------------------------


def of_both(labels, outputs):
    return tf.reduce_mean(tf.square(labels["a"] - outputs["a"]), -1) + tf.reduce_mean(
        tf.abs(labels["b"] - outputs["b"]), -1
    )


@pytest.mark.parametrize("by", ["compile", "loss_fn"])
def test_a_function_may_take_all_outputs_together(make_trainer, by):
    model = model_of("dict", {"a": 1, "b": 1})
    if by == "compile":
        model.compile(loss=of_both)
    data = (X, {"a": A, "b": B})
    trainer = make_trainer(model=model, eval_dataset=data, loss_fn=None if by == "compile" else of_both)
    outputs = model(X)

    wanted = float(tf.reduce_mean(of_both(data[1], outputs)))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_function_of_one_output_given_to_the_trainer_is_added_up_over_several(make_trainer):
    data = (X, (A, B))
    loss = lambda t, p: tf.reduce_mean(tf.square(t - p), -1)  # noqa: E731
    trainer = make_trainer(model=model_of("list", {"a": 1, "b": 1}), eval_dataset=data, loss_fn=loss)
    outputs = trainer.model(X)

    wanted = sum(float(tf.reduce_mean(tf.square(t - p))) for t, p in zip(data[1], outputs, strict=True))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-5)


def test_labels_of_another_structure_are_described(make_trainer):
    data = (X, {"a": A, "other": B})
    model = model_of("dict", {"a": 1, "b": 1})
    model.compile(loss={"a": "mse", "b": "mse"})

    with pytest.raises(TracksideValueError, match=r"the loss cannot be computed of labels \{'a': float32 \(batch, 1\)"):
        make_trainer(model=model, eval_dataset=data, loss_fn=None).evaluate()


# -- gradients --------------------------------------------------------------------------------------------------------


def argmax_error(labels, outputs):
    return tf.cast(tf.not_equal(tf.cast(labels, tf.int64), tf.argmax(outputs, -1)), tf.float32)


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}])
def test_a_loss_without_a_gradient_is_named(make_trainer, options):
    with pytest.raises(TracksideError, match="the loss argmax_error has no gradient"):
        make_trainer(loss_fn=argmax_error, **options).train()


def test_weight_decay_leaves_a_head_without_a_gradient_alone(make_trainer):
    model = model_of("list", {"a": 1, "b": 1})
    model.compile(loss=["mse", None])
    before = [np.array(variable) for variable in model.trainable_variables]
    make_trainer(model=model, train_dataset=(X, (A, B)), loss_fn=None, weight_decay=0.5, learning_rate=0.1).train()

    moved = [not np.array_equal(*pair) for pair in zip(before, model.trainable_variables, strict=True)]
    assert moved == [True, True, False, False]


def test_minus_100_in_a_joint_loss_is_an_error(make_trainer):
    def joint(labels, outputs):
        return sum(L.sparse_categorical_crossentropy(labels[k], outputs[k], from_logits=True) for k in ("a", "b"))

    x, y = classified(16)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, {name: keras.layers.Dense(3)(inputs) for name in ("a", "b")})
    data = (x, {"a": y, "b": np.where(y == 1, -100, y)})

    with pytest.raises(TracksideValueError, match="a label value of -100, which cannot be left out"):
        make_trainer(model=model, train_dataset=data, loss_fn=joint).train()
