"""What `import trackside` gives, what it costs, and what it must not do."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import trackside

# Changing this list, or that of the events, is a decision: users and their config files depend on both.
PUBLIC_NAMES = """
    BestRun CSVLoggerCallback CodeCarbonCallback CometCallback ControlFilesCallback DataCollatorWithPadding
    DefaultFlowCallback EMACallback EarlyStoppingCallback EvalLoopOutput EvalPrediction FinetuneScheduleCallback
    IntervalStrategy JSONLinesLoggerCallback JournalCallback KerasCallbackAdapter LearningRateMonitorCallback
    LightningLoggerAdapter LossGuardCallback MLflowCallback NotebookProgressCallback PredictionOutput
    PrinterCallback ProfilerCallback ProgressCallback RankTimeMonitorCallback RichProgressCallback SWACallback
    Seq2SeqTrainer Seq2SeqTrainingArguments StragglerMonitorCallback TFTrainer TFTrainingArguments
    TensorBoardCallback TerminateOnNaNCallback ThroughputMonitorCallback TimeLimitCallback TrackioCallback
    TracksideError TrainOutput Trainer TrainerCallback TrainerControl TrainerState TrainingArguments WandbCallback
    default_compute_objective default_data_collator errors events get_last_checkpoint set_seed
"""
EVENTS = """
    on_init_end on_load on_train_begin on_epoch_begin on_step_begin on_substep_end on_pre_optimizer_step
    on_optimizer_step on_step_end on_log on_evaluate_begin on_predict_begin on_prediction_step on_evaluate on_predict
    on_save on_epoch_end on_exception on_train_end on_callback_error
"""
FRAMEWORK_OF = {
    "Trainer": "torch",
    "TrainingArguments": "torch",
    "Seq2SeqTrainer": "torch",
    "Seq2SeqTrainingArguments": "torch",
    "DataCollatorWithPadding": "torch",
    "default_data_collator": "torch",
    "TFTrainer": "tensorflow",
    "TFTrainingArguments": "tensorflow",
}


def run_python(code: str) -> str:
    """Run ``code`` in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def test_the_public_names_are_these():
    assert [name for name in dir(trackside) if not name.startswith("_")] == PUBLIC_NAMES.split()


def test_the_events_are_these():
    assert list(trackside.events.EVENTS) == EVENTS.split()


@pytest.mark.parametrize("name", PUBLIC_NAMES.split())
def test_every_public_name_leads_to_what_it_says(name):
    if framework := FRAMEWORK_OF.get(name):
        pytest.importorskip(framework)

    value = getattr(trackside, name)

    assert getattr(value, "__name__", None) in {name, f"trackside.callbacks.{name}"}


def test_an_unknown_name_is_an_attribute_error_with_the_nearest_name():
    with pytest.raises(AttributeError, match=r"no attribute 'EarlyStopingCallback'. Did you mean 'EarlyStoppingCall"):
        trackside.EarlyStopingCallback  # noqa: B018


@pytest.mark.slow
def test_a_star_import_gives_every_public_name():
    pytest.importorskip("torch")
    pytest.importorskip("tensorflow")

    names = json.loads(run_python("import json; from trackside import *; print(json.dumps(sorted(globals())))"))

    assert [name for name in names if not name.startswith("_") and name != "json"] == PUBLIC_NAMES.split()


def test_a_star_import_leaves_out_the_names_whose_framework_is_not_installed():
    code = """
import importlib.util, json, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("torch", "tensorflow") else found(name, *rest)
from trackside import *
print(json.dumps([sorted(globals()), sorted({"torch", "tensorflow"} & set(sys.modules))]))
"""

    names, loaded = json.loads(run_python(code))

    assert set(PUBLIC_NAMES.split()) - set(names) == set(FRAMEWORK_OF)
    assert loaded == []


def test_a_missing_framework_is_named_with_the_command_that_installs_it():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import trackside\n"
        "try: trackside.Trainer\n"
        "except ImportError as error: print(type(error).__name__, error)\n"
    )

    printed = run_python(code)

    assert printed.startswith("MissingPackageError trackside.Trainer needs the package 'torch'")
    assert "pip install 'trackside[torch]'" in printed


def test_importing_trackside_loads_no_framework_and_no_tracker():
    loaded = set(json.loads(run_python("import json, sys, trackside; print(json.dumps(list(sys.modules)))")))

    heavy = {
        "torch",
        "tensorflow",
        "keras",
        "numpy",
        "transformers",
        "tensorboard",
        "wandb",
        "mlflow",
        "tqdm",
        "ruamel",
    }
    assert loaded & heavy == set()
    assert "importlib.metadata" not in loaded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "framework"),
    [("TrainerCallback", None), ("events", None), ("Trainer", "torch"), ("TFTrainer", "tensorflow")],
)
def test_a_name_loads_its_own_framework_and_no_other(name, framework):
    if framework:
        pytest.importorskip(framework)

    code = f"import json, sys, trackside; trackside.{name}; print(json.dumps(list(sys.modules)))"
    loaded = set(json.loads(run_python(code)))

    assert loaded & {"torch", "tensorflow"} == ({framework} if framework else set())


@pytest.mark.parametrize("is_on", [True, False])
def test_no_garbage_is_collected_while_a_name_is_imported_and_the_setting_comes_back(is_on):
    code = f"""
import gc, sys, trackside

class Watch:
    def find_spec(name, *rest):
        seen.add(gc.isenabled())

seen = set()
sys.meta_path.insert(0, Watch)
sys.modules["torch"] = None
gc.{"enable" if is_on else "disable"}()
trackside.TrainerState
try: trackside.Trainer
except ImportError: print(seen, gc.isenabled())
"""

    assert run_python(code) == f"{{False}} {is_on}\n"


def test_importing_trackside_opens_no_socket_starts_no_thread_and_installs_no_signal_handler():
    code = """
import json, signal, sys, threading

audited = []
sys.addaudithook(lambda name, _: audited.append(name))
numbers = sorted(signal.valid_signals())
before = [signal.getsignal(number) for number in numbers]

import trackside
trackside.events, trackside.TrainerCallback

unwanted = [name for name in audited if name.startswith(("socket.", "subprocess.", "os.fork", "_thread.start"))]
print(json.dumps({
    "audited": unwanted,
    "threads": threading.active_count(),
    "handlers": [signal.getsignal(number) for number in numbers] == before,
}))
"""

    seen = json.loads(run_python(code))

    assert seen == {"audited": [], "threads": 1, "handlers": True}


def test_importing_trackside_takes_less_than_100_ms_beyond_the_bare_interpreter():
    def cpu_seconds(code: str) -> float:
        before = os.times()
        run_python(code)
        after = os.times()
        return (after.children_user + after.children_system) - (before.children_user + before.children_system)

    run_python("import trackside")  # writes the bytecode
    bare = statistics.median(cpu_seconds("pass") for _ in range(7))
    face = statistics.median(cpu_seconds("import trackside") for _ in range(7))

    assert face - bare < 0.1


@pytest.mark.skipif(importlib.util.find_spec("trackside.cli.main") is None, reason="the command line is not there yet")
def test_python_dash_m_trackside_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "trackside", "--version"], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0
    assert trackside.__version__ in done.stdout


def test_editors_see_the_public_names_where_they_are_defined():
    tree = ast.parse(Path(trackside.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "__future__"]
    seen = {alias.asname: node.module for node in imports for alias in node.names if alias.asname}

    assert seen == trackside._HOMES
