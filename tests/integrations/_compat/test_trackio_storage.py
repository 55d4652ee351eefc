from __future__ import annotations

import sys

import pytest

from trackside.integrations._compat.trackio_storage import read_last_steps

pytest.importorskip("trackio")


@pytest.mark.usefixtures("trackio_folder")
def test_trackio_keeps_the_rows_that_are_read_here():
    import trackio

    run = trackio.init(project="tests", name="one", embed=False)
    run.log({"train/loss": 0.5, "train/epoch": 1.0}, step=3)
    run.log({"train/loss": 0.25}, step=4)
    run.finish()

    found = read_last_steps("tests", "one")
    assert (found["train/loss"], found["train/epoch"]) == (4, 3)


def test_the_steps_are_unknown_without_the_private_module(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "trackio.sqlite_storage", None)

    assert read_last_steps("tests", "one") is None
    assert "trackio_storage.read_last_steps failed, its result is unknown" in caplog.text
