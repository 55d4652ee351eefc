"""The backward pass of the step is torch's, whatever begins it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.pytorch import _compat
from trackside.trainer.pytorch._compat import run_backward
from trackside.trainer.pytorch.batches.label_rule import FEW, LabelRule
from trackside.trainer.pytorch.precision.base import FullPrecision


def gradients(begin: Any, *, seed: int, width: int, dtype: torch.dtype, share: float) -> list[Tensor]:
    """Return the gradients of a small model."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2)).to(dtype)
    loss = model(torch.randn(5, 3, dtype=dtype)).square().mean()
    begin(loss, torch.full_like(loss, share))
    return [parameter.grad for parameter in model.parameters()]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    width=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    share=st.floats(0.125, 8.0),
)
def test_it_gives_what_torch_gives_to_the_bit(seed: int, width: int, dtype: torch.dtype, share: float) -> None:
    options: dict[str, Any] = {"seed": seed, "width": width, "dtype": dtype, "share": share}

    own, torchs = gradients(run_backward, **options), gradients(torch.autograd.backward, **options)

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(own, torchs, strict=True))


@pytest.mark.parametrize("case", ["a torch without such an engine", "a loss of a class of its own"])
def test_where_the_short_way_is_not_sure_torchs_own_is_taken(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loss(Tensor):
        pass

    seen: list[Any] = []
    whole_way = torch.autograd.backward

    def look_on(tensors: Any, grad_tensors: Any, **options: Any) -> None:
        seen.append(type(tensors[0]))
        whole_way(tensors, grad_tensors, **options)

    monkeypatch.setattr(torch.autograd, "backward", look_on)
    if case.startswith("a torch"):
        monkeypatch.setattr(_compat, "_run_engine", None)
    weight = torch.ones((), requires_grad=True)
    loss = weight * 3.0 if case.startswith("a torch") else (weight * 3.0).as_subclass(Loss)

    FullPrecision().backward(loss, 2.0)

    assert seen[0] is type(loss)
    assert weight.grad.item() == 6.0


def test_the_torch_at_hand_has_the_short_way() -> None:
    assert _compat._run_engine is not None


def test_a_loss_that_hangs_on_no_parameter_is_told() -> None:
    with pytest.raises(TracksideValueError, match="the loss has no gradient, since it depends on no parameter"):
        FullPrecision().backward(torch.ones(()))


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.sampled_from([-100, -1, 0, 7]), min_size=1, max_size=12),
    repeats=st.sampled_from([1, FEW // 8, FEW]),
    dtype=st.sampled_from([torch.int64, torch.int32, torch.int16]),
)
def test_labels_that_count_are_those_that_are_not_minus_100(
    labels: list[int], repeats: int, dtype: torch.dtype
) -> None:
    tensor = torch.tensor(labels * repeats, dtype=dtype)

    assert LabelRule().count(tensor, (tensor,)) == sum(label != -100 for label in labels) * repeats
    assert LabelRule().count(tensor.reshape(1, -1), (tensor,)) == LabelRule().count(tensor, (tensor,))
