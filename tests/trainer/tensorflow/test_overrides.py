"""Each method that the reference documentation lets a subclass of TFTrainer override is heeded: its effect is seen."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.callback_examples import Listens
from support.tf_models import weights_of

from trackside import TFTrainer
from trackside.callbacks.errors import TracksideValueError

STEADY = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def rows(prediction):
    return {"rows": float(len(prediction.label_ids))}


def moved(trainer):
    """Return how far training moved the weights."""
    before = weights_of(trainer.model)
    trainer.train()
    return weights_of(trainer.model) - before


# -- data -------------------------------------------------------------------------------------------------------------


def batches_of(examples, size):
    return tf.data.Dataset.from_tensor_slices(classified(examples)).batch(size)


class OwnData(TFTrainer):
    def get_train_tfdataset(self):
        return batches_of(12, 5)

    def get_eval_tfdataset(self, eval_dataset=None):
        return batches_of(7, 3)

    def get_test_tfdataset(self, test_dataset):
        return batches_of(test_dataset, 4)


def test_datasets_of_ones_own_are_trained_on_evaluated_and_predicted(make_trainer):
    trainer = make_trainer(OwnData, train_dataset=None, compute_metrics=rows, num_train_epochs=2)
    seen = []
    trainer.on("on_prediction_step")(lambda sender, **kwargs: seen.append(1))

    assert trainer.train().global_step == 6  # batches of 5, 5 and 2
    assert trainer.evaluate()["eval_rows"] == 7
    assert len(seen) == 3
    assert trainer.predict(9).predictions.shape == (9, 3)


def test_a_dataset_of_ones_own_may_hand_on_what_the_trainers_gives(make_trainer):
    class Shifted(TFTrainer):
        def get_train_tfdataset(self):
            return super().get_train_tfdataset().map(lambda features, labels: (features * 0.0, labels))

    changed = moved(make_trainer(Shifted, **STEADY))

    assert (changed[:96] == 0).all()  # nothing reaches the first kernel but zeros
    assert (changed != 0).any()


# -- loss -------------------------------------------------------------------------------------------------------------


class TripledRun(TFTrainer):
    def run_model(self, features, labels, training):
        loss, logits = super().run_model(features, labels, training)
        return loss * 3.0, logits


class TripledLoss(TFTrainer):
    def compute_loss(self, labels, logits):
        return super().compute_loss(labels, logits) * 3.0


@pytest.mark.parametrize("callbacks", [[], [Listens()]], ids=["in one", "in pieces"])
@pytest.mark.parametrize("cls", [TripledRun, TripledLoss])
def test_the_loss_of_run_model_and_compute_loss_counts_in_training_and_evaluation(make_trainer, cls, callbacks):
    options = {**STEADY, "max_steps": 1, "logging_steps": 1, "eval_dataset": classified(9), "callbacks": callbacks}
    plain, own = make_trainer(**options), make_trainer(cls, **options)

    assert own.evaluate()["eval_loss"] == pytest.approx(3 * plain.evaluate()["eval_loss"], rel=1e-5)
    np.testing.assert_allclose(moved(own), 3 * moved(plain), rtol=1e-4, atol=1e-6)
    assert own.state.log_history[0]["loss"] == pytest.approx(3 * plain.state.log_history[0]["loss"], rel=1e-5)


def test_a_loss_of_ones_own_needs_no_other(make_trainer):
    class Seven(TFTrainer):
        def compute_loss(self, labels, logits):
            return tf.reduce_sum(logits, -1) * 0.0 + 7.0

    assert make_trainer(Seven, loss_fn=None, eval_dataset=classified(9)).evaluate()["eval_loss"] == 7.0


# -- gradients --------------------------------------------------------------------------------------------------------


class Doubled(TFTrainer):
    def training_step(self, features, labels, nb_instances_in_global_batch):
        gradients = super().training_step(features, labels, nb_instances_in_global_batch)
        return [gradient * 2.0 for gradient in gradients]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("callbacks", [[], [Listens()]], ids=["in one", "in pieces"])
def test_the_gradients_of_training_step_are_those_of_the_update(make_trainer, callbacks, accumulation):
    options = {**STEADY, "max_steps": 1, "callbacks": callbacks, "gradient_accumulation_steps": accumulation}

    twice, once = moved(make_trainer(Doubled, **options)), moved(make_trainer(**options))

    np.testing.assert_allclose(twice, 2 * once, rtol=1e-4, atol=1e-6)


class ByHand(TFTrainer):
    def training_step(self, features, labels, nb_instances_in_global_batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.compute_loss(labels, self.model(features, training=True)))
        gradients = tape.gradient(loss, [variable.value for variable in self.model.trainable_variables])
        return (gradients, loss) if self.with_loss else gradients


@pytest.mark.parametrize("callbacks", [[], [Listens()]], ids=["in one", "in pieces"])
def test_gradients_of_ones_own_come_with_the_mean_loss_of_their_micro_batch(make_trainer, callbacks):
    ByHand.with_loss = True
    options = {**STEADY, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "max_steps": 2}
    options |= {"callbacks": callbacks, "logging_steps": 1}  # of 40 examples: micro-batches of 16, 16 and 8
    own, plain = make_trainer(ByHand, **options), make_trainer(**options)

    np.testing.assert_allclose(moved(own), moved(plain), rtol=1e-4, atol=1e-6)
    losses = [[record.get("loss") for record in each.state.log_history[:2]] for each in (own, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_gradients_of_ones_own_without_a_loss_are_told(make_trainer):
    ByHand.with_loss = False

    with pytest.raises(
        TypeError, match=r"ByHand.training_step\(\) has no loss: return a pair, the gradients of the mean"
    ):
        make_trainer(ByHand, max_steps=1).train()


class Frozen(TFTrainer):
    """Looks at the gradients, and leaves the first layer as it is."""

    def apply_gradients(self, features, labels, nb_instances_in_global_batch):
        before = [tf.identity(variable.value) for variable in self.model.trainable_variables[:2]]
        super().apply_gradients(features, labels, nb_instances_in_global_batch)
        for variable, value in zip(self.model.trainable_variables[:2], before, strict=True):
            variable.assign(value)


class Reports(TFTrainer):
    def distributed_training_steps(self, batch):
        loss, norm, skipped = super().distributed_training_steps(batch)
        return loss + 100.0, norm, skipped


@pytest.mark.parametrize("accumulation", [1, 2])
def test_apply_gradients_steps_the_optimizer_in_its_own_way(make_trainer, accumulation):
    changed = moved(make_trainer(Frozen, **STEADY, gradient_accumulation_steps=accumulation))

    assert (changed[:112] == 0).all()
    assert (changed[112:] != 0).any()


def test_what_distributed_training_steps_returns_is_logged(make_trainer):
    options = {"max_steps": 2, "logging_steps": 1}
    plain, own = make_trainer(**options), make_trainer(Reports, **options)

    plain.train()
    own.train()

    losses = [[record["loss"] for record in trainer.state.log_history[:2]] for trainer in (plain, own)]
    assert losses[1] == pytest.approx([loss + 100 for loss in losses[0]], rel=1e-6)


@pytest.mark.parametrize("cls", [Frozen, Reports])
def test_an_update_of_ones_own_is_in_one_piece_and_whoever_listens_inside_is_named(make_trainer, cls):
    with pytest.raises(TracksideValueError, match=r"in one piece, but callbacks listen to on_pre_optimizer_step\."):
        make_trainer(cls, callbacks=[Listens()]).train()


# -- evaluation -------------------------------------------------------------------------------------------------------


def test_the_logits_of_prediction_step_are_the_predictions(make_trainer):
    class Shifts(TFTrainer):
        def prediction_step(self, features, labels, nb_instances_in_global_batch):
            return super().prediction_step(features, labels, nb_instances_in_global_batch) + 1.0

    data = classified(9)
    seen = []
    own = make_trainer(Shifts, eval_dataset=data, compute_metrics=lambda p: seen.append(p.predictions) or {})

    expected = make_trainer().predict(data).predictions + 1.0
    own.evaluate()

    np.testing.assert_allclose(own.predict(data).predictions, expected, rtol=1e-6)
    np.testing.assert_allclose(seen[0], expected, rtol=1e-6)


def test_what_distributed_prediction_steps_returns_is_reported(make_trainer):
    class Halves(TFTrainer):
        def distributed_prediction_steps(self, batch):
            losses, weights, logits = super().distributed_prediction_steps(batch)
            return [loss / 2 for loss in losses], weights, [part * 0.0 for part in logits]

    data = classified(9)
    plain, own = make_trainer(eval_dataset=data), make_trainer(Halves, eval_dataset=data)

    assert own.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"] / 2, rel=1e-6)
    assert (own.predict(data).predictions == 0).all()


def test_prediction_loop_serves_evaluate_and_predict(make_trainer):
    class Adds(TFTrainer):
        def prediction_loop(self, *args, **kwargs):
            output = super().prediction_loop(*args, **kwargs)
            output.metrics["mine"] = 1.0
            return output

    trainer = make_trainer(Adds, eval_dataset=classified(9))

    assert trainer.evaluate()["mine"] == 1.0
    assert trainer.predict(classified(9)).metrics["mine"] == 1.0


def test_an_overridden_predict_is_what_is_called(make_trainer):
    class Best(TFTrainer):
        def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test"):
            output = super().predict(test_dataset, ignore_keys, metric_key_prefix)
            return output._replace(predictions=output.predictions.argmax(-1))

    assert make_trainer(Best).predict(classified(9)).predictions.shape == (9,)


# -- log, optimizer and schedule --------------------------------------------------------------------------------------


def test_an_overridden_log_adds_to_every_record(make_trainer):
    class Adds(TFTrainer):
        def log(self, logs, start_time=None):
            super().log({**logs, "mine": 1.0}, start_time)

    trainer = make_trainer(Adds, eval_dataset=classified(9), logging_steps=5, eval_strategy="epoch")

    trainer.train()

    assert {record.get("mine") for record in trainer.state.log_history} == {1.0}


class SetsBoth(TFTrainer):
    def create_optimizer_and_scheduler(self, num_training_steps):
        self.optimizer = keras.optimizers.SGD(1.0)
        self.lr_scheduler = None
        self.create_scheduler(num_training_steps)


class ReturnsEach(TFTrainer):
    def create_optimizer(self):
        return keras.optimizers.SGD(1.0)

    def create_scheduler(self, num_training_steps, optimizer=None):
        from trackside.trainer.tensorflow.optim.factory import Schedule

        return Schedule(lambda step: 1.0 - step / num_training_steps)


@pytest.mark.parametrize("cls", [SetsBoth, ReturnsEach])
def test_optimizer_and_schedule_of_ones_own_are_taken_whether_set_or_returned(make_trainer, cls):
    trainer = make_trainer(cls, max_steps=4, logging_steps=1)

    trainer.train()

    assert isinstance(trainer.optimizer, keras.optimizers.SGD)
    assert [record["learning_rate"] for record in trainer.state.log_history[:4]] == [1.0, 0.75, 0.5, 0.25]


def test_a_method_of_the_other_trainer_is_never_called_and_says_so(make_trainer):
    class Elsewhere(TFTrainer):
        def get_train_dataloader(self):
            raise AssertionError

    with pytest.warns(UserWarning, match="get_train_dataloader is never called: override get_train_tfdataset"):
        make_trainer(Elsewhere)
