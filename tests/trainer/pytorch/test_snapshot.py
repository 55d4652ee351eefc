"""States as torch files keep them: data that torch reads without running code."""

from __future__ import annotations

import enum
from collections import OrderedDict, defaultdict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trackside.callbacks.errors import CheckpointError, NotPlainError
from trackside.trainer.pytorch.snapshot import as_data, optimizer_sizes, outline, read_torch, sizes_of, write_torch


class Kind(enum.Enum):
    FIRST = "first"


Pair = namedtuple("Pair", ["one", "two"])


def same(one, two):
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return type(one) is type(two) and one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.1), np.float64(0.1)),
        (np.bool_(True), np.bool_(True)),
        (np.array(3), np.array(3)),
        (Path("a"), Path("a")),
        (defaultdict(list, {2: [torch.ones(2)]}), defaultdict(list, {2: [torch.ones(2)]})),
        (Kind.FIRST, "first"),
        (Pair(np.int8(1), (2, 3.0)), (np.int8(1), (2, 3.0))),
        (OrderedDict(a=np.int64(1)), OrderedDict(a=np.int64(1))),
        ({0: {"step": torch.tensor(1.0)}, np.int64(1): None}, {0: {"step": torch.tensor(1.0)}, 1: None}),
        ({(1, 2): [b"x", 1j, torch.float32, torch.device("cpu"), torch.Size([2])]},) * 2,
        ({1, 2}, {1, 2}),
        (torch.ones(3).to(torch.bfloat16), torch.ones(3).to(torch.bfloat16)),
    ],
    ids=str,
)
def test_a_state_is_read_as_it_was_written(value, expected, tmp_path):
    write_torch(as_data(value, "x", print), tmp_path / "x.pt")

    assert same(read_torch(tmp_path / "x.pt"), expected)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"param_groups": [{"rule": lambda: 0}]}, "the state in x.pt['param_groups'][0]['rule'] is of type function"),
        ({"state": {0: {"ema": torch.ones(2, device="meta")}}}, "the state in x.pt['state'][0]['ema'] is a tensor on"),
        ({"generator": torch.Generator()}, "the state in x.pt['generator'] is of type torch._C.Generator"),
        ([range, 1], "the state in x.pt[0] is of type type"),
    ],
)
def test_what_cannot_be_kept_is_told_with_its_place(value, place):
    with pytest.raises(NotPlainError) as raised:
        as_data(value, "x.pt", print)

    assert str(raised.value).startswith(place)


class OwnTensor(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "value", [frozenset({1}), torch.ones(2).as_subclass(OwnTensor), torch.Generator(), 10**5000], ids=type
)
def test_a_file_that_could_not_be_read_is_not_written(value, tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.pt holds"):
        write_torch({"value": value}, tmp_path / "x.pt")


def test_an_outline_has_the_types_and_not_the_values():
    state = {"a": [torch.ones(1000, dtype=torch.float16)], "b": (1, nn.Parameter(torch.ones(2)))}

    made = outline(state)

    assert made["a"][0].dtype == torch.float16
    assert not any(sizes_of(made))
    assert made["b"][0] == 1


def test_shared_memory_counts_once():
    weight, other = torch.ones(10), torch.ones(5, dtype=torch.float64)

    assert sizes_of({"one": weight, "two": [weight.view(2, 5)], "three": other}) == [40, 40]


@pytest.mark.parametrize(
    ("make", "moments"),
    [
        (lambda weights: torch.optim.AdamW(weights), 2),
        (lambda weights: torch.optim.AdamW(weights, amsgrad=True), 3),
        (lambda weights: torch.optim.SGD(weights, lr=0.1), 0),
        (lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9), 1),
        (lambda weights: torch.optim.Adagrad(weights), 1),
    ],
)
def test_the_size_of_an_optimizers_state_is_known_before_its_first_step(make, moments):
    weight = nn.Parameter(torch.ones(100))
    optimizer = make([weight])

    before = sum(optimizer_sizes(optimizer))
    weight.grad = torch.ones(100)
    optimizer.step()

    assert moments * 400 <= before <= moments * 400 + 4
    assert before <= sum(optimizer_sizes(optimizer)) <= before + 8
