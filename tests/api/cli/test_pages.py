"""The options by which a run of the command line is watched."""

from __future__ import annotations

from pathlib import Path

import pytest

from trackside.callbacks.builtin.journal import read_journal
from trackside.cli.command_line import command_that_resumes
from trackside.cli.main import main

pytest.importorskip("torch")


def test_watch_attaches_what_a_page_shows_and_what_it_asks_for(run_yaml, capsys):
    assert main(["train", run_yaml, "--watch", "--callbacks.control_files.every_s", "0.5"]) == 0

    last = list(read_journal("out/journal.jsonl"))[-1]
    assert {"journal", "control_files", "csv"} <= set(last["costs"])
    assert Path("out/.control").is_dir()


def test_an_option_after_watch_still_counts(run_yaml, capsys):
    assert main(["train", run_yaml, "--watch", "--callbacks.journal.enabled", "false"]) == 0

    assert not Path("out/journal.jsonl").exists()


def test_the_command_that_goes_on_is_watched_too():
    assert command_that_resumes(["train", "run.yaml", "--watch"]) == "trackside train run.yaml --watch --resume"
