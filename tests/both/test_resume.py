"""Both trainers go on from a checkpoint as if nothing had been."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from support.callback_examples import StopAt

from trackside import TrainerCallback, events
from trackside.callbacks.builtin.learning_rate_monitor import LearningRateMonitorCallback
from trackside.callbacks.errors import ArgumentError, CheckpointError


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("stop", [3, 7])
def test_a_run_that_was_cut_short_and_resumed_is_the_run_that_was_not(trainer_factory, stop, copies):
    def make(folder, **options):
        return trainer_factory(
            model=trainer_factory.model(0.3),
            train_dataset=trainer_factory.dataset(37),
            output_dir=str(trainer_factory.folder / folder),
            num_train_epochs=3,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            logging_steps=2,
            save_strategy="steps",
            save_steps=1,
            save_async=copies,
            **options,
        )

    whole = make("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make("cut", callbacks=[StopAt(stop)]).train()
    resumed = make("cut")
    resumed.train(resume_from_checkpoint=True)

    np.testing.assert_array_equal(trainer_factory.weights(whole), trainer_factory.weights(resumed))
    names = ("loss", "grad_norm", "learning_rate", "epoch", "step", "train_loss")

    def history(trainer):
        return [{name: record.get(name) for name in names} for record in trainer.state.log_history]

    assert history(whole) == history(resumed)


class StopAtSave(TrainerCallback):
    """Ends the run right after the checkpoint of a step, as a kill does."""

    role = "control"

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class SkipsUpdate(TrainerCallback):
    """Skips the update after ``step`` of them."""

    role = "control"

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        control.should_skip_update = state.global_step == self.step


BY_EPOCH = {"logging_strategy": "epoch", "eval_strategy": "epoch", "save_steps": 5}


@pytest.mark.parametrize(
    ("stop", "options", "callback"),
    [
        (5, BY_EPOCH, LearningRateMonitorCallback),
        (10, BY_EPOCH, LearningRateMonitorCallback),
        (3, {"logging_steps": 2, "save_steps": 3}, lambda: SkipsUpdate(3)),
    ],
    ids=["the end of an epoch", "the end of the last epoch", "an update that is skipped"],
)
def test_what_comes_between_a_save_and_the_next_update_is_in_a_resumed_run_as_it_was(
    trainer_factory, stop, options, callback
):
    def history(folder, *others, **resume):
        trainer = trainer_factory(
            output_dir=str(trainer_factory.folder / folder),
            num_train_epochs=2,
            eval_dataset=trainer_factory.dataset(8),
            callbacks=[callback(), *others],
            **{"save_strategy": "steps", **options},
        )
        trainer.train(**resume)
        return [
            {name: value for name, value in record.items() if "runtime" not in name and "per_second" not in name}
            for record in trainer.state.log_history
        ]

    whole = history("whole")
    with pytest.raises(KeyboardInterrupt):
        history("cut", StopAtSave(stop))

    assert history("cut", resume_from_checkpoint=True) == whole
    assert all("learning_rate" in record for record in whole if "loss" in record)


class SignalAt(TrainerCallback):
    """Sends the process a signal to stop, in the update of a step."""

    role = "control"

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_evaluation_that_a_signal_put_off_leaves_the_random_numbers_of_the_run_alone(trainer_factory):
    def run(folder, *callbacks, **resume):
        trainer = trainer_factory(
            model=trainer_factory.model(0.3),
            output_dir=str(trainer_factory.folder / folder),
            num_train_epochs=2,
            eval_dataset=trainer_factory.dataset(8),
            callbacks=[*callbacks],
            **{**SAVES, "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "max_steps": -1},
            load_best_model_at_end=True,
        )
        trainer.train(**resume)
        return trainer_factory.weights(trainer)

    whole = run("whole")
    with pytest.raises(SystemExit):
        run("cut", SignalAt(3))

    np.testing.assert_array_equal(run("cut", resume_from_checkpoint=True), whole)


class Counts(TrainerCallback):
    """A callback with a state of its own."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


SAVES = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}


@pytest.mark.parametrize(("restore", "steps"), [(True, [1, 2, 3, 4]), (False, [3, 4])])
def test_callbacks_get_their_state_back_unless_told_otherwise(trainer_factory, restore, steps):
    trainer_factory(callbacks=[Counts()], **SAVES).train()
    counts = Counts()

    again = trainer_factory(callbacks=[counts], restore_callback_states_from_checkpoint=restore, **SAVES)
    again.train(trainer_factory.folder / "out" / "checkpoint-2")

    assert counts.steps == steps


def test_events_after_a_resume_are_those_of_the_run_that_was_not_cut(trainer_factory):
    def sent_by(trainer):
        sent = []
        for name in events.EVENTS:
            if name not in ("on_init_end", "on_load", "on_train_begin", "on_epoch_begin"):
                trainer.on(name)(lambda sender, state, name=name, **rest: sent.append((name, state.global_step)))
        return sent

    options = {
        **SAVES,
        "max_steps": 9,
        "logging_steps": 3,
        "eval_strategy": "epoch",
        "eval_dataset": trainer_factory.dataset(9),
    }
    whole = trainer_factory(**options)
    sent = sent_by(whole)
    whole.train()
    resumed = trainer_factory(**options)
    sent_again = sent_by(resumed)

    resumed.train(trainer_factory.folder / "out" / "checkpoint-4")

    assert sent_again == sent[sent.index(("on_save", 4)) + 1 :]


def test_on_load_tells_the_checkpoint_and_which_arguments_changed(trainer_factory):
    trainer_factory(**SAVES).train()
    trainer = trainer_factory(**{**SAVES, "max_steps": 6}, learning_rate=1e-3)
    heard = []
    trainer.on("on_load")(lambda sender, checkpoint, differences, **rest: heard.append((checkpoint, differences)))

    trainer.train(resume_from_checkpoint=True)

    ((checkpoint, differences),) = heard
    assert checkpoint.endswith("checkpoint-4")
    assert differences["learning_rate"] == (5e-5, 1e-3)
    assert trainer.state.global_step == 6


def test_ignore_data_skip_begins_the_epoch_anew_and_epochs_only_rise(trainer_factory):
    options = {"save_strategy": "steps", "save_steps": 7, "num_train_epochs": 3}
    trainer_factory(**options).train()
    epochs = []
    again = trainer_factory(ignore_data_skip=True, **options)
    again.on("on_step_end")(lambda sender, state, **kwargs: epochs.append(state.epoch))

    again.train(trainer_factory.folder / "out" / "checkpoint-7")

    assert epochs == pytest.approx([1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6])


def test_resume_true_in_an_empty_folder_is_a_fresh_start(trainer_factory):
    assert trainer_factory(resume_from_checkpoint=True, max_steps=2).train().global_step == 2


def test_a_broken_newest_checkpoint_is_skipped_and_named(trainer_factory, caplog):
    trainer_factory(**SAVES).train()
    weights = trainer_factory.folder / "out" / "checkpoint-4" / trainer_factory.weights_file
    weights.write_bytes(weights.read_bytes()[:-1])
    trainer, loaded = trainer_factory(max_steps=4), []
    trainer.on("on_load")(lambda sender, checkpoint, **rest: loaded.append(checkpoint))

    trainer.train(resume_from_checkpoint=True)

    assert "checkpoint-4" in caplog.text
    assert loaded[0].endswith("checkpoint-2")
    assert trainer.state.global_step == 4


def test_a_checkpoint_that_is_not_there_is_named(trainer_factory):
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        trainer_factory().train(resume_from_checkpoint="nowhere")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("checkpoint-2", r"checkpoint-2 does not exist; .*out holds checkpoint-2, checkpoint-4, and .*=True takes the"),
        (
            "out",
            r"out is a folder of checkpoints, .*; .*out holds checkpoint-2, checkpoint-4, and .*=True takes the newest",
        ),
        (4, "resume_from_checkpoint=4 is not allowed"),
    ],
)
def test_what_is_near_a_checkpoint_that_is_not_there_is_named(trainer_factory, given, message):
    trainer_factory(**SAVES).train()
    given = trainer_factory.folder / "out" if given == "out" else given

    with pytest.raises((ArgumentError, CheckpointError), match=message):
        trainer_factory().train(resume_from_checkpoint=given)


def test_a_text_that_says_true_is_true(trainer_factory):
    trainer_factory(**SAVES).train()

    assert trainer_factory(max_steps=5).train(resume_from_checkpoint="True").global_step == 5


def test_a_checkpoint_of_the_model_only_cannot_be_resumed(trainer_factory):
    trainer_factory(**SAVES, save_only_model=True).train()

    with pytest.raises(CheckpointError, match="written with save_only_model=True"):
        trainer_factory(**{**SAVES, "max_steps": 6}).train(resume_from_checkpoint=True)


def test_a_fresh_start_into_the_checkpoints_of_another_run_needs_to_be_asked_for(trainer_factory):
    trainer_factory(**SAVES).train()

    with pytest.raises(ArgumentError, match=r"resume_from_checkpoint=True to go on.*overwrite_output_dir=True"):
        trainer_factory(**SAVES).train()
    assert trainer_factory(**SAVES, overwrite_output_dir=True).train().global_step == 4


def test_what_a_resume_leaves_out_is_told(trainer_factory, caplog):
    options = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(trainer_factory.folder / "told")}
    with caplog.at_level("WARNING"):
        trainer_factory(max_steps=2, callbacks=[Counts()], **options).train(resume_from_checkpoint=True)
        assert "told holds no checkpoint; the run starts afresh" in caplog.text
        caplog.clear()
        trainer_factory(max_steps=3, **options).train(resume_from_checkpoint=True)

    assert "the checkpoint holds a state of the callback 'counts', which is not attached" in caplog.text
    assert "starts afresh" not in caplog.text
