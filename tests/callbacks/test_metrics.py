"""One rule says which name a metric has in a record, and whether it improves."""

from __future__ import annotations

import math

import pytest

from trackside.callbacks.metrics import improves, is_greater_better


@pytest.mark.parametrize(
    ("value", "best", "greater", "threshold", "expected"),
    [
        (0.5, None, True, 0.0, True),
        (math.nan, None, True, 0.0, False),
        (math.nan, 0.5, False, 0.0, False),
        (0.5, 0.5, True, 0.0, False),
        (0.6, 0.5, True, 0.0, True),
        (0.6, 0.5, False, 0.0, False),
        (0.4, 0.5, False, 0.0, True),
        (0.6, 0.5, True, 0.2, False),
        (0.75, 0.5, True, 0.2, True),
        (math.inf, 0.5, True, 0.0, True),
        (math.inf, math.inf, True, 0.0, False),
        (-math.inf, 0.5, True, 0.0, False),
    ],
)
def test_a_value_improves_on_the_best_by_more_than_the_threshold(value, best, greater, threshold, expected):
    assert improves(value, best, greater_is_better=greater, threshold=threshold) is expected


def test_losses_and_errors_are_better_when_they_are_smaller():
    smaller = (
        "eval_loss",
        "loss",
        "my_valloss",
        "eval_perplexity",
        "wer",
        "eval_RMSE",
        "mse/val",
        "neg_log_likelihood",
    )
    greater = ("accuracy", "eval_f1", "neg_mean_squared_error", "r2", "bleu", "losses_avoided", "eval_auc")

    assert not any(map(is_greater_better, smaller))
    assert all(map(is_greater_better, greater))
