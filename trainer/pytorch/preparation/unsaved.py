"""State of a run that no checkpoint holds: attributes and buffers that training changes, of which a warning tells."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..optim.belonging import some

OPTIMIZER = "optimizer."
"""Begin of the names of what an optimizer has."""

logger: logging.Logger = logging.getLogger("trackside.trainer")


class UnsavedState:
    """Numbers and tensors of a model, a loss and an optimizer that are in none of their states.

    Args:
        model: Its attributes and its buffers with ``persistent=False`` are looked at, those of all its modules.
        loss_fn: The loss, of which no checkpoint holds anything.
        optimizer: Looked at if its class is the user's and has torch's own ``state_dict()``.
    """

    def __init__(self, model: nn.Module, loss_fn: Any, optimizer: Any) -> None:
        self._parts = (model, loss_fn, optimizer)
        self._before: dict[str, Any] | None = dict(_marks(*self._parts))

    def tell(self) -> None:
        """Tell, once, what has changed since this object was made."""
        if self._before is None:
            return
        now = dict(_marks(*self._parts))
        before = self._before  # an optimizer makes its counter in its first step
        names = [
            name
            for name, mark in now.items()
            if (mark != before[name] if name in before else name.startswith(OPTIMIZER))
        ]
        if names:
            self._before = None
            logger.warning(
                "training has changed what no checkpoint holds, so that a resumed run may go on differently: %s. Keep "
                "it in the model as a buffer (register_buffer) or as extra state (get_extra_state), in the state of "
                "the optimizer, or in a callback with state_dict()",
                some(names),
            )


def _marks(model: nn.Module, loss_fn: Any, optimizer: Any) -> Iterator[tuple[str, Any]]:
    """Yield what tells whether a value has changed, by its name."""
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.") or _has_extra_state(module):
            continue
        prefix = f"{name}." if name else ""
        unsaved = module._non_persistent_buffers_set
        buffers = {key: value for key, value in module._buffers.items() if key in unsaved}
        yield from _marks_in({**vars(module), **buffers}, prefix)
    if loss_fn is not None and not isinstance(loss_fn, type):
        buffers = dict(loss_fn.named_buffers()) if isinstance(loss_fn, nn.Module) else {}
        yield from _marks_in({**getattr(loss_fn, "__dict__", {}), **buffers}, "loss_fn.")
    kind = type(optimizer)
    if kind.state_dict is Optimizer.state_dict and not kind.__module__.startswith(("torch.", "trackside.")):
        yield from _marks_in(vars(optimizer), OPTIMIZER)


def _marks_in(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name.startswith("_") or name == "training":
            continue
        if type(value) in (int, float):
            yield prefix + name, value
        elif isinstance(value, Tensor):
            yield prefix + name, (id(value), value._version)


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state
