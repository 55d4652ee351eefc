"""Lion optimizer, which torch does not provide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from trackside.callbacks.errors import TracksideValueError


class Lion(Optimizer):
    """An optimizer that steps by the sign of an interpolation of gradient and momentum, with decoupled weight decay.

    Every element moves by the learning rate, so Lion needs a learning rate three to ten times smaller than AdamW's and
    a weight decay that is larger by the same factor. It keeps one moment; AdamW keeps two.

    Args:
        lr: Learning rate.
        betas: Weight of the momentum in the step, and in the next momentum.
        weight_decay: Share of a parameter that is subtracted, times the learning rate.

    Raises:
        TracksideValueError: If an option is out of range.

    Source:
        Chen et al. (2023), arXiv:2302.06675, algorithm 2 and its defaults.
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        if not lr >= 0:
            raise TracksideValueError(f"lr={lr!r} is not allowed: at least 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise TracksideValueError(f"betas={betas!r} is not allowed: two numbers from 0 to below 1")
        if not weight_decay >= 0:
            raise TracksideValueError(f"weight_decay={weight_decay!r} is not allowed: at least 0")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step; return the result of ``closure``, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = [param for param in group["params"] if param.grad is not None]
        if not params:
            return
        grads: list[Tensor] = [param.grad for param in params if param.grad is not None]
        if any(grad.is_sparse for grad in grads):
            raise TracksideValueError("Lion cannot work with sparse gradients; make the embedding with sparse=False")
        momenta = [self._momentum(param) for param in params]
        beta_step, beta_momentum = group["betas"]
        steps = torch._foreach_mul(momenta, beta_step)
        torch._foreach_add_(steps, grads, alpha=1 - beta_step)
        torch._foreach_sign_(steps)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, steps, alpha=-group["lr"])
        torch._foreach_mul_(momenta, beta_momentum)
        torch._foreach_add_(momenta, grads, alpha=1 - beta_momentum)

    def _momentum(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        momentum: Tensor = state["exp_avg"]
        return momentum
