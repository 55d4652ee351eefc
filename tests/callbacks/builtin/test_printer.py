from __future__ import annotations

from trackside import PrinterCallback
from trackside.callbacks.builtin.printer import format_logs


def test_a_record_is_one_line_with_the_step_in_front(track, capsys):
    run = track(PrinterCallback())

    run.step(3)
    run.log(loss=0.123456, total_flos=1e12, epoch=0.25)

    assert capsys.readouterr().out == "step 3, epoch 0.25: loss 0.1235\n"


def test_only_the_first_process_of_a_machine_prints(track, capsys):
    run = track(PrinterCallback())
    run.state.is_local_process_zero = False

    run.log(loss=1.0)

    assert capsys.readouterr().out == ""


def test_values_that_are_no_floats_are_shown_as_they_are():
    assert format_logs({"loss": float("nan"), "note": "text", "count": 12345678}, 1) == (
        "step 1: loss nan, note text, count 12345678"
    )


def test_a_long_text_is_cut():
    line = format_logs({"note": "x" * 100_000, "whole": 10**400}, 1)

    assert line == f"step 1: note {'x' * 97}..., whole 1{'0' * 96}..."
