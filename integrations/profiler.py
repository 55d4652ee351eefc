"""The profilers of PyTorch and TensorFlow on chosen steps, and memory in the records."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.errors import ArgumentError
from trackside.callbacks.state import TrainerControl, TrainerState


class ProfilerCallback(TrainerCallback):
    """Profile some steps with the profiler of the model's framework and write the trace where TensorBoard finds it.

    A trace lies in ``plugins/profile/TIME`` of the run's folder. TensorBoard shows it with a plugin:
    `pip install tensorboard-plugin-profile` for TensorFlow's, `pip install torch-tb-profiler` for PyTorch's, which
    Perfetto (https://ui.perfetto.dev) opens too.

    Args:
        first_step: The first step that is profiled; those before it are left to warm up.
        steps: So many are profiled.
        memory: Add ``memory_bytes`` of this process, and ``device_memory_bytes`` where there is a GPU, to the training
            records.
        log_dir: Folder; None: ``args.logging_dir``.

    Raises:
        ArgumentError: If a number is not one from 1.

    Units:
        Bytes; both are the greatest so far.
    """

    role = "observer"
    name = "profiler"

    def __init__(
        self, first_step: int = 10, steps: int = 3, *, memory: bool = True, log_dir: str | None = None
    ) -> None:
        for option, value in (("first_step", first_step), ("steps", steps)):
            if type(value) is not int or not value >= 1:
                raise ArgumentError(option, value, "a whole number from 1")
        self.first_step = first_step
        self.steps = steps
        self.memory = memory
        self.log_dir = log_dir
        self._framework: str | None = None
        self._profile: Any = None

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step + 1 == self.first_step and state.is_world_process_zero:
            folder = Path(self.log_dir or args.logging_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self._start("torch" if hasattr(model, "named_parameters") else "tensorflow", folder)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == self.first_step + self.steps - 1:
            self._stop()

    def on_exception(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._stop()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._stop()

    def metrics_to_log(self, args: Any, state: TrainerState, **context: Any) -> dict[str, float]:
        """Return how much memory is used; nothing if that is not wanted."""
        if not self.memory:
            return {}
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        device = device_memory_bytes()
        own = {"memory_bytes": float(peak * (1 if sys.platform == "darwin" else 1024))}
        return own if device is None else {**own, "device_memory_bytes": device}

    def _start(self, framework: str, folder: Path) -> None:
        if framework == "torch":
            profiler = importlib.import_module("torch.profiler")
            run = folder / "plugins" / "profile" / time.strftime("%Y_%m_%d_%H_%M_%S")  # as TensorFlow names it
            handler = profiler.tensorboard_trace_handler(str(run))
            self._profile = profiler.profile(on_trace_ready=handler, profile_memory=True, record_shapes=True)
            self._profile.start()
        else:
            self._profile = importlib.import_module("tensorflow").profiler.experimental
            self._profile.start(str(folder))
        self._framework = framework

    def _stop(self) -> None:
        if self._framework is not None:
            self._framework = None
            profile, self._profile = self._profile, None
            profile.stop()


def device_memory_bytes() -> float | None:
    """Return the greatest memory that was in use on the GPU; None without one. Imports no framework."""
    torch, tensorflow = sys.modules.get("torch"), sys.modules.get("tensorflow")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated())
    if tensorflow is not None and tensorflow.config.list_logical_devices("GPU"):
        return float(tensorflow.config.experimental.get_memory_info("GPU:0")["peak"])
    return None
