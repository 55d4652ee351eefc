"""Who is called when: control callbacks, observers, plain listeners; before and after override it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.callback_examples import Observing, Recorder

from trackside import TrainerCallback
from trackside.callbacks import events
from trackside.callbacks.bus.attachment import Attachment
from trackside.callbacks.bus.ordering import in_order
from trackside.callbacks.errors import CallbackOrderError


def test_control_then_observers_then_plain_listeners(track):
    heard = []
    run = track()
    events.on_step_end.connect(lambda trainer, **_: heard.append("listener"), run)
    for cls, name in [(Observing, "o1"), (Recorder, "c1"), (Observing, "o2"), (Recorder, "c2")]:
        run.dispatcher.attach(cls(heard, name))

    run.step()

    assert heard == ["c1", "c2", "o1", "o2", "listener"]
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


def attachments(*entries):
    """Make attachments from (name, role, before, after)."""
    return {
        name: Attachment(
            callback=TrainerCallback(),
            name=name,
            role=role,
            on_error="raise",
            origin="",
            before=before,
            after=after,
            number=number,
        )
        for number, (name, role, before, after) in enumerate(entries)
    }


def order(*entries):
    return list(in_order(attachments(*entries)))


ROLES = st.sampled_from(["control", "observer"])


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
    groups = ["control", "observer"]

    result = order(*entries)

    expected = [name for name, _ in sorted(free, key=lambda item: groups.index(item[1]))]
    assert [name for name in result if name in expected] == expected


@given(solvable())
def test_the_order_depends_on_the_list_alone_and_not_on_an_earlier_order(entries):
    once = in_order(attachments(*entries))

    assert list(in_order(once)) == list(once)


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
