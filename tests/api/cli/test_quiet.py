"""What the command leaves out of TensorFlow's start-up messages, and what it never does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from trackside.cli.quiet.noise import is_noise, pass_on

WARNING = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
CUDART = "I0000 00:00:1796025368.147261    9795 cudart_stub.cc:31] Could not find cuda drivers, GPU will not be used."
NOISE = [
    WARNING,
    CUDART,
    "I0000 00:00:1796025368.147261    9795 port.cc:153] oneDNN custom operations are on.",
    "2024-03-01 10:00:00.123456: I tensorflow/core/platform/cpu_feature_guard.cc:210] This TensorFlow binary is",
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with the appropriate "
    "compiler flags.",
    "E0000 00:00:1796025368.14 9 cuda_dnn.cc:8310] Unable to register cuDNN factory: Attempting to register factory "
    "for plugin cuDNN when one has already been registered",
]
CUINIT = "E0000 00:00:1796025368.147261    9795 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)"
TOLD = [
    "ImportError: libcudart.so.12: cannot open shared object file",
    "W0000 00:00:1796025368.147261    9795 gpu_device.cc:2341] Cannot dlopen some GPU libraries.",
    "F0000 00:00:1796025368.147261    9795 cpu_feature_guard.cc:34] The TensorFlow library was compiled to use AVX",
    "I say this myself",
]


def test_only_lines_that_tell_of_nothing_to_be_done_are_left_out():
    left_out = [line for line in (*NOISE, CUINIT, *TOLD) if is_noise(f"{line}\n".encode(), with_gpu=False)]
    with_gpu = [line for line in (*NOISE, CUINIT, *TOLD) if is_noise(line.encode(), with_gpu=True)]

    assert left_out == [*NOISE, CUINIT]
    assert with_gpu == [line for line in NOISE if line != CUDART]


def test_a_line_that_does_not_end_before_the_import_does_is_whole():
    passed = []

    pass_on(iter([b"half\0the import has succeeded\n", b"later\n"]), passed.append, with_gpu=False)

    assert passed == [b"half", b"later\n"]


def imported(folder, ending, **environ):
    """Import a stand-in for TensorFlow, which writes as the real one does, in a process of its own."""
    lines = "\n".join((*NOISE[:2], *TOLD[:2])) + "\n"
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text(f"import os\nos.write(2, {lines.encode()!r})\n{ending}\n")
    code = (
        "import sys; from trackside.cli.quiet.tensorflow_import import quiet_tensorflow\n"
        "with quiet_tensorflow():\n"
        "    import importlib.util; assert importlib.util.find_spec('tensorflow').origin\n"
        "    import tensorflow\n"
        "print('afterwards', tensorflow.__spec__.loader.name, file=sys.stderr)"
    )
    kept = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    path = os.pathsep.join((str(folder), *filter(None, sys.path)))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": path, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_import_passes_on_what_is_not_noise(tmp_path):
    done = imported(tmp_path, "")

    assert (done.returncode, done.stderr.splitlines()) == (0, [*TOLD[:2], "afterwards tensorflow"])


@pytest.mark.parametrize(
    ("ending", "code"),
    [("raise ImportError('no library')", 1), ("os.abort()", -signal.SIGABRT), ("os._exit(3)", 3)],
)
def test_an_import_that_fails_or_crashes_passes_on_everything(tmp_path, ending, code):
    done = imported(tmp_path, ending)

    lines = done.stderr.splitlines()
    assert done.returncode == code
    assert {*NOISE[:2], *TOLD[:2]} <= {*lines}
    assert ("ImportError: no library" in lines) == (code == 1)


def test_the_setting_of_the_user_wins(tmp_path):
    done = imported(tmp_path, "", TF_CPP_MIN_LOG_LEVEL="0")

    assert done.stderr.splitlines() == [*NOISE[:2], *TOLD[:2], "afterwards tensorflow"]


@pytest.mark.slow
@pytest.mark.parametrize("level", [None, "0"])
def test_a_run_of_the_command_on_tensorflow_shows_the_bar_only(tmp_path, level):
    pytest.importorskip("tensorflow")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TF_CPP")}
    environ |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | (
        {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
    )

    def command(*words):
        return subprocess.run(
            [sys.executable, "-m", "trackside", *words],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
            timeout=200,
        )

    command("init", "--framework", "tensorflow")
    lines = command("train", "run.yaml", "--max_steps", "2").stderr.splitlines()

    others = [line for line in lines if not line.startswith("train:")]
    assert others == [] if level is None else any("cc:" in line for line in others)
