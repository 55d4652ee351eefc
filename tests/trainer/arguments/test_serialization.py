"""Arguments as plain values."""

from __future__ import annotations

import copy
import pickle

import pytest

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.arguments.base import BaseTrainingArguments
from trackside.trainer.arguments.enums import IntervalStrategy

CHANGED = {
    "eval_strategy": IntervalStrategy.STEPS,
    "load_best_model_at_end": True,
    "optim_args": {"betas": (0.9, 0.95)},
    "callbacks": {"early_stopping": {"patience": 3}},
    "report_to": ["tensorboard"],
    "label_names": ["labels"],
    "logging_steps": 0.25,
}


def test_arguments_come_back_from_dictionary_json_file_pickle_and_copy(tmp_path):
    args = BaseTrainingArguments(**CHANGED)
    path = tmp_path / "args.json"
    path.write_text(args.to_json_string())

    assert BaseTrainingArguments.from_dict(args.to_dict()) == args
    assert BaseTrainingArguments.from_json(args.to_json_string()) == args
    assert BaseTrainingArguments.from_json(path) == args
    assert pickle.loads(pickle.dumps(args)) == args
    assert copy.deepcopy(args) == args
    assert args != BaseTrainingArguments()


def test_the_dictionary_holds_values_not_enums():
    assert type(BaseTrainingArguments(**CHANGED).to_dict()["eval_strategy"]) is str


def test_from_dict_takes_a_part_and_aliases():
    assert BaseTrainingArguments.from_dict({"evaluation_strategy": "epoch"}).eval_strategy == "epoch"


def test_from_dict_names_the_nearest_field():
    with pytest.raises(ArgumentError, match=r"is not a field of \w+\. Did you mean 'learning_rate'\?"):
        BaseTrainingArguments.from_dict({"learning_rat": 0.1})


@pytest.mark.parametrize("text", ["{", '{"a": }'])
def test_from_json_refuses_what_is_no_json(text):
    with pytest.raises(ArgumentError, match="JSON only"):
        BaseTrainingArguments.from_json(text)


def test_sanitized_values_are_plain_and_hold_the_batch_sizes():
    values = BaseTrainingArguments(per_device_train_batch_size=4).to_sanitized_dict()

    assert {type(value) for value in values.values()} <= {bool, int, float, str}
    assert (values["train_batch_size"], values["eval_batch_size"]) == (4, 8)
    assert values["eval_steps"] == "None"


def test_replace_makes_a_checked_copy_and_infers_anew():
    args = BaseTrainingArguments(eval_strategy="steps", load_best_model_at_end=True, callbacks={"a": {}})

    changed = args.replace(metric_for_best_model="accuracy")
    off = args.replace(eval_strategy="no", load_best_model_at_end=False)

    assert changed.greater_is_better is True
    assert (off.do_eval, off.eval_steps, off.metric_for_best_model) == (None, None, None)
    assert (args.greater_is_better, args.do_eval) == (False, True)
    assert changed.callbacks is not args.callbacks
    with pytest.raises(ArgumentError, match="learning_rate=-1"):
        args.replace(learning_rate=-1)


def test_differences_name_what_changed_but_not_how_the_run_was_started():
    old = BaseTrainingArguments(optim_args={"betas": (0.9, 0.95)}).to_dict() | {"unknown": 1}
    new = BaseTrainingArguments(learning_rate=0.1, resume_from_checkpoint=True, optim_args={"betas": [0.9, 0.95]})

    assert new.differences(old) == {"learning_rate": (5e-5, 0.1)}
    assert new.differences({}) == {}


def test_the_representation_shows_what_is_not_default():
    assert repr(BaseTrainingArguments(learning_rate=0.1)) == "BaseTrainingArguments(learning_rate=0.1)"
