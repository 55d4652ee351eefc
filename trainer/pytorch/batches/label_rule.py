"""Label rule: which labels of a batch count in a mean loss, and how many items that are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...evaluation.output_collector import leaves
from .._torch_util import unwrap
from .parts import batch_size

IGNORED = -100
"""Label that losses and metrics ignore."""

FEW = 256
"""Maximum number of labels that are counted as a list, which is faster than numpy for few."""


@dataclass
class LabelRule:
    """Which labels of a batch count in a mean loss.

    Attributes:
        is_causal: Whether labels of several dimensions count from the second on, as the model shifts them.
        ignored: The label that does not count.
        class_weights: The weight of each label; None if all weigh the same.
        by_examples: Whether the mean is over examples, whatever their labels.
    """

    is_causal: bool = False
    ignored: int = IGNORED
    class_weights: Tensor | None = None
    by_examples: bool = False

    @classmethod
    def declared_by(cls, model: nn.Module, loss_fn: Any) -> LabelRule:
        """Return the rule that a loss, or without one a model, declares."""
        weights = loss_fn.weight if isinstance(loss_fn, (nn.CrossEntropyLoss, nn.NLLLoss)) else None
        return cls(is_causal_lm(model) and loss_fn is None, ignored_by(loss_fn, model), weights)

    def counted(self, labels: Any) -> Tensor | None:
        """Return the integer labels of a batch that may count; None if it counts by examples."""
        if self.by_examples or labels is None or isinstance(labels, (tuple, list)):
            return None
        label = labels if isinstance(labels, Tensor) else next(_tensors(labels), None)
        if label is None or label.is_floating_point() or label.ndim == 0:
            return None
        return label[..., 1:] if self.is_causal and label.ndim > 1 else label

    def count(self, labels: Any, batch: Any, size_of: Callable[[Any], int] = batch_size) -> Any:
        """Return the number of items in the mean loss of a batch, as a number or a tensor on the labels' device.

        Integer labels count unless they are ignored; other labels, and batches without labels, count by examples.
        """
        label = self.counted(labels)
        if label is None:
            return size_of(batch)
        if self.class_weights is not None:
            weights = self.class_weights.to(label.device)
            return weights[label[label != self.ignored].long()].sum()
        if not label.is_cpu:
            return (label != self.ignored).sum()
        if label.ndim == 1 and (size := label.numel()) <= FEW:
            return size - label.tolist().count(self.ignored)
        return int(np.count_nonzero(label.numpy() != self.ignored))  # ten times faster than torch


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in leaves(value) if isinstance(leaf, Tensor))


def is_causal_lm(model: nn.Module) -> bool:
    """Return whether a transformers model shifts its labels by one."""
    inner = unwrap(model)
    return getattr(inner, "loss_type", None) == "ForCausalLM" or type(inner).__name__.endswith(
        ("ForCausalLM", "LMHeadModel")
    )


def ignored_by(loss_fn: Any, model: nn.Module) -> int:
    """Return the label that a loss, or without one a model, declares to ignore; -100 without a declaration."""
    declared = [getattr(loss_fn, "ignore_index", None)]
    if loss_fn is None and (config := getattr(model, "config", None)) is not None:
        declared = [getattr(config, name) for name in dir(config) if name.endswith("loss_ignore_index")]
    return next((value for value in declared if type(value) is int), IGNORED)
