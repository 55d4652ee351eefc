"""Profiler: traces of chosen steps by the framework's own profiler, and memory in the log records."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.errors import check_count
from trackside.callbacks.state import TrainerControl, TrainerState
from trackside.callbacks.types import Role


class ProfilerCallback(TrainerCallback):
    """Profile some steps with the profiler of the model's framework, and write the trace for TensorBoard.

    The trace is written to ``plugins/profile/TIME`` of the run's folder. TensorBoard shows it with a plugin:
    `pip install tensorboard-plugin-profile` for TensorFlow, `pip install torch-tb-profiler` for PyTorch. Perfetto
    (https://ui.perfetto.dev) opens PyTorch's traces, too.

    Args:
        first_step: First step to profile; the steps before it are for warming up.
        steps: Number of steps to profile.
        memory: Add ``memory_bytes``, and ``device_memory_bytes`` if there is a GPU, to the training records.
        log_dir: Folder of the run; None: ``args.logging_dir``.

    Raises:
        ArgumentError: If ``first_step`` or ``steps`` is not a whole number from 1.

    Units:
        memory_bytes: Peak resident memory of this process so far, in bytes.
        device_memory_bytes: Peak allocated memory of the GPU so far, in bytes.
    """

    role: Role = "observer"
    name: str | None = "profiler"

    def __init__(
        self, first_step: int = 10, steps: int = 3, *, memory: bool = True, log_dir: str | None = None
    ) -> None:
        check_count("first_step", first_step)
        check_count("steps", steps)
        self.first_step = first_step
        self.steps = steps
        self.memory = memory
        self.log_dir = log_dir
        self._profile: Any = None

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step + 1 == self.first_step and state.is_world_process_zero:
            folder = Path(self.log_dir or args.logging_dir).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            start = _start_torch if hasattr(kwargs.get("model"), "named_parameters") else _start_tensorflow
            self._profile = start(folder)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == self.first_step + self.steps - 1:
            self._stop()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._stop()

    def undo(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        """End the profile when the callback is removed within a run."""
        self._stop()

    def metrics_to_log(self, args: Any, state: TrainerState, **context: Any) -> dict[str, float]:
        """Return the peak memory by name; empty if ``memory`` is False."""
        if not self.memory:
            return {}
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        found = {"memory_bytes": float(peak), "device_memory_bytes": device_memory_bytes()}
        return {name: value for name, value in found.items() if value is not None}

    def _stop(self) -> None:
        if self._profile is not None:
            profile, self._profile = self._profile, None
            profile.stop()


def _start_torch(folder: Path) -> Any:
    profiler = importlib.import_module("torch.profiler")
    run = folder / "plugins" / "profile" / time.strftime("%Y_%m_%d_%H_%M_%S")  # named as TensorFlow names it
    handler = profiler.tensorboard_trace_handler(str(run))
    profile = profiler.profile(on_trace_ready=handler, profile_memory=True, record_shapes=True)
    profile.start()
    return profile


def _start_tensorflow(folder: Path) -> Any:
    profiler = importlib.import_module("tensorflow").profiler.experimental
    profiler.start(str(folder))
    return profiler


def device_memory_bytes() -> float | None:
    """Return the peak memory of the GPU in bytes, or None without a GPU. Imports no framework."""
    torch, tensorflow = sys.modules.get("torch"), sys.modules.get("tensorflow")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated())
    if tensorflow is not None and tensorflow.config.list_logical_devices("GPU"):
        return float(tensorflow.config.experimental.get_memory_info("GPU:0")["peak"])
    return None
