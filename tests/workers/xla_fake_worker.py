"""What two cores do together in the tests of torch_xla's contract; also imported to do the same in one process."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import fakes
import torch
from support.arrays import accuracy
from support.torch_models import classified, mlp, weights_of
from torch import nn

from trackside import LossGuardCallback, Trainer, TrainerCallback, TrainingArguments

WORLD = int(os.environ.get("WORLD_SIZE", "1"))


def make(folder: Path, *callbacks: TrainerCallback, cls: type[Trainer] = Trainer, **values: Any) -> Trainer:
    defaults = {"output_dir": str(folder), "save_strategy": "no", "disable_tqdm": True, "max_steps": 4}
    defaults |= {"learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.7, "logging_steps": 2}
    defaults |= {"per_device_train_batch_size": 6 // WORLD, "per_device_eval_batch_size": 6 // WORLD}
    args = TrainingArguments(**{**defaults, "dataloader_drop_last": True, **values})
    data = classified(25, dtype=torch.float64)
    trainer = cls(
        mlp(dtype=torch.float64),
        args,
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=accuracy,
        callbacks=list(callbacks),
        loss_fn=nn.CrossEntropyLoss(),
    )
    trainer.pop_callback("printer")
    return trainer


class Notes(TrainerCallback):
    """Notes in the stand-in's calls what the step does beside them."""

    role = "observer"

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["model"].register_forward_hook(lambda *_: self.calls.append("forward"))
        last = next(iter(kwargs["model"].parameters()))
        last.register_post_accumulate_grad_hook(lambda _: self.calls.append("backward"))
        kwargs["optimizer"].register_step_post_hook(lambda *_: self.calls.append("step"))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.calls.clear()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.calls.append("clipped")


def order(folder: Path) -> Any:
    from torch_xla.contract import state

    notes = Notes(state.calls)
    make(folder, notes, max_steps=2, gradient_accumulation_steps=2, logging_strategy="no").train()
    return notes.calls[: len(notes.calls) - notes.calls[::-1].index("step") + 1]


def same(folder: Path) -> Any:
    weights, losses = {}, []
    for accumulation in (1, 3):
        trainer = make(folder, gradient_accumulation_steps=accumulation)
        trainer.train()
        weights[f"accumulation {accumulation}"] = weights_of(trainer.model).tolist()
        losses += [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return {"weights": weights, "losses": losses}


class At(TrainerCallback):
    """Does something on one core at the end of step 3."""

    def __init__(self, rank: int, act: Any) -> None:
        self.rank, self.act = rank, act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index == self.rank and state.global_step == 3:
            self.act(control)


def steers(folder: Path) -> Any:
    trainer = make(folder, At(0, lambda control: control.stop("the first core said so")), max_steps=40)
    trainer.train()
    return [trainer.state.global_step, trainer.state.stop_reason]


class Observer(At):
    role = "observer"


def signalled(folder: Path) -> Any:
    act = Observer(1, lambda control: os.kill(os.getpid(), signal.SIGTERM))
    trainer = make(folder, act, max_steps=40, logging_strategy="no", on_stop_signal="return")
    trainer.train()
    return [trainer.state.global_step, trainer.state.stop_reason]


class Disturbed(Trainer):
    """Makes the loss of one update infinite, on the last core."""

    def compute_loss(self, model: nn.Module, inputs: Any) -> Any:
        is_bad = self.args.process_index == WORLD - 1 and self.state.global_step == 2
        return super().compute_loss(model, inputs) * (float("inf") if is_bad and model.training else 1.0)


class SkipsOnItsOwn(TrainerCallback):
    """Skips one update, on the first core."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_skip_update = state.global_step == 2


def guarded(folder: Path) -> Any:
    """A bad update on one core; then an update that only the first core's callback skips."""
    guard = LossGuardCallback()
    bad = make(folder, guard, cls=Disturbed, max_steps=6, logging_steps=1)
    bad.train()
    alone = make(folder, *[SkipsOnItsOwn()] * (bad.args.process_index == 0), max_steps=6, logging_steps=1)
    alone.train()
    losses = [[record["loss"] for record in each.state.log_history if "loss" in record] for each in (bad, alone)]
    return {"bad": guard.bad_steps, "losses": losses, "weights": [weights_of(t.model).tolist() for t in (bad, alone)]}


def saved(folder: Path) -> Any:
    whole = make(folder / "saved", save_strategy="steps", save_steps=2, optim="adamw_torch")
    whole.train()
    resumed = make(folder / "resumed", optim="adamw_torch")
    resumed.train(resume_from_checkpoint=str(folder / "saved" / "checkpoint-2"))
    weights = {"whole": weights_of(whole.model).tolist(), "resumed": weights_of(resumed.model).tolist()}
    return {"rank": whole.args.process_index, **weights}


def evaluated(folder: Path) -> Any:
    metrics = make(folder).evaluate()
    return [metrics["eval_loss"], metrics["eval_accuracy"]]


def main() -> None:
    folder = Path(sys.argv[1])
    sys.path[:0] = fakes.torch_xla(folder / f"of-{os.environ['RANK']}")
    found = {name: globals()[name](folder) for name in sys.argv[2:]}
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
