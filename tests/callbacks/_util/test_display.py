"""What a `repr` shows: short, without secrets, and nothing of a value that would have to be computed."""

from __future__ import annotations

from pathlib import Path

import pytest

import trackside
from trackside import TrainerCallback, TrainerControl, TrainerState, events
from trackside.callbacks._util.display import LIMIT, html_table, short_repr, shown, table
from trackside.callbacks.bus.attachment import AttachOptions, attachment_of
from trackside.callbacks.secrets import Secret


class OnADevice:
    """A value that must be neither shown nor compared."""

    def __repr__(self):
        raise AssertionError("its numbers were read")

    __str__ = __len__ = __bool__ = __float__ = __eq__ = __repr__
    __hash__ = None


class Notify(TrainerCallback):
    def __init__(self, url="", *, api_key="", every=1, hidden: Secret = "", tags=(), model=None, lost=0):
        self.url, self.api_key, self.every, self.hidden = url, api_key, every, hidden
        self.tags, self.model = list(tags), model


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (TrainerCallback(), "TrainerCallback()"),
        (Notify(), "Notify()"),
        (Notify(every=5, tags=["a", "b"], lost=3), "Notify(every=5, tags=['a', 'b'])"),
        (Notify(api_key="abcdefgh", hidden=Secret("xyz")), "Notify(api_key='***', hidden='***')"),
        (Notify("sql://me:password@host/x", model=OnADevice()), "Notify(url='sql://me:***@host/x', model=<OnADevice>)"),
        (TrainerControl(), "TrainerControl()"),
        (TrainerControl(should_save=True, reasons={"should_save": "x"}), "TrainerControl(should_save=True)"),
        (TrainerState(), "TrainerState()"),
        (
            TrainerState(epoch=0.5, global_step=3, max_steps=9, log_history=[{"loss": 1.0}] * 7, run_id="a"),
            "TrainerState(global_step=3, max_steps=9, epoch=0.5, log_history=[7 items])",
        ),
        (TrainerState(best_metric=OnADevice()), "TrainerState(best_metric=<OnADevice>)"),
        (AttachOptions(every=10, on="on_log"), "AttachOptions(on=['on_log'], every=10)"),
    ],
)
def test_what_is_not_the_default_is_shown(made, text):
    assert repr(made) == text


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("EarlyStoppingCallback", {"early_stopping_patience": 3}, "(early_stopping_patience=3)"),
        ("CSVLoggerCallback", {"path": "a/b.csv"}, "(path='a/b.csv')"),
        ("LossGuardCallback", {"window": 50, "factor": None}, "(factor=None, window=50)"),
        ("TimeLimitCallback", {"hours": 1.5}, "(5400)"),
        ("FinetuneScheduleCallback", {"stages": {0: "head.*"}}, "(stages={1 item})"),
        ("WandbCallback", {"project": "p", "checkpoints": True}, "(project='p', checkpoints=True)"),
        ("MLflowCallback", {"tracking_uri": "http://me:password@host"}, "(tracking_uri='http://me:***@host')"),
        ("EMACallback", {}, "()"),
    ],
)
def test_the_built_in_callbacks_show_their_options(name, given, text):
    if name == "WandbCallback":
        pytest.importorskip("wandb")
    if name == "MLflowCallback":
        pytest.importorskip("mlflow")
    assert repr(getattr(trackside, name)(**given)) == name + text


def test_a_repr_is_short_and_of_one_line_whatever_it_shows():
    long = TrainerState(stop_reason="a\nb" * 500, log_history=[{}] * 10_000, stopped_by="x" * 1000, best_metric=1e300)
    callback = Notify("u" * 1000, api_key="k" * 1000, tags=["t" * 1000] * 4, every=10**500)

    for made in (long, callback, attachment_of(callback, AttachOptions(name="n" * 1000))):
        assert len(repr(made)) <= LIMIT
        assert "\n" not in repr(made)


def test_a_repr_of_what_is_half_built_is_its_class():
    class Broken:
        @short_repr
        def __repr__(self):
            return self.missing

    assert repr(Broken()) == "<Broken>"
    assert repr(TrainerState.__new__(TrainerState)) == "<TrainerState>"
    assert repr(Notify.__new__(Notify)) == "Notify()"


def test_an_attachment_shows_what_it_has_cost():
    item = attachment_of(Notify(), AttachOptions(role="observer", background=True))
    item.calls, item.seconds, item.detached_after = 1, 0.25, 3

    assert repr(item) == (
        "<Attachment 'notify' of Notify: observer, in the background, 1 call in 0.250 s, detached after 3 failures>"
    )


def test_a_signal_shows_its_name_and_its_receivers():
    signal = events.Signal("on_log")
    assert repr(signal) == "<Signal on_log: 0 receivers>"

    signal.connect(lambda trainer, **kwargs: None)

    assert repr(signal) == "<Signal on_log: 1 receiver>"
    with signal.muted():
        assert repr(signal) == "<Signal on_log: 1 receiver, muted>"


def test_values_are_told_in_a_few_characters():
    values = [Path("a/b"), 1e-4, 2**200, {"a": OnADevice()}, [OnADevice()], print, Notify, None, True, "", ()]

    texts = [shown(value) for value in values]

    assert texts[:2] == ["'a/b'", "0.0001"]
    assert len(texts[2]) <= 60
    assert texts[3:] == ["{1 item}", "[1 item]", "print", "Notify", "None", "True", "''", "[]"]


def test_a_state_and_a_table_of_a_notebook_hold_no_markup_and_no_secret():
    state = TrainerState(global_step=2, stop_reason="<b>sql://me:password@host</b>", log_history=[{"<i>": 0.5}])

    html = state._repr_html_()

    assert "<td>global_step</td><td>2</td>" in html
    assert "<th>&lt;i&gt;</th>" in html
    assert "<b>" not in html + html_table([("<b>",)])
    assert "password" not in html


def test_a_table_is_as_wide_as_its_widest_cells():
    assert table([("a", "1"), ("long", "100")], right=[1]) == "a       1\nlong  100"
