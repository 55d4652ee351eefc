"""The stopwatch of a GPU, with a stand-in for its events; no GPU was at hand."""

from __future__ import annotations

import pytest
import torch

from trackside.trainer.measuring.step_timer import StepTimer
from trackside.trainer.pytorch.distributed import cuda_step_timer as timing
from trackside.trainer.pytorch.distributed.cuda_step_timer import CudaStepTimer, step_timer_of


class Event:
    """The least of torch.cuda.Event, on a clock that goes on by 250 ms with each record."""

    now_ms = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.is_complete = False

    def record(self) -> None:
        Event.now_ms += 250.0
        self.at_ms = Event.now_ms

    def synchronize(self) -> None:
        self.is_complete = True

    def elapsed_time(self, end: Event) -> float:
        assert end.is_complete
        return end.at_ms - self.at_ms


def test_own_time_on_a_gpu_is_that_between_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.torch.cuda, "Event", Event)
    timer = step_timer_of(torch.device("cuda", 0))
    timer.is_on = True

    for _ in timer.reading(iter(range(3))):
        timer.exchange()
        timer.step_end()

    assert isinstance(timer, CudaStepTimer)
    assert timer.take()[1] == 0.25


def test_elsewhere_the_host_has_the_clock() -> None:
    assert type(step_timer_of(torch.device("cpu"))) is StepTimer
