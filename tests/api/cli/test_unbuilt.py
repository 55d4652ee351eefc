"""A Keras model that has no weights before it is called is trained, evaluated and predicted by the command line."""

from __future__ import annotations

import sys
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


def test_a_model_that_is_not_built_is_built_on_the_data_at_hand(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "unbuilt_parts", raising=False)
    Path("unbuilt_parts.py").write_text(PARTS)
    Path("run.yaml").write_text(RUN)

    assert main(["train", "run.yaml"]) == 0
    assert main(["evaluate", "run.yaml"]) == 0
    assert main(["evaluate", "run.yaml", "--split", "test"]) == 0
    assert main(["predict", "run.yaml"]) == 0

    with np.load("out/predictions.npz") as arrays:
        assert arrays["predictions"].shape == (10, 3)
