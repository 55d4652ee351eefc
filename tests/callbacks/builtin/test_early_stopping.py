from __future__ import annotations

import pytest

from trackside import EarlyStoppingCallback, TrainerState
from trackside.callbacks.errors import ArgumentError, UnknownMetricError


def evaluations_until_stop(run, key, values):
    """Return after how many of the values training was stopped; None if it was not."""
    for count, value in enumerate(values, start=1):
        run.step()
        run.evaluate(**{key: value})
        if run.control.should_training_stop:
            return count
    return None


def started(run):
    run.send("on_train_begin")
    return run


def test_it_stops_after_so_many_evaluations_without_improvement(track):
    run = started(track(EarlyStoppingCallback(2)))

    assert evaluations_until_stop(run, "eval_loss", [3.0, 2.0, 2.5, 1.0, 1.0, 1.5]) == 6
    assert run.control.stop_reason == "eval_loss has not improved on 1, 2 times in a row, up to step 6"


def test_an_improvement_no_larger_than_the_threshold_does_not_count(track):
    run = started(track(EarlyStoppingCallback(1, 0.5)))

    assert evaluations_until_stop(run, "eval_loss", [3.0, 2.4, 1.9]) == 3


@pytest.mark.parametrize("name", ["accuracy", "eval_accuracy"])
def test_the_metric_of_the_arguments_is_watched_with_or_without_its_prefix(track, name):
    run = started(track(EarlyStoppingCallback(), metric_for_best_model=name))

    assert evaluations_until_stop(run, "eval_accuracy", [0.1, 0.2, 0.15]) == 3


def test_greater_is_better_of_the_arguments_holds_for_their_metric(track):
    run = started(track(EarlyStoppingCallback(), metric_for_best_model="perplexity", greater_is_better=False))

    assert evaluations_until_stop(run, "eval_perplexity", [9.0, 8.0, 8.5]) == 3


def test_greater_is_better_of_the_arguments_does_not_hold_for_a_metric_of_its_own(track):
    args = {"metric_for_best_model": "loss", "greater_is_better": False}
    run = started(track(EarlyStoppingCallback(metric="accuracy"), **args))

    assert evaluations_until_stop(run, "eval_accuracy", [0.1, 0.2, 0.15]) == 3


def test_greater_is_better_can_be_given(track):
    run = started(track(EarlyStoppingCallback(metric="word_error", greater_is_better=False)))

    assert evaluations_until_stop(run, "eval_word_error", [0.3, 0.2, 0.25]) == 3


@pytest.mark.parametrize("undefined", [None, float("nan")])
def test_an_evaluation_without_a_value_is_passed_over_and_never_the_best(track, undefined):
    run = started(track(EarlyStoppingCallback(2)))

    values = [undefined, 1.0, 0.5, undefined, 0.6, undefined, 0.7]

    assert evaluations_until_stop(run, "eval_loss", values) == 7
    assert run.control.stop_reason == "eval_loss has not improved on 0.5, 2 times in a row, up to step 7"


def test_a_metric_that_never_has_a_value_does_not_stop(track):
    callback = EarlyStoppingCallback(1)
    run = started(track(callback))

    for _ in range(3):
        run.evaluate(eval_loss=float("nan"))

    assert not run.control.should_training_stop
    assert callback.best is None


def test_training_loss_is_watched_as_train_loss(track):
    run = started(track(EarlyStoppingCallback(2, metric="train_loss"), eval_strategy="no"))

    for loss in (3.0, 2.0, 2.0, 2.0):
        run.log(loss=loss, grad_norm=1.0)

    assert run.control.stop_reason == "loss has not improved on 2, 2 times in a row, up to step 0"


def test_a_plain_loss_is_that_of_the_evaluation(track):
    run = started(track(EarlyStoppingCallback(metric="loss")))

    for loss in (1.0, 2.0, 3.0):
        run.log(loss=loss)
    assert not run.control.should_training_stop
    assert evaluations_until_stop(run, "eval_loss", [1.0, 2.0]) == 2


def test_a_metric_that_the_user_logs_is_watched_also_where_evaluations_lack_it(track):
    run = started(track(EarlyStoppingCallback(metric="reward")))

    run.log(reward=1.0)
    run.evaluate(eval_loss=1.0)
    run.log(reward=0.5)

    assert run.control.should_training_stop


def test_an_unknown_metric_is_an_error_in_the_first_evaluation(track):
    run = started(track(EarlyStoppingCallback(metric="eval_acc")))

    with pytest.raises(UnknownMetricError) as caught:
        run.evaluate(eval_accuracy=0.5, eval_loss=1.0, epoch=1.0)

    assert str(caught.value) == (
        "metric='eval_acc' is not among what evaluation returns: eval_accuracy, eval_loss. "
        "Did you mean 'eval_accuracy'?"
    )


def test_with_several_evaluation_sets_one_of_them_has_to_have_it(track):
    callback = EarlyStoppingCallback(1, metric="eval_b_loss")
    run = track(callback)
    run.eval_dataset = {"a": [], "b": []}
    started(run)

    for value in (1.0, 0.5):
        run.evaluate(eval_a_loss=9.0)
        run.evaluate(eval_b_loss=value)
    assert not run.control.should_training_stop

    callback.metric = "eval_c_loss"
    run.evaluate(eval_a_loss=9.0)
    with pytest.raises(UnknownMetricError, match="eval_a_loss, eval_b_loss"):
        run.evaluate(eval_b_loss=1.0)


def test_evaluations_of_something_else_or_outside_of_training_do_not_count(track):
    run = track(EarlyStoppingCallback(metric="accuracy"))

    run.evaluate(eval_loss=1.0)
    started(run)
    run.evaluate(test_loss=1.0)
    run.send("on_train_end")
    run.evaluate(eval_loss=1.0)

    assert not run.control.should_training_stop


def test_a_resumed_run_goes_on_counting_and_a_fresh_one_begins_anew(track):
    first = EarlyStoppingCallback(2)
    evaluations_until_stop(started(track(first)), "eval_loss", [1.0, 2.0])

    resumed = track(EarlyStoppingCallback(2), state=TrainerState(global_step=2, max_steps=9))
    resumed.dispatcher.load_state_dicts({"early_stopping": first.state_dict()})
    assert evaluations_until_stop(started(resumed), "eval_loss", [1.5]) == 1

    fresh = track(first)
    assert evaluations_until_stop(started(fresh), "eval_loss", [3.0, 2.0]) is None


def test_a_run_that_evaluates_nothing_is_warned(track, caplog):
    started(track(EarlyStoppingCallback(), eval_strategy="no"))

    assert "early stopping watches 'eval_loss', but eval_strategy='no'" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping_patience": 0},
        {"early_stopping_patience": 1.5},
        {"early_stopping_patience": "3"},
        {"early_stopping_threshold": -0.1},
        {"early_stopping_threshold": float("nan")},
    ],
)
def test_an_option_that_is_not_allowed_is_named(options):
    with pytest.raises(ArgumentError, match=next(iter(options))):
        EarlyStoppingCallback(**options)
