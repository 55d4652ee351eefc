"""Selection of a distribution strategy from the training arguments."""

from __future__ import annotations

from typing import Any

import torch

from .strategy import DistributedStrategy, SingleProcess


def strategy_for(args: Any, device: torch.device) -> DistributedStrategy:
    """Return the strategy that ``args`` select, for a process on ``device``."""
    if args.uses_xla:
        from .xla import XLACore, XLAMultiCore

        return XLAMultiCore(args, device) if args.world_size > 1 else XLACore(args)
    if args.fsdp:
        from .fsdp import FSDP  # the import takes half a second

        return FSDP(args, device)
    if args.world_size > 1:
        from .ddp import DDP

        return DDP(args, device)
    return SingleProcess()
