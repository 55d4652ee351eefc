"""The page of a run, read back: headings, tables, what is drawn, scripts, and what it could load."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

LOADS = ("src", "href", "srcset", "action", "formaction", "poster", "data", "background")


class Page(HTMLParser):
    """A page as a browser's parser sees it.

    Attributes:
        headings: The texts of its headings.
        tables: The rows of each table with their cells, the head first, by the id of its heading.
        scripts: The texts of its scripts, each with its type.
        loads: The values of attributes that make a browser load something.
        handlers: Attributes that hold code.
        tags: The names of all elements.
        policy: The Content-Security-Policy.
        text: All texts that are shown.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.headings: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.scripts: list[tuple[str, str]] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.policy = ""
        self.text = ""
        self._open: list[str] = []
        self._id = ""
        self._kind = ""
        self.feed(text)
        self.close()

    @classmethod
    def of(cls, path: str | Path) -> Page:
        return cls(Path(path).read_text(encoding="utf-8"))

    @property
    def data(self) -> Any:
        """What the script draws."""
        (found,) = [text for kind, text in self.scripts if kind == "application/json"]
        return json.loads(found)

    def curve(self, name: str, run: int = 0) -> dict[str, Any]:
        """Return one curve by its name."""
        curves = [curve for figure in self.data["figures"] for curve in figure["curves"]]
        (found,) = [curve for curve in curves if (curve["name"], curve["run"]) == (name, run)]
        return dict(found)

    def digests(self) -> set[str]:
        """Return the digests of all scripts that the page runs: its own, and the plotting library that it unpacks."""
        own = [text for kind, text in self.scripts if kind == ""]
        packed = [text for kind, text in self.scripts if kind == "text/plain"]
        unpacked = [gzip.decompress(base64.b64decode(text)).decode() for text in packed]
        found = (hashlib.sha256(text.encode()).digest() for text in [*own, *unpacked])
        return {base64.b64encode(digest).decode() for digest in found}

    def admitted(self) -> set[str]:
        """Return the digests of the scripts that the policy admits."""
        return set(re.findall(r"'sha256-([^']+)'", self.policy))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.loads += [value for name, value in given.items() if name in LOADS]
        self.handlers += [name for name in given if name.startswith("on")]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag == "script":
            self.scripts.append((given.get("type", ""), ""))
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append("")
            self._id = given.get("id", "")
        if tag == "table":
            self.tables[self._id] = []
        if tag == "tr":
            self.tables[self._id].append([])
        if tag in ("td", "th"):
            self.tables[self._id][-1].append("")
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = set(self._open)
        if "script" in inside:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
            return
        if "style" not in inside:
            self.text += data
        if inside & {"td", "th"}:
            self.tables[self._id][-1][-1] += data
        elif inside & {"h1", "h2", "h3", "h4"}:
            self.headings[-1] += data
