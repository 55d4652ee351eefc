"""Hyperparameter search with optuna: the study is in the first process; every process trains each trial."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optuna

from trackside.callbacks._util.plain_data import plain
from trackside.callbacks.errors import ArgumentError

from ..outputs import BestRun
from .trial import Search, split_options

KEPT = "hyperparameters"
"""User attribute of a trial that holds the result of ``hp_space`` as JSON; it may have more than the suggestions."""


def default_hp_space_optuna(trial: Any) -> dict[str, Any]:
    """Return the default search space: learning rate, epochs, seed and batch size."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32, 64]),
    }


def search_with_optuna(
    begin: Callable[[Any], Search], space: Any, *, n_trials: int, direction: str, options: Mapping[str, Any]
) -> BestRun | None:
    """Return the best of ``n_trials`` trials; None if no trial finished.

    Args:
        begin: Called with ``space``; returns the search.
        options: Options of `optuna.create_study` and `Study.optimize`.
    """
    search = begin(space)
    for_study, for_trials = _split(options, world_size=search.args.world_size)
    best = None
    if search.trainer.is_world_process_zero():
        study = optuna.create_study(direction=direction, **for_study)
        _lead(search, study, n_trials, for_trials)
        best = _best(search, study)
    else:
        _follow(search)
    found: BestRun | None = search.trainer.gather_objects(best)[0]
    return found


def _lead(search: Search, study: optuna.Study, n_trials: int, options: Mapping[str, Any]) -> None:
    """Run the study, and send each proposal to the other processes."""
    trainer = search.trainer

    def objective(trial: optuna.Trial) -> float:
        def report(objective: float, step: int) -> bool:
            trial.report(objective, step)
            return bool(trial.should_prune())

        proposal = search.propose(trial, str(trial.number), search.hyperparameters(trial))
        trial.set_user_attr(KEPT, plain(proposal.hyperparameters, "hyperparameters", rest=repr))
        trainer.gather_objects((proposal, trial.params))
        value = search.attempt(proposal, trial, report)
        if trainer.state.stopped_by is not None:
            study.stop()
        if value is None:
            raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=n_trials, **options)
    trainer.gather_objects(None)


def _follow(search: Search) -> None:
    """Train each proposal of the first process, until it sends None."""
    while (received := search.trainer.gather_objects(None)[0]) is not None:
        proposal, suggested = received
        search.attempt(proposal, optuna.trial.FixedTrial(suggested, int(proposal.run_id)))


def _best(search: Search, study: optuna.Study) -> BestRun | None:
    """Return the best trial of the study, possibly from an earlier search; None if there is none."""
    try:
        best = study.best_trial
    except ValueError:  # raised by optuna if there is none
        return None
    proposal = search.proposals.get(str(best.number))
    hyperparameters = proposal.hyperparameters if proposal else best.user_attrs.get(KEPT, best.params)
    return BestRun(str(best.number), float(best.value or 0.0), hyperparameters)


def _split(options: Mapping[str, Any], world_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the ``options`` of the study, and the options of running it.

    Raises:
        TracksideTypeError: If optuna does not have an option.
        ArgumentError: If a trainer does not support an option.
    """
    ours = {"direction", "directions", "func", "n_trials", "self"}
    studys = inspect.signature(optuna.create_study).parameters.keys() - ours
    runs = inspect.signature(optuna.Study.optimize).parameters.keys() - ours
    for_study, for_trials = split_options("optuna", options, studys, runs)
    if for_trials.get("n_jobs", 1) != 1:
        allowed = "1, since a trainer trains one model at a time; start this script several times on one storage"
        raise ArgumentError("n_jobs", for_trials["n_jobs"], allowed)
    if for_trials.get("catch") and world_size > 1:
        raise ArgumentError("catch", for_trials["catch"], "() on several processes, all of which an error ends")
    return for_study, for_trials
