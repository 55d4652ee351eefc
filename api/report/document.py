"""Document: the page as HTML, which contains all that it needs and asks for nothing from anywhere else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from trackside.callbacks._util.atomic_files import write_atomically
from trackside.callbacks._util.imports import require_package
from trackside.callbacks.errors import ConfigError
from trackside.report.curves import figures
from trackside.report.plotting import digest, packed_plotly, plotly_digest
from trackside.report.reading import ReadRun, read_run
from trackside.report.tables import differing, duration, ending_of, last_evaluations, number, tables_of

TEMPLATES = Path(__file__).parent / "templates"

POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; connect-src {connect}; "
    "base-uri 'none'; form-action 'none'"
)
"""What the page may do: run the scripts with these digests, and nothing from elsewhere; plotly.js sets styles."""


def write(path: str | os.PathLike[str], *outs: str | os.PathLike[str], title: str | None = None) -> Path:
    """Write the page of one run, or of several side by side, as one HTML file; return its path.

    Args:
        path: The file; it is replaced if it exists.
        outs: The output folders of the runs, or their journals.
        title: The heading of the page. None: the names of the runs.

    Raises:
        ConfigError: If a folder does not exist or tells of no run.
        MissingPackageError: If plotly or jinja2 is not installed (the extra ``report``).
        CheckpointError: If the file cannot be written.

    Example:
        >>> import trackside.report
        >>> trackside.report.write("report.html", "out/baseline", "out/wide")  # doctest: +SKIP
        PosixPath('report.html')
    """
    if not outs:
        raise ConfigError("a page needs the output folder of at least one run")
    runs = [read_run(os.fspath(out)) for out in outs]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(runs, title=title), sync=False)
    return path


def page(runs: Sequence[ReadRun], *, title: str | None = None) -> str:
    """Return the page of runs as HTML."""
    data = script_data(contents(runs))
    heading = title or ", ".join(named(runs))
    return render(heading, data, views(runs), ["page.js"])


def live_page() -> str:
    """Return the page of a run that goes on: without the run, which its script asks the server for, with a token."""
    nothing = script_data(contents([]))
    return render("A run", nothing, {"runs": [], "compared": []}, ["page.js", "watch.js"], is_live=True)


def render(title: str, data: str, shown: Mapping[str, Any], scripts: Sequence[str], *, is_live: bool = False) -> str:
    """Return the document.

    Args:
        title: Its heading.
        data: The figures, from `script_data`.
        shown: What the templates show of the runs, from `views`.
        scripts: The files of its scripts.
        is_live: Whether the page asks the server that it came from for what is new.
    """
    texts = [text_of(name) for name in scripts]
    allowed = " ".join([*map(digest, texts), plotly_digest()])
    return _rendered(
        "page.html",
        **shown,
        title=title,
        data=data,
        scripts=texts,
        style=text_of("page.css"),
        plotly=packed_plotly(),
        policy=POLICY.format(scripts=allowed, connect="'self'" if is_live else "'none'"),
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
        is_live=is_live,
    )


def contents(runs: Sequence[ReadRun]) -> dict[str, Any]:
    """Return what the script of a page draws."""
    drawn, left_out = figures(runs)
    marks = [
        {
            "name": name,
            "resumed": [start.step for start in run.record.starts if start.step > 0],
            "saved": [entry.step for entry in run.checkpoints],
        }
        for name, run in zip(named(runs), runs, strict=True)
    ]
    return {"runs": marks, "figures": drawn, "left_out": left_out}


def script_data(value: Any) -> str:
    """Return JSON that can stand in a script element: nothing in it ends the element, whatever the texts are.

    Example:
        >>> script_data({"name": "</script><b>"})
        '{"name": "\\\\u003c/script\\\\u003e\\\\u003cb\\\\u003e"}'
    """
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def views(runs: Sequence[ReadRun]) -> dict[str, Any]:
    """Return what the templates show of runs."""
    names = named(runs)
    shown = [
        {
            "name": name,
            "folder": str(run.folder),
            "facts": facts(run),
            "header": header_lines(run),
            "progress": progress_of(run),
            "notes": run.notes,
            "tables": tables_of(run),
            "is_running": run.is_running,
        }
        for name, run in zip(names, runs, strict=True)
    ]
    compared = [last_evaluations(runs, names), differing(runs, names)] if len(runs) > 1 else []
    return {"runs": shown, "compared": compared}


def sections(runs: Sequence[ReadRun]) -> dict[str, str]:
    """Return the parts of the page that change while a run goes on, as HTML by the id of their element."""
    shown = views(runs)
    return {name: _rendered(f"{name}.html", **shown) for name in ("overview", "details")}


def _rendered(template: str, **values: Any) -> str:
    """Return a template with values, all of which are escaped; half a character, which UTF-8 lacks, is spelled out."""
    text = str(environment().get_template(template).render(**values))
    return text.encode("utf-8", errors="backslashreplace").decode()


def named(runs: Sequence[ReadRun]) -> list[str]:
    """Return the names of runs; those that would be the same have their folder's path instead."""
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else str(run.folder) for run in runs]


def facts(run: ReadRun) -> list[tuple[str, str]]:
    """Return the most important facts of a run, each with its name."""
    record, state = run.record, run.record.state
    most = state.get("max_steps")
    found = [("status", ending_of(run)), ("step", f"{record.step:,}" + (f" of {most:,}" if most else ""))]
    epochs = [item.epoch for item in record.records if item.epoch is not None]
    found += [("epoch", f"{epochs[-1]:.4g}")] if epochs else []
    losses = [item.values["loss"] for item in record.records if "loss" in item.values]
    found += [("last loss", number(losses[-1]))] if losses else []
    if state.get("best_metric") is not None:
        at = state.get("best_global_step")
        metric = str(run.args.get("metric_for_best_model") or "metric")
        found.append((f"best {metric}", number(state["best_metric"]) + (f" at step {at:,}" if at is not None else "")))
    found += [("took", duration(record.hours * 3600))] if record.starts else []
    if len(record.starts) > 1:
        found.append(("starts", str(len(record.starts))))
    return found


def progress_of(run: ReadRun) -> tuple[int, int] | None:
    """Return the updates that a run which goes on has completed, and those of the whole run; None for others."""
    most = int(run.record.state.get("max_steps") or 0)
    return (min(run.record.step, most), most) if run.is_running and most > 0 else None


def header_lines(run: ReadRun) -> list[tuple[str, str]]:
    """Return the lines of the header of the last start, each with its name."""
    header = run.record.starts[-1].header if run.record.starts else None
    pairs = (line.partition(" ") for line in (header or "").splitlines())
    return [(name, text.strip()) for name, _, text in pairs]


@cache
def environment() -> Any:
    """Return the environment of the templates, which escapes all that is put in.

    Raises:
        MissingPackageError: If jinja2 is not installed.
    """
    require_package("jinja2", needed_for="the page of a run", extra="report")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@cache
def text_of(name: str) -> str:
    """Return a script or a style sheet of the page."""
    return (TEMPLATES / name).read_text(encoding="utf-8")
