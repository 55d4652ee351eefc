from __future__ import annotations

import gc
import logging
import weakref

import pytest

from trackside.callbacks import TrainerCallback, TrainerControl, TrainerState, events
from trackside.callbacks.errors import (
    CallbackError,
    CallbackOrderError,
    TracksideValueError,
    UnknownNameError,
)


class Recorder(TrainerCallback):
    """Notes its own name in a list that several share."""

    def __init__(self, heard, name=None):
        self.heard = heard
        self.name = name

    def on_step_end(self, args, state, control, **kwargs):
        self.heard.append(self.name)


class Observing(Recorder):
    role = "observer"


class Flow(Recorder):
    is_flow = True


class Raises(TrainerCallback):
    role = "observer"

    def on_log(self, args, state, control, **kwargs):
        raise RuntimeError("the tracker is down")


class Stops(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


# -- order --------------------------------------------------------------------------------------------------------


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

    with pytest.raises(CallbackOrderError, match="before='nobody' is not attached"):
        run.dispatcher.attach(Recorder(heard, "b"), before="nobody")
    run.step()

    assert heard == ["a"]
    assert list(run.dispatcher.attachments) == ["a"]


def test_a_cycle_is_an_error(track):
    run = track(Recorder([], "a"))
    run.dispatcher.attach(Recorder([], "b"), after="a")

    with pytest.raises(CallbackOrderError, match="contradict each other: 'a', 'b', 'c'"):
        run.dispatcher.attach(Recorder([], "c"), before="a", after="b")


# -- what may be attached -----------------------------------------------------------------------------------------


def test_a_misspelt_hook_is_an_error_that_names_the_nearest_and_the_place(track):
    class Misspelt(TrainerCallback):
        def on_step_ends(self, args, state, control, **kwargs): ...

    with pytest.raises(CallbackError) as caught:
        track(Misspelt())

    assert "Misspelt.on_step_ends" in str(caught.value)
    assert "test_dispatcher.py:" in str(caught.value)
    assert "Did you mean 'on_step_end'?" in str(caught.value)


def test_an_object_without_any_hook_is_no_callback(track):
    with pytest.raises(CallbackError, match="object is no callback: it has none of the methods on_init_end"):
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


# -- hearing ------------------------------------------------------------------------------------------------------


def test_a_callback_gets_args_state_control_and_the_context(track):
    got = {}

    class Listens(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            got.update(kwargs, args=args, state=state, control=control)

    run = track(Listens())
    run.dispatcher.context["model"] = "the model"
    run.log(loss=1.0)

    assert got == {
        "args": run.args,
        "state": run.state,
        "control": run.control,
        "trainer": run,
        "model": "the model",
        "logs": {"loss": 1.0},
    }


def test_each_receiver_has_logs_of_its_own(track):
    class Pops(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            self.got = dict(logs)
            logs.clear()

    first, second, logs = Pops(), Pops(), {"loss": 1.0}
    track(first, second).send("on_log", logs=logs)

    assert first.got == second.got == logs == {"loss": 1.0}


def test_a_method_that_is_not_overridden_is_never_called(track):
    run = track(Stops())

    run.send("on_epoch_begin")

    assert run.dispatcher.receivers("on_epoch_begin") == ()
    assert run.dispatcher.attachments["stops"].calls == 0


def test_on_and_every_filter_what_a_callback_hears(track):
    heard = []

    class All(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            heard.append(("step", state.global_step))

        def on_epoch_end(self, args, state, control, **kwargs):
            heard.append(("epoch", state.global_step))

        def on_log(self, args, state, control, **kwargs):
            heard.append(("log", state.global_step))

    run = track()
    run.dispatcher.attach(All(), on=["on_step_end", "on_epoch_end"], every=2)
    run.step(3)
    run.log(loss=1.0)
    run.send("on_epoch_end")

    assert heard == [("step", 2), ("epoch", 3)]


def test_two_trainers_never_hear_each_other(track):
    heard = []
    one, other = track(Recorder(heard, "one")), track(Recorder(heard, "other"))

    one.step()

    assert heard == ["one"]
    assert other.dispatcher.attachments["other"].calls == 0


def test_control_may_be_returned_instead_of_changed(track):
    class Returns(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            return TrainerControl(should_save=True, should_training_stop=True)

    run = track(Returns())
    run.step()

    assert run.control.should_save
    assert run.control.stop_reason == "returns asked for it at on_step_end"


def test_the_first_to_ask_for_the_end_is_the_reason(track):
    run = track(Stops(), Recorder([], "innocent"))

    run.step()

    assert run.control.stop_reason == "stops asked for it at on_step_end"


def test_the_end_of_the_run_is_no_reason(track):
    class Ends(TrainerCallback):
        is_flow = True

        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = True

    run = track(Ends(), Recorder([], "innocent"))
    run.step()

    assert run.control.stop_reason is None


def test_listeners_that_come_and_go_are_heard_at_once(track):
    run, heard = track(), []

    def listener(trainer, **_):
        heard.append(run.state.global_step)

    run.step()
    events.on_step_end.connect(listener, run)
    run.step()
    with events.on_step_end.muted():
        run.step()
    run.step()
    events.on_step_end.disconnect(listener, run)
    run.step()

    assert heard == [2, 4]


def test_a_trainer_is_collected_together_with_its_callbacks(track):
    callback = weakref.ref(track(Stops()).dispatcher.attachments["stops"].callback)

    gc.collect()

    assert callback() is None


# -- faults -------------------------------------------------------------------------------------------------------


def test_a_control_callback_that_raises_ends_the_run_and_is_named(track):
    class Broken(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken") as caught:
        track(Broken()).step()

    assert "raised by the callback 'broken'" in "".join(caught.value.__notes__)


def test_an_observer_is_detached_after_three_failures_in_a_row_with_one_event(track, caplog):
    reported = []

    class Reports(TrainerCallback):
        def on_callback_error(self, args, state, control, callback, error, **kwargs):
            reported.append((callback, str(error)))

    run = track(Raises(), Reports())
    for _ in range(5):
        run.log(loss=1.0)

    attachment = run.dispatcher.attachments["raises"]
    assert reported == [("raises", "the tracker is down")]
    assert (attachment.detached_after, attachment.failures, attachment.calls) == (3, 3, 3)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the callback 'raises'" in caplog.text


def test_events_that_go_well_do_not_hide_one_that_always_fails(track):
    class HalfBroken(Raises):
        def on_step_end(self, args, state, control, **kwargs): ...

    run = track(HalfBroken())
    for _ in range(3):
        run.log(loss=1.0)
        run.step()

    assert run.dispatcher.attachments["half_broken"].detached_after == 3


def test_an_observer_that_recovers_stays(track):
    class Flaky(TrainerCallback):
        role = "observer"

        def on_log(self, args, state, control, **kwargs):
            if state.global_step % 3:
                raise RuntimeError

    run = track(Flaky())
    for _ in range(9):
        run.step()
        run.log(loss=1.0)

    attachment = run.dispatcher.attachments["flaky"]
    assert attachment.detached_after is None
    assert attachment.failures == 6


def test_detach_detaches_at_the_first_failure(track):
    run = track()
    run.dispatcher.attach(Raises(), on_error="detach")

    run.log(loss=1.0)
    run.log(loss=1.0)

    assert run.dispatcher.attachments["raises"].detached_after == 1


def test_an_interrupt_goes_through_every_policy(track):
    class Interrupted(TrainerCallback):
        role = "observer"

        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(Interrupted()).step()


def test_the_end_reaches_everyone_even_if_some_raise(track):
    heard = []

    class Ends(TrainerCallback):
        def __init__(self, error):
            self.error = error

        def on_train_end(self, args, state, control, **kwargs):
            heard.append(self.error)
            if self.error:
                raise self.error

    first, second = RuntimeError("first"), RuntimeError("second")
    run = track(Ends(first), Ends(second), Ends(None))

    assert run.dispatcher.send_to_all("on_train_end") is first
    assert heard == [first, second, None]


def test_an_observer_whose_state_cannot_be_had_does_not_end_the_run(track):
    class Stateless(TrainerCallback):
        role = "observer"

        def state_dict(self):
            raise RuntimeError

        def load_state_dict(self, state):
            raise RuntimeError

    run = track(Stateless())

    assert run.dispatcher.state_dicts() == {}
    run.dispatcher.load_state_dicts({"stateless": {}})
    assert run.dispatcher.attachments["stateless"].failures == 2


# -- accounts, state, monitors ------------------------------------------------------------------------------------


def test_calls_and_seconds_are_counted(track):
    run = track(Recorder([], "recorder"))

    run.step(5)

    attachment = run.dispatcher.attachments["recorder"]
    assert attachment.calls == 5
    assert 0 < attachment.seconds < 1


def test_states_come_back_under_the_names_of_their_callbacks(track):
    class Counts(TrainerCallback):
        count = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    one, two = Counts(), Counts()
    run = track(one)
    run.step()
    run.dispatcher.attach(two)
    run.step()
    states = run.dispatcher.state_dicts()

    again = track(Counts(), Counts())
    again.dispatcher.load_state_dicts({**states, "gone": {"count": 9}})

    assert states == {"counts": {"count": 2}, "counts_2": {"count": 1}}
    assert again.dispatcher.state_dicts() == states


def test_monitors_add_to_the_training_record(track):
    class Monitor(TrainerCallback):
        def metrics_to_log(self, args, state, **context):
            return {"step_squared": float(state.global_step**2)}

    run = track(Monitor())
    run.step(3)

    assert run.dispatcher.logged_metrics() == {"step_squared": 9.0}


def test_a_monitor_that_fails_is_an_observer_like_any_other(track):
    class Monitor(TrainerCallback):
        role = "observer"

        def metrics_to_log(self, args, state, **context):
            raise RuntimeError

    run = track(Monitor())

    assert [run.dispatcher.logged_metrics() for _ in range(4)] == [{}] * 4
    assert run.dispatcher.attachments["monitor"].detached_after == 3


# -- callbacks of transformers ------------------------------------------------------------------------------------


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def test_transformers_early_stopping_runs_as_it_is(track, transformers):
    callback = transformers.EarlyStoppingCallback(early_stopping_patience=2)
    run = track(callback, metric_for_best_model="loss", greater_is_better=False, load_best_model_at_end=True)

    run.send("on_train_begin")
    for value in (1.0, 2.0, 3.0):
        run.state.best_metric = 1.0
        run.evaluate(eval_loss=value)

    assert run.control.should_training_stop
    assert run.control.stop_reason == "early_stopping asked for it at on_evaluate"
    assert callback.early_stopping_patience_counter >= 2


def test_the_state_of_transformers_callbacks_is_saved_and_restored_in_place(track, transformers):
    callback = transformers.EarlyStoppingCallback(early_stopping_patience=5)
    callback.early_stopping_patience_counter = 3
    states = track(callback).dispatcher.state_dicts()

    fresh = transformers.EarlyStoppingCallback(early_stopping_patience=1)
    track(fresh).dispatcher.load_state_dicts(states)

    assert (fresh.early_stopping_patience, fresh.early_stopping_patience_counter) == (5, 3)


def test_transformers_printer_and_flow_run_as_they_are(track, transformers, capsys):
    run = track(transformers.PrinterCallback(), transformers.trainer_callback.DefaultFlowCallback())

    run.step(10)
    run.log(loss=0.5)

    assert run.control.should_log
    assert "0.5" in capsys.readouterr().out


def test_a_transformers_callback_keeps_its_own_name_for_on_push_begin(track, transformers):
    class Pushes(transformers.TrainerCallback):
        def on_push_begin(self, args, state, control, **kwargs): ...

    assert "pushes" in track(Pushes()).dispatcher.attachments


def test_a_state_of_transformers_reads_as_ours(tmp_path, transformers):
    theirs = transformers.TrainerState(global_step=7, log_history=[{"loss": 1.0, "step": 7}])
    theirs.save_to_json(str(tmp_path / "trainer_state.json"))

    ours = TrainerState.load_from_json(tmp_path / "trainer_state.json")

    assert (ours.global_step, ours.log_history) == (7, [{"loss": 1.0, "step": 7}])
