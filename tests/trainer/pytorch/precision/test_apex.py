"""The apex adapter keeps the contract of apex.amp, which a strict stand-in enforces; apex itself was not run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from support.torch_models import classified, weights_of
from torch import nn

from trackside import Trainer, TrainerCallback, TrainingArguments
from trackside.callbacks.errors import UnsupportedError
from trackside.trainer.pytorch.precision.apex import ApexPrecision


@pytest.fixture
def amp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in's module, as in a new process."""
    monkeypatch.syspath_prepend(fakes.apex())
    from apex.amp import frontend

    frontend.reset()
    monkeypatch.setattr(ApexPrecision, "is_ready", False)
    yield frontend
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        del sys.modules[name]


@pytest.fixture
def new_process(amp: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forget that amp was initialized."""

    def forget() -> None:
        amp.reset()
        monkeypatch.setattr(ApexPrecision, "is_ready", False)

    return forget


APEX = {"fp16": True, "fp16_backend": "apex", "learning_rate": 0.05, "gradient_accumulation_steps": 3, "max_steps": 4}


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_calls_come_in_the_documented_order(level: str, amp: Any, make_trainer: Callable[..., Trainer]) -> None:
    make_trainer(**APEX, fp16_opt_level=level).train()

    update = ["delayed", "delayed", "backward", "step"]
    last = ["delayed", "backward", "step"]  # 40 examples in batches of 8: the second window of an epoch has two
    assert amp.state.calls == [f"initialize {level}", *(2 * (update + last))]


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_scaled_training_gives_the_weights_of_unscaled_training(
    level: str, amp: Any, make_trainer: Callable[..., Trainer]
) -> None:
    plain = make_trainer(**{**APEX, "fp16": False}, optim="sgd")
    plain.train()

    scaled = make_trainer(**APEX, fp16_opt_level=level, optim="sgd")
    scaled.train()

    tolerance = 1e-6 if level == "O1" else 5e-3
    torch.testing.assert_close(weights_of(scaled.model).float(), weights_of(plain.model), rtol=0, atol=tolerance)
    assert scaled.state.log_history[-1]["train_loss"] == pytest.approx(plain.state.log_history[-1]["train_loss"], 1e-2)


class Overflow(nn.CrossEntropyLoss):
    """Is not finite at the second call."""

    calls = 0

    def forward(self, logits: Any, labels: Any) -> Any:
        self.calls += 1
        return super().forward(logits, labels) * (float("inf") if self.calls == 2 else 1.0)


class Rates(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[tuple[bool, float]] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append((kwargs["skipped"], kwargs["lr_scheduler"].get_last_lr()[0]))


def test_a_skipped_step_is_reported_and_the_schedule_waits(amp: Any, make_trainer: Callable[..., Trainer]) -> None:
    rates = Rates()

    make_trainer(
        **{**APEX, "gradient_accumulation_steps": 1, "fp16_opt_level": "O2"}, loss_fn=Overflow(), callbacks=[rates]
    ).train()

    assert [skipped for skipped, _ in rates.seen] == [False, True, False, False]
    assert [rate for _, rate in rates.seen] == pytest.approx([0.05, 0.0375, 0.0375, 0.025])
    assert amp.state.calls.count("skipped step") == 1


def test_the_loss_scale_is_saved_and_restored(
    amp: Any, new_process: Callable[[], None], make_trainer: Callable[..., Trainer]
) -> None:
    values = {**APEX, "gradient_accumulation_steps": 1, "save_strategy": "steps", "save_steps": 2}
    make_trainer(**values, loss_fn=Overflow()).train()
    assert amp.state_dict()["loss_scaler0"] == {"loss_scale": 2.0**15, "unskipped": 2}
    new_process()

    resumed = make_trainer(**values)
    resumed.train(resume_from_checkpoint=str(Path(resumed.args.output_dir) / "checkpoint-2"))

    assert amp.state_dict()["loss_scaler0"] == {"loss_scale": 2.0**15, "unskipped": 2}


def test_training_twice_in_a_process_says_why_it_cannot(amp: Any, make_trainer: Callable[..., Trainer]) -> None:
    make_trainer(**APEX).train()

    with pytest.raises(UnsupportedError, match=r"apex\.amp can be initialized once in a process"):
        make_trainer(**APEX, overwrite_output_dir=True).train()


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("adamw_apex_fused", "FusedAdam"),
        ("lamb_apex_fused", "FusedLAMB"),
        ("novograd_apex_fused", "FusedNovoGrad"),
        ("sgd_apex_fused", "FusedSGD"),
    ],
)
def test_the_fused_optimizers_of_apex_train(
    name: str, cls: str, amp: Any, make_trainer: Callable[..., Trainer]
) -> None:
    trainer = make_trainer(optim=name, max_steps=3, learning_rate=0.01, train_dataset=classified(40))
    before = weights_of(trainer.model)

    trainer.train()

    assert type(trainer.optimizer).__name__ == cls
    assert not torch.equal(before, weights_of(trainer.model))


def test_lamb_leaves_clipping_to_the_trainer(amp: Any, make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(optim="lamb_apex_fused", max_steps=1)
    trainer.train()

    assert trainer.optimizer.max_grad_norm == float("inf")
    assert trainer.optimizer.defaults["eps"] == 1e-6


def test_a_build_of_apex_without_the_optimizer_is_named(amp: Any, make_trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(
        UnsupportedError, match="this build of NVIDIA apex has no FusedAdagrad; optim='adagrad' does the same"
    ):
        make_trainer(optim="adagrad_apex_fused", max_steps=1).train()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ((), "apex is not installed"),
        (("apex/__init__.py",), "is the one of PyPI, a Pyramid toolkit"),
        (
            ("apex/__init__.py", "apex/optimizers/__init__.py"),
            "has no amp, which was removed after tag 25.05",
        ),
    ],
)
def test_without_amp_the_error_names_the_reason_and_the_replacement(
    files: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(UnsupportedError, match=f"{reason}.*fp16_backend='auto' is torch's own fp16"):
        TrainingArguments("out", fp16=True, fp16_backend="apex")
