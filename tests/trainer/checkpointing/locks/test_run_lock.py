from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from support.lock_holder import HOLDER, holder

from trackside.callbacks.errors import ArgumentError, CheckpointError
from trackside.trainer.checkpointing.locks import run_lock
from trackside.trainer.checkpointing.locks.run_lock import (
    LOCK_FILE,
    has_ended,
    holder_of,
    locked,
    of_this_process,
    rename,
)


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path):
    start = time.monotonic()
    with holder(tmp_path / "out") as (process, _):
        with pytest.raises(ArgumentError) as caught, locked(tmp_path / "out", "mine"):
            pass

        assert f"process {process.pid} on {socket.gethostname()}, run theirs, since 20" in str(caught.value)
        assert str(caught.value).startswith(f"output_dir={str(tmp_path / 'out')!r} is not allowed: another run writes")
        process.communicate("")
    with locked(tmp_path / "out", "mine"):
        assert time.monotonic() - start < 60


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_killed_run_holds_nothing_although_its_workers_may_outlive_it(tmp_path, how):
    with holder(tmp_path, how) as (process, line):
        process.kill()
        process.wait()

        with locked(tmp_path, "mine"):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["run"] == "mine"
        if how == "fork":
            os.kill(int(line), signal.SIGKILL)


def test_the_trainers_of_one_process_share_a_folder_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("out")
    with locked(tmp_path / "out", "outer"):
        with locked(tmp_path / "link", "inner"), locked(tmp_path.joinpath("out", "..", "out"), "innermost"):
            pass
        refused = run_in_another_process(tmp_path / "out")

        assert "another run writes into it" in refused
        assert "run outer" in refused
    assert run_in_another_process(tmp_path / "out") == ""


def run_in_another_process(folder):
    command = [sys.executable, "-c", HOLDER, str(folder), "alone"]
    return subprocess.run(command, input="", capture_output=True, text=True).stderr


def test_a_forked_process_is_another_run(tmp_path):
    def try_it(answers):
        try:
            with locked(tmp_path, "child"):
                answers.put("held")
        except ArgumentError:
            answers.put("refused")

    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with locked(tmp_path, "parent"):
        child = context.Process(target=try_it, args=(answers,))
        child.start()
        assert answers.get(timeout=60) == "refused"
        child.join()
        assert "another run" in run_in_another_process(tmp_path)


def test_a_resumed_run_is_named_by_its_id(tmp_path):
    with locked(tmp_path, "new"):
        rename(tmp_path, "resumed")

        assert "run resumed" in run_in_another_process(tmp_path)


def test_machines_of_a_run_that_are_to_write_each_into_its_own_folder_but_see_one_are_told(tmp_path):
    with locked(tmp_path, "theirs"):
        told = run_in_another_process(tmp_path)

    assert "save_on_each_node=True is not allowed: False where the machines see one output_dir, and LOCAL_RANK" in told


def test_a_folder_that_stays_empty_is_removed_again_and_no_other(tmp_path):
    with locked(tmp_path / "a" / "b", "run"):
        (tmp_path / "a" / "mine").write_text("")
    with locked(tmp_path / "c", "run"):
        (tmp_path / "c" / "mine").write_text("")
    (tmp_path / "empty").mkdir()
    with locked(tmp_path / "empty", "run"):
        pass

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "a",
        "a/mine",
        "c",
        "c/mine",
        "empty",
    ]


def test_a_file_system_without_locks_is_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_lock, "_try", lambda descriptor: 38)

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with locked(tmp_path / "out", "run"):
                pass

    assert caplog.messages == [
        f"{tmp_path / 'out'} cannot be locked (Function not implemented), so a second run into it would not be noticed"
    ]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_an_error_only_if_it_is_needed(tmp_path):
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(CheckpointError, match=r"output_dir='.*/file/out' cannot be written: "),
        locked(tmp_path / "file" / "out", "run"),
    ):
        pass
    with locked(tmp_path / "file" / "out", "run", is_needed=False):
        pass


def test_a_holder_has_ended_if_no_process_here_has_its_number_in_this_container(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    me = of_this_process("run")
    gone = {**me, "pid": ended.pid}
    old = {key: value for key, value in gone.items() if key != "processes"}

    assert [has_ended(told, is_held=True) for told in (me, {**me, "pid": os.getppid()}, {}, {"pid": "x"})] == [
        False
    ] * 4
    assert [has_ended({**gone, **other}, is_held=False) for other in ({"host": "x"}, {"processes": "x"})] == [False] * 2
    assert [has_ended(told, is_held=False) for told in (me, gone, old)] == [True] * 3


@pytest.mark.parametrize(("other", "is_running"), [({}, False), ({"processes": "pid:[1]"}, True)])
def test_a_page_takes_a_process_of_another_container_for_running(tmp_path, other, is_running):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / LOCK_FILE).write_text(json.dumps({**of_this_process("run"), "pid": ended.pid, **other}))

    assert (holder_of(tmp_path) is not None) is is_running
