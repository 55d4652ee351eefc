from __future__ import annotations

import sys
import types

from trackside.callbacks._util.imports import is_installed


def test_a_folder_is_no_package_until_it_has_modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "left_behind" / "run-1").mkdir(parents=True)
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "__init__.py").write_text("raise RuntimeError('imported')")

    assert [is_installed(name) for name in ("left_behind", "tool", "nothing_at_all")] == [False, True, False]


def test_a_module_that_was_made_by_hand_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "made_by_hand", types.ModuleType("made_by_hand"))

    assert is_installed("made_by_hand")
