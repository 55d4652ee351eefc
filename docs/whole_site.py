"""Sphinx extension: the title of every page is in its HTML.

A page whose name is that of one that Sphinx writes itself, such as search, would be lost without a word.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def check_titles(app: Sphinx, exception: Exception | None) -> None:
    """Warn of each page whose title its file does not have."""
    if exception is not None or app.builder.format != "html":
        return
    for name in sorted(app.env.found_docs):
        file = Path(app.outdir, app.builder.get_target_uri(name))
        title = escape(app.env.titles[name].astext(), quote=False)
        if (
            f"<title>{title} "
            not in file.read_text(encoding="utf-8").replace("\n", " ")
            and name != "index"
        ):
            logger.warning(
                "%s is lost: %s does not have the title %r", name, file.name, title
            )


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", check_titles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
