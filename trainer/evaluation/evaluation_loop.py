"""The evaluation loop of both trainers: every batch once, its loss weighed, its outputs on the host, its metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError

from ..engine import Engine, StepResult
from ..outputs import EvalPrediction, PredictionOutput, prefixed
from .output_collector import Collector, leaves, map_nested

T = TypeVar("T")

DEVICE_BYTES = 64 << 20
"""So much of predictions may wait on the device when ``eval_accumulation_steps`` is not given."""


def run_evaluation(
    engine: Engine,
    args: Any,
    batches: Iterable[Any],
    *,
    compute_metrics: Callable[..., dict[str, Any]] | None,
    expected: int | None,
    prediction_loss_only: bool,
    ignore_keys: list[str] | None,
    prefix: str,
    on_step: Callable[[], Any] | None = None,
    max_batches: int | None = None,
) -> tuple[PredictionOutput, int, int]:
    """Evaluate over ``batches``.

    Args:
        batches: Each as ``engine.evaluation`` takes it.
        expected: Examples to expect over all processes, where known.
        on_step: Called after each batch.
        max_batches: Stop after so many batches.

    Returns:
        The output, the number of examples over all processes, and the number of steps.
    """
    run = _Evaluation(engine, args, compute_metrics, expected=expected, prediction_loss_only=prediction_loss_only)
    for batch, is_last in _with_last(batches):
        run.add(engine.evaluation.evaluation_step(batch, prediction_loss_only, ignore_keys), is_last)
        if on_step is not None:
            on_step()
        if run.steps == max_batches:
            break
    return run.output(prefix), run.examples, run.steps


class _Evaluation:
    """What one evaluation has gathered so far."""

    def __init__(
        self,
        engine: Engine,
        args: Any,
        compute_metrics: Callable[..., dict[str, Any]] | None,
        *,
        expected: int | None,
        prediction_loss_only: bool,
    ) -> None:
        self.engine = engine
        self.compute_metrics = compute_metrics
        self.wanted = frozenset(args.include_for_metrics)
        self.by_batch = bool(args.batch_eval_metrics and compute_metrics)
        self.limit: int | None = args.eval_accumulation_steps
        self.due = int(self.limit or 1)
        self.largest = 1 << 10
        self.is_over = False
        concatenate = args.eval_do_concat_batches
        self.logits = Collector(expected, concatenate=concatenate)
        self.labels = Collector(expected, concatenate=concatenate)
        self.inputs = Collector(expected, concatenate=concatenate)
        self.losses: list[tuple[Any, Any]] = []
        self.waiting: list[StepResult] = []
        self.metrics: dict[str, Any] = {}
        self.host_losses: list[tuple[float, float]] = []
        self.keep_outputs = not prediction_loss_only
        self.examples = 0
        self.steps = 0

    def add(self, result: StepResult, is_last: bool) -> None:
        """Take in one step; move to the host what has waited long enough."""
        self.steps += 1
        if not self.keep_outputs:
            result.logits = result.labels = result.inputs = None
        self.waiting.append(result)
        if self.by_batch or is_last or len(self.waiting) >= self.due:
            self._flush(is_last)

    def _flush(self, is_last: bool) -> None:
        """Move everything that waits to the host and bring the parts of the ranks into the order of the dataset.

        All ranks do so at the same steps, which they know from what they gathered before.
        """
        waiting, self.waiting = self.waiting, []
        to_host = self.engine.evaluation.to_host
        own = [
            (*to_host((step.loss, step.weight, step.logits, step.labels, step.inputs)), step.examples)
            for step in waiting
        ]
        collectives = self.engine.strategy.collectives
        gathered = collectives.gather("the outputs of the evaluation", (own, is_last, self.steps))
        if len({(len(part), over) for part, over, _ in gathered}) > 1:
            counts = sorted({str(steps) if over else f"at least {steps + 1}" for _, over, steps in gathered})
            raise TracksideValueError(
                f"the ranks evaluated {' and '.join(counts)} batches, which must be as many on each: give the full "
                "dataset to all of them, the trainer splits it evenly"
            )
        self.is_over = is_last
        self.largest = max([self.largest, *(_bytes_of(step) for part, _, _ in gathered for step in part)])
        if self.limit is None:  # at most twice as many as before, since outputs may grow
            self.due = max(1, min(2 * self.due, DEVICE_BYTES // self.largest))
        for parts in zip(*(part for part, _, _ in gathered), strict=True):
            for loss, weight, logits, labels, inputs, examples in parts:
                if examples:
                    self._keep(loss, weight, *map_rows((logits, labels, inputs), examples))
                self.examples += examples
            if self.by_batch:
                self._compute_for_batch(parts, is_last)

    def _keep(self, loss: Any, weight: Any, logits: Any, labels: Any, inputs: Any) -> None:
        if loss is not None and float(weight) > 0:
            self.host_losses.append((float(loss), float(weight)))
        if not self.by_batch:
            self.logits.append(logits)
            self.labels.append(labels)
            if "inputs" in self.wanted:
                self.inputs.append(inputs)

    def _compute_for_batch(self, parts: Sequence[Any], is_last: bool) -> None:
        logits, labels, inputs = Collector(), Collector(), Collector()
        for _, _, part_logits, part_labels, part_inputs, examples in parts:
            rows = map_rows((part_logits, part_labels, part_inputs), examples)
            for collector, row in zip((logits, labels, inputs), rows, strict=True):
                collector.append(row)
        if self.compute_metrics is not None and labels.result() is not None:
            prediction = EvalPrediction(logits.result(), labels.result(), inputs.result())
            self.metrics = _checked(self.compute_metrics(prediction, compute_result=is_last) or {})

    def output(self, prefix: str) -> PredictionOutput:
        """Return predictions, labels and metrics of all that was added."""
        if not self.is_over:
            self._flush(is_last=True)
        logits, labels = self.logits.result(), self.labels.result()
        metrics = dict(self.metrics)
        if self.compute_metrics is not None and not self.by_batch and None not in (_any(logits), _any(labels)):
            metrics = _checked(self.compute_metrics(self._prediction(logits, labels)))
        metrics = {name: _plain(value) for name, value in metrics.items()}
        if self.host_losses:
            weight = math.fsum(weight for _, weight in self.host_losses)
            metrics["loss"] = math.fsum(loss * weight for loss, weight in self.host_losses) / weight
        return PredictionOutput(logits, labels, prefixed(metrics, prefix))

    def _prediction(self, logits: Any, labels: Any) -> EvalPrediction:
        losses = np.array([loss for loss, _ in self.host_losses]) if "loss" in self.wanted else None
        return EvalPrediction(logits, labels, self.inputs.result(), losses)


def _checked(metrics: Any) -> dict[str, Any]:
    if not isinstance(metrics, Mapping):
        raise TracksideTypeError(f"compute_metrics returned {type(metrics).__name__}; it returns a dict of numbers")
    return dict(metrics)


def _bytes_of(step: Sequence[Any]) -> int:
    """Return the bytes of the logits, labels and inputs of a step."""
    return sum(getattr(leaf, "nbytes", 0) for leaf in leaves(step[2:5]))


def map_rows(nested: Any, rows: int) -> Any:
    """Return the first ``rows`` of every array in ``nested``; None and scalars stay."""
    return map_nested(lambda leaf: leaf[:rows] if getattr(leaf, "ndim", 0) else leaf, nested)


def _with_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Yield every item with whether it is the last one."""
    iterator = iter(items)
    try:
        item = next(iterator)
    except StopIteration:
        return
    for following in iterator:
        yield item, False
        item = following
    yield item, True


def _any(value: Any) -> Any:
    return None if value is None else True


def _plain(value: Any) -> Any:
    """Return numpy scalars as Python numbers."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and value.size == 1 else value
