"""Copies of tensors on the host: equal in value and layout, apart from what they are copies of."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import nn

from trackside.trainer.checkpointing.saving.host_buffers import HostBuffers
from trackside.trainer.pytorch.host_copy import copied

Pair = namedtuple("Pair", "first second")


@pytest.fixture
def buffers():
    return HostBuffers().lend()


def base(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


LARGE = {
    "a matrix": base(300, 200),
    "a transposed matrix": base(300, 200).t(),
    "channels last": base(4, 32, 20, 20).to(memory_format=torch.channels_last),
    "every other column": base(300, 400)[:, ::2],
    "an expanded row": base(1, 200).expand(300, 200),
    "a slice with an offset": base(400, 200)[50:350],
    "a parameter": nn.Parameter(base(300, 200)),
    "bfloat16": base(300, 200).bfloat16(),
    "booleans": base(300, 300) > 0,
    "bytes": torch.arange(90_000, dtype=torch.int32).to(torch.uint8),
    "conjugates": torch.complex(base(300, 200), base(300, 200)).conj(),
    "float8": base(300, 300).to(torch.float8_e4m3fn),
    "one more dimension": base(300, 1, 200),
}


@pytest.mark.parametrize("tensor", LARGE.values(), ids=LARGE)
def test_a_copy_is_that_of_to_with_copy(tensor, buffers):
    expected = tensor.detach().to("cpu", copy=True)

    copy = copied(tensor, buffers)

    assert (copy.dtype, copy.shape, copy.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert (
        copy.resolve_conj().contiguous().view(torch.uint8).equal(expected.resolve_conj().contiguous().view(torch.uint8))
    )
    assert not copy.requires_grad
    assert len(buffers._taken) == 1
    assert copy.untyped_storage().nbytes() == tensor.nbytes


@pytest.mark.parametrize("tensor", [base(3), base(0, 5), torch.tensor(7), base(300, 300).to_sparse()])
def test_small_and_unusual_tensors_are_copied_without_a_buffer(tensor, buffers):
    copy = copied(tensor, buffers)

    assert torch.equal(copy.to_dense(), tensor.to_dense())
    assert buffers._taken == []


def test_a_copy_does_not_change_with_its_tensor_or_with_the_next_copy():
    pool, tensor = HostBuffers(), torch.zeros(300, 200)
    first = copied(tensor, pool.lend())
    tensor += 1
    second = copied(tensor, pool.lend())
    tensor += 1

    assert (first.unique().tolist(), second.unique().tolist()) == ([0], [1])


def test_the_same_view_is_copied_once_and_another_view_of_the_memory_by_itself(buffers):
    weight = base(200, 200)
    copy = copied({"a": weight, "b": [weight.view_as(weight)], "turned": weight.t()}, buffers)

    assert copy["a"] is copy["b"][0]
    assert torch.equal(copy["turned"], weight.t())
    assert torch.equal(copy["a"], weight)


def test_nested_values_keep_their_types(buffers):
    value = {"pair": Pair(torch.ones(2), 3), "list": [torch.zeros(1), "text"], 5: (None,)}

    copy = copied(value, buffers)

    assert (type(copy["pair"]), type(copy["list"]), copy[5]) == (Pair, list, (None,))
    assert copy["pair"].first is not value["pair"].first
    assert torch.equal(copy["pair"].first, torch.ones(2))
