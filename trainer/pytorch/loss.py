"""Loss of a batch: counted items, label smoothing, empty batches, and the sums of an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trackside.callbacks.errors import TracksideTypeError

from ..engine import StepContext
from ..evaluation.output_collector import leaves
from ._torch_util import unwrap
from .batches.parts import batch_size
from .distributed.strategy import DistributedStrategy

IGNORED = -100
"""Label that losses and metrics ignore."""

FEW = 256
"""Maximum number of labels that are counted as a list, which is faster than numpy for few."""


def count_items(labels: Any, batch: Any, *, is_causal: bool, size_of: Callable[[Any], int] = batch_size) -> Any:
    """Return the number of items in the mean loss of a batch, as a number or a tensor on the labels' device.

    Integer labels count unless they are -100 (for causal language models from the second token on, as the model shifts
    them); other labels, and batches without labels, count by examples.
    """
    label = labels if isinstance(labels, Tensor) else next(_tensors(labels), None)
    if label is None or label.is_floating_point() or label.ndim == 0 or isinstance(labels, (tuple, list)):
        return size_of(batch)
    if is_causal and label.ndim > 1:
        label = label[..., 1:]
    if not label.is_cpu:
        return (label != IGNORED).sum()
    if label.ndim == 1 and len(label) <= FEW:
        return len(label) - label.tolist().count(IGNORED)
    return int(np.count_nonzero(label.numpy() != IGNORED))  # ten times faster than torch


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in leaves(value) if isinstance(leaf, Tensor))


def smoothed_loss(logits: Tensor, labels: Tensor, epsilon: float, *, is_causal: bool) -> Tensor:
    """Return the cross entropy with label smoothing, as a mean over the labels that are not -100.

    Shapes:
        logits: (..., classes); labels: the same without the last dimension.

    Source:
        Szegedy et al. (2016), arXiv:1512.00567, section 7.
    """
    if is_causal:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    return nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED, label_smoothing=epsilon
    )


def is_causal_lm(model: nn.Module) -> bool:
    """Return whether a transformers model shifts its labels by one."""
    inner = unwrap(model)
    return getattr(inner, "loss_type", None) == "ForCausalLM" or type(inner).__name__.endswith(
        ("ForCausalLM", "LMHeadModel")
    )


def as_mean_and_weight(result: Any, items: Callable[[], Any]) -> tuple[Tensor, Any]:
    """Return the result of compute_loss as a mean and its number of items.

    Args:
        result: A mean, or ``(loss_sum, weight)``.
        items: Returns the number of items in the batch; called only if ``result`` has no weight.
    """
    if isinstance(result, (tuple, list)) and len(result) == 2:
        loss_sum, weight = result
        if isinstance(weight, Tensor) and weight.device.type == "cpu":
            weight = weight.item()
        floor = max(weight, 1e-12) if isinstance(weight, (int, float)) else weight.clamp_min(1e-12)
        return loss_sum / floor, weight
    if not isinstance(result, Tensor):
        raise TracksideTypeError(
            f"compute_loss returned {type(result).__name__}; it returns a mean loss, or (loss_sum, weight)"
        )
    return (result if result.ndim == 0 else result.mean()), items()


@contextmanager
def zero_gradients_of(loss: Tensor, model: nn.Module) -> Iterator[Tensor]:
    """Return a context in which the backward pass of ``loss``, a mean over no items, makes all gradients zero, not NaN.

    The backward pass reaches the same parameters as usual, with gradients of the same layout, since DDP and FSDP wait
    for them. The context yields the tensor at which to begin, which has a gradient even if ``loss`` is a constant.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hooked: set[Any] = {*parameters, *_leaves_of(loss)}
    handles = [leaf.register_hook(torch.zeros_like) for leaf in hooked]
    try:
        yield loss if loss.requires_grad else sum((p.sum() * 0.0 for p in parameters), loss)
    finally:
        for handle in handles:
            handle.remove()


def _leaves_of(loss: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that get a gradient of ``loss``; with FSDP these are gathered copies of the parameters."""
    seen: set[Any] = {None}
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [following for following, _ in node.next_functions]


# -- the sums of an update --------------------------------------------------------------------------------------------


class LossAccumulator:
    """The weights and the losses of the micro-batches of one update, and the loss since the last record.

    Args:
        strategy: Sums the weights over the processes.
        device: The device on which losses are summed.
        reference: The divisor of weights: the number of items in a whole update, if examples are items.
        skip_non_finite: Whether to replace a non-finite loss of an update by the mean so far.

    Attributes:
        last: The loss of the last update, the part of this process in its mean.
    """

    def __init__(
        self, strategy: DistributedStrategy, device: torch.device, reference: float, *, skip_non_finite: bool
    ) -> None:
        self._strategy = strategy
        self._skip_non_finite = skip_non_finite
        self.reference = reference
        self._is_alone = strategy.world_size == 1
        self._is_single = True
        self._sum_of_weights: Callable[[], Any] | None = None
        self._weights: Any = 0.0
        self._loss: Any = 0.0
        dtype = torch.float32 if device.type in ("mps", "xla") else torch.float64
        # on a CPU a number, to which additions are ten times faster than to a tensor
        self._total: Any = 0.0 if device.type == "cpu" else torch.zeros((), dtype=dtype, device=device)
        self._updates = 0
        self.last: Any = 0.0

    def begin(self, context: StepContext) -> None:
        """Begin a micro-batch; the first one begins an update."""
        context.is_single = context.count == 1 and self._is_alone
        if context.index == 0:
            self._weights, self._loss, self._sum_of_weights = 0.0, 0.0, None

    def weigh(self, context: StepContext) -> None:
        """Set the weight of a micro-batch; at the last one of an update, begin to sum the weights of all processes."""
        context.weight = 1.0 if context.is_single else context.items / self.reference
        if context.is_last and not context.is_part and not self._is_alone:
            self._sum_of_weights = self._strategy.all_reduce_async(self._weights + context.weight)

    def add(self, loss: Tensor, context: StepContext) -> None:
        """Add the mean loss of a micro-batch."""
        weight, self._is_single = context.weight, context.is_single
        self._weights = self._weights + weight
        value = loss.item() if isinstance(loss, Tensor) and loss.is_cpu else loss
        if context.is_single:
            self._loss = value
        elif not isinstance(weight, Tensor):
            self._loss = self._loss + (value * weight if weight else 0.0)
        else:
            self._loss = self._loss + torch.where(weight > 0, value * weight, 0.0)

    def close(self) -> Any:
        """End the update; return the factor from its gradient to that of the mean, 1.0 if they are equal."""
        if self._is_single:
            self._sum_up(self._loss)
            return 1.0
        weights = (self._sum_of_weights or self._strategy.all_reduce_async(self._weights))()
        if isinstance(weights, Tensor) and weights.device.type == "cpu":
            weights = weights.item()
        factor: Any = 0.0
        if isinstance(weights, Tensor):
            factor = self._strategy.world_size / weights.clamp_min(1e-12)
        elif weights:
            factor = self._strategy.world_size / weights
        self._sum_up(self._loss * (factor / self._strategy.world_size))
        return factor

    @contextmanager
    def held(self) -> Iterator[None]:
        """Return a context whose losses do not count, of an update that is computed again."""
        total = self._total.clone() if isinstance(self._total, Tensor) else self._total
        before = (total, self._updates)
        try:
            yield
        finally:
            self._total, self._updates = before

    def _sum_up(self, loss: Any) -> None:
        self.last = loss
        if self._skip_non_finite:
            mean = self._total / max(self._updates, 1)
            if isinstance(loss, Tensor):
                loss = torch.where(torch.isfinite(loss), loss, mean)
            elif not math.isfinite(loss):
                loss = mean
        self._total += loss
        self._updates += 1

    def take(self) -> float:
        """Return the sum of the update losses since the last call. Waits for the device."""
        value = float(self._strategy.all_reduce(self._total))
        self._total = torch.zeros_like(self._total) if isinstance(self._total, Tensor) else 0.0
        self._updates = 0
        return value
