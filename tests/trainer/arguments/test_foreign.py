"""Fields of transformers' TrainingArguments: each is accepted at its default, and does its work or is refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings

import pytest
import transformers

from trackside import TFTrainingArguments, TrainingArguments
from trackside.callbacks.errors import ArgumentError, MissingPackageError
from trackside.trainer.arguments.foreign import FOREIGN_FIELDS

THERE = {item.name: item for item in dataclasses.fields(transformers.TrainingArguments)}


def default_of(item):
    return item.default if item.default is not dataclasses.MISSING else item.default_factory()


@pytest.mark.parametrize("name", THERE)
def test_every_field_of_transformers_is_accepted_at_its_default(name, tmp_path):
    value = str(tmp_path) if name == "output_dir" else default_of(THERE[name])

    args = TrainingArguments(**{"output_dir": str(tmp_path), name: value})

    getattr(args, name)  # a callback written for transformers may read it


@pytest.mark.parametrize("field", FOREIGN_FIELDS, ids=lambda field: field.name)
@pytest.mark.parametrize("args_class", [TrainingArguments, TFTrainingArguments])
def test_a_field_without_a_counterpart_takes_what_changes_nothing_and_says_what_to_use_for_the_rest(
    field, args_class, tmp_path
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in (field.default, *field.same):
            assert getattr(args_class(str(tmp_path), **{field.name: value}), field.name) == value
    assert field.name not in args_class(str(tmp_path)).to_dict()
    if isinstance(field.default, bool) and field.same:  # both values are taken
        return
    wrong = not field.default if isinstance(field.default, bool) else "something else"
    with pytest.raises(ArgumentError, match=field.name) as caught:
        args_class(str(tmp_path), **{field.name: wrong})
    assert field.instead in str(caught.value)


def test_what_is_done_otherwise_is_told():
    with pytest.warns(UserWarning, match="average_tokens_across_devices=False: an update is always the mean"):
        TrainingArguments("out", average_tokens_across_devices=False)


def test_copies_keep_them():
    args = TrainingArguments("out", hub_private_repo=False, use_mps_device=True)

    for other in (copy.deepcopy(args), pickle.loads(pickle.dumps(args)), args.replace(run_name=None)):
        assert other == args
    assert dataclasses.replace(args).use_mps_device is True


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"activation_checkpointing": True}, "gradient_checkpointing", True),
        ({"gradient_checkpointing": None}, "gradient_checkpointing", False),
        ({"activation_checkpointing_kwargs": {"a": 1}}, "gradient_checkpointing_kwargs", {"a": 1}),
        ({"include_num_input_tokens_seen": True}, "include_num_input_tokens_seen", "all"),
        ({"include_num_input_tokens_seen": False}, "include_num_input_tokens_seen", "no"),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length", True),
    ],
)
def test_another_name_or_form_sets_the_field(given, field, value):
    assert getattr(TrainingArguments("out", **given), field) == value


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"adafactor": True}, "optim", "adafactor"),
        ({"include_inputs_for_metrics": True}, "include_for_metrics", ["inputs"]),
    ],
)
def test_a_deprecated_name_sets_its_field_and_warns(given, field, value):
    with pytest.warns(FutureWarning, match="is deprecated; use"):
        args = TrainingArguments("out", **given)

    assert getattr(args, field) == value


def test_a_subclass_may_declare_one_of_them_anew(tmp_path):
    @dataclasses.dataclass
    class Args(TrainingArguments):
        push_to_hub: bool = True
        hub_model_id: str = dataclasses.field(default_factory=str)

    args = Args(str(tmp_path), hub_model_id="mine")

    assert (args.push_to_hub, args.hub_model_id, args.to_dict()["hub_model_id"]) == (True, "mine", "mine")


def test_liger_needs_its_package_and_its_options_need_it():
    with pytest.raises(MissingPackageError, match="liger-kernel"):
        TrainingArguments("out", use_liger_kernel=True)
    with pytest.raises(ArgumentError, match="only with use_liger_kernel=True"):
        TrainingArguments("out", liger_kernel_config={"rope": True})


@pytest.mark.parametrize("name", ["use_cache", "use_ipex"])
def test_an_unknown_name_is_not_told_to_be_one_of_them(name):
    with pytest.raises(ArgumentError) as caught:
        TrainingArguments("out", **{name + "s": True})

    assert name not in str(caught.value).replace(name + "s", "")
