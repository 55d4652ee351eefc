"""Private parts of torch are as they are used, and its errors without a type of their own are recognised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trackside.trainer.pytorch._compat import (
    NORM_BASES,
    inner_schedules,
    is_out_of_memory,
    is_unused_parameter_error,
    non_persistent_buffers,
)


class WithoutBias(nn.Linear):
    """Never uses its bias."""

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.linear(features, self.weight)


def raised(act: Callable[[], Any]) -> RuntimeError:
    with pytest.raises(RuntimeError) as error:
        act()
    return error.value


def test_a_host_without_memory_is_out_of_memory() -> None:
    assert is_out_of_memory(raised(lambda: torch.empty(1 << 60, dtype=torch.uint8)))


def test_a_device_without_memory_is_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


@pytest.mark.parametrize("text", ["the pool is out of memory", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"])
def test_words_alone_are_not_out_of_memory(text: str) -> None:
    assert not is_out_of_memory(RuntimeError(text))


@pytest.mark.filterwarnings("ignore")
def test_a_parameter_without_a_gradient_is_recognised(tmp_path: Any) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(WithoutBias(1, 1))

        model(torch.ones(1)).sum().backward()
        error = raised(lambda: model(torch.ones(1)))
    finally:
        torch.distributed.destroy_process_group()

    assert is_unused_parameter_error(error)
    assert not is_unused_parameter_error(RuntimeError("a parameter was not used"))


@pytest.mark.parametrize("layer", [nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.LazyBatchNorm1d])
def test_batch_and_instance_norms_have_one_base(layer: type[nn.Module]) -> None:
    assert issubclass(layer, NORM_BASES)


def test_buffers_that_no_state_dict_has_are_known() -> None:
    module = nn.BatchNorm1d(2)
    module.register_buffer("passing", torch.zeros(1), persistent=False)

    assert non_persistent_buffers(module) == {"passing"}


def test_the_schedules_in_a_sequence_are_known() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    parts = [torch.optim.lr_scheduler.ConstantLR(optimizer), torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    assert inner_schedules(torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])) == parts
    assert inner_schedules(parts[0]) == []
