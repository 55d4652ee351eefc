"""Restoring of a torch optimizer and its schedule under new arguments; `trackside.trainer.optim.resuming` decides."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.optim.resuming import (
    MadeOptimizer,
    class_note,
    described,
    fresh_note,
    frozen_as_in,
    merged,
    position_of,
)

from ..snapshot import ADDED, LATE, WEIGHT_DTYPES, load_optimizer
from .belonging import is_state_of
from .frozen import flags_of, set_flags
from .packaged import name_of
from .rates import scale_rates, step_to
from .several import Optimizers, as_one_schedule

KERNELS = ("fused", "foreach")
"""Options of torch's optimizers that select the kernel of a step, not its result."""

NOT_COMPARED = ("params", "param_names", *KERNELS)
"""Entries of a parameter group that are not hyperparameters."""


class TorchMadeOptimizer(MadeOptimizer):
    """An optimizer of torch and its schedule as made.

    Args:
        optimizer: Nothing is restored into it yet.
        schedule: A scheduler of torch, or an object with its methods; None for none.
        model: Has the names of the parameters.
    """

    def __init__(self, optimizer: Any, schedule: Any, model: nn.Module) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        self._model = model
        self._values = [_values_of(group) for group in optimizer.param_groups]
        self.record: dict[str, Any] = {
            "class": _class_of(optimizer),
            "groups": [
                {"params": params, "options": _plain_options(values)}
                for params, values in zip(self._names, self._values, strict=True)
            ],
            "schedule": None if schedule is None else _description(schedule),
            "trainable": dict.fromkeys(("made", "now"), flags_of(model)),
        }

    @property
    def _names(self) -> list[list[str | None]]:
        """The names of the parameters in each group now; parameters that were unfrozen later come last."""
        names = {id(parameter): name.replace("_orig_mod.", "") for name, parameter in self._model.named_parameters()}
        return [[names.get(id(each)) for each in group["params"]] for group in self.optimizer.param_groups]

    @property
    def added(self) -> list[list[str | None]]:
        """The names of the parameters in groups that a callback has added to the optimizer."""
        return [] if isinstance(self.optimizer, Optimizers) else self._names[len(self._values) :]

    # -- optimizer ------------------------------------------------------------------------------------------------

    def load_optimizer(self, content: Any, before: Mapping[str, Any] | None) -> list[str]:
        """Restore the state, matched by the names of the parameters, and hyperparameters that were made alike."""
        groups = self.optimizer.param_groups if content is None else content.get("param_groups")
        if groups is None:  # the state of another kind of optimizer, which knows what to do with it
            load_optimizer(self.optimizer, content)
            return []
        saved = [dict(group) for group in groups]
        if content is None:  # the shards are loaded
            notes = class_note(before, self.record, bool(self.optimizer.state))
        else:
            notes = self._load_state(content, before)
        notes += frozen_as_in(before, self.record, partial(set_flags, self._model))
        for index, group in enumerate(self.optimizer.param_groups):
            self._load_group(group, index, saved, before)
        return notes

    def _load_group(
        self, group: dict[str, Any], index: int, saved: list[dict[str, Any]], before: Mapping[str, Any] | None
    ) -> None:
        if index >= len(self._values):  # a callback had added it
            group.update({name: value for name, value in saved[index].items() if name not in NOT_COMPARED})
            return
        values, now = dict(self._values[index]), self.record["groups"][index]["options"]
        old = self._old_group(index, len(saved), before)
        if old is not None:
            made = before["groups"][old]["options"] if before else {**now, **dict.fromkeys(_steady(now))}
            added = {name: value for name, value in saved[old].items() if name not in {*made, *values, *NOT_COMPARED}}
            values = {**merged(values, saved[old], made, now), **added}
        for name in [name for name in group if name not in NOT_COMPARED and name not in values]:
            del group[name]
        group.update(values)

    def _old_group(self, index: int, count: int, before: Mapping[str, Any] | None) -> int | None:
        """Return the index of the checkpoint's group with the parameters of a group; None if they are new."""
        if before is None or not _all_named(self._names) or not _all_named(_old_names(before)):
            return index if count == len(self._names) else None
        if count < len(before["groups"]):
            return None
        shared = [len(set(names) & set(self._names[index])) for names in _old_names(before)]
        if any(shared):
            return shared.index(max(shared))
        is_empty = not self._names[index] and index < count and not _old_names(before)[index]
        return index if is_empty else None

    def _load_state(self, content: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[str]:
        own = self.optimizer.state_dict()
        saved, is_same = content["state"], (before or self.record)["class"] == self.record["class"]
        pairs = self._fitting(self._pairs(content, before, own), saved, own)
        entries = {new: saved[old] for new, old in pairs.items() if old in saved}
        fits = True
        if (before is not None and before.get("groups") != self.record["groups"]) or not is_same:
            fits = self._fit(entries, own, is_same)
        notes = class_note(before, self.record, fits)
        if fits:
            notes += fresh_note(self._names_without(pairs, own) if saved else [])
            dtypes = _reordered(content, own, pairs)
            load_optimizer(self.optimizer, {**content, **own, **dtypes, "state": {**own["state"], **entries}})
        return notes

    def _pairs(self, content: Any, before: Mapping[str, Any] | None, own: Any) -> dict[int, int]:
        """Return the number of each parameter in the checkpoint, by its number here: by name, or else by position."""
        old, new = _numbers(content), _numbers(own)
        old_names = [name for names in _names_at_the_end(before, content) for name in names] if before else []
        names = [name for group in self._names for name in group]
        if len(old_names) == len(old) and _all_named([old_names, names]):
            by_name = dict(zip(old_names, old, strict=True))
            return {number: by_name[name] for number, name in zip(new, names, strict=True) if name in by_name}
        sizes = [
            [len(group["params"]) for group in groups] for groups in (content["param_groups"], own["param_groups"])
        ]
        return dict(zip(new, old, strict=True)) if sizes[0] == sizes[1] else {}

    def _fitting(self, pairs: dict[int, int], saved: Mapping[int, Any], own: Any) -> dict[int, int]:
        """Return the pairs without those whose state is of a parameter of another shape."""
        groups = zip(self.optimizer.param_groups, own["param_groups"], strict=True)
        places = [
            (number, parameter, _owner(self.optimizer, group))
            for group, packed in groups
            for number, parameter in zip(packed["params"], group["params"], strict=True)
        ]
        misfits = {new for new, *place in places if new in pairs and not is_state_of(saved.get(pairs[new], {}), *place)}
        return {new: old for new, old in pairs.items() if new not in misfits}

    def _fit(self, entries: dict[int, Any], own: Any, is_same: bool) -> bool:
        """Complete the state of an optimizer with other options in place; return False if it is of another kind."""
        for group, packed in zip(self.optimizer.param_groups, own["param_groups"], strict=True):
            made: dict[int, dict[str, Any] | None] = {}
            for number, parameter in zip(packed["params"], group["params"], strict=True):
                if number not in entries:
                    continue
                if parameter.ndim not in made:
                    ready = self.optimizer.state.get(parameter)
                    made[parameter.ndim] = ready or state_of_one(_owner(self.optimizer, group), group, parameter)
                needed = made[parameter.ndim]
                if not is_same and (needed is None or set(entries[number]) != set(needed)):
                    return False
                entries[number] = {**_like(needed or {}, parameter), **entries[number]}
        return True

    def _names_without(self, pairs: Mapping[int, int], own: Any) -> list[str]:
        names = [name for group in self._names for name in group]
        return [str(name or number) for number, name in zip(_numbers(own), names, strict=True) if number not in pairs]

    # -- schedule -------------------------------------------------------------------------------------------------

    def reschedule(self, make: Callable[[], Any], step: int) -> None:
        """Replace the schedule by one for another length of the run, at the same position, unless it is made alike."""
        state, then, groups = self.schedule.state_dict(), self.record["schedule"], self.optimizer.param_groups
        before = [_values_of(group) for group in groups]
        for group in groups:
            group.update({"lr": group["initial_lr"]} if "initial_lr" in group else {})
        schedule = as_one_schedule(make())
        now = _description(schedule)
        if now != then:
            self.schedule, self.record = schedule, {**self.record, "schedule": now}
            for values, group, old in zip(self._values, groups, before, strict=True):
                values.update({name: group[name] for name in old if described(group[name]) != described(old[name])})
        for group, old in zip(groups, before, strict=True):
            group.update(old)
        if now != then:
            self._go_to(position_of(state, then, now, step))

    def scale_rates(self, factor: float) -> str | None:
        """Multiply the learning rates of all groups and of the schedule."""
        return scale_rates(self.optimizer, self.schedule, factor)

    def _go_to(self, position: int) -> None:
        """Step the schedule from its beginning; what it does not set keeps its value."""
        groups = self.optimizer.param_groups
        decided = [dict(group) for group in groups]
        for group, values in zip(groups, self._values, strict=True):
            group.update(_values_of(values))
        try:
            step_to(self.schedule, position)
        except Exception as error:
            name = type(self.schedule).__name__
            raise TracksideValueError(f"the schedule {name} cannot go to update {position}: {error}") from error
        for group, values, own in zip(groups, self._values, decided, strict=True):
            unset = [name for name in values if name != "lr" and described(group[name]) == described(values[name])]
            group.update({name: own[name] for name in unset})

    def _rate(self) -> float:
        """Return the learning rate of the first group."""
        return float(self.optimizer.param_groups[0]["lr"])


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


def _parts(optimizer: Any) -> list[Any]:
    """Return the optimizers of which `Optimizers` consists, or the only one."""
    return list(optimizer.parts.values()) if isinstance(optimizer, Optimizers) else [optimizer]


def _class_of(optimizer: Any) -> str:
    return " and ".join(name_of(type(part)) for part in _parts(optimizer))


def _owner(optimizer: Any, group: Mapping[str, Any]) -> Any:
    return next(part for part in _parts(optimizer) if any(each is group for each in part.param_groups))


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


def _reordered(content: Mapping[str, Any], own: Mapping[str, Any], pairs: Mapping[int, int]) -> dict[str, list[str]]:
    """Return the types of the weights when the checkpoint was written, in the order of the parameters here."""
    if WEIGHT_DTYPES not in content:
        return {}
    by_number = dict(zip(_numbers(content), content[WEIGHT_DTYPES], strict=False))
    return {WEIGHT_DTYPES: [by_number.get(pairs.get(number, -1), "") for number in _numbers(own)]}


def _description(schedule: Any) -> dict[str, Any]:
    state = schedule.state_dict() if hasattr(schedule, "state_dict") else vars(schedule)
    functions = described(getattr(schedule, "lr_lambdas", None))
    return {"class": type(schedule).__name__, "state": described(state), "functions": functions}


def _values_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of the hyperparameters of a group."""
    values = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()}


def _plain_options(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: described(value) for name, value in values.items() if name not in NOT_COMPARED}


def _steady(options: Mapping[str, Any]) -> list[str]:
    """Return the hyperparameters other than the learning rate, as made by a checkpoint without a record."""
    return [name for name in options if name != "lr"]


def _old_names(before: Mapping[str, Any]) -> list[list[str | None]]:
    return [group["params"] for group in before["groups"]]


def _names_at_the_end(before: Mapping[str, Any], content: Mapping[str, Any]) -> list[list[str | None]]:
    """Return the names in each group when the checkpoint was written, those that were unfrozen last."""
    late = content.get(LATE, ())
    made = [
        [*names, *(name.replace("_orig_mod.", "") for place, name in late if place == index)]
        for index, names in enumerate(_old_names(before))
    ]
    return [*made, *content.get(ADDED, ())]


def _all_named(names: list[Any]) -> bool:
    return all(name is not None for group in names for name in group)
