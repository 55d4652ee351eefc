"""Selection of a precision from the training arguments."""

from __future__ import annotations

from typing import Any

import torch

from .amp import AutocastPrecision, GradScalerPrecision
from .base import FullPrecision, Precision

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def precision_for(args: Any, device: torch.device) -> Precision:
    """Return the precision that ``args`` select, for a process on ``device``."""
    if args.fp16 and args.fp16_backend == "apex":
        from .apex import ApexPrecision

        return ApexPrecision(args.fp16_opt_level)
    if args.fp16:
        return GradScalerPrecision(device)
    if args.bf16:
        return AutocastPrecision(device, torch.bfloat16)
    return FullPrecision()


def set_tf32(allowed: bool | None) -> None:
    """Allow or forbid TF32 in matrix products and convolutions; None keeps the setting of torch."""
    if allowed is not None:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
