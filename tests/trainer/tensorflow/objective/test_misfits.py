"""Names and numbers of features, labels, weights, losses and metrics that a model does not have are told."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from trackside import TracksideError

layers = keras.layers
GENERATOR = np.random.default_rng(0)
FEATURES = GENERATOR.normal(size=(24, 6)).astype("float32")
NUMBERS = GENERATOR.normal(size=(24, 1)).astype("float32")
CLASSES = GENERATOR.integers(0, 3, 24)
LABELS = {"age": NUMBERS, "kind": CLASSES}
LOSS = {"age": "mse", "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
OUTPUTS = r"which is not an output of the model: 'age', 'kind'\."
ONE = np.ones(24, "float32")


def named():
    inputs = keras.Input((6,))
    return keras.Model(inputs, {"age": layers.Dense(1)(inputs), "kind": layers.Dense(3)(inputs)})


def listed():
    inputs = keras.Input((6,))
    return keras.Model(inputs, [layers.Dense(1, name="age")(inputs), layers.Dense(3, name="kind")(inputs)])


def single():
    return keras.Sequential([keras.Input((6,), name="row"), layers.Dense(1, name="age")])


def functional():
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(1, name="age")(inputs))


def joined():
    inputs = {name: keras.Input((3,), name=name) for name in ("left", "right")}
    return keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(list(inputs.values()))))


def test_features_that_the_model_leaves_out_are_told(make_trainer, caplog):
    model = joined()
    data = {"left": FEATURES[:, :3], "right": FEATURES[:, 3:], "sample_weight": ONE, "labels": NUMBERS}

    make_trainer(model=model, train_dataset=data, loss_fn="mse", max_steps=1).train()

    assert (
        "the features 'sample_weight' of the dataset are left out, since the model takes 'left', 'right'" in caplog.text
    )


def test_features_of_other_names_are_not_told_as_left_out_before_their_error(make_trainer, caplog):
    with pytest.raises(TracksideError, match="have no feature 'row'"):
        make_trainer(model=single(), train_dataset=({"rows": FEATURES}, NUMBERS), loss_fn="mse", max_steps=1).train()

    assert "left out" not in caplog.text


def test_arrays_named_as_the_inputs_are_one_dataset_and_other_names_are_those_of_datasets(make_trainer):
    data = {"left": FEATURES[:, :3], "right": FEATURES[:, 3:]}
    trainer = make_trainer(model=joined(), loss_fn="mse")

    assert "eval_runtime" in trainer.evaluate(data)
    metrics = trainer.evaluate({"left": (data, NUMBERS), "right": (data, NUMBERS)})
    assert metrics["eval_left_loss"] == metrics["eval_right_loss"]


PARTS = {"left": FEATURES[:, :3], "rihgt": FEATURES[:, 3:]}
WRONG = {
    "label": (
        named,
        (FEATURES, {"age": NUMBERS, "knd": CLASSES}),
        {"loss": LOSS},
        f"labels has 'knd', {OUTPUTS} Did.* 'kind'",
    ),
    "label of a list": (
        listed,
        (FEATURES, {"age": NUMBERS, "knd": CLASSES}),
        {"loss": LOSS},
        f"labels has 'knd', {OUTPUTS}",
    ),
    "label of one output": (
        single,
        (FEATURES, {"aeg": NUMBERS}),
        {"loss": "mse"},
        "labels has names, .*aeg.* and the model has one output",
    ),
    "label of a named output": (
        functional,
        (FEATURES, {"aeg": NUMBERS}),
        {"loss": "mse"},
        "labels has 'aeg', .* 'age'",
    ),
    "no label": (named, (FEATURES, {"age": NUMBERS}), {"loss": LOSS}, "labels has nothing for the output 'kind'"),
    "three labels": (
        listed,
        (FEATURES, (NUMBERS, CLASSES, CLASSES)),
        {"loss": list(LOSS.values())},
        "labels has 3 parts",
    ),
    "one label": (
        named,
        (FEATURES, CLASSES),
        {"loss": LOSS},
        "labels is one tensor, and the model has 2 outputs: 'age'",
    ),
    "weight": (
        named,
        (FEATURES, LABELS, {"age": ONE, "knd": ONE}),
        {"loss": LOSS},
        f"sample_weight has 'knd', {OUTPUTS}",
    ),
    "no weight": (named, (FEATURES, LABELS, {"age": ONE}), {"loss": LOSS}, "sample_weight has nothing for .* 'kind'"),
    "loss": (named, (FEATURES, LABELS), {"loss": {"age": "mse", "knd": "mse"}}, f"loss has 'knd', {OUTPUTS}"),
    "one loss": (listed, (FEATURES, (NUMBERS, CLASSES)), {"loss": ["mse"]}, "loss has 1 parts, and the model has 2"),
    "metric": (named, (FEATURES, LABELS), {"loss": LOSS, "metrics": {"knd": "mae"}}, f"metrics has 'knd', {OUTPUTS}"),
    "loss weight": (
        named,
        (FEATURES, LABELS),
        {"loss": LOSS, "loss_weights": {"age": 1.0, "knd": 2.0}},
        r"loss_weights=.* is not allowed: a weight for each of 'age', 'kind'\. Did you mean 'kind'\?",
    ),
    "feature": (
        joined,
        (PARTS, NUMBERS),
        {"loss": "mse"},
        r"The examples have no feature 'right'\. Did you mean 'rihgt'\?",
    ),
    "only feature": (
        single,
        ({"rows": FEATURES}, NUMBERS),
        {"loss": "mse"},
        r"The examples have no feature 'row'\. Did .* 'rows'\? A model of one input also takes the tensor itself",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_name_or_a_number_that_the_model_does_not_have_is_told_with_the_nearest(make_trainer, case):
    make, data, options, message = WRONG[case]
    model = make()
    model.compile(**options)

    with pytest.raises(TracksideError, match=message):
        make_trainer(model=model, train_dataset=data, loss_fn=None, max_steps=1).evaluate(data)
