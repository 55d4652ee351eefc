"""The first loss of a run: what is found about it, shared by all processes, and told where it matters."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from torch import Tensor

from ...train_step import mixed
from .._compat import node_kind
from .items import Findings, ItemCounter
from .mixing import batch_norm_in
from .untrained import untrained_in

logger: logging.Logger = logging.getLogger("trackside.trainer")

DIVISOR = "gradient_accumulation_steps"


class FirstLoss:
    """Settles how the losses of a run are weighted, from its first loss.

    Args:
        trainer: Has the arguments and the overridden methods.
        counter: Finds out about the loss.
        losses: Gets the number of items of an example, and whether losses are sums or divided already.
        strategy: Shares what the first process found.
        holders: Returns the trainer and its callbacks, which may have modules and optimizers of their own.
    """

    def __init__(
        self, trainer: Any, counter: ItemCounter, losses: Any, strategy: Any, holders: Callable[[], list[Any]]
    ) -> None:
        self._trainer = trainer
        self._counter = counter
        self._losses = losses
        self._strategy = strategy
        self._holders = holders

    def settle(self, loss: Tensor, inputs: Any, items: Any = None, *, is_raw: bool = False) -> None:
        """Find out about a loss before its backward pass, and tell what may be wrong. Waits for the device.

        Args:
            loss: The first loss, a mean or a sum.
            items: The weight that compute_loss returned with it.
            is_raw: Whether a training_step of the user runs its backward pass by itself.
        """
        found = self._counter.find(loss, inputs, items)
        own = (_unit(found), found.doubt, found.mixing)
        everywhere = self._strategy.collectives.gather("the items of the first loss", own)
        self._losses.set_unit(next((unit for unit, _, _ in everywhere if unit > 0), 1.0))
        found.doubt = next((doubt for _, doubt, _ in everywhere if doubt), "")
        found.mixing = next((mixing for _, _, mixing in everywhere if mixing), "")
        self._losses.is_sum = self._counter.is_sum and not is_raw
        accumulation = self._trainer.args.gradient_accumulation_steps
        if self._divides(loss, found.factor, accumulation, is_raw=is_raw):
            self._losses.scale = float(accumulation)
            where = "training_step" if is_raw else "the loss"
            self._tell(
                f"{where} is divided by {DIVISOR}={accumulation}, as the trainer does by itself; it is divided only "
                "once. Leave the division out"
            )
        if (smoothing := self._trainer.args.label_smoothing_factor) > 0 and not self._smooths():
            self._tell(
                f"label_smoothing_factor={smoothing:g} has no effect: compute_loss computes the loss by itself. Smooth "
                "the labels there, or call super().compute_loss()"
            )
        if not self._strategy.is_sharded and (names := untrained_in(loss, self._trainer, self._holders())):
            self._tell(
                f"the loss depends on {names}, which is not of the model, and which no optimizer has: it is not "
                "trained. Make it a part of the model, or give an optimizer that has it"
            )
        if accumulation > 1 or self._strategy.world_size > 1:
            self._tell_doubt(found, is_raw=is_raw)
            norm = batch_norm_in(self._trainer.model, accumulates=accumulation > 1)
            for mixing in filter(None, (norm, found.mixing and f"the loss mixes examples: {found.mixing}")):
                self._tell(mixed(mixing))

    def _tell_doubt(self, found: Findings, *, is_raw: bool) -> None:
        if is_raw:
            self._tell(
                "training_step runs the backward pass by itself, so that every micro-batch weighs the same, however "
                "many items it has. Call self.backward(loss) with its mean loss instead of loss.backward()"
            )
        elif found.doubt:
            self._tell(unknown(found.doubt))
        else:
            self._counter.tell_with(lambda doubt: logger.warning("%s", unknown(doubt)))

    def _tell(self, message: str) -> None:
        if self._trainer.is_world_process_zero():
            logger.warning("%s", message)

    def _divides(self, loss: Tensor, factor: float, accumulation: int, *, is_raw: bool) -> bool:
        """Return whether the user's code divided the loss by the number of micro-batches."""
        if accumulation == 1 or not math.isclose(factor * accumulation, 1.0, rel_tol=1e-4):
            return False
        is_named = any(_names(method, DIVISOR) for method in self._own_methods("training_step", "compute_loss"))
        return is_named or (is_raw and loss.grad_fn is not None and node_kind(loss.grad_fn) == "Div")

    def _smooths(self) -> bool:
        """Return whether the loss is that of the trainer, or code of the user's may smooth labels."""
        own = list(self._own_methods("compute_loss"))
        calls_it = not any(own) or any(_names(method, "compute_loss") for method in own)
        return calls_it or any(_names(method, "label_smoothing_factor") for method in self._own_methods())

    def _own_methods(self, *names: str) -> Iterator[Any]:
        """Yield the code of the methods of those names, or of all, that a subclass of the user's defines."""
        for cls in type(self._trainer).__mro__:
            if not cls.__module__.startswith("trackside.trainer.") and cls is not object:
                for name in names or vars(cls):
                    yield getattr(vars(cls).get(name), "__code__", None)


def unknown(doubt: str) -> str:
    """Return what is told about a mean whose number of items is in doubt."""
    return (
        f"it is unknown over how many items the loss is a mean, since {doubt}. Micro-batches (and processes) are "
        "weighted by the items that trainer.explain_batch() shows, so that an update may differ from that of one large "
        "batch. Give loss_items_fn=..., or return (loss_sum, weight) from compute_loss"
    )


def _unit(found: Findings) -> float:
    """Return the items of an example, as a power of two where they vary, by which a division is exact."""
    number = found.per_example
    if found.is_sum or not 0 < number < math.inf:
        return 0.0
    return number if found.is_fixed and number == int(number) else 2.0 ** round(math.log2(number))


def _names(code: Any, name: str) -> bool:
    if not isinstance(code, CodeType):
        return False
    return name in code.co_names or any(_names(part, name) for part in code.co_consts)
