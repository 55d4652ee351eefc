"""Subclasses of BaseTrainingArguments: fields of any type, carried, kept and compared as those of the base."""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
import pathlib
import typing

import pytest

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.arguments.base import BaseTrainingArguments


class Mode(enum.Enum):
    FAST = "fast"


@dataclasses.dataclass
class OwnArguments(BaseTrainingArguments):
    """Fields of many types, as scripts declare them."""

    lengths: list[int] = dataclasses.field(default_factory=list)
    kind: typing.Literal["a", "b"] = "a"
    cache: pathlib.Path = pathlib.Path("x")
    mode: Mode | None = None
    anything: typing.Any = None
    betas: tuple[float, float] = (0.9, 0.99)
    names: set[str] = dataclasses.field(default_factory=set)
    score: typing.Callable[..., typing.Any] = len
    limit: int = None
    rate: float = 0.1
    derived: int = dataclasses.field(init=False)

    def __post_init__(self):
        super().__post_init__()
        self.derived = len(self.lengths)


OWN = {
    "lengths": [1, 2],
    "kind": "b",
    "cache": pathlib.Path("y"),
    "mode": Mode.FAST,
    "anything": 3,
    "betas": (0.8, 0.9),
    "names": {"b", "a"},
    "score": max,
}


def test_a_constructor_of_a_subclass_takes_what_it_declares():
    class Args(BaseTrainingArguments):
        def __init__(self, *, rank=0, **more):
            super().__init__(**more)
            self.rank = rank

    args = Args(rank=3, seed=7)

    assert (args.rank, args.seed) == (3, 7)
    assert copy.deepcopy(args).rank == 3


def test_a_subclass_may_have_a_field_of_transformers():
    @dataclasses.dataclass
    class Args(BaseTrainingArguments):
        use_cache: bool = False
        hub_token: str = dataclasses.field(default_factory=str)

    args = Args("out", use_cache=True)
    args.use_cache, args.hub_token = "true", "x"
    args.validate()

    assert (args.use_cache, args.hub_token) == (True, "x")


def test_fields_of_a_subclass_may_have_any_type():
    args = OwnArguments("out", per_device_train_batch_size="4", rate="3e-4", **OWN)

    assert {name: getattr(args, name) for name in OWN} == OWN
    assert (args.per_device_train_batch_size, args.rate, args.limit, args.derived) == (4, 3e-4, None, 2)
    with pytest.raises(ArgumentError, match="rate='much' is not allowed: a finite number"):
        OwnArguments("out", rate="much")


def test_a_type_that_only_type_checkers_know_leaves_the_fields_of_its_class_as_they_are():
    @dataclasses.dataclass
    class Args(BaseTrainingArguments):
        seen: int = 1
        unseen: OnlyForTypeCheckers | None = None  # noqa: F821

    args = Args("out", seed="7", seen=2, unseen="x")

    assert (args.seed, args.seen, args.unseen) == (7, 2, "x")


def test_a_subclass_is_carried_as_far_as_json_goes():
    found = json.loads(OwnArguments("out", **OWN).to_json_string())

    assert {name: found[name] for name in OWN} == {
        "lengths": [1, 2],
        "kind": "b",
        "cache": "y",
        "mode": "fast",
        "anything": 3,
        "betas": [0.8, 0.9],
        "names": ["a", "b"],
        "score": "max",
    }
    assert "derived" not in found


def test_a_subclass_is_kept_by_replace_and_shown_and_compared_as_its_base():
    args = OwnArguments("out", **OWN)

    changed = args.replace(learning_rate=0.1, lengths=[])

    assert (type(changed), changed.mode, changed.cache, changed.derived) == (OwnArguments, Mode.FAST, args.cache, 0)
    assert args == args.replace() != changed
    assert repr(OwnArguments(kind="b")) == "OwnArguments(kind='b')"
