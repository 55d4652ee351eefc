"""What follows from arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.arguments.base import BaseTrainingArguments

pytestmark = pytest.mark.usefixtures("no_launcher")


def test_steps_are_whole_or_a_share_of_the_run():
    args = BaseTrainingArguments(eval_strategy="steps", logging_steps=0.1, eval_steps=25, save_steps=0.0001)

    assert [args.steps(name, 200) for name in ("logging_steps", "eval_steps", "save_steps")] == [20, 25, 1]
    assert BaseTrainingArguments(logging_steps=30).steps("eval_steps", 200) == 30
    with pytest.raises(ArgumentError, match="one of logging_steps, eval_steps, save_steps"):
        args.steps("logging", 200)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 0),
        ({"warmup_steps": 10}, 10),
        ({"warmup_steps": 0.07}, 7),
        ({"warmup_ratio": 0.07}, 7),
        ({"warmup_ratio": 0.055}, 6),
        ({"warmup_steps": 10, "warmup_ratio": 0.5}, 10),
        ({"warmup_ratio": 1}, 100),
    ],
)
def test_warmup_steps_win_over_the_ratio_which_is_rounded_up(values, expected):
    assert BaseTrainingArguments(**values).get_warmup_steps(100) == expected


@given(st.floats(0, 1), st.integers(1, 10**6))
def test_warmup_is_never_longer_than_the_run(ratio, steps):
    assert 0 <= BaseTrainingArguments(warmup_ratio=ratio).get_warmup_steps(steps) <= steps
