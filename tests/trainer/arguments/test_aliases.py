"""Other names of arguments."""

from __future__ import annotations

import dataclasses
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
    with pytest.warns(FutureWarning, match=f"{alias} is deprecated since .*; use {replacement} instead") as caught:
        args = BaseTrainingArguments(**{alias: value})

    assert getattr(args, field) == expected
    assert caught[0].filename == __file__


def test_an_alias_can_be_set_later_and_is_not_among_the_values():
    args = BaseTrainingArguments()

    args.use_cpu = True
    with pytest.warns(FutureWarning, match="per_gpu_train_batch_size is deprecated") as caught:
        args.per_gpu_train_batch_size = 3
    with pytest.warns(FutureWarning):
        args.tpu_metrics_debug = True

    assert (args.no_cuda, args.per_device_train_batch_size, args.debug) == (True, 3, "tpu_metrics_debug")
    assert (args.per_gpu_train_batch_size, args.tpu_metrics_debug, args.evaluate_during_training) == (3, True, False)
    assert caught[0].filename == __file__
    assert {"use_cpu", "per_gpu_train_batch_size", "tpu_metrics_debug"}.isdisjoint(args.to_dict())


@pytest.mark.filterwarnings("error")
def test_dataclasses_replace_hands_on_what_it_reads_from_an_alias():
    args = BaseTrainingArguments(eval_strategy="epoch", per_device_train_batch_size=4, debug="underflow_overflow")

    changed = dataclasses.replace(args, learning_rate=0.1, no_cuda=True)

    assert changed.differences(args.to_dict()) == {"learning_rate": (5e-5, 0.1), "no_cuda": (False, True)}


def test_an_alias_that_contradicts_its_field_fails():
    with pytest.raises(ArgumentError, match="it contradicts eval_strategy='steps'; give one of the two"):
        BaseTrainingArguments(evaluation_strategy="epoch", eval_strategy="steps")


def test_an_alias_with_a_wrong_value_fails():
    with pytest.raises(ArgumentError, match="Did you mean 'epoch'"):
        BaseTrainingArguments(evaluation_strategy="epochs")
    with pytest.raises(ArgumentError, match="evaluate_during_training='maybe'"), pytest.warns(FutureWarning):
        BaseTrainingArguments(evaluate_during_training="maybe")
