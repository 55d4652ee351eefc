"""The trainer as a callback in the background sees it.

Its call may come when training is updates ahead. So the view shows state and control as they were when the event was
sent, what the call logs becomes a record of that step, and everything that would use the model, while the thread of the
run trains it, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from .._util.of_thread import OfThread
from ..errors import BusyError
from ..state import TrainerControl, TrainerState

REFUSED = frozenset(
    {"train", "hyperparameter_search", "evaluate", "predict", "evaluation_loop", "prediction_loop", "prediction_step"}
    | {"training_step", "compute_loss", "run_model", "gradients", "backward", "apply_gradients", "explain_batch"}
    | {"distributed_training_steps", "distributed_prediction_steps", "gather_objects", "store_flos"}
    | {"save_model", "load_weights", "create_optimizer", "create_scheduler", "create_optimizer_and_scheduler"}
    | {"call_model_init", "create_model_card", "floating_point_ops"}
)
"""Methods of a trainer that use the model or the optimizer, or meet the other processes."""

KEPT = frozenset({"model", "model_wrapped", "optimizer", "lr_scheduler", "args", "state", "control"})
"""Attributes of a trainer that a callback in the background cannot replace."""

INSTEAD = (
    "a callback in the background runs beside the training, which uses the model meanwhile. Attach it with "
    "background=False, or ask the run for it in a callback that is not in the background"
)


@dataclass(frozen=True)
class BackgroundCall:
    """A call of a callback in the background.

    Attributes:
        who: The callback's name, and the event.
        trainer: The trainer that sent the event.
        state, control: Snapshots of them, as they were then.
        leave: Takes what the thread of the run shall do, when it next hears of the callback.
    """

    who: str
    trainer: Any
    state: TrainerState
    control: TrainerControl
    leave: Callable[[Callable[[], None]], None]


current_call: OfThread[BackgroundCall] = OfThread()
"""The call in the background that this thread makes."""


def in_thread_of_run(task: Callable[[], None]) -> None:
    """Do ``task`` in the thread of the run: now, or, from a call in the background, when the run next hears of it."""
    call = current_call.value
    if call is None:
        task()
    else:
        call.leave(task)


class TrainerView:
    """A trainer, for one call in the background; see the module.

    It equals the trainer, and is an instance of its class.
    """

    __slots__ = ("__weakref__", "_call")
    _call: BackgroundCall

    def __init__(self, call: BackgroundCall) -> None:
        object.__setattr__(self, "_call", call)

    __class__ = property(lambda self: type(self._call.trainer))

    @property
    def sender_itself(self) -> Any:
        """The trainer, for signals to which a listener is connected."""
        return self._call.trainer

    @property
    def state(self) -> TrainerState:
        """The state as it was when the event was sent."""
        return self._call.state

    @property
    def control(self) -> TrainerControl:
        """A copy of the flags as they were then; setting them has no effect."""
        return self._call.control

    def __getattr__(self, name: str) -> Any:
        return partial(_refuse, self._call.who, f"{name}()") if name in REFUSED else getattr(self._call.trainer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in KEPT:
            _refuse(self._call.who, f"setting {name}")
        setattr(self._call.trainer, name, value)

    def __eq__(self, other: object) -> bool:
        return bool(getattr(other, "_call", None) is self._call or self._call.trainer == other)

    def __hash__(self) -> int:
        return hash(self._call.trainer)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        _refuse(self._call.who, "a copy")


def _refuse(who: str, what: str, *args: Any, **kwargs: Any) -> NoReturn:
    """Raise the error about what a callback in the background asked of the trainer."""
    raise BusyError(f"{who}: {what} of the trainer is refused: {INSTEAD}")
