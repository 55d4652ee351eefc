"""What is drawn: the page of two runs, that of a run that goes on, and the documentation, each at an address."""

from __future__ import annotations

import atexit
import functools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

DOCS = Path(__file__).resolve().parent


@contextmanager
def report_page(folder: Path) -> Iterator[str]:
    """Write the page of two runs, of which one stops early and one was resumed with another learning rate."""
    import trackside.report

    train(folder / "steep", rate=0.05, epochs=30)
    train(folder / "gentle", rate=0.01, epochs=12)
    train(folder / "gentle", rate=0.03, epochs=30, resume=True)
    path = trackside.report.write(
        folder / "report.html", folder / "steep", folder / "gentle", title="Two rates"
    )
    yield path.as_uri()


@contextmanager
def watch_page(folder: Path) -> Iterator[str]:
    """Watch a run that trains in a thread of this process until the picture is made."""
    from trackside import TrainerCallback
    from trackside.report import watch

    enough, ended = Event(), Event()

    class Pauses(TrainerCallback):
        def on_step_end(
            self, args: Any, state: Any, control: Any, **kwargs: Any
        ) -> None:
            if state.global_step == 400:
                enough.set()
            if state.global_step >= 400:
                ended.wait(0.2)
            if ended.is_set():
                control.stop("the picture is made")

    thread = Thread(
        target=train,
        args=(folder / "digits",),
        kwargs={"rate": 0.01, "epochs": 400, "also": [Pauses()]},
    )
    thread.start()
    try:
        if not enough.wait(300):
            raise RuntimeError("the run does not train")
        with watch(folder / "digits", port=0) as address:
            yield address
    finally:
        ended.set()
        thread.join()


def train(
    out: Path, *, rate: float, epochs: int, resume: bool = False, also: Any = ()
) -> None:
    """Train a small network on handwritten digits, with a journal."""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    from trackside import (
        ControlFilesCallback,
        EarlyStoppingCallback,
        JournalCallback,
        Trainer,
        TrainingArguments,
    )

    pixels, labels = load_digits(return_X_y=True)
    data = torch.utils.data.TensorDataset(
        torch.from_numpy(pixels.astype(np.float32) / 16), torch.from_numpy(labels)
    )
    examples, held_out = torch.utils.data.random_split(
        data, [1400, 397], torch.Generator().manual_seed(0)
    )
    torch.manual_seed(0)
    trainer = Trainer(
        torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        ),
        TrainingArguments(
            str(out),
            learning_rate=rate,
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            warmup_ratio=0.1,
            logging_steps=5,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=3,
            load_best_model_at_end=True,
            metric_for_best_model="eval_accuracy",
            disable_tqdm=True,
            on_stop_signal="return",
        ),
        train_dataset=examples,
        eval_dataset=held_out,
        loss_fn=torch.nn.functional.cross_entropy,
        compute_metrics=lambda found: {
            "accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())
        },
        callbacks=[
            JournalCallback(),
            ControlFilesCallback(),
            EarlyStoppingCallback(8),
            *also,
        ],
    )
    trainer.pop_callback("printer")
    trainer.train(resume_from_checkpoint=resume)


@functools.cache
def documentation() -> str:
    """Build the documentation, serve it on this machine until the process ends, and return its address."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    build = [sys.executable, "-m", "sphinx", "-q", "-b", "html"]
    subprocess.run([*build, str(DOCS), folder.name], check=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *said: Any) -> None: ...

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder.name)
    )
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
