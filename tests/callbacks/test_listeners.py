"""Plain functions as listeners: what they get, which are refused, and threads that connect them."""

from __future__ import annotations

import sys
import threading

import pytest
from support.senders import Sender, send

from trackside.callbacks import events
from trackside.callbacks.bus.dispatcher import OF_A_RUN
from trackside.callbacks.errors import TracksideTypeError

# -- keywords ---------------------------------------------------------------------------------------------------------


def test_a_listener_gets_what_it_takes_of_the_callbacks_keywords(track):
    run, heard = track(), []
    run.dispatcher.context["model"] = "the model"

    events.on_log.connect(lambda trainer: heard.append(trainer), run)
    events.on_log.connect(lambda trainer, state: heard.append(state), run)
    events.on_log.connect(lambda sender, *, logs, model: heard.append((logs, model)), run)
    events.on_log.connect(lambda trainer, **kwargs: heard.append(sorted(kwargs)), run)
    run.log(loss=1.0)

    assert heard == [
        run,
        run.state,
        ({"loss": 1.0}, "the model"),
        ["args", "control", *OF_A_RUN, "logs", "model", "state"],
    ]


def test_a_weak_listener_and_one_with_every_get_what_they_take(track):
    run, heard = track(), []

    def weak(trainer, model=None):
        heard.append(model)

    run.dispatcher.context["model"] = "the model"
    events.on_step_end.connect(weak, run, weak=True)
    events.on_step_end.connect(lambda trainer, state: heard.append(state.global_step), run, every=2)
    run.step(2)

    assert heard == ["the model", "the model", 2]


@pytest.mark.parametrize(
    ("listener", "reason"),
    [
        (lambda trainer, loss: None, "missing a required argument: 'loss'"),
        (lambda trainer, metrics: None, "missing a required argument: 'metrics'"),  # those of on_evaluate
        (lambda: None, "too many positional arguments"),
        (lambda args, state, control, **kwargs: None, "multiple values for argument 'args'"),
    ],
)
def test_a_listener_that_cannot_be_called_is_refused_with_its_place(listener, reason):
    with pytest.raises(TracksideTypeError, match=reason) as error:
        events.on_log.connect(listener, Sender())

    assert f"{__file__}:" in str(error.value)


def test_one_function_that_is_connected_twice_is_called_once(signal):
    sender, heard = Sender(), []

    def listener(trainer):
        heard.append(trainer)

    signal.connect(listener, sender)
    signal.connect(listener, sender)
    signal.connect(listener)
    send(signal, sender)

    assert heard == [sender]


# -- threads ----------------------------------------------------------------------------------------------------------


def test_functions_come_and_go_in_several_threads_while_events_are_sent(signal):
    errors, sender, heard = [], Sender(), []
    signal.connect(lambda trainer: heard.append(trainer), sender)

    def work():
        try:
            for number in range(300):
                listener = lambda trainer: None  # noqa: E731
                one = [sender] if number % 2 else []
                signal.connect(listener, *one)
                signal.disconnect(listener, *one)
        except Exception as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        sent = 0
        while any(thread.is_alive() for thread in threads):
            send(signal, sender)
            sent += 1
    finally:
        sys.setswitchinterval(interval)

    assert not errors
    assert len(heard) == sent
    assert len(signal.receivers) == 1
