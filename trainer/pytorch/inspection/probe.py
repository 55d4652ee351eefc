"""What a loss does with labels and examples, found by computing it again for other labels and for parts of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...evaluation.output_collector import leaves
from ..batches.label_rule import IGNORED, LabelRule
from ..batches.model_outputs import loss_or_none
from ..batches.parts import map_batch
from ..loss import as_mean_and_weight
from ..precision.eval_mode import eval_mode

FEW = 4
"""Number of examples whose loss is computed with gradients in an evaluation before any training."""


def probe_rule(trainer: Any, model_io: Any, inputs: Any, loss_of: Callable[[Any], Any]) -> LabelRule | None:
    """Return the rule by which labels or examples count in a loss whose operations are unknown; None without one.

    The first label of each row is replaced by another one: if the loss stays the same, the
    model shifts its labels. Then the loss of the batch must be the mean of those of two parts, weighted by the rule.
    The model is called up to four times, in evaluation mode and without gradients.
    """
    labels, size, rule = model_io.labels_of(inputs), model_io.examples_in(inputs), model_io.rule
    if size < 2 or not isinstance(inputs, (Mapping, tuple, list)):
        return None
    parts = [inputs, rows_of(inputs, size, 0, size // 2), rows_of(inputs, size, size // 2, size)]
    other = _with_other_first_labels(labels)
    if other is not None:
        parts.append(_with_labels(inputs, labels, other))
    losses = _losses(trainer, model_io, parts, loss_of)
    if other is not None:
        rule = replace(rule, is_causal=losses[3] == losses[0])
    counts = [float(rule.count(model_io.labels_of(part), part)) for part in parts[1:3]]
    return rule if _is_mean(losses, counts) else None


def shifts_labels(trainer: Any, model_io: Any, inputs: Any) -> bool | None:
    """Return whether a model that computes its own loss shifts its labels by one; None if that cannot be found."""
    labels = model_io.labels_of(inputs)
    other = _with_other_first_labels(labels)
    if other is None or not isinstance(inputs, (Mapping, tuple, list)):
        return None
    parts = [inputs, _with_labels(inputs, labels, other)]
    first, second = _losses(trainer, model_io, parts, lambda part: loss_of_model(trainer, model_io, part))
    return None if math.isnan(first) else first == second


def loss_of_model(trainer: Any, model_io: Any, inputs: Any) -> Any:
    """Return the loss that the model computes of a batch by itself; None without one."""
    return loss_or_none(model_io.call(trainer.model, inputs, with_labels=True))


@contextmanager
def evaluated(trainer: Any, model_io: Any, inputs: Any) -> Iterator[None]:
    """Return a context in which calls of the model leave no trace: evaluation mode, random numbers, ``past_index``."""
    past = model_io.past
    try:
        with eval_mode(trainer.model, None), torch.random.fork_rng(devices=_devices(inputs)):
            yield
    finally:
        model_io.past = past


def _losses(trainer: Any, model_io: Any, parts: list[Any], loss_of: Callable[[Any], Any]) -> list[float]:
    """Return the mean losses of batches, in evaluation mode; NaN without one."""
    with evaluated(trainer, model_io, parts[0]):
        found = [loss_of(part) for part in parts]
    return [math.nan if loss is None else float(as_mean_and_weight(loss)[0]) for loss in found]


def tensors_in(inputs: Any) -> Iterator[Tensor]:
    """Yield the tensors in a batch."""
    return (leaf for leaf in leaves(inputs) if isinstance(leaf, Tensor))


def with_order(tensor: Tensor) -> Tensor:
    """Return a tensor in a type in which torch can compare and count: int64 for its unsigned types above uint8."""
    return tensor.long() if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64) else tensor


def _is_mean(losses: list[float], counts: list[float]) -> bool:
    """Return whether the first loss is the mean of the next two, which differ."""
    whole, first, second = losses[:3]
    if not sum(counts) or not abs(first - second) > 1e-3 * abs(whole):
        return False
    mean = (first * counts[0] + second * counts[1]) / sum(counts)
    return abs(mean - whole) <= 1e-4 * abs(first - second) + 1e-6 * abs(whole)


def rows_of(inputs: Any, size: int, start: int, stop: int) -> Any:
    """Return some of the examples of a batch of ``size``: of all its tensors and lists with one item for each."""

    def has_rows(part: Any, path: Any) -> bool:
        if isinstance(part, (Tensor, np.ndarray)):
            return part.ndim > 0 and len(part) == size
        is_list = isinstance(part, list) and bool(path) and len(part) == size
        return is_list and not all(isinstance(item, Tensor) and item.ndim and len(item) == size for item in part)

    return map_batch(lambda part, path: part[start:stop] if has_rows(part, path) else part, inputs, is_whole=has_rows)


def _with_other_first_labels(labels: Any) -> Tensor | None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim < 2 or labels.shape[-1] < 2:
        return None
    whole = with_order(labels)
    known = whole[whole != IGNORED]
    if not known.numel():
        return None
    low, high = known.min(), known.max()
    if low == high:
        low = high - 1 if high > 0 else high + 1
    return torch.cat([torch.where(whole[..., :1] == low, high, low), whole[..., 1:]], dim=-1).to(labels.dtype)


def _with_labels(inputs: Any, labels: Tensor, other: Tensor) -> Any:
    if isinstance(inputs, Mapping):
        return {name: other if value is labels else value for name, value in inputs.items()}
    values = [other if value is labels else value for value in inputs]
    return inputs._make(values) if hasattr(inputs, "_make") else type(inputs)(values)


def _devices(inputs: Any) -> list[torch.device]:
    return list({tensor.device for tensor in tensors_in(inputs) if tensor.is_cuda})
