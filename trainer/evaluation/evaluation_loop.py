"""Evaluation loop of both trainers: weighted losses, outputs gathered on the host, and metrics."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np

from trackside.callbacks._util.plain_data import plain
from trackside.callbacks.errors import TracksideTypeError, TracksideValueError

from ..engine import Engine, StepResult
from ..outputs import EvalPrediction, PredictionOutput, prefixed, speed_metrics
from ..stop_signals import EvaluationStopped
from .output_collector import Collector, leaves

logger: logging.Logger = logging.getLogger("trackside.trainer")

DEVICE_BYTES = 64 << 20
"""Bytes of predictions that may wait for their exchange between processes, or for their way from a device that cannot
copy while it computes, if ``eval_accumulation_steps`` is not given."""

MEETING_S = 2.0
"""Seconds after which processes exchange their outputs at the latest, since a stop signal is shared then."""

END = object()
"""Sentinel after the last batch."""


@dataclass
class CurrentBatch:
    """The batch that an evaluation has just done, for callbacks at on_prediction_step.

    Attributes:
        result: Its loss and outputs, still on the device; None outside of an evaluation.
        is_last: Whether no batch follows.
        limit: The number of batches at most in this evaluation or prediction; None for all that are there.
    """

    result: StepResult | None = None
    is_last: bool = False
    limit: int | None = None


class EvaluationRun:
    """One evaluation and its gathered outputs.

    Args:
        engine: The framework-specific part of the trainer.
        args: The training arguments.
        expected: Expected number of examples over all processes, if known.
        only_loss: Whether to keep no outputs.
        keeps: Whether to keep outputs also where compute_metrics gets them batch by batch.
        is_stopped: Returns whether a signal asks to end the evaluation; asked after each batch, or, on several
            processes, whenever they exchange their outputs.
        current: Shows callbacks the batch just done.

    Attributes:
        examples: Number of examples evaluated, over all processes.
        steps: Number of batches evaluated.
        is_complete: Whether all batches were evaluated; compute_metrics is not called on a part of them.
        taken: Metrics that have another value already: the loss, a speed, or one that is given with the prefix too.
        lacks: What compute_metrics was not called for want of, in words; empty if it was called, or there is none.
    """

    def __init__(
        self,
        engine: Engine,
        args: Any,
        compute_metrics: Callable[..., dict[str, Any]] | None,
        *,
        expected: int | None,
        only_loss: bool,
        keeps: bool = False,
        is_stopped: Callable[[], bool] = lambda: False,
        current: CurrentBatch | None = None,
    ) -> None:
        self._engine = engine
        world_size = engine.strategy.collectives.world_size
        self._is_alone = world_size == 1
        self._current = current or CurrentBatch()
        self._is_stopped = is_stopped
        self._start_s = time.perf_counter()
        self._compute_metrics = compute_metrics
        self._wanted = frozenset(args.include_for_metrics)
        self._by_batch = bool(args.batch_eval_metrics and compute_metrics)
        self._keeps = not only_loss and (keeps or not self._by_batch)
        self._delay = None if self._by_batch or world_size > 1 else engine.evaluation.delay
        self._limit: int | None = args.eval_accumulation_steps
        self._due = int(self._limit or 1)
        self._largest = 1 << 10
        self._is_over = False
        options = {"concatenate": args.eval_do_concat_batches}
        label_names = getattr(args, "label_names", None) or ()
        self._has_label_names, has_names = bool(label_names), len(label_names) > 1
        self._logits: Collector = Collector(expected, is_tuple_of_outputs=True, **options)
        self._labels: Collector = Collector(expected, is_tuple_of_outputs=has_names, **options)
        self._inputs: Collector = Collector(expected, **options)
        self._waiting: deque[tuple[Callable[[], Any], int]] = deque()
        self._metrics: dict[str, Any] = {}
        self._losses: list[tuple[list[float], list[float]]] = []
        self._only_loss = only_loss
        self.examples: int = 0
        self.steps: int = 0
        self.is_complete: bool = True
        self.taken: set[str] = set()
        self.lacks: str = ""

    def over(
        self,
        batches: Iterable[Any],
        ignore_keys: list[str] | None,
        on_step: Callable[[], Any] = lambda: None,
        max_batches: int | None = None,
    ) -> None:
        """Evaluate over ``batches``.

        Args:
            batches: Batches as ``engine.evaluation`` takes them.
            ignore_keys: Outputs of the model to leave out.
            on_step: Called after each batch.
            max_batches: Number of batches after which to stop.
        """
        evaluation, waiting, current, delay = self._engine.evaluation, self._waiting, self._current, self._delay
        step, fetch = evaluation.evaluation_step, evaluation.fetch
        for batch, following in pairwise(chain(batches, [END])):
            result = step(batch, self._only_loss, ignore_keys)
            if self._only_loss:
                result.logits = result.labels = result.inputs = None
            self.steps += 1
            fetched = fetch((result.loss, result.weight, result.logits, result.labels, result.inputs))
            if delay == 0:
                self._keep(fetched(), result.examples)
            else:
                waiting.append((fetched, result.examples))
                self._take_due(is_last=following is END)
            current.result, current.is_last = result, following is END
            on_step()
            if self._is_alone and self._is_stopped():
                raise EvaluationStopped
            if self.steps == max_batches:
                self.is_complete = following is END
                break
        self._current.result = None

    def _take_due(self, is_last: bool) -> None:
        """Take the outputs of batches that may wait no longer."""
        if self._delay is not None:
            while len(self._waiting) > self._delay:
                fetched, examples = self._waiting.popleft()
                self._keep(fetched(), examples)
        elif self._by_batch or is_last or len(self._waiting) >= self._due:
            self._flush(is_last)

    def _flush(self, is_last: bool) -> None:
        """Move pending outputs to the host, and bring the outputs of all ranks into the order of the dataset.

        All ranks flush at the same steps, which follow from the outputs gathered before.
        """
        own = [(fetched(), examples) for fetched, examples in self._waiting]
        self._waiting.clear()
        collectives = self._engine.strategy.collectives
        per_batch_s = (time.perf_counter() - self._start_s) / max(self.steps, 1)
        told: list[tuple[Any, ...]] = collectives.gather(
            "the outputs of the evaluation", (own, is_last, self.steps, self._is_stopped(), per_batch_s)
        )
        if any(is_stopped for *_, is_stopped, _ in told):
            raise EvaluationStopped
        gathered = [outputs for *outputs, _, _ in told]
        if len({(len(part), over) for part, over, _ in gathered}) > 1:
            counts = sorted({str(steps) if over else f"at least {steps + 1}" for _, over, steps in gathered})
            raise TracksideValueError(
                f"the ranks evaluated {' and '.join(counts)} batches, which must be as many on each: give the full "
                "dataset to all of them, the trainer splits it evenly"
            )
        self._is_over = is_last
        self._largest = max([self._largest, *(_bytes_of(outputs) for part, _, _ in gathered for outputs, _ in part)])
        if self._limit is None:  # at most twice as many as before, which may grow, and a quarter of the gathered
            self._due = max(1, min(2 * self._due, DEVICE_BYTES // self._largest, self.steps // 4))
            if len(told) > 1:
                self._due = max(1, min(self._due, int(MEETING_S / max(seconds for *_, seconds in told))))
        for parts in zip(*(part for part, _, _ in gathered), strict=True):
            for outputs, examples in parts:
                self._keep(outputs, examples)
            if self._by_batch:
                self._compute_for_batch(parts, is_last)

    def _keep(self, outputs: Sequence[Any], examples: int) -> None:
        """Add the outputs of a batch on the host, unless it is padding."""
        if not examples:
            return
        self.examples += examples
        loss, weight, logits, labels, inputs = outputs
        if loss is not None:
            weights = [weight] if isinstance(weight, (int, float)) else np.ravel(weight).tolist()
            if any(weights):
                losses = [_mean(loss)] if len(weights) == 1 else np.ravel(loss).tolist()
                self._losses.append((losses, weights))
        if self._keeps:
            self._logits.append(logits, examples)
            self._labels.append(labels, examples)
            if "inputs" in self._wanted:
                self._inputs.append(inputs, examples)

    def _compute_for_batch(self, parts: Sequence[Any], is_last: bool) -> None:
        logits, labels, inputs = Collector(is_tuple_of_outputs=True), Collector(), Collector()
        for outputs, examples in parts:
            rows = outputs[2:] if examples else (None, None, None)
            for collector, row in zip((logits, labels, inputs), rows, strict=True):
                collector.append(row, examples)
        if self._compute_metrics is not None and labels.result() is not None:
            losses = np.concatenate([np.ravel(outputs[0]) for outputs, _ in parts]) if "loss" in self._wanted else None
            found = logits.result(), labels.result(), inputs.result(), losses
            prediction = EvalPrediction(*(self._engine.evaluation.for_metrics(part) for part in found))
            self._metrics = _checked(self._compute_metrics(prediction, compute_result=is_last) or {})
        else:
            self.lacks = self._lacking(logits.result())

    def output(self, prefix: str) -> PredictionOutput:
        """Return predictions, labels and metrics of all batches."""
        if not self._is_over:
            self._flush(is_last=True)
        logits, labels = self._logits.result(), self._labels.result()
        for name, kept, collector in (("predictions", logits, self._logits), ("labels", labels, self._labels)):
            if kept is not None and collector.missing:
                logger.warning("%d batches have no %s; those of the others are kept", collector.missing, name)
        metrics = {**_checked(self._engine.evaluation.metrics()), **self._metrics}
        compute = self._compute_metrics if self.is_complete and not self._by_batch else None
        if compute is not None and logits is not None and labels is not None:
            metrics |= _checked(compute(self._prediction(logits, labels)))
        elif compute is not None:
            self.lacks = self._lacking(logits)
        given = prefixed(metrics, prefix)
        own = prefixed({"loss": _mean_of(self._losses)} if self._losses else {}, prefix)
        twice = metrics.keys() & {f"{prefix}_{name}" for name in metrics}
        self.taken = given.keys() & {*own, *speed_metrics(prefix, 1.0, 1, 1)} | twice
        return PredictionOutput(logits, labels, {**given, **own})

    def tell(self, prefix: str, told: set[str], *, is_prediction: bool) -> None:
        """Tell what is in doubt about the loss, why there are no metrics, and which are left out, each once.

        Args:
            told: What was told before; it is added to.
        """
        names, doubt = self.taken - told, self._engine.evaluation.doubt
        if names:
            logger.warning("compute_metrics() gives a second value of %s, which is left out", ", ".join(sorted(names)))
        if doubt and doubt not in told and self.steps > 1:
            told.add(doubt)
            logger.warning(
                "%s_loss may not be the loss over the whole dataset, since a batch has one weight, and %s. Compute it "
                "in compute_metrics if it must be exact",
                *(prefix, doubt),
            )
        if self.lacks and self.lacks not in told and self.examples and not is_prediction:
            told.add(self.lacks)
            logger.warning("compute_metrics is not called: %s", self.lacks)
        told |= names

    def _lacking(self, logits: Any) -> str:
        if self._only_loss:
            return "only the loss is asked for (prediction_loss_only)"
        if logits is None:
            return "the model gives nothing beside the loss"
        return f"the batches have no labels{' by the names of args.label_names' if self._has_label_names else ''}"

    def _prediction(self, logits: Any, labels: Any) -> EvalPrediction:
        losses = np.array([math.fsum(loss) for loss, _ in self._losses]) if "loss" in self._wanted else None
        return EvalPrediction(logits, labels, self._inputs.result(), losses)


def _mean(loss: Any) -> float:
    """Return the mean of the losses of a batch, of which nearly all have one."""
    return float(loss.item() if getattr(loss, "size", 0) == 1 else np.mean(loss))


def _mean_of(batches: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Return the mean of losses of batches, each with its weight; several losses of a batch are added up."""
    means = []
    for losses, weights in zip(*(zip(*part, strict=True) for part in zip(*batches, strict=True)), strict=True):
        parts = [loss * weight for loss, weight in zip(losses, weights, strict=True) if weight > 0]
        means.append(math.fsum(parts) / math.fsum(weights) if any(weights) else 0.0)
    return math.fsum(means)


def _checked(metrics: Any) -> dict[str, Any]:
    if not isinstance(metrics, Mapping):
        raise TracksideTypeError(f"compute_metrics returned {type(metrics).__name__}; it returns a dict of numbers")
    kept = plain(metrics, "compute_metrics()")
    return {name: _single(kept[name]) if hasattr(metrics.get(name), "shape") else kept[name] for name in kept}


def _single(value: Any) -> Any:
    """Return the value of an array of one value, and other arrays unchanged."""
    return _single(value[0]) if isinstance(value, list) and len(value) == 1 else value


def _bytes_of(outputs: Sequence[Any]) -> int:
    """Return the size in bytes of the logits, labels and inputs of a batch."""
    return sum(getattr(leaf, "nbytes", 0) for leaf in leaves(outputs[2:]))
