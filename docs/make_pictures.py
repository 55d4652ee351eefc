"""Make what the documentation shows of the demo again: pictures, and the numbers in the README.

    python docs/make_pictures.py

trains the demo on both frameworks, in a temporary folder, writes its results into README.md and its loss curve into
docs/images/digits.png, serves both runs with TensorBoard, and draws the page into docs/images/tensorboard.png with
Debian's chromium (``apt-get install chromium``).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = {"pytorch": "demo_output", "tensorflow": "demo_output_tf"}
PAGE = "?darkMode=false#scalars&tagFilter=accuracy%7C%2Floss%7Crate&_smoothingWeight=0"
"""Four curves of each run, as they are."""

BROWSER = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1400,760",
    "--virtual-time-budget=20000",
]


@contextmanager
def serving(folder: Path, seconds: float = 90) -> Iterator[str]:
    """Serve the runs in ``folder`` with TensorBoard on this machine, at the address that is yielded."""
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    log = folder.parent / "tensorboard.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _address(log, server, time.monotonic() + seconds)
    finally:
        server.terminate()
        server.wait()


def _address(log: Path, server: subprocess.Popen[bytes], deadline_s: float) -> str:
    while not (found := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())):
        if server.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"TensorBoard does not start: {log.read_text()}")
        time.sleep(0.1)
    return found[0]


def photograph(address: str, picture: Path) -> None:
    """Draw a page as a browser shows it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [f"--user-data-dir={profile}", f"--screenshot={picture}"]
        subprocess.run(
            [*BROWSER, *options, address],
            check=True,
            timeout=120,
            stderr=subprocess.DEVNULL,
        )


RESULTS = re.compile(r"(?<=```text\n)Run\n.*?(?=\n```)", re.DOTALL)
"""The place of the results in the README."""


def results_of(printed: str) -> str:
    """Return what the README shows of the output of the demo: the end of the last run, and the results of both."""
    ending = re.findall(r"^Run\n(?:  .*\n)+", printed, re.MULTILINE)[-1]
    results = re.findall(r"^Side by side\n(?:.+\n){7}", printed, re.MULTILINE)[-1]
    return ending + "\n" + results.rstrip()


def write_results(printed: str, page: Path) -> None:
    """Write the results of the demo into the README."""
    text = page.read_text(encoding="utf-8")
    page.write_text(
        RESULTS.sub(lambda _: results_of(printed), text, count=1), encoding="utf-8"
    )


def main() -> None:
    """Train, serve, and draw."""
    with tempfile.TemporaryDirectory() as folder:
        demo = [sys.executable, str(ROOT / "examples" / "demo.py")]
        printed = subprocess.run(
            demo, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        write_results(printed, ROOT / "README.md")
        curve = Path(folder) / RUNS["tensorflow"] / "loss_curve.png"
        shutil.copy(curve, ROOT / "docs" / "images" / "digits.png")
        runs = Path(folder) / "demo"
        runs.mkdir()
        for name, output in RUNS.items():
            for run in (Path(folder) / output / "runs").glob("*"):
                (runs / name).symlink_to(run)
        picture = ROOT / "docs" / "images" / "tensorboard.png"
        with serving(runs) as address:
            photograph(address + PAGE, picture)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
