"""The page of the results: Markdown between the markers of docs/explanation/performance.md, and its picture."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness import Result, quartiles, table
from rows import ROWS

BEGIN = "<!-- python benchmarks/all.py writes what follows -->"
END = "<!-- and what follows is written by hand -->"
PAGE = "explanation/performance.md"
PICTURE = "images/performance.png"
COLUMNS = {
    "PyTorch": ("Trainer", "hand-written loop, Trainer's batches", "transformers", "Lightning", "Ignite"),
    "TensorFlow": ("TFTrainer, arrays", "TFTrainer, tf.data", "Model.fit", "Model.predict", "TFTrainer"),
}
OUR_OWN = ("Trainer", "TFTrainer", "TFTrainer, arrays", "TFTrainer, tf.data")
BASES = {"PyTorch": "a hand-written loop (for the import: to that of torch)", "TensorFlow": "a hand-written loop"}
READING = (
    "Each row ran in a process of its own, on one thread, with all contestants in turn. A ratio is within a round;\n"
    "the median over the rounds is shown and, below, the quartiles. In brackets: the ratio of the processor's time\n"
    "of all threads. Less than 1 is quicker than the reference."
)


def write(results: Path, docs: Path) -> None:
    """Replace what is between the markers, and draw the picture."""
    found = {name: results / f"{name}.json" for name in ROWS}
    measured = {name: Result.load_from(path) for name, path in found.items() if path.exists()}
    if not measured:
        return
    between(docs / PAGE, markdown(measured))
    draw(measured, docs / PICTURE)


def between(page: Path, text: str) -> None:
    """Replace what is between the markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise SystemExit(f"{page} needs the lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def markdown(measured: dict[str, Result]) -> str:
    """Return all tables."""
    parts = [
        f"![Ratios of all rows to a hand-written loop](../{PICTURE})",
        READING,
        "\n".join(origins(measured.values())),
    ]
    for framework in COLUMNS:
        rows = {name: result for name, result in measured.items() if ROWS[name].framework == framework}
        if not rows:
            continue
        parts += [f"### {framework}", f"Ratios to {BASES[framework]}.", summary(rows.values(), COLUMNS[framework])]
    parts.append("### Each row")
    usual = statistics.mode(result.date for result in measured.values())
    for result in measured.values():
        parts += [*([] if result.date == usual else [f"Measured on {result.date}:"]), table(result)]
        if result.missing:
            parts.append(f"Not installed: {', '.join(result.missing)}.")
    return "\n\n".join(parts)


def origins(results: Iterable[Result]) -> list[str]:
    """Return when, where and with what the results were measured, a line for each that differs."""
    lines: dict[str, list[Result]] = {}
    for result in results:
        versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
        lines.setdefault(f"{result.date}, {result.machine}, {versions}", []).append(result)
    return [
        f"- {line}; {len(own)} rows in {sum(result.seconds for result in own) / 60:.0f} minutes, at a load of "
        f"{statistics.median(result.load[0] for result in own):.1f} (largest {max(max(r.load) for r in own):.1f})"
        for line, own in lines.items()
    ]


def summary(results: Iterable[Result], columns: Sequence[str]) -> str:
    """Return a row of ratios for each result that has a contestant of the columns beside its base."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for result in results:
        if not result.base or not set(columns) & set(result.costs):
            continue
        cells = [cell(result, name) for name in columns]
        lines.append(f"| {result.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(result: Result, contestant: str) -> str:
    if contestant not in result.costs:
        return ""
    clocks, cpus = (result.ratios(contestant, which) for which in (0, 1))
    return f"{statistics.median(clocks):.2f}" + (f" ({statistics.median(cpus):.2f})" if cpus else "")


def draw(measured: dict[str, Result], picture: Path) -> None:
    """Draw the ratios: a line for each row, a dot for each contestant, and the quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(13, 5.2), layout="constrained")
    for (framework, columns), axes in zip(COLUMNS.items(), panels, strict=True):
        shown = [result for name, result in measured.items() if ROWS[name].framework == framework and result.base]
        shown = [result for result in shown if set(columns) & set(result.costs)][::-1]
        for index, column in enumerate(columns):
            found = [(row, result) for row, result in enumerate(shown) if column in result.costs]
            points = [(row, quartiles(result.ratios(column))) for row, result in found]
            if points:
                offset = 0.12 * (len(columns) / 2 - index)
                middles = [middle for _, (_, middle, _) in points]
                spread = [[m - low for _, (low, m, _) in points], [high - m for _, (_, m, high) in points]]
                style = {"fmt": "o" if column in OUR_OWN else "s", "markersize": 7 if column in OUR_OWN else 5}
                axes.errorbar(middles, [row + offset for row, _ in points], xerr=spread, label=column, **style)
        axes.axvline(1.0, color="grey", linewidth=1)
        axes.set_xscale("log")
        axes.set_yticks(range(len(shown)), [re.sub(r"[;,] ", "\n", result.title, count=1) for result in shown])
        axes.set_xlabel("time on the clock, of a hand-written loop's")
        axes.set_title(framework)
        low, high = axes.get_xlim()
        ticks = [tick for tick in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100) if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(axis="x", alpha=0.3)
        if shown:
            axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, dpi=80, metadata={"Software": None})
    pyplot.close(figure)
