"""What all tests share: an empty folder to run in, no GPU, and a track to send events along without a framework."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sys
import types
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import hypothesis
import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# tests save a few thousand checkpoints, each with ten fsyncs: where memory can be written as a disk, they wait for none
MEMORY = "/dev/shm"
if os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > 4e9:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
# support and workers can be imported in the processes that tests start, too
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))

from trackside import TrainerControl, TrainerState  # noqa: E402  # the environment comes first
from trackside.callbacks.bus.dispatcher import Dispatcher  # noqa: E402  # the environment comes first

# an example may take longer than usual while other tests have the cores
hypothesis.settings.register_profile("trackside", deadline=None)
hypothesis.settings.load_profile("trackside")


# looking for doctests in stand-ins would import them under the names of the real packages, for all tests that follow
collect_ignore = ["fakes"]
collect_ignore += [
    f"trainer/{folder}"
    for folder, package in (("pytorch", "torch"), ("tensorflow", "tensorflow"))
    if importlib.util.find_spec(package) is None
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Import all modules without collecting garbage: what they hold stays until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first: one that began last would leave the other cores idle.

    The TensorFlow halves of tests/both take half a second each, as TensorFlow traces every new trainer; together they
    are minutes, and slow.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if item.path.parent.name == "both" and "tensorflow" in item.name.partition("[")[2]:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[Any]:
    """Keep the modules of a framework out of the collections of garbage: there are a million objects in them."""
    if len(sys.modules) > _frozen["modules"] + 300:
        gc.collect()
        gc.freeze()
        _frozen["modules"] = len(sys.modules)
    return (yield)


_frozen = {"modules": 0}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Track:
    """The least that sends events as a trainer does: a dispatcher, arguments, and records that go into the history."""

    def __init__(self, *callbacks: Any, state: TrainerState | None = None, **args: Any) -> None:
        defaults = {
            "output_dir": "out",
            "logging_strategy": "steps",
            "logging_first_step": False,
            "eval_strategy": "steps",
            "eval_delay": 0,
            "save_strategy": "steps",
            "metric_for_best_model": None,
            "greater_is_better": None,
            "gradient_accumulation_steps": 1,
        }
        self.args = types.SimpleNamespace(**{**defaults, **args})
        self.state = state or TrainerState(max_steps=100, logging_steps=10, eval_steps=20, save_steps=50)
        self.control = TrainerControl()
        self.dispatcher = Dispatcher(self, self.args, self.state, self.control)
        for callback in callbacks:
            self.dispatcher.attach(callback)

    def send(self, event: str, **payload: Any) -> TrainerControl:
        return self.dispatcher.send(event, **payload)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.state.global_step += 1
            self.send("on_step_end")

    def log(self, **logs: Any) -> None:
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.send("on_log", logs=logs)

    def evaluate(self, **metrics: Any) -> None:
        self.log(**metrics)
        self.send("on_evaluate", metrics=metrics)


@pytest.fixture
def track() -> type[Track]:
    """The class `Track`, to be called with callbacks, a state and arguments."""
    return Track


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the launcher of the tests, if there is one."""
    from trackside.trainer.distributed.launcher import LAUNCHERS

    for name in chain.from_iterable(LAUNCHERS.values()):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def quick_comet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the threads of Comet look twenty times a second whether they are to end: each run waits for them."""
    pytest.importorskip("comet_ml")
    from comet_ml.streamer.offline import OfflineStreamer
    from comet_ml.system.system_metrics_logging_thread import SystemMetricsLoggingThread

    start = OfflineStreamer.start

    def start_quick(streamer: Any) -> None:
        streamer.queue_timeout = 0.05
        start(streamer)

    monkeypatch.setattr(OfflineStreamer, "start", start_quick)
    monkeypatch.setattr(SystemMetricsLoggingThread.__init__, "__defaults__", (0.05,))
