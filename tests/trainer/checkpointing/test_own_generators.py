"""Generators that functions and objects refer to: which are found, and their states."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from trackside.trainer.checkpointing.own_generators import generators_in, may_draw, reseed, set_state, state_of

OF_MODULE = np.random.default_rng(0)
MADE = [lambda: np.random.default_rng(3), lambda: np.random.RandomState(3), lambda: random.Random(3)]


class Noise:
    def __init__(self, own: Any) -> None:
        self.parts = {"noise": [own]}

    def __call__(self, value: float) -> float:
        return value + OF_MODULE.random()

    def drawn(self, value: float, own: Any = None) -> float:
        return value


@dataclass
class Slotted:
    __slots__ = ("own",)
    own: Any


def draw(own: Any, value: float) -> float:
    return value + own.random()


def test_generators_are_found_however_they_are_referred_to():
    own = random.Random(1)

    def with_default(value: float, by: Any = own) -> float:
        return value + by.random()

    def with_keyword(value: float, *, by: Any = own) -> float:
        return value + by.random()

    ways = [
        lambda: own.random(),
        with_default,
        with_keyword,
        partial(draw, own),
        partial(draw, own=own),
        own.random,
        {"a": (own,)},
    ]
    assert [generators_in(way) for way in ways] == [[own]] * 7
    assert generators_in(Noise(own)) == [OF_MODULE, own]
    assert generators_in(Noise(own).drawn) == [OF_MODULE, own]
    assert generators_in(Slotted(own)) == [own]
    assert may_draw(Noise(None))
    assert not may_draw(len)


class Shared:
    def __init__(self) -> None:
        self.own = [OF_MODULE]

    @staticmethod
    def shifted(value: float) -> float:
        return value + OF_MODULE.random()

    @property
    def noise(self) -> float:
        return self._drawn()

    def _drawn(self) -> float:
        return OF_MODULE.random()


class Heir(Shared):
    def __init__(self) -> None:
        pass

    def __call__(self, value: float) -> float:
        return value + self.noise


class Levelled:
    level = random.Random(2)

    def __getitem__(self, index: int) -> float:
        return self.level.random()


def module_that_draws() -> ModuleType:
    helpers = ModuleType("helpers")
    exec("import numpy as np\nrng = np.random.default_rng(4)\ndef noise():\n    return rng.random()", vars(helpers))
    return helpers


HELPERS = module_that_draws()


@pytest.mark.parametrize(
    ("root", "own"),
    [
        pytest.param(lambda: Noise(None), OF_MODULE, id="a class that a function names"),
        pytest.param(lambda: Shared().own, OF_MODULE, id="a constructor"),
        pytest.param(lambda value: Shared.shifted(value), OF_MODULE, id="a static method"),
        pytest.param(lambda value: Heir.shifted(value), OF_MODULE, id="an inherited static method"),
        pytest.param(Heir(), OF_MODULE, id="a method, a property, and an inherited method"),
        pytest.param([Heir], OF_MODULE, id="a list that holds a class"),
        pytest.param(partial(Heir), OF_MODULE, id="a partial of a class"),
        pytest.param(Levelled(), Levelled.level, id="a class attribute"),
        pytest.param(lambda value: value + HELPERS.noise(), HELPERS.rng, id="a function of a module"),
    ],
)
def test_classes_and_modules_are_followed_to_what_their_functions_name(root, own):
    assert generators_in(root) == [own]


def test_each_is_found_once_and_a_deep_root_as_well_as_a_shallow_one():
    own, other = random.Random(1), random.Random(2)
    deep: Any = [own]
    for _ in range(20):
        deep = [deep]

    assert generators_in(deep) == []
    assert generators_in(deep, deep[0][0][0][0][0][0][0][0][0][0], other, [own, other]) == [other, own]


def test_a_model_of_many_modules_does_not_hide_what_its_data_refer_to():
    own = random.Random(1)
    modules = [Slotted({"parameters": [object()]}) for _ in range(6000)]

    assert generators_in(*modules, Slotted([[own]])) == [own]


def test_the_generators_of_the_process_and_of_the_system_are_left_out():
    from random import shuffle

    assert generators_in(lambda: shuffle([]), random.SystemRandom(), random.random, np.random.rand) == []


@pytest.mark.parametrize("make", MADE)
def test_a_state_is_plain_data_and_restores_the_numbers(make):
    import json

    generator = make()
    kept = json.loads(json.dumps(state_of(generator)))
    numbers = [generator.random() for _ in range(700)]

    set_state(generator, kept)
    assert [generator.random() for _ in range(700)] == numbers

    reseed(generator, 5)
    first = generator.random()
    reseed(generator, 5)
    assert generator.random() == first not in numbers


def test_a_dict_that_makes_its_values_when_asked_is_not_asked():
    class Lazy(dict):
        def values(self):
            raise ImportError("a part that is not installed")

    own = random.Random(1)

    assert generators_in(Lazy(part=[own])) == [own]
