"""Mixed precision by NVIDIA's apex.amp, for builds of apex that still include it (tags up to 25.05).

amp is initialized once in a process, after the model is on its device and before it is wrapped. Every backward pass
goes through ``scale_loss``, which leaves the gradients scaled until the last micro-batch of an update. The parameters
that are clipped and stepped are the master parameters. After an overflow, amp itself makes the next
``optimizer.step()`` a no-op. At levels O2 and O3 it has its own ``zero_grad``.

Source:
    https://nvidia.github.io/apex/amp.html, and apex/amp/handle.py of tag 25.05.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from trackside.callbacks.errors import UnsupportedError

from ..availability import check_apex_amp
from .base import FullPrecision

NATIVE = "fp16_backend='auto' does the same with torch alone"


class ApexPrecision(FullPrecision):
    """Mixed precision by apex.amp.

    Args:
        opt_level: "O0" to "O3".

    Raises:
        UnsupportedError: If apex.amp is not installed.
    """

    has_copies = True
    is_ready = False
    """Whether amp was initialized in this process; its state is global, so it cannot be initialized twice."""

    def __init__(self, opt_level: str) -> None:
        check_apex_amp()
        self.amp = importlib.import_module("apex.amp")
        self.opt_level = opt_level
        self.optimizer: Any = None
        self._scale: float | None = None

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Initialize amp for a model on its device and its optimizer, before the model is wrapped."""
        if ApexPrecision.is_ready:
            raise UnsupportedError(
                "apex.amp can be initialized once in a process, and this one trains a second time; "
                f"{NATIVE}, as often as you like"
            )
        model, self.optimizer = self.amp.initialize(model, optimizer, opt_level=self.opt_level, verbosity=0)
        ApexPrecision.is_ready = True
        self._scale = self._loss_scale()
        return model, self.optimizer

    def parameters(self, optimizer: Optimizer) -> list[Tensor]:
        """Return the master parameters."""
        return list(self.amp.master_params(optimizer))

    def backward(
        self, loss: Tensor, weight: Any = 1.0, *, is_last: bool = True, only: Sequence[Tensor] | None = None
    ) -> None:
        """Run the backward pass of the scaled loss; gradients stay scaled until the last micro-batch of an update."""
        if only is not None:
            raise UnsupportedError(f"apex.amp has one loss an update, and compute_loss returned several; {NATIVE}")
        with self.amp.scale_loss(loss * weight, self.optimizer, delay_unscale=not is_last) as scaled:
            scaled.backward()

    def step(self, optimizer: Optimizer) -> bool:
        """Step; return whether amp skipped the step, which a lower loss scale shows."""
        before, self._scale = self._scale, self._loss_scale()
        optimizer.step()
        return self._scale is not None and before is not None and self._scale < before

    def clear(self, optimizer: Optimizer) -> bool:
        """Clear with amp's zero_grad, which at O2 clears the model's gradients in addition to the master gradients."""
        optimizer.zero_grad()
        return True

    def _loss_scale(self) -> float | None:
        scales = [part["loss_scale"] for name, part in self.amp.state_dict().items() if name.startswith("loss_scaler")]
        return float(scales[0]) if scales else None

    def state_dict(self) -> dict[str, Any]:
        """Return amp's loss scale and its growth counter."""
        return dict(self.amp.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; called after `prepare`, as amp requires."""
        if state:
            self.amp.load_state_dict(state)
            self._scale = self._loss_scale()
