"""Several optimizers as one, such as those of a generator and a discriminator, and their schedules as one."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError, UnsupportedError, did_you_mean

from ..loss import zero_gradients_of
from .closure import needs_closure


class Optimizers(Optimizer):
    """Several optimizers, whose groups and state are those of one; a checkpoint holds them like those of one.

    Args:
        parts: The optimizers by name.

    Attributes:
        parts: The optimizers by name, in a dict of their own.

    Raises:
        TracksideValueError: If two of them have a parameter in common.
    """

    def __init__(self, parts: Mapping[str, Optimizer]) -> None:
        self.parts: dict[str, Optimizer] = dict(parts)
        self._is_made = False
        super().__init__(self.param_groups, {})
        self._is_made = True
        owners: dict[Tensor, str] = {}
        for name in self.parts:
            for parameter in self.parameters_of(name):
                if owners.setdefault(parameter, name) != name:
                    raise TracksideValueError(
                        f"the optimizers {owners[parameter]!r} and {name!r} have a parameter of shape "
                        f"{tuple(parameter.shape)} in common; give each its own"
                    )

    def parameters_of(self, name: str) -> list[Tensor]:
        """Return the parameters of one optimizer."""
        return [parameter for group in self.parts[name].param_groups for parameter in group["params"]]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all optimizers, in their order."""
        return [group for part in self.parts.values() for group in part.param_groups]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if self._is_made:
            rest = iter(groups)
            for part in self.parts.values():
                part.param_groups = list(islice(rest, len(part.param_groups)))

    @property
    def state(self) -> Any:
        """The states of all optimizers by parameter."""
        return _States(*(part.state for part in self.parts.values()))

    @state.setter
    def state(self, states: Mapping[Any, Any]) -> None:
        if self._is_made:
            for name, part in self.parts.items():
                own = {id(parameter) for parameter in self.parameters_of(name)}
                part.state.clear()
                part.state.update({key: value for key, value in states.items() if id(key) in own})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.param_groups = state.pop("param_groups")
        self.state = state.pop("state")
        for part in self.parts.values():
            part.__setstate__({"state": part.state, "param_groups": part.param_groups})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a group without its optimizer.

        Raises:
            TracksideValueError: Always.
        """
        if self._is_made:
            raise TracksideValueError(
                f"a group is added to one of the optimizers: optimizer.parts[name].add_param_group, with a name of "
                f"{', '.join(self.parts)}"
            )

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step all optimizers."""
        for part in self.parts.values():
            part.step()

    def train(self) -> None:
        """Put the optimizers that have modes into training mode."""
        self._call("train")

    def eval(self) -> None:
        """Put the optimizers that have modes into evaluation mode."""
        self._call("eval")

    def _call(self, name: str) -> None:
        for part in self.parts.values():
            getattr(part, name, lambda: None)()


class _States(ChainMap[Any, Any]):
    """The states of several optimizers; a value goes where the one that it replaces is."""

    def __getitem__(self, key: Any) -> Any:
        for states in self.maps:
            if key in states:  # they make what they lack
                return states[key]
        raise KeyError(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        next((states for states in self.maps if key in states), self.maps[0])[key] = value


class Schedules:
    """Several schedules, stepped together.

    Args:
        parts: The schedules by name.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts: dict[str, Any] = dict(parts)

    def step(self) -> None:
        """Step every schedule."""
        for part in self.parts.values():
            part.step()

    def get_last_lr(self) -> list[Any]:
        """Return the learning rates of all groups."""
        return [rate for part in self.parts.values() for rate in part.get_last_lr()]

    def state_dict(self) -> dict[str, Any]:
        """Return the states by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states that `state_dict` returned."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def backward_of_each(step: Any, losses: dict[str, Any], inputs: Any) -> Tensor:
    """Run the backward pass of the loss of each optimizer, into its own parameters; return the sum of the losses.

    Args:
        step: The training step.
        losses: Results of compute_loss, by the name of the optimizer.
        inputs: The micro-batch.

    Raises:
        TracksideValueError: If a loss has no optimizer.
        UnsupportedError: On several processes, whose gradients are exchanged in one backward pass.
    """
    optimizer, context = step.trainer.optimizer, step.context
    parts = getattr(optimizer, "parts", {})
    for name in losses:
        if name not in parts:
            if not parts:
                raise TracksideValueError(
                    f"the loss is a dict of {', '.join(map(repr, losses))}: one for each of several optimizers, "
                    "and the trainer has one. Return their sum, and log each with trainer.log(), or override "
                    "create_optimizer"
                )
            near = did_you_mean(name, parts)
            raise TracksideValueError(
                f"compute_loss returned a loss for optimizer {name!r}; known: {', '.join(parts)}.{near}"
            )
    if step.strategy.world_size > 1:
        raise UnsupportedError("compute_loss returned several losses, which only a single process can train with")
    total: Any = 0.0
    with step.precision.forward():
        means = step.observer.weigh_each(losses.values(), inputs, context)
    is_empty = not isinstance(context.weight, Tensor) and context.weight == 0.0
    for name, loss in zip(losses, means, strict=True):
        only = optimizer.parameters_of(name)
        with zero_gradients_of(loss, step.trainer.model) if is_empty else nullcontext(loss) as start:
            step.precision.backward(start, context.weight, is_last=context.is_last, only=only)
        total = total + loss.detach()
    return torch.as_tensor(total)


def as_one_optimizer(made: Any) -> Any:
    """Return a dict or list of optimizers as one, and anything else unchanged.

    Raises:
        TracksideTypeError: If a part is not an optimizer.
        UnsupportedError: If a part needs a closure.
    """
    if not isinstance(made, (Mapping, list, tuple)):
        return made
    parts = dict(_named(made))
    for name, part in parts.items():
        if not isinstance(part, Optimizer):
            raise TracksideTypeError(
                f"create_optimizer() returned a {type(made).__name__} with {name!r}, a {type(part).__name__}; each "
                "must be a torch.optim.Optimizer"
            )
        if needs_closure(part):
            raise UnsupportedError(
                f"{type(part).__name__}, the optimizer {name!r}, needs a closure, which computes the whole update; it "
                "cannot be one of several"
            )
    return Optimizers(parts)


def parts_of(optimizer: Any) -> list[Any]:
    """Return the optimizers of which `Optimizers` consists, or the only one."""
    return list(optimizer.parts.values()) if isinstance(optimizer, Optimizers) else [optimizer]


def as_one_schedule(made: Any) -> Any:
    """Return a dict or list of schedules as one, and anything else unchanged."""
    return Schedules(dict(_named(made))) if isinstance(made, (Mapping, list, tuple)) else made


def _named(made: Any) -> Iterator[tuple[str, Any]]:
    items = made.items() if isinstance(made, Mapping) else enumerate(made)
    return ((str(name), part) for name, part in items)
