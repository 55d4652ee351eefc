"""Make the pictures of pages again: the page of a run, that of a run that goes on, and the documentation, in a browser.

    python docs/screenshots.py [NAME ...] [--folder docs/images]

trains two small runs, writes their page, watches a third while it trains, and draws what `PAGES` lists: each page wide
and as a phone shows it, in light and in dark. It ends with 1 if a page reports an error, asks for something from
elsewhere, or is wider than its window. It needs the extras ``torch``, ``demo``, ``docs``, ``report`` and ``browser``,
and a Chromium (``apt-get install chromium``); the variable CHROMIUM names another.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headless import DRAWN, SCHEMES, browser, opened
from served_pages import documentation, report_page, watch_page

IMAGES = Path(__file__).resolve().parent / "images"
LARGEST_BYTES = 200_000


@dataclass(frozen=True)
class Shot:
    """A page to draw.

    Attributes:
        address: Returns a context with its address, from an empty folder.
        ready: A selector of an element that is there once the page is drawn.
        screens: The screens, by their names in `headless.SCREENS`.
        schemes: The colour schemes.
        parts: A selector of what is scrolled to, by screen; by default, the top of the page.
        drawn: An expression that is true once the scripts of the page have drawn it.
    """

    address: Callable[[Path], Any]
    ready: str
    screens: tuple[str, ...] = ("wide", "phone")
    schemes: tuple[str, ...] = SCHEMES
    parts: Mapping[str, str] = field(default_factory=dict)
    drawn: str = DRAWN


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
        default=IMAGES,
        help="where the pictures are written",
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in PAGES]:
        parser.error(
            f"not a page: {', '.join(unknown)}; choose from {', '.join(PAGES)}"
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    problems = draw(options.names or list(PAGES), options.folder)
    print("\n".join(problems), file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
