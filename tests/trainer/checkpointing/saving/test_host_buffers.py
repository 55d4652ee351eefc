"""The memory of one copy is that of the copy before the last or made before, and what is not needed is freed."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

from trackside.trainer.checkpointing.saving import host_buffers
from trackside.trainer.checkpointing.saving.host_buffers import Copying, HostBuffers, copy_all


def addresses(buffers, *sizes):
    return [buffers.take(size).ctypes.data for size in sizes]


def test_a_copy_takes_the_memory_of_one_that_is_written():
    pool = HostBuffers()
    first = pool.lend()
    places = addresses(first, 100_000, 200_000, 100_000)
    first.give_back()

    assert sorted(addresses(pool.lend(), 200_000, 100_000, 100_000)) == sorted(places)


def test_two_copies_in_progress_do_not_share_memory_and_both_are_used_again():
    pool = HostBuffers()
    first, second = pool.lend(), pool.lend()
    places = [*addresses(first, 100_000), *addresses(second, 100_000)]
    first.give_back()
    second.give_back()

    again = [*addresses(pool.lend(), 100_000), *addresses(pool.lend(), 100_000)]

    assert len(set(places)) == 2
    assert sorted(again) == sorted(places)


def test_memory_that_the_next_copy_does_not_need_is_freed():
    pool = HostBuffers()
    first = pool.lend()
    old = weakref.ref(first.take(100_000))
    first.give_back()
    second = pool.lend()
    second.take(200_000)
    assert old() is not None

    second.complete()

    assert old() is None


def test_a_copy_that_is_never_written_and_released_ones_are_freed():
    pool = HostBuffers()
    lost, kept = pool.lend(), pool.lend()
    memory = [weakref.ref(lost.take(100_000)), weakref.ref(kept.take(100_000))]
    kept.give_back()

    del lost
    assert memory[0]() is None
    assert memory[1]() is not None
    pool.release()

    assert memory[1]() is None


@pytest.fixture
def pairs():
    generator = np.random.default_rng(0)
    sources = [generator.integers(0, 256, size, dtype=np.uint8) for size in (0, 1, 999, 1000, 1001, 123_456)]
    return [(np.zeros_like(source), source) for source in sources]


@pytest.mark.parametrize("processors", [1, 2, 8])
def test_all_bytes_are_copied_by_any_number_of_threads_which_then_end(pairs, processors, monkeypatch):
    monkeypatch.setattr(host_buffers, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(host_buffers, "_processors", lambda: processors)
    before = set(threading.enumerate())

    copy_all(pairs)

    assert all((target == source).all() for target, source in pairs)
    assert set(threading.enumerate()) <= before


def test_where_no_thread_can_be_started_all_is_copied_by_the_caller(pairs, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(host_buffers, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(threading.Thread, "start", refuse)

    copy_all(pairs)

    assert all((target == source).all() for target, source in pairs)


def test_the_first_copy_takes_the_memory_that_was_prepared_and_has_all_that_it_needs():
    pool = HostBuffers()
    pool.prepare([100_000, 200_000, 1000])
    made = pool._prepared
    made._thread.join()

    first = pool.lend()
    taken = [first.take(size) for size in (200_000, 100_000, 300_000)]

    assert [buffer.size for buffer in made._buffers] == [100_000, 200_000]
    assert {id(buffer) for buffer in made._buffers} < {id(buffer) for buffer in taken}


@pytest.mark.parametrize("end", [HostBuffers.lend, HostBuffers.release])
def test_memory_is_prepared_no_longer_when_the_first_copy_needs_it_or_none_will(end):
    begun, go_on, made = threading.Event(), threading.Event(), []

    def allocate(size):
        begun.set()
        go_on.wait(10)
        made.append(np.empty(size, np.uint8))
        return made[-1]

    pool = HostBuffers(allocate)
    pool.prepare([100_000] * 50)
    begun.wait(10)
    threading.Timer(0.2, go_on.set).start()

    buffers = end(pool)

    assert len(made) == 1
    assert not any(thread.name == "trackside-memory" for thread in threading.enumerate())
    assert pool.idle == []
    assert buffers is None or buffers.take(100_000) is made[0]


def test_memory_that_is_there_is_not_prepared_once_more():
    pool = HostBuffers()
    buffers = pool.lend()
    buffers.take(100_000)
    buffers.give_back()

    pool.prepare([100_000])

    assert pool._prepared is None


def test_where_memory_is_short_or_no_thread_can_be_started_the_first_copy_makes_it(monkeypatch):
    def refuse(size):
        raise MemoryError

    pool = HostBuffers(refuse)
    pool.prepare([100_000])
    with pytest.raises(MemoryError):
        pool.lend().take(100_000)

    def no_thread(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    pool = HostBuffers()
    pool.prepare([100_000])

    assert pool.lend().take(100_000).size == 100_000


class Held(np.ndarray):
    """An array to which weak references are possible."""


def test_a_copy_that_is_made_later_lets_go_of_each_source_when_it_is_copied(monkeypatch):
    copied, go_on, copyto = [], threading.Event(), np.copyto

    def slow(target, source):
        if copied:
            go_on.wait(10)
        copyto(target, source)
        copied.append(target.size)

    monkeypatch.setattr(host_buffers.np, "copyto", slow)
    monkeypatch.setattr(host_buffers, "_processors", lambda: 1)
    sources = [np.full(size, size % 251, np.uint8).view(Held) for size in (100_000, 200_000)]
    held = [weakref.ref(source) for source in sources]
    pool = HostBuffers()
    buffers = pool.lend()
    copies = [buffers.copy_later(source) for source in sources]
    del sources

    buffers.complete()
    while not copied:
        pass
    while held[0]() is not None:
        pass
    assert held[1]() is not None
    go_on.set()
    buffers.wait()

    assert held[1]() is None
    assert [set(copy.tolist()) for copy in copies] == [{100_000 % 251}, {200_000 % 251}]


def test_a_second_copy_begins_when_the_first_is_complete(monkeypatch):
    monkeypatch.setattr(Copying, "start", lambda copying, threads: None)
    pool = HostBuffers()
    first = pool.lend()
    copy = first.copy_later(np.ones(100_000, np.uint8))
    copy[:] = 0
    first.complete()
    assert not copy.any()

    pool.lend()

    assert copy.all()


def test_a_copy_that_fails_is_an_error_of_whoever_waits_for_it(monkeypatch):
    def fail(target, source):
        raise MemoryError("no memory")

    monkeypatch.setattr(host_buffers.np, "copyto", fail)
    copying = Copying([(np.zeros(10, np.uint8), np.ones(10, np.uint8))])
    copying.start(1)

    with pytest.raises(MemoryError, match="no memory"):
        copying.wait()
