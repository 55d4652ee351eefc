from __future__ import annotations

import threading

import pytest

from trackside import (
    CSVLoggerCallback,
    EarlyStoppingCallback,
    JSONLinesLoggerCallback,
    LearningRateMonitorCallback,
    LossGuardCallback,
    PrinterCallback,
    StragglerMonitorCallback,
    TerminateOnNaNCallback,
    ThroughputMonitorCallback,
    TimeLimitCallback,
    TrainerCallback,
)
from trackside.callbacks import registry
from trackside.callbacks.builtin.journal import JournalCallback
from trackside.testing import ConformanceError, check_callback, installed_frameworks


@pytest.fixture(params=["pytorch", "tensorflow"])
def framework(request):
    if request.param not in installed_frameworks():
        pytest.skip(f"{request.param} is not installed")
    return request.param


BUILT_IN = {
    "csv": CSVLoggerCallback,
    "early_stopping": lambda: EarlyStoppingCallback(5),
    "jsonl": JSONLinesLoggerCallback,
    "journal": JournalCallback,
    "learning_rate_monitor": LearningRateMonitorCallback,
    "loss_guard": LossGuardCallback,
    "printer": PrinterCallback,
    "straggler_monitor": StragglerMonitorCallback,
    "terminate_on_nan": TerminateOnNaNCallback,
    "throughput_monitor": ThroughputMonitorCallback,
    "time_limit": lambda: TimeLimitCallback(minutes=5),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_callbacks_pass(name, framework):
    check_callback(BUILT_IN[name], frameworks=[framework])


def test_tensorboard_passes(framework):
    pytest.importorskip("tensorboard")
    from trackside.integrations.tensorboard import TensorBoardCallback

    check_callback(TensorBoardCallback, frameworks=[framework])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("wandb", "wandb"),
        ("trackio", "trackio"),
        ("rich_progress", "rich"),
        ("notebook", "IPython"),
        ("profiler", "json"),
    ],
)
def test_other_integrations_pass(name, package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))

    check_callback(registry.load(name), frameworks=installed_frameworks()[:1])


class Bad(TrainerCallback):
    """Does everything that is not allowed."""

    role = "observer"

    def __init__(self):
        self.seen = 0

    def state_dict(self):
        return {"seen": self.seen}

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen += 1
        logs["extra"] = 1.0

    def on_step_end(self, args, state, control, **kwargs):
        state.log_history.append({"step": state.global_step})
        control.should_log = True

    def on_predict(self, args, state, control, **kwargs):
        raise RuntimeError("no predictions, please")


def test_every_fault_is_listed():
    framework = installed_frameworks()[0]

    with pytest.raises(ConformanceError) as raised:
        check_callback(Bad, frameworks=[framework])

    for fault in (
        "on_log changes logs",
        "on_step_end changes state.log_history",
        'on_step_end steers the run, but its role is "observer"',
        "it raised 2 times, last RuntimeError('no predictions, please')",
        "load_state_dict() after a run loses state",
    ):
        assert any(fault in found for found in raised.value.faults), fault
    assert str(raised.value).startswith("Bad is not a good callback:\n- ")


class OpensAtBegin(TrainerCallback):
    """Keeps something from the beginning of a run to its end, and believes that there is always a run."""

    role = "observer"

    def on_train_begin(self, args, state, control, **kwargs):
        self.lines = []

    def on_train_end(self, args, state, control, **kwargs):
        del self.lines

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.lines.append(metrics)


class CountsRuns(TrainerCallback):
    """Cannot be used for a second run."""

    role = "observer"
    runs = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.runs += 1
        if self.runs > 1:
            raise RuntimeError("one run is enough")


class OfOneThread(TrainerCallback):
    """Works in the foreground only, but wants the background."""

    role = "observer"
    background = True

    def __init__(self):
        self.thread = threading.get_ident()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if threading.get_ident() != self.thread:
            raise RuntimeError("made in another thread")


@pytest.mark.parametrize(
    ("cls", "fault"),
    [
        (OpensAtBegin, "'OpensAtBegin' object has no attribute 'lines'"),
        (CountsRuns, "it raised 1 times, last RuntimeError('one run is enough')"),
        (OfOneThread, "RuntimeError('made in another thread')"),
    ],
)
def test_what_goes_well_in_one_training_only_is_a_fault(cls, fault):
    with pytest.raises(ConformanceError) as raised:
        check_callback(cls, frameworks=installed_frameworks()[:1])

    assert any(fault in found for found in raised.value.faults), raised.value.faults


def test_a_misspelt_hook_is_a_fault():
    class Misspelt(TrainerCallback):
        def on_step_ends(self, args, state, control, **kwargs):
            pass

    with pytest.raises(ConformanceError, match="Did you mean 'on_step_end'"):
        check_callback(Misspelt, frameworks=installed_frameworks()[:1])


def test_a_state_that_is_no_json_is_a_fault():
    class Keeps(TrainerCallback):
        def state_dict(self):
            return {"value": object()}

        def on_log(self, args, state, control, **kwargs):
            pass

    with pytest.raises(ConformanceError, match="is not JSON"):
        check_callback(Keeps, frameworks=[])


def test_importing_a_framework_with_the_module_is_a_fault(tmp_path, monkeypatch):
    (tmp_path / "eager_callback.py").write_text(
        "import json as torch, sys\nsys.modules['torch'] = torch\n"
        "from trackside import TrainerCallback\n"
        "class Eager(TrainerCallback):\n    def on_log(self, *args, **kwargs): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", __import__("sys").modules.get("torch"))
    import eager_callback

    with pytest.raises(ConformanceError, match="importing eager_callback imports torch"):
        check_callback(eager_callback.Eager, frameworks=[])
