"""The losses of a run, looked at as they are computed: the first in detail, all for their items."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trackside.callbacks.errors import TracksideTypeError

from ..loss import LossAccumulator, as_mean_and_weight
from .broadcasting import tell_of_broadcasting
from .first_loss import FirstLoss
from .items import ItemCounter, given_items, is_constant
from .non_finite import NonFiniteLoss
from .probe import FEW, evaluated, rows_of, shifts_labels
from .several import as_one_loss, means_and_weights
from .sums import SumsInEvaluation

logger: logging.Logger = logging.getLogger("trackside.trainer")


class LossObserver:
    """Counts the items of losses, and tells what is found about them.

    Args:
        step: The training step. Its trainer has the model, the loss and the arguments, its ``model_io`` the rule by
            which labels count; its ``losses`` are weighted, and its strategy shares what is found.

    Attributes:
        is_settled: Whether the first loss of the run was looked at.
        is_on_host: Whether losses can be read without waiting for a device.
        is_read_only: Whether the items of an evaluation batch can only be read from the operations of its loss.
        counter: Counts the items.
        doubt: Why the mean of evaluation batches may not be that of all their items; empty if it is.
    """

    def __init__(self, step: Any) -> None:
        trainer, loss_of = step.trainer, step.loss_of
        self._trainer = trainer
        self._model_io = step.model_io
        self._losses: LossAccumulator = step.losses
        self._strategy = step.strategy
        self._holders: Callable[[], list[Any]] = step.holders
        is_sharded = step.strategy.is_sharded
        self._loss_of = None if is_sharded else lambda inputs: as_one_loss(loss_of(trainer.model, inputs))
        self._sums = SumsInEvaluation(trainer)
        self.is_on_host: bool = trainer.args.device.type == "cpu"
        self.begin_run()

    def begin_run(self) -> None:
        """Forget what was found."""
        self._non_finite = NonFiniteLoss()
        self.counter: ItemCounter = ItemCounter(self._trainer, self._model_io, self._loss_of)
        self._first = FirstLoss(self._trainer, self.counter, self._losses, self._strategy, self._holders)
        self.is_settled: bool = False
        self.is_read_only, self._is_sum, self.doubt = False, False, ""
        self._is_probed = self._loss_of is None

    def weigh(self, result: Any, inputs: Any, context: Any) -> Tensor:
        """Return a result of compute_loss as a mean, and set the number of its items and its weight in the update."""
        loss, items = as_mean_and_weight(result)
        self._weigh(loss, items, inputs, context)
        return loss

    def weigh_each(self, results: Iterable[Any], inputs: Any, context: Any) -> list[Tensor]:
        """Return the losses of several optimizers as means, and weigh the micro-batch by what their sum is a mean of.

        They have one weight; if that does not suit all of them, it is told once.
        """
        losses, weights = means_and_weights(results)
        if context.is_single and self.is_settled and self.is_on_host and weights[0] is None:
            return losses
        is_alone = context.is_single or not torch.is_grad_enabled()
        items = weights[0] if is_alone else self.counter.common_weight(losses, weights, inputs)
        self._weigh(torch.stack(losses).sum(), items, inputs, context)
        return losses

    def _weigh(self, loss: Tensor, items: Any, inputs: Any, context: Any) -> None:
        if not self.is_settled and loss.grad_fn is not None and torch.is_grad_enabled():
            self._settle(loss, inputs, items)
        if context.is_single and items is None and (self.is_on_host or not self.counter.is_counted):
            return
        if items is None:
            items = self.counter.count(loss, inputs)
        context.items = 0.0 if context.is_padding else items
        self._losses.weigh(context)

    def look_before_training(self, inputs: Any) -> None:
        """Find out about the loss in an evaluation before any training, from a few of its first examples.

        It is computed once more, with gradients, whose operations show it; with label smoothing, only the shift of the
        labels is looked for.
        """
        if self._is_probed or self._loss_of is None:
            return
        if self._trainer.args.label_smoothing_factor > 0 and self._model_io.computes_loss:
            self.shifts(inputs)
            self._is_probed = True
            return
        self._is_probed = True
        part = rows_of(inputs, self._model_io.examples_in(inputs), 0, FEW)
        early = ItemCounter(self._trainer, self._model_io, self._loss_of)
        own = evaluated(self._trainer, self._model_io, part)
        # the user's code may work without gradients only, or on whole batches
        with suppress(Exception), own, torch.enable_grad():
            loss, items = as_mean_and_weight(self._loss_of(part))
            self._is_probed = not is_constant(loss)  # the next batch may have what counts
            if loss.grad_fn is not None:
                early.find(loss, part, items)
                self.is_read_only, self._is_sum, self.doubt = early.is_read_only, early.is_sum, early.doubt

    def mean_in_evaluation(self, loss: Tensor, inputs: Any, items: Any) -> Tensor:
        """Return the loss of an evaluation batch as a mean over ``items``, by which a sum is divided."""
        if not self._is_probed:
            self.look_before_training(inputs)  # now that it is known that there is a loss without labels
        return self._sums.divided(loss, items) if self._is_sum else loss

    def shifts(self, inputs: Any) -> bool:
        """Return whether the model shifts its labels by one; the first time, by what its loss depends on."""
        rule = self._model_io.rule
        if not self._is_probed and not self.is_settled and self._model_io.computes_loss:
            found = shifts_labels(self._trainer, self._model_io, inputs)
            self._is_probed = found is not None
            rule.is_causal = rule.is_causal if found is None else found
        return bool(rule.is_causal)

    def call(self, training_step: Callable[..., Tensor], model: Any, inputs: Any) -> Tensor:
        """Call the training_step of a user; the first time, look at the loss whose backward pass it runs.

        Raises:
            TracksideTypeError: If it returns no loss.
        """
        if self.is_settled:
            return self._loss_in(training_step(model, inputs))

        def look(loss: Tensor) -> None:
            if not self.is_settled:
                self._settle(loss, inputs, is_raw=True)

        with _backward_seen(look):
            loss = self._loss_in(training_step(model, inputs))
        if not self.is_settled and all(parameter.grad is None for parameter in model.parameters()):
            logger.warning(
                "training_step() of %s has run no backward pass, and left no gradients: nothing is trained. Call "
                "self.backward(loss) in it, or override compute_loss instead",
                type(self._trainer).__name__,
            )
        self.is_settled = True
        return loss

    def _loss_in(self, result: Any) -> Tensor:
        if isinstance(result, (Tensor, float, int)):
            loss: Any = result
            return loss if isinstance(loss, Tensor) else torch.as_tensor(loss)
        name, found = type(self._trainer).__name__, type(result).__name__
        raise TracksideTypeError(f"{name}.training_step() returned {found}; it returns the mean loss, detached")

    def look_at(self, loss: Any, inputs: Any, context: Any) -> None:
        """Leave out an update that is not finite because nothing counts in it, and note other losses."""
        if context.is_single and not isinstance(loss, Tensor) and self._counts_nothing(inputs):
            self._losses.leave_out()
        elif self._non_finite.found is None:
            self._non_finite.note(loss, self._trainer.state.global_step + 1, context, inputs)

    def first_non_finite(self, *, wait: bool) -> tuple[int, float] | None:
        """Return the first update whose loss was not finite, and the loss; with ``wait``, look at the device."""
        if wait:
            self._non_finite.check()
        return self._non_finite.found

    def _settle(self, loss: Tensor, inputs: Any, items: Any = None, *, is_raw: bool = False) -> None:
        self.is_settled = True
        if self._loss_of is not None and self._trainer.is_world_process_zero():
            tell_of_broadcasting(self._trainer, self._model_io, inputs)
        self._first.settle(loss, inputs, items, is_raw=is_raw)
        self.is_read_only, self._is_sum, self._is_probed = self.counter.is_read_only, self.counter.is_sum, True
        self.doubt = self.counter.doubt

    def _counts_nothing(self, inputs: Any) -> bool:
        given = self._trainer.loss_items_fn
        return not float(self._model_io.count_items(inputs) if given is None else given_items(given, inputs))


@contextmanager
def _backward_seen(look: Callable[[Tensor], None]) -> Iterator[None]:
    """Return a context that calls ``look`` with each tensor before its method ``backward`` runs."""

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is Tensor.backward:
                look(args[0])
            return function(*args, **(kwargs or {}))

    with Mode():
        yield
