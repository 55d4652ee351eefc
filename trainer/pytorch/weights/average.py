"""Weight average of a PyTorch model: parameters and buffers of floating point."""

from __future__ import annotations

import torch
from torch import Tensor

from ...base_engine.average import WeightAverage
from .._torch_util import unwrap

LOW_PRECISION = (torch.float16, torch.bfloat16)


class TorchWeightAverage(WeightAverage):
    """The average of a PyTorch model's weights."""

    def _weights(self) -> dict[str, Tensor]:
        model = unwrap(self._engine.trainer.model)
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {name: weight.detach() for name, weight in named.items() if weight.is_floating_point()}

    def _optimizer_averages(self) -> bool:
        return bool(self._engine.train_step.optimizer_mode.exists)

    def _copied(self, weight: Tensor, *, as_it_is: bool = False) -> Tensor:
        dtype = torch.float32 if weight.dtype in LOW_PRECISION and not as_it_is else weight.dtype
        return weight.to(dtype, copy=True)

    def _held(self, weight: Tensor) -> Tensor:
        return weight.clone()

    def _mixed(self, average: Tensor, weight: Tensor, share: float) -> Tensor:
        return average.lerp_(weight.to(average.dtype), share)

    def _assign(self, weight: Tensor, value: Tensor) -> None:
        weight.copy_(value)

    def _differs(self, average: Tensor, weight: Tensor) -> bool:
        return average.dtype != weight.dtype

    def _restored(self, value: Tensor, like: Tensor) -> Tensor:
        return value.to(like.device, like.dtype)
