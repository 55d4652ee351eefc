from __future__ import annotations

import zipfile

import pytest

from trackside.integrations._compat.comet_archive import MESSAGES, archives, read_last_steps, read_metrics


def test_comet_writes_the_archive_that_is_read_here(tmp_path, monkeypatch):
    comet_ml = pytest.importorskip("comet_ml")
    monkeypatch.setenv("COMET_LOGGING_CONSOLE", "ERROR")
    from trackside.integrations.comet import QUIET

    experiment = comet_ml.OfflineExperiment(experiment_key="a" * 32, offline_directory=str(tmp_path), **QUIET)
    experiment.log_metric("train/loss", 0.5, step=3)
    experiment.end()

    (path,) = archives(tmp_path, "a" * 32)
    assert ("train/loss", 3, 0.5) in read_metrics(path)
    assert read_last_steps(tmp_path, "a" * 32)["train/loss"] == 3


def test_an_archive_without_messages_holds_no_metrics(tmp_path):
    zipfile.ZipFile(tmp_path / "key.zip", "w").close()
    (tmp_path / "key-torn.zip").write_bytes(b"PK")

    assert read_last_steps(tmp_path, "key") == {}


def test_the_steps_of_another_format_are_unknown(tmp_path, caplog):
    with zipfile.ZipFile(tmp_path / "key.zip", "w") as archive:
        archive.writestr(MESSAGES, "not JSON\n")

    assert read_last_steps(tmp_path, "key") is None
    assert "comet_archive.read_last_steps failed, its result is unknown: JSONDecodeError" in caplog.text
