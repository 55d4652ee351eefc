"""Batches of any structure keep their types when they are moved, and are counted in examples."""

import logging
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from trackside.trainer.pytorch.batches import parts
from trackside.trainer.pytorch.batches.parts import batch_size, copied, left_of, map_batch, moved

X = torch.ones(4, 3)
META = torch.device("meta")
Named = namedtuple("Named", "x y")


class Plain:
    def __init__(self, x):
        self.x = x


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


class Moving:
    num_graphs = 2

    def __init__(self, x):
        self.x = x

    def to(self, device):
        return Moving(self.x.to(device))


class Attributes(dict):
    __getattr__ = dict.__getitem__


class Row(list):
    pass


@dataclass(frozen=True)
class Frozen:
    x: Any


@dataclass(frozen=True, slots=True)
class FrozenSlotted:
    x: Any


BATCHES = {
    "tensor": (X, lambda b: b),
    "dict in a list": ({"a": [X, None, "text"]}, lambda b: b["a"][0]),
    "named tuple": (Named(X, "y"), lambda b: b.x),
    "ordered dict": (OrderedDict(x=X), lambda b: b["x"]),
    "dict with attributes": (Attributes(x=X), lambda b: b.x),
    "user dict": (UserDict(x=[X]), lambda b: b["x"][0]),
    "list subclass": (Row([X]), lambda b: b[0]),
    "object": (Plain({"deep": X}), lambda b: b.x["deep"]),
    "object with slots": (Slotted(X), lambda b: b.x),
    "object with to": (Moving(X), lambda b: b.x),
    "frozen dataclass": (Frozen((X,)), lambda b: b.x[0]),
    "frozen dataclass with slots": (FrozenSlotted(X), lambda b: b.x),
    "packed sequence": (pack_sequence([X, X[:2]]), lambda b: b.data),
    "sparse": (X.to_sparse(), lambda b: b),
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_moved_batch_has_its_type_and_the_original_stays(name):
    batch, tensor_of = BATCHES[name]

    result = moved(batch, META)

    assert (type(result), tensor_of(result).device.type) == (type(batch), "meta")
    assert tensor_of(batch).device.type == "cpu"


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_that_is_there_already_stays_the_same_object_or_an_equal_one(name):
    batch, tensor_of = BATCHES[name]

    result = moved(batch, torch.device("cpu"))

    assert tensor_of(result) is tensor_of(batch)
    if not hasattr(type(batch), "to"):
        assert result is batch


def test_a_batch_encoding_is_moved_with_its_lists_and_copied_with_its_type():
    encoding = pytest.importorskip("transformers").BatchEncoding({"x": X, "parts": [X]})

    result = moved(encoding, META)

    assert type(result) is type(copied(encoding)) is type(encoding)
    assert (result.x.device.type, result["parts"][0].device.type, encoding.x.device.type) == ("meta", "meta", "cpu")


def test_what_has_no_tensors_stays():
    batch = {"text": "a", "none": None, "array": np.ones(2), "class": dict, "function": len, "set": {1}}

    assert moved(batch, META) is batch


def test_objects_that_refer_to_each_other_end():
    circle = Plain(X)
    circle.other = circle

    assert map_batch(lambda part, path: part, circle) is circle


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        ({"edge_index": torch.zeros(2, 9), "x": X, "y": X}, 4),
        ({"anchors": torch.zeros(8), "x": X, "labels": X}, 4),
        ((X, X), 4),
        ([X, X], 4),
        ({"images": [torch.ones(3, 5), torch.ones(3, 6)], "targets": [{"boxes": X}, {"boxes": X[:1]}]}, 2),
        ([{"image": X}, {"image": X}, {"image": X}], 3),
        ({"texts": ["a", "b"]}, 2),
        ({"scalar": torch.ones(()), "array": np.ones((5, 2))}, 5),
        (Plain(X), 4),
        (Slotted(X), 4),
        (Moving(X), 2),
        (pack_sequence([X, X[:2], X[:1]]), 3),
        (torch.nested.nested_tensor([X, X[:2]]), 2),
        (X.to_sparse(), 4),
        ({}, 1),
        ("text", 1),
    ],
)
def test_examples_are_counted(batch, size):
    assert batch_size(batch) == size


@pytest.mark.parametrize(
    ("batch", "left"),
    [
        ({"x": X[:3], "y": X[:3, 0]}, 3),
        ((X[:0], X[:0]), 0),
        ((X, X), 4),
        (torch.cat([X, X]), 4),  # two views
        ((torch.ones(3, 4, 2), torch.ones(3, 4)), 4),  # time first
        ({"edge_index": torch.ones(2, 9), "x": X[:3]}, 4),
        (torch.ones(()), 4),
    ],
)
def test_examples_that_a_collator_left_out_are_found_by_the_size_of_all_parts(batch, left):
    assert left_of(batch, 4) == left


def test_a_number_that_is_a_guess_is_told_once(caplog, monkeypatch):
    monkeypatch.setattr(parts, "_told", set())
    with caplog.at_level(logging.WARNING, "trackside.data"):
        sizes = [batch_size({"a": torch.zeros(2), "b": X}) for _ in range(3)]

    assert sizes == [2, 2, 2]
    assert [record.message for record in caplog.records] == [
        "the parts of a batch have the leading sizes 2, 4; it is counted as 2 examples. Override "
        "Trainer.batch_size_of(batch) to return another number"
    ]
