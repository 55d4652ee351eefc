"""The page of a run whose output_dir is an address."""

from __future__ import annotations

import tempfile
from pathlib import Path

import fsspec
import pytest
from support.pages import Page
from support.remote_folders import address_in

from trackside import JournalCallback
from trackside.callbacks.errors import ConfigError
from trackside.cli.main import main
from trackside.report import read_run, watch
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer
from trackside.trainer.staging import StagingFolder

pytest.importorskip("plotly")


def train(address, *callbacks, **args):
    trainer = tiny_trainer(installed_frameworks()[0], address, list(callbacks), save_strategy="epoch", **args)
    trainer.train()
    return trainer


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_the_page_of_an_address_is_that_of_the_folder(kind, tmp_path, capsys):
    address = address_in(kind, tmp_path)
    trainer = train(address, JournalCallback())
    capsys.readouterr()

    assert main(["report", address, address + "/journal.jsonl"]) == 0

    assert capsys.readouterr().out.startswith("report.html (")
    assert "uploads its journal with each checkpoint" in Page.of("report.html").text
    run, local = read_run(address), read_run(trainer.args.output_dir)
    assert (run.name, run.folder, run.args) == ("run", address, local.args)
    assert run.record.records == local.record.records
    assert [start.step for start in run.record.starts] == [start.step for start in local.record.starts] == [0]
    assert [(each.name, each.reason, each.size_bytes) for each in run.checkpoints] == [
        (each.name, None, each.size_bytes) for each in local.checkpoints
    ]


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_an_address_is_replayed_and_drawn_as_the_folder_is(kind, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    address = address_in(kind, tmp_path)
    local = str(train(address, JournalCallback()).args.output_dir)
    capsys.readouterr()
    patience = ("--callbacks.early_stopping.patience", "1", "--callback", "csv")

    for out in (local, address, f"{address}/journal.jsonl"):
        assert main(["replay", out, *patience]) == 0
    replayed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("replayed", "output"))]
    for out in (local, address):
        assert main(["plot", out]) == 0

    assert len({*replayed[::2]}) == 1
    assert replayed[1::2] == [f"output in {local}/replay", "output in replay", "output in replay"]
    assert Path(local, "replay/log.csv").read_text() == Path("replay/log.csv").read_text()
    assert capsys.readouterr().out.splitlines() == [f"{local}/loss_curve.png", "loss_curve.png"]
    assert Path(local, "loss_curve.png").read_bytes() == Path("loss_curve.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plot"], "memory://none/run has no trainer_state.json"),
        (
            ["replay", "--callback", "csv"],
            "memory://none/run/journal.jsonl: the file does not exist. The callback 'jou",
        ),
        (["report"], "memory://none/run: the address has neither journal.jsonl nor a checkpoint"),
        (["checkpoints", "verify"], "memory://none/run: there are no checkpoints to verify"),
        (["checkpoints", "prune", "--keep", "1"], "memory://none/run: prune deletes in local folders only"),
        (["checkpoints", "diff", "memory://none/run"], "memory://none/run: diff reads whole files, and compares local"),
        (["watch"], "memory://none/run: watch reads the local folder that the run works in"),
    ],
)
def test_every_command_that_reads_a_run_takes_an_address_or_refuses_it_by_name(words, expected, capsys):
    assert main([*words, "memory://none/run"]) == 2

    said = capsys.readouterr().err
    assert said.startswith(f"trackside: error: {expected}")
    assert said.count("\n") == 1


def test_the_page_of_an_address_without_a_journal_has_what_the_checkpoints_tell(tmp_path):
    address = address_in("memory", tmp_path)
    trainer = train(address)

    run = read_run(address)

    assert [item.step for item in run.record.records if "loss" in item.values] == [
        record["step"] for record in trainer.state.log_history if "loss" in record
    ]
    assert run.args["max_steps"] == trainer.args.max_steps
    assert [each.reason for each in run.checkpoints] == [None, None]


def test_an_address_that_cannot_be_read_is_told(monkeypatch, capsys):
    def refuse(self, path, **options):
        raise PermissionError("no credentials")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "ls", refuse)

    assert main(["checkpoints", "ls", "memory://a/run"]) == 2
    assert "memory://a/run: the address cannot be read: PermissionError" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="memory://a/run: the address cannot be read: PermissionError: no credent"):
        read_run("memory://a/run")


def test_watch_names_the_local_folder_of_a_run_at_an_address(tmp_path):
    address = address_in("memory", tmp_path)
    train(address, JournalCallback())
    folder = StagingFolder.of(address, None)

    with pytest.raises(ConfigError, match="watch reads the local folder .*here, " + str(Path(folder))), watch(address):
        pass
    with watch(folder, port=0) as page:
        assert page.startswith("http://127.0.0.1:")
