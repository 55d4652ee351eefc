"""Hyperparameter search with Ray Tune, which trains the trials in processes of its own, several at a time."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import PicklingError
from typing import Any

from ray import tune

from trackside.callbacks.errors import ArgumentError, TracksideTypeError, TracksideValueError, did_you_mean

from ..outputs import BestRun
from .trial import Search

logger = logging.getLogger("trackside.trainer")

OURS = frozenset({"metric", "mode", "num_samples", "reuse_actors"})
"""Options of Ray Tune that follow from ours."""


def default_hp_space_ray(trial: Any) -> dict[str, Any]:
    """Return the space that is searched where none is given: learning rate, epochs, seed and batch size."""
    return {
        "learning_rate": tune.loguniform(1e-6, 1e-4),
        "num_train_epochs": tune.choice(list(range(1, 6))),
        "seed": tune.randint(1, 41),
        "per_device_train_batch_size": tune.choice([4, 8, 16, 32, 64]),
    }


def search_with_ray(search: Search, *, n_trials: int, direction: str, options: Mapping[str, Any]) -> BestRun:
    """Return the best of ``n_trials`` samples of the space.

    Every trial makes the trainer anew in a process of Ray's, from what it was made of here.

    Args:
        options: Of `ray.tune.TuneConfig` and `ray.tune.RunConfig`, and ``resources_per_trial``: 1 CPU without it, and
            1 GPU where the trainer has one.
    """
    if search.args.world_size > 1:
        raise ArgumentError("backend", "ray", "'optuna' on several processes; ray starts processes of its own")
    for_tune, for_run, resources = _split(options)
    space = search.hyperparameters({})
    has_gpu = str(search.args.device).lower().startswith(("cuda", "gpu"))
    resources = {"cpu": 1, "gpu": 1 if has_gpu else 0} if resources is None else resources
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths mean there what they mean here
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing reports anywhere unless it is asked to
    for_run = {"storage_path": str(Path(search.args.output_dir).resolve() / "ray"), **for_run}
    try:
        train = tune.with_parameters(trial, recipe=Recipe.of(search))
    except (TypeError, PicklingError) as error:
        raise TracksideTypeError(f"this trainer cannot be sent to the processes of ray: {error}") from error
    results = tune.Tuner(
        tune.with_resources(train, resources),
        param_space=space,
        tune_config=tune.TuneConfig(metric="objective", mode=direction[:3], num_samples=n_trials, **for_tune),
        run_config=tune.RunConfig(**for_run),
    ).fit()
    return _best(results, n_trials)


@dataclasses.dataclass
class Recipe:
    """What a search is made of, in a form that can go to another process.

    Attributes:
        made_of: The trainer's class, and what that is called with.
        args: Its arguments now.
        callbacks: Those attached now, each with its options; plain functions that listen to events stay behind.
        search: The objective, and what names runs.
    """

    made_of: tuple[type, tuple[Any, ...], dict[str, Any]]
    args: Any
    callbacks: list[tuple[Any, dict[str, Any]]]
    search: tuple[Any, Any]

    @classmethod
    def of(cls, search: Search) -> Recipe:
        """Return the recipe of ``search``."""
        trainer = search.trainer
        placed = [(item.callback, item.options) for item in trainer.callback_report.values()]
        args = search.args.replace(output_dir=str(Path(search.args.output_dir).resolve()))
        return cls(trainer.made_of, args, placed, (search.compute_objective, search.hp_name))

    def make(self) -> Search:
        """Return a search like it, with a trainer of its own."""
        cls, args, options = self.made_of
        trainer = cls(*args, **options)
        for name in list(trainer.callback_report):
            trainer.remove_callback(name)
        trainer.dispatcher.attach_all(self.callbacks)
        trainer.take_args(self.args)
        search = trainer.search = Search(trainer, dict, *self.search)
        return search


def trial(config: dict[str, Any], recipe: Recipe) -> None:
    """Train one trial, in a process of Ray's."""
    search, run_id = recipe.make(), tune.get_context().get_trial_id()

    def report(objective: float, step: int) -> bool:
        tune.report({"objective": objective, "global_step": step})
        return False  # a trial without prospects is ended by Ray itself

    value = search.attempt(search.propose(config, run_id, config), config, report)
    if value is not None:
        tune.report({"objective": value, "global_step": search.trainer.state.global_step})


def _best(results: Any, n_trials: int) -> BestRun:
    """Return the best trial.

    Raises:
        Exception: That of the first trial that failed, if all did.
        TracksideValueError: If none came to an end for other reasons.
    """
    ended = [result for result in results if "objective" in (result.metrics or {})]
    failures = [getattr(error, "cause", error) for error in results.errors]
    if failures and not ended:
        raise failures[0]
    if not ended:
        raise TracksideValueError(f"none of {n_trials} trials of the search came to an end with an objective")
    if failures:
        logger.warning("%d trials of the search failed; the first: %r", len(failures), failures[0])
    best = results.get_best_result(filter_nan_and_inf=True)
    return BestRun(best.metrics["trial_id"], float(best.metrics["objective"]), dict(best.config))


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, float] | None]:
    """Return which of ``options`` are of TuneConfig, which of RunConfig, and the resources of a trial.

    Raises:
        TracksideTypeError: If Ray Tune has no such option.
    """
    of_tune, of_run = (
        {item.name for item in dataclasses.fields(cls)} - OURS for cls in (tune.TuneConfig, tune.RunConfig)
    )
    known = of_tune | of_run | {"resources_per_trial"}
    for name in options:
        if name not in known:
            raise TracksideTypeError(
                f"hyperparameter_search() has no argument {name!r}, nor has Ray Tune.{did_you_mean(name, known)}"
            )
    for_tune = {name: value for name, value in options.items() if name in of_tune}
    for_run = {name: value for name, value in options.items() if name in of_run}
    return for_tune, for_run, options.get("resources_per_trial")
