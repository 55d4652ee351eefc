"""Out of memory in a micro-batch: halve it until it fits, with the same effective batch."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..evaluation.output_collector import map_nested
from .loss import batch_size

if TYPE_CHECKING:
    from .engine import TorchBackend

logger = logging.getLogger("trackside.trainer")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that a device, or the host, has no memory left."""
    texts = ("out of memory", "can't allocate memory", "DefaultCPUAllocator", "CUDNN_STATUS_NOT_SUPPORTED")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def retry_smaller(trainer: TorchBackend, inputs: Any) -> Tensor:
    """Take a micro-batch forward and backward in as many parts as memory asks for; return its mean loss.

    The gradients that stood before are put back when a part fails, so that nothing of the failed attempt is left. The
    number of parts is kept for the batches that follow.
    """
    before = [None if p.grad is None else p.grad.detach().clone() for p in trainer._parameters]
    while True:
        try:
            return _in_parts(trainer, inputs, trainer._splits)
        except RuntimeError as error:
            size = batch_size(inputs)
            if not is_out_of_memory(error) or trainer._splits >= size:
                raise
            message = str(error)
        _put_back(trainer, before)
        trainer._splits *= 2
        logger.warning("out of memory (%s); the micro-batch now goes in %d parts", message, trainer._splits)


def _in_parts(trainer: TorchBackend, inputs: Any, parts: int) -> Tensor:
    """Take ``inputs`` backward in parts; each weighs by its items."""
    if parts == 1:
        return trainer.training_step(trainer.model_wrapped, inputs)
    window = trainer._window
    whole = trainer._count_items(inputs)
    total: Any = 0.0
    kept = (window.count, window.share)
    pieces = [piece for piece in _cut(inputs, parts) if batch_size(piece)]
    for piece in pieces:
        window.count = 2
        loss = trainer.training_step(trainer.model_wrapped, piece)
        total = total + loss * (window.share * window.reference / whole)
    window.count = kept[0]
    if window.is_single:  # the parts went backward relative to the reference; so must the whole
        window.count = 2
    window.set_items(whole)
    return torch.as_tensor(total)


def _cut(inputs: Any, parts: int) -> list[Any]:
    size = batch_size(inputs)
    edges = [round(part * size / parts) for part in range(parts + 1)]

    def piece(start: int, stop: int) -> Any:
        cut = map_nested(lambda leaf: leaf[start:stop] if isinstance(leaf, Tensor) and leaf.ndim else leaf, inputs)
        return dict(cut) if isinstance(inputs, Mapping) else cut

    return [piece(start, stop) for start, stop in pairwise(edges)]


def _put_back(trainer: TorchBackend, before: list[Tensor | None]) -> None:
    for parameter, gradient in zip(trainer._parameters, before, strict=True):
        parameter.grad = gradient
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
