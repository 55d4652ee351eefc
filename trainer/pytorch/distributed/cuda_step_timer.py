"""Step timing on a GPU, which runs asynchronously to the host."""

from __future__ import annotations

from typing import Any

import torch

from trackside.trainer.measuring.step_timer import StepTimer


class CudaStepTimer(StepTimer):
    """Measures the local step time on the GPU: from the end of the last update to the beginning of the exchange.

    Reading data while the GPU is still busy costs no time and is not counted.
    """

    def _now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _seconds(self, begun: Any, ended: Any) -> float:
        ended.synchronize()
        return float(begun.elapsed_time(ended)) / 1000.0


def step_timer_of(device: torch.device) -> StepTimer:
    """Return the step timer for a process on ``device``."""
    return CudaStepTimer() if device.type == "cuda" else StepTimer()
