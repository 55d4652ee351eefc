"""What save_pretrained of a model writes beside the weights, and what happens if it does not serve."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.damages import sealed_again
from support.torch_models import mlp, weights_of
from torch import Tensor, nn

from trackside import Trainer
from trackside.callbacks.errors import CheckpointError
from trackside.trainer.pytorch.weights.export import stand_in

OPTIONS: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.1}


class Exports(nn.Module):
    """A model whose ``save_pretrained`` calls ``write`` with itself and the folder."""

    def __init__(self, write: Any) -> None:
        super().__init__()
        self.inner = mlp()
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def save_pretrained(self, folder: Any) -> None:
        Path(folder, "config.json").write_text("{}")
        self.write(self, Path(folder))


def raises(model: nn.Module, folder: Path) -> None:
    save_file({"half": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "parts").mkdir()
    (folder / "parts" / "one.txt").write_text("")
    raise NotImplementedError("not serializable")


def renames(model: nn.Module, folder: Path) -> None:
    save_file({name[len("inner.") :]: w for name, w in model.state_dict().items()}, folder / "model.safetensors")


def averages(model: nn.Module, folder: Path) -> None:
    save_file({name: w * 0.5 for name, w in model.state_dict().items()}, folder / "model.safetensors")


def under_another_name(model: nn.Module, folder: Path) -> None:
    save_file(model.state_dict(), folder / "network.safetensors")


def pickles(model: nn.Module, folder: Path) -> None:
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def in_another_format(model: nn.Module, folder: Path) -> None:
    (folder / "network.safetensors").write_bytes(b"not at all")
    (folder / "network.safetensors.index.json").write_text('{"weight_map": {"a": "elsewhere/a.safetensors"}}')


def in_a_subfolder(model: nn.Module, folder: Path) -> None:
    (folder / "inner").mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "inner" / "model.safetensors")


def resumes(make_trainer: Any, make: Any, cls: Any = Trainer) -> Any:
    """Check that a run is resumed to the bit; return the trainer of the whole run."""
    whole, resumed = (make_trainer(cls, model=make(), **OPTIONS) for _ in range(2))
    whole.train()
    resumed.train(f"{whole.args.output_dir}/checkpoint-2")
    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    return whole


@pytest.mark.parametrize(
    ("write", "own_file"),
    [
        (renames, "trackside_model.safetensors"),
        (averages, "trackside_model.safetensors"),
        (under_another_name, None),
        (pickles, "model.safetensors"),
        (in_a_subfolder, "model.safetensors"),
        (in_another_format, "model.safetensors"),
    ],
)
def test_the_weights_are_written_beside_what_is_not_them(make_trainer, tmp_path, write, own_file):
    whole = resumes(make_trainer, lambda: Exports(write))
    other = make_trainer(model=Exports(write))

    whole.save_model(str(tmp_path / "final"))
    whole.save_model(str(tmp_path / "final"))
    other.load_weights(tmp_path / "final")

    assert torch.equal(weights_of(other.model), weights_of(whole.model))
    for folder in (tmp_path / "final", tmp_path / "out" / "checkpoint-4"):
        names = {path.name for path in folder.glob("*model.safetensors")}
        assert (own_file in names) if own_file else names == set()
        if write is renames:  # in a checkpoint only the new names are written, in a folder for others everything
            assert len(load_file(folder / own_file)) == (4 if folder.name == "final" else 0)


@pytest.mark.parametrize(
    "elsewhere", ["[1]", "{", '{"inner.0.bias": 1}', '{"inner.0.bias": "gone"}', '{"inner.0.bias": "0.bias"}', "{}"]
)
def test_an_own_file_that_names_other_weights_than_there_are_is_refused(make_trainer, tmp_path, elsewhere):
    trainer = make_trainer(model=Exports(renames), **OPTIONS)
    trainer.train()
    own = tmp_path / "out" / "checkpoint-4" / "trackside_model.safetensors"
    save_file({}, own, metadata={"format": "pt", "elsewhere": elsewhere})
    sealed_again(own)

    with pytest.raises(CheckpointError):
        trainer.load_weights(own.parent)


def test_a_failing_save_pretrained_costs_a_checkpoint_only_what_it_would_have_written(make_trainer, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        whole = resumes(make_trainer, lambda: Exports(raises))

    assert "checkpoint-4" in caplog.text.replace(".checkpoint-4.tmp", "checkpoint-4")
    assert "Exports.save_pretrained, which failed: NotImplementedError('not serializable')" in caplog.text
    assert not (tmp_path / "out" / "checkpoint-4" / "config.json").exists()
    assert not (tmp_path / "out" / "checkpoint-4" / "parts").exists()
    with pytest.raises(NotImplementedError, match="not serializable"):
        whole.save_model(str(tmp_path / "final"))
    assert torch.equal(load_file(tmp_path / "final" / "model.safetensors")["inner.0.bias"], whole.model.inner[0].bias)


def test_a_save_model_that_writes_only_a_part_does_not_keep_a_checkpoint_from_being_resumed(make_trainer, tmp_path):
    class Part(Trainer):
        def save_model(self, output_dir: Any = None, **options: Any) -> None:
            save_file({"0.bias": self.model[0].bias.detach()}, Path(output_dir, "adapter_model.safetensors"))

    class Average(Trainer):
        def save_model(self, output_dir: Any = None, **options: Any) -> None:
            average = {name: w * 0.5 for name, w in self.model.state_dict().items()}
            save_file(average, Path(output_dir, "model.safetensors"))

    class Own(Trainer):
        def save_model(self, output_dir: Any = None, **options: Any) -> None:
            save_file(self.model.state_dict(), Path(output_dir, "mine.safetensors"))

    for cls, files in (
        (Part, ["adapter_model.safetensors", "model.safetensors"]),
        (Average, ["model.safetensors", "trackside_model.safetensors"]),
        (Own, ["mine.safetensors"]),
    ):
        resumes(lambda c, **o: make_trainer(c, **o, output_dir=str(tmp_path / c.__name__)), mlp, cls)
        folder = tmp_path / cls.__name__ / "checkpoint-2"
        assert sorted(path.name for path in folder.glob("*.safetensors")) == files


def test_a_later_save_model_leaves_no_weights_of_the_earlier_one(make_trainer, tmp_path):
    writes = [renames, under_another_name]
    trainer, other = make_trainer(model=Exports(None), max_steps=2), make_trainer(model=Exports(None))

    for write in writes:
        trainer.model.write = write
        trainer.save_model(str(tmp_path / "final"))
        trainer.train()
    trainer.model.write = pickles
    trainer.save_model(str(tmp_path / "final"))
    other.load_weights(tmp_path / "final")

    assert torch.equal(weights_of(other.model), weights_of(trainer.model))


def test_a_stand_in_has_the_given_weights_and_shares_the_rest():
    model = mlp()
    model.tied = nn.Linear(2, 2)
    model.tied_too = model.tied
    model.shape = {"of": "it"}
    zeros = {name: torch.zeros_like(weight) for name, weight in model.state_dict().items()}
    before = weights_of(model).clone()

    twin = stand_in(model, zeros)

    assert type(twin) is type(model)
    assert twin.shape is model.shape
    assert twin.tied is twin.tied_too
    assert not any(weight.any() for weight in twin.state_dict().values())
    assert torch.equal(weights_of(model), before)
    assert isinstance(twin[0].weight, nn.Parameter)
