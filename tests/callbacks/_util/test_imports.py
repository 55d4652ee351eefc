from __future__ import annotations

from trackside.callbacks._util.imports import is_installed


def test_a_folder_is_no_package_until_it_has_modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "left_behind" / "run-1").mkdir(parents=True)
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "__init__.py").write_text("raise RuntimeError('imported')")

    assert [is_installed(name) for name in ("left_behind", "tool", "nothing_at_all")] == [False, True, False]
