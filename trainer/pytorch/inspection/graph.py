"""Over how many items a loss is a mean, read from the operations that computed it.

The nodes of autograd hold it: the number of labels that counted in a cross entropy, with their class weights; the
number of elements in a mean; the divisor of a sum. A loss may be a sum of such terms, times constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._compat import node_kind, saved

PASSED = frozenset(
    {"ToCopy", "View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Clone", "Alias", "Expand", "Identity"}
    | {"Neg", "Add", "Sub", "Mul", "Div", "Stack", "Select", "Where", "NanToNum"}
)
"""Operations between a loss and its terms."""
OF_WEIGHTS = frozenset({"Sum", "Mean", "Pow", "Abs", "Norm", "LinalgVectorNorm", "Exp", "Log", "Sqrt", "Neg", "Square"})
"""Operations of a term of parameters alone, such as a penalty; it is the same in every micro-batch."""
SUMS = ("Sum", "Mean", "Nansum")
"""Operations that a term may begin with, beside torch's losses."""
MOST_NODES = 64
"""Number of nodes after which the search gives up."""


@dataclass(slots=True)
class Term:
    """A mean or a sum in a loss.

    Attributes:
        kind: "mean", or "sum" if it was not divided.
        items: The divisor of the mean, a number or a tensor on the device.
        is_counted: Whether ``items`` depend on the values in the batch, and not only on shapes.
        node: Its node; it can be read until the backward pass.
    """

    kind: str
    items: Any
    is_counted: bool
    node: Any


@dataclass(slots=True)
class Reading:
    """The terms of a loss, and the constant that it was multiplied by.

    Attributes:
        terms: The terms; empty if they are unknown.
        unknown: Names of the operations because of which they are unknown.
        factor: The product of the constants that all terms were multiplied by; NaN if it was not read.
    """

    terms: list[Term] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    factor: float = math.nan


def read_loss(loss: Any, *, with_factor: bool = False) -> Reading:
    """Return the terms of ``loss``, before its backward pass.

    What is multiplied by the constant 0 counts nothing: ``outputs.sum() * 0`` is what losses return if no label counts.

    Args:
        with_factor: Whether to read the constant factor, which waits for the device.
    """
    reading = Reading()
    node = loss.grad_fn if isinstance(loss, Tensor) else None
    if node is None:
        reading.unknown.append("a loss without gradient")
        return reading
    nothing: Any = None
    if with_factor:
        reading.factor = _root_factor(node)
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(node, ())]
    for _ in range(MOST_NODES):
        if not waiting:
            break
        node, divisors = waiting.pop()
        kind = node_kind(node)
        if kind == "AccumulateGrad":
            continue
        if _is_zero(node, kind):
            nothing = node
            continue
        reduction = saved(node, "reduction")
        if reduction in (1, 2):
            reading.terms.append(_term_of_loss(node, reduction, divisors))
        elif kind in SUMS and not _is_of_stacked(node, kind):
            if not _is_of_weights(node):
                reading.terms.append(_term_of_sum(node, kind, divisors))
        elif kind in PASSED or kind in SUMS:
            if kind == "Div" and (other := _scalar(node)) is not None:
                divisors = (*divisors, other)
            waiting += [(following, divisors) for following, _ in node.next_functions if following is not None]
        elif not _is_of_weights(node):
            reading.unknown.append(kind)
    if waiting:
        reading.unknown.append("too many operations")
    if reading.unknown:
        reading.terms.clear()
    elif nothing is not None and not reading.terms:
        reading.terms.append(Term("mean", 0, True, nothing))
    return reading


@contextmanager
def operations_kept() -> Iterator[None]:
    """Return a context in which the operations of a loss can be read, without the memory that a backward pass needs.

    Of the tensors that autograd keeps, those of one element and of whole numbers are kept, and of others the shape.
    """

    def shape_of(tensor: Tensor) -> Tensor:
        is_kept = tensor.numel() <= 1 or not (tensor.is_floating_point() or tensor.is_complex())
        return tensor if is_kept or tensor.layout is not torch.strided else torch.empty_like(tensor, device="meta")

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(shape_of, lambda tensor: tensor):
        yield


def count_targets(node: Any) -> Any:
    """Return the number of targets that count in a cross entropy, times their class weights, as torch divides by it."""
    total = saved(node, "total_weight")
    if total.dtype in (torch.float32, torch.float64):
        return total
    target, weight = saved(node, "target"), saved(node, "weight")  # the total is rounded
    counts = target != ignored_label(node)
    return counts.sum() if weight is None else weight.double()[target.clamp_min(0)][counts].sum()


def picks_elements(term: Term) -> bool:
    """Return whether a term is of elements that were picked by a mask or by indices, a number that may vary."""
    waiting = [term.node]
    for node in waiting:
        if node_kind(node) in ("Index", "MaskedSelect", "IndexSelect"):
            return True
        if len(waiting) < MOST_NODES:
            waiting += [each for each, _ in node.next_functions if each is not None]
    return False


def ignored_label(node: Any) -> int:
    """Return the label that a cross entropy ignores."""
    value = int(saved(node, "ignore_index"))
    return value - 2**64 if value >= 2**63 else value


def is_cross_entropy(node: Any) -> bool:
    """Return whether a node is that of a cross entropy of class labels."""
    return node_kind(node) in ("NllLoss", "NllLoss2D")


def _term_of_loss(node: Any, reduction: int, divisors: tuple[Any, ...]) -> Term:
    if reduction == 2:
        return _term_of_sum(node, "Sum", divisors)
    if is_cross_entropy(node):
        return Term("mean", _number(count_targets(node)), True, node)
    own = saved(node, "self")
    if node_kind(node) == "MultiMarginLoss":
        return Term("mean", own.shape[0] if own.ndim > 1 else 1, False, node)
    return Term("mean", own.numel(), False, node)


def _term_of_sum(node: Any, kind: str, divisors: tuple[Any, ...]) -> Term:
    if kind == "Mean":
        return Term("mean", int(saved(node, "self_sym_numel")), False, node)
    if divisors:
        return Term("mean", _number(divisors[-1]), True, node)
    return Term("sum", None, False, node)


def _is_of_stacked(node: Any, kind: str) -> bool:
    """Return whether a sum or a mean is over terms that were stacked."""
    (following, _), *_ = node.next_functions
    return (
        following is not None
        and node_kind(following) == "Stack"
        and len(following.next_functions) < 16
        and (math.prod(saved(node, "self_sym_sizes")) == len(following.next_functions))
    )


def _is_of_weights(node: Any) -> bool:
    for _ in range(8):
        kind = node_kind(node)
        if kind == "AccumulateGrad":
            return True
        if kind not in OF_WEIGHTS or len(node.next_functions) != 1 or node.next_functions[0][0] is None:
            return False
        node = node.next_functions[0][0]
    return False


def _root_factor(node: Any) -> float:
    """Return the product of the constants that a whole loss was multiplied by last. Waits for the device."""
    factor = 1.0
    while (kind := node_kind(node)) in PASSED or kind == "Sum":
        following = [each for each, _ in node.next_functions if each is not None]
        if kind == "Stack" and following:  # the losses of several optimizers
            factors = {_root_factor(each) for each in following}
            return factor * factors.pop() if len(factors) == 1 else factor
        if len(following) != 1 or (kind == "Sum" and not _is_of_stacked(node, kind)):
            break
        other = _scalar(node) if kind in ("Mul", "Div") else None
        if other is not None:
            factor = factor * float(other) if kind == "Mul" else factor / float(other) if float(other) else math.nan
        node = following[0]
    return factor


def _scalar(node: Any) -> Any:
    """Return the single number that an operation multiplies or divides by; None if there is none."""
    other = saved(node, "other")
    return None if isinstance(other, Tensor) and other.numel() != 1 else other


def _is_zero(node: Any, kind: str) -> bool:
    """Return whether an operation multiplies by the constant 0, or adds up what was multiplied by it."""
    if kind in SUMS and (following := node.next_functions[0][0]) is not None:
        node, kind = following, node_kind(following)
    other = _scalar(node) if kind == "Mul" else None
    return isinstance(other, Tensor) and other.is_cpu and not other.requires_grad and other.item() == 0.0


def _number(items: Any) -> Any:
    """Return items as a number, unless they are on a device."""
    return items.item() if isinstance(items, Tensor) and items.is_cpu else items
