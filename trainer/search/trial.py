"""Trials of a hyperparameter search: proposal, training and objective."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np

from trackside.callbacks._util.plain_data import plain
from trackside.callbacks.errors import ArgumentError, TracksideTypeError, UnknownMetricError, did_you_mean
from trackside.callbacks.metrics import is_undefined

from ..arguments.elsewhere import nearest_name
from ..calls import check_call, takes_trial
from ..outputs import default_compute_objective
from ..staging import address_of

GIVEN_UP = "the search gave this trial up"

SETTLED = frozenset(
    {"callbacks", "log_level", "log_level_replica", "no_cuda", "output_dir", "parallel", "report_to", "run_name"}
    | {"ddp_backend", "ddp_timeout", "fsdp", "fsdp_config", "local_rank", "tpu_name", "tpu_num_cores"}
)
"""Arguments that are fixed when a trainer is created, or that each trial gets from the search."""


@dataclass
class Proposal:
    """The hyperparameters to try in one trial.

    Attributes:
        run_id: The backend's id of the trial.
        name: The name of its run and of its folder in ``output_dir``.
        hyperparameters: Training arguments by name, and values that ``model_init`` takes from the trial.
    """

    run_id: str
    name: str
    hyperparameters: dict[str, Any]


class Search:
    """The trials of a trainer.

    Args:
        trainer: Keeps its callbacks and processes; each trial has its own arguments, model, optimizer and state.
        apply_arguments: Sets other arguments on the trainer.
        hp_space: Called with the backend's trial; returns hyperparameters by name.
        compute_objective: Called with the metrics of an evaluation; returns a number. The default is the loss or the
            sum of the other metrics.
        hp_name: Called with the backend's trial; returns the name of its run.

    Attributes:
        proposals: The proposals so far, by run id.
    """

    def __init__(
        self,
        trainer: Any,
        apply_arguments: Callable[[Any], None],
        hp_space: Callable[[Any], Mapping[str, Any]],
        compute_objective: Callable[[dict[str, float]], float] | None,
        hp_name: Callable[[Any], str] | None,
    ) -> None:
        check_call("hp_space", hp_space, "trial", makes_objects=True)
        check_call("compute_objective", compute_objective, "metrics", makes_objects=True)
        check_call("hp_name", hp_name, "trial", makes_objects=True)
        self.trainer = trainer
        self.args: Any = trainer.args
        self.compute_objective: Callable[[dict[str, float]], float] = compute_objective or default_compute_objective
        self._apply_arguments = apply_arguments
        self.hp_name = hp_name
        self.proposals: dict[str, Proposal] = {}
        self._hp_space = hp_space
        self._report: Callable[[float, int], bool] | None = None
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})

    def hyperparameters(self, trial: Any) -> dict[str, Any]:
        """Return the hyperparameters of ``hp_space`` for the backend's ``trial``.

        Raises:
            TracksideTypeError: If ``hp_space`` does not return a dict.
        """
        found = self._hp_space(trial)
        if not isinstance(found, Mapping):
            raise TracksideTypeError(f"hp_space must return a dict of hyperparameters by name; it returned {found!r}")
        return dict(found)

    def propose(self, trial: Any, run_id: str, hyperparameters: dict[str, Any]) -> Proposal:
        """Return the proposal for the backend's ``trial``.

        Raises:
            TracksideTypeError: If ``hp_name`` does not return a name.
        """
        name = f"run-{run_id}" if self.hp_name is None else self.hp_name(trial)
        if not isinstance(name, str) or not name:
            raise TracksideTypeError(f"hp_name must return the name of a run; it returned {name!r}")
        values = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in hyperparameters.items()
        }
        proposal = self.proposals[run_id] = Proposal(run_id, name, values)
        return proposal

    def attempt(
        self, proposal: Proposal, trial: Any, report: Callable[[float, int], bool] | None = None
    ) -> float | None:
        """Train as proposed; return the objective, or None if the trial was pruned or stopped by a signal.

        All processes of the trainer must call it.

        Args:
            trial: Passed to ``model_init``.
            report: Called in the first process with the objective and the step of each evaluation within the
                training; returns whether to prune the trial.
        """
        trainer = self.trainer
        self._report, self._evaluated = report, (-1, {})
        self._apply_arguments(self._args_for(proposal))
        trainer.state.is_hyper_param_search = True
        trainer.state.trial_name, trainer.state.trial_params = (
            proposal.name,
            plain(proposal.hyperparameters, "hyperparameters", rest=repr),
        )
        trainer.train(trial=trial)
        if trainer.state.stopped_by is not None or trainer.state.stop_reason == GIVEN_UP:
            return None
        return self._objective(self._metrics_at_end())

    def note(self, metrics: dict[str, float]) -> None:
        """Report an evaluation within the training of a trial, and stop the trial if the backend prunes it."""
        step = self.trainer.state.global_step
        self._evaluated = (step, metrics)
        value = self._objective(metrics)
        if self._report is not None and not is_undefined(value) and self._report(value, step):
            self.trainer.control.stop(GIVEN_UP)

    def end(self) -> None:
        """Restore the trainer's original arguments."""
        state = self.trainer.state
        state.is_hyper_param_search, state.trial_name, state.trial_params = False, None, None
        self._apply_arguments(self.args)

    def _args_for(self, proposal: Proposal) -> Any:
        args, name = self.args, proposal.name
        places = {"output_dir": f"{address_of(args.output_dir)}/{name}"}
        places["run_name"] = name if args.run_name is None else f"{args.run_name}-{name}"
        if args.given("logging_dir") is not None:
            places["logging_dir"] = f"{args.logging_dir}/{name}"
        return varied(args, proposal.hyperparameters, self.trainer.model_init, **places)

    def _metrics_at_end(self) -> dict[str, float]:
        """Return the metrics of the trained model, reusing those of the last step if it was evaluated there."""
        step, metrics = self._evaluated
        is_last = step == self.trainer.state.global_step and not self.trainer.args.load_best_model_at_end
        return metrics if is_last else dict(self.trainer.evaluate())

    def _objective(self, metrics: dict[str, float]) -> float:
        try:
            value: Any = self.compute_objective(dict(metrics))
        except KeyError as error:
            raise UnknownMetricError("compute_objective", str(error.args[0]), metrics) from error
        if is_undefined(value) and (value is not None or None in metrics.values()):  # else a return was forgotten
            return math.nan
        if not isinstance(value, Real):
            raise TracksideTypeError(f"compute_objective must return a number; it returned {value!r}")
        return float(value)


def split_options(tool: str, options: Mapping[str, Any], *known: Collection[str]) -> list[dict[str, Any]]:
    """Return, for each group of ``known`` names of ``tool``, the ``options`` in it.

    Raises:
        TracksideTypeError: If a name is in no group.
    """
    names = {name for group in known for name in group}
    for name in options:
        if name not in names:
            near = did_you_mean(name, names)
            raise TracksideTypeError(f"hyperparameter_search() has no argument {name!r}, nor has {tool}.{near}")
    return [{name: value for name, value in options.items() if name in group} for group in known]


def hyperparameters_of(trial: Any) -> dict[str, Any]:
    """Return the hyperparameters of a trial: a dict, a BestRun, or an object with ``params``, as an optuna trial.

    Example:
        >>> hyperparameters_of({"learning_rate": 0.01})
        {'learning_rate': 0.01}
    """
    found = getattr(trial, "hyperparameters", getattr(trial, "params", trial))
    if not isinstance(found, Mapping):
        raise TracksideTypeError(f"trial must be a dict of hyperparameters, a BestRun or a trial; it is {trial!r}")
    return dict(found)


def varied(args: Any, hyperparameters: Mapping[str, Any], model_init: Any, **places: Any) -> Any:
    """Return ``args`` with ``hyperparameters``, on the same devices.

    Other hyperparameters are left to a ``model_init`` that takes the trial, with a warning.

    Raises:
        ArgumentError: If a value is not allowed, or is fixed for the trainer, or is not used by ``model_init`` either.
    """
    fields = [item.name for item in args.fields()]
    changes = {}
    for name, value in hyperparameters.items():
        near = nearest_name(name, fields)
        if name in SETTLED and name in fields:
            raise ArgumentError(name, value, f"{args.given(name)!r}, which is settled for the whole search")
        if name in fields:
            changes[name] = value
        elif model_init is None or not takes_trial(model_init):
            raise ArgumentError(name, value, f"no training argument, nor does model_init take a trial.{near}")
        else:
            warnings.warn(f"{name!r} is not a training argument; it is left to model_init.{near}", stacklevel=2)
    made = args.replace(**changes, **places)
    found = {name for name in vars(args) if isinstance(getattr(type(args), name, None), cached_property)}
    vars(made).update({name: vars(args)[name] for name in found})
    return made
