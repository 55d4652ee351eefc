"""The page of `growth`: Markdown between the markers of docs/explanation/growth.md, and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from growth import exponent, names
from harness import shown
from page import between

PAGE = "explanation/growth.md"
PICTURE = "images/growth.png"


def markdown(found: dict[str, Any]) -> str:
    """Return the tables."""
    versions = ", ".join(
        f"{name} {found['versions'][name]}" for name in ("Python", "torch") if name in found["versions"]
    )
    lines = [
        f"![Costs by size, in logarithms](../{PICTURE})",
        "",
        f"{found['date']}, {found['machine']}, {versions}.",
        "",
    ]
    lines += ["| cost | unit | from | to | exponent |", "|---|---|---|---|---|"]
    for title, curve in found["curves"].items():
        (least, low), (most, high) = curve["points"][0], curve["points"][-1]
        ends = [f"{shown(cost)} ({number:,} {curve['of']})" for number, cost in ((least, low), (most, high))]
        lines.append(f"| {title} | {curve['unit']} | {' | '.join(ends)} | {abs(curve['exponent']):.2f} |")
    return "\n".join([*lines, "", *tables_of_ranks(found["ranks"])])


def tables_of_ranks(ranks: dict[str, Any]) -> list[str]:
    """Return what each rank exchanges, by the number of processes."""
    sizes = list(ranks)
    lines = ["### By the number of processes", ""]
    lines += [f"| collectives on each process, and the bytes it receives | {' | '.join(sizes)} | exponent |"]
    lines += ["|---" * (len(sizes) + 2) + "|"]
    for kind in ranks[sizes[-1]]["exchanged"]:
        if kind == "a start":
            continue
        cells = []
        for size in sizes:
            exchanged = ranks[size]["exchanged"].get(kind, {})
            number, taken = sum(names(exchanged).values()), received(exchanged, int(size))
            cells.append(f"{number:.4g}, {shown(taken)}" if number else "0")
        several = [(int(size), received(ranks[size]["exchanged"].get(kind, {}), int(size))) for size in sizes]
        several = [(size, taken) for size, taken in several if size > 1]
        cells.append(f"{abs(exponent(several)):.2f}" if len(several) > 1 else "")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    besides = [of_first(ranks[size]["exchanged"].get("a save", {}), int(size)) for size in sizes]
    lines.append(f"| a save, bytes that the first receives besides | {' | '.join(map(shown, besides))} | |")
    files = {size: len(each["files"]) for size, each in ranks.items()}
    lines.append(f"| files of a checkpoint | {' | '.join(str(files[size]) for size in sizes)} | |")
    read = [ranks[size]["exchanged"]["an update"].get("examples read", 0) for size in sizes]
    lines.append(f"| examples that a process reads for an update | {' | '.join(f'{number:g}' for number in read)} | |")
    return lines


def received(exchanged: dict[str, float], processes: int) -> float:
    """Return the bytes that each process receives: of a gather those of all, of a sum as many as it gives.

    What only the first receives is left out: `of_first` has it.
    """
    sent = {name: number for name, number in exchanged.items() if name.endswith("bytes")}
    own = {name: number for name, number in sent.items() if not name.startswith("gather_object")}
    return sum(number * (processes if "gather" in name else 1) for name, number in own.items())


def of_first(exchanged: dict[str, float], processes: int) -> float:
    """Return the bytes that the first process receives besides."""
    return exchanged.get("gather_object bytes", 0) * processes


def write(found: dict[str, Any], docs: Path) -> None:
    """Replace what is between the markers of the page, and draw the picture."""
    between(docs / PAGE, markdown(found))
    draw(found, docs / PICTURE)


def draw(found: dict[str, Any], picture: Path) -> None:
    """Draw each curve relative to its first point."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for title, curve in found["curves"].items():
        numbers, costs = zip(*curve["points"], strict=True)
        of_first = [[value / values[0] for value in values] for values in (numbers, costs)]
        left.plot(*of_first, marker="o", markersize=4, label=f"{title}: {abs(curve['exponent']):.2f}")
    left.set_xlabel("size, of the smallest")
    left.set_ylabel("cost, of that of the smallest")
    left.set_title("one process; the numbers are exponents")
    sizes = [int(size) for size in found["ranks"] if int(size) > 1]
    for kind in ("an update", "a record", "an evaluation", "a save"):
        taken = [received(found["ranks"][str(size)]["exchanged"].get(kind, {}), size) for size in sizes]
        right.plot(sizes, taken, marker="o", markersize=4, label=kind)
    right.set_xlabel("processes")
    right.set_ylabel("bytes that each of them receives")
    right.set_title("several processes")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    right.set_xticks(sizes, [str(size) for size in sizes])
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, dpi=80, metadata={"Software": None})
    pyplot.close(figure)
