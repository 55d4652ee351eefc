"""What a Keras user brings along: sample and class weights, optimizers, overridden methods, layers and inputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.callback_examples import Listens
from support.tf_models import LOSS, mlp, weights_of

from trackside.callbacks.errors import ArgumentError, TracksideValueError

layers = keras.layers
X, Y = classified(20)
WEIGHTS = np.random.default_rng(0).random(20).astype("float32")
ONE_HOT = np.eye(3, dtype="float32")[Y]
STEADY = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "max_steps": 3}
WHOLE = {"per_device_train_batch_size": 20, "per_device_eval_batch_size": 20}


def fitted(labels, loss, *, optimizer=None, **options):
    model = mlp()
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss)
    model.fit(X, labels, batch_size=20, epochs=3, shuffle=False, verbose=0, **options)
    return model


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_dataset", [False, True])
@pytest.mark.parametrize(
    "options", [WHOLE, {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4}], ids=["whole", "parts"]
)
def test_sample_weights_count_as_in_fit(make_trainer, options, as_dataset):
    data = (X, Y, WEIGHTS)
    data = tf.data.Dataset.from_tensor_slices(data) if as_dataset else data
    trainer = make_trainer(train_dataset=data, eval_dataset=data, **{**WHOLE, **options}, **STEADY)
    model = fitted(Y, LOSS, sample_weight=WEIGHTS)

    trainer.train()

    np.testing.assert_allclose(weights_of(trainer.model), weights_of(model), atol=1e-6)
    wanted = model.evaluate(X, Y, sample_weight=WEIGHTS, batch_size=20, verbose=0)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-5)
    assert trainer.predict(data).label_ids.shape == (20,)


@pytest.mark.parametrize("callbacks", [[], [Listens()]], ids=["in one", "in pieces"])
@pytest.mark.parametrize(
    ("labels", "loss"),
    [(Y, LOSS), (Y[:, None], LOSS), (ONE_HOT, keras.losses.CategoricalCrossentropy(from_logits=True))],
)
def test_class_weights_count_as_in_fit_and_in_training_only(make_trainer, labels, loss, callbacks):
    weights = {0: 1.0, 1: 3.0, 2: 0.5}
    trainer = make_trainer(train_dataset=(X, labels), eval_dataset=(X, labels), loss_fn=loss, class_weight=weights,
                           callbacks=callbacks, **WHOLE, **STEADY)  # fmt: skip
    model = fitted(labels, loss, class_weight=weights)

    trainer.train()

    np.testing.assert_allclose(weights_of(trainer.model), weights_of(model), atol=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(
        model.evaluate(X, labels, batch_size=20, verbose=0), rel=1e-5
    )


@pytest.mark.parametrize("given", ["balanced", {0.5: 1.0}, {"cat": 1.0}, {0: "heavy"}], ids=str)
def test_class_weights_that_are_not_numbers_of_classes_and_weights_are_refused(make_trainer, given):
    with pytest.raises(ArgumentError, match=r"class_weight=.* is not allowed: a map from the number of a class"):
        make_trainer(class_weight=given)


@pytest.mark.parametrize("label", [3, -1])
def test_a_weight_of_a_class_that_the_outputs_do_not_have_is_refused(make_trainer, label):
    with pytest.raises(ArgumentError, match="weights of the classes 0 to 2, since the model's outputs have 3"):
        make_trainer(train_dataset=(X, Y), loss_fn=LOSS, class_weight={0: 1.0, label: 2.0}).train()


def test_class_weights_beside_sample_weights_are_refused(make_trainer):
    with pytest.raises(ArgumentError, match=r"class_weight=.*or a dataset with sample weights"):
        make_trainer(train_dataset=(X, Y, WEIGHTS), class_weight={0: 1.0}).train()


# -- optimizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"use_ema": True, "ema_momentum": 0.9}, {"loss_scale_factor": 128.0}, {"clipnorm": 0.1}], ids=str
)
def test_options_of_a_keras_optimizer_work_as_in_fit(make_trainer, options):
    trainer = make_trainer(
        train_dataset=(X, Y), optimizers=(keras.optimizers.SGD(0.1, **options), None), **WHOLE, **STEADY
    )
    model = fitted(Y, LOSS, optimizer=keras.optimizers.SGD(0.1, **options))

    trainer.train()

    np.testing.assert_allclose(weights_of(trainer.model), weights_of(model), atol=1e-6)


# -- methods of the model ---------------------------------------------------------------------------------------------


class Plain(keras.Model):
    def __init__(self):
        super().__init__()
        keras.utils.set_random_seed(0)
        self.dense = layers.Dense(3)

    def call(self, values):
        return self.dense(values)


class Penalizes(Plain):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        own = 10.0 * keras.ops.mean(keras.ops.square(y_pred))
        return super().compute_loss(x, y, y_pred, sample_weight) + own


def test_the_compute_loss_of_a_model_is_called(make_trainer):
    models = [Penalizes(), Penalizes()]
    for model in models:
        model(X)
        model.compile(keras.optimizers.SGD(0.1), LOSS)
    data = (X, Y)
    options = {**WHOLE, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 10}
    trainer = make_trainer(model=models[0], train_dataset=data, eval_dataset=data, loss_fn=None, **options, **STEADY)

    trainer.train()
    models[1].fit(X, Y, batch_size=20, epochs=3, shuffle=False, verbose=0)

    np.testing.assert_allclose(weights_of(models[0]), weights_of(models[1]), atol=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(
        models[1].evaluate(X, Y, batch_size=20, verbose=0), rel=1e-5
    )


class TrainStep(Plain):
    def train_step(self, data):
        return {}


class TestStep(Plain):
    __test__ = False

    def test_step(self, data):
        return {}


class PredictStep(Plain):
    def predict_step(self, data):
        return data


@pytest.mark.parametrize(
    ("cls", "action", "name"),
    [(TrainStep, "train", "train_step"), (TestStep, "evaluate", "test_step"), (PredictStep, "predict", "predict_step")],
)
def test_a_step_of_the_model_that_is_never_called_is_named(make_trainer, cls, action, name):
    trainer = make_trainer(model=cls(), eval_dataset=(X, Y))
    given = (X,) if action == "predict" else ()

    with pytest.raises(TracksideValueError, match=f"{cls.__name__} overrides {name}, which TFTrainer never calls"):
        getattr(trainer, action)(*given)


# -- types and inputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callbacks", [[], [Listens()]], ids=["in one", "in pieces"])
def test_a_model_may_mix_bfloat16_and_float32(make_trainer, callbacks):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, dtype="bfloat16"), layers.Dense(3, dtype="float32")])

    assert np.isfinite(make_trainer(model=model, callbacks=callbacks, max_grad_norm=0.1).train().training_loss)


@pytest.mark.parametrize("flag", ["bf16", "fp16"])
def test_layers_of_strings_and_whole_numbers_keep_their_types(make_trainer, flag):
    words = np.array(["good", "bad", "fair"])[Y][:, None]
    inputs = keras.Input((1,), dtype="string")
    found = layers.StringLookup(vocabulary=["good", "bad", "fair"])(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Embedding(5, 4)(found))))

    assert np.isfinite(make_trainer(model=model, train_dataset=(words, Y), **{flag: True}).train().training_loss)


def test_several_inputs_without_labels_are_nested(make_trainer):
    inputs = keras.Input((2,)), keras.Input((4,))
    trainer = make_trainer(model=keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(list(inputs)))))
    given = ((X[:, :2], X[:, 2:]),)

    for data in (given, tf.data.Dataset.from_tensor_slices(given)):
        assert trainer.predict(data).predictions.shape == (20, 3)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_a_model_in_float64_keeps_its_precision(make_trainer, as_dataset):
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        x = 1e8 + np.arange(20.0)[:, None]
        model = keras.Sequential([keras.Input((1,)), layers.Rescaling(1.0, offset=-1e8), layers.Dense(1)])
        model.compile(loss="mse")
        data = (x, x - 1e8)
        data = tf.data.Dataset.from_tensor_slices(data) if as_dataset else data
        trainer = make_trainer(model=model, train_dataset=data, eval_dataset=data, loss_fn=None, **WHOLE)

        assert trainer.evaluate()["eval_loss"] == pytest.approx(model.evaluate(x, x - 1e8, verbose=0), rel=1e-6)
        assert trainer.predict(data).predictions.dtype == np.float64
        assert np.isfinite(trainer.train().training_loss)
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def test_an_optimizer_of_ones_own_trains_what_was_unfrozen_since_the_last_run(make_trainer):
    model = mlp()
    model.layers[0].trainable = False
    optimizer = keras.optimizers.SGD(0.05)
    trainer = make_trainer(model=model, optimizers=(optimizer, None))
    trainer.train()
    before, iterations = model.layers[0].kernel.numpy().copy(), int(optimizer.iterations)
    model.layers[0].trainable = True

    trainer.train()

    assert not np.array_equal(before, model.layers[0].kernel)
    assert int(optimizer.iterations) == 2 * iterations


# -- what the model keeps and measures itself -------------------------------------------------------------------------


def stateful():
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.Bidirectional(layers.GRU(3, stateful=True)), layers.Dense(3)])


def test_a_stateful_model_without_a_batch_size_is_built_on_a_batch_and_begins_without_states(make_trainer):
    data = (X.reshape(20, 2, 3), Y)
    sizes = {"per_device_train_batch_size": 10, "per_device_eval_batch_size": 5, "logging_steps": 1}
    options = {**STEADY, **sizes, "train_sampling_strategy": "sequential"}
    trainer = make_trainer(model=stateful(), train_dataset=data, **options)
    fitted = stateful()
    fitted.compile(keras.optimizers.SGD(0.1), LOSS)

    trainer.train()

    wanted = [fitted.train_on_batch(*(part[start : start + 10] for part in data)) for start in (0, 10, 0)]
    found = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    with pytest.raises(ArgumentError, match="per_device_eval_batch_size=5 is not allowed: 10, since Sequential takes"):
        trainer.evaluate(data)


class Measures(layers.Layer):
    def __init__(self):
        super().__init__()
        self.size = keras.metrics.MeanAbsoluteError("size")
        self.unused = keras.metrics.Mean("unused")

    def call(self, inputs):
        self.size.update_state(keras.ops.zeros_like(inputs), inputs)
        return inputs


def test_metrics_that_a_layer_updates_are_in_an_evaluation_which_leaves_them_as_they_were(make_trainer):
    measures = Measures()
    model = keras.Sequential([keras.Input((6,)), measures, layers.Dense(3)])
    trainer = make_trainer(model=model, eval_dataset=(X, Y), per_device_eval_batch_size=8)
    measures.size.update_state([0.0], [5.0])

    metrics = [trainer.evaluate(), trainer.evaluate()]

    assert [m["eval_size"] for m in metrics] == pytest.approx([np.abs(X).mean()] * 2, rel=1e-5)
    assert "eval_unused" not in metrics[0]
    assert float(measures.size.result()) == 5.0
