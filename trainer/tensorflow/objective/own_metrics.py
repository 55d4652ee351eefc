"""Metrics that a model has of its own and updates when it is called, as ``Model.evaluate`` computes and names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from ..weights.model_state import held, parts_of
from ._compat import metrics_of_compilation


class OwnMetrics:
    """The metrics of a model and its layers that were not given to ``Model.compile``."""

    def __init__(self) -> None:
        self._metrics: list[Any] = []
        self._at_start: list[list[Any]] = []

    @contextmanager
    def over(self, model: Any) -> Iterator[None]:
        """Return a context of an evaluation: the metrics of ``model`` begin anew, and are afterwards as they were."""
        of_compilation = {id(metric) for metric in metrics_of_compilation(model)}
        self._metrics = [metric for metric in getattr(model, "metrics", ()) if id(metric) not in of_compilation]
        before = [(part, held(part)) for metric in self._metrics for part in parts_of(metric.variables)]
        for metric in self._metrics:
            metric.reset_state()
        self._at_start = [_values(metric) for metric in self._metrics]
        try:
            yield
        finally:
            for part, value in before:
                part.assign(value)

    @contextmanager
    def unless_padding(self, counts: Any) -> Iterator[None]:
        """Return a context of a call on a replica, which updates no metric if ``counts`` is 0; it is 1, 0 or None."""
        if counts is None:
            yield
            return
        before = [(v, tf.identity(v.value)) for metric in self._metrics for v in metric.variables]
        yield
        for variable, value in before:
            variable.assign(tf.where(counts > 0, variable.value, value))

    def results(self) -> dict[str, Any]:
        """Return the metrics that were updated in this evaluation, by name, but for one called "loss"."""
        found: dict[str, Any] = {}
        for metric, before in zip(self._metrics, self._at_start, strict=True):
            now = _values(metric)
            if len(now) == len(before) and all(map(np.array_equal, now, before)):
                continue
            result = metric.result()
            found |= result if isinstance(result, dict) else {metric.name: result}
        return {name: np.asarray(value) for name, value in found.items() if name != "loss"}


def _values(metric: Any) -> list[Any]:
    return [np.asarray(variable) for variable in metric.variables]
