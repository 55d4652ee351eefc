"""Which parameters of a model are trained, as a checkpoint holds it."""

from __future__ import annotations

from torch import nn


def flags_of(model: nn.Module) -> str:
    """Return which parameters are trained, as a text that a checkpoint holds."""
    return "".join("01"[parameter.requires_grad] for parameter in model.parameters())


def set_flags(model: nn.Module, flags: str) -> list[str]:
    """Freeze and unfreeze parameters as in a model with the same ones, of which `flags_of` gave ``flags``.

    Returns:
        The names of all parameters.
    """
    named = dict(model.named_parameters())
    for parameter, flag in zip(named.values(), flags, strict=True):
        if parameter.requires_grad != (flag == "1"):
            parameter.requires_grad_(flag == "1")
    return list(named)
