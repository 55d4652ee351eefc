"""Restoring of a Keras optimizer and its schedule under new arguments; `trackside.trainer.optim.resuming` decides.

The hyperparameters of a Keras optimizer are attributes, which the checkpoint does not hold; only its learning rate is a
variable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.optim.resuming import (
    MadeOptimizer,
    class_note,
    described,
    fresh_note,
    frozen_as_in,
    position_of,
)

from ..snapshot import named_variables
from ._compat import has_keras_schedule, variables_known_to
from .factory import Schedule, rate_of
from .frozen import flags_of, set_flags
from .slots import owner_of, rebuild, slot_ids, variables_to_build

COUNTER, RATE = "iteration", "learning_rate"
"""Names of the variables of every optimizer."""


class TFMadeOptimizer(MadeOptimizer):
    """An optimizer of Keras and its schedule as made.

    Args:
        optimizer: Built for the variables of the model; nothing is restored into it yet.
        schedule: A `Schedule`, or an object with its methods; None for none.
        model: Its variables are those of the optimizer, and others.

    Attributes:
        builds: How often the optimizer was built for other variables.
    """

    def __init__(self, optimizer: Any, schedule: Any, model: Any) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        self._model = model
        self._variables: dict[str, Any] = {}
        self._ids: dict[str, str] = {}
        self.builds: int = 0
        self._first_rate = 0.0 if has_keras_schedule(optimizer) else rate_of(optimizer)
        self.record: dict[str, Any] = {
            "class": type(optimizer).__name__,
            "options": {**described(optimizer.get_config()), "name": None},
            "schedule": None if schedule is None else _description(schedule),
        }
        self.begin_run()

    def begin_run(self) -> None:
        """Note the variables of the optimizer, and which layers are trainable when a run begins."""
        flags = flags_of(self._model)
        self.record["trainable"] = {"made": flags, "now": flags}
        self._note_variables()

    def _note_variables(self) -> None:
        self._variables = dict(named_variables(self.optimizer))
        self.record["slots"] = self._ids = slot_ids(self.optimizer, self._model)

    # -- layers that are frozen or unfrozen within a run ------------------------------------------------------------

    def take_trainable(self, owners: Sequence[str] = ()) -> None:
        """Note which layers are trainable now; build the optimizer for variables that it lacks.

        Args:
            owners: Variables of the model that it is to have, too, as `owner_of` returns them.
        """
        self.record["trainable"]["now"] = flags_of(self._model)
        wanted = variables_to_build(self.optimizer, self._model, owners)
        if {id(each) for each in wanted} != {id(each) for each in variables_known_to(self.optimizer)}:
            rebuild(self.optimizer, self._model, wanted)
            self._note_variables()
            self.builds += 1

    def _freeze_as_in(self, before: Mapping[str, Any] | None) -> list[str]:
        """Freeze and unfreeze what callbacks had frozen and unfrozen, and build the optimizer for it."""
        then, made = (before or {}).get("trainable"), self.record["trainable"]["made"]
        notes = frozen_as_in(before, self.record, partial(set_flags, self._model))
        if before is not None and then is not None and then["made"] == made:
            self.take_trainable([owner_of(slot_id) for slot_id in before["slots"].values()])
        return notes

    # -- optimizer ------------------------------------------------------------------------------------------------

    def load_optimizer(self, content: Any, before: Mapping[str, Any] | None) -> list[str]:
        """Restore the variables, matched by the variables of the model that they belong to."""
        path, notes = Path(content), self._freeze_as_in(before)
        with np.load(path, allow_pickle=False) as arrays:
            saved = {name: arrays[name] for name in arrays.files}
        found = self._found(saved, before)
        lacking = [name for name in self._variables if name not in found]
        is_same = (before or self.record)["class"] == self.record["class"]
        if before is None and (lacking or set(saved) - set(self._variables)):
            raise CheckpointError(
                f"{path} is of another optimizer or model: missing {lacking[:5] or 'none'}; unknown "
                f"{sorted(set(saved) - set(self._variables))[:5] or 'none'}"
            )
        fits = is_same or (not lacking and len(found) == len(saved))
        if not fits:
            found = {name: value for name, value in found.items() if self._is_position(name)}
        if before is not None and before["options"].get(RATE) != self.record["options"].get(RATE):
            found = {name: value for name, value in found.items() if self._ids[name] != RATE}
        for name, value in found.items():
            self._variables[name].assign(value)
        notes += class_note(before, self.record, fits)
        return notes + (fresh_note(self._new(lacking, before)) if fits else [])

    def _found(self, saved: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the values in the checkpoint, by the name of the variable here."""
        old_ids = before["slots"] if before else {name: name for name in saved}
        own_ids = self._ids if before else {name: name for name in self._variables}
        by_id = {old_ids[name]: value for name, value in saved.items() if name in old_ids}
        return {
            name: by_id[own_ids[name]]
            for name, variable in self._variables.items()
            if own_ids[name] in by_id and by_id[own_ids[name]].shape == tuple(variable.shape)
        }

    def _is_position(self, name: str) -> bool:
        """Return whether a variable is the position of a schedule of Keras, which holds for any optimizer."""
        return self._ids[name] == COUNTER and has_keras_schedule(self.optimizer)

    def _new(self, lacking: list[str], before: Mapping[str, Any] | None) -> list[str]:
        """Return the variables of the model of which the checkpoint has no state at all."""
        known = {owner_of(slot_id) for slot_id in (before or {}).get("slots", {}).values()}
        owners = [owner_of(self._ids[name]) for name in lacking]
        return list(dict.fromkeys(owner.partition(":")[2] for owner in owners if owner and owner not in known))

    # -- schedule -------------------------------------------------------------------------------------------------

    def load_schedule(self, state: Any, before: Mapping[str, Any] | None, step: int) -> list[str]:
        """Restore the schedule, and give its learning rate to the optimizer."""
        notes = super().load_schedule(state, before, step)
        if self.schedule is not None and not has_keras_schedule(self.optimizer):
            self.optimizer.learning_rate.assign(self._rate())
        return notes

    def reschedule(self, make: Callable[[], Any], step: int) -> None:
        """Replace the schedule by one for another length of the run, at the same position, unless it is made alike."""
        rate = rate_of(self.optimizer)
        self.optimizer.learning_rate.assign(self._first_rate)  # of which the schedule is made
        schedule, then = make(), self.record["schedule"]
        self.optimizer.learning_rate.assign(rate)
        now = _description(schedule)
        if now == then:
            return
        state = self.schedule.state_dict()
        self.schedule, self.record = schedule, {**self.record, "schedule": now}
        self._go_to(position_of(state, then, now, step))
        self.scale_rates(state.get("factor", 1.0))

    def scale_rates(self, factor: float) -> str | None:
        """Multiply the learning rate of the optimizer, and all of the schedule."""
        if has_keras_schedule(self.optimizer):
            return "the optimizer has a schedule of Keras, which cannot be changed"
        if factor != 1.0:
            self.optimizer.learning_rate.assign(rate_of(self.optimizer) * factor)
        if self.schedule is None:
            return None
        if not isinstance(self.schedule, Schedule):
            return f"the schedule {type(self.schedule).__name__} sets the rate itself"
        self.schedule.scale(factor)
        return None

    def _go_to(self, position: int) -> None:
        """Take the schedule to a position; one of the user's own is stepped there."""
        if isinstance(self.schedule, Schedule):
            self.schedule.load_state_dict({"last_epoch": position})
            return
        for _ in range(position):
            self.schedule.step()

    def _rate(self) -> float:
        """Return the learning rate of the schedule."""
        return float(self.schedule.get_last_lr()[0])


def _description(schedule: Any) -> dict[str, Any]:
    others = (keras.optimizers.Optimizer, keras.Model, keras.Variable, tf.Variable)  # whose names have counters
    state = {name: value for name, value in getattr(schedule, "__dict__", {}).items() if not isinstance(value, others)}
    return {"class": type(schedule).__name__, "state": described(state)}
