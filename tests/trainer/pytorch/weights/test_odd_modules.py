"""Modules with unusual weights: checkpoints resume to the bit, in the background and not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import odd_modules
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.pytorch._torch_util import unwrap


def seeded(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return odd_modules.MODULES[kind]()


@pytest.fixture
def train(make_trainer):
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x.sum(1, keepdim=True))

    def make(model: nn.Module, **options: Any) -> Any:
        options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.01, **options}
        options |= {"optim": "sgd"} if any(map(nn.parameter.is_lazy, model.parameters())) else {}
        return make_trainer(
            model=model, train_dataset=data, eval_dataset=data, loss_fn=nn.functional.mse_loss, **options
        )

    return make


def as_data(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_data(part) for name, part in value.items()}
    if not isinstance(value, Tensor) or nn.parameter.is_lazy(value):
        return type(value) if nn.parameter.is_lazy(value) else value
    value = value.to_dense() if value.is_sparse else value
    value = value.dequantize() if value.is_quantized else value
    return value.dtype, value.shape, value.stride(), value.detach().contiguous().view(-1).view(torch.uint8).tolist()


def state_of(trainer: Any) -> Any:
    return as_data(unwrap(trainer.model).state_dict())


@pytest.mark.parametrize("save_async", [True, False])
@pytest.mark.parametrize("kind", odd_modules.MODULES)
def test_a_module_resumes_to_the_bit_and_save_model_is_read_back(train, tmp_path, kind, save_async):
    whole, resumed, other = (train(seeded(kind), save_async=save_async) for _ in range(3))

    whole.train()
    whole.save_model(str(tmp_path / "final"))
    resumed.train(f"{whole.args.output_dir}/checkpoint-2")
    other.load_weights(tmp_path / "final")

    assert state_of(resumed) == state_of(whole)
    assert state_of(other) == state_of(whole)
    names = [path.name for path in (tmp_path / "final").glob("*.safetensors")]
    assert names == ["model.safetensors"]


@pytest.mark.parametrize("options", [{"load_best_model_at_end": True}, {"save_total_limit": 1}])
@pytest.mark.parametrize("kind", ["compiled", "extra", "transposed", "types"])
def test_a_module_is_loaded_as_the_best_and_its_checkpoints_rotate(train, kind, options):
    best = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_loss", **options}
    trainer, other = train(seeded(kind), **best), train(seeded(kind))

    trainer.train()

    assert options != {"load_best_model_at_end": True} or trainer.state.best_global_step == 4
    other.load_weights(f"{trainer.args.output_dir}/checkpoint-4")
    assert state_of(other) == state_of(trainer)


def test_a_checkpoint_of_the_model_alone_has_the_extra_state(train):
    trainer, other = train(seeded("extra"), save_only_model=True), train(seeded("extra"))
    trainer.train()

    other.load_weights(f"{trainer.args.output_dir}/checkpoint-4")

    assert other.model.seen["n"] == 4


def test_extra_state_with_code_is_refused_by_name_before_the_first_step(train):
    steps = []
    trainer = train(odd_modules.ExtraCode())
    trainer.on("on_step_end")(lambda sender, **rest: steps.append(1))

    with pytest.raises(
        CheckpointError, match=r"'_extra_state' in the state dict .* no code: it contains a \S+\.Code\."
    ):
        trainer.train()

    assert steps == []


def test_extra_state_with_code_is_let_through_by_a_run_that_saves_nothing(train):
    assert train(odd_modules.ExtraCode(), save_strategy="no").train().global_step == 4
