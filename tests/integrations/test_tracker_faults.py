"""A tracker that hangs, raises or is slow, and a server that is killed: no run is longer for it, or ends otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from support.ranks import free_port
from support.tracker_readers import curves_of, read_mlflow

from trackside import MLflowCallback, TrainerCallback
from trackside.callbacks.bus.report import costs
from trackside.integrations._base.tracker import Tracker
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer, weights_of

STEP_S = 0.05
PACED = {"max_steps": 200, "logging_steps": 5, "save_strategy": "no", "eval_strategy": "steps", "eval_steps": 50}


class Calls(TrainerCallback):
    """Calls a function at the end of one step, or of all."""

    def __init__(self, function, step=None):
        self.function, self.step = function, step

    def on_step_end(self, args, state, control, **kwargs):
        if self.step in (None, state.global_step):
            self.function()


class ToolTracker(Tracker):
    """A tracker whose tool misbehaves."""

    package = "json"
    timeout_s = 0.05

    def __init__(self):
        super().__init__()
        self.written = []

    def open(self, args, state, resume, **kwargs):
        self.run_id = "run"

    def last_step(self, name):
        return -1

    def close(self, status, state):
        pass


class Hanging(ToolTracker):
    def __init__(self):
        super().__init__()
        self.released = threading.Event()

    def write(self, values, step):
        self.released.wait(30)


class Raising(ToolTracker):
    def write(self, values, step):
        raise ConnectionError("the server is gone")


class Slow(ToolTracker):
    """Would take 40 % of a run on the thread that trains."""

    timeout_s = 5.0

    def write(self, values, step):
        time.sleep(0.1)
        self.written.append((step, values))


@pytest.fixture(scope="module")
def starting_server(tmp_path_factory):
    """A real MLflow server on loopback, as its address and its process, which leads a group of its own."""
    pytest.importorskip("mlflow")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path_factory.mktemp('server')}/mlflow.db"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight more processes
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    yield f"http://127.0.0.1:{port}", server
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.fixture(scope="module")
def mlflow_server(starting_server):
    """The same when it answers."""
    address, server = starting_server
    wait_for(f"{address}/health", server, seconds=240)
    return starting_server


@pytest.mark.slow
@pytest.mark.usefixtures("starting_server")  # which takes long to start, and this test mostly sleeps
def test_training_is_as_long_as_without_them_and_the_weights_are_the_same(make_trainer):
    plain = make_trainer(**PACED)
    began = time.perf_counter()
    plain.train()
    plain_s = time.perf_counter() - began + plain.state.global_step * STEP_S
    pace = Calls(lambda: time.sleep(STEP_S))  # steps of a known length, whatever else the machine does
    trackers = [Hanging(), Raising(), Slow()]
    trainer = make_trainer(pace, *trackers, **PACED)
    began = time.perf_counter()
    trainer.train()
    took_s = time.perf_counter() - began
    trackers[0].released.set()

    assert same_weights(trainer, plain)
    assert took_s < 1.5 * plain_s  # the machine's own noise is in this one
    hanging, raising, slow = (trainer.callback_report[name] for name in ("hanging", "raising", "slow"))
    for report in (hanging, raising, slow):
        assert report.seconds < 0.1 * took_s  # on the thread that trains, which may wait for a core, too
    assert [step for step, _ in slow.callback.written] == [r["step"] for r in trainer.state.log_history]
    assert (slow.failures, slow.dropped) == (0, 0)
    table = costs(trainer.callback_report, took_s).splitlines()
    for name, error in (("hanging", "CallbackTimeoutError"), ("raising", "the server is gone")):
        culprit = next(line for line in table if name in line)
        assert "detached after" in culprit
        assert error in culprit


@pytest.mark.slow
def test_a_run_on_a_server_reads_back_as_its_history(make_trainer, mlflow_server):
    trainer = make_trainer(tracker := MLflowCallback(mlflow_server[0]))
    trainer.train()

    assert read_mlflow(mlflow_server[0], tracker.run_id) == curves_of(trainer.state.log_history)
    assert trainer.callback_report["mlflow"].failures == 0


@pytest.mark.slow
def test_a_server_that_is_killed_in_mid_run_is_named_and_training_ends_in_time(mlflow_server, monkeypatch):
    """The server dies while both trainers train, one inside a step of the other, since it takes so long to start."""
    uri, server = mlflow_server
    if len(installed_frameworks()) < 2:
        pytest.skip("needs both frameworks")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 12 s, longer than a call may take

    def with_tracker(framework, at_step_5):
        tracker = MLflowCallback(uri)
        tracker.timeout_s = 5.0
        return tiny_trainer(framework, framework, [tracker, Calls(at_step_5, step=5)])

    inner = with_tracker("pytorch", lambda: os.killpg(server.pid, signal.SIGKILL))
    outer = with_tracker("tensorflow", inner.train)
    began = time.perf_counter()
    outer.train()
    took_s = time.perf_counter() - began

    assert server.wait() == -signal.SIGKILL
    assert took_s < 60
    for framework, trainer in (("pytorch", inner), ("tensorflow", outer)):
        plain = tiny_trainer(framework, f"plain-{framework}")
        plain.train()
        assert trainer.state.global_step == 12
        assert same_weights(trainer, plain)
        culprit = next(line for line in costs(trainer.callback_report, took_s).splitlines() if "mlflow" in line)
        assert "detached after" in culprit
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for thread in [each for each in threading.enumerate() if each.name == "trackside-mlflow"]:
        thread.join(60)  # it waits between tries, with random numbers that the tests after this one would miss
        assert not thread.is_alive()


def same_weights(trainer, other):
    return all((a == b).all() for a, b in zip(weights_of(trainer), weights_of(other), strict=True))


def wait_for(url, server, seconds):
    deadline = time.monotonic() + seconds
    while True:
        assert server.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
