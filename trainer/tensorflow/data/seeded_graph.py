"""A tf.data.Dataset as a graph whose random operations get new seeds.

TensorFlow fixes the seeds of a dataset when it is made: with a global seed every epoch has the same numbers, without
one no two runs have. Here a dataset is taken as a graph, and made again with seeds that are a function of a number, for
example of (seed, epoch). Parts that are the same in every epoch are made once: sources, and all that a ``cache`` keeps.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import tensorflow as tf

from .._compat import captures_of, inputs_of
from .graph_nodes import (
    CACHES,
    PARALLEL,
    PYTHON,
    SHUFFLES,
    Seed,
    functions_in,
    has_seed,
    is_state,
    renamed,
    reseed_states,
    seeds_of,
    source,
)


class SeededGraph:
    """The graph of a dataset.

    Args:
        dataset: A tf.data.Dataset.
        may_draw: Returns whether a Python function, given by its token, may draw random numbers.

    Attributes:
        tokens: The Python functions in it, as TensorFlow names them, except those whose results a cache keeps.
        kept_tokens: The Python functions whose results a cache keeps.
        is_random: Whether any operation in it draws random numbers.
        inexact: Operations whose numbers or order no seed decides, in words.

    Raises:
        tf.errors.OpError: If TensorFlow cannot describe the dataset as a graph.
    """

    def __init__(self, dataset: Any, may_draw: Callable[[bytes], bool]) -> None:
        self.may_draw: Callable[[bytes], bool] = may_draw
        variant = tf.data.experimental.to_variant(dataset)
        text = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1).numpy()
        graph = tf.compat.v1.GraphDef.FromString(text)
        self._spec = dataset.element_spec
        self._nodes = {node.name: node for node in graph.node}
        self._functions = {function.signature.name: function for function in graph.library.function}
        self._versions = graph.versions
        self._captures = captures_of(dataset)
        self._output = next(source(node.input[0]) for node in graph.node if node.op == "_Retval")
        self._is_random = cache(self._is_random_function)
        self.kept_tokens: set[bytes] = self._tokens_under_caches()
        tokens = {token for node in self._nodes.values() for token in self._tokens_in(node)}
        self.tokens: set[bytes] = tokens - self.kept_tokens
        self.is_random: bool = any(map(self._draws, self._nodes.values()))
        self.inexact: list[str] = sorted({words for node in self._all_nodes() if (words := self._inexact(node))})
        self._cuts: dict[str, Any] = {}
        self._own: dict[str, Any] = dict(self._originals(dataset, self._output))

    def dataset(self, *parts: int, fixed: int) -> Any:
        """Return the dataset with seeds derived from ``parts``.

        Args:
            fixed: The seed of what a cache keeps, and of shuffles that are the same in every epoch.
        """
        if not self._cuts:
            names = [name for name in self._topmost(self._output) if name not in self._own]
            self._cuts = self._own | dict(zip(names, self._make(names, self._own, seeds_of(fixed)), strict=True))
        made = self._cuts.get(self._output)
        if made is None:
            (made,) = self._make([self._output], self._cuts, seeds_of(*parts))
        return tf.data.experimental.from_variant(made, self._spec)

    # -- what is in it --------------------------------------------------------------------------------------------

    def _all_nodes(self) -> Iterator[Any]:
        yield from self._nodes.values()
        for function in self._functions.values():
            yield from function.node_def

    def _tokens_under_caches(self) -> set[bytes]:
        caches = [node.name for node in self._nodes.values() if node.op in CACHES]
        return {token for name in caches for node in self._under(name) for token in self._tokens_in(node)}

    def _draws(self, node: Any) -> bool:
        """Return whether a node draws numbers that differ between epochs."""
        by_call = any(map(self._is_random, functions_in(node))) or self._draws_in_parallel(node)
        return by_call or has_seed(node) or is_state(node)

    def _is_random_function(self, name: str) -> bool:
        function = self._functions.get(name)
        return function is not None and any(map(self._draws, function.node_def))

    def _inexact(self, node: Any) -> str | None:
        if "deterministic" in node.attr and node.attr["deterministic"].s == b"false":
            return f"{node.op} with deterministic=False, whose order is not fixed"
        if node.op in PARALLEL and self._tokens_in(node) and not self._draws_in_parallel(node):
            return f"{node.op} of a Python function with num_parallel_calls, if it draws random numbers"
        is_fixed = node.op in SHUFFLES and not has_seed(node)
        if is_fixed and all(self._constant(name) == 0 for name in node.input[2:4]):
            return f"{node.op} without a seed and with reshuffle_each_iteration=False"
        return None

    def _constant(self, name: str) -> int | None:
        node = self._nodes.get(source(name))
        return int(tf.make_ndarray(node.attr["value"].tensor)) if node is not None and node.op == "Const" else None

    def _topmost(self, name: str) -> Iterator[str]:
        """Yield the datasets nearest to the output whose elements are the same in every epoch."""
        node = self._nodes[name]
        if node.op in CACHES or not self._draws_under(name):
            yield name
            return
        for part in self._datasets_into(node):
            yield from self._topmost(part)

    def _draws_under(self, name: str) -> bool:
        return any(map(self._draws, self._under(name)))

    def _datasets_into(self, node: Any) -> list[str]:
        names = [source(given) for given in node.input]
        return [name for name in names if self._nodes[name].op.endswith(("Dataset", "DatasetV2", "DatasetV3"))]

    def _originals(self, dataset: Any, name: str) -> Iterator[tuple[str, Any]]:
        """Yield the nodes that draw no numbers, and the variant tensors of the user's own datasets that they describe.

        These share the user's memory and caches.
        """
        node, parts = self._nodes[name], inputs_of(dataset)
        if type(dataset).__name__.strip("_").split("Dataset")[0] != node.op.split("Dataset")[0]:
            if len(parts) == 1:  # a wrapper that makes no node
                yield from self._originals(parts[0], name)
        elif not self._draws_under(name):
            yield name, tf.data.experimental.to_variant(dataset)
        elif len(parts) == len(given := self._datasets_into(node)):
            for part, part_name in zip(parts, given, strict=True):
                yield from self._originals(part, part_name)

    def _under(self, name: str, cuts: Any = ()) -> list[Any]:
        """Return a node and all nodes that it needs, those it needs first."""
        found: dict[str, Any] = {}

        def visit(at: str) -> None:
            if at not in found and at not in cuts:
                for given in self._nodes[at].input:
                    visit(source(given))
                found[at] = self._nodes[at]

        visit(name)
        return list(found.values())

    def _ordered_functions(self) -> list[str]:
        """Return the functions in the order in which they are reached, which does not depend on their names."""
        found: dict[str, None] = {}

        def visit(node: Any) -> None:
            for name in [*functions_in(node), node.op]:
                if name in self._functions and name not in found:
                    found[name] = None
                    for part in self._functions[name].node_def:
                        visit(part)

        for node in self._under(self._output):
            visit(node)
        return list(found)

    # -- making it again ------------------------------------------------------------------------------------------

    def _make(self, outputs: list[str], cuts: dict[str, Any], seed: Seed) -> list[Any]:
        """Return the variant tensors of datasets, made with new seeds on top of ``cuts``."""
        needed = {node.name: node for name in outputs for node in self._under(name, cuts)}
        graph = tf.compat.v1.GraphDef(versions=self._versions)
        suffix = f"_{uuid.uuid4().hex}"  # other functions of one name may exist in this process
        feeds = {f"{name}:0": value for name, value in {**cuts, **self._variables(needed)}.items()}
        for node in needed.values():
            node = copy.deepcopy(node)
            self._reseed(node, graph.node, seed, "{}")
            graph.node.append(renamed(node, self._functions, suffix))
        reseed_states(graph, seed)
        for name in self._ordered_functions():
            function = graph.library.function.add()
            function.CopyFrom(self._functions[name])
            function.signature.name += suffix
            for node in list(function.node_def):
                self._reseed(node, function.node_def, seed, "{}:output:0")
                renamed(node, self._functions, suffix)
        for name in cuts:
            graph.node.add(name=name, op="Placeholder").attr["dtype"].type = tf.variant.as_datatype_enum

        def build() -> Any:
            given = {name: tf.identity(value) for name, value in feeds.items()}
            names = [f"{name}:0" for name in outputs]
            return tf.graph_util.import_graph_def(graph, input_map=given, return_elements=names, name="")

        with tf.device("CPU:0"):
            return list(tf.compat.v1.wrap_function(build, [])())

    def _reseed(self, node: Any, nodes: Any, seed: Seed, reference: str) -> None:
        """Give a node other seeds; ``nodes`` get the constants that it needs."""
        if not has_seed(node):
            self._draw_in_order(node)
        elif node.op in SHUFFLES:
            self._reseed_dataset(node, nodes, seed, reference)
        else:
            node.attr["seed"].i, node.attr["seed2"].i = seed()

    def _draw_in_order(self, node: Any) -> None:
        """Let a map whose parallel calls would draw in any order call one at a time."""
        if self._draws_in_parallel(node):
            del node.input[len(node.input) - 1]
            keep = ("f", "Targuments", "output_types", "output_shapes", "use_inter_op_parallelism")
            for name in [name for name in node.attr if name not in (*keep, "preserve_cardinality")]:
                del node.attr[name]
            node.op = "MapDataset"

    def _draws_in_parallel(self, node: Any) -> bool:
        states = [source(name) for name in node.input if self._is_variable(source(name))]
        draws = any(map(self._is_random, functions_in(node))) or any(is_state(self._handle_node(s)) for s in states)
        return node.op in PARALLEL and (draws or any(map(self.may_draw, self._tokens_in(node))))

    def _tokens_in(self, node: Any) -> list[bytes]:
        """Return the Python functions that a node calls, in the functions of functions, too."""
        own = [node.attr["token"].s] if node.op in PYTHON else []
        inner = [
            part for name in functions_in(node) if name in self._functions for part in self._functions[name].node_def
        ]
        return own + [token for part in inner for token in self._tokens_in(part)]

    def _reseed_dataset(self, node: Any, nodes: Any, seed: Seed, reference: str) -> None:
        first = 0 if node.op.startswith("Random") else 2
        for place, value in enumerate(seed(), first):
            name = f"{node.name.replace('/', '_')}_seed_{place}"
            constant = nodes.add(name=name, op="Const")
            constant.attr["dtype"].type = tf.int64.as_datatype_enum
            constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.int64))
            node.input[place] = (
                reference.format(name).removesuffix(":0") if reference == "{}:0" else reference.format(name)
            )
        if node.op in ("ShuffleDatasetV2", "ShuffleDatasetV3", "ShuffleAndRepeatDatasetV2", "RandomDatasetV2"):
            extra = {"RandomDatasetV2": 2, "ShuffleAndRepeatDatasetV2": 5}.get(node.op, 4)
            del node.input[extra]
            node.op = node.op.rstrip("V23")
            node.attr.pop("rerandomize_each_iteration", None)

    def _variables(self, needed: dict[str, Any]) -> dict[str, Any]:
        """Return the handles of captured variables that the graph holds copies of, other than states of generators."""
        handles: dict[str, Any] = {}
        for node in needed.values():
            captured = [tensor for name in functions_in(node) for tensor in self._captures.get(name, ())]
            given = [source(name) for name in node.input if self._is_variable(source(name))]
            if len(captured) == len(given):
                handles |= dict(zip(given, captured, strict=True))
        return {name: handle for name, handle in handles.items() if not is_state(self._handle_node(name))}

    def _handle_node(self, name: str) -> Any:
        node = self._nodes[name]
        return node if node.op == "VarHandleOp" else self._handle_node(source(node.input[0]))

    def _is_variable(self, name: str) -> bool:
        node = self._nodes.get(name)
        while node is not None and node.op == "Identity":
            node = self._nodes.get(source(node.input[0]))
        return node is not None and node.op == "VarHandleOp"
