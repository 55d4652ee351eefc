"""Training step in PyTorch: forward, loss, backward, normalize and clip the gradients, step, clear.

The loss of each micro-batch is multiplied by its *weight* (its items divided by a constant), and the gradients are
divided by the sum of the weights, so that the gradient of an update is that of the mean over all its items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks.errors import UnsupportedError

from ..base_engine.engine import BaseEngine
from ..base_engine.train_step import BaseTrainStep
from ..train_step import StepContext, TrainBatch
from .batches.model_outputs import loss_in, main_logits
from .batches.parts import copied, moved
from .distributed.strategy import DistributedStrategy
from .inspection.misfit import TORCHS, explain
from .inspection.observer import LossObserver
from .loss import LossAccumulator, rescale, smoothed_loss, zero_gradients_of
from .model_io import ModelIO
from .oom_retry import OOMRetrier
from .optim.belonging import holders_of
from .optim.closure import Closure, needs_closure
from .optim.factory import include_new_groups
from .optim.modes import OptimizerMode
from .optim.run_parameters import RunParameters
from .optim.several import backward_of_each
from .optim.skipping import TorchSkipsUpdates
from .optim.used import kept_groups, learning_rates, shown_groups
from .precision.base import Precision
from .precision.eval_mode import Modes, modes_of, restore_modes


class TorchTrainStep(TorchSkipsUpdates, BaseTrainStep):
    """One update of a PyTorch model.

    Args:
        engine: Its trainer's model, optimizer and schedule are read at each step, and overridden methods are called;
            its timer is notified before this process waits for others.
        precision: Provides contexts and loss scaling.

    Attributes:
        context: The context of the current micro-batch or evaluation batch.
        parameters: The parameters that get gradients; those of the optimizer are clipped.
        optimizer_mode: The mode of an optimizer that has modes.
        holders: Returns the trainer and its callbacks, which may have optimizers of their own.
        grad_norm: Joint norm of the last update's gradients before clipping; None before the first update.
    """

    model_io: ModelIO
    strategy: DistributedStrategy
    precision: Precision
    _inputs: Any = None

    def __init__(self, engine: BaseEngine, precision: Precision) -> None:
        super().__init__(engine, precision)
        trainer, args = self.trainer, self.trainer.args
        self.context: StepContext = StepContext()
        self.parameters: RunParameters = RunParameters(nn.Module(), None)
        self.optimizer_mode: OptimizerMode = OptimizerMode()
        self._modes: Modes = []
        self.holders: Callable[[], list[Any]] = partial(holders_of, trainer)
        self.grad_norm: Tensor | None = None
        reference = args.global_micro_batch_size * args.gradient_accumulation_steps / args.world_size
        skips = args.logging_nan_inf_filter
        self.losses: LossAccumulator = LossAccumulator(self.strategy, args.device, reference, skip_non_finite=skips)
        self.observer: LossObserver = LossObserver(self)
        self.noise: Any = None
        self.retrier: OOMRetrier | None = OOMRetrier(self, engine) if args.auto_find_batch_size else None
        self._has_sparse, self._is_first_update = False, True
        self._window: list[TrainBatch] | None = None
        self._is_on_host = args.device.type == "cpu"
        self.take_overrides()

    def take_overrides(self) -> None:
        """Call the trainer's methods from now on where they are its user's."""
        overrides = self.overrides
        own_step = partial(self.observer.call, overrides.method("training_step"))
        self.call_training_step = own_step if "training_step" in overrides else self.training_step
        self._train_on = self.call_training_step if self.retrier is None else self.retrier.training_step
        self._compute_loss = overrides.method("compute_loss") if "compute_loss" in overrides else self.compute_loss

    def begin_run(self, *, takes_late: bool) -> None:
        """Set up the step for the optimizer and the wrapped model of a new run.

        Args:
            takes_late: See `RunParameters`.
        """
        trainer, strategy = self.trainer, self.strategy
        self.take_overrides()
        self.parameters.close()
        self.parameters = RunParameters(
            trainer.model,
            trainer.optimizer,
            self.precision.parameters,
            self.holders,
            self.engine.take_other_optimizer,
            takes_late=takes_late and not self.precision.has_copies,
            is_distributed=strategy.world_size > 1,
            watches=not (strategy.is_sharded or self.precision.has_copies),
        )
        self.optimizer_mode = OptimizerMode(trainer.optimizer)
        self._window, name = [] if needs_closure(trainer.optimizer) else None, type(trainer.optimizer).__name__
        if self._window is not None and (self.retrier is not None or type(self.precision).step is not Precision.step):
            raise UnsupportedError(f"{name} needs a closure, which neither fp16 nor auto_find_batch_size allows")
        self._modes, self._used, self._is_first_update, self.grad_norm = modes_of(trainer.model), list, True, None
        self._has_sparse = any(getattr(module, "sparse", False) is True for module in self.trainer.model.modules())
        self.observer.begin_run()
        self.losses.take()

    # -- the update, in the order of the loop -----------------------------------------------------------------------

    def fused_update(self, window: Sequence[Any]) -> bool:
        """Return False: in PyTorch the loop does an update step by step."""
        return False

    def micro_step(self, batch: TrainBatch, context: StepContext) -> None:
        """Run the forward and the backward pass of a micro-batch."""
        if self.strategy.is_sharded:  # the forward pass gathers weights
            self.timer.exchange()
        if context.index == 0:
            self._begin_update()
        if self._window is not None:
            self._window = [*self._window[: context.index], batch]
        self._count_work(batch.inputs, self.strategy.world_size)
        self.forward_and_backward(self.place(batch.inputs), batch, context)

    def forward_and_backward(self, inputs: Any, batch: TrainBatch, context: StepContext) -> None:
        """Run the forward and the backward pass of a micro-batch on the device."""
        context.is_padding = batch.examples == 0
        self.context, self._inputs = context, inputs
        self.losses.begin(context)
        self.model_io.examples_in.known = inputs, max(batch.examples, 1)
        model = self.trainer.model_wrapped
        with self.strategy.grad_sync(model, context.is_last):
            loss = self._train_on(model, inputs)
        value, self._inputs = self.losses.add(loss, context), None
        if not self._is_on_host or value - value != 0.0:
            self.observer.look_at(value, inputs, context)
        self.model_io.examples_in.known = None, 0

    def _begin_update(self) -> None:
        """Begin every update in training mode, with the modes of the parts in the first, whatever a callback left."""
        model = self.trainer.model
        if self._modes[0][0] is not model:
            self._modes = modes_of(model if model.training else model.train())
            self.parameters.tell_of_another(model)
        elif not model.training:
            restore_modes(self._modes)
        elif self._is_first_update:
            self._modes = modes_of(model)
        if self.optimizer_mode.exists:
            self.optimizer_mode.train()

    def finish_gradients(self) -> Tensor:
        """Normalize, unscale and clip the gradients; return their norm before clipping, still on the device."""
        trainer, strategy, parameters = self.trainer, self.strategy, self.parameters
        if self._is_first_update:
            self._is_first_update = False
            trainer.model_wrapped = strategy.complete_first_gradients(trainer.model_wrapped)
        if parameters.update(trainer.optimizer):
            include_new_groups(trainer.lr_scheduler)
        self.precision.unscale(trainer.optimizer)
        factor = self.losses.close()
        gradients = [p.grad for p in parameters.stepped if p.grad is not None]
        if isinstance(factor, Tensor) or factor != 1.0:
            rescale([*gradients, *(p.grad for p in parameters.others if p.grad is not None)], factor)
        dense = [g.coalesce().values() if g.is_sparse else g for g in gradients] if self._has_sparse else gradients
        norm = nn.utils.get_total_norm(dense)
        if trainer.args.max_grad_norm > 0:
            nn.utils.clip_grads_with_norm_(parameters.stepped, trainer.args.max_grad_norm, norm)
        self.grad_norm = strategy.full_tensor(norm)
        return self.grad_norm

    def optimizer_step(self) -> bool:
        """Step the optimizer; return whether the loss scaler skipped the step."""
        optimizer = self.trainer.optimizer
        if self._window is not None:
            optimizer.step(Closure(self, self._window))
        skipped = self._window is None and self.precision.step(optimizer)
        self._used = partial(shown_groups, kept_groups(optimizer), optimizer)
        return skipped

    def clear_gradients(self) -> None:
        """Clear the gradients as torch's zero_grad does, without its 10 microseconds of overhead.

        Gradients of parameters that the optimizer does not have are cleared too: they are those of this update.
        """
        optimizer = self.trainer.optimizer
        for parameter in self.parameters.others:
            parameter.grad = None
        if self.precision.clear(optimizer):
            return
        if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            optimizer.zero_grad()
            return
        for parameter in self.parameters.stepped:
            parameter.grad = None

    def _end_run(self) -> None:
        """Leave the weights as they are evaluated and kept."""
        self.optimizer_mode.eval()
        if self.noise is not None:
            self.noise.remove()
        self.parameters.close()

    # -- micro-batch -------------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: Any) -> Tensor:
        """Run the forward and the backward pass of a micro-batch; return its mean loss, detached."""
        with self.precision.forward():
            result = self.loss_of(model, inputs)
            loss = None if type(result) is dict else self.mean_loss(result, inputs)
        if loss is None:
            return backward_of_each(self, result, inputs)
        self.backward(loss)
        return loss.detach()

    def total_loss(self, result: Any, inputs: Any) -> Tensor:
        """Return the mean loss of a result of compute_loss; the sum of several."""
        if type(result) is not dict:
            return self.mean_loss(result, inputs)
        return torch.stack(self.observer.weigh_each(result.values(), inputs, self.context)).sum()

    def loss_of(self, model: nn.Module, inputs: Any, **options: Any) -> Any:
        """Call compute_loss with the arguments that it takes, on a batch that it may change."""
        if self.model_io.loss_takes_items:
            options["num_items_in_batch"] = self.model_io.count_items(inputs)
        try:
            return self._compute_loss(model, copied(inputs) if isinstance(inputs, Mapping) else inputs, **options)
        except TORCHS as error:
            explain(error, self.model_io.model)
            raise

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False) -> Any:
        """Return the loss of a batch by the model, by ``loss_fn``, or with label smoothing."""
        model_io, loss_fn = self.model_io, self.trainer.loss_fn
        labels = model_io.labels_of(inputs)
        smoothing = self.trainer.args.label_smoothing_factor
        if labels is None or (loss_fn is None and not smoothing):
            outputs = model_io.call(model, inputs, with_labels=True)
            loss = loss_in(outputs)
        else:
            outputs = model_io.call(model, inputs, with_labels=False)
            if loss_fn is not None:
                loss = loss_fn(outputs, labels)
            else:
                loss = smoothed_loss(main_logits(outputs), labels, smoothing, is_causal=self.observer.shifts(inputs))
        return (loss, outputs) if return_outputs else loss

    def mean_loss(self, result: Any, inputs: Any) -> Tensor:
        """Return the mean loss of a result of compute_loss, and record its number of items."""
        if self.context.is_single and self.observer.is_settled and self._is_on_host and isinstance(result, Tensor):
            return result if result.ndim == 0 else result.mean()
        return self.observer.weigh(result, inputs, self.context)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a mean loss with the weight of this micro-batch in the update."""
        context = self.context
        if not (context.is_weighed or context.is_single):  # a training_step of the user
            loss = self.mean_loss(loss, self._inputs)
        if context.is_last:
            self.timer.exchange()
        if not isinstance(context.weight, Tensor) and context.weight == 0.0:
            with zero_gradients_of(loss, self.trainer.model) as loss_of_nothing:
                self.precision.backward(loss_of_nothing, context.weight, is_last=context.is_last)
        else:
            self.precision.backward(loss, context.weight, is_last=context.is_last)

    # -- records --------------------------------------------------------------------------------------------------

    def take_loss(self) -> tuple[float, int]:
        """Return the losses since the last call, summed, and the updates without one. Waits for the device."""
        self.first_non_finite(wait=True)
        return self.losses.take()

    def first_non_finite(self, *, wait: bool) -> tuple[int, float] | None:
        """Return the first update whose loss is not finite, and that loss; with ``wait``, look at the device."""
        return self.observer.first_non_finite(wait=wait)

    def training_record(self) -> dict[str, float]:
        """Return the gradient norm and the learning rates of the last update. Waits for the device."""
        record = {} if self.grad_norm is None else {"grad_norm": float(self.grad_norm)}
        return {**record, **learning_rates(self._used()), **self._tokens_record()}

    def take_flos(self) -> float:
        """Return the floating point operations of all processes since the last call."""
        self._tokens_record()
        return float(self.strategy.all_reduce(super().take_flos())) if self.model_io.counts_flos else 0.0

    def place(self, inputs: Any) -> Any:
        """Return a batch on the device of this process."""
        return inputs if self._is_on_host else moved(inputs, self.trainer.args.device)
