"""What a checkpoint holds on TensorFlow: weights that Keras loads itself, the exact position in the data, RNG."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import mlp, weights_of

from trackside import TrainerCallback
from trackside.trainer.checkpointing.saving import host_buffers
from trackside.trainer.tensorflow import snapshot
from trackside.trainer.tensorflow.weights import model_state

layers = keras.layers


class Block(layers.Layer):
    def __init__(self):
        super().__init__()
        self.dense, self.norm = layers.Dense(6), layers.LayerNormalization()

    def call(self, x):
        return self.norm(self.dense(x)) + x


class Subclassed(keras.Model):
    """Layers in a list, more than ten of them, all with names that Keras gives."""

    def __init__(self):
        super().__init__()
        self.blocks, self.head = [Block() for _ in range(11)], layers.Dense(3)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def sequential():
    return keras.Sequential([layers.Input((6,)), layers.Dense(8), layers.BatchNormalization(), layers.Dense(3)])


def functional():
    inputs = keras.Input((6,))
    steps = layers.Reshape((6, 1))(inputs)
    hidden = layers.MultiHeadAttention(2, 3)(steps, steps)
    return keras.Model(inputs, layers.Dense(3)(layers.Bidirectional(layers.LSTM(3))(hidden)))


SAVES = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 0.01}


@pytest.mark.parametrize(
    ("make_model", "optim"),
    [(sequential, "adafactor"), (functional, "adamw_torch"), (Subclassed, "adamw_torch")],
)
def test_keras_loads_the_weights_and_a_second_model_with_names_of_keras_own_resumes(
    make_trainer, tmp_path, make_model, optim
):
    first = make_trainer(model=make_model(), optim=optim, **SAVES)
    first.train()
    second, alone = make_trainer(model=make_model(), optim=optim, **SAVES), make_model()
    alone(classified(2)[0])

    first.save_model(tmp_path / "saved")
    alone.load_weights(tmp_path / "saved" / "model.weights.h5")
    second.train(resume_from_checkpoint=tmp_path / "out" / "checkpoint-2")

    np.testing.assert_array_equal(weights_of(alone), weights_of(first.model))
    # not to the bit: TensorFlow rewrites the sums of a deep graph in another order in one trace of ten
    np.testing.assert_allclose(weights_of(second.model), weights_of(first.model), atol=1e-5)


class Sees(TrainerCallback):
    """Notes the losses of each step, and ends the run as a kill would."""

    def __init__(self, stop=None):
        self.stop, self.losses = stop, []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.losses.append((state.global_step, logs.get("loss")))

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.stop:
            raise KeyboardInterrupt


def dataset(known):
    data = tf.data.Dataset.from_tensor_slices(classified(43))
    return data if known else data.filter(lambda features, label: True)


CASES = {
    "tf.data": {"train_dataset": dataset(True), "num_train_epochs": 3},
    "tf.data of unknown length": {"train_dataset": dataset(False), "max_steps": 17},
    "float16": {"fp16": True, "num_train_epochs": 3},
    "cosine with warmup": {"lr_scheduler_type": "cosine", "warmup_steps": 4, "num_train_epochs": 3},
    "several updates in one call": {"steps_per_execution": 3, "num_train_epochs": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_takes_the_same_examples_and_random_numbers_to_the_same_weights(make_trainer, tmp_path, case):
    def make(folder, sees):
        options = {"train_dataset": classified(43), "save_steps": 5, "save_strategy": "steps", **CASES[case]}
        return make_trainer(
            model=mlp(dropout=0.3), output_dir=str(tmp_path / folder), callbacks=[sees], logging_steps=1,
            learning_rate=0.01, **options,
        )  # fmt: skip

    whole, resumed = Sees(), Sees()
    first = make("whole", whole)
    first.train()
    with pytest.raises(KeyboardInterrupt):
        make("cut", Sees(stop=8)).train()
    again = make("cut", resumed)
    again.train(resume_from_checkpoint=True)

    assert resumed.losses[:-1] == [pair for pair in whole.losses[:-1] if pair[0] > 5]
    np.testing.assert_array_equal(weights_of(again.model), weights_of(first.model))


def test_a_checkpoint_holds_data_and_no_code(make_trainer, tmp_path):
    make_trainer(model=mlp(dropout=0.3), fp16=True, **SAVES).train()
    folder = tmp_path / "out" / "checkpoint-4"

    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".npz", ".json"}
    np.load(folder / "optimizer.npz", allow_pickle=False)
    state = json.loads((folder / "rng_state_0.json").read_text())
    assert set(state) == {"python", "numpy", "tensorflow", "keras", "model", "draws", "outside"}
    assert len(state["model"]) == 1  # the generator of the dropout layer, which no file of Keras' holds


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize(
    "make", [keras.optimizers.AdamW, keras.optimizers.SGD, keras.optimizers.Ftrl, keras.optimizers.Lion]
)
def test_a_copy_that_is_made_after_the_next_updates_has_the_values_of_the_save(make, is_compiled, monkeypatch):
    monkeypatch.setattr(host_buffers.Copying, "start", lambda copying, threads: None)
    model = keras.Sequential([layers.Input((200,)), layers.Dense(200), layers.BatchNormalization(), layers.Dense(200)])
    optimizer = make(0.1)
    optimizer.build(model.trainable_variables)
    inputs = tf.constant(np.random.default_rng(0).normal(size=(4, 200)), tf.float32)

    @tf.function(jit_compile=is_compiled)
    def update():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(inputs, training=True) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables))

    update()
    values = {**model_state.everything(model), **dict(snapshot.named_variables(optimizer))}
    before = {name: value.numpy() for name, value in values.items()}

    buffers = host_buffers.HostBuffers().lend()
    copies = snapshot.copied({name: model_state.held(value) for name, value in values.items()}, buffers)
    buffers.complete()
    update()
    update()
    large = [name for name, value in before.items() if value.size > 200]
    assert [name for name in large if np.array_equal(before[name], values[name].numpy())] == []
    buffers.wait()

    assert len(buffers._taken) >= 2
    for name, value in before.items():
        np.testing.assert_array_equal(copies[name], value)


def test_an_array_of_a_layer_is_copied_at_once():
    array = np.zeros((300, 300), np.float32)
    buffers = host_buffers.HostBuffers().lend()

    copy = snapshot.copied({"array": array}, buffers)["array"]
    array += 1
    buffers.complete()
    buffers.wait()

    assert not copy.any()


def test_optimizer_variables_come_back_as_they_were(tmp_path):
    weights = [keras.Variable(np.ones(3), dtype="bfloat16", name="half"), keras.Variable(np.ones((300, 300)), name="w")]
    optimizer = keras.optimizers.Adam()
    optimizer.build(weights)
    state = snapshot.as_data(snapshot.optimizer_arrays(optimizer), "optimizer.npz", print)

    snapshot.write_file(state, tmp_path / "optimizer.npz")
    read = snapshot.read_file(tmp_path / "optimizer.npz")

    variables = dict(snapshot.named_variables(optimizer))
    assert read.keys() == variables.keys() == snapshot.optimizer_outline(optimizer).keys()
    for name, variable in variables.items():
        kept = "float32" if variable.dtype == "bfloat16" else variable.dtype
        assert (read[name].dtype, read[name].shape) == (kept, variable.shape)
        np.testing.assert_array_equal(read[name], np.asarray(variable).astype(kept))
    assert sum(snapshot.sizes_of(optimizer)) == sum(np.asarray(variable).nbytes for variable in variables.values())
