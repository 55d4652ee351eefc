"""A map from names to options becomes attached callbacks, or a message that says what is wrong with it."""

from __future__ import annotations

import types

import pytest

from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.config.attach import attach_from_map
from trackside.callbacks.config.callback_config import CallbackMap, parse_callback_map
from trackside.callbacks.errors import CallbackOrderError, ConfigError
from trackside.callbacks.state import TrainerControl, TrainerState

HERE = f"{__name__}.Watcher"


class Watcher:
    """Notes the steps at which it was called."""

    role = "observer"
    made = 0

    def __init__(self, label: str = "", every: int = 0) -> None:
        type(self).made += 1
        self.label = label
        self.own_every = every
        self.steps: list[int] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)

    def on_log(self, args, state, control, **kwargs):
        raise AssertionError("not asked for")


class NeedsLabel(Watcher):
    def __init__(self, label: str) -> None:
        super().__init__(label)


@pytest.fixture
def path_of(monkeypatch):
    """Make this module importable by a plain name, whatever the import mode of pytest."""
    import sys

    monkeypatch.setitem(sys.modules, "watchers_of_this_test", sys.modules[__name__])
    return "watchers_of_this_test.{}".format


@pytest.fixture
def dispatcher():
    class Trainer:
        pass

    trainer = Trainer()
    made = Dispatcher(trainer, types.SimpleNamespace(output_dir="out"), TrainerState(), TrainerControl())
    made.keep = trainer
    return made


def test_entries_are_attached_in_the_order_of_the_map_under_their_names(dispatcher, path_of):
    callbacks = {"mine": {"class_path": path_of("Watcher"), "label": "x"}, "printer": None, "csv": True, "jsonl": False}

    attach_from_map(dispatcher, callbacks)

    assert list(dispatcher.attachments) == ["mine", "printer", "csv"]
    assert dispatcher.attachments["mine"].callback.label == "x"


def test_a_short_option_is_the_one_with_the_name_of_the_callback(dispatcher):
    attach_from_map(dispatcher, {"early_stopping": {"patience": 7, "early_stopping_threshold": 0.5}})

    callback = dispatcher.attachments["early_stopping"].callback

    assert (callback.early_stopping_patience, callback.early_stopping_threshold) == (7, 0.5)


def test_on_and_every_choose_what_a_callback_hears(dispatcher, path_of):
    entry = {"class_path": path_of("Watcher"), "on": "on_step_end", "every": 2, "init_args": {"every": 9}}
    attach_from_map(dispatcher, {"mine": entry})
    callback = dispatcher.attachments["mine"].callback

    for step in range(1, 6):
        dispatcher.state.global_step = step
        dispatcher.send("on_step_end")
        dispatcher.send("on_log", logs={})

    assert callback.steps == [2, 4]
    assert callback.own_every == 9


def test_before_may_name_a_callback_that_comes_later_in_the_map(dispatcher):
    attach_from_map(dispatcher, {"printer": {}, "csv": {"before": "printer"}, "jsonl": {"before": ["printer"]}})

    names = list(dispatcher.attachments)

    assert names.index("csv") < names.index("printer")
    assert names.index("jsonl") < names.index("printer")


def test_role_and_fault_policy_can_be_set(dispatcher, path_of):
    attach_from_map(dispatcher, {"mine": {"class_path": path_of("Watcher"), "role": "control", "on_error": "detach"}})

    assert (dispatcher.attachments["mine"].role, dispatcher.attachments["mine"].on_error) == ("control", "detach")


def test_the_origin_says_where_the_entry_was_written_and_which_package_it_is_from(dispatcher, path_of):
    callbacks = CallbackMap(csv=None, mine={"class_path": path_of("Watcher")})
    callbacks.origins = {"csv": "run.yaml:3"}

    attach_from_map(dispatcher, callbacks)

    assert dispatcher.attachments["csv"].origin.startswith("run.yaml:3, trackside ")
    assert dispatcher.attachments["mine"].origin == f"TrainingArguments, class_path {path_of('Watcher')}"


def test_no_callback_is_made_when_any_entry_is_wrong(dispatcher, path_of):
    made = Watcher.made

    with pytest.raises(ConfigError):
        attach_from_map(dispatcher, {"mine": {"class_path": path_of("Watcher")}, "csv": {"pth": "x"}})

    assert Watcher.made == made
    assert not dispatcher.attachments


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ({"early_stopin": {}}, r"callbacks.early_stopin: no callback named .* Did you mean 'early_stopping'"),
        ({"csv": {"pathh": "x"}}, r"callbacks.csv.pathh='x': this is not an option. Did you mean 'path'"),
        ({"csv": {"befor": "x"}}, r"callbacks.csv.befor='x': this is not an option. Did you mean 'before'"),
        ({"csv": 3}, r"callbacks.csv=3: the options of a callback are a map"),
        ({"csv": {"every": True}}, r"callbacks.csv.every=True: a whole number from 1"),
        ({"csv": {"after": 3}}, r"callbacks.csv.after=3: a name or a list of names"),
        (
            {"csv": {"on_error": "warm"}},
            r"callbacks.csv.on_error='warm': raise, warn or detach. Did you mean 'warn'",
        ),
        ({"x": {"class_path": "nodots"}}, r"callbacks.x.class_path='nodots': a dotted path"),
        ({"x": {"class_path": "os.path.jion"}}, r"os.path has no 'jion'. Did you mean 'join'"),
        ({"x": {"class_path": "os.sep"}}, r"a class is needed, not '/'"),
        ({"x": {"class_path": "watchers_of_this_test.NeedsLabel"}}, r"callbacks.x: .* needs the option label"),
        ({"early_stopping": {"patience": 0}}, r"callbacks.early_stopping.patience=0 is not allowed: a whole"),
        ({"early_stopping": {"patience": True}}, r"callbacks.early_stopping.patience=True is not allowed: a whole"),
        ({"early_stopping": {"threshold": "x"}}, r"callbacks.early_stopping.threshold='x' is not allowed: a number"),
        ({"csv": {"path": 3}}, r"callbacks.csv: expected .* not int \(given: path=3\)"),
        (
            {"early_stopin": False},
            r"callbacks.early_stopin=False: this is not the name .* Did you mean 'early_stopping'",
        ),
        ({"cvs": {"enabled": False}}, r"callbacks.cvs=False: this is not the name of a callback.* Did you mean 'csv'"),
    ],
)
def test_a_wrong_entry_is_refused_with_key_value_and_the_nearest_name(dispatcher, path_of, callbacks, message):
    with pytest.raises(ConfigError, match=message):
        attach_from_map(dispatcher, callbacks)


def test_what_a_constructor_refuses_is_told_with_the_place_of_the_option(dispatcher):
    callbacks = CallbackMap(early_stopping={"init_args": {"early_stopping_threshold": -1.0}})
    callbacks.origins = {
        "early_stopping": "run.yaml:3",
        "early_stopping.init_args.early_stopping_threshold": "b.yaml:9",
    }

    with pytest.raises(ConfigError) as caught:
        attach_from_map(dispatcher, callbacks)

    assert str(caught.value).startswith(
        "b.yaml:9: callbacks.early_stopping.init_args.early_stopping_threshold=-1.0 is not allowed: a number"
    )


def test_what_is_left_out_with_its_options_need_not_be_installed(dispatcher):
    attach_from_map(dispatcher, {"slack": {"channel": "#runs", "enabled": False}, "printer": False})

    assert not dispatcher.attachments


def test_an_order_that_cannot_be_is_refused(dispatcher):
    with pytest.raises(CallbackOrderError, match=r"TrainingArguments: the options before and after .*: 'csv', 'jsonl'"):
        attach_from_map(dispatcher, {"csv": {"before": "jsonl"}, "jsonl": {"before": "csv"}})


def test_registered_only_refuses_a_class_path(path_of):
    callbacks = CallbackMap(mine={"class_path": path_of("Watcher")})
    callbacks.registered_only = True

    with pytest.raises(ConfigError, match="only registered callbacks"):
        parse_callback_map(callbacks)
