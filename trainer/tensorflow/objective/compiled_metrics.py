"""The metrics of ``Model.compile`` over the batches of an evaluation, as ``Model.evaluate`` computes and names them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from trackside.callbacks.errors import TracksideValueError

from ...distributed.collectives import Collectives
from .._compat import keras_step, strategy_of
from ._compat import CompileMetrics, compiled_metrics
from .misfits import misfit_of_outputs

logger: logging.Logger = logging.getLogger("trackside.trainer")


class CompiledMetrics:
    """The compiled metrics of a model. They are computed once of all replicas of a process, outside of tf.distribute.

    Attributes:
        source: The metrics as compiled; None without any.
        has_batches: Whether a batch with labels was added since `begin`.
    """

    def __init__(self) -> None:
        self.source: Any = None
        self.has_batches: bool = False
        self._own: Any = None
        self._given: tuple[Any, Any, Any] = (None, None, None)
        self._has_told = False

    def begin(self, model: Any, collectives: Collectives) -> None:
        """Reset the metrics; take those of ``model`` if it was compiled since the last evaluation.

        Args:
            collectives: Those of the processes over which `results` joins the metrics.

        Raises:
            TracksideValueError: If a metric of several replicas cannot be made again.
        """
        if keras_step(model, "compute_metrics") is not None and not self._has_told:
            self._has_told = True
            text = "%s overrides compute_metrics of Keras, which is not called here: give the trainer compute_metrics="
            logger.warning(text, type(model).__name__)
        source, (metrics, weighted, names) = compiled_metrics(model)
        if source is not self.source:
            self.source, self._own, self._given = source, None, (metrics, weighted, names)
            if source is not None:
                made = (keras.tree.map_structure(_outside_of_scope, part) for part in (metrics, weighted))
                self._own = CompileMetrics(*made, output_names=names)
                if collectives.world_size > 1 and collectives.rank == 0:
                    tell_of_own((metrics, weighted), collectives.world_size)
        self.has_batches = False
        if self._own is not None:
            self._own.reset_state()

    def update(self, labels: Any, outputs: Any, sample_weight: Any) -> None:
        """Add a batch; called while a tf.function is traced."""
        if not self._own.built:
            # variables that this thread makes now would have TensorFlow trace the function a second time
            with ThreadPoolExecutor(1) as thread:
                thread.submit(self._own.build, labels, outputs).result()
        self._own.update_state(labels, outputs, sample_weight)

    def misfit(self, labels: Any, outputs: Any, sample_weight: Any, said: str) -> str:
        """Return why the metrics cannot be computed of a batch, of which TensorFlow or Keras says ``said``."""
        metrics, weighted, names = self._given
        fields = {"labels": labels, "sample_weight": sample_weight, "metrics": metrics, "weighted_metrics": weighted}
        return misfit_of_outputs("the compiled metrics", fields, outputs, names or (), said)

    def results(self, collectives: Collectives) -> dict[str, Any]:
        """Return the metrics over all batches of all processes, by name; empty without labels.

        Keras tells how the variables of a metric join: ``aggregation`` of `add_variable`.
        """
        if self._own is None:
            return {}
        parts = collectives.gather("the compiled metrics", self._values())
        if len(parts) > 1:
            self._join(list(filter(None, parts)))
        return {name: np.asarray(value) for name, value in self._own.result().items()} if any(parts) else {}

    def _values(self) -> list[Any]:
        return [np.asarray(variable) for variable in self._own.variables] if self.has_batches else []

    def _join(self, parts: list[list[Any]]) -> None:
        for variable, values in zip(self._own.variables, zip(*parts, strict=True), strict=False):
            variable.assign(JOINED.get(getattr(variable, "aggregation", "sum"), _first)(values))


def _first(values: Sequence[Any]) -> Any:
    return values[0]


JOINED: dict[str, Callable[[Sequence[Any]], Any]] = {
    "sum": lambda values: np.sum(values, axis=0),
    "mean": lambda values: np.mean(values, axis=0, dtype=np.float64),
}
"""How the values of several processes become one, by the name of Keras' aggregation; else the first is taken."""


def tell_of_own(metrics: Any, processes: int) -> None:
    """Warn of each metric of the user's own, whose variables Keras cannot know to be sums."""
    for metric in {id(leaf): leaf for leaf in keras.tree.flatten(metrics)}.values():
        bases = (base for base in type(metric).__mro__ if base.__module__.split(".")[0] == "keras")
        if isinstance(metric, keras.metrics.Metric) and next(bases) is keras.metrics.Metric:
            logger.warning(
                "the variables of the compiled metric %s (%s) are added up over %d processes, unless add_variable() "
                "has another aggregation: 'mean' or 'only_first_replica'. If one is not a sum, such as a maximum, give "
                "the trainer compute_metrics= instead, which gets the predictions of all processes",
                *(metric.name, type(metric).__name__, processes),
            )


def _outside_of_scope(metric: Any) -> Any:
    """Return a metric whose variables are those of this process, and not one for each replica."""
    if all(strategy_of(variable) is None for variable in getattr(metric, "variables", ())):
        return metric
    try:
        return type(metric).from_config(metric.get_config())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise TracksideValueError(
            f"the compiled metric {type(metric).__name__} cannot be made again for several replicas: {error}. Give it "
            "a get_config() with all arguments, or make it outside of the scope of args.strategy"
        ) from error
