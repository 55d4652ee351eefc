"""Random numbers of a user's own: generators that the model, the loss and the data refer to, and seeds from the system.

The states of generators go into checkpoints. A module that seeds torch from the system, as Reformer does for its
reversible layers, cannot be resumed exactly, nor repeated: that is told.
"""

from __future__ import annotations

import ast
import inspect
import logging
import textwrap
from collections.abc import Sequence
from types import FunctionType
from typing import Any

import torch
from torch import nn

from ...checkpointing import own_generators as found
from ...data.sharding import derive_seed

logger: logging.Logger = logging.getLogger("trackside.trainer")


def own_generators(model: nn.Module, *others: Any) -> list[Any]:
    """Return the generators that the modules of a model, functions and other objects refer to."""
    return generators_of(*model.modules(), *others)


def generators_of(*roots: Any) -> list[Any]:
    """Return the generators that functions and objects refer to, those of torch included, without the global ones."""
    generators = found.generators_in(*roots, also=(torch.Generator,))
    of_torch = {id(each) for each in (torch.default_generator, *torch.cuda.default_generators)}
    return [each for each in generators if id(each) not in of_torch]


def states_of(generators: Sequence[Any]) -> list[Any]:
    """Return the states of generators, as a checkpoint keeps them."""
    return [each.get_state() if isinstance(each, torch.Generator) else found.state_of(each) for each in generators]


def set_states(generators: Sequence[Any], states: Sequence[Any]) -> None:
    """Restore what `states_of` returned; warn if these are other generators."""
    restored = sum(map(_is_restored, generators, states))
    if restored < max(len(generators), len(states)):
        logger.warning(
            "the checkpoint has the states of %d random number generators that the model, the loss and the data refer "
            "to; now they refer to %d, and %d of them are restored, so the run does not go on exactly. Make them in "
            "__init__(), the same in every run",
            len(states), len(generators), restored,
        )  # fmt: skip


def _is_restored(generator: Any, state: Any) -> bool:
    if isinstance(generator, torch.Generator) != isinstance(state, torch.Tensor):
        return False
    try:
        generator.set_state(state) if isinstance(generator, torch.Generator) else found.set_state(generator, state)
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError):  # it is of another kind
        return False
    return True


def reseed_all(generators: Sequence[Any], *parts: int) -> None:
    """Seed each generator by ``parts`` and its position among them."""
    for index, generator in enumerate(generators):
        seed = derive_seed(*parts, index)
        generator.manual_seed(seed) if isinstance(generator, torch.Generator) else found.reseed(generator, seed)


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
