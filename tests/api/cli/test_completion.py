"""The help of `trackside train` and the scripts with which shells complete it."""

from __future__ import annotations

import subprocess

import pytest

from trackside.cli.main import main
from trackside.trainer.arguments.base import BaseTrainingArguments
from trackside.trainer.arguments.groups import groups_of


def test_every_argument_is_in_the_section_in_which_it_is_declared():
    groups = groups_of(BaseTrainingArguments)

    assert [item.name for item in groups["ways to try"]] == [
        *("fast_dev_run", "overfit_batches", "limit_train_batches", "limit_eval_batches"),
    ]
    assert sum(map(len, groups.values())) == len(BaseTrainingArguments.fields())
    assert "more" not in groups


def test_the_help_of_train_has_the_arguments_of_the_files_framework(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "tf.yaml").write_text("framework: tensorflow\nmodel: x.y\n")
    said = {}
    for name, words in (("pytorch", ["train", "--help"]), ("tensorflow", ["train", "tf.yaml", "--help"])):
        pytest.importorskip({"pytorch": "torch"}.get(name, name))
        with pytest.raises(SystemExit):
            main(words)
        said[name] = capsys.readouterr().out

    assert "ways to try:\n  --fast_dev_run true|false       One batch through train" in said["pytorch"]
    assert "--steps_per_execution" in said["tensorflow"]
    assert "--steps_per_execution" not in said["pytorch"]
    text = " ".join(said["pytorch"].split())
    assert "--save_strategy NAME When to save: no, steps, epoch, best. Default: steps." in text
    assert "--per_device_train_batch_size N Examples per device in a training micro-batch. Default: 8." in text


def test_the_shells_get_scripts_that_know_commands_options_and_choices(capsys):
    pytest.importorskip("shtab")
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(word in script for word in ("lr-find", "fast_dev_run", "cosine_with_restarts"))
        if shell == "bash":
            line = "COMP_WORDS=(trackside train --fast); COMP_CWORD=2; _shtab_trackside; echo ${COMPREPLY[@]}"
            done = subprocess.run(["bash", "-c", f"{script}\n{line}"], capture_output=True, text=True, check=True)
            assert done.stdout.split() == ["--fast_dev_run"]


def test_a_shell_without_a_script_is_an_error(capsys):
    with pytest.raises(SystemExit):
        main(["completion", "cmd"])

    assert "invalid choice: 'cmd'" in capsys.readouterr().err
