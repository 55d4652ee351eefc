"""The memory of one copy is that of the copy before the last, and what is not needed is freed."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

from trackside.trainer.checkpointing.saving import host_buffers
from trackside.trainer.checkpointing.saving.host_buffers import HostBuffers, copy_all


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
