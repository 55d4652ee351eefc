"""Weights and the models that they are loaded into: names, ties, shapes and earlier layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.odd_modules import Tied, Transposed
from support.torch_models import mlp, weights_of
from torch import nn

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing.manifest import contents_of
from trackside.trainer.pytorch.weights.export import ModelWriter
from trackside.trainer.pytorch.weights.loading import load_weights


def written(model: nn.Module, folder: Any) -> Any:
    ModelWriter(model, model.state_dict(keep_vars=True), None)(folder)
    return contents_of(folder)


def seeded(make: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return make()


def untied() -> nn.Module:
    model = Tied()
    model.b[0].weight = nn.Parameter(torch.zeros(3, 3))
    model.head = torch.zeros(1, 3)
    return model


def test_weights_of_a_compiled_model_of_an_earlier_version_are_read(tmp_path):
    old = seeded(mlp, 1)
    save_file(
        {f"_orig_mod.{name}": weight for name, weight in old.state_dict().items()}, tmp_path / "model.safetensors"
    )
    model = seeded(mlp, 2)

    load_weights(model, contents_of(tmp_path))

    assert torch.equal(weights_of(model), weights_of(old))


def test_a_weight_written_once_is_loaded_where_it_is_shared_and_where_it_is_not(tmp_path):
    tied = seeded(Tied, 1)
    contents = written(tied, tmp_path)
    models = [seeded(Tied, 2), seeded(untied, 2)]

    for model in models:
        load_weights(model, contents)

    names = load_file(tmp_path / "model.safetensors").keys()
    assert {"a.weight", "b.0.weight"} & names == {"a.weight"}
    for model in models:
        assert torch.equal(model.b[0].weight, tied.a.weight)
        assert torch.equal(model.head, tied.head)


def test_a_shared_weight_may_have_lost_one_of_its_names(tmp_path):
    class Alone(Tied):
        def build(self) -> None:
            super().build()
            del self.b

    tied, alone = seeded(Tied, 1), seeded(Alone, 2)
    weights = {name: weight for name, weight in tied.state_dict(keep_vars=True).items() if name != "b.0.bias"}
    ModelWriter(tied, weights, None)(tmp_path)

    load_weights(alone, contents_of(tmp_path))

    assert torch.equal(alone.a.weight, tied.a.weight)


def test_a_transposed_weight_that_an_earlier_version_left_out_is_read_through_the_other(tmp_path):
    old, model = seeded(Transposed, 1), seeded(Transposed, 2)
    weights = {name: weight for name, weight in old.state_dict().items() if name != "dec.weight"}
    save_file(weights, tmp_path / "model.safetensors")

    load_weights(model, contents_of(tmp_path))

    assert torch.equal(model.enc.weight, old.enc.weight)
    assert torch.equal(model.dec.weight, old.enc.weight.t())


def test_weights_that_do_not_fit_are_named(tmp_path):
    contents = written(seeded(mlp, 1), tmp_path)
    other = mlp()
    other[0], other.last = nn.Linear(6, 4), nn.Linear(3, 3)
    before = weights_of(other).clone()

    with pytest.raises(CheckpointError, match=r"missing last\.bias, last\.weight; .* another shape 0\.bias, "):
        load_weights(other, contents)

    assert torch.equal(weights_of(other), before)
