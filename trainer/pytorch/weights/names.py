"""Names of weights: those of the user's own modules, however they are wrapped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

COMPILED = re.compile(r"(^|\.)(?:_orig_mod\.)+")
"""The part of a name that torch.compile(module) adds."""


def plain_name(name: str) -> str:
    """Return the name of a weight without the parts that torch.compile adds.

    Example:
        >>> plain_name("_orig_mod.layers.0._orig_mod.weight")
        'layers.0.weight'
    """
    return COMPILED.sub(r"\1", name)


def plainly_named(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights by their plain names."""
    return {plain_name(name): weight for name, weight in weights.items()}
