"""Hyperparameter search: choice and call of the backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.errors import ArgumentError, MissingPackageError, TracksideValueError, check_one_of

from ..outputs import BestRun
from .trial import Search

BACKENDS = ("optuna", "ray")
"""Backends in order of preference when none is named."""

DIRECTIONS = ("minimize", "maximize")


def search_hyperparameters(
    begin: Callable[[Any], Search],
    hp_space: Callable[[Any], Mapping[str, Any]] | None,
    n_trials: int,
    direction: str,
    backend: str | None,
    options: Mapping[str, Any],
) -> BestRun | None:
    """Train once for each proposal of a backend; return the best trial, None if none finished.

    Args:
        begin: Called with the space to search; returns the search.
        hp_space, n_trials, direction, backend: See `hyperparameter_search` of the trainer.
        options: Options of the backend.

    Raises:
        MissingPackageError: If the backend is not installed.
        ArgumentError: If a value is not allowed.
    """
    for name, value, known in (("direction", direction, DIRECTIONS), ("backend", backend or BACKENDS[0], BACKENDS)):
        check_one_of(name, value, known)
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
        raise ArgumentError("n_trials", n_trials, "a whole number from 1")
    run, default_space = _loaded(backend)
    return run(begin, hp_space or default_space, n_trials=n_trials, direction=direction, options=options)


def checked(best: BestRun | None, n_trials: int) -> BestRun:
    """Return the best trial.

    Raises:
        TracksideValueError: If no trial finished.
    """
    if best is None:
        raise TracksideValueError(f"none of {n_trials} trials of the search came to an end with an objective")
    return best


def _loaded(backend: str | None) -> tuple[Callable[..., BestRun | None], Callable[[Any], Mapping[str, Any]]]:
    """Return the search function of a backend, and its default space.

    Raises:
        MissingPackageError: If the backend, or every backend, is not installed.
    """
    installed = [name for name in BACKENDS if is_installed(name)]
    chosen = backend or next(iter(installed), BACKENDS[0])
    if chosen not in installed:
        raise MissingPackageError(chosen, "hyperparameter_search", extra=chosen)
    if chosen == "ray":
        from .ray_backend import default_hp_space_ray, search_with_ray

        return search_with_ray, default_hp_space_ray
    from .optuna_backend import default_hp_space_optuna, search_with_optuna

    return search_with_optuna, default_hp_space_optuna
