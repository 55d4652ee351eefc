"""Adapters of one trainer share what callbacks in fit share, whatever the form of the run."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras
from support.fit_twice import VALIDATION, Notes, X, Y, assert_same_weights, by_trackside, model, rounded, sgd

from trackside import JournalCallback, KerasCallbackAdapter, TFTrainer, TFTrainingArguments, TrainerCallback
from trackside.testing.tiny_trainer import tiny_data, tiny_trainer

C = keras.callbacks


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_hooks_and_logs_are_the_same_on_both_trainers(framework):
    notes = Notes()
    trainer = tiny_trainer(framework, "out", [KerasCallbackAdapter(notes)], logging_steps=1)

    trainer.train()

    batches = [call for call in notes.seen if call[0] == "train_batch_end"]
    ends = [call for call in notes.seen if call[0] == "epoch_end"]
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert [call[1] for call in batches] == [*range(6), *range(6)]
    assert batches[0][2]["loss"] == pytest.approx(losses[0])
    for epoch, (_, number, logs) in enumerate(ends):
        assert number == epoch
        assert logs["loss"] == pytest.approx(np.mean(losses[6 * epoch : 6 * epoch + 6]))
        assert set(logs) == {"loss", "val_loss", "val_accuracy"}
    assert notes.seen[0] == ("train_begin", {"verbose": 0, "epochs": 2, "steps": 6})
    assert notes.seen[-1] == ("train_end", ends[-1][2])


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_limits_shorten_the_steps_that_keras_is_told(framework):
    notes, limits = Notes(), {"limit_train_batches": 5, "limit_eval_batches": 1, "gradient_accumulation_steps": 2}
    trainer = tiny_trainer(framework, "out", [KerasCallbackAdapter(notes)], **limits)

    trainer.train()
    in_run = notes.params
    trainer.evaluate()

    assert (in_run["steps"], notes.params["steps"]) == (3, 1)


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_loss_that_is_not_a_number_ends_the_run_of_either_trainer(framework):
    trainer = tiny_trainer(
        framework, "out", [KerasCallbackAdapter(C.TerminateOnNaN())], learning_rate=1e38, max_grad_norm=0.0
    )

    trainer.train()

    assert trainer.state.global_step < 12
    assert trainer.state.stop_reason == "TerminateOnNaN of Keras asked for it"


@pytest.mark.parametrize("options", [{"steps_per_execution": 3}, {"gradient_accumulation_steps": 3}], ids=str)
def test_the_logs_of_epochs_do_not_depend_on_how_updates_run(options):
    def train(**options):
        history, best = C.History(), C.ModelCheckpoint("{epoch}.weights.h5", save_weights_only=True)
        trainer = TFTrainer(
            model(),
            TFTrainingArguments("out", num_train_epochs=2, eval_strategy="epoch", save_strategy="no", **options),
            train_dataset=(X, Y),
            eval_dataset=VALIDATION,
            loss_fn="mse",
            callbacks=[KerasCallbackAdapter(history), KerasCallbackAdapter(best)],
        )
        trainer.train()
        saved = model()
        saved.load_weights("2.weights.h5")
        assert_same_weights(saved, trainer.model)
        return history.history

    size = 4 // options.get("gradient_accumulation_steps", 1) or 1
    plain = train(per_device_train_batch_size=4 if size == 4 else 3)
    other = train(per_device_train_batch_size=4 if size == 4 else 1, **options)

    for name, values in plain.items():
        assert other[name] == pytest.approx(values, rel=1e-4)


def test_a_compiled_model_has_the_trainers_optimizer_during_the_run_and_its_own_after_it():
    given = model()
    given.compile(optimizer="adam", loss="mse", metrics=["mae"])
    own, seen = given.optimizer, []
    callback = C.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(callback.model.optimizer))
    trainer = TFTrainer(
        given,
        TFTrainingArguments("out", num_train_epochs=1, save_strategy="no"),
        train_dataset=(X, Y),
        callbacks=[KerasCallbackAdapter(callback)],
    )

    trainer.train()

    assert callback.model is given
    assert seen == [trainer.optimizer]
    assert given.optimizer is own
    assert len(given.evaluate(X, Y, verbose=0)) == 2


def test_what_one_callback_adds_to_the_logs_those_after_it_see():
    class Adds(C.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["own"] = epoch

    before, after = C.History(), C.History()
    by_trackside(before, Adds(), after, epochs=2)

    assert "own" not in before.history
    assert after.history["own"] == [0, 1]


def test_an_observer_that_fails_ends_no_run_and_no_other_callback():
    class Fails(C.Callback):
        def on_test_end(self, logs=None):
            raise OSError("disk full")

    notes = Notes()
    trainer = tiny_trainer("tensorflow", "out", [KerasCallbackAdapter(notes)])
    trainer.add_callback(KerasCallbackAdapter(Fails()), role="observer")

    trainer.train()

    assert trainer.state.global_step == 12
    assert trainer.callback_report["keras_Fails"].failures == 2
    assert sum(call[0] == "epoch_end" for call in notes.seen) == 2


def test_evaluations_and_predictions_outside_of_a_run_have_their_hooks():
    class Predicts(Notes):
        def on_predict_begin(self, logs=None):
            self.seen.append(("predict_begin", self.params["epochs"]))

        def on_predict_batch_end(self, batch, logs=None):
            self.seen.append(("predict_batch_end", batch, {"shape": np.shape(logs["outputs"])}))

        def on_predict_end(self, logs=None):
            self.seen.append(("predict_end",))

    notes = Predicts()
    trainer = tiny_trainer("tensorflow", "out", [KerasCallbackAdapter(notes)])
    for _ in range(2):  # before and after training
        notes.seen.clear()
        metrics = trainer.evaluate()
        calls = rounded(notes.seen)
        batches = [(f"test_batch_{part}", n) for n in range(6) for part in ("begin", "end")]
        assert [call[:2] for call in calls[1:-1]] == batches
        assert calls[-1] == ("test_end", {k: round(metrics[f"eval_{k}"], 4) for k in ("accuracy", "loss")})
        assert calls[-2][2]["loss"] == pytest.approx(metrics["eval_loss"], abs=1e-3)
        notes.seen.clear()
        trainer.predict(trainer.eval_dataset)
        ends = [("predict_batch_end", n, {"shape": (4, 3)}) for n in range(6)]
        assert notes.seen == [("predict_begin", 1), *ends, ("predict_end",)]
        trainer.train()


def test_an_evaluation_by_steps_is_in_the_logs_of_its_epoch_only():
    notes = Notes()
    tiny_trainer(
        "tensorflow", "out", [KerasCallbackAdapter(notes)], eval_strategy="steps", eval_steps=9, num_train_epochs=3
    ).train()

    logs = [set(call[2]) for call in notes.seen if call[0] == "epoch_end"]
    assert logs == [{"loss"}, {"loss", "val_loss", "val_accuracy"}, {"loss", "val_loss", "val_accuracy"}]


def test_an_exception_ends_the_run_without_on_train_end_as_in_fit():
    class Dies(Notes):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("killed")

    dies = Dies()

    with pytest.raises(RuntimeError, match="killed"):
        by_trackside(dies, epochs=2)
    assert "train_end" not in {call[0] for call in dies.seen}


def test_a_rate_that_a_callback_sets_replaces_a_schedule_and_is_told(caplog):
    class Sets(C.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.optimizer.learning_rate = 0.125

    trainer = by_trackside(Sets(), epochs=3, optimizer=sgd(0.1), lr_scheduler_type="linear", logging_steps=1)

    rates = [record["learning_rate"] for record in trainer.state.log_history if "learning_rate" in record]
    assert rates[:3] == pytest.approx([0.1, 0.1 * 8 / 9, 0.1 * 7 / 9])
    assert rates[3:] == [0.125] * 6
    assert "Sets of Keras has set the learning rate to 0.125, which holds from now on" in caplog.text


def test_a_replay_calls_keras_callbacks():
    from trackside.callbacks.replay import replay

    tiny_trainer("tensorflow", "out", [JournalCallback()]).train()
    history = C.History()

    replay("out/journal.jsonl", [KerasCallbackAdapter(history)])

    assert history.epoch == [0, 1]
    assert set(history.history) == {"loss", "val_loss", "val_accuracy"}


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_keras_is_told_the_steps_of_the_data_that_is_given(framework):
    steps = []

    class Steps(C.Callback):
        def on_test_begin(self, logs=None):
            steps.append(self.params["steps"])

        on_predict_begin = on_test_begin

    trainer = tiny_trainer(framework, "out", [KerasCallbackAdapter(Steps())], limit_eval_batches=4)
    features, classes = tiny_data()
    few = (features[:10], classes[:10])
    if framework == "pytorch":
        import torch

        few = torch.utils.data.TensorDataset(*map(torch.tensor, few))

    trainer.predict(few)
    trainer.evaluate()
    trainer.evaluate({"few": few, "all": trainer.eval_dataset})
    trainer.train()
    trainer.predict(few)

    assert [steps[0], steps[1], steps[2], steps[-1]] == [3, 4, 7, 3]


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_removed_callback_leaves_the_model_and_tells_what_is_not_done(framework, caplog):
    class Closes(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            raise AssertionError

    class Remove(TrainerCallback):
        def on_step_end(self, args, state, control, trainer=None, **kwargs):
            for adapter in (first, closes, last) if state.global_step == 2 else ():
                trainer.remove_callback(adapter)

    first, closes, last = map(KerasCallbackAdapter, (keras.callbacks.Callback(), Closes(), keras.callbacks.Callback()))
    trainer = tiny_trainer(framework, "out", [first, closes, last, Remove()])
    before = dict(vars(trainer.model))

    trainer.train()

    assert vars(trainer.model).keys() - before.keys() <= {"_compiled_trainable_state"}
    assert getattr(trainer.model, "optimizer", None) is before.get("optimizer")
    told = [record.args[0] for record in caplog.records if "its on_train_end" in record.msg]
    assert told == ["Closes"]
