"""Early stopping and the best model judge the same values, each by its own metric and direction, also when resumed."""

from __future__ import annotations

import logging

import pytest
from support.callback_examples import Counts

from trackside import EarlyStoppingCallback, TrainerCallback
from trackside.callbacks.errors import ArgumentError, UnknownMetricError

BY_STEPS = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 8}


def values_of(step):
    """Metrics of the real set: one rises, one falls with every step."""
    return {"acc": 0.5 + 0.01 * step, "err": 100.0 - step}


def made(factory, *callbacks, small=None, cls=None, **options):
    """Return a trainer whose metrics follow its step; an evaluation of 5 examples has those of ``small``."""
    held = {}

    def metrics(prediction):
        return small if len(prediction.label_ids) == 5 else values_of(held["trainer"].state.global_step)

    held["trainer"] = trainer = factory(
        cls,
        callbacks=list(callbacks),
        compute_metrics=metrics,
        eval_dataset=factory.dataset(8),
        **{**BY_STEPS, **options},
    )
    return trainer


def resumed(factory, first, second):
    """Train four steps with ``first``, resume to the eighth with ``second``; each is (callbacks, options)."""
    made(factory, *first[0], **{**first[1], "max_steps": 4, "lr_scheduler_type": "constant"}).train()
    trainer = made(factory, *second[0], **{"lr_scheduler_type": "constant", **second[1]})
    trainer.train(resume_from_checkpoint=True)
    return trainer


def stop(metric, greater=None, patience=2, **options):
    return EarlyStoppingCallback(patience, metric=metric, greater_is_better=greater, **options)


@pytest.mark.parametrize("name", ["err", "eval_err", None])
@pytest.mark.parametrize("of_args", ["err", "eval_err"])
def test_a_metric_has_one_direction_however_it_is_written(trainer_factory, name, of_args):
    trainer = made(
        trainer_factory,
        stop(name, patience=1),
        metric_for_best_model=of_args,
        greater_is_better=False,
        save_strategy="no",
    )

    trainer.train()

    assert trainer.state.global_step == 8
    assert trainer.state.best_metric == 92.0


def test_a_resumed_run_that_watches_another_metric_counts_anew_and_says_so(trainer_factory, caplog):
    trainer = resumed(trainer_factory, ([stop("acc", True)], {}), ([stop("err", False)], {}))

    assert trainer.state.global_step == 8
    assert "the callback 'early_stopping' begins anew" in caplog.text
    assert "eval_acc" in caplog.text


def test_so_does_one_that_watches_it_in_the_other_direction(trainer_factory, caplog):
    trainer = resumed(trainer_factory, ([stop("err", False)], {}), ([stop("err", True, patience=3)], {}))

    # 95 is the best after resuming, and not 96 from before
    assert trainer.state.stop_reason == "eval_err has not improved on 95, 3 times in a row, up to step 8"
    assert "begins anew" in caplog.text


def test_a_metric_written_in_another_way_is_the_same(trainer_factory, caplog):
    trainer = resumed(trainer_factory, ([stop("acc", False, 6)], {}), ([stop("eval_acc", False, 6)], {}))

    assert trainer.state.stop_reason == "eval_acc has not improved on 0.51, 6 times in a row, up to step 7"
    assert "begins anew" not in caplog.text


def test_two_of_a_class_keep_their_own_states_in_another_order(trainer_factory, caplog):
    def both(order):
        each = {"acc": stop("acc", True), "err": stop("err", False), "worse": stop("err", True, patience=6)}
        return [each[name] for name in order]

    trainer = resumed(trainer_factory, (both(["acc", "err", "worse"]), {}), (both(["worse", "err", "acc"]), {}))

    assert trainer.state.stop_reason == "eval_err has not improved on 99, 6 times in a row, up to step 7"
    assert "begins anew" not in caplog.text


class CountsOtherwise(Counts):
    """Another class of the same name."""


@pytest.mark.parametrize(("cls", "count"), [(Counts, 8), (CountsOtherwise, 4)])
def test_the_state_of_another_class_under_the_name_is_not_restored(trainer_factory, caplog, cls, count):
    second = cls()

    resumed(trainer_factory, ([Counts()], {}), ([second], {}))

    assert second.count == count
    assert ("'counter' begins anew: its state in the checkpoint is of the class Counts" in caplog.text) is (count == 4)


def test_a_checkpoint_without_classes_and_metrics_is_restored_as_before(trainer_factory):
    callback = stop("acc", True)
    trainer = trainer_factory(callbacks=[callback])

    trainer._dispatcher.load_state_dicts({"early_stopping": {"best": 0.7, "early_stopping_patience_counter": 1}})

    assert (callback.best, callback.early_stopping_patience_counter) == (0.7, 1)


@pytest.mark.parametrize(("metric", "greater"), [("err", False), ("acc", False)])
def test_the_best_of_another_metric_is_not_the_best(trainer_factory, caplog, metric, greater):
    best = {"load_best_model_at_end": True}
    trainer = resumed(
        trainer_factory,
        ([], {**best, "metric_for_best_model": "acc"}),
        ([], {**best, "metric_for_best_model": metric, "greater_is_better": greater}),
    )

    step = 8 if metric == "err" else 5
    assert trainer.state.best_metric == pytest.approx(values_of(step)[metric])
    assert trainer.state.best_global_step == step
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{step}")
    assert "the best so far, 0.54 at step 4, was of eval_acc (greater is better)" in caplog.text


def test_the_best_of_the_same_metric_stays(trainer_factory, caplog):
    best = {"load_best_model_at_end": True, "greater_is_better": False}
    trainer = resumed(
        trainer_factory,
        ([], {**best, "metric_for_best_model": "acc"}),
        ([], {**best, "metric_for_best_model": "eval_acc"}),
    )

    assert trainer.state.best_global_step == 1
    assert "begins anew" not in caplog.text


def test_a_plateau_of_another_metric_begins_anew(trainer_factory):
    plateau = {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 1},
        "learning_rate": 0.1,
    }

    def with_metric(name):
        return ([], {**plateau, "metric_for_best_model": name, "greater_is_better": False})

    made(trainer_factory, **{**with_metric("err")[1], "max_steps": 4}).train()
    other = made(trainer_factory, **{**with_metric("loss")[1], "max_steps": 5})
    other.train(resume_from_checkpoint=True)

    assert other.lr_scheduler.best == pytest.approx(other.state.log_history[-2]["eval_loss"])
    assert other.state.best_metric == other.lr_scheduler.best


class AlsoSmall(TrainerCallback):
    """Evaluates another set, by the same names or under a prefix."""

    def __init__(self, factory, prefix="eval", event="on_step_end"):
        self.factory, self.prefix = factory, prefix
        setattr(self, event, self.evaluate)

    def evaluate(self, args, state, control, trainer=None, **kwargs):
        trainer.evaluate(self.factory.dataset(5), metric_key_prefix=self.prefix)


@pytest.mark.parametrize("event", ["on_step_end", "on_prediction_step"])
def test_an_evaluation_of_something_else_is_not_judged(trainer_factory, event):
    seen = []
    if event == "on_prediction_step":

        class Once(AlsoSmall):
            is_within = False

            def evaluate(self, args, state, control, **kwargs):
                if not self.is_within:
                    self.is_within = True
                    super().evaluate(args, state, control, **kwargs)
                    self.is_within = False
    else:
        Once = AlsoSmall
    trainer = made(
        trainer_factory, stop(None), Once(trainer_factory, event=event), small={"err": 0.0, "acc": 1.0},
        metric_for_best_model="err", greater_is_better=False, save_strategy="no", max_steps=4,
    )  # fmt: skip
    trainer.on("on_evaluate")(lambda sender, metrics, scheduled, **_: seen.append((metrics["eval_err"], scheduled)))

    trainer.train()

    assert trainer.state.global_step == 4
    assert trainer.state.best_metric == 96.0
    assert [value for value, scheduled in seen if scheduled] == [99.0, 98.0, 97.0, 96.0]
    assert [value for value, scheduled in seen if not scheduled] == [0.0] * 4


def test_any_logged_metric_is_judged_if_it_is_asked_for_by_name(trainer_factory):
    trainer = made(
        trainer_factory, stop("eval_small_err", False), AlsoSmall(trainer_factory, "eval_small"), small={"err": 1.0}
    )

    trainer.train()

    assert trainer.state.stop_reason == "eval_small_err has not improved on 1, 2 times in a row, up to step 3"


def test_a_name_in_both_kinds_of_records_is_that_of_the_evaluation(trainer_factory):
    class Logs(TrainerCallback):
        def on_step_end(self, args, state, control, trainer=None, **kwargs):
            trainer.log({"acc": -float(state.global_step)})

    trainer = made(trainer_factory, Logs(), stop("acc", True, patience=1), eval_steps=4)

    trainer.train()

    assert (trainer.state.global_step, trainer.state.stop_reason) == (8, None)


@pytest.mark.parametrize("calls_super", [1, 2, 0])
def test_what_an_overridden_evaluate_returns_is_judged_by_both(trainer_factory, calls_super):
    class Adds(trainer_factory.trainer_class):
        def evaluate(self, *args, **kwargs):
            found = {}
            for _ in range(calls_super):
                found |= super().evaluate(*args, **kwargs)
            return {**found, "eval_own": float(self.state.global_step)}

    seen = []
    trainer = made(
        trainer_factory, stop(None), cls=Adds, metric_for_best_model="own", greater_is_better=False, save_strategy="no"
    )
    trainer.on("on_evaluate")(lambda sender, metrics, scheduled, **_: seen.append((metrics["eval_own"], scheduled)))

    trainer.train()

    assert trainer.state.stop_reason == "eval_own has not improved on 1, 2 times in a row, up to step 3"
    assert trainer.state.best_metric == 1.0
    assert seen == [(1.0, True), (2.0, True), (3.0, True)]


def test_a_metric_that_nothing_has_is_named_at_the_first_evaluation(trainer_factory):
    with pytest.raises(UnknownMetricError, match="Did you mean 'eval_acc'"):
        made(trainer_factory, stop("accc")).train()


def test_records_are_judged_in_a_resumed_run_as_in_one_that_was_not(trainer_factory, caplog):
    class Logs(TrainerCallback):
        def on_step_end(self, args, state, control, trainer=None, **kwargs):
            trainer.log({"reward": -float(state.global_step)})

    caplog.set_level(logging.INFO)
    trainer = resumed(
        trainer_factory, ([Logs(), stop("reward", patience=6)], {}), ([Logs(), stop("reward", patience=6)], {})
    )

    assert trainer.state.stop_reason == "reward has not improved on -1, 6 times in a row, up to step 7"


@pytest.mark.parametrize("value", [[0.5], {"of": 0.5}, "high"])
def test_a_best_metric_that_is_not_a_number_is_told_before_the_first_update(trainer_factory, value):
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(4),
        per_device_eval_batch_size=4,
        compute_metrics=lambda prediction: {"score": value},
        metric_for_best_model="score",
        greater_is_better=True,
        load_best_model_at_end=True,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
    )

    with pytest.raises(ArgumentError, match=r"metric_for_best_model='score'.* a metric that is one number; eval_score"):
        trainer.train()

    assert trainer.state.global_step == 0
