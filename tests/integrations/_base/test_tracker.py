from __future__ import annotations

import pytest

from trackside import TrainerState
from trackside.integrations._base.tracker import Tracker


class ListTracker(Tracker):
    """Keeps points in a list, after those of an earlier part of the run."""

    background = False

    def __init__(self, last_steps=None):
        super().__init__()
        self.found = last_steps
        self.points = []
        self.opened, self.closed = [], []

    def open(self, args, state, resume, **kwargs):
        self.resumes = resume
        self.opened.append(self.run_id)

    def write(self, values, step):
        self.points += [(name, step) for name in values]

    def last_steps(self):
        return self.found

    def close(self, status, state):
        self.status = status
        self.closed.append((self.run_id, status))


def resumed(track, tracker, run_id="old"):
    """Resume a run at step 4 with a tracker, and log once more."""
    history = [{"loss": 1.0, "step": 2}, {"loss": 1.0, "step": 4}, {"eval_loss": 1.0, "step": 4}]
    run = track(tracker, state=TrainerState(global_step=4, max_steps=9, log_history=history))
    tracker.run_id = run_id
    run.send("on_train_begin")
    run.step(2)
    run.log(loss=0.5)
    run.send("on_train_end")
    return tracker.points


def test_a_run_that_is_continued_gets_the_points_that_it_lacks(track):
    tracker = ListTracker({"train/loss": 2})

    assert resumed(track, tracker) == [("train/loss", 4), ("eval/loss", 4), ("train/loss", 6)]
    assert tracker.resumes
    assert tracker.status == "finished"


def test_points_that_the_killed_process_wrote_after_its_checkpoint_are_not_written_again(track):
    assert resumed(track, ListTracker({"train/loss": 6, "eval/loss": 4})) == []


def test_a_run_whose_steps_are_unknown_goes_on_from_the_checkpoint(track):
    assert resumed(track, ListTracker(None)) == [("train/loss", 6)]


def test_a_run_that_the_checkpoint_does_not_know_gets_the_whole_history(track):
    tracker = ListTracker(None)

    points = resumed(track, tracker, run_id=None)

    assert points == [("train/loss", 2), ("train/loss", 4), ("eval/loss", 4), ("train/loss", 6)]
    assert tracker.run_id
    assert not tracker.resumes


def test_a_record_after_the_end_reaches_the_run_of_the_training_which_ends_as_it_had_ended(track, caplog):
    run = track(tracker := ListTracker())
    run.send("on_train_begin")
    run.step(2)
    run.send("on_exception", exception=RuntimeError())
    run.send("on_train_end")

    run.log(later=1.0)
    run.log(note="of no number")
    run.send("on_predict", metrics={"test_loss": 1.0})
    run.evaluate(eval_loss=1.0)

    assert tracker.points == [("train/later", 2), ("test/loss", 2), ("eval/loss", 2)]
    assert tracker.opened == [tracker.run_id] * 4
    assert tracker.closed == [(tracker.run_id, "failed")] * 4
    assert "shows only numbers; it leaves out train/note" in caplog.text


def test_a_tracker_without_one_of_its_methods_cannot_be_made():
    class Half(Tracker):
        def write(self, values, step):
            pass

    with pytest.raises(TypeError, match="abstract"):
        Half()
