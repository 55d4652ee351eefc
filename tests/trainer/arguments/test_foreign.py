"""Fields of transformers' TrainingArguments: each is accepted at its default, and does its work or is refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import typing
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


AMONG = {
    "lr_scheduler_type": "cosine",
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "logging_strategy": "epoch",
    "include_num_input_tokens_seen": True,
    "log_level": "error",
    "log_level_replica": "error",
    "report_to": ["jsonl"],
    "eval_strategy": "epoch",
    "include_for_metrics": ["loss"],
    "save_strategy": "epoch",
    "max_steps": 7,
    "dataloader_multiprocessing_context": "spawn",
    "train_sampling_strategy": "sequential",
    "fsdp": "full_shard",
    "debug": "underflow_overflow",
    "hub_strategy": "all",
    "parallelism_config": "any",
}
"""Other values of fields that are choices; those of other fields follow from their types."""

NEEDED = {
    "load_best_model_at_end": {"eval_strategy": "epoch", "save_strategy": "epoch"},
    "dataloader_persistent_workers": {"dataloader_num_workers": 1},
    "dataloader_prefetch_factor": {"dataloader_num_workers": 1},
}
"""What a field needs beside it."""


def another_value(name):
    if name in AMONG:
        return AMONG[name]
    default, kind = default_of(THERE[name]), typing.get_type_hints(transformers.TrainingArguments)[name]
    kinds = [typing.get_origin(member) or member for member in typing.get_args(kind) or (kind,)]
    values = {bool: not default, int: default, float: default, dict: {"a": 1}, list: ["x"], str: "x"}
    first = type(default) if type(default) in values else next(member for member in values if member in kinds)
    return (default or 0) / 2 + 0.25 if first is float else (default or 0) + 1 if first is int else values[first]


@pytest.mark.parametrize("name", THERE)
def test_no_field_of_transformers_is_dropped_silently_at_another_value(name, tmp_path):
    value, needed = another_value(name), NEEDED.get(name, {})
    given = {"output_dir": str(tmp_path), **needed, name: default_of(THERE[name])}
    before = TrainingArguments(**given if name != "output_dir" else {"output_dir": "out"}).to_dict()

    if name in REFUSED:
        told = f"^{name}=.* (is not allowed: .|needs the package)"
        with pytest.raises((ArgumentError, MissingPackageError), match=told):
            TrainingArguments(**{**given, name: value})
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        args = TrainingArguments(**{**given, name: value})

    is_carried = args.to_dict() != before
    is_told = any(str(warning.message).startswith(name) for warning in told)
    assert is_carried or is_told or name in DONE_ANYWAY


REFUSED = {
    *(field.name for field in FOREIGN_FIELDS if field.name in THERE and not isinstance(field.default, bool)),
    *("dataloader_in_order", "eval_use_gather_object", "hub_always_push", "push_to_hub"),
    *("use_cache", "hub_private_repo"),
    *("fsdp", "fsdp_config", "liger_kernel_config", "optim_target_modules", "use_liger_kernel"),  # which need more
}
"""Fields whose other value is an error."""

DONE_ANYWAY = {"enable_jit_checkpoint", "log_on_each_node"}
"""Fields both of whose values ask for what is always done."""


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
    with pytest.warns(FutureWarning, match="is deprecated since trackside 0.1.0 and is removed in 1.0.0; use"):
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
