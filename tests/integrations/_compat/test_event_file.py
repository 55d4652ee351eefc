from __future__ import annotations

import pytest

pytest.importorskip("tensorboard")

from support.tracker_readers import read_tensorboard

from trackside.integrations._compat.event_file import EventFile


def test_tensorboard_reads_what_is_written_here(tmp_path):
    first = EventFile(tmp_path)
    for step in (1, 2, 3):
        first.scalars({"train/loss": step / 2}, step)
    second = EventFile(tmp_path, purge_step=2)
    second.scalars({"train/loss": 8.0}, 2)

    assert read_tensorboard(tmp_path) == {"train/loss": [(1, 0.5), (2, 8.0)]}
    first.close()
    second.close()
