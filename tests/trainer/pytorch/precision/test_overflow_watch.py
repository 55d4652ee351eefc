"""debug="underflow_overflow" stops at the layer where a number is no longer finite, and says what led to it."""

from __future__ import annotations

from typing import Any

import pytest
from support.torch_models import mlp
from torch import Tensor, nn

from trackside import TrainerCallback, TrainingArguments
from trackside.callbacks.errors import ArgumentError, NotFiniteError


class Halves(nn.Module):
    """Computes in float16, whose largest number is 65504."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.grow = Grow(factor)
        self.last = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Any:
        return self.last(self.grow({"hidden": [self.first(inputs)]})["grown"].float())


class Grow(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, inputs: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        return {"grown": inputs["hidden"][0].half() * self.factor}


def test_the_layer_that_overflows_is_named_with_what_came_before(make_trainer, tmp_path):
    trainer = make_trainer(model=Halves(1e6), debug="underflow_overflow")

    with pytest.raises(NotFiniteError) as caught:
        trainer.train()

    first, _, *lines = str(caught.value).splitlines()
    assert first.startswith("step 1: output['grown'] of grow (Grow) is not finite.")
    assert [line.split()[0] for line in lines if "(" in line] == ["first", "grow"]
    assert lines[-1].split()[1:] == ["inf", "output['grown']"]
    assert any(line.endswith("input[0]['hidden'][0]") for line in lines)


def test_a_weight_that_is_not_a_number_is_found_where_it_is(make_trainer):
    class Spoil(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 2:
                model[3].bias.data[1] = float("nan")

    trainer = make_trainer(model=mlp(), debug="underflow_overflow", callbacks=[Spoil()])

    with pytest.raises(NotFiniteError, match=r"^step 3: bias of 3 \(Linear\) is not finite"):
        trainer.train()


def test_a_run_without_overflow_is_what_it_is_without_the_watch_and_leaves_no_hooks(make_trainer):
    watched, plain = (make_trainer(model=Halves(1.0), debug=debug, bf16=True) for debug in ("underflow_overflow", ""))

    assert watched.train().training_loss == plain.train().training_loss
    assert not any(module._forward_hooks for module in watched.model.modules())


def test_it_does_not_go_with_torch_compile():
    with pytest.raises(ArgumentError, match="not together with torch_compile"):
        TrainingArguments("out", debug="underflow_overflow", torch_compile=True)
