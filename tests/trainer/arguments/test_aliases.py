"""Other names of arguments."""

from __future__ import annotations

import warnings

import pytest

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.arguments.base import BaseTrainingArguments


def test_an_alias_sets_its_field_and_reads_as_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        args = BaseTrainingArguments(evaluation_strategy="steps", use_cpu=True)

    assert (args.eval_strategy, args.evaluation_strategy) == ("steps", "steps")
    assert (args.no_cuda, args.use_cpu) == (True, True)


@pytest.mark.parametrize(
    ("alias", "value", "field", "expected", "replacement"),
    [
        ("evaluate_during_training", True, "eval_strategy", "steps", "eval_strategy='steps'"),
        ("per_gpu_train_batch_size", 3, "per_device_train_batch_size", 3, "per_device_train_batch_size"),
        ("per_gpu_eval_batch_size", "4", "per_device_eval_batch_size", 4, "per_device_eval_batch_size"),
        ("tpu_metrics_debug", True, "debug", "tpu_metrics_debug", "debug='tpu_metrics_debug'"),
    ],
)
def test_a_deprecated_alias_sets_its_field_and_warns_where_it_was_written(alias, value, field, expected, replacement):
    with pytest.warns(FutureWarning, match=f"{alias} is deprecated; use {replacement} instead") as caught:
        args = BaseTrainingArguments(**{alias: value})

    assert getattr(args, field) == expected
    assert caught[0].filename == __file__


def test_an_alias_that_contradicts_its_field_fails():
    with pytest.raises(ArgumentError, match="it contradicts eval_strategy='steps'; give one of the two"):
        BaseTrainingArguments(evaluation_strategy="epoch", eval_strategy="steps")


def test_an_alias_with_a_wrong_value_fails():
    with pytest.raises(ArgumentError, match="Did you mean 'epoch'"):
        BaseTrainingArguments(evaluation_strategy="epochs")
    with pytest.raises(ArgumentError, match="evaluate_during_training='maybe'"), pytest.warns(FutureWarning):
        BaseTrainingArguments(evaluate_during_training="maybe")
