"""Sandbox of a PyTorch model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trackside.callbacks._util.imports import is_installed

from ...base_engine.sandbox import ModelSandbox
from .._compat import is_out_of_memory
from .._torch_util import unwrap
from ..precision.eval_mode import modes_of, restore_modes


class TorchSandbox(ModelSandbox):
    """Tries a PyTorch model."""

    @contextmanager
    def model_kept(self) -> Iterator[None]:
        """Return a context that ends with parameters, buffers, gradients and modes as they were."""
        model = unwrap(self._engine.trainer.model)
        modes, parameters = modes_of(model), list(model.parameters())
        values = [(tensor, tensor.detach().clone()) for tensor in (*parameters, *model.buffers())]
        gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in values:
                    tensor.copy_(value)
            for parameter, gradient, is_trained in gradients:
                parameter.grad = gradient
                parameter.requires_grad_(is_trained)
            restore_modes(modes)

    def copied_optimizer(self, optimizer: Any) -> Any:
        """Return a copy of an optimizer of the user's, with a state of its own."""
        parameters = unwrap(self._engine.trainer.model).parameters()
        return copy.deepcopy(optimizer, {id(parameter): parameter for parameter in parameters})

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether an error says that memory of the device, or of the host, is exhausted."""
        return isinstance(error, RuntimeError) and is_out_of_memory(error)

    def free_memory(self) -> None:
        """Empty the cache of the GPU."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def summary(self) -> str:
        """Return the summary of torchinfo if it is installed, or else a table of the modules that have parameters."""
        model = unwrap(self._engine.trainer.model)
        if is_installed("torchinfo"):
            import torchinfo

            return str(torchinfo.summary(model, verbose=0))
        rows = [("module", "class", "weights", "trained")]
        for name, module in model.named_modules():
            own = list(module.parameters(recurse=False))
            if own:
                rows.append((name, type(module).__name__, *_counts(own)))
        rows.append(("in all", type(model).__name__, *_counts(list(model.parameters()))))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        line = "  ".join(f"{{:{side}{width}}}" for side, width in zip("<<>>", widths, strict=True))
        return "\n".join(line.format(*row) for row in rows)

    def rate_of(self, optimizer: Any) -> float:
        """Return the highest learning rate among the groups of an optimizer."""
        return max(float(group["lr"]) for group in optimizer.param_groups)


def _counts(parameters: list[Tensor]) -> tuple[str, str]:
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return f"{sum(parameter.numel() for parameter in parameters):,}", f"{trained:,}"
