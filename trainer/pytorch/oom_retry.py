"""Retry after out-of-memory errors: a micro-batch is halved until it fits, with the same effective batch."""

from __future__ import annotations

import gc
import logging
from typing import Any

import torch
from torch import Tensor, nn

from ..data.sharding import even_spans
from ..train_step import StepContext
from ._compat import is_out_of_memory
from .batches.cutting import Cutter
from .data.loader import EpochLoader

logger: logging.Logger = logging.getLogger("trackside.trainer")


class OOMRetrier:
    """Runs micro-batches in as many parts as fit into memory; the number is kept for the following batches.

    Args:
        step: The training step, which has parameters, losses and context, and runs the passes of a part.
        engine: Its ``train_loader`` is the loader of the batches, once training begins.
    """

    def __init__(self, step: Any, engine: Any) -> None:
        self._step = step
        self._engine = engine
        self._parts = 1
        self._cutter: Cutter | None = None

    def training_step(self, model: nn.Module, inputs: Any) -> Tensor:
        """Run the forward and the backward pass of a micro-batch; return its mean loss.

        If a part fails, the previous gradients are restored, so that the failed attempt has no effect.
        """
        before = [None if p.grad is None else p.grad.detach().clone() for p in self._step.parameters.all]
        while True:
            try:
                return self._in_parts(model, inputs)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self._parts >= self._step.model_io.examples_in(inputs):
                    raise
                message = str(error)
            self._put_back(before)
            self._parts *= 2
            logger.warning("out of memory (%s); the micro-batch now goes in %d parts", message, self._parts)

    def _in_parts(self, model: nn.Module, inputs: Any) -> Tensor:
        """Run the backward pass of ``inputs`` in parts, weighted by their items."""
        if self._parts == 1:
            mean: Tensor = self._step.call_training_step(model, inputs)
            return mean
        step, whole, examples = self._step, self._step.context, self._step.model_io.examples_in(inputs)
        cutter = self._cutter = self._cutter or Cutter(inputs, examples, self._samples())
        whole.is_single = False  # the weights of the whole and of the parts are relative to the reference
        total: Any = 0.0
        items: Any = 0.0
        spans = even_spans(examples, self._parts)
        try:
            for span in spans:
                count = whole.count if span == spans[-1] else whole.index + 2
                step.context = StepContext(whole.index, count, whole.is_padding, is_part=True)
                rows = cutter.rows(inputs, examples, *span)
                step.model_io.examples_in.known = rows, span[1] - span[0]
                loss = self._step.call_training_step(model, rows)
                part = step.context.items if step.context.is_weighed else span[1] - span[0]
                items = items + part
                total = total + (loss * part if isinstance(part, Tensor) or part else 0.0)
        finally:
            step.context = whole
        whole.items = items
        step.losses.weigh(whole)
        if step.losses.is_sum:  # each of one item
            return torch.as_tensor(total)
        if isinstance(items, Tensor):
            return torch.as_tensor(total / items.clamp_min(1e-12))
        return torch.as_tensor(total / items if items else 0.0)

    def _samples(self) -> tuple[Any, Any] | None:
        """Return batches of one and of two training examples; None if the loader or its collator cannot make them."""
        loader = self._engine.train_loader
        try:
            return (loader.sample(1), loader.sample(2)) if isinstance(loader, EpochLoader) else None
        except Exception as error:
            logger.info("batches of one and of two examples cannot be made: %r", error)
            return None

    def _put_back(self, before: list[Tensor | None]) -> None:
        for parameter, gradient in zip(self._step.parameters.all, before, strict=True):
            parameter.grad = gradient
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
