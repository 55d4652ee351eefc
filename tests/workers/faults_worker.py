"""What goes wrong among several processes in the tests of distribution."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch._dynamo  # which takes a second, and would do so at the first step, with a time limit
from support.torch_models import classified
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

from trackside import TrainerCallback
from trackside.callbacks.errors import RankError
from trackside.trainer.pytorch.distributed import watchdog
from workers.ddp_common import RANK, WORLD, main, make, outcome, trained, write


class Fault(TrainerCallback):
    """Does something bad on the last rank at step 3."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if RANK == WORLD - 1 and state.global_step == 3:
            self.act()


def _raise() -> None:
    raise KeyError("the data of rank 1 is bad")


def _hang() -> None:
    watchdog.GRACE_S = 2.0
    time.sleep(600)


def _wait_for_all(folder: Path) -> None:
    """Return when every process is here: how long one takes to start must not count against a short ddp_timeout."""
    (folder / f"here{RANK}").touch()
    while len(list(folder.glob("here*"))) < WORLD:
        time.sleep(0.01)


def _run_with(folder: Path, act: Callable[[], Any], more: Sequence[Any] = (), **values: Any) -> Any:
    _wait_for_all(folder)
    trainer = make(folder, callbacks=[Fault(act), *more], num_train_epochs=500, logging_strategy="no", **values)
    try:
        trainer.train()
    except BaseException as error:
        write(folder, {"error": type(error).__name__, "text": str(error), "step": trainer.state.global_step})
        raise
    return {"steps": trainer.state.global_step}


def raises(folder: Path) -> Any:
    return _run_with(folder, _raise)


def killed(folder: Path) -> Any:
    return _run_with(folder, lambda: os.kill(os.getpid(), signal.SIGKILL))


def leaves(folder: Path) -> Any:
    return _run_with(folder, lambda: sys.exit(0))


def hangs(folder: Path) -> Any:
    return _run_with(folder, _hang, ddp_timeout=6)


class Unhurried(TrainerCallback):
    """Takes its time, and shows from step 3 on that it trains."""

    role = "observer"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(0.05)
        if state.global_step == 3:
            (self.folder / f"trains{RANK}").touch()


def runs_long(folder: Path) -> Any:
    return _run_with(folder, bool, more=[Unhurried(folder)], ddp_timeout=6)


def save_fails(folder: Path) -> Any:
    if RANK == 0:
        (folder / "blocked").write_text("a file where the folder should be")
    return _run_with(folder, bool, output_dir=str(folder / "blocked"), save_strategy="steps", save_steps=2)


class Unreadable(TensorDataset):
    """Cannot be read on rank 1."""

    def __getitem__(self, index: int) -> Any:
        if RANK == 1:
            raise OSError("cannot read example")
        return super().__getitem__(index)


def data_fails(folder: Path) -> Any:
    return _run_with(folder, bool, train_dataset=Unreadable(*classified(17, dtype=torch.float64).tensors))


def trial_fails(folder: Path) -> Any:
    data = Unreadable(*classified(8, dtype=torch.float64).tensors)
    values = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    return _run_with(
        folder, bool, eval_dataset=data, load_best_model_at_end=True, metric_for_best_model="loss", **values
    )


def own_words(folder: Path) -> Any:
    def fail() -> None:
        raise RuntimeError("the feature store has no row 17")

    return _run_with(folder, fail)


def uneven(folder: Path) -> Any:
    return _run_with(folder, bool, train_dataset=classified(17 + RANK, dtype=torch.float64))


class Shards(IterableDataset[Any]):
    """Gives every process what it takes to be its share."""

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(classified(20, dtype=torch.float64)), RANK, 12 + 8 * RANK, WORLD)


def uneven_evaluation(folder: Path) -> Any:
    return _run_with(folder, bool, eval_dataset=Shards(), eval_strategy="steps", eval_steps=1)


class Fading(nn.Linear):
    """Uses its bias in the first two calls only."""

    calls = 0

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.linear(features, self.weight, self.bias if self.calls < 3 else None)


def unused_later(folder: Path) -> Any:
    return _run_with(folder, bool, model=Fading(6, 3).double())


def goes_on(folder: Path) -> Any:
    """All processes fail in step 3, one of them in the middle of an exchange; then another trainer begins."""

    def fail() -> None:
        if RANK == 1:
            torch.distributed.all_reduce(torch.ones(9), async_op=True)
        raise KeyError("on all of them")

    class Fails(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                fail()

    older = make(folder)
    with suppress(KeyError, RankError):
        make(folder, callbacks=[Fails()]).train()
    return {"weights": trained(folder)["weights"], "of an older trainer": (older.train(), outcome(older))[1]["weights"]}


if __name__ == "__main__":
    main(globals())
