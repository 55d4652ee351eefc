"""Random number generators that functions and objects of a user refer to: how they are found, their states, new seeds.

They are those of numpy, Python and, if asked for, a framework. The global ones are left out: their states are kept
apart, in `random_state`. So is ``random.SystemRandom``, which has no state.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

Types = tuple[type, ...]

KINDS: Types = (np.random.Generator, np.random.RandomState, random.Random)
DEPTH = 12
"""References that are followed from a function or an object to a generator."""
MOST_PARTS = 100
"""Parts of a container that are looked at."""
MOST_OBJECTS = 5_000
"""Objects that are looked at, so that a dataset of small objects does not hold up a run."""
MOST_OF_ROOT = 20
"""Objects that are looked at beside them for each root, so that a model of many modules does not hide its data."""
LIBRARIES = ("builtins", "numpy", "tensorflow", "keras", "torch", "random", "threading", "multiprocessing", "trackside")
"""Packages whose objects are not followed."""
CONTAINERS = ("torch.nn.modules.", "torch.utils.data.dataset")
"""Modules of theirs whose objects hold objects of the user."""
ENTRIES = ("__init__", "__call__", "__getitem__", "__getitems__", "__iter__", "__next__", "forward", "call")
"""Methods of a class that are followed, with those that they name, where the class or its object is referred to."""
PLAIN = (str, bytes, int, float, complex, np.ndarray, type(None))


def generators_in(*roots: Any, also: Types = ()) -> list[Any]:
    """Return the generators that functions and other objects refer to, each once, in a fixed order.

    Args:
        also: Types of generators beside those of numpy and Python.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> generators_in(lambda x: x + rng.random()) == [rng]
        True
    """
    return [part for part in _reached(roots) if isinstance(part, (*KINDS, *also)) and not _is_global(part)]


def may_draw(function: Any) -> bool:
    """Return whether a function, or one that it refers to, has a generator or names random numbers."""
    for part in _reached([function]):
        if isinstance(part, KINDS) or (isinstance(part, ModuleType) and "random" in part.__name__):
            return True
        code = getattr(part, "__code__", None)
        if code is not None and any("rand" in name or "shuffle" in name for name in code.co_names):
            return True
    return False


def state_of(generator: Any) -> Any:
    """Return the state of a generator of numpy or Python as plain data."""
    if isinstance(generator, np.random.Generator):
        return _as_lists(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _as_lists(list(generator.get_state(legacy=True)))
    return generator.getstate()


def set_state(generator: Any, state: Any) -> None:
    """Restore what `state_of` returned.

    Raises:
        TypeError, ValueError, KeyError: If the state is that of another kind of generator.
    """
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(tuple(state))
    else:
        version, words, gauss = state
        generator.setstate((version, tuple(words), gauss))


def reseed(generator: Any, seed: int) -> None:
    """Seed a generator of numpy or Python."""
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        bits.state = type(bits)(seed).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(seed % 2**32)
    else:
        generator.seed(seed)


def _is_global(generator: Any) -> bool:
    of_process = [getattr(function, "__self__", None) for function in (random.random, np.random.rand)]
    return isinstance(generator, random.SystemRandom) or any(generator is each for each in of_process)


def _as_lists(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: _as_lists(part) for key, part in state.items()}
    if isinstance(state, list):
        return list(map(_as_lists, state))
    return state.tolist() if isinstance(state, np.ndarray) else state


# -- references -------------------------------------------------------------------------------------------------------


def _reached(roots: Sequence[Any]) -> Iterator[Any]:
    """Yield what the roots refer to, themselves included, each once and the nearest first."""
    most = MOST_OBJECTS + MOST_OF_ROOT * len(roots)
    seen: dict[int, Any] = {}  # the objects too, or another one could get the identity of one that was made here
    layer = list(roots)
    for _ in range(DEPTH):
        new = []
        for value in layer:
            if isinstance(value, PLAIN) or id(value) in seen or len(seen) >= most:
                continue
            if isinstance(value, (dict, list, tuple, set)) and not value:
                continue
            seen[id(value)] = value
            new.append(value)
        yield from new
        layer = [part for value in new for part in _references(value)]


def _references(value: Any) -> Iterable[Any]:
    if isinstance(value, FunctionType):
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [*_cells(value), *defaults, *_named(value)]
    if isinstance(value, type):
        return _members(value, ENTRIES)
    if isinstance(value, (MethodType, BuiltinMethodType)):
        return [value.__self__, getattr(value, "__func__", None)]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, Mapping):  # without code of the user, which may make or import what a dict seems to hold
        return list(islice(dict.values(value), MOST_PARTS)) if isinstance(value, dict) else []
    if isinstance(value, (list, tuple, set)):
        return list(islice(value, MOST_PARTS))
    return _attributes(value)


def _cells(function: FunctionType) -> list[Any]:
    return [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]


def _named(function: FunctionType) -> list[Any]:
    """Return what the names in a function's code are in its module, and in the classes and modules that it names."""
    names = _names_in(function.__code__)
    known = [function.__globals__[name] for name in names if name in function.__globals__]
    for holder in (*_cells(function), *known):
        if isinstance(holder, type):
            known.extend(_members(holder, names))
        elif isinstance(holder, ModuleType) and is_users(holder.__name__):
            known.extend(vars(holder)[name] for name in names if name in vars(holder))
    return known


def _members(kind: type, names: Iterable[str]) -> list[Any]:
    """Return the members of a class by name and, in turn, those that its methods name, wherever they are inherited."""
    of_users = [vars(base) for base in kind.__mro__ if is_users(base.__module__)]
    found: dict[str, Any] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        member = next((members[name] for members in of_users if name in members), None)
        member = getattr(member, "fget", None) or getattr(member, "__func__", member)
        found[name] = member
        if isinstance(member, FunctionType):
            waiting.extend(_names_in(member.__code__))
    return [member for member in found.values() if member is not None]


def is_users(module: str) -> bool:
    """Return whether a module is the user's, and neither Python's nor a library's."""
    package = module.split(".")[0]
    return package not in LIBRARIES and package not in sys.stdlib_module_names


def _attributes(value: Any) -> Iterable[Any]:
    kind = type(value)
    package = kind.__module__.split(".")[0]
    is_followed = package not in LIBRARIES or kind.__module__.startswith(CONTAINERS)
    is_state = kind.__name__ == "_GeneratorState"  # of tf.data.Dataset.from_generator
    if not (is_followed or is_state) or isinstance(value, ModuleType):
        return []
    slots = [name for base in kind.__mro__ for name in _names(vars(base).get("__slots__", ())) if name != "__dict__"]
    return [kind, *getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _names_in(code: Any) -> list[str]:
    inner = [name for constant in code.co_consts if hasattr(constant, "co_names") for name in _names_in(constant)]
    return [*code.co_names, *inner]


def _is_filled(cell: Any) -> bool:
    try:
        return bool(cell.cell_contents is not None)
    except ValueError:
        return False
