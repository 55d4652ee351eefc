"""What a model does with its labels, found by calling it once more with other labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...evaluation.output_collector import leaves
from ..loss import IGNORED, LabelRule
from ..model_io import loss_or_none
from ..precision.eval_mode import eval_mode


def probe_rule(trainer: Any, model_io: Any, inputs: Any) -> LabelRule | None:
    """Return the rule by which a model that computes its own loss counts labels; None if it cannot be found.

    The first label of each row is replaced by another one that occurs in the batch: if the loss stays the same, the
    model shifts its labels. The model is called twice, in evaluation mode and without gradients.
    """
    labels = model_io.labels_of(inputs)
    other = _with_other_first_labels(labels)
    if other is None or not isinstance(inputs, (Mapping, tuple, list)):
        return None
    with eval_mode(trainer.model, None), torch.no_grad(), torch.random.fork_rng(devices=_devices(labels)):
        before, after = (_loss(trainer, model_io, _with_labels(inputs, labels, each)) for each in (labels, other))
    if before is None or after is None or not bool(torch.isfinite(before).all()):
        return None
    return replace(model_io.rule, is_causal=bool((before == after).all()))


def tensors_in(inputs: Any) -> Iterator[Tensor]:
    """Yield the tensors in a batch."""
    return (leaf for leaf in leaves(inputs) if isinstance(leaf, Tensor))


def _loss(trainer: Any, model_io: Any, inputs: Any) -> Any:
    past = model_io.past
    try:
        return loss_or_none(model_io.call(trainer.model, inputs, with_labels=True))
    finally:
        model_io.past = past


def _with_other_first_labels(labels: Any) -> Tensor | None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim < 2 or labels.shape[-1] < 2:
        return None
    known = labels[labels != IGNORED]
    if not known.numel() or known.min() == known.max():
        return None
    first, low, high = labels[..., :1], known.min(), known.max()
    return torch.cat([torch.where(first == low, high, low), labels[..., 1:]], dim=-1)


def _with_labels(inputs: Any, labels: Tensor, other: Tensor) -> Any:
    if isinstance(inputs, Mapping):
        return {name: other if value is labels else value for name, value in inputs.items()}
    return type(inputs)(other if value is labels else value for value in inputs)


def _devices(labels: Tensor) -> list[torch.device]:
    return [labels.device] if labels.is_cuda else []
