"""What commands do with configurations, journals and states of strangers: nothing of them is run, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trackside.callbacks.builtin.journal import JournalCallback
from trackside.cli.main import main
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer

FRAMEWORK = installed_frameworks()[0]

WITNESS = """
from pathlib import Path

def called(*args, **kwargs):
    Path("called").touch()

class Callback:
    role = "observer"
    name = property(called)
    on_error = property(called)

    def __new__(cls, *args, **kwargs):
        called()
        return super().__new__(cls)

    def __init__(self, size: int = 1):
        called()

    def on_log(self, args, state, control, **kwargs): ...
"""


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Make a folder with a module that tells when it is called the current one, and give the text of a plan."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("witness_beside", None)
    Path("witness_beside.py").write_text(WITNESS)
    Path("base.yaml").write_text(f"framework: {FRAMEWORK}\n")


def command(*arguments):
    """Run ``python -m trackside`` in the current folder."""
    return subprocess.run(
        [sys.executable, "-m", "trackside", *arguments], capture_output=True, text=True, env=os.environ, timeout=120
    )


def test_a_trackside_of_the_current_folder_runs_only_without_the_option_that_the_page_names(beside):
    Path("trackside.py").write_text("open('called', 'w')")

    safe = subprocess.run([sys.executable, "-P", "-m", "trackside", "--version"], capture_output=True, timeout=120)
    assert (safe.returncode, Path("called").exists()) == (0, False)
    command("--version")

    assert Path("called").exists()  # if Python no longer does this, docs/explanation/security.md need not name it
    assert "`python -P -m trackside`" in (Path(__file__).parents[3] / "docs/explanation/security.md").read_text()


def test_plan_calls_no_class_and_no_function_of_the_configuration(beside, capsys):
    entries = {
        "made": {"class_path": "witness_beside.Callback", "size": 3, "before": "returned"},
        "returned": {"class_path": "witness_beside.called"},
    }
    Path("run.yaml").write_text(json.dumps({"model": "witness_beside.called", "callbacks": entries}))

    assert main(["plan", "base.yaml", "run.yaml"]) == 0

    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    made = next(line for line in lines if line[0] == "made")
    returned = next(line for line in lines if line[0] == "returned")
    assert (made[1], "witness_beside.Callback" in made, "size=3" in made) == ("observer", True, True)
    assert "witness_beside.called" in returned
    assert " ".join(returned).startswith("returned known when it is called")
    assert not Path("called").exists()


@pytest.mark.parametrize("name", ["plan", "train"])
def test_a_class_that_is_not_a_callback_is_refused_before_it_is_called(name, beside, capsys):
    entry = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "opened"]}}
    text = json.dumps(
        {"model": "witness_beside.called", "train_data": "witness_beside.called", "callbacks": {"x": entry}}
    )
    Path("run.yaml").write_text(text)

    assert main([name, "base.yaml", "run.yaml"]) == 2

    assert "callbacks.x: Popen is not a callback" in capsys.readouterr().err
    assert not Path("opened").exists()


def test_plan_still_refuses_what_a_built_in_callback_refuses(beside, capsys):
    assert main(["plan", "base.yaml", "--callbacks.time_limit.limit", "1:30"]) == 2

    assert "callbacks.time_limit.limit='1:30' is not allowed: a number of seconds" in capsys.readouterr().err


def test_registered_only_imports_nothing_beside_the_configuration_and_no_class_path(beside):
    for name in ("numpy", "blinker", "ruamel", FRAMEWORK, "witness_model"):
        Path(f"{name}.py").write_text("open('called', 'w')\n")
    Path("run.yaml").write_text("model: witness_model.Model\ncallbacks: {csv: }\n")

    plan = command("plan", "--registered-only", "base.yaml", "run.yaml")
    train = command("train", "--registered-only", "base.yaml", "run.yaml", "--train_data", "os.getcwd")

    assert plan.returncode == 0, plan.stderr
    assert "witness_model.Model" in plan.stdout
    assert train.returncode == 2
    assert (
        "run.yaml:1: model.class_path='witness_model.Model': only registered classes are imported here" in train.stderr
    )
    assert not Path("called").exists()


def test_registered_only_refuses_a_class_path_within_an_option(beside, capsys):
    Path("run.yaml").write_text("callbacks: {profiler: {log_dir: {class_path: witness_beside.called}}}\n")

    assert main(["plan", "--registered-only", "base.yaml", "run.yaml"]) == 2

    assert "run.yaml:1: callbacks.profiler.log_dir" in capsys.readouterr().err
    assert "witness_beside" not in sys.modules


def test_a_module_beside_the_configuration_shadows_no_installed_one_and_that_is_told(beside, caplog):
    Path("ruamel").mkdir()
    Path("ruamel/__init__.py").write_text("")
    Path("colorsys.py").write_text("open('called', 'w')\n")
    Path("run.yaml").write_text("model: {class_path: colorsys.rgb_to_hsv, init_args: {r: 1, g: 1, b: 1}}\n")
    sys.modules.pop("colorsys", None)

    assert main(["plan", "base.yaml", "run.yaml"]) == 0

    assert not Path("called").exists()
    assert "run.yaml:1: model.class_path='colorsys.rgb_to_hsv': colorsys is the installed module" in caplog.text
    assert "rename it" in caplog.text


# -- journals and states ----------------------------------------------------------------------------------------------

HOSTILE = [
    "[" * 100_000,
    "5",
    '{"event": []}',
    '{"event": "on_log", "step": "x", "epoch": 1, "logs": {}}',
    '{"event": "on_log", "step": 3, "epoch": 1, "logs": 5}',
    '{"event": "on_log", "step": 3, "epoch": 1}',
    '{"event": "on_step_end", "step": 1e400, "epoch": 1}',
    '{"event": "on_step_end", "step": true, "epoch": 1}',
    '{"event": "on_step_end", "step": 3, "epoch": {}}',
    '{"event": "on_step_end", "step": 3, "epoch": 1, "state": {"log_history": 5}}',
    '{"event": "on_step_end", "step": 3, "epoch": 1, "state": {"max_steps": "many"}}',
    '{"event": "on_train_begin", "step": 0, "epoch": 0, "run": "x"}',
    '{"event": "on_train_begin", "step": 0, "epoch": 0, "run": [], "args": {}}',
]


def test_hostile_lines_of_a_journal_are_left_out_and_told(beside, capsys, caplog):
    tiny_trainer(FRAMEWORK, "out", [JournalCallback()]).train()
    journal = Path("out/journal.jsonl")
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:5], *HOSTILE, *lines[5:]]))

    assert main(["replay", str(journal), "--callback", "csv", "--callbacks.early_stopping.patience", "9"]) == 0

    assert "replayed up to step 12 of 12" in capsys.readouterr().out
    assert f"lines that are not events are left out: {len(HOSTILE) - 1}" in caplog.text


def test_a_state_in_a_journal_replaces_no_method(beside, capsys):
    tiny_trainer(FRAMEWORK, "out", [JournalCallback()]).train()
    journal = Path("out/journal.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    for entry in entries:
        entry.setdefault("state", {})["to_dict"] = 5
        if "args" in entry:
            entry["args"] |= {"to_dict": 5, "run_name": ["\0"]}
    journal.write_text("\n".join(map(json.dumps, entries)))

    assert main(["replay", str(journal), "--callback", "journal"]) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,\n x}', "out/trainer_state.json:2: this is not valid JSON: "),
        ("[" * 100_000, "out/trainer_state.json: this is not valid JSON: "),
        ("5", "out/trainer_state.json: a state is a map, not int"),
        ('{"log_history": 5}', "out/trainer_state.json: log_history: a list (each item: a map) is needed"),
        ('{"log_history": [5]}', "out/trainer_state.json: log_history: a list (each item: a map) is needed"),
        ('{"global_step": "x"}', "out/trainer_state.json: global_step: a whole number is needed"),
    ],
)
def test_plot_refuses_a_broken_state_with_its_file(text, expected, beside, capsys):
    Path("out").mkdir()
    Path("out/trainer_state.json").write_text(text)

    assert main(["plot", "out"]) == 2

    said = capsys.readouterr().err
    assert said.startswith(f"trackside: error: {expected}")
    assert said.count("\n") == 1


def test_plot_leaves_out_what_is_not_a_number(beside):
    pytest.importorskip("matplotlib")
    records = [{"loss": 1.0, "step": 1}, {"loss": "x", "step": 2}, {"loss": 10**400, "step": 3}, {"eval_loss": None}]
    Path("out").mkdir()
    Path("out/trainer_state.json").write_text(json.dumps({"log_history": records}))

    assert main(["plot", "out"]) == 0
