"""The merged configuration as a file: secrets, references, folders of modules, and what a run left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.run_configs import RUN

from trackside.callbacks.errors import ConfigError
from trackside.cli.main import main
from trackside.config.merged import merged_text
from trackside.config.run_config import load_config


def test_secrets_are_masked_and_references_stay(write, monkeypatch):
    monkeypatch.setenv("TRACKSIDE_LABEL", "from the environment")
    overrides = [("model.label", "${ENV:TRACKSIDE_LABEL}"), ("args.run_name", "${ENV:TRACKSIDE_LABEL}")]
    file = write("run.yaml", RUN + "  webhook: {enabled: false, api_key: abc-123}\n")

    text = merged_text(load_config([file], overrides))

    assert "abc-123" not in text
    assert "from the environment" not in text
    assert text.count("${ENV:TRACKSIDE_LABEL}") == 2
    assert "# Secrets are left out: fill in ***" in text


def test_modules_are_found_wherever_the_file_lies(write, tmp_path, monkeypatch):
    text = merged_text(load_config([write("run.yaml", RUN)]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(tmp_path)])
    sys.modules.pop("parts_beside", None)
    Path("run.yaml").write_text(text)

    assert set(load_config(["run.yaml"]).components()) >= {"model"}


@pytest.mark.parametrize("written", ["parts", "[parts]"])
def test_python_path_is_relative_to_its_file(write, tmp_path, written):
    (tmp_path / "sub" / "parts").mkdir(parents=True)
    (tmp_path / "sub" / "parts" / "only_in_parts.py").write_text("def data():\n    return [1]\n")
    file = tmp_path / "sub" / "run.yaml"
    file.write_text(RUN.replace("parts_beside.data", "only_in_parts.data") + f"python_path: {written}\n")

    data = load_config([file]).components()["train_data"]

    assert data.build() == [1]


def test_a_folder_of_python_path_that_does_not_exist_is_told(write, caplog):
    load_config([write("run.yaml", RUN)], [("python_path", "/no/such/folder")])

    assert "command line: python_path: the folder /no/such/folder does not exist" in caplog.messages


@pytest.mark.parametrize("written", ["3", "{a: b}", "[1]"])
def test_a_python_path_that_is_not_one_is_told(write, written):
    with pytest.raises(ConfigError, match=r"run.yaml:\d+: python_path.*: a folder or a list of folders is needed"):
        load_config([write("run.yaml", RUN + f"python_path: {written}\n")])


def test_an_option_of_a_component_needs_no_init_args_in_its_key(write):
    config = load_config([write("run.yaml", RUN)], [("model.width", "9")])

    assert config.components()["model"].init_args["width"] == 9


def test_the_name_of_a_dataset_in_a_map_is_not_an_option(write):
    file = write("run.yaml", RUN + "eval_data:\n  easy: {class_path: parts_beside.data}\n")

    config = load_config([file], [("eval_data.hard.class_path", "parts_beside.data")])

    assert set(config.components()["eval_data"]) == {"easy", "hard"}


def test_print_config_prints_what_train_would_read(write, capsys):
    file = write("run.yaml", RUN)

    assert main(["train", str(file), "--print-config", "--model.width", "7", "--resume"]) == 0

    text = capsys.readouterr().out
    merged = load_config([write("merged.yaml", text)])
    assert merged.components()["model"].init_args["width"] == 7
    assert merged.args.resume_from_checkpoint is None
