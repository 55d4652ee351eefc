"""A model that the user has distributed is refused by the name of its wrapper, wherever that is in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.torch_models import classified, mlp
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import TracksideTypeError
from trackside.trainer.pytorch._torch_util import distributed_part


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def sharded(model: nn.Module) -> nn.Module:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


def with_first(change: Callable[[nn.Module], Any]) -> nn.Module:
    """Return a model whose first layer is changed, in place or for another."""
    model = mlp()
    model[0] = change(model[0])  # type: ignore[index]
    return model


def in_parallel(model: nn.Module) -> nn.Module:
    mesh = dist.init_device_mesh("cpu", (1,))
    return parallelize_module(model, mesh, {"0": ColwiseParallel()})


GIVEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "ddp": (lambda: DistributedDataParallel(mlp()), "DistributedDataParallel already"),
    "compiled_ddp": (lambda: torch.compile(DistributedDataParallel(mlp()), backend="eager"), "DistributedDataParallel"),  # type: ignore[dict-item,return-value]
    "ddp_of_a_part": (lambda: with_first(DistributedDataParallel), r"DistributedDataParallel \(its module 0\)"),
    "fsdp": (lambda: sharded(mlp()), "FullyShardedDataParallel already"),
    "fsdp_of_a_part": (lambda: with_first(sharded), r"FullyShardedDataParallel \(its module 0\)"),
    "fully_shard": (lambda: fully_shard(mlp()), "fully_shard already"),  # type: ignore[dict-item,return-value]
    "fully_shard_of_a_part": (lambda: with_first(fully_shard), r"fully_shard \(its module 0\)"),
    "tensor_parallel": (lambda: in_parallel(mlp()), r"DTensors \(0\.weight\)"),
}


@pytest.mark.filterwarnings("ignore:FSDP is switching")
@pytest.mark.parametrize("name", GIVEN)
def test_a_model_that_the_user_has_distributed_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, words = GIVEN[name]
    args = TrainingArguments(str(tmp_path), no_cuda=True)
    model = make()
    trainer = Trainer(mlp(), args, train_dataset=classified(8), loss_fn=nn.CrossEntropyLoss())

    with pytest.raises(TracksideTypeError, match=words):
        Trainer(model, args)
    with pytest.raises(TracksideTypeError, match=f"{words}.*give Trainer the module inside"):
        trainer.model = model
    # with the argument fsdp, a whole model may be sharded from an earlier run; only parts of it could not be
    assert bool(distributed_part(model, by_trainer=True)) is (name != "fully_shard")


def test_data_parallel_trains_as_the_module_inside_of_it(tmp_path: Path) -> None:
    def weights(model: nn.Module) -> list[Any]:
        args = TrainingArguments(str(tmp_path), max_steps=2, save_strategy="no", no_cuda=True, disable_tqdm=True)
        Trainer(model, args, train_dataset=classified(16), loss_fn=nn.CrossEntropyLoss()).train()
        return [parameter.tolist() for parameter in model.parameters()]

    assert weights(nn.DataParallel(mlp())) == weights(mlp())
