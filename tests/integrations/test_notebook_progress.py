from __future__ import annotations

import pytest

pytest.importorskip("IPython")

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from trackside.integrations.notebook_progress import ROWS, NotebookProgressCallback


def test_the_table_has_a_row_for_each_step_that_was_logged(make_trainer):
    InteractiveShell.instance()
    trainer = make_trainer(callback := NotebookProgressCallback(), disable_tqdm=False)
    with capture_output() as captured:
        trainer.train()

    history, last = trainer.state.log_history, captured.outputs[-1].data["text/html"]
    assert "step 12/12, epoch 2.00, 0:00:00 left" in last
    assert {step: row["loss"] for step, row in callback.rows.items()} == {
        record["step"]: record["loss"] for record in history if "loss" in record
    }
    for record in history:
        if "eval_accuracy" in record:
            assert f"<td>{record['eval_accuracy']:.4g}</td>" in last
    assert last.count("<tr>") == 7
    assert trainer.callback_report["notebook"].failures == 0
    assert not {"progress", "printer"} & set(trainer.callback_report)


def test_the_display_is_one_that_is_written_anew(make_trainer):
    InteractiveShell.instance()
    with capture_output() as captured:
        make_trainer(NotebookProgressCallback()).train()

    first, *updates = captured.outputs
    assert [output.update for output in updates] == [True] * len(updates)
    assert {output.transient["display_id"] for output in updates} == {first.transient["display_id"]}


def test_only_the_newest_rows_are_shown(track):
    run = track(callback := NotebookProgressCallback())
    for step in range(ROWS + 5):
        run.log(loss=float(step))
        run.step()

    assert callback.html(run.state).count("<tr>") == ROWS + 1
    assert f"<td>{ROWS + 4}</td>" in callback.html(run.state)


def test_names_are_escaped(track):
    run = track(callback := NotebookProgressCallback())
    run.log(**{"<script>": 1.0})

    assert "&lt;script&gt;" in callback.html(run.state)
    assert "<script>" not in callback.html(run.state)


def test_outside_of_a_notebook_nothing_fails(track, capsys):
    InteractiveShell.clear_instance()
    run = track(NotebookProgressCallback())
    for event in ("on_train_begin", "on_evaluate", "on_train_end"):
        run.send(event)

    assert run.dispatcher.attachments["notebook"].failures == 0
    assert "HTML object" in capsys.readouterr().out
