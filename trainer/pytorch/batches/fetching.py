"""Outputs of an evaluation on their way to the host: on a GPU they are copied while the next batch is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...evaluation.growing_array import PADDING
from ...evaluation.output_collector import LEAVES, are_texts, leaves, map_nested

NOT_IN_NUMPY = frozenset({torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2})
"""Types that numpy does not have; outputs in them become float32."""

OVERLAPPING = frozenset({"cuda"})
"""Types of devices that copy to pinned memory while they compute; AMD's have the name of NVIDIA's in torch."""

DELAY = 2
"""Batches whose copies may be under way, so that the device has work while the host reads those of the one before."""

PINNED_BYTES = 256 << 20
"""Size up to which a tensor is copied to pinned memory, which the system cannot use for anything else."""


def delay_on(device: torch.device) -> int | None:
    """Return the number of batches whose outputs may be on their way from ``device``; see `EvaluationStep`."""
    return 0 if device.type == "cpu" else DELAY if device.type in OVERLAPPING else None


def fetch(nested: tuple[Any, ...]) -> Callable[[], Any]:
    """Begin to copy a tuple of nested tensors to the host; return a function that waits for them; see `arrays_of`."""
    devices = {leaf.device for leaf in leaves(nested) if _overlaps(leaf)}
    copies = map_nested(lambda leaf: leaf.to("cpu", non_blocking=True) if _overlaps(leaf) else leaf, nested)
    events = [event_on(device) for device in devices]

    def wait() -> Any:
        for event in events:
            event.synchronize()
        return arrays_of(copies)

    return wait


def arrays_of(nested: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a tuple of nested tensors as numpy arrays: nested tensors padded, sparse ones dense. Waits for the device.

    Most parts are a tensor, a number or None, which need no look for parts of their own.
    """
    return tuple(
        [
            part
            if (kind := type(part)) in LEAVES
            else _to_numpy(part)
            if kind is Tensor
            else map_nested(_to_numpy, part)
            for part in nested
        ]
    )


def event_on(device: torch.device) -> Any:
    """Return an event that occurs when all that was asked of ``device`` so far is done."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _overlaps(leaf: Any) -> bool:
    return (
        isinstance(leaf, Tensor)
        and leaf.device.type in OVERLAPPING
        and leaf.layout is torch.strided
        and not leaf.is_nested
        and leaf.nbytes <= PINNED_BYTES
    )


def _to_numpy(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return np.array(leaf) if are_texts(leaf) else leaf
    if leaf.is_nested:
        leaf = torch.nested.to_padded_tensor(leaf, PADDING)
    elif leaf.layout is not torch.strided:
        leaf = leaf.to_dense()
    return (leaf.float() if leaf.dtype in NOT_IN_NUMPY else leaf).numpy(force=True)
