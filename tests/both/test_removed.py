"""Callbacks that are removed within a run leave nothing open."""

from __future__ import annotations

import pytest

from trackside import ProgressCallback, TrainerCallback
from trackside.integrations._base.tracker import Tracker


class ListTracker(Tracker):
    """Keeps what it is asked to do in a list."""

    def __init__(self):
        super().__init__()
        self.done = []

    def open(self, args, state, resume, **kwargs):
        self.done.append("opened" if not resume else "continued")

    def write(self, values, step):
        self.done.append(step)

    def last_steps(self):
        return None

    def close(self, status, state):
        self.done.append(status)


class Removes(TrainerCallback):
    """Removes callbacks at step 2, and attaches one of them again at step 4."""

    def __init__(self, *removed):
        self.removed, self.seen = removed, []

    def on_step_end(self, args, state, control, trainer, **kwargs):
        if state.global_step == 2:
            for each in self.removed:
                trainer.remove_callback(each)
            self.seen = [*self.removed[0].done]
        if state.global_step == 4:
            trainer.add_callback(self.removed[0])


@pytest.mark.parametrize("background", [False, True])
def test_a_tracker_that_is_removed_within_a_run_ends_and_attached_again_continues(trainer_factory, background):
    tracker, bar = ListTracker(), ProgressCallback()
    tracker.background = background
    removes = Removes(tracker, bar)

    trainer_factory(callbacks=[tracker, bar, removes], logging_steps=1, max_steps=5).train()

    assert removes.seen == ["opened", 1, "finished"]
    assert bar.training_bar is None
    assert tracker.done == ["opened", 1, "finished", "continued", 5, 5, "finished"]
