"""Trainers of either framework, and a watch on the global random numbers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer


@pytest.fixture(params=["pytorch", "tensorflow"])
def framework(request: pytest.FixtureRequest) -> str:
    if request.param not in installed_frameworks():
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture
def make_trainer(framework: str, tmp_path: Any) -> Any:
    """Return a factory of tiny trainers of one framework."""

    def make(*callbacks: Any, **args: Any) -> Any:
        return tiny_trainer(framework, args.pop("output_dir", tmp_path / "out"), callbacks, **args)

    return make


@pytest.fixture
def trackio_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Trackio write below the test's folder, here and in processes that the test starts."""
    from trackio import sqlite_storage, utils

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for module in (sqlite_storage, utils):  # which read the environment when they were imported
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")


@pytest.fixture
def draws_nothing(track: Any) -> Any:
    """Return a function that tells whether a run with a tracker leaves the random numbers of Python and NumPy alone."""

    def draws_nothing(tracker: Any) -> bool:
        python, numpy = random.getstate(), np.random.get_state()
        run = track(tracker)
        run.send("on_init_end")
        run.send("on_train_begin")
        run.step(10)
        run.log(loss=1.0)
        run.send("on_train_end")
        now = np.random.get_state()
        return random.getstate() == python and now[2] == numpy[2] and bool((now[1] == numpy[1]).all())

    return draws_nothing


@pytest.fixture
def read() -> Any:
    """Return a function that reads a run's folder with TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read_folder(folder):
        accumulator = EventAccumulator(
            str(folder), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0, "images": 0}
        )
        accumulator.Reload()
        return accumulator

    return read_folder
