"""Loss of a batch: its mean and weight, label smoothing, empty batches, and the sums of an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trackside.callbacks.errors import TracksideTypeError

from ..measuring.current_epoch import WatchedLosses
from ..train_step import StepContext
from .batches.label_rule import IGNORED
from .distributed.strategy import DistributedStrategy


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


def as_mean_and_weight(result: Any) -> tuple[Tensor, Any]:
    """Return the result of compute_loss, a mean or ``(loss_sum, weight)``, as a mean and its weight, None without one.

    Raises:
        TracksideTypeError: If it is neither.
    """
    if isinstance(result, (tuple, list)) and len(result) == 2:
        loss_sum, weight = result
        weight = as_weight(weight)
        floor = max(weight, 1e-12) if isinstance(weight, (int, float)) else weight.clamp_min(1e-12)
        return loss_sum / floor, weight
    if not isinstance(result, Tensor):
        raise TracksideTypeError(
            f"compute_loss returned {type(result).__name__}; it returns a mean loss, or (loss_sum, weight)"
        )
    return (result if result.ndim == 0 else result.mean()), None


def as_weight(weight: Any) -> Any:
    """Return the second part of what compute_loss returned as a number, or as a tensor that is not on the CPU.

    Raises:
        TracksideTypeError: If it cannot be a weight, since it is the model's outputs or the like.
    """
    if isinstance(weight, Tensor):
        is_one = weight.numel() == 1 and not weight.requires_grad
        what = f"a tensor of shape {tuple(weight.shape)}{' with a gradient' if weight.requires_grad else ''}"
    else:
        is_one, what = isinstance(weight, (int, float, np.number)), f"of type {type(weight).__name__}"
    if not is_one:
        raise TracksideTypeError(
            f"compute_loss, or loss_fn, returned a pair whose second part is {what}; it returns a mean loss, or "
            "(loss_sum, weight) with the number of items as weight. (loss, outputs) is for return_outputs=True only"
        )
    return weight.item() if isinstance(weight, np.number) or (isinstance(weight, Tensor) and weight.is_cpu) else weight


@contextmanager
def zero_gradients_of(loss: Tensor, model: nn.Module) -> Iterator[Tensor]:
    """Return a context in which the backward pass of ``loss``, a mean over no items, makes all gradients zero, not NaN.

    The backward pass reaches the same parameters as usual, with gradients of the same layout, since DDP and FSDP wait
    for them. The context yields the tensor at which to begin, which has a gradient even if ``loss`` is a constant.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hooked: set[Any] = {*parameters, *leaves_of(loss)}
    handles = [leaf.register_hook(torch.zeros_like) for leaf in hooked]
    try:
        yield loss if loss.requires_grad else sum((p.sum() * 0.0 for p in parameters), loss)
    finally:
        for handle in handles:
            handle.remove()


def leaves_of(loss: Tensor) -> Iterator[Tensor]:
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


def rescale(gradients: list[Tensor], factor: Any) -> None:
    """Multiply gradients by ``factor``; by 0.0 also those that are not finite."""
    if isinstance(factor, Tensor) or factor != 0.0:
        torch._foreach_mul_(gradients, factor)
    else:
        torch._foreach_zero_(gradients)


# -- the sums of an update --------------------------------------------------------------------------------------------


class LossAccumulator:
    """The weights and the losses of the micro-batches of one update, and the loss since the last record.

    Args:
        strategy: Sums the weights over the processes.
        device: The device on which losses are summed.
        reference: The divisor of weights: the number of items in a whole update, if examples are items.
        skip_non_finite: Whether to replace a non-finite loss of an update by the mean so far.

    Attributes:
        is_sum: Whether losses are sums, which are added up and not divided.
        scale: The factor from the losses as they are computed to means.
        last: The loss of the last update, the part of this process in its mean.
        watched: Another sum of the losses, for callbacks that ask for it; None if none does.
    """

    def __init__(
        self, strategy: DistributedStrategy, device: torch.device, reference: float, *, skip_non_finite: bool
    ) -> None:
        self._strategy = strategy
        self._skip_non_finite = skip_non_finite
        self._base = self.reference = reference
        self.is_sum, self.scale = False, 1.0
        self._is_alone = strategy.world_size == 1
        self._is_single = True
        self._is_empty: Any = False
        self._sum_of_weights: Callable[[], Any] | None = None
        self._weights: Any = 0.0
        self._loss: Any = 0.0
        dtype = torch.float32 if device.type in ("mps", "xla") else torch.float64
        # on a CPU a number, to which additions are ten times faster than to a tensor
        self._total: Any = 0.0 if device.type == "cpu" else torch.zeros((), dtype=dtype, device=device)
        self._updates: Any = 0
        self._empty: Any = 0
        self.last: Any = 0.0
        self._before: tuple[Any, ...] = ()
        self.watched: WatchedLosses | None = None

    def set_unit(self, per_example: float) -> None:
        """Set the number of items of an example, so that the weights of an update add up to about one."""
        self.reference = self._base * per_example

    def begin(self, context: StepContext) -> None:
        """Begin a micro-batch; the first one begins an update."""
        context.is_single = context.count == 1 and self._is_alone
        if context.index == 0:
            self._weights, self._loss, self._sum_of_weights, self._is_empty = 0.0, 0.0, None, False

    def weigh(self, context: StepContext) -> None:
        """Set the weight of a micro-batch; at the last one of an update, begin to sum the weights of all processes."""
        context.is_weighed = True
        if self.is_sum:
            context.weight = 0.0 if context.is_padding else 1.0
        else:
            context.weight = 1.0 if context.is_single else context.items / self.reference
        if context.is_last and not context.is_part and not self._is_alone:
            self._sum_of_weights = self._strategy.all_reduce_async(self._weights + context.weight)

    def add(self, loss: Tensor, context: StepContext) -> Any:
        """Add the mean loss of a micro-batch; return it, as a number on a CPU, and as 0 where nothing counts."""
        weight, self._is_single = context.weight, context.is_single
        self._weights = self._weights + weight
        value = loss.item() if isinstance(loss, Tensor) and loss.is_cpu else loss
        if context.is_single:
            if context.items is not None:
                value = self._of_counted(value, context.items)
            self._loss = value
            return value
        if not isinstance(weight, Tensor):
            value = value if weight else 0.0
        else:
            value = torch.where(weight > 0, value, 0.0)
        self._loss = self._loss + value * weight
        return value

    def _of_counted(self, value: Any, items: Any) -> Any:
        """Return the loss of a whole update, or 0 if no item counts, and note which it is."""
        self._is_empty = items <= 0
        if isinstance(items, Tensor):
            return torch.where(self._is_empty, 0.0, value)
        return 0.0 if self._is_empty else value

    def leave_out(self) -> None:
        """Leave out the update, which is one micro-batch of which nothing counts."""
        self._is_empty = True

    def close(self) -> Any:
        """End the update; return the factor from its gradient to that of the mean.

        It is 1.0 if they are equal, and 0.0 if nothing counts.
        """
        if self._is_single:
            self._sum_up(self._loss * self.scale if self.scale != 1.0 else self._loss)
            return 0.0 if self._is_empty is True else self.scale
        weights = (self._sum_of_weights or self._strategy.all_reduce_async(self._weights))()
        if isinstance(weights, Tensor) and weights.device.type == "cpu":
            weights = weights.item()
        factor: Any = 0.0
        self._is_empty = weights <= 0
        if self.is_sum:
            factor = 0.0 if self._is_empty else float(self._strategy.world_size)
        elif isinstance(weights, Tensor):
            factor = self._strategy.world_size / weights.clamp_min(1e-12)
        elif weights:
            factor = self._strategy.world_size / weights
        factor = factor * self.scale
        self._sum_up(self._loss * (factor / self._strategy.world_size))
        return factor

    @contextmanager
    def held(self) -> Iterator[None]:
        """Return a context whose losses do not count, of an update that is computed again."""
        before = (self._total, self._updates, self._empty, self.watched)
        self.watched = None
        try:
            yield
        finally:
            self._total, self._updates, self._empty, self.watched = before

    def _sum_up(self, loss: Any) -> None:
        self.last, is_empty = loss, self._is_empty
        self._before = (self._total, self._updates, self._empty)
        if self.watched is not None:
            self.watched.add(loss, is_empty)
        if is_empty is True:
            self._empty += 1
            return
        if self._skip_non_finite:
            updates = self._updates
            if isinstance(loss, Tensor):
                mean = self._total / (updates.clamp_min(1) if isinstance(updates, Tensor) else max(updates, 1))
                loss = torch.where(torch.isfinite(loss), loss, mean)
            elif not math.isfinite(loss):
                loss = self._total / max(updates, 1)
        self._total = self._total + loss  # not in place: `_before` has the old one
        if is_empty is False:
            self._updates += 1
        else:
            self._empty = self._empty + is_empty
            self._updates = self._updates + ~is_empty

    def mean(self) -> float | None:
        """Return the mean loss of the update just closed, over all ranks; None if nothing counts. Waits for it."""
        return None if bool(self._is_empty) else float(self._strategy.all_reduce(self.last))

    def take_back(self) -> None:
        """Make of the update just closed one in which nothing counted."""
        self._total, self._updates, empty = self._before
        self._empty = empty + 1
        if self.watched is not None:
            self.watched.take_back()

    def take(self) -> tuple[float, int]:
        """Return the sum of the update losses since the last call, and how many are empty. Waits for the device."""
        value, empty = float(self._strategy.all_reduce(self._total)), int(self._empty)
        self._total = torch.zeros_like(self._total) if isinstance(self._total, Tensor) else 0.0
        self._updates = self._empty = 0
        return value, empty
