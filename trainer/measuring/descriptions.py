"""Descriptions of the data and of the model of a run, as an engine gives them."""

from __future__ import annotations

from typing import Any, NamedTuple


class DataDescription(NamedTuple):
    """The training data of a run.

    Attributes:
        examples: Number of examples; None if it is unknown.
        columns: Names or types of the columns; None if they are unknown.
        micro_batch: Examples in a micro-batch of all processes together; None if the data come in batches of their own.
    """

    examples: int | None
    columns: Any
    micro_batch: int | None


class ModelDescription(NamedTuple):
    """The model of a run.

    Attributes:
        name: Name of its class.
        weights: Number of its weights.
        trained: Number of those that are trained.
        where: Device and precision, in words.
    """

    name: str
    weights: int
    trained: int
    where: str
