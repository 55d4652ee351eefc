"""Hyperparameter search with Ray Tune, which trains trials in parallel in its own processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from pickle import PicklingError
from typing import Any

from ray import tune

from trackside.callbacks.errors import ArgumentError, TracksideTypeError

from ..outputs import BestRun
from ..staging import address_of, is_address
from .trial import Search, split_options

logger: logging.Logger = logging.getLogger("trackside.trainer")

OURS = frozenset({"metric", "mode", "num_samples", "reuse_actors"})
"""Options of Ray Tune that the search sets itself."""


def default_hp_space_ray(trial: Any) -> dict[str, Any]:
    """Return the default search space: learning rate, epochs, seed and batch size."""
    return {
        "learning_rate": tune.loguniform(1e-6, 1e-4),
        "num_train_epochs": tune.choice(list(range(1, 6))),
        "seed": tune.randint(1, 41),
        "per_device_train_batch_size": tune.choice([4, 8, 16, 32, 64]),
    }


def search_with_ray(
    begin: Callable[[Any], Search], space: Any, *, n_trials: int, direction: str, options: Mapping[str, Any]
) -> BestRun | None:
    """Return the best of ``n_trials`` samples of the space; None if no trial finished.

    Every trial has a copy of the trainer in a Ray process; plain functions connected to events are not copied.

    Args:
        begin: Called with ``space``; returns the search. A copy of it is called in each Ray process.
        options: Options of `ray.tune.TuneConfig` and `ray.tune.RunConfig`, and ``resources_per_trial``, by default 1
            CPU, and 1 GPU if the trainer has one.
    """
    search = begin(space)
    if search.args.world_size > 1:
        raise ArgumentError("backend", "ray", "'optuna' on several processes; ray starts processes of its own")
    of_tune, of_run = ({item.name for item in fields(cls)} - OURS for cls in (tune.TuneConfig, tune.RunConfig))
    for_tune, for_run, own = split_options("Ray Tune", options, of_tune, of_run, {"resources_per_trial"})
    samples = search.hyperparameters({})
    has_gpu = str(search.args.device).lower().startswith(("cuda", "gpu"))
    resources = own.get("resources_per_trial")
    resources = {"cpu": 1, "gpu": int(has_gpu)} if resources is None else resources
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths resolve as in this process
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics unless requested
    local = Path(search.args.output_dir).resolve()
    for_run = {"storage_path": str(local / "ray"), **for_run}
    given = address_of(search.args.output_dir)
    try:
        train = tune.with_parameters(trial, begin=begin, output_dir=given if is_address(given) else str(local))
    except (TypeError, PicklingError) as error:
        raise TracksideTypeError(f"this trainer cannot be sent to the processes of ray: {error}") from error
    results = tune.Tuner(
        tune.with_resources(train, resources),
        param_space=samples,
        tune_config=tune.TuneConfig(metric="objective", mode=direction[:3], num_samples=n_trials, **for_tune),
        run_config=tune.RunConfig(**for_run),
    ).fit()
    return _best(results)


def trial(config: dict[str, Any], begin: Callable[[Any], Search], output_dir: str) -> None:
    """Train one trial, in a Ray process."""
    search, run_id = begin(dict), tune.get_context().get_trial_id()
    search.args = search.args.replace(output_dir=output_dir)

    def report(objective: float, step: int) -> bool:
        tune.report({"objective": objective, "global_step": step})
        return False  # Ray itself ends unpromising trials

    value = search.attempt(search.propose(config, run_id, config), config, report)
    if value is not None:
        tune.report({"objective": value, "global_step": search.trainer.state.global_step})


def _best(results: Any) -> BestRun | None:
    """Return the best trial; None if no trial finished.

    Raises:
        Exception: The exception of the first failed trial, if all failed.
    """
    ended = [result for result in results if "objective" in (result.metrics or {})]
    failures = [getattr(error, "cause", error) for error in results.errors]
    if failures and not ended:
        raise failures[0]
    if not ended:
        return None
    if failures:
        logger.warning("%d trials of the search failed; the first: %r", len(failures), failures[0])
    best = results.get_best_result(filter_nan_and_inf=True)
    return BestRun(best.metrics["trial_id"], float(best.metrics["objective"]), dict(best.config))
