"""Random numbers of a model's own: generators that its modules or its loss refer to, and seeds from the system.

The states of generators go into checkpoints. A module that seeds torch from the system, as Reformer does for its
reversible layers, cannot be resumed exactly, nor repeated: that is told.
"""

from __future__ import annotations

import ast
import inspect
import logging
import random
import textwrap
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

logger: logging.Logger = logging.getLogger("trackside.trainer")

KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
DEPTH = 4
"""Containers and functions that are followed from a module to a generator."""


def own_generators(model: nn.Module, *others: Any) -> list[Any]:
    """Return the generators that the modules of a model, or functions and other objects, refer to, in a fixed order."""
    parts = [part for module in model.modules() for part in (vars(module), type(module).forward)]
    roots = [*parts, *(each if isinstance(each, FunctionType) else getattr(each, "__dict__", {}) for each in others)]
    found = {id(each): each for root in roots for each in _generators_in(root, DEPTH)}
    of_torch = {id(each) for each in (torch.default_generator, *torch.cuda.default_generators)}
    return [each for key, each in found.items() if key not in of_torch]


def _generators_in(value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, KINDS):
        yield value
    elif depth and isinstance(value, (Mapping, list, tuple)):
        for part in list(value.values() if isinstance(value, Mapping) else value)[:100]:
            yield from _generators_in(part, depth - 1)
    elif depth and isinstance(value, FunctionType):
        names = value.__code__.co_names
        yield from _generators_in([value.__globals__[name] for name in names if name in value.__globals__], 1)
        for cell in value.__closure__ or ():
            try:
                yield from _generators_in(cell.cell_contents, depth - 1)
            except ValueError:  # it is empty
                continue


def state_of(generator: Any) -> Any:
    """Return the state of a generator, as a checkpoint keeps it."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _as_lists(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _as_lists(list(generator.get_state(legacy=True)))
    return generator.getstate()


def set_state(generator: Any, state: Any) -> None:
    """Restore what `state_of` returned."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(tuple(state))
    else:
        generator.setstate(state)


def _as_lists(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: _as_lists(part) for key, part in state.items()}
    if isinstance(state, list):
        return list(map(_as_lists, state))
    return state.tolist() if isinstance(state, np.ndarray) else state


def tell_of_seeds(model: nn.Module) -> None:
    """Warn of classes of modules that seed a generator from the system, by ``torch.seed()`` and the like."""
    classes = {type(module) for module in model.modules() if not type(module).__module__.startswith("torch.")}
    found = {
        f"{each.__name__}.{name}"
        for each in classes
        for name, method in vars(each).items()
        if isinstance(method, FunctionType) and _seeds_from_system(method)
    }
    if found:
        logger.warning(
            "a run cannot be repeated, and a resumed run will differ: %s takes a seed from the system",
            ", ".join(sorted(found)),
        )


def _seeds_from_system(method: FunctionType) -> bool:
    if "seed" not in method.__code__.co_names:
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, SyntaxError):
        return False
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and not node.args and not node.keywords]
    return any(isinstance(call.func, ast.Attribute) and call.func.attr == "seed" for call in calls)
