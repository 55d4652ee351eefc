"""Creation of optimizers, which are Keras' own classes, and learning-rate schedules from the arguments."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError
from trackside.trainer.optim.choice import check_made, choose_optimizer, plateau_options, values_of
from trackside.trainer.optim.lr_schedules import schedule_of

from ...calls import check_call
from .._compat import layers_of, own_trainable_variables
from . import torch_parity as optimizers
from ._compat import has_keras_schedule, has_variables, skip_gradient_reduction, variables_known_to
from .slots import rebuild, variables_to_build

logger: logging.Logger = logging.getLogger("trackside.trainer")


def create_optimizer(model: Any, args: Any) -> Any:
    """Return the optimizer that ``args.optim`` names; called in the strategy's scope.

    Args:
        args: Read for optim, optim_args, learning_rate, weight_decay, adam_beta1, adam_beta2 and adam_epsilon.

    Raises:
        ArgumentError: If the optimizer or an option is unknown; the message suggests the nearest name.
        TracksideValueError: If no variable is trainable.
    """
    if not model.trainable_variables:
        raise TracksideValueError(f"{type(model).__name__} has no trainable variable")
    optimizer = _made(args)
    if not optimizer.weight_decay:
        optimizer.weight_decay = None  # otherwise Keras subtracts zeros at every step
    optimizer.exclude_from_weight_decay(var_list=variables_without_decay(model))
    return optimizer


def check_choice(args: Any) -> None:
    """Check the optimizer, and a plateau schedule, that ``args`` name, without a model.

    Raises:
        ArgumentError: As `create_optimizer` and `create_scheduler`.
    """
    optimizer = _made(args)
    if args.lr_scheduler_type == "reduce_lr_on_plateau":
        create_scheduler(optimizer, args, 1)


def _made(args: Any) -> Any:
    """Return the optimizer that ``args.optim`` names, with its options."""
    general = {"learning_rate": args.learning_rate, "weight_decay": args.weight_decay or None}
    optimizer_cls, options = choose_optimizer(args, OPTIMIZERS, **general)
    if issubclass(optimizer_cls, keras.optimizers.AdamW):
        options["weight_decay"] = options["weight_decay"] or 0.0
    with values_of("optim_args", args.optim_args, optimizer_cls.__name__):
        return optimizer_cls(**options)


def variables_without_decay(model: Any) -> list[Any]:
    """Return the variables that weight decay leaves alone, frozen or not: biases and the weights of norms."""
    norms = [layer for layer in layers_of(model) if "norm" in type(layer).__name__.lower()]
    exempt = {variable.path for layer in norms for variable in own_trainable_variables(layer)}
    return [variable for variable in model.weights if variable.path in exempt or "bias" in variable.name]


def prepare_optimizer(optimizer: Any, model: Any, replicas: int) -> Any:
    """Return ``optimizer`` built for what is trained, without Keras' loss scale, since the trainer has its own."""
    optimizer = without_loss_scale(optimizer)
    variables = model.trainable_variables
    if optimizer.built and not has_variables(optimizer, variables):
        own = {id(variable) for variable in model.weights}
        if own & {id(variable) for variable in variables_known_to(optimizer)}:
            rebuild(optimizer, model, variables_to_build(optimizer, model))
        else:
            logger.warning("the optimizer begins anew, since it was built for another model")
            optimizer = type(optimizer).from_config(optimizer.get_config())
    if not optimizer.built:
        optimizer.build(variables)
    # gradients are summed over the replicas before they are clipped; Keras must not sum them again, not even those of
    # one replica: TensorFlow would keep the graph of each run, in its registry of gradient functions, until the end
    if not skip_gradient_reduction(optimizer) and replicas > 1:
        raise TracksideValueError(f"Keras {keras.__version__} cannot be told that gradients are reduced already")
    return optimizer


def without_loss_scale(optimizer: Any) -> Any:
    """Return the optimizer that a LossScaleOptimizer of Keras wraps; another one itself."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def _adamw(args: Any) -> tuple[Any, dict[str, Any]]:
    return optimizers.AdamW, {"beta_1": args.adam_beta1, "beta_2": args.adam_beta2, "epsilon": args.adam_epsilon}


# defaults that differ between Keras and torch are those of torch, so that a run has the same results with both; Keras
# adds epsilon under the square root, so torch's epsilon is squared
OPTIMIZERS: dict[str, Callable[[Any], tuple[Any, dict[str, Any]]]] = {
    "adamw_torch": _adamw,
    "adamw_torch_fused": _adamw,
    "sgd": lambda args: (optimizers.SGD, {}),
    "adafactor": lambda args: (keras.optimizers.Adafactor, {}),
    "adagrad": lambda args: (optimizers.Adagrad, {"initial_accumulator_value": 0.0, "epsilon": 1e-20}),
    "rmsprop": lambda args: (optimizers.RMSprop, {"rho": 0.99, "epsilon": 1e-16}),
    "lion": lambda args: (keras.optimizers.Lion, {}),
}
"""Optimizers by the value of ``args.optim``. adamw_torch means AdamW as torch defines it."""


def own_optimizer(given: Any) -> Any:
    """Return an optimizer given by the user, which must be a Keras optimizer, not its name or its class.

    Raises:
        TracksideTypeError: If it is something else, or a MultiOptimizer.
    """
    if given is not None and not isinstance(given, keras.optimizers.Optimizer):
        what = given.__name__ if isinstance(given, type) else type(given).__name__
        raise TracksideTypeError(f"optimizers needs a Keras optimizer, such as keras.optimizers.Adam(); it got {what}")
    if isinstance(without_loss_scale(given), getattr(keras.optimizers, "MultiOptimizer", ())):
        raise TracksideTypeError(
            "MultiOptimizer has no learning rate of its own, which the schedule, the records and callbacks need. Give "
            "optimizers one optimizer; layers that learn more slowly can be unfrozen later by a callback"
        )
    return given


# -- schedules --------------------------------------------------------------------------------------------------------


class Schedule:
    """The learning rate as a function of the updates completed, with the methods of a torch scheduler.

    Args:
        learning_rate_at: Returns the learning rate after a number of updates.

    Attributes:
        held: The learning rate that holds instead, since a callback has set it; None if none has.
        factor: By what callbacks have multiplied the learning rate.
    """

    held: float | None = None
    factor: float = 1.0

    base: float | None = None

    def __init__(self, learning_rate_at: Callable[[int], float]) -> None:
        self.learning_rate_at = learning_rate_at
        self.last_epoch: int = 0
        self.learning_rate: float = float(learning_rate_at(0))

    def step(self) -> None:
        """Go to the next update."""
        self.last_epoch += 1
        if self.held is None:
            self.learning_rate = float(self.learning_rate_at(self.last_epoch)) * self.factor

    def scale(self, factor: float) -> None:
        """Multiply the learning rate by ``factor``, from now on."""
        if factor != 1.0:
            self.factor *= factor
            self.learning_rate *= factor
            self.held = None if self.held is None else self.held * factor

    def hold(self, learning_rate: float) -> None:
        """Take a learning rate that a callback has set, which holds until it sets another."""
        self.held = self.learning_rate = learning_rate

    def get_last_lr(self) -> list[float]:
        """Return the learning rate of the next update."""
        return [self.learning_rate]

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the schedule."""
        held = {} if self.held is None else {"held": self.held}
        return {"last_epoch": self.last_epoch, **held, **({} if self.factor == 1.0 else {"factor": self.factor})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned; the function of the step follows the current arguments."""
        self.last_epoch, self.held = int(state["last_epoch"]), state.get("held")
        self.factor = state.get("factor", 1.0)
        at_step = self.learning_rate_at(self.last_epoch) * self.factor if self.held is None else self.held
        self.learning_rate = float(at_step)


class PlateauSchedule(Schedule):
    """A schedule that lowers the learning rate when a metric no longer improves, with torch's options and rules.

    Source:
        torch.optim.lr_scheduler.ReduceLROnPlateau
    """

    def __init__(
        self,
        learning_rate: float,
        *,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(lambda step: learning_rate)
        self._factor, self._min_lr, self._eps = factor, min_lr, eps
        self._patience, self._cooldown = patience, cooldown
        self._sign = -1.0 if mode == "max" else 1.0
        self._margin, self._is_relative = self._sign * threshold, threshold_mode == "rel"
        self.mode_worse: float = self._sign * math.inf
        self.best: float = self.mode_worse
        self.num_bad_epochs: int = 0
        self.cooldown_counter: int = 0

    def step(self, metric: float | None = None) -> None:
        """Update the learning rate from the metric of an evaluation."""
        if metric is None:
            return
        if self._is_better(metric):
            self.best, self.num_bad_epochs = metric, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self._patience:
            lower = max(self.learning_rate * self._factor, self._min_lr)
            self.learning_rate = lower if self.learning_rate - lower > self._eps else self.learning_rate
            self.cooldown_counter, self.num_bad_epochs = self._cooldown, 0

    def hold(self, learning_rate: float) -> None:
        """Take a learning rate that a callback has set, which this schedule lowers further."""
        self.learning_rate: float = learning_rate

    def _is_better(self, metric: float) -> bool:
        bar = self.best * (1.0 - self._margin) if self._is_relative else self.best - self._margin
        return self._sign * metric < self._sign * bar

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the schedule."""
        names = ("learning_rate", "num_bad_epochs", "cooldown_counter")
        best = self.best if math.isfinite(self.best) else None
        return {name: getattr(self, name) for name in names} | {"best": best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        for name, value in state.items():
            if value is not None:
                setattr(self, name, value)


def create_scheduler(optimizer: Any, args: Any, num_training_steps: int) -> Schedule | None:
    """Return the schedule that ``args.lr_scheduler_type`` names; None if the optimizer has a Keras schedule.

    Raises:
        ArgumentError: If the schedule or an option is unknown; the message suggests the nearest name.
    """
    check_made(optimizer)
    optimizer = without_loss_scale(optimizer)
    if has_keras_schedule(optimizer):
        return None
    base = first_rate(optimizer)
    if base == float(np.float32(args.learning_rate)):  # Keras rounds it to float32
        base = args.learning_rate
    if args.lr_scheduler_type == "reduce_lr_on_plateau":
        options = plateau_options(args, PlateauSchedule)
        with values_of("lr_scheduler_kwargs", args.lr_scheduler_kwargs, "reduce_lr_on_plateau"):
            return PlateauSchedule(base, **options)
    defaults = {"power": args.poly_power} if args.lr_scheduler_type == "polynomial" else {}
    factor = schedule_of(args, num_training_steps, base, **defaults)
    schedule = Schedule(lambda step: base * factor(step))
    schedule.base = base
    return schedule


def first_rate(optimizer: Any) -> float:
    """Return the learning rate of an optimizer, or that with which the last run began if it left the present one."""
    rate = rate_of(optimizer)
    first, last = getattr(optimizer, "_rates_of_run", (rate, rate))
    return float(first) if rate == last else rate


def note_rates(optimizer: Any, schedule: Any) -> None:
    """Keep with an optimizer what rate a run with a schedule began with, and what it leaves, for the next run."""
    optimizer = without_loss_scale(optimizer)
    if isinstance(schedule, Schedule) and not has_keras_schedule(optimizer):
        optimizer._rates_of_run = rate_of(optimizer) if schedule.base is None else schedule.base, rate_of(optimizer)


def own_schedule(given: Any) -> Schedule | None:
    """Return a schedule given by the user, which may be any function of the step, as a `Schedule`."""
    if given is None or hasattr(given, "get_last_lr"):
        return given  # type: ignore[no-any-return]
    if callable(given):
        check_call("the schedule in optimizers", given, "step")
        return Schedule(lambda step: float(given(step)))
    raise TracksideTypeError(f"optimizers needs a schedule that is a function of the step, not {type(given).__name__}")


def rate_of(optimizer: Any) -> float:
    """Return the learning rate of a Keras optimizer, on any devices."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
