"""The watch over the other ranks: which errors are theirs, and what it says where none answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from typing import Any

import pytest
import torch

from trackside.callbacks.errors import RankError
from trackside.trainer.pytorch._compat import run_backward
from trackside.trainer.pytorch.distributed.watchdog import FAILURE, Watchdog, within


class SilentStore:
    """A store on the other side of a cut cable: torch's own waits for TCP to give up."""

    def check(self, keys: list[str]) -> bool:
        time.sleep(60)
        return False

    compare_set = add = get = check


class LivingStore:
    """A store that another rank writes its beats to."""

    def __init__(self) -> None:
        self.beats = count()

    def check(self, keys: list[str]) -> bool:
        return keys != [FAILURE]

    def get(self, key: str) -> str:
        return json.dumps({"beat": next(self.beats), "doing": "step 3"})


def test_a_question_without_an_answer_is_given_up() -> None:
    start = time.monotonic()

    with pytest.raises(TimeoutError, match=r"no answer for 0\.1 s"):
        within(0.1, lambda: time.sleep(60))

    assert time.monotonic() - start < 30


def test_an_answer_is_passed_on_and_so_is_an_error() -> None:
    assert within(60, lambda: 7) == 7
    with pytest.raises(KeyError, match="lost"):
        within(60, lambda: {}["lost"])


def raised(watchdog: Watchdog, act: Callable[[], Any], collective: str = "") -> tuple[Exception, BaseException]:
    """Return the error that ``act`` raises, in a collective of a name if there is one, and what explains it."""
    with (
        pytest.raises(Exception, match=r".") as error,
        watchdog.collective(collective) if collective else nullcontext(),
    ):
        act()
    return error.value, watchdog.explain(error.value)


def raise_error(error: Exception) -> None:
    raise error


def test_a_process_that_is_cut_off_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackside.trainer.pytorch.distributed.watchdog.ANSWER_S", 0.2)
    watchdog = Watchdog(SilentStore(), rank=1, world_size=2)  # type: ignore[arg-type]
    watchdog.describe_progress = lambda: "step 7"

    _, error = raised(watchdog, lambda: raise_error(RuntimeError("pair closure")), "a barrier")
    watchdog.report(error)

    assert isinstance(error, RankError)
    assert str(error).startswith("rank 1 could not finish a barrier in step 7: the process that serves the store (rank")
    assert "is gone, or out of reach" in str(error)


@pytest.fixture
def in_time(monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    """The watchdog of rank 0, beside a rank 1 that lives."""
    for name in ("STILL_S", "PERIOD_S"):
        monkeypatch.setattr(f"trackside.trainer.pytorch.distributed.watchdog.{name}", 0.05)
    return Watchdog(LivingStore(), rank=0, world_size=2, timeout_s=60.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", ["the feature store has no row 17", "socket timed out", "NCCL", "Connection closed"])
def test_an_error_of_ones_own_is_told_at_once_whatever_its_words(words: str) -> None:
    watchdog = Watchdog(SilentStore(), rank=0, world_size=2)  # type: ignore[arg-type]

    error, explained = raised(watchdog, lambda: raise_error(RuntimeError(words)))

    assert explained is error


def test_an_error_of_a_collective_is_of_another_rank_whatever_its_words(in_time: Watchdog) -> None:
    _, explained = raised(in_time, lambda: raise_error(ValueError("anything")), "a sum")

    assert str(explained).startswith("rank 0 could not finish a sum in : all live on: rank 1 is in step 3")


@pytest.mark.parametrize("engine", [torch.Tensor.backward, lambda loss: run_backward(loss, torch.ones(()))])
def test_an_error_in_a_backward_pass_is_ones_own_where_all_ranks_live_and_none_is_late(
    engine: Callable[[Any], None], in_time: Watchdog
) -> None:
    error, explained = raised(in_time, lambda: engine(torch.ones(())))
    assert explained is error

    in_time.timeout_s = 0.0
    _, late = raised(in_time, lambda: engine(torch.ones(())))
    assert str(late).startswith("rank 0 could not finish the exchange of gradients in : all live on: rank 1 is in")


def test_an_error_of_a_function_that_a_backward_pass_calls_is_told_at_once() -> None:
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("a socket of its own")

    watchdog = Watchdog(SilentStore(), rank=0, world_size=2)  # type: ignore[arg-type]
    loss = Bad.apply(torch.ones((), requires_grad=True))

    error, explained = raised(watchdog, loss.backward)

    assert explained is error
