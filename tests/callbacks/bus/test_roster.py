"""Attaching callbacks costs the same for each, however many there are."""

from __future__ import annotations

import gc
import sys
from time import process_time

import pytest
from support.callback_examples import Observing, Recorder

from trackside import TrainerCallback
from trackside.callbacks import events


class Listens(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        pass


def seconds_to_attach(track, count, **first):
    run, start = track(), process_time()
    run.dispatcher.attach(Recorder([], "one"))
    run.dispatcher.attach(Recorder([], "two"), **first)
    for _ in range(count):
        run.dispatcher.attach(Listens())
    run.step()
    assert len(run.dispatcher.attachments) == count + 2
    return process_time() - start


@pytest.mark.parametrize("first", [{}, {"before": "one"}])
def test_ten_times_as_many_callbacks_take_about_ten_times_as_long(track, first):
    few = min(seconds_to_attach(track, 100, **first) for _ in range(3))

    many = seconds_to_attach(track, 1_000, **first)

    assert many < 30 * few


def test_removing_some_of_many_leaves_the_order_and_the_rest(track):
    heard = []
    run = track(*(Observing(heard, f"c{number}") for number in range(10)))
    for number in range(0, 10, 2):
        run.dispatcher.remove(f"c{number}")

    run.dispatcher.attach(Recorder(heard, "first"))
    run.step()

    assert heard == ["first", "c1", "c3", "c5", "c7", "c9"]


def test_a_callback_without_wishes_comes_where_a_new_sorting_would_put_it(track):
    heard = []
    run = track(Recorder(heard, "a"), Observing(heard, "o"))
    run.dispatcher.attach(Recorder(heard, "waits"), after="o")
    run.dispatcher.attach(Observing(heard, "early"), before="a")
    run.dispatcher.attach(Recorder(heard, "b"))
    run.dispatcher.attach(Observing(heard, "p"))

    run.step()

    assert heard == ["early", "a", "b", "o", "waits", "p"]


def test_many_trainers_that_come_and_go_leave_nothing(track):
    def many(count):
        for _ in range(count):
            run = track(Listens())
            events.on_step_end.connect(lambda trainer, state: None, run)
            run.step()
        gc.collect()

    signal = events.on_step_end
    many(10)
    before = (len(signal.receivers), len(signal._by_receiver), len(signal._by_sender), sys.getallocatedblocks())

    many(2_000)

    after = (len(signal.receivers), len(signal._by_receiver), len(signal._by_sender), sys.getallocatedblocks())
    assert all(now - then <= 3 for now, then in zip(after[:3], before[:3], strict=True))
    assert after[3] - before[3] < 5_000
