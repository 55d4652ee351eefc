"""What the arguments ask for holds whatever is removed, muted or returned; ``on`` and ``every`` count for monitors."""

from __future__ import annotations

import contextlib

import pytest

from trackside import DefaultFlowCallback, TrainerCallback, TrainerControl, events

BY_STEPS = {
    "max_steps": 3,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
}
BY_EPOCHS = dict.fromkeys(("logging_strategy", "eval_strategy", "save_strategy"), "epoch") | {"num_train_epochs": 2}


def outline(factory, trainer):
    """Return where a run ended, why, what it logged and what it saved."""
    records = [
        (record["step"], *sorted(name for name in record if "loss" in name)) for record in trainer.state.log_history
    ]
    return trainer.state.global_step, trainer.state.stop_reason, records, factory.checkpoints()


def run(factory, *muted, callbacks=(), without=(), **options):
    trainer = factory(eval_dataset=factory.dataset(8), callbacks=list(callbacks), overwrite_output_dir=True, **options)
    for callback in without:
        trainer.pop_callback(callback)
    with contextlib.ExitStack() as stack:
        for event in muted:
            stack.enter_context(events.EVENTS[event].muted())
        trainer.train()
    return outline(factory, trainer)


@pytest.mark.parametrize("options", [BY_STEPS, BY_EPOCHS], ids=["steps", "epochs"])
def test_muting_mutes_listeners_and_never_the_flow(trainer_factory, options):
    expected = run(trainer_factory, **options)

    assert run(trainer_factory, *events.EVENTS, **options) == expected
    assert len(expected[2]) > 2
    assert expected[3]


@pytest.mark.parametrize("options", [BY_STEPS, BY_EPOCHS], ids=["steps", "epochs"])
def test_it_holds_without_the_default_flow_and_beside_a_second_one(trainer_factory, options):
    expected = run(trainer_factory, **options)

    assert run(trainer_factory, without=[DefaultFlowCallback], **options) == expected
    assert run(trainer_factory, callbacks=[DefaultFlowCallback()], **options) == expected


@pytest.mark.parametrize("event", ["on_step_end", "on_log"])
def test_max_steps_holds_where_a_callback_returns_a_new_control(trainer_factory, event):
    def forget(self, args, state, control, **kwargs):
        return TrainerControl()

    forgets = type("Forgets", (TrainerCallback,), {event: forget})

    step, reason, _, saved = run(trainer_factory, callbacks=[forgets()], **BY_STEPS)

    assert (step, reason) == (3, None)
    assert "checkpoint-3" in saved


def test_a_callback_may_leave_out_what_the_arguments_ask_for(trainer_factory):
    class Skips(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_log = control.should_save = False

    _, _, records, saved = run(trainer_factory, callbacks=[Skips()], **BY_STEPS)

    assert records == [(2, "eval_loss"), (3, "eval_loss"), (3, "train_loss")]
    assert saved == ["checkpoint-3"]  # the last one


def test_a_muted_listener_is_heard_again_afterwards(trainer_factory):
    heard = []
    trainer = trainer_factory(max_steps=2)
    trainer.on("on_step_end")(lambda trainer, state, **_: heard.append(state.global_step))

    with events.on_step_end.muted():
        trainer.train()
    trainer.train()

    assert heard == [1, 2]


class Marks(TrainerCallback):
    """A monitor that closes something at the end."""

    def __init__(self):
        self.ends = 0

    def metrics_to_log(self, args, state, **context):
        return {"mark": 1.0}

    def on_log(self, args, state, control, **kwargs):
        pass

    def on_train_end(self, args, state, control, **kwargs):
        self.ends += 1


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(
    ("placement", "steps"),
    [({}, [1, 2, 3, 4]), ({"every": 2}, [2, 4]), ({"on": "on_log"}, [1, 2, 3, 4]), ({"on": "on_train_begin"}, [])],
    ids=str,
)
def test_on_and_every_count_for_monitors_and_never_hide_the_end(trainer_factory, placement, steps, background):
    marks = Marks()
    trainer = trainer_factory(max_steps=4, logging_steps=1)
    trainer.add_callback(marks, role="observer", background=background, **placement)

    trainer.train()

    assert [record["step"] for record in trainer.state.log_history if "mark" in record] == steps
    assert marks.ends == 1
