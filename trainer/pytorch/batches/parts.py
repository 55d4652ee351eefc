"""Batches of any structure: moved to a device with their types, and counted in examples.

A batch may be a tensor, nested dicts, lists, tuples, dataclasses, an object of the user's own class, or an object that
moves itself with a method ``to``. Parts that do not change stay the same objects.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ...evaluation.output_collector import leaves

logger: logging.Logger = logging.getLogger("trackside.data")

PLAIN = (str, bytes, int, float, complex, np.ndarray, np.generic, NoneType, Tensor)
"""Types without parts."""

DEPTH = 16
"""Levels of nesting that are followed, since objects may refer to each other in a circle."""

DECLARED = ("num_examples", "num_graphs", "batch_size")
"""Attributes with which an object declares its number of examples; graph libraries and TensorDict have them."""

Path = tuple[Any, ...]


def parts_of(value: Any) -> dict[Any, Any]:
    """Return the parts of a dict, a list, a tuple or another object by key, index or name; empty without parts."""
    if isinstance(value, PLAIN):
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if callable(value) or type(value).__module__ == "builtins":
        return {}
    slots = [slot for cls in type(value).__mro__ for slot in _slots_of(cls) if hasattr(value, slot)]
    return {**{slot: getattr(value, slot) for slot in slots}, **getattr(value, "__dict__", {})}


def _slots_of(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def map_batch(
    function: Callable[[Any, Path], Any],
    value: Any,
    path: Path = (),
    *,
    is_whole: Callable[[Any, Path], bool] = lambda value, path: False,
) -> Any:
    """Return a batch of the same types with ``function(part, path)`` applied to every part that has no parts itself.

    Args:
        is_whole: Returns whether ``function`` takes a part although it has parts.
    """
    parts = {} if isinstance(value, PLAIN) or len(path) > DEPTH or is_whole(value, path) else parts_of(value)
    if not parts:
        return function(value, path)
    mapped = {key: map_batch(function, part, (*path, key), is_whole=is_whole) for key, part in parts.items()}
    return value if all(mapped[key] is parts[key] for key in parts) else _with_parts(value, mapped)


def _with_parts(value: Any, parts: dict[Any, Any]) -> Any:
    """Return a copy of ``value`` with other parts, of the same type where that type allows it."""
    kind = type(value)
    if kind in (dict, list, tuple):
        return parts if kind is dict else kind(parts.values())
    if isinstance(value, tuple):
        return value._make(parts.values()) if hasattr(value, "_make") else kind(parts.values())
    same = copied(value)
    if isinstance(value, list):
        same[:] = parts.values()
    elif isinstance(value, Mapping):
        if same is value:
            return parts
        for key, part in parts.items():
            same[key] = part
    else:
        for name, part in parts.items():
            object.__setattr__(same, name, part)  # frozen ones too
    return same


def copied(value: Any) -> Any:
    """Return a shallow copy of a dict or an object, of the same type; the object itself if it cannot be copied."""
    if type(value) is dict:
        return dict(value)
    try:
        return copy.copy(value)
    except TypeError:
        return value


# -- devices ----------------------------------------------------------------------------------------------------------


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch on ``device``: its tensors, and objects with a method ``to``, at any depth."""

    def move(part: Any, path: Path) -> Any:
        if isinstance(part, Tensor):
            return part.to(device, non_blocking=True)
        if not _moves_itself(part, path):
            return part
        result = (copied(part) if isinstance(part, Mapping) else part).to(device)
        result = part if result is None else result
        # such as a BatchEncoding, which moves its tensors only
        return map_batch(move_rest, result) if isinstance(part, Mapping) else result

    def move_rest(part: Any, path: Path) -> Any:
        return part.to(device, non_blocking=True) if isinstance(part, Tensor) else part

    return map_batch(move, batch, is_whole=_moves_itself)


def _moves_itself(value: Any, path: Path) -> bool:
    is_known = type(value) in (dict, list, tuple) or isinstance(value, type)
    return not is_known and callable(getattr(type(value), "to", None))


# -- numbers of examples ----------------------------------------------------------------------------------------------


def batch_size(batch: Any) -> int:
    """Return the number of examples in a batch: what it declares, or else the leading size of most of its parts."""
    sizes = _sizes_of(batch)
    if not sizes:
        return 1
    votes = Counter(sizes).most_common(1)
    size, number = votes[0]
    if 2 * number <= len(sizes):
        _tell(sorted(set(sizes)), size)
    return size


def left_of(batch: Any, examples: int) -> int:
    """Return how many of its ``examples`` a batch holds, of which a collator may have left some out.

    It is the size that all parts have, if it is smaller, and no part has its examples in the second dimension.

    Example:
        >>> left_of({"x": torch.ones(3, 2), "labels": torch.ones(3)}, 4)
        3
    """
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    for part in parts:
        if isinstance(part, Tensor) and part.ndim and part.shape[0] == examples:
            return examples  # nearly always, and ten times faster than the rest
    sizes = set(_sizes_of(batch))
    tensors = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim]
    has_second = bool(tensors) and all(examples in leaf.shape[1:2] for leaf in tensors)
    return min([examples, *sizes]) if len(sizes) == 1 and not has_second else examples


def _sizes_of(value: Any, path: Path = ()) -> list[int]:
    """Return the leading size of every part of a batch; a list of texts or dicts has one item for each example."""
    if isinstance(value, Tensor):
        return [value.size(0)] if value.ndim else []
    if isinstance(value, np.ndarray):
        return [len(value)] if value.ndim else []
    if isinstance(value, PLAIN) or len(path) > DEPTH:
        return []
    declared = None if type(value) in (dict, list, tuple) else _declared_size(value)
    if declared is not None:
        return [declared]
    if isinstance(value, (list, tuple)) and value and all(_is_item(item) for item in value):
        return [len(value)]
    parts = parts_of(value)
    sizes = [size for key, part in parts.items() for size in _sizes_of(part, (*path, key))]
    has_items = path and isinstance(value, list) and len({getattr(part, "shape", None) for part in value}) > 1
    return [len(value)] if has_items else sizes  # a nested list of tensors that cannot be stacked has examples


def _is_item(item: Any) -> bool:
    return isinstance(item, (str, bytes, int, float, Mapping))


def _declared_size(value: Any) -> int | None:
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    for name in DECLARED:
        try:
            size = getattr(value, name, None)
        except Exception:  # a property that does not apply, or a dict whose attributes are its keys
            continue
        size = size[0] if isinstance(size, torch.Size) and size else size
        if isinstance(size, int) and not isinstance(size, bool):
            return size
    return None


_told: set[int] = set()


def _tell(sizes: list[int], size: int) -> None:
    if len(sizes) not in _told:
        _told.add(len(sizes))
        logger.warning(
            "the parts of a batch have the leading sizes %s; it is counted as %d examples. Override "
            "Trainer.batch_size_of(batch) to return another number",
            *(", ".join(map(str, sizes)), size),
        )
