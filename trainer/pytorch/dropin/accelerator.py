"""The ``accelerator`` of a trainer: what scripts for the transformers Trainer call of Accelerate's class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
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

    @property
    def is_last_process(self) -> bool:
        """Whether this is the last process."""
        return self.process_index == self.num_processes - 1

    @property
    def state(self) -> SimpleNamespace:
        """The processes and the device, without plugins, none of which is used."""
        names = ("device", "num_processes", "process_index", "local_process_index", "is_main_process")
        return SimpleNamespace(deepspeed_plugin=None, fsdp_plugin=None, **{name: getattr(self, name) for name in names})

    def prepare(self, *parts: Any, **kwargs: Any) -> Any:
        """Return what it is given: other models are on the device then, and the trainer splits a DataLoader itself."""
        prepared = tuple(part.to(self.device) if isinstance(part, nn.Module) else part for part in parts)
        return prepared[0] if len(prepared) == 1 else prepared

    def prepare_model(self, model: nn.Module, *args: Any, evaluation_mode: bool = False) -> nn.Module:
        """Return another model, such as a teacher, on the device; with ``evaluation_mode``, it does not train."""
        return model.to(self.device).train(model.training and not evaluation_mode)

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

    def reduce(self, tensors: Any, reduction: str = "sum", scale: float = 1.0) -> Any:
        """Return nested tensors, each the ``"sum"`` or the ``"mean"`` over all processes."""
        parts = self._trainer.gather_objects(map_batch(lambda leaf, _: _on_host(leaf), tensors))
        factor = scale / self.num_processes if reduction == "mean" else scale
        return _summed(parts, factor, self.device)

    @contextmanager
    def split_between_processes(self, inputs: Any, apply_padding: bool = False) -> Iterator[Any]:
        """Return a context with the part of a sequence, tensor, dataset, or dict of them, that is this process's own.

        Args:
            apply_padding: Repeat the last item where a part is shorter than others.
        """
        yield part_of(inputs, self.process_index, self.num_processes, apply_padding)

    def main_process_first(self) -> AbstractContextManager[None]:
        """Return a context that the first process goes through before the others."""
        context: AbstractContextManager[None] = self._trainer.args.main_process_first(local=False)
        return context

    def local_main_process_first(self) -> AbstractContextManager[None]:
        """Return a context that the first process of each machine goes through before its others."""
        context: AbstractContextManager[None] = self._trainer.args.main_process_first(local=True)
        return context

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(name for name in dir(type(self)) if not name.startswith("_"))
        raise AttributeError(f"the accelerator of a trainer has no {name!r}; it has {known}")

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on the first process."""
        if self.is_local_main_process:
            print(*args, **kwargs)


def _on_host(leaf: Any) -> Any:
    return leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf


def _summed(parts: list[Any], factor: float, device: torch.device) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return (torch.stack(parts).sum(0) * factor).to(device)
    if isinstance(first, dict):
        return {name: _summed([part[name] for part in parts], factor, device) for name in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_summed(list(items), factor, device) for items in zip(*parts, strict=True))
    return first


def part_of(inputs: Any, index: int, count: int, pad: bool) -> Any:
    """Return the part of ``inputs`` that process ``index`` of ``count`` has; the first ones have one item more."""
    if isinstance(inputs, dict):
        return {name: part_of(value, index, count, pad) for name, value in inputs.items()}
    if count == 1:
        return inputs
    size, more = divmod(len(inputs), count)
    start = index * size + min(index, more)
    places = list(range(start, start + size + (index < more)))
    if pad and more and index >= more:
        places.append(len(inputs) - 1)
    if isinstance(inputs, Tensor):
        return inputs[places]
    if hasattr(inputs, "select"):  # a dataset of the library datasets
        return inputs.select(places)
    part = [inputs[place] for place in places]
    return tuple(part) if isinstance(inputs, tuple) else part


def _joined(parts: list[Any], device: torch.device) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part.reshape(1) if part.ndim == 0 else part for part in parts]).to(device)
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts], device) for name in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_joined(list(items), device) for items in zip(*parts, strict=True))
    return first
