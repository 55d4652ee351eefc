"""Restoring of a torch optimizer and its schedule under new arguments; `trackside.trainer.optim.resuming` decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

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

from ..snapshot import ADDED, LATE, load_optimizer
from .frozen import flags_of, set_flags
from .packaged import name_of
from .rates import scale_rates, step_to
from .saved_state import SavedState
from .several import Optimizers, as_one_schedule, parts_of

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
        old_names = _names_at_the_end(before, content) if before else []
        saved = SavedState(content, _flat(old_names), self.optimizer, _flat(self._names))
        is_same = (before or self.record)["class"] == self.record["class"]
        has_other_groups = before is not None and before.get("groups") != self.record["groups"]
        fits = saved.complete(is_same) if has_other_groups or not is_same else True
        notes = class_note(before, self.record, fits)
        if fits:
            notes += fresh_note(saved.fresh_names() if content["state"] else [])
            saved.load()
        return notes

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


def _class_of(optimizer: Any) -> str:
    return " and ".join(name_of(type(part)) for part in parts_of(optimizer))


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


def _all_named(names: list[list[str | None]]) -> bool:
    return None not in _flat(names)


def _flat(names: list[list[str | None]]) -> list[str | None]:
    return [name for group in names for name in group]
