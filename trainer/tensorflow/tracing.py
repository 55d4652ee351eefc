"""Functions of a trainer as graphs with one signature, traced once, or run as Python for debugging."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from trackside.callbacks.errors import TracksideError, TracksideValueError

from ._compat import flat_call, label_out_of_range, lacking_in_xla
from .data.leaves import unequal
from .distributed.strategy import DistributedStrategy
from .draws.outside import Outside
from .draws.state import DRAWS


def runs_eagerly(model: Any) -> bool:
    """Return whether a model's step is to run as Python: by ``compile(run_eagerly=True)`` or ``tf.config``."""
    return bool(getattr(model, "run_eagerly", False)) or tf.config.functions_run_eagerly()


def compiled(
    name: str,
    function: Callable[..., Any],
    signature: list[Any],
    trace_counts: Counter[str],
    strategy: DistributedStrategy,
    *,
    xla: bool,
    eager: bool,
    outside: Outside | None = None,
) -> Callable[..., Any]:
    """Return ``function`` as a tf.function with exactly ``signature``, which counts its traces.

    Its random operations draw by the state that checkpoints keep, unless it runs as Python.

    The signature may hold None, which tf.function does not support: the inner function takes only the tensors.

    Args:
        name: Name in ``trace_counts``.
        xla: Whether XLA compiles it.
        eager: Whether it runs as Python at each call, without a graph.
        outside: Takes the variables outside of the model that it changes.
    """
    places = [spec is not None for spec in tf.nest.flatten(signature)]

    def filled(tensors: Iterable[Any]) -> Any:
        rest = iter(tensors)
        return function(*tf.nest.pack_sequence_as(signature, [next(rest) if place else None for place in places]))

    def counted(*tensors: Any) -> Any:
        trace_counts[name] += 1
        return filled(tensors)

    specs = [spec for spec in tf.nest.flatten(signature) if spec is not None]
    dtypes = [spec.dtype for spec in tf.nest.flatten(specs, expand_composites=True)]
    inner = tf.function(counted, input_signature=specs, autograph=False, jit_compile=True if xla else None)
    concrete: Callable[..., Any] | None = None

    def eagerly(tensors: list[Any]) -> Any:
        return filled(tf.nest.pack_sequence_as(specs, tensors, expand_composites=True))

    if eager:
        concrete = eagerly

    def call(*args: Any) -> Any:
        nonlocal concrete
        if concrete is None:
            with DRAWS.replacing(strategy):
                traced = _traced(inner)
            DRAWS.tell_of_others(traced.graph)
            if outside is not None:
                outside.note(traced.graph, DRAWS.touched)
            concrete = flat_call(traced)
        given = [leaf for leaf in tf.nest.flatten(args, expand_composites=True) if leaf is not None]
        tensors = [tf.convert_to_tensor(leaf, dtype) for leaf, dtype in zip(given, dtypes, strict=True)]
        try:
            return concrete(tensors)
        except tf.errors.InvalidArgumentError as error:
            raise _explained(error) from None

    return call


def _explained(error: tf.errors.InvalidArgumentError) -> Exception:
    """Return what is told of an error of TensorFlow in a step, or else the error itself."""
    if (lacking := lacking_in_xla(error)) is not None:
        return TracksideValueError(
            f"xla=True compiles the step, and XLA cannot compile {lacking}. Set xla=False, or move what needs it out "
            "of the model, into a map() of the dataset"
        )
    if (label := label_out_of_range(error)) is not None:
        return TracksideValueError(f"the labels do not fit the model's outputs: there is {label}")
    return unequal(error) or error


def _traced(function: Any) -> Any:
    """Return the only trace of ``function``; a direct call saves as much time as the step of a small model takes."""
    try:
        return function.get_concrete_function()
    except TracksideError as error:
        # without TensorFlow's own thirty lines of traceback
        raise error.with_traceback(None) from error.__cause__
