"""Batches of Python code: PyDataset, functions that return generators, iterables; ragged and sparse features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support.arrays import classified
from support.tf_models import LOSS, mlp, tf

from trackside import TFTrainer, TFTrainingArguments
from trackside.callbacks.errors import TracksideTypeError, TracksideValueError
from trackside.trainer.tensorflow.data.factory import make_batches

SIZES = (8, 3, 8, 6)
STARTS = np.cumsum([0, *SIZES])
X, Y = classified(int(STARTS[-1]))


def batch(index: int) -> tuple[Any, Any]:
    rows = slice(STARTS[index], STARTS[index + 1])
    return X[rows], Y[rows]


class Indexed(keras.utils.PyDataset):
    """Batches of several sizes, with noise from numpy and from a generator of its own, and an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []
        self.ends = 0
        self.noise = np.random.default_rng(7)
        self.places = list(range(len(SIZES)))

    def __len__(self) -> int:
        return len(SIZES)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.read.append(index)
        features, labels = batch(self.places[index])
        return features + self.noise.normal() + np.random.normal(), labels

    def on_epoch_end(self) -> None:
        self.ends += 1
        np.random.shuffle(self.places)


def generate() -> Any:
    for index in range(len(SIZES)):
        features, labels = batch(index)
        yield features + np.random.normal(), labels


class Iterable:
    def __iter__(self) -> Any:
        return generate()

    def __len__(self) -> int:
        return len(SIZES)


KINDS = {"PyDataset": Indexed, "function": lambda: generate, "iterable": Iterable}


def trained(folder: Path, dataset: Any, **options: Any) -> TFTrainer:
    resume = options.pop("resume", None)
    values = {"max_steps": 12, "save_steps": 3, "learning_rate": 0.05, "disable_tqdm": True, **options}
    trainer = TFTrainer(mlp(), TFTrainingArguments(str(folder), **values), dataset, loss_fn=LOSS)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("step", [3, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_batches_of_python_code_is_resumed_to_the_bit(tmp_path, kind, step):
    whole = trained(tmp_path / "whole", KINDS[kind]())

    resumed = trained(tmp_path / "resumed", KINDS[kind](), resume=str(tmp_path / "whole" / f"checkpoint-{step}"))

    assert whole.state.global_step == resumed.state.global_step == 12
    for one, two in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_py_dataset_is_read_by_index_in_another_order_in_each_epoch(tmp_path):
    dataset, again = Indexed(), Indexed()

    trained(tmp_path / "a", dataset, max_steps=-1, num_train_epochs=3)
    trained(tmp_path / "b", again, resume=str(tmp_path / "a" / "checkpoint-6"), max_steps=-1, num_train_epochs=3)

    shapes, read = 3, dataset.read[-12:]
    epochs = [read[start : start + 4] for start in (0, 4, 8)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3]] * 3
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert again.read[shapes:] == read[6:]  # what was used before the checkpoint is not read again
    assert dataset.ends == again.ends == 3


def test_the_batches_keep_their_sizes_and_evaluation_reads_them_in_order():
    batches = make_batches(Indexed(), batch_size=5)

    assert [len(pair.labels) for pair in batches.epoch(0)] == list(SIZES)
    assert [len(labels) for _, labels in batches.as_dataset()] == list(SIZES)
    assert batches.num_batches() == 4


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_and_prediction_take_every_batch_once(tmp_path, kind):
    trainer = trained(tmp_path, (X, Y), save_strategy="no")

    assert trainer.predict(KINDS[kind]()).predictions.shape == (sum(SIZES), 3)
    assert trainer.evaluate(lambda: (batch(index) for index in range(4)))["eval_loss"] == pytest.approx(
        trainer.evaluate((X, Y))["eval_loss"], rel=1e-6
    )


def test_sizes_that_differ_among_the_first_batches_may_differ_and_others_are_an_error():
    def lengths(*values: int) -> Any:
        return lambda: (np.ones((2, value), "float32") for value in values)

    varying = make_batches(lengths(3, 5, 4), batch_size=1)
    fixed = make_batches(lengths(3, 3, 4), batch_size=1)

    assert [pair.features.shape[1] for pair in varying.epoch(0)] == [3, 5, 4]
    with pytest.raises(TracksideValueError, match=r"float32 \(2, 4\), and the first ones have float32 \(None, 3\)"):
        list(fixed.epoch(0))


def test_a_function_that_gives_no_batches_is_an_error():
    with pytest.raises(TracksideTypeError, match="returns a generator of batches, not int"):
        make_batches(lambda: 3, batch_size=1)
    with pytest.raises(TracksideTypeError, match="gives batches, and this one gives numbers"):
        make_batches(lambda: iter([1, 2]), batch_size=1)
    with pytest.raises(TracksideValueError, match="gave no batch"):
        make_batches(lambda: iter([]), batch_size=1)


def test_workers_of_a_py_dataset_are_told_to_have_no_effect(caplog):
    dataset = Indexed()
    dataset.workers = 4

    make_batches(dataset, batch_size=1)

    assert "workers and use_multiprocessing have no effect" in caplog.text


# -- ragged and sparse features ---------------------------------------------------------------------------------------

LABELS = np.arange(12) % 3
ROWS = [[1 + index % 4] * (1 + index % 3) for index in range(12)]


def of_ragged() -> tuple[Any, Any]:
    given = keras.Input((None,), dtype="int32", ragged=True)
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(8, 4)(given))
    return keras.Model(given, keras.layers.Dense(3)(pooled)), tf.ragged.constant(ROWS)


def of_sparse() -> tuple[Any, Any]:
    given = keras.Input((6,), sparse=True)
    return keras.Model(given, keras.layers.Dense(3)(given)), tf.sparse.from_dense(np.eye(12, 6, dtype="float32"))


@pytest.mark.parametrize("make", [of_ragged, of_sparse])
@pytest.mark.parametrize("as_dataset", [False, True])
def test_ragged_and_sparse_features_give_the_loss_of_keras(tmp_path, make, as_dataset):
    keras.utils.set_random_seed(0)
    model, features = make()
    model.compile(loss=LOSS)
    dataset = tf.data.Dataset.from_tensor_slices((features, LABELS))
    args = TFTrainingArguments(
        str(tmp_path), num_train_epochs=1, per_device_eval_batch_size=5, save_strategy="no", disable_tqdm=True
    )
    trainer = TFTrainer(model, args, dataset if as_dataset else (features, LABELS))

    trainer.train()

    found = trainer.evaluate(dataset if as_dataset else (features, LABELS))
    assert found["eval_loss"] == pytest.approx(model.evaluate(dataset.batch(5), verbose=0), rel=1e-6)
    assert trainer.trace_counts == {"update": 1, "predict": 1}
