"""The same training with transformers, Lightning and PyTorch Ignite, for the rows of `rows`.

Each function trains `Setting.steps` updates of the model of `mlp`, with clipping, fused AdamW and a linear schedule,
and returns what the updates alone cost. A peer that is not installed is left out, and named.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from harness import Call, Cost, Watch
from mlp import BATCH, Setting, make_model, optimizers
from torch import nn
from torch.utils.data import DataLoader

NAMES = {"transformers": "transformers", "Lightning": "lightning", "Ignite": "ignite"}
INSTALLED = [name for name, package in NAMES.items() if importlib.util.find_spec(package) is not None]
MISSING = [name for name in NAMES if name not in INSTALLED]


def of(functions: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Return those whose package is installed."""
    return {name: function for name, function in functions.items() if name in INSTALLED}


# -- training ---------------------------------------------------------------------------------------------------------


class WithLoss(nn.Module):
    """A model that returns its loss, as transformers wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.loss_fn = model, nn.CrossEntropyLoss()

    def forward(self, input: Any, labels: Any = None) -> dict[str, Any]:
        logits = self.model(input)
        return {"logits": logits} if labels is None else {"loss": self.loss_fn(logits, labels), "logits": logits}


def as_dict(examples: Any) -> dict[str, Any]:
    """Collate tuples into a batch with names."""
    return dict(zip(("input", "labels"), torch.utils.data.default_collate(examples), strict=False))


def with_transformers(setting: Setting, callbacks: Iterable[Any] = ()) -> Cost:
    """Train with the Trainer of transformers."""
    import transformers

    watch = Watch()

    class Stopwatch(transformers.TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            watch.start()

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            self.cost = watch.stop()

    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=setting.accumulation,
            num_train_epochs=1,
            learning_rate=1e-3,
            optim="adamw_torch_fused",
            save_strategy="no",
            logging_strategy="steps" if setting.is_watched else "no",
            logging_steps=10,
            disable_tqdm=not setting.is_watched,
            report_to=["tensorboard"] if setting.is_watched else [],
            dataloader_pin_memory=False,
            use_cpu=True,
            remove_unused_columns=False,
        )
        trainer = transformers.Trainer(
            WithLoss(make_model()),
            args,
            train_dataset=setting.data(),
            data_collator=as_dict,
            callbacks=[stopwatch, *callbacks],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return stopwatch.cost


def with_lightning(setting: Setting, callbacks: Iterable[Any] = ()) -> Cost:
    """Train with Lightning."""
    import lightning
    from lightning.pytorch.loggers import TensorBoardLogger

    watch = Watch()

    class Stopwatch(lightning.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            watch.start()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            self.cost = watch.stop()

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss_fn = make_model(), nn.CrossEntropyLoss()

        def training_step(self, batch: Any, index: int) -> Any:
            loss = self.loss_fn(self.model(batch[0]), batch[1])
            if setting.is_watched:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer, schedule = optimizers(self.model, setting)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            accumulate_grad_batches=setting.accumulation,
            gradient_clip_val=1.0,
            logger=TensorBoardLogger(folder) if setting.is_watched else False,
            log_every_n_steps=10,
            enable_progress_bar=setting.is_watched,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[stopwatch, *callbacks],
            default_root_dir=folder,
        )
        trainer.fit(Module(), DataLoader(setting.data(), batch_size=BATCH, shuffle=True))
    return stopwatch.cost


def with_ignite(setting: Setting, callbacks: Iterable[Any] = ()) -> Cost:
    """Train with PyTorch Ignite."""
    from ignite.engine import Engine, Events
    from ignite.handlers import ProgressBar
    from ignite.handlers.tensorboard_logger import OptimizerParamsHandler, TensorboardLogger

    model, loss_fn, watch = make_model(), nn.CrossEntropyLoss(), Watch()
    optimizer, schedule = optimizers(model, setting)

    def update(engine: Any, batch: Any) -> float | None:
        loss = loss_fn(model(batch[0]), batch[1]) / setting.accumulation
        loss.backward()
        if engine.state.iteration % setting.accumulation == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if setting.is_watched and engine.state.iteration % 10 == 0:
            return float(loss)
        return None

    engine = Engine(update)
    for callback in callbacks:
        engine.add_event_handler(Events.ITERATION_COMPLETED, callback)
    costs: list[Cost] = []
    engine.add_event_handler(Events.EPOCH_STARTED, watch.start)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: costs.append(watch.stop()))
    model.train()
    loader = DataLoader(setting.data(), batch_size=BATCH, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        if setting.is_watched:
            ProgressBar().attach(engine)
            logger, every = TensorboardLogger(log_dir=folder), Events.ITERATION_COMPLETED(every=10)
            logger.attach_output_handler(engine, every, tag="train", output_transform=lambda loss: {"loss": loss})
            logger.attach(engine, OptimizerParamsHandler(optimizer), every)
        engine.run(loader, max_epochs=1)
        if setting.is_watched:
            logger.close()
    return costs[0]


def training(setting: Setting) -> dict[str, Call]:
    """Return the contestants that train."""
    functions = {"transformers": with_transformers, "Lightning": with_lightning, "Ignite": with_ignite}
    return {name: lambda train=train: setting.a_step(train(setting)) for name, train in of(functions).items()}


# -- callbacks at every step ------------------------------------------------------------------------------------------


def callbacks(setting: Setting, number: int) -> dict[str, Callable[[], list[Any]]]:
    """Return what makes callbacks that do nothing at the end of a step."""

    def for_transformers() -> list[Any]:
        import transformers

        class OnStep(transformers.TrainerCallback):
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                pass

        return [OnStep() for _ in range(number)]

    def for_lightning() -> list[Any]:
        import lightning

        class OnStep(lightning.Callback):
            def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
                pass

        return [OnStep() for _ in range(number)]

    return of(
        {
            "transformers": for_transformers,
            "Lightning": for_lightning,
            "Ignite": lambda: [lambda engine: None for _ in range(number)],
        }
    )


def with_callbacks(setting: Setting, number: int) -> dict[str, Callable[[bool], Cost]]:
    """Return what trains with that many callbacks, or without."""
    trains = {"transformers": with_transformers, "Lightning": with_lightning, "Ignite": with_ignite}
    made = callbacks(setting, number)
    return {
        name: lambda has_any, name=name, make=make: trains[name](setting, make() if has_any else ())
        for name, make in made.items()
    }


# -- prediction -------------------------------------------------------------------------------------------------------


def predictors(model: nn.Module, features: torch.Tensor, batch: int) -> dict[str, Callable[[], Any]]:
    """Return functions that predict all rows into one array in host memory."""
    dataset = torch.utils.data.TensorDataset(features)

    def by_transformers() -> Callable[[], Any]:
        import transformers

        args = transformers.TrainingArguments(
            tempfile.mkdtemp(prefix="peers-"),
            per_device_eval_batch_size=batch,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        trainer = transformers.Trainer(WithLoss(model), args, data_collator=as_dict)
        return lambda: trainer.predict(dataset).predictions

    def by_lightning() -> Callable[[], Any]:
        import lightning

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def predict_step(self, rows: Any, index: int) -> Any:
                return self.model(rows[0])

        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = lightning.Trainer(accelerator="cpu", logger=False, **quiet)
        module, loader = Module(), DataLoader(dataset, batch_size=batch)

        def predict() -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.cat(trainer.predict(module, loader)).numpy()

        return predict

    def by_ignite() -> Callable[[], Any]:
        from ignite.engine import Engine
        from ignite.handlers import EpochOutputStore

        def step(engine: Any, rows: Any) -> Any:
            with torch.no_grad():
                return model(rows[0])

        engine, store, loader = Engine(step), EpochOutputStore(), DataLoader(dataset, batch_size=batch)
        store.attach(engine, "outputs")

        def predict() -> Any:
            engine.run(loader)
            return torch.cat(engine.state.outputs).numpy()

        return predict

    made = of({"transformers": by_transformers, "Lightning": by_lightning, "Ignite": by_ignite})
    return {name: make() for name, make in made.items()}
