"""The Trainer in other precisions: autocast on a CPU, TF32, and full evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.torch_models import classified, weights_of
from torch import nn

from trackside import Trainer
from trackside.callbacks.errors import ArgumentError
from trackside.trainer.pytorch.precision.eval_mode import eval_mode

Make = Callable[..., Trainer]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_on_the_cpu_trains_close_to_full_precision(make_trainer: Make, precision: str) -> None:
    full = make_trainer(train_dataset=classified(200), num_train_epochs=2, learning_rate=1e-2)
    mixed = make_trainer(train_dataset=classified(200), num_train_epochs=2, learning_rate=1e-2, **{precision: True})

    expected, loss = full.train().training_loss, mixed.train().training_loss

    assert loss == pytest.approx(expected, rel=0.05)
    assert loss != expected
    assert mixed.model[0].weight.dtype == torch.float32


def test_trained_weights_in_float16_are_refused_with_fp16_and_frozen_ones_are_not(make_trainer: Make) -> None:
    model = make_trainer().model
    model[0].weight.data = model[0].weight.data.half()

    with pytest.raises(ArgumentError, match=r"trained weights in float32, and 0\.weight is float16; call model.float"):
        make_trainer(model=model, fp16=True, max_steps=1).train()

    model.insert(0, nn.Linear(6, 6).half().requires_grad_(False))
    model[1].float()
    assert make_trainer(model=model, fp16=True, max_steps=1).train().global_step == 1


@pytest.mark.parametrize("allowed", [True, False, None])
def test_tf32_is_allowed_or_forbidden_or_left(allowed: bool | None, make_trainer: Make) -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]

    try:
        make_trainer(tf32=allowed)
        found = [backend.allow_tf32 for backend in backends]
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value

    assert found == (before if allowed is None else [allowed, allowed])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_full_evaluation_gives_the_weights_back_to_the_bit(make_trainer: Make, precision: str) -> None:
    trainer = make_trainer(**{f"{precision}_full_eval": True}, eval_dataset=classified(8))
    exact = make_trainer(eval_dataset=classified(8)).evaluate()["eval_loss"]
    before = weights_of(trainer.model)

    loss = trainer.evaluate()["eval_loss"]

    assert loss != exact
    assert loss == pytest.approx(exact, rel=0.02)
    assert torch.equal(before, weights_of(trainer.model))


def test_full_evaluation_leaves_what_has_hooked_into_gradients_at_work() -> None:
    model = nn.Sequential(nn.LSTM(4, 3), nn.BatchNorm1d(3))
    model[0].weight_hh_l0_again = model[0].weight_hh_l0
    parameters, seen = dict(model.named_parameters()), []
    accumulators = [p.expand_as(p).grad_fn.next_functions[0][0] for p in parameters.values()]  # as DDP finds them
    for accumulator in accumulators:
        accumulator.register_hook(lambda *_: seen.append(1))

    with eval_mode(model, torch.bfloat16):
        output = model[1](model[0](torch.rand(5, 4, dtype=torch.bfloat16))[0])
        tied = model[0].weight_hh_l0_again is model[0].weight_hh_l0

    assert (output.dtype, tied, model[1].running_mean.dtype) == (torch.bfloat16, True, torch.float32)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    model[1](model[0](torch.rand(5, 4))[0]).sum().backward()
    assert len(seen) == len(parameters)


def test_metrics_of_a_full_evaluation_get_labels_and_inputs_as_they_are(make_trainer: Make) -> None:
    inputs, labels = torch.rand(8, 1), torch.linspace(1000.0, 1001.0, 8)[:, None]
    seen: list[Any] = []

    def keep(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {}

    trainer = make_trainer(
        model=nn.Linear(1, 1),
        loss_fn=nn.functional.mse_loss,
        eval_dataset=torch.utils.data.TensorDataset(inputs, labels),
        compute_metrics=keep,
        bf16_full_eval=True,
        include_for_metrics=["inputs"],
    )

    trainer.evaluate()

    assert np.array_equal(seen[0].label_ids, labels)
    assert np.array_equal(seen[0].inputs[0], inputs)
