"""A Chromium without a window, and pages opened in it; what is wrong with a page is noted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SCREENS = {"wide": (1280, 960), "phone": (390, 844)}
SCHEMES = ("light", "dark")
DRAWN = "document.documentElement.dataset.drawn > 0"
"""An expression that is true once the scripts of the page of a run have drawn it."""


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
