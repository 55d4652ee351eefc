"""Every rule of apex.amp that a user can break raises ContractError here; the arithmetic is the real one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class ContractError(AssertionError):
    """The documented order of calls was broken."""


class _State:
    def __init__(self) -> None:
        self.is_initialized = False
        self.scale = 2.0**16
        self.unskipped = 0
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.is_unscaled = False
        self.is_inside = False
        self.calls: list[str] = []


state = _State()


def reset() -> None:
    """For tests: a new process."""
    state.__init__()


def _demand(holds: bool, rule: str) -> None:
    if not holds:
        raise ContractError(rule)


def initialize(model: Any, optimizer: Any, opt_level: str = "O1", verbosity: int = 1) -> Any:
    _demand(not state.is_initialized, "initialize is called once in a process")
    _demand(not isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)), "initialize before DDP")
    _demand(all(p.dtype == torch.float32 for p in model.parameters()), "the model comes in float32")
    _demand(all(p.grad is None for p in model.parameters()), "initialize before the first backward pass")
    _demand(opt_level in ("O0", "O1", "O2", "O3"), "unexpected optimization level")
    state.is_initialized = True
    state.calls.append(f"initialize {opt_level}")
    if opt_level in ("O0", "O3"):
        state.scale = 1.0
    if opt_level == "O3":
        _half(model)
    if opt_level == "O2":
        _half(model)
        _bring_masters(optimizer)
    _patch_step(optimizer)
    return model, optimizer


def _half(model: nn.Module) -> None:
    model.half()
    forward = model.forward

    def cast(*inputs: Any, **named: Any) -> Any:
        outputs = forward(*(x.half() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs), **named)
        return outputs.float()

    model.forward = cast


def _bring_masters(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        masters = [p.detach().float().requires_grad_() for p in group["params"]]
        state.pairs += zip(group["params"], masters, strict=True)
        group["params"] = masters

    def zero_grad() -> None:  # without arguments, as apex has it
        for model_param, master in state.pairs:
            model_param.grad = master.grad = None

    optimizer.zero_grad = zero_grad


def _patch_step(optimizer: Any) -> None:
    own = optimizer.step

    def step(*args: Any) -> Any:
        _demand(not state.is_inside, "step after the scale_loss context is left")
        _demand(state.is_unscaled, "step once, after a backward pass that was not delayed")
        state.is_unscaled = False
        state.calls.append("step")
        result = own(*args)
        with torch.no_grad():
            for model_param, master in state.pairs:
                model_param.copy_(master)
        return result

    optimizer.step = step


def _skip_next_step(optimizer: Any) -> None:
    patched = optimizer.step

    def skip_step(*args: Any) -> None:
        state.is_unscaled = False
        state.calls.append("skipped step")
        optimizer.step = patched

    optimizer.step = skip_step


def master_params(optimizer: Any) -> Any:
    _demand(state.is_initialized, "master_params after initialize")
    return (p for group in optimizer.param_groups for p in group["params"])


@contextmanager
def scale_loss(loss: torch.Tensor, optimizer: Any, delay_unscale: bool = False) -> Any:
    _demand(state.is_initialized, "scale_loss after initialize")
    _demand(not state.is_inside, "scale_loss does not nest")
    _demand(not state.is_unscaled, "after gradients were unscaled, step and zero_grad come before the next backward")
    state.is_inside = True
    state.calls.append("delayed" if delay_unscale else "backward")
    yield loss.float() * state.scale
    state.is_inside = False
    if delay_unscale:
        return
    for model_param, master in state.pairs:
        master.grad = None if model_param.grad is None else model_param.grad.float()
    masters = [p for p in master_params(optimizer) if p.grad is not None]
    overflow = not all(bool(torch.isfinite(p.grad).all()) for p in masters)
    for p in masters:
        p.grad.div_(state.scale)
    state.is_unscaled = True
    if overflow and state.scale > 1.0:
        state.scale, state.unskipped = state.scale / 2.0, 0
        _skip_next_step(optimizer)
    else:
        state.unskipped += 1


def state_dict() -> dict[str, Any]:
    return {"loss_scaler0": {"loss_scale": state.scale, "unskipped": state.unskipped}}


def load_state_dict(states: dict[str, Any]) -> None:
    _demand(state.is_initialized, "load_state_dict after initialize")
    state.scale = states["loss_scaler0"]["loss_scale"]
    state.unskipped = states["loss_scaler0"]["unskipped"]
