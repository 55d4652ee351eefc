from __future__ import annotations

import builtins
import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import threading

import pytest

from trackside.callbacks._util import atomic_files as files
from trackside.callbacks._util.atomic_files import (
    append_line,
    claimed,
    exchange,
    is_in_use,
    make_folder,
    sync_folder,
    write_atomically,
)
from trackside.callbacks.errors import CheckpointError


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_text_and_bytes_are_written_whole_and_nothing_is_left_beside_them(tmp_path):
    write_atomically(tmp_path / "state.json", "größer")
    write_atomically(str(tmp_path / "state.json"), "kürzer")
    write_atomically(tmp_path / "blob", b"\x00\xff")

    assert (tmp_path / "state.json").read_bytes() == "kürzer".encode()
    assert (tmp_path / "blob").read_bytes() == b"\x00\xff"
    assert sorted(os.listdir(tmp_path)) == ["blob", "state.json"]


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="Linux has /dev/shm")
def test_a_folder_in_memory_is_a_folder():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        write_atomically(f"{folder}/state.json", "{}")

        assert os.listdir(folder) == ["state.json"]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="Linux has /proc")
@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_an_open_file_of_a_process_is_not_replaced(tmp_path, path):
    (tmp_path / "link").symlink_to("/dev/stdout")
    with open(tmp_path / "open", "w") as file, pytest.raises(CheckpointError, match="a pipe or a device"):
        write_atomically(tmp_path / path.format(file.fileno()), "{}")


def test_a_write_that_need_not_outlive_a_power_cut_syncs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_space)

    write_atomically(tmp_path / "log.csv", "step\n", sync=False)

    assert (tmp_path / "log.csv").read_text() == "step\n"


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (os, "replace"), (builtins, "open")])
def test_a_failed_write_leaves_the_old_content_and_names_path_and_cause(tmp_path, monkeypatch, module, name):
    path = tmp_path / "state.json"
    write_atomically(path, "old")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, no_space)
        with pytest.raises(CheckpointError) as caught:
            write_atomically(path, "new")

    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state.json"]
    assert str(caught.value) == f"{path} could not be written: OSError: [Errno 28] No space left on device"


def test_a_reader_never_sees_a_piece(tmp_path):
    path, seen, stop = tmp_path / "state.json", set(), threading.Event()
    write_atomically(path, "0" * 100_000)

    def read():
        while not (stop.is_set() and seen):
            content = path.read_text()
            seen.add((content[0], len(content), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(20):
        write_atomically(path, str(index % 10) * 100_000)
    stop.set()
    reader.join()

    assert {(size, kinds) for _, size, kinds in seen} == {(100_000, 1)}


def test_folders_are_created_with_all_their_parents(tmp_path):
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")

    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_file_system_that_cannot_sync_folders_is_no_failure_but_a_broken_disk_is(tmp_path, monkeypatch):
    def refuse(code):
        def fsync(descriptor):
            raise OSError(code, os.strerror(code))

        return fsync

    monkeypatch.setattr(files.os, "fsync", refuse(errno.EINVAL))
    sync_folder(tmp_path)

    monkeypatch.setattr(files.os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)


def test_two_folders_are_exchanged_or_left_as_they_are(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "was").write_text(name)

    done = exchange(tmp_path / "a", tmp_path / "b")

    assert (tmp_path / "a" / "was").read_text() == ("b" if done else "a")
    assert (tmp_path / "b" / "was").read_text() == ("a" if done else "b")
    assert exchange(tmp_path / "a", tmp_path / "missing") is False
    assert (tmp_path / "a").exists()


def test_a_folder_is_in_use_as_long_as_it_is_claimed_whatever_its_process_number(tmp_path):
    dead = 2**22 + 1  # above the largest process number of Linux

    with claimed(tmp_path / "work"):
        assert is_in_use(tmp_path / "work", os.getpid())
        assert is_in_use(tmp_path / "work", dead)

    assert not is_in_use(tmp_path / "work", os.getpid())
    assert not is_in_use(tmp_path / "work", dead)
    assert is_in_use(tmp_path / "work", os.getppid())
    assert is_in_use(tmp_path / "gone", dead)


def test_where_nothing_can_be_locked_the_process_number_decides(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)

    with claimed(tmp_path / "work"):
        assert is_in_use(tmp_path / "work", os.getpid())
        assert not is_in_use(tmp_path / "work", 2**22 + 1)


WITHOUT_POSIX = """
import sys

for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None  # importing it raises ImportError, as on Windows
import importlib, os, pkgutil
from pathlib import Path

import trackside
from trackside import callbacks, integrations
from trackside.callbacks._util import atomic_files as files

for package in (callbacks, integrations):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
import trackside.trainer.checkpointing.store

files.IS_POSIX = False
files.make_folder(Path("a/b"))
files.write_atomically("a/b/state.json", "kept")
with files.claimed(Path("work")):
    assert files.is_in_use(Path("work"), os.getpid())
assert not files.exchange(Path("a"), Path("work"))
print(Path("a/b/state.json").read_text())
"""


def test_without_modules_that_only_posix_has_everything_is_imported_and_files_are_written():
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    ran = subprocess.run([sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, timeout=120)

    assert ran.stderr == ""
    assert ran.stdout == "kept\n"


def test_a_line_that_does_not_fit_is_not_there_in_part(tmp_path):
    path = tmp_path / "log"
    path.write_text("one\n")
    script = (
        "import resource; from trackside.callbacks._util.atomic_files import append_line\n"
        "file = open('log', 'a+b', buffering=0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, -1))\n"
        "try: append_line(file, 'a line that is too long\\n')\n"
        "except OSError as error: print(error.errno)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)); append_line(file, 'two\\n')\n"
    )

    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout == f"{errno.EFBIG}\n"
    assert path.read_text() == "one\ntwo\n"


def test_a_line_begins_after_one_that_was_cut_off(tmp_path):
    path = tmp_path / "log"
    path.write_text("one\ntw")

    with path.open("a+b", buffering=0) as file:
        append_line(file, "three\n")

    assert path.read_text() == "one\ntw\nthree\n"


def test_a_line_goes_into_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with (tmp_path / "pipe").open("a+b", buffering=0) as file:
        append_line(file, "one\n")
        append_line(file, "two\n")

        assert file.read(8) == b"one\ntwo\n"
