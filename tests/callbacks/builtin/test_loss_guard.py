"""What the loss guard calls bad, when it stops, and what it refuses."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from trackside import LossGuardCallback, TrainerControl, TrainerState
from trackside.callbacks.errors import ArgumentError

ARGS = SimpleNamespace(save_strategy="steps", fp16=False)


def judged(guard, *losses, grad_norm=1.0, args=ARGS):
    """Return the controls after updates with these losses."""
    controls = []
    for loss in losses:
        control, state = TrainerControl(), TrainerState(global_step=len(controls))
        guard.on_pre_optimizer_step(args, state, control, loss=lambda loss=loss: loss, grad_norm=grad_norm)
        controls.append(control)
    return controls


@pytest.mark.parametrize("loss", [1.3, 3.2, 5.0, math.inf, math.nan, -math.inf])
def test_a_spike_is_beyond_each_bound_that_is_given(loss):
    usual = [1.0, 1.1, 0.9, 1.0] * 5
    far, large, both = LossGuardCallback(factor=None), LossGuardCallback(z_score=None, factor=4), LossGuardCallback()

    skipped = [judged(guard, *usual, loss)[-1].should_skip_update for guard in (far, large, both)]

    finite = math.isfinite(loss)
    assert skipped == [not finite or loss > 1.5, not finite or loss > 4, not finite or loss > 3]


def test_gradients_that_are_not_finite_are_bad_unless_a_scaler_skips_them():
    scaled = SimpleNamespace(save_strategy="no", fp16=True)

    assert judged(LossGuardCallback(), 1.0, grad_norm=math.inf)[0].should_skip_update
    assert not judged(LossGuardCallback(), 1.0, grad_norm=math.inf, args=scaled)[0].should_skip_update


def test_more_bad_updates_than_the_limit_stop_the_run_with_the_reason():
    *before, last = judged(LossGuardCallback(limit=2, limit_steps=10), *[1.0, math.nan] * 3)

    assert [control.should_training_stop for control in before] == [False] * 5
    assert last.stop_reason == "the loss is nan at step 6; that is bad update number 3 within 10 updates, and limit=2"
    assert last.should_skip_update
    spread = judged(LossGuardCallback(limit=1, limit_steps=4), *[math.nan, *[1.0] * 4] * 3)
    assert not any(control.should_training_stop for control in spread)


def test_the_state_goes_into_another_guard():
    first, second = LossGuardCallback(), LossGuardCallback()
    judged(first, 1.0, 2.0, math.nan)

    second.load_state_dict(first.state_dict())

    assert (list(second.losses), second.bad_steps) == ([1.0, 2.0], [3])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"spike": "rollback"}, "Did you mean 'roll_back'"),
        ({"z_score": 0}, "z_score=0"),
        ({"factor": 1.0}, "factor=1.0"),
        ({"window": 5}, "window=5 is not allowed: at least min_updates=20"),
        ({"rate_factor": 1.5}, "rate_factor=1.5"),
        ({"limit": -1}, "limit=-1"),
        ({"z_score": None, "factor": None}, "z_score=None"),
    ],
)
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(ArgumentError, match=text):
        LossGuardCallback(**options)
