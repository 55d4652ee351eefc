"""The enums of the choices among arguments."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from trackside.callbacks.registry import registered
from trackside.trainer.arguments.base import BaseTrainingArguments
from trackside.trainer.arguments.enums import (
    IntervalChoice,
    IntervalStrategy,
    OptimizerName,
    ParallelMode,
    ReportChoice,
    SaveStrategy,
    SchedulerType,
)


@pytest.mark.parametrize("choices", [IntervalStrategy, SaveStrategy, SchedulerType, OptimizerName, ParallelMode])
def test_a_member_of_a_choice_equals_its_string_prints_as_it_and_is_json(choices):
    for member in choices:
        assert member == member.value
        assert f"{member}" == str(member) == member.value
        assert hash(member) == hash(member.value)
        assert json.loads(json.dumps(member)) == member.value


def test_members_equal_those_of_the_transformers_library():
    utils = pytest.importorskip("transformers.trainer_utils")

    assert (
        BaseTrainingArguments(eval_strategy=utils.IntervalStrategy.STEPS).eval_strategy == utils.IntervalStrategy.STEPS
    )
    assert BaseTrainingArguments().eval_strategy == utils.IntervalStrategy.NO


def test_editors_know_the_members_of_a_choice_and_the_callbacks_of_trackside():
    ours = {name for name, found in registered().items() if found.value.startswith("trackside.")}

    assert set(get_args(IntervalChoice)) == set(IntervalStrategy)
    assert {name for names in get_args(ReportChoice) for name in get_args(names)} == {"all", "none", *ours}
