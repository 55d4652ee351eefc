"""The loss of a batch: over how many items it is a mean, and how the means of an update become one.

The gradient of an update is the gradient of the mean over everything in the update. Each micro-batch is therefore
taken backward with its *share* (its items divided by a constant), and the sum of the shares divides the gradients when
the update is complete. Where the shares add up to one, which is the rule, nothing is left to divide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trackside.callbacks.errors import TracksideTypeError

from ._torch_util import unwrap
from .distributed.strategy import DistributedStrategy

IGNORED = -100
"""The label that is in no loss and no metric."""

FEW = 256
"""So many labels are counted as a list, in less time than numpy takes to begin."""


def count_items(labels: Any, batch: Any, *, is_causal: bool) -> Any:
    """Return the items that the mean loss of a batch is over, as a number or a tensor on the labels' device.

    Whole-number labels count where they are not -100 (for causal language models from the second token on, as the
    model shifts them); other labels, and batches without labels, count by examples.
    """
    label = labels if isinstance(labels, Tensor) else next(_tensors(labels), None)
    if label is None or label.is_floating_point() or label.ndim == 0 or isinstance(labels, (tuple, list)):
        return batch_size(batch)
    if is_causal and label.ndim > 1:
        label = label[..., 1:]
    if not label.is_cpu:
        return (label != IGNORED).sum()
    if label.ndim == 1 and len(label) <= FEW:
        return len(label) - label.tolist().count(IGNORED)
    return int(np.count_nonzero(label.numpy() != IGNORED))  # a tenth of what torch takes for it


def batch_size(batch: Any) -> int:
    """Return the examples in a batch: the first dimension of its first tensor."""
    tensor = next((leaf for leaf in _tensors(batch) if leaf.ndim), None)
    return 1 if tensor is None else len(tensor)


def _tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


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


def weighed(result: Any, items: Callable[[], Any]) -> tuple[Tensor, Any]:
    """Return what compute_loss gave as a mean and the items it is over.

    Args:
        result: A mean, or ``(loss_sum, weight)``.
        items: Counts the items of the batch, called only where the mean stands alone.
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
def no_gradient_of(loss: Tensor, model: nn.Module) -> Iterator[Tensor]:
    """A context in which the backward pass of ``loss``, a mean over nothing, makes all gradients zero, not NaN.

    It goes the usual way, so that the same parameters get a gradient as ever, of the same layout: DDP and FSDP wait for
    those. What it gives begins the backward pass also where ``loss`` is a constant.
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
    """Yield what gets a gradient of ``loss``; with FSDP those are not the model's parameters, but gathered ones."""
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


class LossWindow:
    """The micro-batches of one update: their shares and their losses.

    Args:
        processes: Over which the shares are summed up.
        device: Where losses are summed up.
        reference: The constant that shares are relative to: the items of a whole window, where examples are items.
        replace_non_finite: Put the mean so far in the place of an update's loss that is not finite.
    """

    def __init__(
        self,
        processes: DistributedStrategy,
        device: torch.device,
        reference: float,
        *,
        replace_non_finite: bool = False,
    ) -> None:
        self._processes = processes
        self.reference = reference
        self._replace_non_finite = replace_non_finite
        self._is_alone = processes.world_size == 1
        self.count = 1
        self.share: Any = 1.0
        self._is_last = True
        self._sum_of_shares: Callable[[], Any] | None = None
        self._shares: Any = 0.0
        self._loss: Any = 0.0
        dtype = torch.float32 if device.type in ("mps", "xla") else torch.float64
        # on a CPU a number, which costs a tenth of what adding to a tensor does
        self._total: Any = 0.0 if device.type == "cpu" else torch.zeros((), dtype=dtype, device=device)
        self._updates = 0

    @property
    def is_single(self) -> bool:
        """Whether one micro-batch on one process is the whole update, so that its mean is the update's."""
        return self.count == 1 and self._is_alone

    def begin(self, index: int, count: int) -> None:
        """Begin micro-batch ``index`` of ``count``."""
        self.count = count
        self.share = 1.0
        self._is_last = index + 1 == count
        if index == 0:
            self._shares, self._loss, self._sum_of_shares = 0.0, 0.0, None

    def set_items(self, items: Any) -> None:
        """Set the items of this micro-batch; with the last of an update, all processes begin to sum their shares."""
        self.share = 1.0 if self.is_single else items / self.reference
        if self._is_last and not self._is_alone:
            self._sum_of_shares = self._processes.all_reduce_async(self._shares + self.share)

    def add(self, loss: Tensor) -> None:
        """Add the mean loss of this micro-batch."""
        self._shares = self._shares + self.share
        value = loss.item() if isinstance(loss, Tensor) and loss.is_cpu else loss
        if self.is_single:
            self._loss = value
        elif not isinstance(self.share, Tensor):
            self._loss = self._loss + (value * self.share if self.share else 0.0)
        else:
            self._loss = self._loss + torch.where(self.share > 0, value * self.share, 0.0)

    def close(self) -> Any:
        """End the update: return the factor that makes its gradient that of the mean; 1.0 where it is already."""
        if self.is_single:
            self._sum_up(self._loss)
            return 1.0
        begin = self._processes.all_reduce_async
        shares = (self._sum_of_shares or begin(self._shares))()
        if isinstance(shares, Tensor) and shares.device.type == "cpu":
            shares = shares.item()
        factor: Any = 0.0
        if isinstance(shares, Tensor):
            factor = self._processes.world_size / shares.clamp_min(1e-12)
        elif shares:
            factor = self._processes.world_size / shares
        self._sum_up(self._loss * (factor / self._processes.world_size))
        return factor

    def _sum_up(self, loss: Any) -> None:
        if self._replace_non_finite:
            loss = self._replaced(loss, self._total / max(self._updates, 1))
        self._total += loss
        self._updates += 1

    def _replaced(self, loss: Any, mean: Any) -> Any:
        """Return ``loss`` where it is finite, and ``mean`` where it is not."""
        if isinstance(loss, Tensor):
            return torch.where(torch.isfinite(loss), loss, mean)
        return loss if math.isfinite(loss) else mean

    def take(self) -> float:
        """Return the sum of the update losses since the last call. Waits for the device."""
        value = float(self._processes.all_reduce(self._total))
        self._total = torch.zeros_like(self._total) if isinstance(self._total, Tensor) else 0.0
        self._updates = 0
        return value
