"""Make the pictures of pages again: the page of a run, that of a run that goes on, and the documentation, in a browser.

    python docs/screenshots.py [NAME ...] [--folder docs/images]

trains two small runs, writes their page, watches a third while it trains, and draws what `PAGES` lists: each page wide
and as a phone shows it, in light and in dark. It ends with 1 if a page reports an error, asks for something from
elsewhere, or is wider than its window. It needs the extras ``torch``, ``demo``, ``docs``, ``report`` and ``browser``,
and a Chromium (``apt-get install chromium``); the variable CHROMIUM names another.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCREENS = {"wide": (1280, 960), "phone": (390, 844)}
SCHEMES = ("light", "dark")
LARGEST_BYTES = 200_000
DRAWN = "document.documentElement.dataset.drawn > 0"


@dataclass(frozen=True)
class Shot:
    """A page to draw.

    Attributes:
        address: Returns a context with its address, from an empty folder.
        ready: A selector of an element that is there once the page is drawn.
        screens: The screens, by their names in `SCREENS`.
        schemes: The colour schemes.
        parts: A selector of what is scrolled to, by screen; the top of the page, if there is none.
        drawn: An expression that is true once the scripts of the page have drawn it.
    """

    address: Callable[[Path], Any]
    ready: str
    screens: tuple[str, ...] = ("wide", "phone")
    schemes: tuple[str, ...] = SCHEMES
    parts: Mapping[str, str] = field(default_factory=dict)
    drawn: str = DRAWN


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
    subprocess.run([*build, str(ROOT / "docs"), folder.name], check=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *said: Any) -> None: ...

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder.name)
    )
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def docs_page(path: str, **parts: str) -> Shot:
    """Return the picture of a page of the documentation, scrolled to a part on each screen."""
    shown = contextmanager(lambda folder: iter([f"{documentation()}/{path}"]))
    return Shot(shown, "article", parts=parts, drawn="true")


PAGES: dict[str, Shot] = {
    "report": Shot(report_page, "html[data-drawn]", parts={"phone": "#curves"}),
    "watch": Shot(watch_page, "#listening:has-text('takes requests')"),
    "start": docs_page("index.html"),
    "reference": docs_page(
        "reference/arguments.html",
        wide="#optimizer-and-schedule",
        phone="#optimizer-and-schedule",
    ),
}
"""The pages, by the name with which their pictures begin."""


def chromium() -> str | None:
    """Return the path of a Chromium; None if none is installed."""
    named = os.environ.get("CHROMIUM")
    return named or next(
        filter(
            None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
        ),
        None,
    )


@contextmanager
def browser() -> Iterator[Any]:
    """Start a Chromium without a window; what it would ask its maker for is switched off."""
    from playwright.sync_api import sync_playwright

    found = chromium()
    if found is None:
        raise RuntimeError("no Chromium is installed. Run: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-quic"]
        )
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(
    started: Any,
    address: str,
    ready: str,
    screen: str,
    scheme: str,
    problems: list[str],
    drawn: str = DRAWN,
) -> Iterator[Any]:
    """Open a page on a screen, and note what is wrong with it: errors, requests to elsewhere, what is too wide."""
    width, height = SCREENS[screen]
    is_phone = screen == "phone"
    look = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    context = started.new_context(
        **look, is_mobile=is_phone, has_touch=is_phone, reduced_motion="reduce"
    )
    try:
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("console", lambda said: problems.append(f"{said.type}: {said.text}"))
        own = address.partition("#")[0]
        origin = "/".join([*own.split("/")[:3], ""]) if own.startswith("http") else own
        asked = ("data:", "blob:", origin, own.rstrip("/") + "/")
        page.on(
            "request",
            lambda sent: (
                sent.url.startswith(asked) or problems.append(f"asks for {sent.url}")
            ),
        )
        page.goto(address)
        page.wait_for_selector(ready, timeout=60_000, state="attached")
        page.wait_for_function(drawn, timeout=60_000)
        is_wide = page.evaluate(
            "document.documentElement.scrollWidth > window.innerWidth"
        )
        if is_wide:
            problems.append("is wider than its window")
        yield page
    finally:
        context.close()


def draw(names: list[str], folder: Path) -> list[str]:
    """Draw pages into a folder; return what is wrong with them."""
    problems: list[str] = []
    with browser() as started:
        for name in names:
            shot = PAGES[name]
            with (
                tempfile.TemporaryDirectory() as made,
                shot.address(Path(made)) as address,
            ):
                for screen in shot.screens:
                    for scheme in shot.schemes:
                        found: list[str] = []
                        with opened(
                            started,
                            address,
                            shot.ready,
                            screen,
                            scheme,
                            found,
                            shot.drawn,
                        ) as page:
                            picture = folder / f"{name}-{screen}-{scheme}.png"
                            if screen in shot.parts:
                                page.locator(shot.parts[screen]).evaluate(
                                    "part => part.scrollIntoView({behavior: 'instant'})"
                                )
                            page.screenshot(path=picture)
                            shrink(picture)
                        print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")
                        problems += [f"{picture.name}: {problem}" for problem in found]
    return problems


def shrink(picture: Path) -> None:
    """Write a picture with 128 colours, which pages of flat colours do with."""
    from PIL import Image

    with Image.open(picture) as image:
        image.convert("RGB").quantize(128).save(picture, optimize=True)
    if picture.stat().st_size > LARGEST_BYTES:
        raise RuntimeError(
            f"{picture} has {picture.stat().st_size:,} bytes; at most {LARGEST_BYTES:,} are allowed"
        )


def main() -> int:
    """Draw all pages, or those that are named; return 1 if something is wrong with one."""
    parser = argparse.ArgumentParser(description="Draw the pictures of pages.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(PAGES)}; default: all"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "docs" / "images",
        help="where the pictures are written",
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in PAGES]:
        parser.error(
            f"there is no page {', '.join(unknown)}; there are {', '.join(PAGES)}"
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    problems = draw(options.names or list(PAGES), options.folder)
    print("\n".join(problems), file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
