"""Secrets are in no file of a run, on both trainers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from trackside.callbacks.errors import ArgumentError, ConfigError
from trackside.callbacks.secrets import Secret

MODULE = """
from trackside.callbacks.secrets import Secret

class Notify:
    role = "observer"
    made = None

    def __init__(self, url: str, api_key: str = "", hidden: Secret = "", port: int = 1):
        Notify.made = self
        self.url, self.api_key, self.hidden, self.port = url, api_key, hidden, port
        if port == 13:
            raise ValueError(f"{url} refuses {api_key} and {hidden}")

    def on_log(self, args, state, control, **kwargs):
        raise RuntimeError(f"{self.url} refuses {self.api_key} and {self.hidden}")

    def state_dict(self):
        return {"url": self.url}
"""

SECRETS = {
    "url": "${ENV:TRACKSIDE_HOOK}",
    "api_key": "named-secret-1",
    "hidden": "marked-secret-2",
    "port": "${ENV:TRACKSIDE_PORT,7}",
}


@pytest.fixture
def callbacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TRACKSIDE_HOOK", "https://example.org/environment-secret-3")
    Path("notify_with_secrets.py").write_text(MODULE)
    entry = {"class_path": "notify_with_secrets.Notify", "init_args": SECRETS}
    return {"notify": entry, "journal": {}, "tensorboard": {}}


@pytest.fixture
def make(callbacks, trainer_factory):
    """Make a trainer whose arguments hold the configuration of the callbacks."""

    def make(notify=(), **args):
        entry = {**callbacks["notify"], "init_args": {**SECRETS, **dict(notify)}}
        values = {"max_steps": 4, "logging_steps": 1, "save_steps": 4, "save_strategy": "steps", **args}
        made = trainer_factory.args_class(
            str(trainer_factory.folder / "out"), callbacks={**callbacks, "notify": entry}, disable_tqdm=True, **values
        )
        data, loss = trainer_factory.dataset(40), trainer_factory.loss
        return trainer_factory.trainer_class(trainer_factory.model(), made, train_dataset=data, loss_fn=loss)

    return make


def test_secrets_reach_the_callback_and_no_file_and_no_log(make, tmp_path):
    pytest.importorskip("tensorboard")
    handler = logging.FileHandler("all.log")
    logging.getLogger("trackside").addHandler(handler)

    try:
        trainer = make()
        trainer.train()
    finally:
        logging.getLogger("trackside").removeHandler(handler)

    made = trainer.callback_report["notify"].callback
    url = "https://example.org/environment-secret-3"
    assert (made.url, made.api_key, made.hidden, made.port) == (url, "named-secret-1", "marked-secret-2", 7)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert {"all.log", "journal.jsonl", "training_args.json"} <= {path.name for path in files}
    assert [path.name for path in files if b"-secret-" in path.read_bytes()] == []
    assert b"${ENV:TRACKSIDE_HOOK}" in next(tmp_path.rglob("training_args.json")).read_bytes()
    assert "*** refuses *** and ***" in Path("all.log").read_text()


def test_a_constructor_that_tells_a_secret_is_told_without_it(make):
    with pytest.raises(ConfigError, match=r"\*\*\* refuses \*\*\* and \*\*\* .*api_key='\*\*\*'") as caught:
        make({"port": 13})

    assert "-secret-" not in str(caught.value)


def test_a_variable_that_is_not_set_is_told_by_name(make, monkeypatch):
    monkeypatch.delenv("TRACKSIDE_HOOK")

    with pytest.raises(ConfigError, match=r"notify.init_args.url=.*the environment variable TRACKSIDE_HOOK is not set"):
        make()


def test_arguments_come_from_the_environment_and_are_written_as_references(trainer_factory, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKSIDE_STEPS", "3")
    monkeypatch.setenv("TRACKSIDE_OUT", str(tmp_path / "there"))

    args = trainer_factory.args_class(
        "${ENV:TRACKSIDE_OUT}", max_steps="${ENV:TRACKSIDE_STEPS}", seed="${ENV:NO_SEED,7}"
    )
    copy, again = args.replace(learning_rate=1.0), type(args).from_dict(args.to_dict())

    assert (args.output_dir, args.max_steps, args.seed) == (str(tmp_path / "there"), 3, 7)
    for made in (args, copy, again):
        written = made.to_dict()
        assert (written["output_dir"], written["max_steps"]) == ("${ENV:TRACKSIDE_OUT}", "${ENV:TRACKSIDE_STEPS}")
        assert made.max_steps == 3
    args.max_steps = 5
    assert args.to_dict()["max_steps"] == 5
    with pytest.raises(ArgumentError, match=r"run_name='\$.ENV:NO_NAME.' is not allowed: the environment variable NO"):
        trainer_factory.args_class("out", run_name="${ENV:NO_NAME}")


def test_a_marked_value_is_masked_in_arguments(trainer_factory):
    args = trainer_factory.args_class("out", run_name=Secret("marked"), callbacks={"x": {"url": Secret("hidden")}})

    assert args.run_name == "marked"
    assert "marked" not in args.to_json_string() + repr(args)
    assert args.to_dict()["callbacks"] == {"x": {"url": "***"}}
