"""What a user of TFTrainer gets wrong comes back as one sentence: what was given, what is needed, and what to do."""

from __future__ import annotations

import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import LOSS, mlp, run_alone

from trackside import TFTrainer, TrainingArguments
from trackside.callbacks.errors import ArgumentError, TracksideError, TracksideTypeError, TracksideValueError

layers = keras.layers
X, Y = classified(20)


class Returns(keras.Model):
    """Called with labels, it returns no loss."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, features, labels=None):
        return self.dense(features)


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


class Endless(keras.utils.PyDataset):
    def __getitem__(self, index):
        return X, Y


DATA = {
    "a list": ([X, Y], "pair of arrays.*not list. Write a pair as a tuple"),
    "a list of examples": ([*zip(X, Y, strict=True)], r"not list of examples one by one.*tuple\(map\(np.stack, zip\("),
    "a tuple of examples": ((*zip(X, Y, strict=True),), "not tuple of examples one by one"),
    "examples by name": ([{"x": x} for x in X], r"one by one. Stack them: {name: np.stack\(\[example\[name\]"),
    "examples by number": (dict(enumerate(X)), r"not dict of examples one by one. Stack them: np.stack\(examples\)"),
    "several datasets": ({"a": batches(), "b": batches()}, r"not dict of several datasets.* such as dataset\['a'\]"),
    "a single value": ((X, 3), "a part of the dataset is a single value"),
    "a generator": ((pair for pair in [(X, Y)]), "pair of arrays.*not generator. It can be read only once"),
    "four parts": ((X, Y, np.ones(20), np.ones(20)), "not 4 parts"),
    "arrays of different lengths": ((X, Y[:10]), r"lengths: \[10, 20\] \(features 20; labels 10\)"),
    "too few weights": ((X, Y, np.ones(5)), r"lengths: \[5, 20\] \(features 20; labels 20; sample_weight 5\)"),
    "nothing": ((X[:0], Y[:0]), "it is empty"),
    "batches": (batches(), "unbatch"),
    "batches behind a map": (batches().map(lambda features, labels: (features, labels)), "unbatch"),
    "batches in a cache": (batches().map(lambda features, labels: (features, labels)).cache().prefetch(2), "unbatch"),
    "zipped batches": (tf.data.Dataset.zip((batches().map(lambda x, y: x), batches().map(lambda x, y: y))), "unbatch"),
    "windows": (tf.data.Dataset.from_tensor_slices((X, Y)).window(2), r"holds a dataset, as window\(\) makes it"),
    "another width": ((X[:, :4], Y), r"Sequential cannot be called .*\(batch, 4\); it takes .*\(batch, 6\)"),
    "features by name": (({"x": X}, Y), r"\{'x': float32 \(batch, 6\)\}; it takes float32 \(batch, 6\)"),
    "text": ((np.array(["a"] * 20), Y), r"string \(batch\)"),
    "labels of two columns": ((X, np.stack([Y, Y], 1)), r"labels int64 \(batch, 2\) and outputs float32 \(batch, 3\)"),
    "labels beyond the classes": ((X, Y + 5), r"a label value of \d which is outside the valid range of \[0, 3\)"),
    "no labels": (X, "no labels in the training batches"),
    "no length": (Endless(), r"Endless has no length: give it __len__\(\), or num_batches=None"),
}


def test_sequences_that_a_batch_made_are_examples_and_told(make_trainer, caplog):
    sequences = tf.data.Dataset.range(50).batch(5, drop_remainder=True).map(lambda ids: (ids[:-1] % 7, ids[1:] % 7))
    model = keras.Sequential([keras.Input((4,)), layers.Embedding(7, 4), layers.Dense(7)])

    make_trainer(model=model, train_dataset=sequences, num_train_epochs=1).train()

    assert "is taken as one example, though it looks like a batch" in caplog.text


@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_trained_on_is_described_without_a_deep_traceback(make_trainer, name):
    data, message = DATA[name]

    with pytest.raises(TracksideError, match=message) as caught:
        make_trainer(train_dataset=data).train()

    assert len(traceback.extract_tb(caught.value.__traceback__)) < 16
    assert caught.value.__cause__ is None


def test_predicting_on_features_of_another_width_says_which(make_trainer):
    with pytest.raises(TracksideValueError, match=r"\(batch, 4\); it takes float32 \(batch, 6\)"):
        make_trainer().predict((X[:, :4], Y))


@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}], ids=str)
@pytest.mark.parametrize("known", [True, False])
def test_examples_of_different_shapes_are_to_be_padded(make_trainer, known, options):
    def sequences():
        yield from ((np.ones(length, np.int64), np.ones(length, np.int64)) for length in (3, 5, 2, 6) * 4)

    spec = tf.TensorSpec((None,), tf.int64)
    data = tf.data.Dataset.from_generator(sequences, output_signature=(spec, spec))
    data = data.apply(tf.data.experimental.assert_cardinality(16)) if known else data
    model = keras.Sequential([keras.Input((None,)), layers.Embedding(7, 4), layers.Dense(7)])
    trainer = make_trainer(model=model, train_dataset=data, eval_dataset=data, max_steps=2, **options)

    for action in (trainer.train, trainer.evaluate):
        with pytest.raises(TracksideValueError, match=r"shapes, such as \[\d\] and \[\d\].* pad them by Dataset"):
            action()


class Joins(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(keras.ops.concatenate(list(inputs)))


def joining():
    inputs = [keras.Input((6,)), keras.Input((6,))]
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(inputs)))


@pytest.mark.parametrize("make", [Joins, joining])
def test_two_inputs_where_features_and_labels_are_expected_are_to_be_nested(make_trainer, make):
    model = make()
    model((X, X))

    with pytest.raises(TracksideValueError, match=r"so nest several inputs: \(\(a, b\), labels\), or \(\(a, b\),\)"):
        make_trainer(model=model).predict((X, X))


def test_examples_and_batches_of_unknown_shape_are_told(make_trainer):
    def unknown(features, labels):
        return tf.py_function(lambda *pair: pair, [features, labels], [tf.float32, tf.int64])

    class Own(TFTrainer):
        def get_train_tfdataset(self):
            return batches().map(unknown)

    examples = tf.data.Dataset.from_tensor_slices((X, Y)).map(unknown)
    for trainer in (make_trainer(train_dataset=examples), make_trainer(cls=Own)):
        with pytest.raises(
            TracksideValueError, match=r"float32 of unknown shape; it takes .*Name the shapes by output_s"
        ):
            trainer.train()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (None, "Sequential has no loss: compile it with one, give TFTrainer loss_fn="),
        ("crossentropi", "loss_fn='crossentropi' is not allowed.*Did you mean 'binary_crossentropy'"),
        (3, "loss_fn is a Keras loss, its name or a function, not int"),
        (keras.losses.MeanSquaredError, "an instance of a Keras loss, not the class: MeanSquaredError"),
    ],
)
def test_a_loss_that_is_none_is_named(make_trainer, loss, message):
    with pytest.raises(TracksideError, match=message):
        make_trainer(loss_fn=loss).train()


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (8, {}, "per_device_train_batch_size=8 is not allowed: 4, since Sequential takes batches of 4 examples only"),
        (4, {}, "the last of 10 examples has 2: dataloader_drop_last=True leaves it out"),
        (4, {"dataloader_drop_last": True}, "the last of 10 examples has 2: give a dataset without it, as by take"),
    ],
)
def test_batches_of_another_size_than_the_model_has_are_told_before_training(make_trainer, size, options, message):
    model = keras.Sequential([keras.Input(batch_shape=(4, 2, 3)), layers.GRU(3, stateful=True)])
    data = (np.ones((10, 2, 3), np.float32), np.zeros(10, np.int64))
    options = {**options, "per_device_train_batch_size": size, "per_device_eval_batch_size": 4}
    trainer = make_trainer(model=model, train_dataset=data, eval_dataset=data, num_train_epochs=1, **options)

    with pytest.raises(ValueError, match=message):
        trainer.evaluate() if options.get("dataloader_drop_last") and trainer.train() else trainer.train()


def test_a_class_is_not_taken_for_a_model(make_trainer):
    with pytest.raises(TracksideTypeError, match="it got type Sequential, which is not an instance"):
        make_trainer(model=keras.Sequential)


def test_a_compiled_loss_is_not_smoothed_and_says_so(make_trainer):
    model = mlp()
    model.compile(loss=LOSS)

    with pytest.raises(ArgumentError, match=r"label_smoothing_factor=0\.1 is not allowed: 0 beside the loss that the"):
        make_trainer(model=model, loss_fn=None, label_smoothing_factor=0.1).train()


def test_a_model_that_takes_labels_and_returns_no_loss_is_told(make_trainer):
    with pytest.raises(TracksideValueError, match=r"called with labels= and returned .*, not \(loss, logits\)"):
        make_trainer(model=Returns(), loss_fn=None).train()


def test_an_error_of_the_users_own_keeps_its_traceback(make_trainer):
    class Broken(Returns):
        def call(self, features):
            raise ValueError("a fault inside the model")

    def loss_fn(labels, logits):
        return labels["nothing of that name"]

    with pytest.raises(ValueError, match="a fault inside the model"):
        make_trainer(model=Broken()).train()
    with pytest.raises(TracksideValueError, match="the loss cannot be computed") as caught:
        make_trainer(loss_fn=loss_fn).train()
    assert "loss_fn" in [frame.name for frame in traceback.extract_tb(caught.value.__cause__.__traceback__)]


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer")
def test_an_optimizer_of_several_is_refused_by_name(make_trainer):
    parts = keras.optimizers.OptimizerMap(keras.optimizers.SGD(), {"head/.*": keras.optimizers.Adam()})

    with pytest.raises(TracksideTypeError, match="MultiOptimizer has no learning rate of its own"):
        make_trainer(optimizers=(keras.optimizers.MultiOptimizer(parts), None))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (keras.optimizers.SGD, "optimizers has the class SGD; give an instance of it"),
        ("sgd", "optimizers needs a Keras optimizer, such as"),
        (object(), "optimizers needs a Keras optimizer, such as"),
    ],
)
def test_an_optimizer_that_is_none_is_named_when_the_trainer_is_made(make_trainer, given, message):
    with pytest.raises(TracksideTypeError, match=message):
        make_trainer(optimizers=(given, None))


def test_arguments_of_the_other_framework_are_refused():
    pytest.importorskip("torch")

    with pytest.raises(TracksideTypeError, match="args needs TFTrainingArguments; it got TrainingArguments"):
        TFTrainer(mlp(), TrainingArguments("out"))


def test_torch_is_told_apart_from_keras(make_trainer):
    torch = pytest.importorskip("torch")

    with pytest.raises(TracksideTypeError, match=r"loss_fn is a Keras loss.*not CrossEntropyLoss"):
        make_trainer(loss_fn=torch.nn.CrossEntropyLoss()).train()
    with pytest.raises(TracksideTypeError, match="needs model, a Keras model, or model_init; it got Linear"):
        make_trainer(model=torch.nn.Linear(6, 3))
    with pytest.raises(TracksideTypeError, match=r"pair of arrays.*not TensorDataset"):
        make_trainer(train_dataset=torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))).train()


def test_torch_tensors_on_the_host_are_arrays_like_others(make_trainer):
    torch = pytest.importorskip("torch")
    plain, given = make_trainer(), make_trainer(train_dataset=tuple(map(torch.from_numpy, classified(40))))

    assert given.train().training_loss == plain.train().training_loss


def test_a_model_that_is_not_built_yet_is_built_on_the_first_batch(make_trainer):
    model = Returns()

    assert make_trainer(model=model).predict(X).predictions.shape == (20, 3)
    assert model.built


def test_an_empty_set_cannot_build_a_model(make_trainer):
    with pytest.raises(TracksideValueError, match="the dataset is empty"):
        make_trainer(model=Returns()).predict((X[:0], Y[:0]))


def test_evaluation_without_a_set_asks_for_one(make_trainer):
    with pytest.raises(ArgumentError, match=r"evaluate\(\) needs an evaluation dataset"):
        make_trainer().evaluate()


# -- the TPU ----------------------------------------------------------------------------------------------------------

SILENT = """
import socket
from trackside.trainer.tensorflow.distributed.tpu import tpu_strategy
server = socket.create_server(("127.0.0.1", 0))
try:
    tpu_strategy(f"grpc://127.0.0.1:{server.getsockname()[1]}", wait_s=1)
except ValueError as error:
    print(error)
"""
LOCAL = """
from trackside import TFTrainingArguments
try:
    TFTrainingArguments("out", tpu_name="local").strategy
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "why"),
    [(SILENT, "nothing answered within 1 seconds"), (LOCAL, "TPUs not found in the cluster")],
    ids=["silent", "local"],
)
def test_a_tpu_that_is_not_there_is_an_error_and_no_endless_wait(code, why):
    said = run_alone(code)

    assert "is not allowed: the name or grpc:// address of a TPU" in said
    assert why in said
