"""Small callbacks that several tests attach."""

from __future__ import annotations

from trackside import TrainerCallback


class Recorder(TrainerCallback):
    """Notes its own name in a list that several share."""

    def __init__(self, heard, name=None):
        self.heard = heard
        self.name = name

    def on_step_end(self, args, state, control, **kwargs):
        self.heard.append(self.name)


class Observing(Recorder):
    role = "observer"


class Raises(TrainerCallback):
    role = "observer"

    def on_log(self, args, state, control, **kwargs):
        raise RuntimeError("the tracker is down")


class Counts(TrainerCallback):
    """Counts the steps, and keeps their number in a checkpoint."""

    name = "counter"

    def __init__(self):
        self.count = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Replaces(TrainerCallback):
    """Removes a callback by its name after some updates, and adds another one."""

    def __init__(self, step, removed="", added=None):
        self.step, self.removed, self.added = step, removed, added

    def on_step_end(self, args, state, control, trainer=None, **kwargs):
        if state.global_step == self.step:
            trainer.remove_callback(self.removed)
            if self.added is not None:
                trainer.add_callback(self.added)


class Listens(TrainerCallback):
    """Hears what happens inside an update, which on TensorFlow then goes in pieces."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        pass


class RaisesAt(TrainerCallback):
    """Raises at the end of a step."""

    def __init__(self, step, error=None):
        self.step, self.error = step, error or RuntimeError("boom")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise self.error


class StopAt(TrainerCallback):
    """Ends a run as a kill would, after what the step before has saved."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Stops(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True
