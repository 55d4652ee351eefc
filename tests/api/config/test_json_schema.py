"""The JSON schema accepts what the configuration accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trackside.cli.main import main
from trackside.config.json_schema import schema, type_schema
from trackside.config.source import read_file

DIGITS = Path(__file__).parents[3] / "examples" / "digits.yaml"


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_the_schema_knows_every_argument_and_every_registered_callback():
    properties = schema()["properties"]

    assert properties["args"]["properties"]["learning_rate"]["type"] == "number"
    assert properties["args"]["properties"]["eval_strategy"]["enum"] == ["no", "steps", "epoch"]
    assert "description" in properties["args"]["properties"]["max_steps"]
    assert "patience" in properties["callbacks"]["properties"]["early_stopping"]["anyOf"][0]["properties"]


def test_the_command_prints_it(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_the_demo_is_valid(validator):
    validator.validate(read_file(DIGITS).values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"modle": "x.Y"},
        {"args": {"learning_rat": 1}},
        {"args": {"max_steps": "many"}},
        {"callbacks": {"early_stopping": {"patiense": 3}}},
        {"callbacks": {"csv": {"on": "on_logs"}}},
        {"model": {"class_path": "x.Y", "width": 3}},
    ],
)
def test_what_the_command_line_refuses_is_not_valid(validator, wrong):
    assert not validator.is_valid(wrong)


def test_what_json_has_no_word_for_may_be_anything():
    assert type_schema(object) == {}
    assert type_schema(int | object) == {}
