from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside import TrainerCallback
from trackside.callbacks.bus.attachment import Attachment, AttachOptions, attachment_of
from trackside.callbacks.bus.ordering import in_order
from trackside.callbacks.config.callback_config import ATTACH_KEYS
from trackside.callbacks.errors import CallbackError, CallbackOrderError, TracksideError


class Flow(TrainerCallback):
    is_flow = True


class Quiet(TrainerCallback):
    role = "observer"
    background = True


def attachments(*entries):
    """Make attachments from (name, role, before, after); the role "flow" makes one of flow control."""
    return {
        name: Attachment(
            callback=Flow() if role == "flow" else TrainerCallback(),
            name=name,
            role="control" if role == "flow" else role,
            on_error="raise",
            origin="",
            before=before,
            after=after,
            number=number,
        )
        for number, (name, role, before, after) in enumerate(entries)
    }


def test_the_origin_of_a_callback_attached_in_python_is_file_and_line_of_its_class():
    line = inspect.getsourcelines(Flow)[1]

    assert attachment_of(Flow).origin == f"Python, {inspect.getsourcefile(Flow)}:{line}"


def order(*entries):
    return list(in_order(attachments(*entries)))


ROLES = st.sampled_from(["flow", "control", "observer"])


@st.composite
def solvable(draw):
    """Callbacks with constraints that some hidden order fulfils."""
    names = [f"c{number}" for number in range(draw(st.integers(0, 8)))]
    hidden = draw(st.permutations(names))
    entries = []
    for name in names:
        place = hidden.index(name)
        before = tuple(draw(st.lists(st.sampled_from(hidden[place + 1 :]), max_size=2))) if hidden[place + 1 :] else ()
        after = tuple(draw(st.lists(st.sampled_from(hidden[:place]), max_size=2))) if place else ()
        entries.append((name, draw(ROLES), before, after))
    return entries


@given(solvable())
def test_the_order_is_a_permutation_that_fulfils_before_and_after(entries):
    result = order(*entries)

    assert sorted(result) == sorted(name for name, *_ in entries)
    for name, _, before, after in entries:
        assert all(result.index(name) < result.index(other) for other in before)
        assert all(result.index(name) > result.index(other) for other in after)


@given(solvable())
def test_those_without_constraints_keep_their_order_by_group_and_list(entries):
    named = {other for _, _, before, after in entries for other in (*before, *after)}
    free = [(name, role) for name, role, before, after in entries if not before and not after and name not in named]
    groups = ["flow", "control", "observer"]

    result = order(*entries)

    expected = [name for name, _ in sorted(free, key=lambda item: groups.index(item[1]))]
    assert [name for name in result if name in expected] == expected


@given(solvable())
def test_the_order_depends_on_the_list_alone_and_not_on_an_earlier_order(entries):
    once = in_order(attachments(*entries))

    assert list(in_order(once)) == list(once)


def test_flow_comes_before_control_and_control_before_observers():
    entries = [("o", "observer", (), ()), ("c", "control", (), ()), ("f", "flow", (), ()), ("d", "control", (), ())]

    assert order(*entries) == ["f", "c", "d", "o"]


def test_before_moves_no_further_than_asked():
    entries = [(name, "control", (), ()) for name in "abc"]

    assert order(*entries, ("x", "observer", ("c",), ())) == ["a", "b", "x", "c"]
    chain = [("z", "control", ("y",), ()), ("y", "control", ("x",), ()), ("x", "observer", ("c",), ())]
    assert order(*entries, *chain) == ["a", "b", "z", "y", "x", "c"]


def test_after_waits_for_the_other():
    assert order(("a", "control", (), ("o",)), ("b", "control", (), ()), ("o", "observer", (), ())) == ["b", "o", "a"]


def test_a_cycle_is_an_error_that_names_the_circle():
    with pytest.raises(CallbackOrderError, match=r"'a', 'b'$"):
        order(("a", "control", ("b",), ()), ("b", "control", ("a",), ()), ("c", "control", (), ()))


def test_a_name_that_is_not_attached_is_an_error_with_the_nearest():
    with pytest.raises(CallbackOrderError, match=r"'a': before='progres' is not attached.*Did you mean 'progress'"):
        order(("a", "control", ("progres",), ()), ("progress", "observer", (), ()))


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
