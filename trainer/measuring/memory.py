"""Memory use of training, evaluation and prediction, for ``skip_memory_metrics=False``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trackside.callbacks.errors import MissingPackageError

SAMPLE_SECONDS = 0.01


class DeviceMemory(NamedTuple):
    """Memory of the accelerator: currently allocated, and the peak since the last reset."""

    allocated_bytes: int
    peak_bytes: int


class MemoryWatch:
    """Watches the memory of this process, sampled on a thread, and that of its accelerator.

    Args:
        device: Resets the device's peak when called with True, and returns its memory; None without a device.
        earlier: Metrics to return together with those of this watch.
    """

    def __init__(
        self, device: Callable[[bool], DeviceMemory | None], earlier: Mapping[str, float] | None = None
    ) -> None:
        try:
            import psutil
        except ImportError:
            raise MissingPackageError("psutil", "skip_memory_metrics=False", extra="memory") from None
        self._process: Any = psutil.Process()
        self._device = device
        self._earlier = dict(earlier or {})
        self._device_before = device(True)
        self._before = self._peak = self._resident()
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="trackside-memory", daemon=True)
        self._sampler.start()

    def stop(self, prefix: str) -> dict[str, float]:
        """Return the memory used since the watch was created, under names that begin with ``prefix``.

        Units:
            Bytes. ``alloc_delta`` is the memory still in use, ``peaked_delta`` the temporary peak above it.
        """
        self._done.set()
        self._sampler.join()
        after = self._resident()
        metrics = self._earlier | _deltas(f"{prefix}_mem_cpu", self._before, after, max(self._peak, after))
        device_after = self._device(False)
        if self._device_before is not None and device_after is not None:
            before = self._device_before.allocated_bytes
            metrics |= _deltas(f"{prefix}_mem_gpu", before, device_after.allocated_bytes, device_after.peak_bytes)
        if prefix == "init":
            metrics["before_init_mem_cpu"] = self._before
            if self._device_before is not None:
                metrics["before_init_mem_gpu"] = self._device_before.allocated_bytes
        return metrics

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, self._resident())


def _deltas(name: str, before: int, after: int, peak: int) -> dict[str, float]:
    """Return the two metrics of one kind of memory.

    Example:
        >>> _deltas("eval_mem_cpu", before=100, after=130, peak=150)
        {'eval_mem_cpu_alloc_delta': 30, 'eval_mem_cpu_peaked_delta': 20}
    """
    return {f"{name}_alloc_delta": after - before, f"{name}_peaked_delta": max(0, peak - max(before, after))}
