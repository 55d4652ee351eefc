"""Errors say the same after a copy and on the other side of a process boundary."""

from __future__ import annotations

import copy
import pickle

import pytest

from trackside.callbacks import errors

ALL = [
    errors.ArgumentError("eval_strategy", "epochs", "one of no, steps, epoch"),
    errors.NotPlainError("state_dict()", "['figure']", "is of type object"),
    errors.ConfigError("run.yaml: no key 'arg'"),
    errors.UnknownNameError("callback", "csvv", ["csv", "jsonl"]),
    errors.UnknownMetricError("metric_for_best_model", "acc", ["eval_accuracy"]),
    errors.CallbackOrderError("a cycle", ["one", "two"]),
    errors.CallbackTimeoutError("slow", "on_log", 3.0),
    errors.CollectiveMismatchError([(3, "sizes"), (3, "outputs")]),
    errors.MissingPackageError("optuna", "hyperparameter_search", extra="optuna"),
    errors.LoginError("W&B", "Run `wandb login`"),
    errors.CheckpointError(28, "no space left", "checkpoint-5"),
]


def test_every_error_with_arguments_of_its_own_is_here():
    with_own = {cls for cls in vars(errors).values() if isinstance(cls, type) and "__init__" in vars(cls)}

    assert with_own <= {type(error) for error in ALL}


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("how", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_an_error_stays_what_it_is(error, how):
    error.add_note("raised by the callback 'x'")

    made = how(error)

    assert (type(made), str(made), made.args, vars(made)) == (type(error), str(error), error.args, vars(error))
