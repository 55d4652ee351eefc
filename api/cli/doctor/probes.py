"""Probes of packages whose import can crash: each runs in a process of its own and prints JSON."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from typing import Any

TIMEOUT_S = 120.0
MARK = "trackside doctor: "


def probe(*names: str) -> dict[str, dict[str, Any]]:
    """Run the probes called ``names`` at the same time; return what each found, or the reason as its ``error``."""
    there = [name for name in names if name == "callbacks" or importlib.util.find_spec(name) is not None]
    running = {name: _start(name) for name in there}
    return {name: _wait(running[name]) if name in running else {} for name in names}


def _start(name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trackside.cli.doctor.probes", name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"error": f"importing it takes longer than {TIMEOUT_S:g} s"}
    lines = [line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)]
    if process.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    last = (errors.strip().splitlines() or ["it printed nothing"])[-1]
    if process.returncode >= 0:
        return {"error": f"cannot be imported: {last}"}
    return {"error": f"importing it ends the process with {signal.Signals(-process.returncode).name}: {last}"}


# -- in the process of the probe --------------------------------------------------------------------------------------


def look_at_torch() -> dict[str, Any]:
    """Return version, devices and backends of torch."""
    import torch
    import torch.distributed as dist

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = {"version": str(torch.__version__)}
    found["CUDA"] = ", ".join(names) or ("no device" if torch.version.cuda else "not in this build")
    found["MPS"] = "there" if torch.backends.mps.is_available() else "no device"
    found["threads"] = str(torch.get_num_threads())
    backends = ("gloo", "nccl", "mpi", "ucc", "xccl") if dist.is_available() else ()
    there = [name for name in backends if getattr(dist, f"is_{name}_available", bool)()]
    found["backends"] = ", ".join(there) or "none"
    return found


def look_at_tensorflow() -> dict[str, Any]:
    """Return version and devices of TensorFlow."""
    import tensorflow as tf

    devices = [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices()]
    return {"version": str(tf.__version__), "devices": ", ".join(devices)}


def look_at_callbacks() -> dict[str, Any]:
    """Return which registered callbacks cannot be imported, and why."""
    from trackside.callbacks.registry import registered

    failed = {}
    for name, registration in registered().items():
        try:
            registration.load()
        except (Exception, SystemExit) as error:
            failed[name] = str(error) or type(error).__name__
    return {"failed": failed}


PROBES = {"torch": look_at_torch, "tensorflow": look_at_tensorflow, "callbacks": look_at_callbacks}

if __name__ == "__main__":
    print(f"\n{MARK}{json.dumps(PROBES[sys.argv[1]]())}")
