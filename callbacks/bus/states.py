"""The state that a callback keeps in checkpoints, in the forms that trackside and transformers know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._util.atomic_files import describe
from .._util.plain_data import plain
from ..errors import CheckpointError


def state_of(callback: Any) -> Any:
    """Return a callback's state as plain data; empty if it has none."""
    state: Any = {}
    if hasattr(callback, "state_dict"):
        state = callback.state_dict()
    elif hasattr(callback, "state") and hasattr(type(callback), "from_state"):
        state = callback.state()
    return plain(dict(state), "state_dict()")


def restore(callback: Any, state: Mapping[str, Any]) -> None:
    """Restore a callback's state; what a checkpoint declares beyond the callback's own state is not set."""
    try:
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
