"""FSDP2 in two and three real processes on gloo: the same run as with DDP and as alone, and its checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.ranks import Job
from torch import nn
from workers.fsdp_worker import FSDP_CASES, Layered

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import ArgumentError, CheckpointError
from trackside.trainer.distributed.launcher import ProcessRank
from trackside.trainer.pytorch.distributed.fsdp import modules_to_shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fsdp")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[Any]:
    names = ["sharded", "sharded_unusual_models", "sharded_saving", "sharded_bf16", "overflow", "best_is_gone"]
    names += ["other_optimizer"]
    return Job("fsdp_worker.py", 2, folder / "two", names).results()


@pytest.fixture(scope="module")
def resumed(folder: Path, two: list[Any]) -> dict[int, Any]:
    """What one process with and without FSDP, and three with it, make of the checkpoint of the two."""
    found = {}
    for world, names in (
        (1, ["sharded", "sharded_unusual_models", "unsharded_resuming", "sharded_resuming"]),
        (3, ["sharded", "sharded_unusual_models", "sharded_resuming"]),
    ):
        (folder / str(world)).mkdir()
        (folder / str(world) / "shards").symlink_to(folder / "two" / "shards")
        found[world] = Job("fsdp_worker.py", world, folder / str(world), names).results()[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("case", FSDP_CASES)
def test_fsdp_ddp_and_one_process_come_to_the_same(
    case: str, accumulation: int, two: list[Any], resumed: dict[int, Any]
) -> None:
    alone = resumed[1]["sharded"][f"plain, accumulation {accumulation}"]

    for world in (two[0], two[1], resumed[3]):
        for name in (case, "plain"):
            found = world["sharded"][f"{name}, accumulation {accumulation}"]
            for what in ("weights", "losses", "norms"):
                assert found[what] == pytest.approx(alone[what], rel=0, abs=1e-10), (name, what)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["unusual model", "tokens", "few tokens"])
def test_fsdp_takes_tied_frozen_and_unused_parameters_and_weights(
    case: str, two: list[Any], resumed: dict[int, Any]
) -> None:
    alone = resumed[1]["sharded_unusual_models"][case]

    for world in (two[0], two[1], resumed[3]):
        found = world["sharded_unusual_models"][case]
        for what in ("weights", "losses", "norms"):
            assert found[what] == pytest.approx(alone[what], rel=0, abs=1e-10), what


@pytest.mark.slow
@pytest.mark.parametrize(("world", "how"), [(1, "unsharded"), (1, "sharded"), (3, "sharded")])
def test_a_sharded_checkpoint_resumes_on_another_number_of_processes(
    world: int, how: str, two: list[Any], resumed: dict[int, Any]
) -> None:
    whole = two[0]["sharded"]["full_shard, accumulation 1"]["weights"]

    assert resumed[world][f"{how}_resuming"]["weights"] == pytest.approx(whole, rel=0, abs=1e-10)


@pytest.mark.slow
def test_shards_resume_with_another_optimizer_whose_state_begins_anew_and_is_told(two: list[Any]) -> None:
    first, second = (rank["other_optimizer"] for rank in two)
    anew = "the optimizer is {}, and that of the checkpoint is AdamW; its state does not fit and is dropped"

    for name, steps in {"sgd": [], "rmsprop": [2.0], "adamw_torch": [6.0]}.items():
        assert first[name]["steps"] == steps  # updates that the state has seen
        assert first[name]["weights"] == second[name]["weights"]
        assert first[name]["losses"][:4] == first["adamw_torch"]["losses"][:4]  # those before the resume
    assert anew.format("SGD") in " ".join(first["sgd"]["told"])
    assert anew.format("RMSprop") in " ".join(first["rmsprop"]["told"])
    assert first["adamw_torch"]["betas"] == [0.5, 0.999]
    assert "dropped" not in " ".join(first["adamw_torch"]["told"])


@pytest.mark.slow
def test_the_final_model_is_whole_and_loads_anywhere(two: list[Any], folder: Path) -> None:
    model = Layered()
    model.load_state_dict(load_file(folder / "two" / "final" / "model.safetensors"))

    weights = torch.cat([p.detach().flatten() for p in model.parameters()])

    assert weights.tolist() == two[0]["sharded_saving"]["weights"]
    assert two[0]["sharded_saving"] == two[1]["sharded_saving"]


@pytest.mark.slow
def test_mixed_precision_of_fsdp_trains(two: list[Any]) -> None:
    losses = two[0]["sharded_bf16"]["losses"]

    assert losses == two[1]["sharded_bf16"]["losses"]
    assert sum(losses[3:]) < sum(losses[:3])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DDP", "FSDP"])
def test_an_overflow_on_one_rank_holds_the_step_back_on_all(kind: str, two: list[Any]) -> None:
    first, second = (rank["overflow"][kind] for rank in two)

    assert first == second
    assert first["held"] == [False, True, False, False, False, False]
    assert first["scale"] == 2.0**15
    assert all(map(math.isfinite, first["weights"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DDP", "FSDP"])
def test_a_best_checkpoint_that_is_gone_leaves_the_last_weights_on_all_ranks(kind: str, two: list[Any]) -> None:
    first, second = (rank["best_is_gone"][kind] for rank in two)

    assert first == second
    assert first["gone"] == first["last"]
    assert not first["best"]  # and no later one was better


@pytest.mark.slow
def test_the_weights_of_a_sharded_checkpoint_load_into_a_trainer_that_does_not_fit(
    two: list[Any], folder: Path
) -> None:
    trainer = Trainer(nn.Linear(6, 3).double(), TrainingArguments(str(folder / "else"), disable_tqdm=True))

    with pytest.raises(CheckpointError, match="do not fit the model"):
        trainer.load_weights(folder / "two" / "shards" / "checkpoint-4")


def test_layers_of_a_list_are_sharded_by_default_and_others_as_told() -> None:
    model = nn.Sequential(nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), nn.Conv1d(2, 2, 1))

    assert [type(module).__name__ for module in modules_to_shard(model, {})] == ["Linear", "Linear"]
    assert modules_to_shard(model, {"transformer_layer_cls_to_wrap": ["Conv1d"]}) == [model[1]]
    assert modules_to_shard(model, {"min_num_params": 20}) == [model[0][0], model[0][1]]
    with pytest.raises(ArgumentError, match="Did you mean 'Conv1d'"):
        modules_to_shard(model, {"transformer_layer_cls_to_wrap": "Conv1D"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "only with several processes, which torchrun starts"),
        ({"bf16_full_eval": True}, "not together with fsdp"),
        ({"fsdp_config": {"min_num_parms": 3}}, "Did you mean 'min_num_params'"),
        ({"fsdp_config": {"min_num_params": "many"}}, "a whole number of parameters"),
        ({"fsdp_config": {"min_num_params": True}}, "a whole number of parameters"),
        ({"fsdp_config": {"min_num_params": 3, "transformer_layer_cls_to_wrap": "Linear"}}, "either min_num_params or"),
        ({"fsdp_config": {"mixed_precision": {"param_dtyp": "bf16"}}}, "Did you mean 'param_dtype'"),
        ({"fsdp_config": {"mixed_precision": {"param_dtype": "bf61"}}}, "'param_dtype'\\]='bf61' .* mean 'bf16'"),
        ({"fsdp_config": {"mixed_precision": {"param_dtype": ["bf16"]}}}, "fp32, bf16, fp16"),
    ],
)
def test_what_does_not_go_with_fsdp_fails_at_construction(
    values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ProcessRank(world_size=2, launcher="torchrun") if values else ProcessRank()
    monkeypatch.setattr(TrainingArguments, "place", place)

    with pytest.raises(ArgumentError, match=message):
        TrainingArguments("out", fsdp="full_shard", **values)


def test_auto_find_batch_size_goes_with_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingArguments, "place", ProcessRank(world_size=2))

    with pytest.raises(ArgumentError, match="auto_find_batch_size=True is not allowed: only with one process"):
        TrainingArguments("out", auto_find_batch_size=True)
