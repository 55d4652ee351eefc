"""What a dataset and a collator hold, by which a change between two epochs is seen.

Workers that stay from one epoch to the next have copies of both, as they were when the workers began.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

logger: logging.Logger = logging.getLogger("trackside.data")

SCALARS = (bool, int, float, complex, str, bytes, type(None))
FEW = 100
"""Number of items up to which those of a list, dict or array are compared."""
MOST = 2000
"""Number of parts that are looked at, the nearest first."""


def contents_of(**roots: Any) -> dict[str, Any]:
    """Return what objects hold at any depth, by path: plain values themselves, and anything else by its identity.

    Tensors come with the number of changes in place, large lists with their length. Other changes in place, such as
    those of a large array, are not seen.
    """
    found: dict[str, Any] = {}
    known: set[int] = set()
    waiting = deque(roots.items())
    while waiting and len(found) < MOST:
        path, value = waiting.popleft()
        found[path] = _mark(value)
        if id(value) not in known:
            known.add(id(value))
            waiting.extend((f"{path}.{name}", part) for name, part in _parts(value))
    return found


def _mark(value: Any) -> Any:
    """Return what differs if ``value`` is another one."""
    if isinstance(value, SCALARS):
        return value if value == value else "nan"
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, np.ndarray):
        return (id(value), value.tobytes()) if value.size <= FEW and value.dtype != object else id(value)
    if isinstance(value, (list, tuple, set, frozenset, Mapping)):
        return type(value), len(value)
    return type(value) if isinstance(value, (partial, MethodType)) else id(value)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (*SCALARS, Tensor, np.ndarray, type, ModuleType)):
        return
    if isinstance(value, Mapping):
        items: Any = value.items() if len(value) <= FEW else ()
        yield from ((str(key), part) for key, part in items)
    elif isinstance(value, (list, tuple)):
        yield from ((str(index), part) for index, part in enumerate(value if len(value) <= FEW else ()))
    elif isinstance(value, partial):
        yield from {"func": value.func, "args": value.args, "keywords": value.keywords}.items()
    elif isinstance(value, MethodType):
        yield "self", value.__self__
    elif isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not filled yet
                continue
    else:
        yield from getattr(value, "__dict__", {}).items()


class WorkersCopies:
    """Sees whether a dataset or a collator has changed since the workers that stay have copied them.

    Args:
        parts: The objects, by name.
    """

    def __init__(self, **parts: Any) -> None:
        self._parts = parts
        self._seen: dict[str, Any] | None = None
        self._is_told = False

    def before_epoch(self) -> dict[str, Any]:
        """Return the contents before the epoch is set, which does not count: workers are told the epoch, too."""
        return {} if self._seen is None else contents_of(**self._parts)

    def note_epoch(self, before: Mapping[str, Any]) -> None:
        """Take over what setting the epoch has changed since ``before``."""
        if self._seen is not None:
            after = contents_of(**self._parts)
            self._seen.update({path: mark for path, mark in after.items() if before.get(path) != mark})

    def are_old(self) -> bool:
        """Return whether anything has changed since the last call, and tell of it once."""
        before, now = self._seen, contents_of(**self._parts)
        self._seen = now
        if before is None or before == now:
            return False
        changed = next(path for path in (*now, *before) if now.get(path) != before.get(path))
        if not self._is_told:
            self._is_told = True
            logger.warning(
                "%s has changed since the workers began: in each epoch in which it has, they begin anew, in spite of "
                "dataloader_persistent_workers, since they have copies",
                changed,
            )
        return True
