from __future__ import annotations

import pytest

from trackside import TerminateOnNaNCallback


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf"])
def test_a_loss_that_is_not_finite_stops_training_with_the_reason(track, loss):
    run = track(TerminateOnNaNCallback())

    run.step(7)
    run.log(loss=float(loss))

    assert run.control.should_training_stop
    assert run.control.stop_reason == f"loss is {loss} at step 7"


def test_other_records_and_finite_losses_do_not(track):
    run = track(TerminateOnNaNCallback())

    run.log(loss=1e30)
    run.log(eval_loss=float("nan"))

    assert not run.control.should_training_stop
