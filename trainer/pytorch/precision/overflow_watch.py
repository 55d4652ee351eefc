"""Detection of non-finite numbers: debug="underflow_overflow" stops at the first such layer, with its history."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks.errors import NotFiniteError

from .base import Precision

FRAMES = 21
"""Number of layers in the message; the last one has the non-finite number."""


class OverflowWatch:
    """Checks the weights, inputs and outputs of every layer of a model after its forward. Waits for the device.

    Args:
        doing: Returns the current activity of the process, for the message.
    """

    def __init__(self, doing: Callable[[], str]) -> None:
        self.doing = doing
        self._frames: deque[str] = deque(maxlen=FRAMES)

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Return a context that checks forward passes of ``model``.

        Raises:
            NotFiniteError: If a number is infinite or NaN; the message has the layer, the tensor, and the smallest and
                the largest absolute values in it and in the layers that came before.
        """
        hooks = [
            module.register_forward_hook(partial(self._look, name or "the model"))
            for name, module in model.named_modules()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _look(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensors: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
        tensors |= {**_tensors("input", inputs), **_tensors("output", output)}
        extremes = {what: _extremes(tensor) for what, tensor in tensors.items() if _is_counted(tensor)}
        lines = [f"{low:9.2e} {high:9.2e} {what}" for what, (low, high) in extremes.items()]
        self._frames.append("\n".join([f"{'':20}{name} ({type(module).__name__})", *lines]))
        found = next((what for what, (_, high) in extremes.items() if not high < float("inf")), None)
        if found is not None:
            raise NotFiniteError(
                f"{self.doing()}: {found} of {name} ({type(module).__name__}) is not finite. It and the layers before "
                "it:\n abs min   abs max  what\n" + "\n".join(self._frames)
            )


def watched(precision: Precision, model: Callable[[], nn.Module], doing: Callable[[], str]) -> Precision:
    """Return ``precision`` with a check of the forward passes of the result of ``model``."""
    forward, watch = precision.forward, OverflowWatch(doing)

    @contextmanager
    def watched_forward() -> Iterator[None]:
        with forward(), watch.over(model()):
            yield

    precision.forward = watched_forward  # type: ignore[method-assign]
    return precision


def _tensors(what: str, value: Any) -> dict[str, Tensor]:
    """Return the tensors in ``value`` by their positions in it."""
    if isinstance(value, Tensor):
        return {what: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {name: tensor for key, item in items for name, tensor in _tensors(f"{what}[{key!r}]", item).items()}


def _is_counted(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0


@torch.no_grad()
def _extremes(tensor: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest absolute value, for a sharded weight of the local shard."""
    here = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    low, high = here.detach().abs().aminmax()
    return float(low), float(high)
