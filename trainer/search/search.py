"""Hyperparameter search: a backend proposes hyperparameters, and the trainer trains once for each proposal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.errors import ArgumentError, MissingPackageError, did_you_mean

from ..outputs import BestRun, default_compute_objective
from .trial import Search

BACKENDS = ("optuna", "ray")
"""In the order in which they are taken where none is named."""

DIRECTIONS = ("minimize", "maximize")


class Searching:
    """The part of a trainer that searches for hyperparameters."""

    model_init: Callable[..., Any] | None
    guarded: Callable[[], AbstractContextManager[Any]]
    check_evaluates: Callable[[str, Any, str], None]
    search: Search | None = None
    """The search that trains at the moment."""

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], Mapping[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str = "minimize",
        backend: str | None = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> BestRun:
        """Train once with each of several choices of hyperparameters; return the best.

        Each trial begins with a new model from ``model_init``, and has a folder and a run of the trackers of its own.
        Evaluations within a trial are reported, so that one without prospects is given up. A signal ends the search
        with the best so far. Afterwards the trainer has its own arguments again; ``train(trial=best)`` trains with the
        best ones.

        Args:
            hp_space: Called with a trial of the backend's; returns training arguments by name, and whatever else
                ``model_init`` takes from the trial. Without it: learning rate, epochs, seed and batch size.
            compute_objective: Called with the metrics of an evaluation; returns a number. Without it: the loss, or
                where there are other metrics, their sum.
            n_trials: How many trials.
            direction: "minimize" or "maximize".
            backend: "optuna", or "ray" for Ray Tune; without it, the first that is installed.
            hp_name: Called with a trial of the backend's; returns the name of its run and of its folder in
                ``output_dir``. Without it: "run-" and the trial's number.
            kwargs: Options of the backend: of `optuna.create_study` (``storage``, ``sampler``, ``pruner``, ...) and
                `optuna.Study.optimize` (``timeout``, ...), or of `ray.tune.TuneConfig` and `ray.tune.RunConfig`, and
                ``resources_per_trial``.

        Raises:
            MissingPackageError: If the backend is not installed.
            ArgumentError: If an option or a proposed hyperparameter is not allowed.
            TracksideValueError: If no trial came to an end.
        """
        self._check_search(n_trials, direction, backend)
        run, default_space = _loaded(backend)
        self.search = Search(self, hp_space or default_space, compute_objective or default_compute_objective, hp_name)
        try:
            with self.guarded():
                return run(self.search, n_trials=n_trials, direction=direction, options=kwargs)
        finally:
            self.search.end()
            self.search = None

    def _check_search(self, n_trials: Any, direction: Any, backend: Any) -> None:
        if self.model_init is None:
            allowed = "a function for hyperparameter_search, which begins each trial with a new model"
            raise ArgumentError("model_init", None, allowed)
        self.check_evaluates("eval_dataset", None, "hyperparameter_search needs an evaluation dataset")
        for name, value, known in (("direction", direction, DIRECTIONS), ("backend", backend or BACKENDS[0], BACKENDS)):
            if value not in known:
                raise ArgumentError(name, value, f"{' or '.join(known)}.{did_you_mean(str(value), known)}")
        if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
            raise ArgumentError("n_trials", n_trials, "a whole number from 1")


def _loaded(backend: str | None) -> tuple[Callable[..., BestRun], Callable[[Any], Mapping[str, Any]]]:
    """Return how to search with a backend, and its default space.

    Raises:
        MissingPackageError: If it is not installed, or none is.
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
