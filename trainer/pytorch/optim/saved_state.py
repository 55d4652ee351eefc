"""The optimizer state of a checkpoint, matched with the parameters of an optimizer made under new arguments."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..snapshot import WEIGHT_DTYPES, load_optimizer
from .several import parts_of

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "acc_delta", "sum")
"""State of torch's optimizers that has the shape of the parameter."""


class SavedState:
    """The state of an optimizer in a checkpoint, for the parameters of one that is made.

    A parameter whose state in the checkpoint has another shape is left out.

    Args:
        content: The state dict in the checkpoint.
        old_names: The names of its parameters in their order; empty if unknown.
        optimizer: Nothing is restored into it yet.
        names: The names of its parameters in their order.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        old_names: Sequence[str | None],
        optimizer: Any,
        names: Sequence[str | None],
    ) -> None:
        self._content = content
        self._optimizer = optimizer
        self._names = names
        self._own: dict[str, Any] = optimizer.state_dict()
        self._old_numbers: dict[int, int] = self._without_misfits(self._matched(old_names))
        saved = content["state"]
        self._entries = {new: saved[old] for new, old in self._old_numbers.items() if old in saved}

    def complete(self, is_same: bool) -> bool:
        """Add the state that an optimizer with these options has besides; return False if it is of another kind.

        Args:
            is_same: Whether the optimizer of the checkpoint is of the same class.
        """
        for group, packed in self._groups():
            made: dict[int, dict[str, Any] | None] = {}
            for number, parameter in zip(packed["params"], group["params"], strict=True):
                if number not in self._entries:
                    continue
                if parameter.ndim not in made:
                    ready = self._optimizer.state.get(parameter)
                    made[parameter.ndim] = ready or state_of_one(_owner(self._optimizer, group), group, parameter)
                needed, entry = made[parameter.ndim], self._entries[number]
                if not is_same and (needed is None or set(entry) != set(needed)):
                    return False
                self._entries[number] = {**_like(needed or {}, parameter), **entry}
        return True

    def fresh_names(self) -> list[str]:
        """Return the names, or else the numbers, of the parameters without state in the checkpoint."""
        numbers = zip(_numbers(self._own), self._names, strict=True)
        return [str(name or number) for number, name in numbers if number not in self._old_numbers]

    def load(self) -> None:
        """Restore the state into the optimizer, whose options stay."""
        state = {"state": {**self._own["state"], **self._entries}}
        load_optimizer(self._optimizer, {**self._content, **self._own, **self._reordered_dtypes(), **state})

    def _groups(self) -> Any:
        """Return each group of the optimizer, with its packed form, which numbers the parameters."""
        return zip(self._optimizer.param_groups, self._own["param_groups"], strict=True)

    def _matched(self, old_names: Sequence[str | None]) -> dict[int, int]:
        """Return the number of each parameter in the checkpoint, by its number here: by name, or else by position."""
        old, new = _numbers(self._content), _numbers(self._own)
        if len(old_names) == len(old) and None not in (*old_names, *self._names):
            by_name = dict(zip(old_names, old, strict=True))
            return {number: by_name[name] for number, name in zip(new, self._names, strict=True) if name in by_name}
        sizes, own_sizes = (
            [len(group["params"]) for group in each["param_groups"]] for each in (self._content, self._own)
        )
        return dict(zip(new, old, strict=True)) if sizes == own_sizes else {}

    def _without_misfits(self, pairs: dict[int, int]) -> dict[int, int]:
        saved = self._content["state"]
        places = [
            (number, parameter, _owner(self._optimizer, group))
            for group, packed in self._groups()
            for number, parameter in zip(packed["params"], group["params"], strict=True)
        ]
        misfits = {new for new, *place in places if new in pairs and not is_state_of(saved.get(pairs[new], {}), *place)}
        return {new: old for new, old in pairs.items() if new not in misfits}

    def _reordered_dtypes(self) -> dict[str, list[str]]:
        """Return the types of the weights when the checkpoint was written, in the order of the parameters here."""
        if WEIGHT_DTYPES not in self._content:
            return {}
        by_number = dict(zip(_numbers(self._content), self._content[WEIGHT_DTYPES], strict=False))
        return {WEIGHT_DTYPES: [by_number.get(self._old_numbers.get(each, -1), "") for each in _numbers(self._own)]}


def is_state_of(state: Mapping[str, Any], parameter: Tensor, optimizer: Any) -> bool:
    """Return whether the state of an optimizer has the shape of a parameter; of others than torch's own, it may be any.

    The kernels of torch do not look: they read and write beyond the end of state that is smaller.
    """
    is_known = type(optimizer).__module__.startswith("torch.optim")
    found = [state[name] for name in MOMENTS if isinstance(state.get(name), Tensor)] if is_known else []
    return all(moment.shape == parameter.shape for moment in found)


def state_of_one(optimizer: Any, group: Mapping[str, Any], parameter: Tensor) -> dict[str, Any] | None:
    """Return the state that an optimizer makes at its first step for one element with the options of ``group``.

    Args:
        parameter: The element has as many dimensions, of length 1.

    Returns:
        The state by name; None if the optimizer cannot step such a parameter.
    """
    one = torch.zeros([1] * parameter.ndim, dtype=parameter.dtype, device=parameter.device, requires_grad=True)
    one.grad = torch.zeros_like(one)
    probe = object.__new__(type(optimizer))
    vars(probe).update({name: value for name, value in vars(optimizer).items() if name != "step"})
    hooks: dict[str, Any] = {name: OrderedDict() for name in vars(optimizer) if name.endswith("_hooks")}
    vars(probe).update(hooks, state=defaultdict(dict), param_groups=[{**group, "params": [one]}])
    try:
        type(optimizer).step(probe)
        return dict(probe.state[one])
    except Exception:
        return None


def _owner(optimizer: Any, group: Mapping[str, Any]) -> Any:
    return next(part for part in parts_of(optimizer) if any(each is group for each in part.param_groups))


def _like(needed: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """Return the state of one element, for a whole parameter."""
    shape = torch.Size([1] * parameter.ndim)
    return {
        name: torch.full_like(parameter, value.item(), dtype=value.dtype, requires_grad=False)
        if isinstance(value, Tensor) and value.shape == shape and parameter.ndim
        else copy.deepcopy(value)
        for name, value in needed.items()
    }


def _numbers(state: Mapping[str, Any]) -> list[int]:
    return [number for group in state["param_groups"] for number in group["params"]]


def _sizes(state: Mapping[str, Any]) -> list[int]:
    """Return the number of parameters in each group."""
    return [len(group["params"]) for group in state["param_groups"]]
