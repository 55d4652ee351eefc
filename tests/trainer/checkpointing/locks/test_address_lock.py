"""The lock of an address: a living holder is told, a dead one is replaced."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time

import pytest
from support.remote_folders import address_in

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.checkpointing.locks import address_lock, run_lock
from trackside.trainer.checkpointing.locks.address_lock import Marker, locked_address
from trackside.trainer.checkpointing.locks.run_lock import LOCK_FILE
from trackside.trainer.checkpointing.remote import RemoteFolder

ELSEWHERE = {"pid": 1, "host": "elsewhere", "processes": "pid:[1]", "run": "theirs", "since": "2026-01-01", "key": "k"}


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch):
    monkeypatch.setattr(address_lock, "BEAT_S", 0.2)


@pytest.fixture(params=["memory", "file"])
def remote(request, tmp_path):
    return RemoteFolder(address_in(request.param, tmp_path))


def leave(remote, **told):
    remote.fs.pipe_file(f"{remote.root}/{LOCK_FILE}", json.dumps({**ELSEWHERE, "beat": 3, **told}).encode())


def told_by(remote):
    return json.loads(remote.read(LOCK_FILE) or b"{}")


def test_the_object_names_its_holder_counts_on_and_is_gone_afterwards(remote):
    with locked_address(remote, "mine"), locked_address(RemoteFolder(remote.address), "nested"):
        first = told_by(remote)
        time.sleep(0.7)
        second = told_by(remote)

    assert (first["run"], first["pid"], first["host"]) == ("mine", os.getpid(), socket.gethostname())
    assert second["beat"] > first["beat"]
    assert remote.read(LOCK_FILE) == b""
    assert remote.files() == {}


def test_a_run_that_lives_is_told_with_its_holder_on_whatever_machine(remote):
    theirs = Marker(remote, "theirs")
    theirs._told["pid"] = os.getppid()
    theirs.acquire()

    with pytest.raises(ArgumentError) as caught, locked_address(RemoteFolder(remote.address), "mine"):
        pass

    said = f"another run writes to it: process {os.getppid()} on {socket.gethostname()}, run theirs, since 20"
    assert str(caught.value).startswith(f"output_dir={remote.address!r} ")
    assert said in str(caught.value)
    theirs.release()
    with locked_address(remote, "mine"):
        assert told_by(remote)["run"] == "mine"


def test_a_run_that_was_killed_elsewhere_is_waited_for_and_then_replaced(remote, caplog):
    leave(remote)
    with caplog.at_level(logging.WARNING, logger="trackside"), locked_address(remote, "mine"):
        assert told_by(remote)["run"] == "mine"

    assert "may be in use by process 1 on elsewhere, run theirs" in caplog.text


def test_a_process_of_this_machine_that_has_ended_is_not_waited_for(remote, caplog, monkeypatch):
    monkeypatch.setattr(address_lock, "BEAT_S", 60.0)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leave(remote, pid=ended.pid, host=socket.gethostname(), processes=run_lock._processes())

    with locked_address(remote, "mine"):
        assert told_by(remote)["run"] == "mine"
    assert "waiting" not in caplog.text


def test_a_run_whose_place_another_one_takes_says_so_and_leaves_the_object(remote, caplog):
    with locked_address(remote, "mine"):
        leave(remote)
        time.sleep(0.7)

    assert "another run writes to it, too: process 1 on elsewhere, run theirs" in caplog.text
    assert told_by(remote)["run"] == "theirs"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"pid": "x"}'])
def test_an_object_that_says_nothing_is_replaced(remote, content):
    remote.fs.pipe_file(f"{remote.root}/{LOCK_FILE}", content)
    with locked_address(remote, "mine"):
        assert told_by(remote)["run"] == "mine"
