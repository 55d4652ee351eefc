from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path

import blinker
import pytest
from support.senders import Sender, send

from trackside.callbacks import events
from trackside.callbacks.errors import TracksideTypeError, TracksideValueError, UnknownNameError


def test_listeners_are_called_in_the_order_in_which_they_were_connected(signal):
    sender, heard = Sender(), []
    listeners = [lambda trainer, number=number, **_: heard.append(number) for number in range(50)]
    for index, listener in enumerate(listeners):
        signal.connect(listener, *([sender] if index % 2 else []))

    send(signal, sender)

    everyone, this_one = heard[:25], heard[25:]
    assert everyone == list(range(0, 50, 2))
    assert this_one == list(range(1, 50, 2))


def test_receivers_with_a_position_come_before_plain_listeners(signal):
    class Placed:
        def __init__(self, position):
            self.position = position

        def __call__(self, trainer, **_):
            return self.position

    sender, placed = Sender(), [Placed(3), Placed(1), Placed(2)]
    signal.connect(lambda trainer, **_: "plain", sender)
    for receiver in placed:
        signal.connect(receiver, sender)

    assert [returned for _, returned in send(signal, sender)] == [1, 2, 3, "plain"]


def test_two_senders_never_hear_each_other(signal):
    one, other, heard = Sender(), Sender(), []
    signal.connect(lambda trainer, **_: heard.append(trainer), one)

    send(signal, other)
    send(signal, one)

    assert heard == [one]


def test_a_listener_without_a_sender_hears_every_sender(signal):
    one, other, heard = Sender(), Sender(), []
    signal.connect(lambda trainer, **_: heard.append(trainer))

    send(signal, one)
    send(signal, other)

    assert heard == [one, other]


def test_every_thins_out_the_steps_until_disconnected(signal):
    sender, heard = Sender(), []

    def listener(trainer, state, **_):
        heard.append(state.global_step)

    signal.connect(listener, sender, every=3)
    for step in range(1, 8):
        send(signal, sender, step)
    signal.disconnect(listener)
    send(signal, sender, 9)

    assert heard == [3, 6]


def test_one_listener_may_hear_two_senders_at_different_intervals(signal):
    one, other, heard = Sender(), Sender(), []

    def listener(trainer, state, **_):
        heard.append((trainer is one, state.global_step))

    signal.connect(listener, one, every=2)
    signal.connect(listener, other, every=3)
    for step in range(1, 5):
        send(signal, one, step)
        send(signal, other, step)
    signal.disconnect(listener, one)
    send(signal, one, 6)
    send(signal, other, 6)

    assert heard == [(True, 2), (False, 3), (True, 4), (False, 6)]


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "10"])
def test_every_must_be_a_whole_number_from_1(signal, every):
    with pytest.raises(TracksideValueError, match="every="):
        signal.connect(print, Sender(), every=every)


def test_weak_and_every_do_not_go_together(signal):
    with pytest.raises(TracksideValueError, match="weak=True"):
        signal.connect(print, Sender(), weak=True, every=2)


def test_a_listener_stays_without_another_reference_to_it(signal):
    sender = Sender()
    signal.connect(lambda trainer, **_: "here", sender)
    signal.connect(lambda trainer, **_: "here too")
    gc.collect()

    assert [returned for _, returned in send(signal, sender)] == ["here too", "here"]


def test_a_weak_listener_goes_with_the_last_other_reference_to_it(signal):
    def listener(trainer, **_):
        return "here"

    signal.connect(listener, weak=True)
    assert len(send(signal, None)) == 1

    del listener
    gc.collect()
    assert send(signal, None) == []


def test_a_sender_is_collected_together_with_a_listener_that_refers_to_it(signal):
    def connect():
        sender = Sender()
        signal.connect(lambda trainer, **_: sender, sender)
        signal.connect(lambda trainer, **_: sender, sender, every=2)
        return weakref.ref(sender)

    sender = connect()
    gc.collect()

    assert sender() is None
    assert not signal.receivers


def test_a_listener_of_everyone_outlives_a_sender_that_it_is_connected_to_as_well(signal):
    def connect():
        def listener(trainer, **_):
            return "here"

        sender = Sender()
        signal.connect(listener)
        signal.connect(listener, sender)

    connect()
    gc.collect()

    assert len(send(signal, Sender())) == 1


def test_a_sender_without_a_dict_can_be_listened_to(signal):
    for sender in ("a name", Sender, type("Slots", (), {"__slots__": ("__weakref__",)})()):
        signal.connect(lambda trainer, **_: trainer, sender)
        gc.collect()

        assert [returned for _, returned in send(signal, sender)] == [sender]


def test_the_method_of_an_object_is_a_listener(signal):
    class Ear:
        heard = 0

        def listen(self, trainer, **_):
            self.heard += 1

    sender, ear = Sender(), Ear()
    signal.connect(ear.listen, sender)
    gc.collect()
    send(signal, sender)
    signal.disconnect(ear.listen, sender)
    send(signal, sender)

    assert ear.heard == 1


def test_a_listener_that_takes_no_weak_references_is_kept(signal):
    class Slots:
        __slots__ = ()

        def __call__(self, trainer, **_):
            return "here"

    sender = Sender()
    signal.connect(Slots(), sender)

    assert [returned for _, returned in send(signal, sender)] == ["here"]


def test_disconnecting_from_one_event_leaves_the_listener_connected_to_others(signal):
    sender, other = Sender(), events.Signal("on_log")

    def connect():
        def listener(trainer, **_):
            return "here"

        for each in (signal, other):
            each.connect(listener, sender)
        signal.disconnect(listener)

    connect()
    gc.collect()

    assert [returned for _, returned in send(other, sender)] == ["here"]


def test_disconnecting_lets_go_of_the_listener(signal):
    sender = Sender()

    def listener(trainer, **_): ...

    signal.connect(listener, sender)
    signal.disconnect(listener, sender)
    gone = weakref.ref(listener)
    del listener
    gc.collect()

    assert gone() is None


def test_no_listener_is_called_while_the_signal_is_muted(signal):
    signal.connect(lambda trainer, **_: "here")

    with signal.muted():
        assert send(signal, None) == []
    assert len(send(signal, None)) == 1


async def _coroutine(trainer, **_): ...


class _AsyncCallable:
    async def __call__(self, trainer, **_): ...


@pytest.mark.parametrize("listener", [_coroutine, _AsyncCallable(), None, "print"])
def test_what_is_not_a_plain_function_is_refused(signal, listener):
    with pytest.raises(TracksideTypeError, match="on_step_end needs a plain function"):
        signal.connect(listener)


def test_blinkers_own_ways_to_connect_work(signal):
    sender, heard = Sender(), []

    @signal.connect_via(sender)
    def listener(trainer, **_):
        heard.append("via")

    with signal.connected_to(lambda trainer, **_: heard.append("to"), sender):
        send(signal, sender)
    send(signal, sender)

    assert heard == ["via", "to", "via"]


def test_private_parts_of_blinker_are_not_used():
    public = blinker.Signal()
    private = {name for name in dir(public) if name.startswith("_") and not name.startswith("__")}

    used = set(re.findall(r"\.(_\w+)", Path(events.__file__).read_text(encoding="utf-8")))

    assert private
    assert not used & private


def test_an_exception_of_a_listener_goes_up(signal):
    signal.connect(lambda trainer, **_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        send(signal, None)


def test_every_connect_disconnect_and_muting_raises_the_version(signal):
    versions = [signal.version]

    signal.connect(print)
    versions.append(signal.version)
    with signal.muted():
        versions.append(signal.version)
    versions.append(signal.version)
    signal.disconnect(print)
    versions.append(signal.version)

    assert versions == sorted(set(versions))


def test_a_wrong_event_name_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no event named 'on_step_ends'.*Did you mean 'on_step_end'\?"):
        events.signal_named("on_step_ends")


def test_every_event_is_an_attribute_of_its_own_name():
    assert all(getattr(events, name) is signal and signal.name == name for name, signal in events.EVENTS.items())
