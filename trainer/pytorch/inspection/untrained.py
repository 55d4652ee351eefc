"""Parameters that a loss depends on, and that no optimizer steps, such as those of a loss with weights of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from trackside.callbacks._util.display import first_names

from ..loss import leaves_of
from ..optim.belonging import parameters_elsewhere


def untrained_in(loss: Tensor, trainer: Any, holders: Iterable[Any]) -> str:
    """Return the names of parameters outside of the model and of every optimizer; empty without any.

    Args:
        loss: Its graph leads to the parameters.
        holders: Objects that may have modules, and optimizers of their own.
    """
    holders = list(holders)
    known = {*trainer.model.parameters(), *parameters_elsewhere(holders, None)}
    found = {leaf for leaf in leaves_of(loss) if isinstance(leaf, nn.Parameter) and leaf not in known}
    if not found:
        return ""
    names = {parameter: name for name, parameter in _named(holders)}
    return first_names([names.get(each, f"a parameter of shape {tuple(each.shape)}") for each in found])


def _named(holders: Iterable[Any]) -> Iterator[tuple[str, Tensor]]:
    for holder in holders:
        for attribute, value in getattr(holder, "__dict__", {}).items():
            if isinstance(value, nn.Module):
                yield from ((f"{attribute}.{name}", parameter) for name, parameter in value.named_parameters())
