"""A trainer without a framework, for tests of loop, evaluation and checkpoints over a fake group of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from trackside.callbacks.state import FLAGS
from trackside.trainer.arguments.base import BaseTrainingArguments
from trackside.trainer.base_trainer import BaseTrainer
from trackside.trainer.distributed.collectives import Collectives
from trackside.trainer.distributed.launcher import ProcessRank
from trackside.trainer.engine import CheckpointIO, Engine, EvaluationStep, StepResult
from trackside.trainer.measuring.descriptions import DataDescription, ModelDescription
from trackside.trainer.measuring.step_timer import StepTimer
from trackside.trainer.optim.given import GivenOptimizers
from trackside.trainer.train_step import TrainStep

Fault = Callable[[str, int], None]
"""Called with a place in the run and how often this rank has been there; it may raise."""

BATCHES = 4
"""Micro-batches of an epoch, and batches of an evaluation."""


class FakeTrainer(BaseTrainer):
    """One rank of a run.

    Args:
        collectives: Those of the rank.
        folder: Where checkpoints go.
        sizes: The outputs of each evaluation batch of this rank, as many numbers for an example.
        fault: Called before each micro-batch, evaluation batch and write.
        steers: The flags that a callback of this rank sets, by the step.
        local_rank: Rank on its machine; without it, there is one machine.
    """

    def __init__(
        self,
        collectives: Collectives,
        folder: Path,
        *,
        sizes: list[int],
        fault: Fault,
        steers: dict[int, str],
        local_rank: int | None = None,
        **args: Any,
    ) -> None:
        self.collectives_of_the_test = collectives
        self.sizes, self.fault, self.steers = sizes, fault, steers
        self.processing_class = None
        options: Any = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
        made = BaseTrainingArguments(str(folder), **{**options, "disable_tqdm": True, "log_level": "error", **args})
        local_rank = collectives.rank if local_rank is None else local_rank
        vars(made)["place"] = ProcessRank(collectives.rank, collectives.world_size, local_rank, "torchrun")
        super().__init__(
            model=object(),
            args=made,
            train_dataset=[0],
            eval_dataset=[0],
            compute_metrics=lambda prediction: {"size": float(len(prediction.predictions))},
            callbacks=[Steers(steers)],
            optimizers=(None, None),
            loss_fn=None,
            model_init=None,
        )
        self.pop_callback("printer")

    @property
    def _base(self) -> type:
        return FakeTrainer

    def _make_engine(self) -> Engine:
        return FakeEngine(self, self.collectives_of_the_test)

    def _check_model(self) -> None:
        pass

    def create_optimizer(self) -> Any:
        return None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        return None


class Steers:
    """A control callback that sets a flag at certain steps of its own rank."""

    def __init__(self, steers: dict[int, str]) -> None:
        self.steers = steers

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        flag = self.steers.get(state.global_step)
        if flag is not None:
            setattr(control, flag, True)


class FakeStrategy:
    def __init__(self, collectives: Collectives) -> None:
        self.collectives = collectives

    def may_skip(self, is_steered: bool) -> bool:
        return is_steered


class FakeStep(TrainStep):
    def __init__(self, fault: Fault) -> None:
        self.fault, self.taken, self.losses = fault, 0, 0.0

    def fused_update(self, window: Any) -> bool:
        return False

    def micro_step(self, batch: Any, context: Any) -> None:
        self.fault("micro_step", self.taken)
        self.taken += 1
        self.losses += 1.0

    def finish_gradients(self) -> Any:
        return 1.0

    def optimizer_step(self) -> bool:
        return False

    def end_update(self, skipped: bool) -> None: ...

    def used_groups(self) -> list[dict[str, Any]]:
        return []

    def end_run(self) -> None:
        pass

    def take_loss(self) -> tuple[float, int]:
        loss, self.losses = self.losses, 0.0
        return loss, 0

    def first_non_finite(self, *, wait: bool) -> tuple[int, float] | None:
        return None

    def training_record(self) -> dict[str, float]:
        return {"learning_rate": 0.0}

    def take_flos(self) -> float:
        return 0.0

    def update_loss(self) -> float | None:
        return 1.0

    def keep_state(self) -> None: ...

    def take_back(self, *, is_kept: bool) -> None: ...

    def watch_losses(self) -> None: ...

    def take_watched_losses(self) -> tuple[float, int]:
        return 0.0, 0


class FakeEvaluation(EvaluationStep):
    def __init__(self, sizes: list[int], fault: Fault) -> None:
        self.sizes, self.fault, self.taken = sizes, fault, 0

    def evaluation_batches(self, dataset: Any) -> Any:
        return self.sizes

    def test_batches(self, dataset: Any) -> Any:
        return self.sizes

    def counted(self, batches: Any) -> Any:
        return batches

    def eval_mode(self) -> Any:
        return nullcontext()

    def evaluation_step(self, batch: int, prediction_loss_only: bool, ignore_keys: Any) -> StepResult:
        self.fault("evaluation_step", self.taken)
        self.taken += 1
        return StepResult(1.0, 1.0, np.zeros((1, batch), dtype=np.float32), np.zeros(1), 1)

    def metrics(self) -> dict[str, Any]:
        return {}

    def fetch(self, nested: Any) -> Any:
        return lambda: nested

    def for_metrics(self, nested: Any) -> Any:
        return nested

    def num_examples(self, batches: Any) -> int | None:
        return None

    def is_dict_of_datasets(self, dataset: Any) -> bool:
        return False


class FakeCheckpoint(CheckpointIO):
    def __init__(self, collectives: Collectives, fault: Fault) -> None:
        self.collectives, self.fault, self.taken = collectives, fault, 0

    def begin_run(self) -> None:
        pass

    def snapshot(self, *, copy: bool) -> Any:
        states = self.collectives.gather("the states", self.collectives.rank)

        def write(folder: Path) -> dict[str, str]:
            self.fault("write", self.taken)
            self.taken += 1
            (folder / "rng_state_0.bin").write_text(f'{{"states": {states}}}')
            return {"rng_state_0.bin": "rng"}

        return write

    def rehearse(self, folder: Path) -> None:
        pass

    def sizes_needed(self) -> list[int]:
        return []

    def prepare_memory(self) -> None:
        pass

    def release_memory(self) -> None:
        pass

    def write_shards(self) -> None:
        pass

    def load_snapshot(self, contents: Any, before: Any, step: int) -> None:
        pass

    def random_state_kept(self) -> Any:
        return nullcontext()

    def load_weights(self, contents: Any) -> None:
        pass

    def save_model(self, output_dir: str | None) -> None:
        pass


class NoAverage:
    def shown(self) -> Any:
        return nullcontext()


class FakeEngine(Engine):
    def __init__(self, trainer: FakeTrainer, collectives: Collectives) -> None:
        self.trainer = trainer
        self.strategy = FakeStrategy(collectives)
        self.step_timer = StepTimer()
        self.given = GivenOptimizers(trainer)
        self.average = NoAverage()

    def configure(self) -> None:
        trainer = self.trainer
        self.train_step = FakeStep(trainer.fault)
        self.evaluation = FakeEvaluation(trainer.sizes, trainer.fault)
        self.checkpoint = FakeCheckpoint(self.strategy.collectives, trainer.fault)

    def prepare_data(self, resized: Any = None) -> int | None:
        return BATCHES

    def refresh_data(self, epoch: int) -> tuple[bool, int]:
        return False, BATCHES

    def describe_model(self) -> ModelDescription:
        return ModelDescription("FakeModel", weights=1, trained=1, where="CPU")

    def reschedule(self, max_steps: int, step: int) -> None: ...

    def replace_model(self) -> None: ...

    def optimizer_record(self) -> None:
        return None

    def prepare_model(self, max_steps: int) -> None:
        pass

    def seed(self, checkpoint: Path | None) -> None:
        pass

    def set_seed(self, seed: int) -> None:
        pass

    def describe_data(self) -> DataDescription:
        return DataDescription(None, None, None)

    def epoch_batches(self, progress: Any) -> Iterator[Any]:
        return iter(range(BATCHES))

    def count_examples(self, window: Any) -> int:
        return len(window)

    def batches_used(self, progress: Any) -> int:
        return int(progress.batches_in_epoch)

    @contextmanager
    def propagate_errors(self) -> Any:
        yield

    def sync_control(self, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        control = self.trainer.control
        own = {name: getattr(control, name) for name in (*FLAGS, "stop_reason")}
        for name, value in self.strategy.collectives.gather("the control", own)[0].items():
            setattr(control, name, value)
        return stop_signal

    def job_store(self) -> None:
        return None

    def follows_metric(self) -> bool:
        return False

    def device_memory(self, reset: bool) -> None:
        return None
