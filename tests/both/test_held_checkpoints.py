"""A checkpoint that a background observer works on is neither deleted nor replaced until it is done."""

from __future__ import annotations

import os
import time

import pytest

from trackside import TrainerCallback


class Upload(TrainerCallback):
    """Notes, file by file, whether the checkpoint it was given stays the same."""

    role = "observer"
    background = True

    def __init__(self, seconds=0.05, raises_at=()):
        self.seconds = seconds
        self.raises_at = raises_at
        self.done = []

    def on_save(self, args, state, control, checkpoint=None, **kwargs):
        before = os.stat(checkpoint).st_ino, sorted(os.listdir(checkpoint))
        if state.global_step in self.raises_at:
            raise RuntimeError("the bucket is gone")
        time.sleep(self.seconds)
        assert (os.stat(checkpoint).st_ino, sorted(os.listdir(checkpoint))) == before
        self.done.append(state.global_step)


class Hangs(Upload):
    timeout_s = 0.2

    def on_save(self, args, state, control, checkpoint=None, **kwargs):
        time.sleep(2)


def trained(trainer_factory, *callbacks, **args):
    values = {"max_steps": 5, "save_steps": 1, "save_strategy": "steps", "save_total_limit": 1, **args}
    trainer = trainer_factory(callbacks=list(callbacks), **values)
    trainer.train()
    return trainer


def test_what_two_observers_work_on_stays_until_both_are_done_and_is_deleted_at_the_end(trainer_factory):
    slow, fast = Upload(), Upload(seconds=0.0)

    trainer = trainer_factory(max_steps=5, save_steps=1, save_strategy="steps", save_total_limit=1)
    trainer.add_callback(slow, name="slow")
    trainer.add_callback(fast, name="fast")
    trainer.train()

    assert slow.done == fast.done == [1, 2, 3, 4, 5]
    assert trainer_factory.checkpoints() == ["checkpoint-5"]


def test_the_checkpoints_that_wait_are_bounded_and_the_wait_is_told_once(trainer_factory, caplog):
    most = []

    class Counts(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            most.append(len(trainer_factory.checkpoints()))

    trained(trainer_factory, Upload(seconds=0.3), Counts(), max_steps=8)  # slower than a save, however slow the disk

    assert max(most) <= 3
    assert len([record for record in caplog.records if "saves wait for it" in record.message]) == 1


def test_a_checkpoint_of_the_same_step_replaces_the_first_when_it_is_done(trainer_factory):
    class SavesTwice(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            control.should_save = True

    upload = Upload()
    trainer = trained(trainer_factory, upload, SavesTwice(), save_steps=5)

    assert trainer.callback_report["upload"].failures == 0
    assert upload.done == [5, 5]


@pytest.mark.parametrize("fate", ["removed", "failing"])
def test_an_observer_that_leaves_during_its_work_holds_until_it_is_done(trainer_factory, fate):
    upload = Upload(seconds=0.3, raises_at=(2, 3, 4) if fate == "failing" else ())

    class Leaves(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2 and fate == "removed":
                kwargs["trainer"].remove_callback(upload)

    trainer = trained(trainer_factory, upload, Leaves(), max_steps=4)

    deadline = time.monotonic() + 10
    while 1 not in upload.done and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 1 in upload.done
    if fate == "failing":
        assert str(trainer.callback_report["upload"].last_error) == "the bucket is gone"


def test_a_call_that_times_out_holds_no_more(trainer_factory):
    hangs = Hangs()
    start = time.monotonic()

    trainer = trained(trainer_factory, hangs)

    assert trainer.callback_report["hangs"].detached_after == 1
    assert trainer_factory.checkpoints() == ["checkpoint-5"]
    assert time.monotonic() - start < 30


def test_what_a_killed_process_held_is_deleted_by_the_run_that_goes_on(trainer_factory):
    trained(trainer_factory, save_total_limit=None, max_steps=3)  # as if three had been held

    trainer = trainer_factory(max_steps=4, save_steps=1, save_strategy="steps", save_total_limit=1)
    trainer.train(resume_from_checkpoint=True)

    assert trainer_factory.checkpoints() == ["checkpoint-4"]
