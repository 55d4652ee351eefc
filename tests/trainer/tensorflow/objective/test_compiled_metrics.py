"""Compiled metrics of an evaluation are those of ``Model.evaluate``, under its names."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.fake_group import FakeGroup
from support.tf_models import LOSS, mlp, run_alone

from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.tensorflow.objective.compiled_metrics import CompiledMetrics

layers, metrics = keras.layers, keras.metrics
X, Y = classified(20)
ONE_HOT = np.eye(3, dtype="float32")[Y]
WEIGHTS = np.random.default_rng(0).random(20).astype("float32")
SIZES = {"per_device_eval_batch_size": 8}


def check_as_evaluate(make_trainer, model, data, *, data_after=None, **options):
    """Evaluate twice, after other data in between, and compare with Keras; return what Keras gives."""
    trainer = make_trainer(model=model, eval_dataset=data, loss_fn=None, **{**SIZES, **options})
    found = [trainer.evaluate(), trainer.evaluate(data_after or tuple(part[:3] for part in data)), trainer.evaluate()]

    weights = {"sample_weight": data[2]} if len(data) > 2 else {}
    wanted = model.evaluate(data[0], data[1], batch_size=8, return_dict=True, verbose=0, **weights)

    for name in wanted.keys() - {"loss", "kind_loss", "size_loss"}:
        value = np.asarray(wanted[name])
        np.testing.assert_allclose(found[0][f"eval_{name}"], value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(found[2][f"eval_{name}"], value, rtol=1e-5, err_msg=name)
    if "kind_loss" in wanted:  # the means of Keras are those of its batches
        assert found[0]["eval_kind_loss"] + found[0]["eval_size_loss"] == pytest.approx(found[0]["eval_loss"])
    assert found[1] != found[0]
    return wanted


def test_metrics_by_name_function_and_instance_with_and_without_weights(make_trainer):
    def own(labels, outputs):
        return keras.ops.mean(keras.ops.abs(outputs), axis=-1)

    model = mlp()
    model.compile(
        loss=LOSS, metrics=["accuracy", own, metrics.SparseTopKCategoricalAccuracy(2)], weighted_metrics=["accuracy"]
    )

    wanted = check_as_evaluate(make_trainer, model, (X, Y, WEIGHTS))

    assert wanted.keys() == {"loss", "accuracy", "own", "sparse_top_k_categorical_accuracy", "weighted_accuracy"}


def test_metrics_that_make_their_variables_at_the_first_batch_or_have_several_values(make_trainer):
    model = mlp()
    model.compile(
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[metrics.F1Score(), metrics.AUC(from_logits=True), metrics.R2Score(), metrics.OneHotMeanIoU(3)],
    )

    wanted = check_as_evaluate(make_trainer, model, (X, ONE_HOT))

    assert np.shape(wanted["f1_score"]) == (3,)


def two_tasks():
    inputs = keras.Input((6,))
    return keras.Model(inputs, {"kind": layers.Dense(3, name="kind")(inputs), "size": layers.Dense(1)(inputs)})


@pytest.mark.parametrize(
    "given", [{"kind": ["accuracy"], "size": ["mae", "mse"]}, [["accuracy"], ["mae"]], {"size": "mae"}], ids=str
)
def test_metrics_of_several_outputs(make_trainer, given):
    model, labels = two_tasks(), {"kind": Y, "size": X[:, :1]}
    model.compile(loss={"kind": LOSS, "size": "mse"}, metrics=given)
    after = (X[:3], {name: part[:3] for name, part in labels.items()})

    check_as_evaluate(make_trainer, model, (X, labels), data_after=after)


def test_weighted_metrics_leave_out_what_is_masked(make_trainer):
    words = np.random.default_rng(0).integers(1, 9, (20, 5))
    words[:, 3:] *= np.arange(20)[:, None] % 2
    inputs = keras.Input((None,), dtype="int64")
    model = keras.Model(inputs, layers.Dense(3)(layers.Embedding(9, 4, mask_zero=True)(inputs)))
    model.compile(loss=LOSS, weighted_metrics=["accuracy"])

    check_as_evaluate(make_trainer, model, (words, words % 3, np.ones((20, 5), "float32")))


def test_the_best_model_is_that_of_a_compiled_metric_and_a_prediction_has_them_too(make_trainer):
    model = mlp()
    model.compile(loss=LOSS, metrics=["accuracy"])
    trainer = make_trainer(
        model=model, eval_dataset=(X, Y), loss_fn=None, eval_strategy="epoch", save_strategy="epoch",
        num_train_epochs=3, load_best_model_at_end=True, metric_for_best_model="accuracy",
        compute_metrics=lambda prediction: {"rows": len(prediction.predictions)},
    )  # fmt: skip

    trainer.train()

    best = max(record["eval_accuracy"] for record in trainer.state.log_history if "eval_accuracy" in record)
    assert trainer.state.best_metric == best
    found = trainer.predict((X, Y)).metrics
    assert found["test_accuracy"] == pytest.approx(best)
    assert found["test_rows"] == 20
    assert "test_accuracy" not in trainer.predict((X,)).metrics


class Computes(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, values):
        return self.dense(values)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {}


def test_an_overridden_compute_metrics_of_the_model_is_told_once(make_trainer, caplog):
    trainer = make_trainer(model=Computes(), eval_dataset=(X, Y))

    trainer.evaluate()
    trainer.evaluate()

    assert caplog.text.count("Computes overrides compute_metrics of Keras, which is not called here") == 1


def test_metrics_that_do_not_fit_the_labels_are_described(make_trainer):
    model = two_tasks()
    model.compile(loss={"kind": LOSS, "size": "mse"}, metrics={"kinds": "accuracy"})
    trainer = make_trainer(model=model, eval_dataset=(X, {"kind": Y, "size": X[:, :1]}), loss_fn=None)

    with pytest.raises(TracksideValueError, match=r"compiled metrics cannot be computed of labels \{'kind': int64"):
        trainer.evaluate()


def test_metrics_of_another_compilation_are_those_of_the_next_evaluation(make_trainer):
    model = mlp()
    model.compile(loss=LOSS, metrics=["accuracy"])
    trainer = make_trainer(model=model, eval_dataset=(X, Y), loss_fn=None)
    trainer.evaluate()
    assert trainer.trace_counts == {"predict": 1}

    model.compile(loss=LOSS, metrics=[metrics.SparseTopKCategoricalAccuracy(2, name="top")])

    assert {"eval_top"} == {name for name in trainer.evaluate() if name in ("eval_top", "eval_accuracy")}


REPLICAS = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from support.arrays import classified
from support.tf_models import LOSS
from trackside import TFTrainer, TFTrainingArguments

class Noise(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.size = keras.metrics.Mean("size")

    def call(self, values, training=False):
        self.size.update_state(values)
        return values + keras.random.normal(keras.ops.shape(values)) if training else values

args = TFTrainingArguments("out", num_train_epochs=2, per_device_train_batch_size=2, per_device_eval_batch_size=2,
                           save_strategy="no", disable_tqdm=True, report_to="none")
x, y = classified(13)
weights = np.arange(13, dtype="float32")
with args.strategy.scope():
    model = keras.Sequential([keras.Input((6,)), Noise(), keras.layers.Dense(3)])
    top = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")
    model.compile(loss=LOSS, metrics=["accuracy", top], weighted_metrics=["accuracy"])
data = (x, y, weights)
trainer = TFTrainer(model, args, train_dataset=data, eval_dataset=data)
trainer.train()
found = [trainer.evaluate(), trainer.evaluate()]
logits = model(x).numpy()
hits, second = logits.argmax(-1) == y, (logits.argsort(-1)[:, 1:] == y[:, None]).any(-1)
weighted = (hits * weights).sum() / 78
wanted = {"eval_size": x.mean()}
wanted |= {"eval_accuracy": hits.mean(), "eval_top": second.mean(), "eval_weighted_accuracy": weighted}
print(args.n_replicas, all(abs(metrics[name] - value) < 1e-6 for metrics in found for name, value in wanted.items()))
"""


@pytest.mark.slow
def test_two_replicas_of_odd_rows_give_the_metrics_of_one_and_draw_random_numbers_of_keras():
    assert run_alone(REPLICAS).splitlines()[-1] == "2 True"


class Peak(metrics.Metric):
    """A maximum, which is kept as an average over replicas, or as Keras' default, a sum."""

    def __init__(self, how, **options):
        super().__init__(**options)
        self.value = self.add_variable((), "zeros", aggregation=how, name="value")

    def update_state(self, labels, outputs, sample_weight=None):
        self.value.assign(keras.ops.maximum(self.value, keras.ops.max(outputs)))

    def result(self):
        return self.value


def test_processes_join_each_variable_as_it_says_and_own_metrics_that_are_added_up_are_told(caplog):
    kinds = ["sum", "mean", "only_first_replica"]

    def on_rank(collectives):
        model = mlp()
        model.compile(loss=LOSS, metrics=["accuracy", *(Peak(how, name=how) for how in kinds)])
        found = CompiledMetrics()
        found.begin(model, collectives)
        rank, found.has_batches = collectives.rank, True
        found.update(tf.constant([0, rank]), tf.constant([[1.0 + rank, 0.0, 0.0]] * 2), None)
        return {name: float(value) for name, value in found.results(collectives).items()}

    results = FakeGroup(2).run(on_rank)

    assert results == [{"accuracy": 0.75, "sum": 3.0, "mean": 1.5, "only_first_replica": 1.0}] * 2
    assert caplog.text.count("variables of the compiled metric mean (Peak) are added up over 2 processes") == 1
    assert "metric accuracy" not in caplog.text
