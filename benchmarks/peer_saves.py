"""Saves of transformers, Lightning and PyTorch Ignite, and resumed runs; see `peers`."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Cost, Watch, timed
from mlp import BATCH, make_model
from peers import WithLoss, as_dict, of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def stalls(model: nn.Module, width: int, rounds: int) -> dict[str, list[Cost]]:
    """Return what a save of weights and optimizer costs training, in seconds."""
    data = [{"input": torch.randn(width), "labels": torch.zeros(width)}] * (2 * rounds + 4)
    return {name: stall(model, data, rounds) for name, stall in of(STALLS).items()}


def _stall_of_transformers(model: nn.Module, data: Any, rounds: int) -> list[Cost]:
    import transformers

    costs: list[Cost] = []
    watch = Watch()

    class Saves(transformers.TrainerCallback):
        asked = False

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if self.asked:
                costs.append(watch.stop())
            self.asked = False

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.asked = state.global_step > 2 and state.global_step % 2 == 1
            control.should_save = self.asked
            watch.start()

    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input: Any, labels: Any) -> dict[str, Any]:
            return {"loss": nn.functional.mse_loss(self.model(input), labels)}

    with tempfile.TemporaryDirectory(dir=".") as folder:
        args = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=1,
            max_steps=2 * rounds + 3,
            save_strategy="steps",
            save_steps=1_000_000,
            save_total_limit=1,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        trainer = transformers.Trainer(Squares(), args, train_dataset=data, callbacks=[Saves()])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return costs[:rounds]


def _stall_of_lightning(model: nn.Module, data: Any, rounds: int) -> list[Cost]:
    import lightning

    costs: list[Cost] = []

    class Saves(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx > 1 and len(costs) < rounds:
                costs.append(timed(lambda: trainer.save_checkpoint(f"{folder}/checkpoint"))())

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> Any:
            return nn.functional.mse_loss(self.model(batch["input"]), batch["labels"])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.model.parameters(), fused=True)

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    with tempfile.TemporaryDirectory(dir=".") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(accelerator="cpu", logger=False, max_steps=rounds + 3, callbacks=[Saves()], **quiet)
        trainer.fit(Module(), DataLoader(data, batch_size=1))
    return costs


def _stall_of_ignite(model: nn.Module, data: Any, rounds: int) -> list[Cost]:
    from ignite.engine import Engine
    from ignite.handlers import Checkpoint, DiskSaver

    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(data[0]["input"]).square().mean().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        saver = DiskSaver(folder, require_empty=False)
        save = Checkpoint({"model": model, "optimizer": optimizer}, saver, n_saved=1)
        engine, costs = Engine(lambda engine, batch: None), []
        for number in range(rounds + 1):
            engine.state.iteration = number
            costs.append(timed(lambda: save(engine))())
    return costs[1:]


STALLS = {"transformers": _stall_of_transformers, "Lightning": _stall_of_lightning, "Ignite": _stall_of_ignite}


# -- resumed runs -----------------------------------------------------------------------------------------------------


def resumes(folder: Path, examples: int, step: int) -> dict[str, Callable[[], tuple[float, float]]]:
    """Return what resumes a run at a step, and returns the processor's time and that on the clock.

    Lightning and Ignite do not go on within an epoch at the example where a checkpoint is, so they are left out.
    """
    return {name: make(folder, examples, step) for name, make in of({"transformers": _resume_of_transformers}).items()}


def _resume_of_transformers(folder: Path, examples: int, step: int) -> Callable[[], tuple[float, float]]:
    import transformers

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(examples, 64, generator=generator)
    dataset = TensorDataset(features, torch.randint(0, 10, (examples,), generator=generator))

    class StopAt(transformers.TrainerCallback):
        def __init__(self, last: int) -> None:
            self.last = last

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= self.last:
                self.ended = time.process_time(), time.perf_counter()
                control.should_save, control.should_training_stop = self.last == step, True

    def make(callback: StopAt) -> Any:
        args = transformers.TrainingArguments(
            str(folder / "transformers"),
            per_device_train_batch_size=BATCH,
            max_steps=examples // BATCH,
            save_strategy="steps",
            save_steps=examples,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        model = WithLoss(make_model())
        trainer = transformers.Trainer(model, args, train_dataset=dataset, data_collator=as_dict, callbacks=[callback])
        trainer.remove_callback(transformers.PrinterCallback)
        return trainer

    make(StopAt(step)).train()

    def resumed() -> tuple[float, float]:
        callback = StopAt(step + 1)
        trainer = make(callback)
        start = time.process_time(), time.perf_counter()
        trainer.train(resume_from_checkpoint=str(folder / "transformers" / f"checkpoint-{step}"))
        return callback.ended[0] - start[0], callback.ended[1] - start[1]

    return resumed
