"""Whether the examples of a batch depend on each other, so that no weighting makes two halves equal to the whole.

Layers of batch normalization are found among the modules. A loss that compares the examples of a batch (a contrastive
loss, the variance over a batch) is found in its graph of autograd: near the loss, an operation combines two tensors of
the batch into one with a row and a column for each example, or reduces the dimension of the examples in a way that is
not linear.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._compat import node_kind, saved, shape_of
from .graph import is_cross_entropy

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
PRODUCTS = frozenset({"Mm", "Bmm", "Addmm", "Baddbmm", "Cdist", "Add", "Sub", "Mul", "Div"})
REDUCTIONS = frozenset({"Std", "Var", "StdMean", "VarMean", "LinalgVectorNorm", "Norm", "Softmax", "LogSoftmax"})
REDUCTIONS |= {"Logsumexp", "Max", "Min", "Amax", "Amin", "Prod", "Cumsum"}
LINEAR = frozenset(
    {"ToCopy", "View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Clone", "Alias", "Expand", "T"}
    | {"Neg", "Add", "Sub", "Stack", "Select", "Slice", "Sum", "Mean", "Transpose", "Permute", "Mul", "Div", "Identity"}
)
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Where", "Clamp", "ClampMin"})
"""Operations whose other operand is usually a number."""
NEAR = 256
"""Number of operations, the nearest to the loss, that are looked at."""
MOST = 2000
"""Number of operations among which those are searched where data come in."""


def batch_norm_in(model: nn.Module, *, accumulates: bool) -> str:
    """Return a layer of batch normalization that is in training mode, in words; empty without one.

    Args:
        accumulates: Whether a process has several micro-batches, whose statistics SyncBatchNorm does not join.
    """
    for name, module in model.named_modules():
        is_joined = isinstance(module, nn.SyncBatchNorm) and not accumulates
        if isinstance(module, BATCH_NORMS) and module.training and not is_joined:
            return f"{type(module).__name__} ({name}) computes statistics over the examples of a micro-batch"
    return ""


def comparison_in(loss: Any, examples: int, labels: Any) -> str:
    """Return how a loss compares the examples of a batch with each other, in words; empty if it is not known to.

    Args:
        examples: The number of examples.
        labels: The labels in the batch.
    """
    if not examples or not isinstance(loss, Tensor) or loss.grad_fn is None:
        return ""
    for node, is_linear in _nodes_near(loss.grad_fn):
        kind = node_kind(node)
        if is_cross_entropy(node) and _has_examples_as_classes(node, examples, labels):
            return "its classes are the examples of the batch"
        if (kind in PRODUCTS and _is_product(node, kind, examples)) or _repeats_examples(node, kind, examples):
            return "it compares the examples with each other"
        is_reduction = kind in REDUCTIONS or (kind in ("Sum", "Mean") and not is_linear)
        if is_reduction and _reduces_examples(node, examples):
            return "it depends on statistics over the examples"
    return ""


def _nodes_near(root: Any) -> Iterator[tuple[Any, bool]]:
    """Yield the nodes that are nearest to the loss, each with whether the loss is linear in it."""
    waiting = deque([(root, True)])
    seen: set[tuple[Any, bool]] = set()
    while waiting and len(seen) < NEAR:
        node, is_linear = waiting.popleft()
        if (node, is_linear) in seen:
            continue
        seen.add((node, is_linear))
        yield node, is_linear
        kind, following = node_kind(node), [each for each, _ in node.next_functions if each is not None]
        stays = is_linear and (is_cross_entropy(node) or kind in LINEAR)
        if kind in ("Mul", "Div") and len(following) > 1:
            stays = False
        waiting.extend((each, stays) for each in following)


def _has_examples_as_classes(node: Any, examples: int, labels: Any) -> bool:
    target, (logits, _) = saved(node, "target"), node.next_functions[0]
    classes = shape_of(logits, 0)[1:2]
    if target.ndim != 1 or len(target) != examples or not classes or not _is_of_examples(classes[0], examples):
        return False
    is_label = isinstance(labels, Tensor) and labels.shape == target.shape and bool((labels == target).all())
    return not is_label and bool((target == torch.arange(examples, device=target.device)).all())


def _is_product(node: Any, kind: str, examples: int) -> bool:
    """Return whether a node combines each example of one tensor with each of another, or sums products over them."""
    if len(node.next_functions) < 2:
        return False
    (one, first), (two, second) = node.next_functions[-2:] if kind != "Cdist" else node.next_functions[:2]
    if one is None or two is None:
        return False
    shapes, sizes = (list(shape_of(one, first)), list(shape_of(two, second))), _sizes(examples)
    if kind in ARITHMETIC:
        if examples == 1:
            return False
        width = max(map(len, shapes))
        (rows, columns), (others, more) = (([1] * (width - len(shape)) + shape + [0, 0])[:2] for shape in shapes)
        found = {(rows, more), (others, columns)} if {rows, others} >= {1} and {columns, more} >= {1} else set()
        is_outer = any(row in sizes and column in sizes for row, column in found)
        return is_outer and all(_has_data(each, examples) for each in (one, two))
    if any(len(shape) < 2 or (len(shape) > 2 and shape[:-2] != [1]) for shape in shapes):
        return False
    (rows, inner), (more, columns) = shapes[0][-2:], shapes[1][-2:]
    if kind == "Cdist":
        columns = more
    is_outer = rows in sizes and columns in sizes
    is_inner = kind != "Cdist" and inner in sizes and rows not in sizes and columns not in sizes
    return (is_outer or is_inner) and all(_has_data(each, examples) for each in (one, two))


def _repeats_examples(node: Any, kind: str, examples: int) -> bool:
    """Return whether a node repeats all examples for each of them."""
    (one, _), *_ = node.next_functions or ((None, 0),)
    if kind != "Expand" or one is None or node_kind(one) != "Unsqueeze" or not one.next_functions:
        return False
    (below, index), *_ = one.next_functions
    before, after, sizes = shape_of(below, index), shape_of(node, 0), _sizes(examples)
    is_row = len(after) == len(before) + 1 > 2 and after[1:] == before
    is_repeated = is_row and after[0] in sizes and after[1] in sizes and not node_kind(below).startswith("Embedding")
    return is_repeated and _has_data(below, examples)


def _reduces_examples(node: Any, examples: int) -> bool:
    """Return whether a node reduces the first dimension, which has the examples."""
    dims = saved(node, "dim")
    dims = (dims,) if isinstance(dims, int) else dims
    following, index = node.next_functions[0] if node.next_functions else (None, 0)
    if dims is None or 0 not in dims or following is None:
        return False
    shape = shape_of(following, index)
    has_rows = len(shape) > 1 and _is_of_examples(shape[0], examples) and shape[1] != examples
    return has_rows and _has_data(following, examples)


def _sizes(examples: int) -> tuple[int, ...]:
    """Return the sizes of one view, and of two views, of all examples; two could be anything where there is one."""
    return (examples, 2 * examples) if examples > 1 else (1,)


def _is_of_examples(size: int, examples: int) -> bool:
    """Return whether a dimension may have the examples, or several rows for each."""
    return size == 1 if examples == 1 else size % examples == 0


def _has_data(root: Any, examples: int) -> bool:
    """Return whether a tensor depends on the batch, and not on weights alone."""
    waiting: list[Any] = [root]
    seen: set[Any] = set()
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        kind, following = node_kind(node), [each for each, _ in node.next_functions]
        if kind.startswith("Embedding"):
            shape = shape_of(node, 0)
            if shape and shape[0] and _is_of_examples(shape[0], examples):
                return True
        elif None in following and kind not in ARITHMETIC:
            return True
        waiting += [each for each in following if each is not None]
    return False
