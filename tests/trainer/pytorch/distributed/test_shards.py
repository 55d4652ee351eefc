"""Shards are data: reading them runs no code, and reads no file that is not one of them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.torch_models import mlp, weights_of

from trackside import Trainer
from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing.manifest import Contents, contents_of
from trackside.trainer.pytorch.distributed.fsdp import load_shards, write_shards

Make = Callable[..., Trainer]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


def trained(**options: Any) -> tuple[Any, Any]:
    """Return a model and its optimizer, which has a state."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def written(tmp_path: Path) -> tuple[Any, Any]:
    model, optimizer = trained(lr=0.5)
    write_shards(tmp_path, model, optimizer)
    return model, optimizer


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
class TestShards:
    def test_weights_and_optimizer_state_come_back(self, written: tuple[Any, Any], tmp_path: Path) -> None:
        model, optimizer = trained(lr=0.1)

        load_shards(contents_of(tmp_path), model, optimizer)

        assert torch.equal(weights_of(model), weights_of(written[0]))
        assert optimizer.param_groups[0]["lr"] == 0.5
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
        for own, other in zip(optimizer.state.values(), written[1].state.values(), strict=True):
            assert all(torch.equal(own[name], other[name]) for name in other)

    def test_what_lies_where_is_json(self, written: tuple[Any, Any], tmp_path: Path) -> None:
        index = json.loads((tmp_path / "shards" / "index.json").read_text())

        assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["__0_0.distcp", "index.json"]
        assert "model.0.weight" in index["tensors"]
        assert "optimizer.param_groups.0.lr" in index["values"]

    def test_a_value_that_is_code_is_refused(self, tmp_path: Path) -> None:
        model, optimizer = trained()
        optimizer.param_groups[0]["more"] = Payload(tmp_path / "proof")
        write_shards(tmp_path, model, optimizer)
        optimizer.param_groups[0]["more"] = None

        with pytest.raises(CheckpointError, match=r"shards do not fit the model: Weights only load failed"):
            load_shards(contents_of(tmp_path), model, optimizer)
        assert not (tmp_path / "proof").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda index: "[", "cannot be read"),
            (lambda index: "[]", "cannot be read"),
            (lambda index: index.replace("__0_0.distcp", "../elsewhere"), "is not a file of the checkpoint's shards"),
            (lambda index: index.replace("model.0.weight", "model.0.wait"), r"Missing key.*model\.0\.weight"),
            (lambda index: index.replace("[16, 6]", "[6, 16]"), "Size mismatch"),
        ],
    )
    def test_an_index_that_does_not_serve_is_described(
        self, written: tuple[Any, Any], tmp_path: Path, change: Callable[[str], str], message: str
    ) -> None:
        path = tmp_path / "shards" / "index.json"
        path.write_text(change(path.read_text()))

        with pytest.raises(CheckpointError, match=message):
            load_shards(contents_of(tmp_path), *trained())

    def test_the_metadata_of_torch_is_not_read(self, written: tuple[Any, Any], tmp_path: Path) -> None:
        (tmp_path / "shards" / ".metadata").write_bytes(pickle.dumps(Payload(tmp_path / "proof")))
        load_shards(contents_of(tmp_path), *trained())

        (tmp_path / "shards" / "index.json").unlink()
        with pytest.raises(CheckpointError, match=r"without shards/index\.json; torch's own \.metadata is a pickle"):
            load_shards(contents_of(tmp_path), *trained())

        with pytest.raises(CheckpointError, match=r"without shards/index\.json"):
            load_shards(Contents(tmp_path, {}), *trained())
        assert not (tmp_path / "proof").exists()


def test_shards_that_the_manifest_does_not_list_are_ignored(make_trainer: Make, tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 0.1}
    whole, resumed, other = (make_trainer(**options) for _ in range(3))
    whole.train()
    for step in (2, 4):
        shards = tmp_path / "out" / f"checkpoint-{step}" / "shards"
        shards.mkdir()
        (shards / ".metadata").write_bytes(pickle.dumps(Payload(tmp_path / "proof")))
        (shards / "index.json").write_text("{}")

    other.load_weights(tmp_path / "out" / "checkpoint-4")
    resumed.train(tmp_path / "out" / "checkpoint-2")

    assert not (tmp_path / "proof").exists()
    assert torch.equal(weights_of(other.model), weights_of(whole.model))
    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
