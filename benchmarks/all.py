"""Measure every row of docs/explanation/performance.md and write its tables and picture: the one command.

    python benchmarks/all.py                        # everything that has not been measured yet, then the page
    python benchmarks/all.py --again                # everything anew
    python benchmarks/all.py --rows step predict    # these rows anew, and the page with the results of the others
    python benchmarks/all.py --quick                # whether all of it runs; the numbers mean nothing, the page stays

Each row runs in a process of its own, on one thread, and leaves its result in the output folder, so that a run that was
interrupted goes on where it was. The rows and the contestants are in `rows`, `step`, `peers` and the other scripts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import growth
import growth_page
import page
from harness import CPU_ONLY, ONE_THREAD, Result, table
from rows import ROWS, Effort

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
NAMES = (*ROWS, "growth")


def measure(name: str, folder: Path, options: argparse.Namespace) -> bool:
    """Measure a row in a process of its own; return whether it worked."""
    words = ["--one", name, "--out", str(folder), *(["--quick"] if options.quick else [])]
    words += ["--rounds", str(options.rounds)] if options.rounds else []
    environment = {**os.environ, **ONE_THREAD, **CPU_ONLY, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
    with open(folder / f"{name}.log", "w", encoding="utf-8") as log:
        command = [sys.executable, __file__, *words]
        ended = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    return ended.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=NAMES, metavar="ROW", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, help="turns of each contestant, instead of the row's own number")
    parser.add_argument("--quick", action="store_true", help="see whether all of it runs, in a few minutes")
    parser.add_argument("--again", action="store_true", help="measure what has been measured, too")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of the results")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of the documentation")
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.out / "quick" if options.quick and not options.one else options.out
    folder.mkdir(parents=True, exist_ok=True)
    if options.one == "growth":
        found = growth.measure(is_quick=options.quick)
        (folder / "growth.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    if options.one:
        result = ROWS[options.one].run(options.one, Effort(options.rounds, options.quick))
        result.save(folder / f"{options.one}.json")
        return 0
    failed = measure_all(folder, options)
    if not options.quick:
        page.write(folder, options.docs)
        if (folder / "growth.json").exists():
            growth_page.write(json.loads((folder / "growth.json").read_text(encoding="utf-8")), options.docs)
    return 1 if failed else 0


def measure_all(folder: Path, options: argparse.Namespace) -> list[str]:
    """Measure the rows that are asked for, show each as it is ready, and return those that failed."""
    start_s, failed = time.monotonic(), []
    is_new = options.again or options.rows or options.quick
    names = [name for name in options.rows or NAMES if is_new or not (folder / f"{name}.json").exists()]
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}, {time.monotonic() - start_s:.0f} s] {name}", file=sys.stderr, flush=True)
        if measure(name, folder, options):
            print(shown(folder / f"{name}.json"), end="\n\n", flush=True)
        else:
            failed.append(name)
            print((folder / f"{name}.log").read_text(encoding="utf-8")[-2000:], file=sys.stderr)
    print(f"{time.monotonic() - start_s:.0f} s; failed: {', '.join(failed) or 'none'}", file=sys.stderr)
    return failed


def shown(path: Path) -> str:
    """Return what was measured as Markdown."""
    if path.stem == "growth":
        return growth_page.markdown(json.loads(path.read_text(encoding="utf-8")))
    return table(Result.load_from(path))


if __name__ == "__main__":
    sys.exit(main())
