"""The states of callbacks in a checkpoint: taken, and given back to the callbacks that they belong to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .._util.exact_data import Tell, exact, returned
from ..errors import CheckpointError, NotPlainError, describe
from .attachment import Attachment
from .faults import FaultPolicy

logger: logging.Logger = logging.getLogger("trackside.callbacks")


Guarded = Callable[[Attachment, str, Callable[[Any], Any]], Any]
"""Calls a callback under its fault policy: its attachment, what is called, and the call."""


def take(attachments: Mapping[str, Attachment], guarded: Guarded, faults: FaultPolicy) -> dict[str, Any]:
    """Return the states that callbacks want a checkpoint to keep, by name; what comes back otherwise is told.

    Raises:
        NotPlainError: If a state of a control callback cannot be kept.
    """
    states = {}
    for name, item in attachments.items():
        tell = partial(faults.tell_changed, item)
        states[name] = guarded(item, "state_dict", partial(state_of, tell=tell))
    return {name: state for name, state in states.items() if state}


def give_back(
    attachments: Mapping[str, Attachment],
    states: Mapping[str, Any],
    classes: Mapping[str, str],
    guarded: Guarded,
    args: Any,
) -> None:
    """Give callbacks the states that `take` returned; what belongs to none of them is told.

    Args:
        classes: The class of each callback in the checkpoint, where it is known.
        args: The training arguments.
    """

    def accepts(item: Attachment, state: Any) -> bool:
        return bool(guarded(item, "accepts_state", lambda each: each.accepts_state(args, returned(state))))

    found = owners(attachments, states, classes, accepts)
    for name, other in found.items():
        guarded(attachments[name], "load_state_dict", partial(restore, state=states[other]))
    tell_left(attachments, states, classes, found)


def owners(
    attachments: Mapping[str, Attachment],
    states: Mapping[str, Any],
    classes: Mapping[str, str],
    accepts: Callable[[Attachment, Any], bool],
) -> dict[str, str]:
    """Return for each callback that has a state in a checkpoint the name under which it is there.

    That is its own name, if the class is the same and the callback accepts the state. A callback that tells its states
    from those of others (``accepts_state``) also finds one under another name, such as after a change of the order.

    Args:
        attachments: The callbacks by name.
        states: The states by name.
        classes: The class of each callback in the checkpoint, where it is known.
        accepts: Asks a callback with a method ``accepts_state``.
    """
    found: dict[str, str] = {}
    left = {name: state for name, state in states.items() if isinstance(state, Mapping)}
    for is_own in (True, False):
        for name, item in attachments.items():
            can_tell = hasattr(item.callback, "accepts_state")
            others = [name] if is_own else [*left] if can_tell and name not in found else []
            for other in others:
                kind = classes.get(other)
                is_known = kind == type(item.callback).__qualname__ or (kind is None and is_own)
                if (
                    other in left
                    and (other == name) is is_own
                    and is_known
                    and (not can_tell or accepts(item, left[other]))
                ):
                    found[name] = other
                    del left[other]
                    break
    return found


def tell_left(
    attachments: Mapping[str, Attachment],
    states: Mapping[str, Any],
    classes: Mapping[str, str],
    found: Mapping[str, str],
) -> None:
    """Tell which states of a checkpoint no callback got, and which callbacks begin anew."""
    for name in states.keys() - set(found.values()):
        state, kind, attachment = states[name], classes.get(name), attachments.get(name)
        if attachment is None:
            logger.warning("the checkpoint holds a state of the callback %r, which is not attached", name)
        elif not isinstance(state, Mapping):  # transformers lists the states of several callbacks of one class
            logger.warning("the checkpoint holds several states of callbacks %r; none is restored", name)
        elif name not in found:
            is_other = kind not in (None, type(attachment.callback).__qualname__)
            what = f"is of the class {kind}" if is_other else f"is of something else: {dict(state)}"
            logger.warning("the callback %r begins anew: its state in the checkpoint %s", name, what)


def state_of(callback: Any, tell: Tell | None = None) -> Any:
    """Return the state of a callback that a checkpoint keeps, as `restore` takes it.

    Args:
        tell: Called with the place of a value that comes back as one of another type, and with what it comes back as.
    """
    state: Any = {}
    if hasattr(callback, "state_dict"):
        state = callback.state_dict()
    elif hasattr(callback, "state") and hasattr(type(callback), "from_state"):
        state = callback.state()
    if not isinstance(state, Mapping):
        raise NotPlainError("state_dict()", "", f"is {type(state).__name__}; it is a dict")
    return exact(dict(state), "state_dict()", tell=tell)


def restore(callback: Any, state: Mapping[str, Any]) -> None:
    """Restore a callback's state; what a checkpoint declares beyond the callback's own state is not set."""
    try:
        state = returned(state)
        if hasattr(callback, "load_state_dict"):
            callback.load_state_dict(state)
        elif hasattr(callback, "state"):  # transformers' ExportableState: constructor arguments and attributes
            for part, declared in dict(callback.state()).items():
                for key in state.get(part) or ():
                    if key in declared:
                        setattr(callback, key, state[part][key])
    except Exception as error:
        message = f"the checkpoint's state of {type(callback).__name__} cannot be restored: {describe(error)}"
        raise CheckpointError(message) from error
