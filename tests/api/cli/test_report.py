"""The summary and the picture at the end of a run."""

from __future__ import annotations

import pytest

from trackside.cli.report import curve, draw_loss_curve, metrics_line

HISTORY = [
    {"loss": 2.0, "step": 10, "epoch": 0.5},
    {"loss": 1.5, "step": 20, "epoch": 1.0},
    {"eval_loss": 1.4, "eval_accuracy": 0.5, "step": 20, "epoch": 1.0},
]


def test_a_line_of_metrics_leaves_speeds_out():
    metrics = {"eval_loss": 0.25, "eval_accuracy": 0.5, "eval_runtime": 1.0, "eval_samples_per_second": 3.0, "epoch": 1}

    assert metrics_line(metrics, "eval") == "loss 0.2500  accuracy 0.5000"


def test_a_curve_holds_the_steps_at_which_the_metric_was_logged():
    assert curve(HISTORY, "eval_loss") == [(20, 1.4)]


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:2], []])
def test_the_picture_is_a_png_whatever_was_logged(history, tmp_path):
    pytest.importorskip("matplotlib")

    path = draw_loss_curve(history, tmp_path / "new" / "curve.png")

    assert path.read_bytes().startswith(b"\x89PNG")
