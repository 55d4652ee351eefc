"""Weight files: which of the files of a folder they are, and what they hold."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.pytorch.weights.files import check_data, holds, weights_files, weights_in, write_weights

ONE = "model-00001-of-00002.safetensors"
TWO = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["trackside_model.safetensors", "model.safetensors", "model_extra_state.pt"], [0, 2]),
        (["adapter_model.safetensors", "model.safetensors"], [1]),
        (["diffusion_pytorch_model.safetensors", "config.json"], [0]),
        (["a.safetensors", "b.safetensors"], []),
        (["model_extra_state.pt", "config.json"], []),
        ([], []),
    ],
)
def test_the_weights_are_our_own_file_then_the_standard_one_then_the_only_one(tmp_path, names, expected):
    assert weights_files(tmp_path, names) == [names[index] for index in expected]


def test_an_index_of_any_name_leads_to_its_files(tmp_path):
    index = "net.safetensors.index.json"
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a": ONE, "b": TWO}}))

    assert weights_files(tmp_path, [index, ONE, TWO, "x.safetensors"]) == [ONE, TWO, index]
    with pytest.raises(CheckpointError, match="lacks model-00002"):
        weights_files(tmp_path, [index, ONE])


def test_files_hold_weights_only_if_every_bit_is_the_same(tmp_path):
    shared = torch.randn(3)
    weights = {"a": shared, "b": torch.tensor([float("nan"), 0.0]), "tied": shared, "n": torch.tensor(3)}
    changed = {
        "value": {**weights, "b": torch.tensor([float("nan"), -0.0])},
        "type": {**weights, "b": weights["b"].double()},
        "shape": {**weights, "a": shared[None], "tied": shared[None]},
        "name": {**weights, "c": weights["b"].clone()},
        "one less": {name: weight for name, weight in weights.items() if name != "n"},
        "not tied": {**weights, "tied": shared + 1},
    }

    write_weights(weights, tmp_path, "model.safetensors")

    assert set(load_file(tmp_path / "model.safetensors")) == {"a", "b", "n"}
    assert holds(tmp_path, weights_in(tmp_path), weights)
    assert [name for name, other in changed.items() if holds(tmp_path, weights_in(tmp_path), other)] == []
    assert not holds(tmp_path, [], weights)


def test_weights_in_several_files_are_held_together(tmp_path):
    weights = {"a": torch.randn(3), "b": torch.randn(2)}
    for name, file in (("a", ONE), ("b", TWO)):
        save_file({name: weights[name]}, tmp_path / file)

    assert holds(tmp_path, [ONE, TWO, "model.safetensors.index.json"], weights)
    assert not holds(tmp_path, [ONE], weights)


def test_a_tensor_without_values_is_refused_by_name():
    with pytest.raises(CheckpointError, match=r"'layer\.weight' .* meta device"):
        check_data({"layer.weight": torch.empty(3, device="meta")})
