"""Ranks of a PyTorch run that are threads of this process, with the arithmetic of DistributedDataParallel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from support.fake_group import FakeGroup
from trackside import Trainer, TrainingArguments
from trackside.trainer.pytorch import engine
from trackside.trainer.pytorch.distributed.strategy import SingleProcess

_here = threading.local()


class FakeRank(SingleProcess):
    """A rank whose gradients are averaged with those of the other ranks, as DDP does, when an update is complete."""

    def __init__(self, rank: int, world_size: int, collectives: Any) -> None:
        super().__init__(rank, world_size)
        self.collectives = collectives
        self.model: Any = None

    def wrap(self, model: Any) -> Any:
        self.model = model
        return model

    def all_reduce(self, value: Any) -> Any:
        return torch.as_tensor(sum(self.collectives.gather("a sum", float(value))), dtype=torch.float64)

    def all_reduce_async(self, value: Any) -> Callable[[], Any]:
        return lambda: self._average() or sum(self.collectives.gather("the weights", float(value)))

    def _average(self) -> None:
        own = [parameter.grad for parameter in self.model.parameters()]
        gathered = self.collectives.gather("the gradients", own)
        for parameter, *grads in zip(self.model.parameters(), *gathered, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(sum(grads) / self.world_size)


class RankArguments(TrainingArguments):
    """Arguments of the rank of this thread."""

    world_size = property(lambda self: getattr(_here, "world_size", 1))
    process_index = property(lambda self: getattr(_here, "rank", 0))
    local_process_index = process_index


def train_on_ranks(
    world_size: int, make: Callable[[type[TrainingArguments]], Trainer], resume: Any = None
) -> list[Trainer]:
    """Train what ``make`` returns on every rank at once, from a checkpoint if ``resume``; return the trainers."""

    def run(collectives: Any) -> Trainer:
        _here.rank, _here.world_size, _here.collectives = collectives.rank, world_size, collectives
        trainer = make(RankArguments)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    def strategy_for(args: Any, device: Any) -> Any:
        return FakeRank(_here.rank, _here.world_size, _here.collectives)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "strategy_for", strategy_for)
        results = FakeGroup(world_size, timeout_s=30.0).run(run)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
