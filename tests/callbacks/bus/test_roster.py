"""Attaching callbacks costs the same for each, however many there are."""

from __future__ import annotations

import gc
import sys
from time import process_time

import pytest
from support.call_counts import assert_linear, calls_of
from support.callback_examples import Observing, Recorder

from trackside import TrainerCallback
from trackside.callbacks import events
from trackside.callbacks.errors import CallbackOrderError


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


WISHES = {
    "each before the previous one": lambda number: {"before": f"c{number - 1}"},
    "each after the previous one": lambda number: {"after": f"c{number - 1}"},
    "each before the first": lambda number: {"before": "c0"},
    "each between two": lambda number: {"after": f"c{number - 1}", "before": "last"} if number > 1 else {},
}


@pytest.mark.parametrize("wish", WISHES)
def test_callbacks_with_before_and_after_cost_the_same_for_each(track, wish):
    def calls(count):
        def attach_call_and_remove():
            run = track(Observing([], "c0"), Observing([], "last"))
            for number in range(1, count):
                run.dispatcher.attach(Observing([], f"c{number}"), **WISHES[wish](number))
            run.step()
            for number in range(0, count, 2):
                run.dispatcher.remove(f"c{number}")
            run.step()

        return calls_of(attach_call_and_remove)

    assert_linear(calls, 50)


def test_a_callback_between_two_that_were_in_the_other_order_is_an_error_only_if_they_must_be(track):
    heard = []
    run = track(Recorder(heard, "a"), Recorder(heard, "b"), Recorder(heard, "c"))
    run.dispatcher.attach(Recorder(heard, "d"), before="b")

    run.dispatcher.attach(Recorder(heard, "e"), after="c", before="a")
    with pytest.raises(CallbackOrderError, match="contradict each other: 'a', 'c', 'e', 'f'"):
        run.dispatcher.attach(Recorder(heard, "f"), after="a", before="c")
    run.dispatcher.remove("e")
    run.dispatcher.attach(Recorder(heard, "f"), after="a", before="c")
    run.step()

    assert heard == ["a", "d", "b", "f", "c"]


def test_the_order_holds_for_an_event_that_is_sent_without_the_trainer(track):
    heard = []
    run = track(Recorder(heard, "a"))
    run.dispatcher.attach(Observing(heard, "b"), before="a")

    events.on_step_end.send(run, args=run.dispatcher.args, state=run.dispatcher.state, control=run.dispatcher.control)

    assert heard == ["b", "a"]
