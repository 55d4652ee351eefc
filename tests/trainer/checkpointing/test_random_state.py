"""Threads that lend the generators of the process take turns: what one puts back is never what another put in place."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random.mtrand import get_bit_generator

from trackside.trainer.checkpointing import random_state as tested
from trackside.trainer.checkpointing.random_state import generators_lent, host_random_state


def torch_reads(torch: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    from trackside.trainer.pytorch.data.workers import host_state_kept
    from trackside.trainer.pytorch.snapshot import random_state

    return lambda: host_state_kept(7), random_state


def tensorflow_reads(tensorflow: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import keras

    from trackside.trainer.tensorflow.data.host_stream import HostStream
    from trackside.trainer.tensorflow.snapshot import random_state

    stream, model = HostStream(), keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    return stream.in_place, lambda: random_state(model)


@pytest.fixture(params=["torch", "tensorflow"])
def reads(request):
    """A context in which a thread reads data, and what a checkpoint keeps of the generators."""
    framework = pytest.importorskip(request.param)
    return {"torch": torch_reads, "tensorflow": tensorflow_reads}[request.param](framework)


def start(function: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_two_threads_that_read_leave_the_generators_as_they_were(reads):
    in_place, _ = reads
    before, own = host_random_state(), get_bit_generator()
    entered, left = threading.Event(), threading.Event()

    def first() -> None:
        with in_place():
            entered.set()
            left.wait(20)
            np.random.rand()

    def second() -> None:
        with in_place():
            random.random()

    one = start(first)
    entered.wait(20)
    other = start(second)
    other.join(0.1)
    waits = other.is_alive()
    left.set()
    one.join(20)
    other.join(20)

    assert waits
    assert get_bit_generator() is own
    assert host_random_state() == before


def test_a_checkpoint_keeps_the_generators_of_the_process_while_another_thread_reads(reads):
    in_place, random_state = reads
    before, found = host_random_state(), []
    entered, left = threading.Event(), threading.Event()

    def reading() -> None:
        with in_place():
            random.seed(123)
            np.random.seed(123)
            entered.set()
            left.wait(20)

    one = start(reading)
    entered.wait(20)
    other = start(lambda: found.append(random_state()))
    other.join(0.1)
    left.set()
    one.join(20)
    other.join(20)

    assert {name: found[0][name] for name in before} == before


def held_elsewhere() -> tuple[threading.Thread, threading.Event]:
    """Return a thread that holds the generators, and the event that lets it end."""
    entered, left = threading.Event(), threading.Event()

    def held() -> None:
        with generators_lent():
            entered.set()
            left.wait(20)

    thread = start(held)
    entered.wait(20)
    return thread, left


def test_a_thread_that_waits_in_vain_goes_on_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(tested, "LONGEST_WAIT_S", 0.05)
    one, left = held_elsewhere()
    with caplog.at_level(logging.WARNING), generators_lent():
        left.set()
    one.join(20)

    assert "another thread has read one example for 0.05 s" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_does_not_wait_for_a_thread_that_it_does_not_have(monkeypatch):
    one, left = held_elsewhere()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if tested._lent.acquire(timeout=5) else 1)
    _, status = os.waitpid(pid, 0)
    left.set()
    one.join(20)

    assert status == 0
