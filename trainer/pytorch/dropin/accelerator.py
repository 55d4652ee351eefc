"""The ``accelerator`` of a trainer: what scripts for the transformers Trainer call of Accelerate's class."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from .._torch_util import unwrap
from ..batches.parts import map_batch


class AcceleratorView:
    """What a trainer knows under the names of ``accelerate.Accelerator``.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        device: torch.device = self._trainer.args.device
        return device

    @property
    def num_processes(self) -> int:
        """Number of processes of the run."""
        return int(self._trainer.args.world_size)

    @property
    def process_index(self) -> int:
        """Rank of this process."""
        return int(self._trainer.args.process_index)

    @property
    def local_process_index(self) -> int:
        """Rank of this process among those of its machine."""
        return int(self._trainer.args.local_process_index)

    @property
    def is_main_process(self) -> bool:
        """Whether this is the first process."""
        return self.process_index == 0

    @property
    def is_local_main_process(self) -> bool:
        """Whether this is the first process of its machine."""
        return self.local_process_index == 0

    def unwrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        """Return the model inside of DistributedDataParallel, DataParallel and torch.compile's wrapper."""
        return unwrap(model)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Run the backward pass of a mean loss; see `Trainer.backward`."""
        self._trainer.backward(loss)

    def autocast(self, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        """Return the context of a forward pass in the precision of the run."""
        context: AbstractContextManager[Any] = self._trainer.compute_loss_context_manager()
        return context

    def wait_for_everyone(self) -> None:
        """Wait until every process calls this method."""
        self._trainer.gather_objects(None)

    def gather(self, tensors: Any) -> Any:
        """Return nested tensors of all processes, joined along their first dimension, on the device."""
        gathered = self._trainer.gather_objects(map_batch(lambda leaf, _: _on_host(leaf), tensors))
        return _joined(gathered, self.device)

    def gather_for_metrics(self, tensors: Any, use_gather_object: bool = False) -> Any:
        """Return nested tensors of all processes, joined; with ``use_gather_object``, a list of all items."""
        if use_gather_object:
            return [item for part in self._trainer.gather_objects(tensors) for item in part]
        return self.gather(tensors)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on the first process."""
        if self.is_local_main_process:
            print(*args, **kwargs)


def _on_host(leaf: Any) -> Any:
    return leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf


def _joined(parts: list[Any], device: torch.device) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part.reshape(1) if part.ndim == 0 else part for part in parts]).to(device)
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts], device) for name in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_joined(list(items), device) for items in zip(*parts, strict=True))
    return first
