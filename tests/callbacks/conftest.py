"""A signal of its own for each test."""

from __future__ import annotations

import pytest

from trackside.callbacks import events


@pytest.fixture
def signal():
    return events.Signal("on_step_end")
