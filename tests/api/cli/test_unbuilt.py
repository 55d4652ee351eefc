"""Keras models of configuration files are trained, evaluated and predicted by the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trackside.cli.main import main

PARTS = """\
import keras
import numpy as np


def unbuilt():
    return keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])


def data(rows=16, seed=0):
    features = np.random.default_rng(seed).normal(size=(rows, 4)).astype("float32")
    return features, features[:, :3].argmax(-1)
"""
RUN = """\
framework: tensorflow
model: unbuilt_parts.unbuilt
train_data: {class_path: unbuilt_parts.data}
eval_data: {class_path: unbuilt_parts.data, init_args: {seed: 1}}
test_data: {class_path: unbuilt_parts.data, init_args: {rows: 10, seed: 2}}
loss_fn: {class_path: keras.losses.SparseCategoricalCrossentropy, init_args: {from_logits: true}}
args: {output_dir: out, num_train_epochs: 1, disable_tqdm: true, save_strategy: "no"}
"""


def test_a_model_that_is_not_built_is_built_on_the_data_at_hand(write_module, capsys):
    pytest.importorskip("tensorflow")
    write_module("unbuilt_parts", PARTS)
    Path("run.yaml").write_text(RUN)

    assert main(["train", "run.yaml"]) == 0
    assert main(["evaluate", "run.yaml"]) == 0
    assert main(["evaluate", "run.yaml", "--split", "test"]) == 0
    assert main(["predict", "run.yaml"]) == 0

    with np.load("out/predictions.npz") as arrays:
        assert arrays["predictions"].shape == (10, 3)


FORMS = """\
import keras
import numpy as np
import tensorflow as tf


def compiled():
    inputs = keras.Input((4,))
    outputs = {"a": keras.layers.Dense(3, name="a")(inputs), "b": keras.layers.Dense(1, name="b")(inputs)}
    model = keras.Model(inputs, outputs)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss={"a": entropy, "b": "mse"}, loss_weights={"a": 1.0, "b": 0.5})
    return model


def data(rows=16, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, {"a": x[:, :3].argmax(-1), "b": x[:, :1]}))
"""
OF_FORMS = """\
framework: tensorflow
model: keras_forms.compiled
train_data: {class_path: keras_forms.data}
eval_data:
  near: {class_path: keras_forms.data, init_args: {seed: 1}}
  far: {class_path: keras_forms.data, init_args: {seed: 2, rows: 5}}
callbacks:
  logger:
    class_path: trackside.KerasCallbackAdapter
    init_args: {callback: {class_path: keras.callbacks.CSVLogger, init_args: {filename: keras.csv}}}
args: {output_dir: out, num_train_epochs: 2, disable_tqdm: true, save_strategy: "no", eval_strategy: epoch}
"""


def test_a_compiled_model_datasets_by_name_and_callbacks_of_keras_are_those_of_the_file(write_module, capsys):
    pytest.importorskip("tensorflow")
    write_module("keras_forms", FORMS)
    Path("run.yaml").write_text(OF_FORMS)
    Path("wrong.yaml").write_text(OF_FORMS + "loss_fn: keras.losses.MeanSquaredErrr\n")

    assert main(["train", "run.yaml"]) == 0
    capsys.readouterr()
    assert main(["train", "wrong.yaml"]) != 0

    rows = Path("keras.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1"]
    assert "Did you mean 'MeanSquaredError'" in capsys.readouterr().err
