from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from trackside.trainer.checkpointing.manifest import verify
from trackside.trainer.checkpointing.saving.async_commit import Committer


@pytest.fixture
def committer():
    committer = Committer()
    yield committer
    committer._failure = None
    committer.wait()


def fail():
    raise OSError(28, "No space left on device")


def eventually_raises(committer, error):
    for _ in range(500):
        try:
            committer.raise_if_failed()
        except error as caught:
            return caught
        time.sleep(0.01)
    raise AssertionError(f"no {error.__name__} came")


def test_there_is_no_thread_before_the_first_commit_and_none_after_the_last(committer):
    before = set(threading.enumerate())
    assert Committer().raise_if_failed() is None
    assert set(threading.enumerate()) <= before  # those of other tests may end at any moment

    release = threading.Event()
    committer.submit(lambda: release.wait(10))
    (started,) = set(threading.enumerate()) - before
    assert started.name == "trackside-commit"
    release.set()
    committer.wait()

    assert set(threading.enumerate()) <= before


def test_commits_run_in_order_and_one_at_a_time(committer):
    running, order, together = [], [], []

    def work(index):
        running.append(index)
        together.append(len(running))
        time.sleep(0.002)
        order.append(index)
        running.remove(index)

    for index in range(10):
        committer.submit(lambda index=index: work(index))
    committer.wait()

    assert order == list(range(10))
    assert max(together) == 1


def test_submit_returns_while_the_commit_goes_on(committer):
    release, done = threading.Event(), []

    committer.submit(lambda: done.append(release.wait(10)))
    committer.raise_if_failed()

    assert done == []
    release.set()
    committer.wait()
    assert done == [True]


def test_a_second_commit_waits_for_the_first_without_its_submitter_and_a_third_has_no_room(committer):
    release, order = threading.Event(), []
    committer.submit(lambda: order.append(release.wait(10)))
    committer.submit(lambda: order.append("second"))
    assert order == []

    threading.Timer(0.1, release.set).start()
    committer.make_room()

    assert order[0] is True  # the first is done, the second may be
    committer.wait()
    assert order == [True, "second"]


def test_a_commit_that_waits_is_done_though_the_one_before_fails_and_the_failure_is_raised(committer):
    release, done = threading.Event(), []

    def fail_later():
        release.wait(10)
        fail()

    committer.submit(fail_later)
    committer.submit(lambda: done.append("second"))
    release.set()

    with pytest.raises(OSError, match="No space"):
        committer.wait()

    assert done == ["second"]
    committer.wait()


def test_a_failure_surfaces_at_the_next_step_and_once(committer):
    committer.submit(fail)

    error = eventually_raises(committer, OSError)

    assert error.errno == 28
    committer.raise_if_failed()
    committer.wait()


def test_a_failure_surfaces_at_the_next_submit_instead_of_its_work_and_once(committer):
    done = []
    committer.submit(fail)
    committer._threads[-1].join()

    with pytest.raises(OSError, match="No space"):
        committer.submit(lambda: done.append(1))
    committer.submit(lambda: done.append(2))
    committer.wait()

    assert done == [2]


def test_wait_raises_the_last_failure_once(committer):
    committer.submit(fail)

    with pytest.raises(OSError, match="No space"):
        committer.wait()

    committer.wait()
    committer.wait()


def test_a_failure_that_is_no_exception_is_not_lost(committer):
    def leave():
        raise SystemExit(3)

    committer.submit(leave)

    with pytest.raises(SystemExit):
        committer.wait()


def test_a_forked_process_leaves_the_commit_in_flight_to_its_parent(committer):
    release, done = threading.Event(), []
    committer.submit(lambda: done.append(release.wait(20)))

    child = os.fork()
    if child == 0:
        code = 1
        try:
            committer.wait()
            committer.submit(lambda: done.append("the child's own"))
            committer.wait()
            code = 0 if done == ["the child's own"] else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    release.set()
    committer.wait()

    assert os.waitstatus_to_exitcode(status) == 0
    assert done == [True]


def test_a_forked_process_does_not_raise_its_parents_failure(committer):
    committer.submit(fail)
    committer._threads[-1].join()

    child = os.fork()
    if child == 0:
        code = 1
        try:
            committer.raise_if_failed()
            committer.wait()
            code = 0
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(OSError, match="No space"):
        committer.raise_if_failed()


def test_where_no_thread_can_be_started_the_commit_is_done_at_once(committer, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done = []

    committer.submit(lambda: done.append("here"))

    assert done == ["here"]
    committer.submit(fail)
    with pytest.raises(OSError, match="No space"):
        committer.raise_if_failed()


SCRIPT = """
import atexit, pathlib, sys, time
from trackside.trainer.checkpointing.saving.async_commit import Committer
from trackside.trainer.checkpointing.store import CheckpointStore

committer, store = Committer(), CheckpointStore(sys.argv[1], run_id="run")

def write(folder):
    time.sleep(0.2)
    (folder / "weights").write_text("all of it")

atexit.register(lambda: committer.submit(lambda: store.commit(2, write)))
committer.submit(lambda: store.commit(1, write))
"""


def test_the_interpreter_ends_after_the_commit_in_flight_and_one_asked_for_at_exit(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], capture_output=True, text=True, timeout=120)

    assert (done.returncode, done.stderr) == (0, "")
    assert verify(tmp_path / "checkpoint-1")["step"] == 1
    assert verify(tmp_path / "checkpoint-2")["step"] == 2
