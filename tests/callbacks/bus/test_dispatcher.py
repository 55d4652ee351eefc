"""What a callback hears and gets, and the account that is kept of it."""

from __future__ import annotations

import gc
import re
import time
import weakref

import pytest
from support.callback_examples import Counts, Recorder, Stops

from trackside import TrainerCallback, TrainerControl
from trackside.callbacks import events
from trackside.callbacks.errors import CallbackError

# -- hearing ----------------------------------------------------------------------------------------------------------


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
        **dict.fromkeys(("current_epoch", "header")),
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


# -- accounts, state, monitors ----------------------------------------------------------------------------------------


def test_calls_and_seconds_are_counted(track):
    run = track(Recorder([], "recorder"))

    run.step(5)

    attachment = run.dispatcher.attachments["recorder"]
    assert attachment.calls == 5
    assert 0 < attachment.seconds < 1


def test_each_callback_is_charged_with_its_own_time(track):
    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep(0.1)

    class Fails(Slow):
        role = "observer"

        def on_step_end(self, args, state, control, **kwargs):
            super().on_step_end(args, state, control, **kwargs)
            raise RuntimeError("after a while")

    class Quick(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs): ...

    run = track()
    quick = [(Quick(), {"name": name, "role": "observer"}) for name in ("first", "between", "last")]
    run.dispatcher.attach_all([quick[0], (Slow(), {"role": "observer"}), quick[1], (Fails(), {}), quick[2]])
    run.step(2)

    seconds = {name: item.seconds for name, item in run.dispatcher.attachments.items()}
    assert seconds["slow"] >= 0.2 <= seconds["fails"]
    assert max(seconds["first"], seconds["between"], seconds["last"]) < 0.1
    assert {item.calls for item in run.dispatcher.attachments.values()} == {2}


def test_states_come_back_under_the_names_of_their_callbacks(track):
    one, two = Counts(), Counts()
    run = track(one)
    run.step()
    run.dispatcher.attach(two)
    run.step()
    states = run.dispatcher.state_dicts()

    again = track(Counts(), Counts())
    again.dispatcher.load_state_dicts({**states, "gone": {"count": 9}})

    assert states == {"counter": {"count": 2}, "counter_2": {"count": 1}}
    assert again.dispatcher.state_dicts() == states


def test_monitors_add_to_the_training_record(track):
    class Monitor(TrainerCallback):
        def metrics_to_log(self, args, state, **context):
            return {"step_squared": float(state.global_step**2)}

    run = track(Monitor())
    run.step(3)

    assert run.dispatcher.logged_metrics({}) == {"step_squared": 9.0}


def test_a_monitor_that_fails_is_an_observer_like_any_other(track):
    class Monitor(TrainerCallback):
        role = "observer"

        def metrics_to_log(self, args, state, **context):
            raise RuntimeError

    run = track(Monitor())

    assert [run.dispatcher.logged_metrics({}) for _ in range(4)] == [{}] * 4
    assert run.dispatcher.attachments["monitor"].detached_after == 3


@pytest.mark.parametrize("role", ["control", "observer", "listener"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("should_train_stop", "control.should_train_stop=True: no flag .* Did you mean 'should_training_stop'?"),
        ("save", "control.save=True: no flag has this name. Did you mean 'should_save'?"),
        ("stop", "control.stop is a method; call it"),
    ],
)
def test_a_misspelt_flag_is_a_failure_of_its_callback(track, caplog, role, name, message):
    class Sets(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.own_note = "kept"
            setattr(control, name, True)

    Sets.role = "observer" if role == "observer" else "control"
    run = track(*([] if role == "listener" else [Sets()]))
    if role == "listener":
        events.on_step_end.connect(lambda sender, control, **kwargs: setattr(control, name, True), sender=run)

    if role == "observer":
        run.step()
        assert re.search(message, caplog.text)
    else:
        with pytest.raises(CallbackError, match=message):
            run.step()

    assert vars(run.control).keys() - {"own_note"} == vars(TrainerControl()).keys()
    assert not run.control.should_training_stop
