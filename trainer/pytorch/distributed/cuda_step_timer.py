"""The stopwatch of a GPU, whose work goes on while the host is ahead."""

from __future__ import annotations

from typing import Any

import torch

from trackside.trainer.step_timer import StepTimer


class CudaStepTimer(StepTimer):
    """Measures own time on the GPU: from when it is through with the last update to when it begins to exchange.

    Data that are read while the GPU is still busy cost nothing, and count for nothing.
    """

    def _now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _seconds(self, begun: Any, ended: Any) -> float:
        ended.synchronize()
        return float(begun.elapsed_time(ended)) / 1000.0


def step_timer_of(device: torch.device) -> StepTimer:
    """Return the stopwatch for a process on ``device``."""
    return CudaStepTimer() if device.type == "cuda" else StepTimer()
