"""Collection of the outputs of many batches, each as the model returns it.

An array is appended along its first axis, whatever its length: an output may have one row for each example, for each
token, or for each of two views. A list of one item for each example, as in object detection, becomes one list of all
items. `growing_array` has the arrays, and pads ragged trailing dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trackside.callbacks.errors import TracksideValueError

from .growing_array import GrowingArray

LEAVES = frozenset({type(None), int, float, np.ndarray})
"""Types that are known to have no parts without a closer look."""


def map_nested(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply ``function`` to every leaf of nested tuples, lists and dicts; a list of texts is a leaf.

    Example:
        >>> map_nested(lambda leaf: leaf + 1, (1, [2, {"x": 3}]))
        (2, (3, {'x': 4}))
    """
    if type(value) in LEAVES:
        return function(value)
    if isinstance(value, (tuple, list)) and not are_texts(value):
        return tuple([map_nested(function, part) for part in value])
    if isinstance(value, Mapping):
        return {key: map_nested(function, value[key]) for key in value}
    return function(value)


def leaves(value: Any) -> list[Any]:
    """Return every leaf of nested tuples, lists and dicts; a list of texts is a leaf."""
    if isinstance(value, (tuple, list)) and not are_texts(value):
        return [leaf for part in value for leaf in leaves(part)]
    if isinstance(value, Mapping):
        return [leaf for part in value.values() for leaf in leaves(part)]
    return [value]


def are_texts(value: Any) -> bool:
    """Return whether ``value`` is a list of texts, one for each example, as collators build it."""
    if not isinstance(value, (tuple, list)) or not value or not isinstance(value[0], str):
        return False
    return all(isinstance(part, str) for part in value)


class Collector:
    """Nested outputs of many batches, as one nested output.

    Args:
        expected: Expected number of examples; None if unknown.
        concatenate: Whether to join the batches; otherwise the result is a list.
        is_tuple_of_outputs: Whether a tuple holds the outputs of a model, and never one item for each example.

    Attributes:
        missing: Number of batches without the output.
    """

    def __init__(
        self, expected: int | None = None, *, concatenate: bool = True, is_tuple_of_outputs: bool = False
    ) -> None:
        self._joined: _Joined = _Joined(expected, "", is_fixed=is_tuple_of_outputs)
        self._batches: list[Any] | None = None if concatenate else []
        self.missing: int = 0

    def append(self, batch: Any, examples: int | None = None) -> None:
        """Add a nested batch of arrays on the host; ignore None.

        Args:
            examples: Number of examples in the batch; without it, a list is a fixed number of outputs.

        Raises:
            TracksideValueError: If the batch cannot be joined with those before; the message names the output.
        """
        if batch is None:
            self.missing += 1
        elif self._batches is None:
            self._joined.append(batch, examples)
        else:
            self._batches.append(batch)

    def result(self) -> Any:
        """Return the gathered outputs; None if there are none."""
        return self._joined.result() if self._batches is None else self._batches or None


class _Joined:
    """One node of nested outputs, joined over the batches.

    Args:
        expected: Expected number of rows of an array; None if unknown.
        name: The path of the node, for errors.
        is_fixed: Whether a tuple or a list has one entry for each output.
    """

    def __init__(self, expected: int | None, name: str, *, is_fixed: bool = False) -> None:
        self._expected = expected
        self._name = name
        self._is_fixed = is_fixed
        self._kind: type | None = None
        self._array: GrowingArray | None = None
        self._parts: dict[Any, _Joined] = {}
        self._open: list[tuple[Sequence[Any], int | None]] = []

    def append(self, batch: Any, examples: int | None) -> None:
        """Add the value of a batch."""
        if type(batch) is np.ndarray and self._array is not None and self._array.append_alike(batch):
            return
        kind = _kind_of(batch)
        if self._kind not in (None, kind):
            raise self._misfit(_word(kind), _word(self._kind))
        self._kind = kind
        if kind is dict:
            self._append_parts(batch, examples)
        elif kind is list:
            self._append_sequence(batch, examples)
        elif kind is GrowingArray:
            self._append_rows(batch, examples)

    def result(self) -> Any:
        """Return the value over all batches; None if there is none."""
        if self._array is not None:
            return self._array.array()
        if self._kind is list and not self._is_fixed:
            if not _have_items(self._open):
                self._fix()
            else:
                return [item for batch, _ in self._open for item in batch]
        parts = {key: part.result() for key, part in self._parts.items()}
        if self._kind is dict:
            return parts
        return tuple(parts.values()) if self._kind is list else None

    def _append_rows(self, batch: Any, examples: int | None) -> None:
        if self._array is None:
            self._array = GrowingArray(self._expected)
        try:
            self._array.append(batch, is_one_row=examples == 1)
        except TypeError as error:
            raise self._misfit(f"the type {np.asarray(batch).dtype}", f"{self._array.array().dtype}") from error
        except ValueError as error:
            raise self._misfit(*map(str, error.args)) from error

    def _append_parts(self, batch: Mapping[Any, Any], examples: int | None) -> None:
        if self._parts and self._parts.keys() != batch.keys():
            raise self._misfit(f"the entries {list(batch)}", f"{list(self._parts)}")
        for key, value in batch.items():
            if key not in self._parts:
                self._parts[key] = _Joined(self._expected, f"{self._name}[{key!r}]")
            self._parts[key].append(value, examples)

    def _append_sequence(self, batch: Sequence[Any], examples: int | None) -> None:
        """Add a tuple or a list; it stays open whether its entries are examples until a batch decides."""
        if not self._is_fixed:
            self._open.append((batch, examples))
            if len(batch) != examples:
                self._fix()
            return
        self._append_parts(dict(enumerate(batch)), examples)

    def _fix(self) -> None:
        """Take the entries of every batch as a fixed number of outputs."""
        self._is_fixed = True
        waiting, self._open = self._open, []
        for batch, examples in waiting:
            self._append_parts(dict(enumerate(batch)), examples)

    def _misfit(self, found: str, before: str) -> TracksideValueError:
        name = f"the output {self._name}" if self._name else "the output"
        return TracksideValueError(
            f"{name} of a batch has {found}, and that of the batches before {before}: they cannot be joined. "
            "eval_do_concat_batches=False keeps each batch as it is"
        )


def _kind_of(value: Any) -> type:
    """Return the kind of a node: dict, list (or tuple), GrowingArray for what has rows, NoneType."""
    if isinstance(value, Mapping):
        return dict
    if isinstance(value, (tuple, list)) and not are_texts(value):
        return list
    return type(None) if value is None else GrowingArray


def _word(kind: type | None) -> str:
    return {dict: "a dict", list: "a list", GrowingArray: "an array"}.get(kind or object, "None")


def _have_items(batches: Sequence[tuple[Sequence[Any], int | None]]) -> bool:
    """Return whether lists, each as long as its batch, hold one item for each example.

    They hold outputs instead if they are equally long in all batches and all of their arrays have a row for each
    example; a list of dicts holds items even so.
    """
    if len({len(batch) for batch, _ in batches}) > 1:
        return True
    if any(isinstance(item, Mapping) for batch, _ in batches for item in batch):
        return True
    return any(len(leaf) != examples for batch, examples in batches for leaf in leaves(batch) if _has_rows(leaf))


def _has_rows(leaf: Any) -> bool:
    return getattr(leaf, "ndim", 0) > 0 or are_texts(leaf)
