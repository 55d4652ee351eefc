from __future__ import annotations

import errno
import io
import sys

import pytest

from trackside import PrinterCallback, ProgressCallback
from trackside.callbacks._util import streams


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("callback", [ProgressCallback, PrinterCallback])
def test_a_stream_that_cannot_be_written_is_told_once_and_is_no_failure(track, monkeypatch, caplog, callback):
    monkeypatch.setattr(streams, "_told", set())
    monkeypatch.setattr(sys, "stderr", Full())
    monkeypatch.setattr(sys, "stdout", Full())
    run = track(callback)

    run.send("on_train_begin")
    for _ in range(4):
        run.step()
        run.log(loss=1.0)
    run.send("on_train_end")

    (attachment,) = run.dispatcher.attachments.values()
    assert attachment.last_error is None
    told = [record.getMessage() for record in caplog.records]
    said = "the standard output cannot be written (No space left on device): the run goes on, and what it shows there"
    assert len([text for text in told if text.startswith(said)]) == 1
    assert len(told) == (2 if callback is ProgressCallback else 1)  # whose bar is on the standard error stream
