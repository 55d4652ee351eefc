"""``compute_loss_func``: a loss that is told over how many items it is a mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from trackside.callbacks.errors import ArgumentError

from ...calls import check_call


class CountedLoss:
    """A ``loss_fn`` that passes the number of items of its batch on.

    The number is that of this micro-batch: the trainer weighs micro-batches and processes by their items, so that the
    update is that of one large batch.

    Args:
        function: Called as ``function(outputs, labels, num_items_in_batch=...)``.
        count: Returns the number of items of labels.
        instead_of: The ``loss_fn`` that was given too.

    Raises:
        ArgumentError: If both were given.
        TracksideTypeError: If ``function`` cannot be called like this.
    """

    def __init__(self, function: Callable[..., Tensor], count: Callable[[Any], Any], *, instead_of: Any) -> None:
        if instead_of is not None:
            raise ArgumentError("compute_loss_func", function, "None together with loss_fn; give one of the two")
        check_call("compute_loss_func", function, "outputs", "labels", keywords=["num_items_in_batch"])
        self._function = function
        self._count = count

    def __call__(self, outputs: Any, labels: Any) -> Tensor:
        return self._function(outputs, labels, num_items_in_batch=self._count(labels))
