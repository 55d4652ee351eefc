"""Several updates in one call read their data inside the call; they are the same updates on the same data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import LOSS, mlp, weights_of

from trackside import TrainerCallback

ROWS = 75  # nine batches of 8, and one of 3


def from_arrays() -> Any:
    return classified(ROWS)


def from_dataset() -> Any:
    return tf.data.Dataset.from_tensor_slices(from_arrays())


def of_unknown_length() -> Any:
    return from_dataset().filter(lambda features, label: True)


SOURCES = {
    "arrays": from_arrays,
    "tf.data": from_dataset,
    "dict with labels": lambda: from_dataset().map(lambda features, label: {"x": features, "labels": label}),
    "unknown length": of_unknown_length,
    "endless": lambda: from_dataset().repeat(),
}


def model_of(source: str) -> Any:
    if source != "dict with labels":
        return mlp(dropout=0.3)
    inputs = {"x": keras.Input((6,), name="x")}
    return keras.Model(inputs, mlp(dropout=0.3)(inputs["x"]))


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("source", SOURCES)
def test_they_are_the_same_updates(make_trainer, source, accumulation):
    options = {"max_steps": 23, "logging_steps": 7, "gradient_accumulation_steps": accumulation}

    def trained(size: int) -> Any:
        data = SOURCES[source]()
        trainer = make_trainer(model=model_of(source), train_dataset=data, steps_per_execution=size, **options)
        trainer.train()
        return trainer

    single, several = trained(1), trained(4)

    assert several.trace_counts["updates"] == 1
    np.testing.assert_allclose(weights_of(several.model), weights_of(single.model), atol=1e-6)
    losses = [[r["loss"] for r in trainer.state.log_history if "loss" in r] for trainer in (single, several)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert several.state.epoch == single.state.epoch


class Stops(TrainerCallback):
    """Ends the process, as it were, after some updates; looks at the model at every fifth."""

    def __init__(self, step: int | None = None) -> None:
        self.step = step
        self.weights: list[Any] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(weights_of(model))
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("source", ["arrays", "tf.data", "unknown length"])
def test_a_resumed_run_is_the_same_to_the_bit(make_trainer, tmp_path, source):
    def make(folder: str, stops: Any) -> Any:
        trainer = make_trainer(
            model=mlp(dropout=0.3), train_dataset=SOURCES[source](), output_dir=str(tmp_path / folder), max_steps=26,
            save_strategy="steps", save_steps=7, logging_strategy="no", steps_per_execution=3,
        )  # fmt: skip
        trainer.add_callback(stops, every=5)
        return trainer

    whole, resumed = Stops(), Stops()
    first, again = make("whole", whole), make("cut", resumed)
    first.train()
    with pytest.raises(KeyboardInterrupt):
        make("cut", Stops(20)).train()
    again.train(resume_from_checkpoint=True)

    assert len(resumed.weights) == 3  # after 15, 20 and 25 updates: the checkpoint is that of step 14
    np.testing.assert_array_equal(resumed.weights, whole.weights[2:])
    np.testing.assert_array_equal(weights_of(again.model), weights_of(first.model))


@pytest.mark.parametrize("source", ["arrays", "tf.data"])
def test_updates_that_a_failed_run_left_are_not_done_by_the_next(make_trainer, source):
    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    options = {"steps_per_execution": 5, "max_steps": 8}
    failing = make_trainer(train_dataset=SOURCES[source](), **options)
    failing.add_callback(Fails(), every=3)
    before = weights_of(failing.model)
    failing._engine.train_step.queue.size = 9  # nothing is done before the callback of step 3
    with pytest.raises(KeyboardInterrupt):
        failing.train()
    done_before = weights_of(failing.model)
    failing.pop_callback(Fails)
    fresh = make_trainer(train_dataset=SOURCES[source](), **options)

    failing.model.set_weights(fresh.model.get_weights())
    failing.train()
    fresh.train()

    assert not np.array_equal(done_before, before)
    np.testing.assert_allclose(weights_of(failing.model), weights_of(fresh.model), atol=1e-6)


def test_lengths_that_vary_are_read_without_another_trace(make_trainer):
    lengths = np.random.default_rng(0).integers(2, 9, 64)

    def batches() -> Any:
        rows = tf.data.Dataset.from_tensor_slices(lengths).map(lambda n: (tf.range(n), n % 3))
        return rows.apply(tf.data.experimental.assert_cardinality(64)).ragged_batch(1)

    def padded() -> Any:
        return batches().map(lambda row, label: (row.to_tensor(shape=[1, None])[0], label[0]))

    def model() -> Any:
        keras.utils.set_random_seed(0)
        layers = keras.layers
        head = [layers.GlobalAveragePooling1D(), layers.Dense(3)]
        return keras.Sequential([keras.Input((None,), dtype="int32"), layers.Embedding(9, 4), *head])

    def trained(size: int) -> Any:
        trainer = make_trainer(
            model=model(), train_dataset=padded(), loss_fn=LOSS, per_device_train_batch_size=1, max_steps=40,
            steps_per_execution=size,
        )  # fmt: skip
        trainer.train()
        return trainer

    single, several = trained(1), trained(8)

    assert (single.trace_counts, several.trace_counts) == ({"update": 1}, {"updates": 1})
    np.testing.assert_allclose(weights_of(several.model), weights_of(single.model), atol=1e-6)


def test_tokens_are_counted_without_reading_them(make_trainer):
    ids = np.arange(75 * 5, dtype=np.int32).reshape(75, 5) % 9
    data = {"input_ids": ids}, np.arange(75) % 3

    def trained(dataset: Any) -> int:
        inputs = {"input_ids": keras.Input((5,), dtype="int32", name="input_ids")}
        hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(inputs["input_ids"]))
        model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
        trainer = make_trainer(model=model, train_dataset=dataset, max_steps=20, steps_per_execution=4)
        trainer.train()
        return trainer.state.num_input_tokens_seen

    dataset = tf.data.Dataset.from_tensor_slices(data)

    unknown = dataset.filter(lambda *_: True)
    assert [trained(given) for given in (data, dataset, unknown)] == [2 * 75 * 5] * 3


@pytest.mark.parametrize("source", ["arrays", "tf.data"])
def test_xla_compiles_each_update_of_several(make_trainer, source):
    def trained(**options: Any) -> Any:
        trainer = make_trainer(train_dataset=SOURCES[source](), max_steps=13, **options)
        trainer.train()
        return weights_of(trainer.model)

    plain = trained()
    np.testing.assert_allclose(trained(xla=True, steps_per_execution=4), plain, atol=1e-5)
    np.testing.assert_allclose(trained(xla=True), plain, atol=1e-5)
