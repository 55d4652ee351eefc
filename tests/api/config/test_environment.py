"""References to the environment and secrets in configurations."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.run_configs import RUN, refused

from trackside.callbacks.errors import ConfigError
from trackside.cli.command_line import command_that_resumes
from trackside.cli.main import main
from trackside.config.run_config import load_config

NOTIFY = """\
class Notify:
    role = "observer"

    def __init__(self, url: str = "", api_key: str = "", port: int = 1):
        pass

    def on_log(self, args, state, control, **kwargs): ...
"""

WITH_NOTIFY = """\
callbacks:
  notify:
    class_path: notify_beside.Notify
    init_args:
      url: ${ENV:TRACKSIDE_HOOK}
      api_key: named-secret
      port: ${ENV:TRACKSIDE_PORT,7}
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch, write):
    sys.modules.pop("notify_beside", None)
    write("notify_beside.py", NOTIFY)
    monkeypatch.delenv("TRACKSIDE_HOOK", raising=False)
    monkeypatch.setenv("TRACKSIDE_WIDTH", "12")


def test_a_component_gets_the_values_of_variables_when_it_is_made(write, monkeypatch):
    overrides = [("model.init_args.width", "${ENV:TRACKSIDE_WIDTH}"), ("model.init_args.label", "a-${ENV:NONE,b}")]
    model = load_config([write("run.yaml", RUN)], overrides).components()["model"]
    monkeypatch.setenv("TRACKSIDE_WIDTH", "13")

    made = model.build()

    assert (made.width, made.label) == (13, "a-b")


def test_a_variable_that_is_not_set_is_told_with_its_place_when_the_component_is_made(write):
    model = load_config([write("run.yaml", RUN)], [("model.init_args.label", "${ENV:NONE}")]).components()["model"]

    with pytest.raises(
        ConfigError, match=r"^command line: model.init_args.label=.*environment variable NONE is not set"
    ):
        model.build()


def test_a_variable_of_a_wrong_type_is_told_before_anything_is_made(write, monkeypatch):
    monkeypatch.setenv("TRACKSIDE_WIDTH", "wide")

    message = refused(RUN, ("model.init_args.width", "${ENV:TRACKSIDE_WIDTH}"), write=write)

    assert message == "command line: model.init_args.width='${ENV:TRACKSIDE_WIDTH}': a whole number is needed"


def test_arguments_take_references_and_tell_the_place_of_a_missing_one(write):
    text = "args:\n  seed: ${ENV:TRACKSIDE_WIDTH}\n"

    assert load_config([write("run.yaml", text)]).args.seed == 12
    assert refused("args:\n  seed: ${ENV:NONE}\n", write=write).startswith(
        "run.yaml:2: args.seed='${ENV:NONE}' is not allowed: the environment variable NONE is not set"
    )


def test_plan_shows_references_and_masks_and_needs_no_variable(write, capsys):
    write("run.yaml", WITH_NOTIFY)

    assert main(["plan", "run.yaml", "--seed", "${ENV:NONE,3}"]) == 0

    text = capsys.readouterr().out
    assert "url='${ENV:TRACKSIDE_HOOK}', api_key='***', port='${ENV:TRACKSIDE_PORT,7}'" in text
    assert "${ENV:NONE,3}" in text
    assert "named-secret" not in text


def test_training_tells_a_missing_variable_of_a_callback_before_the_model_is_made(write, capsys):
    write("made_beside.py", "def model():\n    open('made', 'w')\n")
    write("run.yaml", WITH_NOTIFY)

    assert main(["train", "run.yaml", "--model", "made_beside.model", "--train_data", "made_beside.model"]) == 2

    said = capsys.readouterr().err
    assert said.startswith(
        "trackside: error: run.yaml:5: callbacks.notify.init_args.url='${ENV:TRACKSIDE_HOOK}': the env"
    )
    assert not Path("made").exists()


def test_errors_and_the_map_of_callbacks_do_not_hold_secrets(write):
    overrides = [("callbacks.notify.init_args.api_key.x", "typed-secret"), ("callbacks.notify.init_args.port", "x")]
    marked = WITH_NOTIFY.replace("${ENV:TRACKSIDE_HOOK}", "!secret marked-secret")

    config = load_config([write("run.yaml", marked)])

    assert "-secret" not in json.dumps(config.args.to_dict())
    for override in overrides:
        assert "-secret" not in refused(marked, override, write=write)


def test_the_command_that_resumes_masks_secrets():
    argv = ["train", "run.yaml", "--callbacks.notify.api_key", "typed-secret", "--callbacks.notify.url=${ENV:HOOK}"]

    assert command_that_resumes(argv) == (
        "trackside train run.yaml --callbacks.notify.api_key '***' --callbacks.notify.url '${ENV:HOOK}' --resume"
    )
