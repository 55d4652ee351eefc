"""A folder to write configurations in."""

from __future__ import annotations

import sys
import textwrap

import pytest
from support.run_configs import PARTS


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files beside each other and make that folder the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("parts_beside", None)
    (tmp_path / "parts_beside.py").write_text(PARTS)

    def write(name, text):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return name

    return write
