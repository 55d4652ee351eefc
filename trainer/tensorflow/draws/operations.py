"""Random operations of TensorFlow whose state is in their kernels, and operations of a seed that draw alike."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import tensorflow as tf

from ...checkpointing.own_generators import generators_in
from .._compat import Unseeded, python_function, random_functions, telling_seeds, vectorizing
from ..data.graph_nodes import PYTHON, source

UNIMPORTANT = ("ComputeAccidentalHits",)
"""Operations with seeds that draw no numbers."""


class Given(NamedTuple):
    """A random operation: its kind, and the seeds that the user gave; None if there are none."""

    kind: str
    seeds: tuple[int, int] | None


def drawing_operations(graph: Any) -> list[str]:
    """Return the kinds of operations in a FuncGraph whose random numbers no variable holds, in the order of names."""
    definition = graph.as_graph_def()
    found = _needed(definition.node, [part.name for part in (*graph.outputs, *graph.control_outputs)])
    for function in definition.library.function:
        found += _needed(function.node_def, [*function.ret.values(), *function.control_ret.values()])
    return sorted({node.op for node in found if _draws(node)})


def drawing_functions(graph: Any) -> list[str]:
    """Return the names of the Python functions called in a FuncGraph that refer to a generator of numpy or Python."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    called = {node.attr["token"].s for node in nodes if node.op in PYTHON}
    functions = [found.original for found in map(python_function, called) if found is not None]
    return sorted(
        {str(getattr(function, "__qualname__", function)) for function in functions if generators_in(function)}
    )


def _needed(nodes: Iterable[Any], names: list[str]) -> list[Any]:
    """Return the nodes that the named values need; the bodies of vectorized loops are not."""
    by_name, found = {node.name: node for node in nodes}, {}
    names = list(map(source, names))
    while names:
        node = by_name.get(names.pop())
        if node is not None and node.name not in found:
            found[node.name] = node
            names += map(source, node.input)
    return list(found.values())


def _draws(node: Any) -> bool:
    has_seeds = "seed" in node.attr and "seed2" in node.attr and node.op not in UNIMPORTANT
    is_fixed = "deterministic" in node.attr and node.attr["deterministic"].b
    drops_nothing = "dropout" in node.attr and node.attr["dropout"].f == 0  # RNNs of cuDNN
    return has_seeds and not is_fixed and not drops_nothing


@contextmanager
def patched(next_seed: Callable[[Given], Any]) -> Iterator[None]:
    """Return a context in which graphs get operations that draw by ``next_seed`` instead of random operations."""
    undo: list[Callable[[], None]] = []
    try:
        undo.append(telling_seeds())
        functions: dict[str, Callable[..., Any]] = {}
        loops = _VectorizedLoops(functions)
        undo.append(vectorizing(loops.within, loops.create))
        for kind, draw in DRAWN_BY.items():
            for owner, name in random_functions(kind):
                original = getattr(owner, name)
                replacement = functions[kind] = _replacement(kind, original, draw, next_seed, loops)
                setattr(owner, name, replacement)
                undo.append(functools.partial(setattr, owner, name, original))
        yield
    finally:
        for step in reversed(undo):
            step()


class _VectorizedLoops(threading.local):
    """The bodies of ``tf.vectorized_map``: they keep their operations, whose conversions are replaced.

    Attributes:
        functions: The replacements by the kind of the operation.
        depth: Number of bodies around the operation that is added.
    """

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self.functions = functions
        self.depth = 0

    def within(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return a body of a loop that is counted while it is traced."""

        def counted(index: Any) -> Any:
            self.depth += 1
            try:
                return body(index)
            finally:
                self.depth -= 1

        return counted

    def create(self, kind: str, inputs: Sequence[Any], attributes: Any) -> list[Any] | None:
        """Return the outputs of an operation that is added for all iterations; None if it is not replaced."""
        if kind not in self.functions or self.depth:
            return None
        function = self.functions[kind]
        names = inspect.signature(function).parameters
        given = {name: _plain(value) for name, value in attributes.items() if name in names}
        return list(tf.nest.flatten(function(*inputs, **given)))


def _plain(value: Any) -> Any:
    """Return the value of an attribute of an operation."""
    kind = value.WhichOneof("value")
    return list(value.list.f) if kind == "list" else getattr(value, kind)


def _replacement(
    kind: str,
    original: Callable[..., Any],
    draw: Callable[..., Any],
    next_seed: Callable[[Given], Any],
    loops: _VectorizedLoops,
) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def call(*args: Any, **kwargs: Any) -> Any:
        if tf.executing_eagerly():
            return original(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        seed, seed2, name = (bound.arguments.pop(part) for part in ("seed", "seed2", "name"))
        is_free = isinstance(seed2, Unseeded) or not (seed or seed2)
        seeds = None if is_free else (int(seed or 0), int(seed2 or 0))
        if loops.depth:
            seed, seed2 = seeds or (0, 0)
            return original(**bound.arguments, seed=seed, seed2=seed2, name=name)
        with tf.name_scope(name or kind):
            return draw(next_seed(Given(kind, seeds)), **bound.arguments)

    return functools.wraps(original)(call)


# -- the same distributions by a seed ---------------------------------------------------------------------------------


def _generator(seed: Any) -> dict[str, Any]:
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    return {"key": key, "counter": counter, "alg": tf.raw_ops.StatelessRandomGetAlg()}


def _normal(seed: Any, shape: Any, dtype: Any) -> Any:
    return tf.raw_ops.StatelessRandomNormalV2(shape=shape, dtype=dtype, **_generator(seed))


def _truncated_normal(seed: Any, shape: Any, dtype: Any) -> Any:
    return tf.raw_ops.StatelessTruncatedNormalV2(shape=shape, dtype=dtype, **_generator(seed))


def _uniform(seed: Any, shape: Any, dtype: Any) -> Any:
    return tf.raw_ops.StatelessRandomUniformV2(shape=shape, dtype=dtype, **_generator(seed))


def _uniform_int(seed: Any, shape: Any, minval: Any, maxval: Any) -> Any:
    return tf.raw_ops.StatelessRandomUniformIntV2(shape=shape, minval=minval, maxval=maxval, **_generator(seed))


def _shuffle(seed: Any, value: Any) -> Any:
    value = tf.stop_gradient(value)  # the operation has no gradient
    if value.shape.rank == 0:
        return value
    order = tf.argsort(_uniform(seed, tf.shape(value)[:1], tf.float64))
    return tf.ensure_shape(tf.gather(value, order), value.shape)


def _categorical(seed: Any, logits: Any, num_samples: Any, output_dtype: Any) -> Any:
    """Return classes by the inverse of their distribution, as the kernel does; XLA has no operation with a seed."""
    logits = tf.cast(logits, tf.float64)
    bounds = tf.cumsum(tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True)), axis=-1)
    drawn = _uniform(seed, tf.stack([tf.shape(logits)[0], num_samples]), tf.float64) * bounds[:, -1:]
    return tf.cast(tf.searchsorted(bounds, drawn, side="right"), output_dtype)


def _gamma(seed: Any, shape: Any, alpha: Any) -> Any:
    alpha = tf.convert_to_tensor(alpha)
    return tf.random.stateless_gamma(_with_shape_of(shape, alpha), seed, alpha, dtype=alpha.dtype)


def _poisson(seed: Any, shape: Any, rate: Any, dtype: Any) -> Any:
    return tf.random.stateless_poisson(_with_shape_of(shape, rate), seed, rate, dtype=dtype)


def _with_shape_of(shape: Any, parameter: Any) -> Any:
    shape = tf.convert_to_tensor(shape)
    return tf.concat([shape, tf.shape(parameter, out_type=shape.dtype)], axis=0)


def _box(seed: Any, **given: Any) -> Any:
    return tf.raw_ops.StatelessSampleDistortedBoundingBox(seed=seed, **given)


DRAWN_BY: dict[str, Callable[..., Any]] = {
    "RandomStandardNormal": _normal,
    "TruncatedNormal": _truncated_normal,
    "RandomUniform": _uniform,
    "RandomUniformInt": _uniform_int,
    "RandomShuffle": _shuffle,
    "Multinomial": _categorical,
    "RandomGamma": _gamma,
    "RandomPoissonV2": _poisson,
    "SampleDistortedBoundingBoxV2": _box,
}
"""Functions that draw the numbers of each operation by a seed."""
