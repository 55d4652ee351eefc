"""The state of a run, which callbacks read, and its control, by which they steer it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._util.conversion import convert, hints_of
from ._util.display import called_with, html_table, is_default, short_repr, shown
from ._util.plain_data import to_json
from .errors import CallbackError, TracksideValueError, did_you_mean


@dataclass
class TrainerState:
    """How far a run has come. Saved in every checkpoint as trainer_state.json.

    Attributes:
        epoch: Epochs completed, with the fraction of the current one.
        global_step: Updates completed.
        max_steps: Updates of the whole run.
        num_train_epochs: Epochs of the whole run, rounded up.
        logging_steps: Updates between two log records.
        eval_steps: Updates between two evaluations.
        save_steps: Updates between two checkpoints.
        train_batch_size: Examples of one micro-batch on one process.
        total_flos: Floating point operations done, where the model reports them.
        num_input_tokens_seen: Input tokens trained on.
        log_history: Every log record, oldest first; each holds ``step`` and, while training, ``epoch``.
        best_metric: Best value seen of ``args.metric_for_best_model``.
        best_global_step: The step of that value.
        best_model_checkpoint: Path of the checkpoint of that step.
        stop_reason: Why training stopped before its last step; None if it did not.
        stopped_by: Name of the signal that stopped training, such as "SIGTERM"; None if none did.
        run_id: The id of the run, which its checkpoints carry and which is kept when it is resumed.
        stateful_callbacks: The state of each callback, by its name.
        callback_classes: The class of each callback, by its name.
        extra: Keys of a state file that this version does not know; written back unchanged.
    """

    epoch: float | None = None
    global_step: int = 0
    max_steps: int = 0
    num_train_epochs: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    total_flos: float = 0.0
    num_input_tokens_seen: int = 0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)
    callback_classes: dict[str, str] = field(default_factory=dict)
    stop_reason: str | None = None
    stopped_by: str | None = None
    run_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @short_repr
    def __repr__(self) -> str:
        return called_with(type(self).__name__, _changed(self, IN_SHORT))

    def _repr_html_(self) -> str:
        """Return the fields that are not as at the beginning, and the newest records, for a notebook."""
        fields = html_table([(name, shown(value, name)) for name, value in _changed(self).items()])
        newest = self.log_history[-RECORDS_SHOWN:]
        names = list(dict.fromkeys(name for record in newest for name in record))
        rows = [[shown(record[name], name) if name in record else "" for name in names] for record in newest]
        return fields + (html_table(rows, names) if rows else "")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values, with the unknown keys of the file that they were read from.

        transformers' Trainer, which resumes such a file, knows no other fields than its own. So those are among what
        it keeps of its TrainerControl, which it expects there.
        """
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        own = {name: values.pop(name) for name in OWN}
        control = {"args": dict.fromkeys(FLAGS, False), "attributes": own}
        return {
            **values.pop("extra"),
            **values,
            "stateful_callbacks": {**self.stateful_callbacks, CONTROL: control},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainerState:
        """Build a state from `to_dict`'s values, or those of transformers; unknown keys go to ``extra``."""
        states = dict(values.get("stateful_callbacks") or {})
        control = states.pop(CONTROL, None)
        kept = control.get("attributes") if isinstance(control, Mapping) else None
        own = {name: kept[name] for name in OWN if name in kept} if isinstance(kept, Mapping) else {}
        values = {**own, **values, "stateful_callbacks": states}
        known = {item.name for item in dataclasses.fields(cls)} - {"extra"}
        extra = {key: value for key, value in values.items() if key not in known}
        return cls(**{key: value for key, value in values.items() if key in known}, extra=extra)

    def save_to_json(self, json_path: str | Path) -> None:
        """Write the state to ``json_path``."""
        Path(json_path).write_text(to_json(self.to_dict(), "state", indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load_from_json(cls, json_path: str | Path) -> TrainerState:
        """Read a state from ``json_path``; keys of other versions are kept.

        Raises:
            TracksideValueError: If it is not a state; the message has the file, and the line or the field.
        """
        try:
            values = json.loads(Path(json_path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise TracksideValueError(f"{json_path}:{error.lineno}: this is not valid JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise TracksideValueError(f"{json_path}: this is not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise TracksideValueError(f"{json_path}: a state is a map, not {type(values).__name__}")
        hints = hints_of(cls)
        for name in values.keys() & hints.keys():
            try:
                values[name] = convert(values[name], hints[name])
            except TracksideValueError as error:
                raise TracksideValueError(f"{json_path}: {name}: {error}") from None
        return cls.from_dict(values)


IN_SHORT = (
    *("global_step", "max_steps", "epoch", "best_metric", "best_global_step", "stop_reason", "stopped_by"),
    "log_history",
)
"""The fields of a state that its ``repr`` shows."""

RECORDS_SHOWN = 10
"""The most records that a notebook shows of a state."""

OWN = ("stop_reason", "stopped_by", "run_id", "callback_classes")
"""Fields of `TrainerState` that transformers does not have."""

CONTROL = "TrainerControl"
"""Name under which transformers keeps the state of its TrainerControl, among those of callbacks."""

FLAGS = (
    *("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log"),
    *("should_skip_update", "should_roll_back"),
)
"""The names of the flags of `TrainerControl`."""

DECISIONS = (*FLAGS, "rate_factor")
"""The names of what callbacks decide: the flags, and the number `TrainerControl.rate_factor`."""


@dataclass
class TrainerControl:
    """The flags by which a callback steers the loop. The loop clears each flag when it acts on it.

    Attributes:
        should_training_stop: Leave the loop after this step.
        should_epoch_stop: Leave this epoch after this step.
        should_save: Save a checkpoint now.
        should_evaluate: Evaluate now.
        should_log: Write a log record now.
        should_skip_update: Do not step the optimizer with these gradients; set at on_pre_optimizer_step.
        should_roll_back: After this update, go back to the weights, optimizer and schedule of the newest checkpoint of
            the run; the position in the data and the steps go on.
        rate_factor: After this update, multiply all learning rates by this number, for the rest of the run.
        stop_reason: Why training is to stop.
        reasons: Why each flag was last set, for the journal: callback and event, or the trainer's reason.
    """

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False
    should_skip_update: bool = False
    should_roll_back: bool = False
    rate_factor: float = 1.0
    stop_reason: str | None = None
    reasons: dict[str, str] = field(default_factory=dict, compare=False)

    @short_repr
    def __repr__(self) -> str:
        return called_with(type(self).__name__, _changed(self, (*DECISIONS, "stop_reason")))

    def request(self, flag: str, reason: str) -> None:
        """Set a flag and note the reason; without one of its own, that of a callback is its name and the event."""
        setattr(self, flag, True)
        self.reasons = {**self.reasons, flag: reason}  # a new one: copies of this control keep theirs

    def scale_rates(self, factor: float, reason: str) -> None:
        """Multiply all learning rates by ``factor`` after this update, and note the reason."""
        self.rate_factor *= factor
        self.reasons = {**self.reasons, "rate_factor": reason}

    def stop(self, reason: str) -> None:
        """End training after this step; the first reason given is kept."""
        self.should_training_stop = True
        if self.stop_reason is None:
            self.stop_reason = reason

    def check_names(self, known: Container[str]) -> None:
        """Check that what was set beside ``known`` is neither a misspelt flag nor a method, and remove what is.

        Raises:
            CallbackError: If so; the message has the flags, and the nearest one.
        """
        for name in [name for name in vars(self) if name not in known]:
            if callable(getattr(TrainerControl, name, None)):
                value = self.__dict__.pop(name)
                raise CallbackError(f"control.{name} is a method; call it instead of setting it to {value!r}")
            if (name.startswith("should_") or f"should_{name}" in FLAGS) and not hasattr(type(self), name):
                value, near = self.__dict__.pop(name), did_you_mean(name, FLAGS)
                raise CallbackError(f"control.{name}={value!r}: no flag has this name.{near} Flags: {', '.join(FLAGS)}")

    def update_from(self, other: TrainerControl) -> None:
        """Copy the flags of ``other``, which a callback returned instead of changing this one."""
        for name in (*DECISIONS, "stop_reason"):
            setattr(self, name, getattr(other, name, getattr(self, name)))


def _changed(instance: TrainerState | TrainerControl, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the fields that are not as in a new one; only those of ``names``, in their order, if given."""
    new, now = vars(type(instance)()), vars(instance)
    return {name: now[name] for name in names or now if not is_default(now[name], new.get(name))}
