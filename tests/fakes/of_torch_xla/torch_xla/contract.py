"""What the stand-in remembers, and the rules that it holds its users to."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


class ContractError(AssertionError):
    """What torch_xla documents was not kept."""


class _State:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.recorded: list[Any] = []
        self.rng = 0


state = _State()


def reset() -> None:
    """For tests: a new process."""
    state.__init__()


def demand(holds: bool, rule: str) -> None:
    if not holds:
        raise ContractError(rule)


def record(operation: str, *details: Any) -> None:
    """Note a collective; all cores must have recorded the same ones when a step is launched, or they would hang."""
    state.calls.append(operation)
    state.recorded.append((operation, *details))


def compare_cores() -> None:
    recorded, state.recorded = state.recorded, []
    if world_size() > 1:
        told: list[Any] = [None] * world_size()
        dist.all_gather_object(told, recorded)
        demand(all(one == told[0] for one in told), f"every core records the same step, but they recorded {told}")
    reductions = [operation for operation, *_ in recorded if operation == "reduce gradients"]
    demand(len(reductions) <= 1, "gradients are reduced once in a step")


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def ordinal() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
