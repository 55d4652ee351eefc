"""The command that sends the events of a run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from trackside.callbacks.builtin.csv_logger import CSVLoggerCallback
from trackside.callbacks.builtin.journal import JournalCallback
from trackside.cli.main import main
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer

JOURNAL = Path("out/journal.jsonl")
FRAMEWORK = installed_frameworks()[0]


def test_the_command_replays_by_name_and_says_how_it_went(capsys):
    tiny_trainer(FRAMEWORK, "out", [JournalCallback(), CSVLoggerCallback("live.csv")]).train()

    code = main(["replay", str(JOURNAL), "--callback", "csv", "--callbacks.early_stopping.patience", "2"])

    assert code == 0
    text = capsys.readouterr().out
    assert "replayed up to step 12 of 12" in text
    assert "early_stopping  control" in text
    assert Path("out/replay/log.csv").read_text() == Path("live.csv").read_text()


def test_the_command_tells_where_another_patience_would_have_stopped(capsys):
    args = {"num_train_epochs": 6, "learning_rate": 0.0, "save_strategy": "no"}
    tiny_trainer(FRAMEWORK, "out", [JournalCallback()], **args).train()
    written = []

    for patience in ("1", "3", "99"):
        assert main(["replay", str(JOURNAL), "--callbacks.early_stopping.patience", patience]) == 0
        written.append(capsys.readouterr().out.splitlines()[1])

    assert written[0].startswith("stopped at step 12: eval_loss has not improved on ")
    assert written[1].startswith("stopped at step 24: eval_loss has not improved on ")
    assert written[2] == "no callback would have stopped it before its end"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere.jsonl", "--callback", "csv"], "nowhere.jsonl: the file does not exist."),
        (["jurnal.jsonl", "--callback", "csv"], "the file does not exist. Did you mean 'journal.jsonl'?"),
        ([".", "--callback", "csv"], "journal.jsonl: no run begins in this journal"),
        (["text.yaml", "--callback", "csv"], "text.yaml: this is not a journal. The callback 'journal' writes one"),
        (["folder", "--callback", "csv"], "folder/journal.jsonl: the file does not exist. The callback 'journal'"),
        (["journal.jsonl", "--callback", "csv"], "journal.jsonl: no run begins in this journal"),
        (["x", "--callback", "csv", "--patience", "3"], "command line: --patience 3: this is not an option"),
        (["x", "--calback", "csv"], "this is not an option;  ... Did you mean '--callback'?"),
        (["x"], "command line: there is nothing to replay to"),
        (["x", "--callback", "cvs"], "command line: callbacks.cvs: no callback named  ... Did you mean 'csv'?"),
        (["x", "--callbacks.csv.pth", "y"], "command line: callbacks.csv.pth='y':  ... Did you mean 'path'?"),
        (
            ["x", "--callbacks.early_stopping.patience", "z"],
            "callbacks.early_stopping.patience='z': a whole number is",
        ),
    ],
)
def test_a_wrong_command_is_told_in_one_line(argv, message, capsys):
    Path("journal.jsonl").write_text('{"event": "on_log"\n')
    Path("text.yaml").write_text("args:\n")
    Path("folder").mkdir()

    code = main(["replay", *argv])

    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("trackside: error: ")
    assert all(part in said for part in message.split(" ... "))
    assert said.count("\n") == 1
