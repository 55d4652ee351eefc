"""The rule of the folder: what a tool does not document is used here and nowhere else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import trackside.integrations
from trackside.integrations._compat import none_if_unreadable

PRIVATE = r"^\s*(?:from|import) (?:comet_ml|tensorboard|trackio|wandb)\.|\b(?:keras\.src|lightning\.\w+\.utilities)\b"


def test_private_modules_of_tools_are_imported_in_this_folder_only():
    room = Path(trackside.integrations.__file__).parent
    users = [path for path in room.rglob("*.py") if re.search(PRIVATE, path.read_text(), re.MULTILINE)]

    assert {path.parent.name for path in users} == {"_compat"}


def test_what_cannot_be_read_is_unknown_and_logged(caplog):
    assert none_if_unreadable(json.loads)("no JSON") is None
    assert "its result is unknown" in caplog.text
