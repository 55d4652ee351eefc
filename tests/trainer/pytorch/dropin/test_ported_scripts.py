"""The scripts of examples/ported: their metrics are those of the same scripts with the transformers Trainer."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")
pytest.importorskip("sklearn")

FOLDER = Path(__file__).resolve().parents[4] / "examples" / "ported"
SCRIPTS = sorted(FOLDER.glob("run_*.py"))
# the order of the data is that of the dataset, since each library shuffles by a generator of its own
OPTIONS = """
    --do_train --do_eval --do_predict --num_train_epochs 1 --per_device_train_batch_size 8 --eval_strategy epoch
    --per_device_eval_batch_size 64 --learning_rate 2e-3 --train_sampling_strategy sequential --logging_steps 4
    --save_strategy no --report_to none --disable_tqdm true --use_cpu
"""
OF_TIME = ("_runtime", "_per_second", "grad_norm")


def import_line(script):
    (line,) = [line for line in script.read_text().splitlines() if line.startswith("from trackside import ")]
    return line


def run(script, library, folder, monkeypatch):
    """Run the script, with its import from ``library``, as the command line does; return its metrics and records."""
    folder.mkdir()
    imports = import_line(script)
    source = script.read_text().replace(imports, imports.replace("trackside", library))
    path = folder / script.name
    path.write_text(source)
    more = ["--predict_with_generate"] if "Seq2Seq" in source else []
    if script.stem == "run_mlm":  # an evaluation in a run leaves the generator of its collator alone only here
        more += ["--eval_strategy", "no"]
    monkeypatch.setattr(sys, "argv", [script.name, "--output_dir", str(folder / "out"), *OPTIONS.split(), *more])
    monkeypatch.syspath_prepend(FOLDER)

    runpy.run_path(str(path), run_name="__main__")

    assert "generated_from_trainer" in (folder / "out" / "README.md").read_text()
    found = [json.loads((folder / "out" / name).read_text()) for name in ("all_results.json", "trainer_state.json")]
    return found[0], found[1]["log_history"]


def comparable(record):
    return {key: value for key, value in record.items() if not key.endswith(OF_TIME)}


def test_there_are_seven_which_mention_the_library_in_one_line():
    assert len(SCRIPTS) == 7
    for script in SCRIPTS:
        assert script.read_text().replace(import_line(script), "").count("trackside") == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_metric_is_that_of_transformers(script, tmp_path, monkeypatch, capsys):
    datasets.disable_progress_bars()
    monkeypatch.setenv("WANDB_MODE", "disabled")

    results, records = run(script, "trackside", tmp_path / "ours", monkeypatch)
    wanted, wanted_records = run(script, "transformers", tmp_path / "theirs", monkeypatch)

    wanted.setdefault("total_flos", results["total_flos"])  # its printer removes it from what the script saves
    assert results.keys() == wanted.keys()
    assert comparable(results) == pytest.approx(comparable(wanted), rel=1e-6, abs=1e-6)
    assert len(records) == len(wanted_records)
    for found, there in zip(records, wanted_records, strict=True):
        assert found.keys() == there.keys()
        assert comparable(found) == pytest.approx(comparable(there), rel=1e-6, abs=1e-6)
    assert records[-1]["total_flos"] > 0
