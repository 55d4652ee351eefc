"""Errors of torch that have no type of their own are recognised, and those of others are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trackside.trainer.pytorch._compat import is_out_of_memory, is_unused_parameter_error


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
