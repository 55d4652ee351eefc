"""Guess the module of a docstring of Python's standard library, from its words.

    python examples/gallery/docstrings_tf.py

TensorFlow, with a tf.data.Dataset, words in an embedding that masks the padding, and a metric for each module.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import random
import re

import keras
import numpy as np
import tensorflow as tf
from picture import run

from trackside import EarlyStoppingCallback, TFTrainer, TFTrainingArguments

MODULES = ("argparse", "inspect", "random", "socket", "zipfile")
WORDS = 400


def texts():
    for number, module in enumerate(MODULES):
        for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(module)))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                yield re.findall(r"[a-z]+", text.lower())[:40], number


found = list(texts())
random.Random(0).shuffle(found)
frequent = sorted({word for words, _ in found for word in words}, key=lambda w: (-sum(w in t for t, _ in found), w))
codes = {word: code for code, word in enumerate(frequent[: WORDS - 1], start=1)}
padded = np.zeros((len(found), 40), "int32")
for row, (words, _) in zip(padded, found, strict=True):
    known = [codes[word] for word in words if word in codes]
    row[: len(known)] = known
labels = np.array([number for _, number in found])
cut = len(found) * 3 // 4
train_data = tf.data.Dataset.from_tensor_slices((padded[:cut], labels[:cut]))
eval_data = tf.data.Dataset.from_tensor_slices((padded[cut:], labels[cut:]))


def metrics(prediction):
    right = prediction.predictions.argmax(-1) == prediction.label_ids
    each = {name: float(right[prediction.label_ids == code].mean()) for code, name in enumerate(MODULES)}
    return {"accuracy": float(right.mean()), **each}


def train(folder, max_steps=-1):
    keras.utils.set_random_seed(0)
    embed = keras.layers.Embedding(WORDS, 24, mask_zero=True)
    model = keras.Sequential([keras.Input((40,)), embed, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(5)])
    args = TFTrainingArguments(
        folder,
        max_steps=max_steps,
        num_train_epochs=40,
        learning_rate=1e-2,
        per_device_train_batch_size=16,
        eval_strategy="epoch",
        save_strategy="no",
        overwrite_output_dir=True,
    )
    trainer = TFTrainer(
        model,
        args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        loss_fn=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        compute_metrics=metrics,
        callbacks=[EarlyStoppingCallback(6, metric="accuracy")],
    )
    trainer.train()
    return trainer


def draw(trainer, figure):
    values = trainer.evaluate()
    axes = figure.subplots()
    axes.barh(MODULES, [values[f"eval_{name}"] for name in MODULES])
    axes.set(title="docstrings, found by module", xlim=(0, 1))


if __name__ == "__main__":
    run("docstrings_tf", train, draw)
