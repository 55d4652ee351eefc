"""Who is called when: flow control, control callbacks, observers, plain listeners; before and after override it."""

from __future__ import annotations

import pytest
from support.callback_examples import Flow, Observing, Recorder

from trackside.callbacks import events
from trackside.callbacks.errors import (
    CallbackOrderError,
)


def test_flow_then_control_then_observers_then_plain_listeners(track):
    heard = []
    run = track()
    events.on_step_end.connect(lambda trainer, **_: heard.append("listener"), run)
    for cls, name in [(Observing, "o1"), (Recorder, "c1"), (Flow, "flow"), (Observing, "o2"), (Recorder, "c2")]:
        run.dispatcher.attach(cls(heard, name))

    run.step()

    assert heard == ["flow", "c1", "c2", "o1", "o2", "listener"]
    assert list(run.dispatcher.attachments) == heard[:-1]


def test_before_and_after_override_the_order(track):
    heard = []
    run = track(Recorder(heard, "a"), Recorder(heard, "b"))

    run.dispatcher.attach(Observing(heard, "first"), before="a")
    run.dispatcher.attach(Recorder(heard, "last"), after=["a", "first", "b"])
    run.step()

    assert heard == ["first", "a", "b", "last"]


def test_a_list_of_callbacks_may_name_one_further_down(track):
    heard = []
    run = track()

    run.dispatcher.attach_all([(Recorder(heard, "a"), {"after": "b"}), (Recorder(heard, "b"), {})])
    run.step()

    assert heard == ["b", "a"]


def test_a_refused_callback_leaves_the_others_as_they_were(track):
    heard = []
    run = track(Recorder(heard, "a"))

    with pytest.raises(CallbackOrderError, match="before='missing' is not attached"):
        run.dispatcher.attach(Recorder(heard, "b"), before="missing")
    run.step()

    assert heard == ["a"]
    assert list(run.dispatcher.attachments) == ["a"]


def test_a_cycle_is_an_error(track):
    run = track(Recorder([], "a"))
    run.dispatcher.attach(Recorder([], "b"), after="a")

    with pytest.raises(CallbackOrderError, match="contradict each other: 'a', 'b', 'c'"):
        run.dispatcher.attach(Recorder([], "c"), before="a", after="b")
