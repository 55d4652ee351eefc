"""Command-line parsers of other projects read TrainingArguments, every field of it, and subclasses with more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from trackside import Seq2SeqTrainingArguments, TrainingArguments
from trackside.trainer.arguments.fields import with_types

GIVEN = {
    "output_dir": "out",
    "learning_rate": "1e-3",
    "num_train_epochs": "2",
    "eval_strategy": "steps",
    "eval_steps": "7",
    "optim": "sgd",
    "run_name": "mine",
    "dataloader_multiprocessing_context": "spawn",
    "evaluation_strategy": "steps",
}
LINE = [text for name, value in GIVEN.items() for text in (f"--{name}", value)]


@dataclasses.dataclass
class OwnArguments(TrainingArguments):
    """A subclass as scripts declare it."""

    lengths: list[int] = dataclasses.field(default_factory=list)
    mine: int = 3

    def __post_init__(self):
        super().__post_init__()
        self.twice = 2 * self.mine


def simple_parsing(cls: Any, line: list[str]) -> Any:
    return pytest.importorskip("simple_parsing").parse(cls, args=line)


def tyro(cls: Any, line: list[str]) -> Any:
    return pytest.importorskip("tyro").cli(cls, args=line)


def jsonargparse(cls: Any, line: list[str]) -> Any:
    parser = pytest.importorskip("jsonargparse").ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "args")
    named = [text.replace("--", "--args.") for text in line]
    return parser.instantiate_classes(parser.parse_args(named)).args


def hf_argument_parser(cls: Any, line: list[str]) -> Any:
    parser = pytest.importorskip("transformers").HfArgumentParser(cls)
    return parser.parse_args_into_dataclasses(line, look_for_args_file=False)[0]


def trl_parser(cls: Any, line: list[str]) -> Any:
    return pytest.importorskip("trl").TrlParser(cls).parse_args_and_config(line)[0]


@pytest.fixture(autouse=True)
def fresh_types():
    """Undo what HfArgumentParser did elsewhere: it writes types without None into the fields of a class."""
    for cls in (TrainingArguments, Seq2SeqTrainingArguments, OwnArguments):
        with_types(cls)


PARSERS: list[Callable[[Any, list[str]], Any]] = [
    simple_parsing,
    tyro,
    jsonargparse,
    hf_argument_parser,
    trl_parser,
]


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
def test_a_parser_reads_every_field(parse):
    for cls in (TrainingArguments, Seq2SeqTrainingArguments):
        args = parse(cls, LINE)

        assert args == cls(**GIVEN)
        assert type(args) is cls


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
def test_a_parser_reads_the_fields_of_a_subclass(parse):
    args = parse(OwnArguments, [*LINE, "--mine", "5"])

    assert args == OwnArguments(**GIVEN, mine=5)
    assert (args.twice, args.lengths) == (10, [])
