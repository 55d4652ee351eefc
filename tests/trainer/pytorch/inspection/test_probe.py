"""Batches of any structure, with other labels in the place of theirs."""

from __future__ import annotations

from collections import UserDict
from typing import NamedTuple

import pytest
import torch

from trackside.trainer.pytorch.inspection.probe import _with_labels


class Pair(NamedTuple):
    x: torch.Tensor
    labels: torch.Tensor


@pytest.mark.parametrize("make", [Pair, lambda *parts: parts, lambda *parts: list(parts)])
def test_a_sequence_keeps_its_type(make):
    x, labels, other = torch.ones(2), torch.zeros(2), torch.full((2,), 7.0)

    found = _with_labels(make(x, labels), labels, other)

    assert type(found) is type(make(x, labels))
    assert found[0] is x
    assert found[1] is other


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_mapping_keeps_its_names(kind):
    x, labels, other = torch.ones(2), torch.zeros(2), torch.full((2,), 7.0)

    found = _with_labels(kind(x=x, labels=labels), labels, other)

    assert (found["x"] is x, found["labels"] is other) == (True, True)
