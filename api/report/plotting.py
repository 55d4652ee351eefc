"""The plotting library of a page: plotly.js of the installed package, packed, and the digests that admit scripts."""

from __future__ import annotations

import base64
import gzip
import hashlib
from functools import cache

from trackside.callbacks._util.imports import require_package


@cache
def plotly_js() -> str:
    """Return plotly.js as the package plotly ships it, without importing more of the package than that.

    Raises:
        MissingPackageError: If plotly is not installed.
    """
    require_package("plotly", needed_for="the page of a run", extra="report")
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def packed_plotly() -> str:
    """Return plotly.js as gzip in base64: 2 MB instead of 5, which browsers unpack themselves."""
    return base64.b64encode(gzip.compress(plotly_js().encode(), 9, mtime=0)).decode()


def digest(script: str) -> str:
    """Return the source expression by which a Content-Security-Policy admits one script, and no other.

    Source:
        Content Security Policy Level 3, section 2.3.1, hash-source.
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def plotly_digest() -> str:
    """Return the digest of plotly.js."""
    return digest(plotly_js())
