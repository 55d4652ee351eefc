"""A training script for torchrun that loses a worker in its first attempt: ``elastic_worker.py FOLDER FAULT``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from support.torch_models import classified, mlp, weights_of
from torch import nn

from trackside import Trainer, TrainerCallback, TrainingArguments

STEPS = 12
GLOBAL_BATCH = 6


class Watch(TrainerCallback):
    """Writes down where each attempt began, and lets the fault happen once, at step 7."""

    def __init__(self, folder: Path, fault: str) -> None:
        self.folder = folder
        self.fault = fault

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index == 0:
            with (self.folder / "attempts.jsonl").open("a") as file:
                file.write(json.dumps({"step": state.global_step, "processes": args.world_size}) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        mark = self.folder / "happened"
        if self.fault == "none" or state.global_step != 7 or mark.exists():
            return
        if args.process_index == args.world_size - 1:
            mark.touch()
            if self.fault == "machine":  # the agent first, so that it does not start this worker again
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(2.0)


def main() -> None:
    folder, fault = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    args = TrainingArguments(
        str(folder / "out"),
        global_batch_size=GLOBAL_BATCH,
        per_device_train_batch_size=3,
        max_steps=STEPS,
        learning_rate=0.1,
        optim="sgd",
        save_steps=3,
        logging_steps=1,
        disable_tqdm=True,
        ddp_timeout=60,
        overwrite_output_dir=True,
        callbacks={"tensorboard": {"log_dir": str(folder / "runs")}},
    )
    data = classified(20, dtype=torch.float64)
    model = mlp(dtype=torch.float64)
    trainer = Trainer(model, args, train_dataset=data, loss_fn=nn.CrossEntropyLoss(), callbacks=[Watch(folder, fault)])
    trainer.train()
    if args.process_index == 0:
        found = {"weights": weights_of(trainer.model).tolist(), "history": trainer.state.log_history}
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
