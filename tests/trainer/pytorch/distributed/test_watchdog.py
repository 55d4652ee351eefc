"""What the watch over the other processes does where nobody answers."""

from __future__ import annotations

import time

import pytest

from trackside.callbacks.errors import RankError
from trackside.trainer.pytorch.distributed.watchdog import Watchdog, within


class SilentStore:
    """A store on the other side of a cut cable: torch's own waits for TCP to give up."""

    def check(self, keys: list[str]) -> bool:
        time.sleep(60)
        return False

    compare_set = add = get = check


def test_a_question_that_nobody_answers_is_given_up() -> None:
    start = time.monotonic()

    with pytest.raises(TimeoutError, match=r"no answer for 0\.1 s"):
        within(0.1, lambda: time.sleep(60))

    assert time.monotonic() - start < 30


def test_an_answer_is_passed_on_and_so_is_an_error() -> None:
    assert within(60, lambda: 7) == 7
    with pytest.raises(KeyError, match="lost"):
        within(60, lambda: {}["lost"])


def test_a_process_that_is_cut_off_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackside.trainer.pytorch.distributed.watchdog.ANSWER_S", 0.2)
    watchdog = Watchdog(SilentStore(), rank=1, world_size=2)  # type: ignore[arg-type]
    watchdog.waits_in, watchdog.describe_progress = "a barrier", lambda: "step 7"

    error = watchdog.explain(RuntimeError("Application timeout caused pair closure"))
    watchdog.report(error)

    assert isinstance(error, RankError)
    assert str(error).startswith("rank 1 could not finish a barrier in step 7: the process that serves the store (rank")
    assert "is gone, or out of reach" in str(error)
