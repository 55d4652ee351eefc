"""What may be attached, under which name, and how it is removed."""

from __future__ import annotations

import pytest
from support.callback_examples import Recorder, Stops

from trackside import TrainerCallback
from trackside.callbacks.errors import (
    CallbackError,
    TracksideValueError,
    UnknownNameError,
)


def test_a_misspelt_hook_is_an_error_that_names_the_nearest_and_the_place(track):
    class Misspelt(TrainerCallback):
        def on_step_ends(self, args, state, control, **kwargs): ...

    with pytest.raises(CallbackError) as caught:
        track(Misspelt())

    assert "Misspelt.on_step_ends" in str(caught.value)
    assert "test_attaching.py:" in str(caught.value)
    assert "Did you mean 'on_step_end'?" in str(caught.value)


def test_an_object_without_any_hook_is_not_a_callback(track):
    with pytest.raises(CallbackError, match="object is not a callback: it has none of the methods on_init_end"):
        track(object())


def test_no_base_class_is_needed(track):
    class Plain:
        heard = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.heard += 1

    plain = Plain()
    track(plain).step(3)

    assert plain.heard == 3


def test_a_class_is_called_without_arguments(track):
    run = track(Stops)

    assert isinstance(run.dispatcher.attachments["stops"].callback, Stops)


def test_a_class_that_needs_arguments_must_be_given_as_instance(track):
    with pytest.raises(CallbackError, match=r"Recorder cannot be made without arguments .*; give an instance"):
        track(Recorder)


def test_two_of_one_class_both_stay_with_a_warning_and_names_of_their_own(track, caplog):
    run = track(Stops(), Stops())

    assert list(run.dispatcher.attachments) == ["stops", "stops_2"]
    assert "a second callback of class Stops is attached; both stay" in caplog.text


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("role", "watcher", CallbackError),
        ("on_error", "ignore", CallbackError),
        ("on", ["on_steps"], UnknownNameError),
        ("every", 0, TracksideValueError),
    ],
)
def test_a_wrong_option_names_its_value(track, option, value, error):
    with pytest.raises(error, match=str(value[0] if isinstance(value, list) else value)):
        track().dispatcher.attach(Stops(), **{option: value})


@pytest.mark.parametrize("key", ["name", "class", "instance"])
def test_a_callback_is_removed_by_name_class_or_instance(track, key):
    callback = Stops()
    run = track(callback)

    removed = run.dispatcher.remove({"name": "stops", "class": Stops, "instance": callback}[key])
    run.step()

    assert removed is callback
    assert not run.control.should_training_stop
    assert run.dispatcher.remove("stops") is None


def test_removing_one_that_others_wait_for_leaves_them_in_place(track):
    heard = []
    run = track(Recorder(heard, "a"))
    run.dispatcher.attach(Recorder(heard, "b"), after="a")

    run.dispatcher.remove("a")
    run.dispatcher.attach(Recorder(heard, "c"))
    run.step()

    assert heard == ["b", "c"]
