"""A loss that is not finite is told once, with its update and its batch."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import torch
from torch import Tensor

from .probe import tensors_in

logger: logging.Logger = logging.getLogger("trackside.trainer")

MOST = 1000
"""Number of losses on a device that are kept until the next log."""


class NonFiniteLoss:
    """Looks at the losses of a run: on a CPU at once, on another device when the host waits for it anyway."""

    def __init__(self) -> None:
        self.found: tuple[int, float] | None = None
        """The first update with such a loss, and the loss."""
        self._kept: deque[tuple[int, Any, Tensor]] = deque(maxlen=MOST)

    def note(self, loss: Any, step: int, context: Any, inputs: Any) -> None:
        """Note the loss of a micro-batch of update ``step``."""
        if isinstance(loss, Tensor):
            self._kept.append((step, context, loss))
        elif loss - loss != 0.0:
            self._tell(loss, step, context, _look_at(inputs))

    def check(self) -> None:
        """Look at the losses on the device. Waits for it."""
        if not self._kept or self.found is not None:
            self._kept.clear()
            return
        losses = torch.stack([loss.detach().float().reshape(()) for _, _, loss in self._kept]).cpu()
        bad = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
        if bad:
            step, context, _ = self._kept[bad[0]]
            self._tell(float(losses[bad[0]]), step, context, "")
        self._kept.clear()

    def _tell(self, loss: float, step: int, context: Any, batch: str) -> None:
        self.found = step, float(loss)
        part = f", micro-batch {context.index + 1} of {context.count}" if context.count > 1 else ""
        logger.warning(
            "the loss of update %d%s is %s%s; this is told once. debug='underflow_overflow' finds the layer, the "
            "callback terminate_on_nan stops the run",
            *(step, part, loss, batch),
        )


def _look_at(inputs: Any) -> str:
    """Return what is not finite in a batch, in words."""
    named = (
        inputs.items() if isinstance(inputs, dict) else enumerate(inputs) if isinstance(inputs, (tuple, list)) else ()
    )
    bad = [
        repr(name)
        for name, part in named
        if any(each.is_floating_point() and not bool(torch.isfinite(each).all()) for each in tensors_in(part))
    ]
    return f"; not finite in its batch: {', '.join(bad)}" if bad else "; all of its batch is finite"
