from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from trackside import TrainerCallback
from trackside.callbacks.bus.attachment import AttachOptions, attachment_of
from trackside.callbacks.config.callback_config import ATTACH_KEYS
from trackside.callbacks.errors import CallbackError, TracksideError


class Flow(TrainerCallback):
    name = "flow"


class Quiet(TrainerCallback):
    role = "observer"
    background = True


def test_the_origin_of_a_callback_attached_in_python_is_file_and_line_of_its_class():
    line = inspect.getsourcelines(Flow)[1]

    assert attachment_of(Flow).origin == f"Python, {inspect.getsourcefile(Flow)}:{line}"


def test_everything_that_lists_the_options_of_an_attachment_follows_the_one_list(track):
    options = [item.name for item in dataclasses.fields(AttachOptions)]
    in_a_config = [name for name in options if name not in ("name", "origin")]
    page = (Path(__file__).parents[3] / "docs/explanation/callbacks.md").read_text(encoding="utf-8")

    assert list(ATTACH_KEYS) == in_a_config
    assert [name for name in in_a_config if f"`{name}`" not in page] == []
    assert isinstance(track(Flow()).dispatcher.attachments["flow"].options, AttachOptions)


def test_the_options_of_an_attachment_attach_it_alike_elsewhere(track):
    first, second = track(Flow(), TrainerCallback()), track(Flow(), TrainerCallback())

    made = first.dispatcher.attach(Quiet(), name="quiet", before="flow", on="on_log", every=3, timeout_s=7)
    (again,) = second.dispatcher.attach_all([(Quiet(), made.options)])

    assert again.options == made.options
    assert (again.role, again.before, again.on, again.timeout_s) == ("observer", ("flow",), ("on_log",), 7.0)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("before", 3, "before=3 is not allowed: a name or a list of names"),
        ("after", [None], r"after=\[None\] is not allowed: a name or a list of names"),
        ("background", "yes", "background='yes' is not allowed: true or false"),
        ("timeout_s", 0, "timeout_s=0 is not allowed: a number of seconds above 0"),
        ("timeout_s", True, "timeout_s=True is not allowed: a number of seconds above 0"),
        ("role", "watcher", "role='watcher' is not allowed: control or observer"),
        ("on_error", "warm", r"on_error='warm' is not allowed: raise, warn or detach. Did you mean 'warn'\?"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_its_option(option, value, message):
    with pytest.raises(TracksideError, match=message):
        AttachOptions(**{option: value})


def test_an_option_that_does_not_exist_is_an_error_with_the_nearest_name(track):
    with pytest.raises(TypeError, match=r"attach\(\) has no option 'evry'. Did you mean 'every'\?"):
        track().dispatcher.attach(TrainerCallback(), evry=2)


def test_a_control_callback_cannot_run_in_the_background(track):
    class Steers(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            pass

    with pytest.raises(CallbackError, match="Steers steers the run and cannot do so in the background"):
        track().dispatcher.attach(Steers(), background=True)
