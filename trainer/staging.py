"""The local folder of a run whose ``output_dir`` was given in other words: relative, or as an address."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import tempfile
from pathlib import Path

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")


class RunFolder(str):
    """The absolute path of a local folder, which was given as ``address``: a relative path, which is shown instead."""

    address: str

    @classmethod
    def of_run(cls, output_dir: str) -> str:
        """Return the folder for a run that begins now, whatever becomes the current folder within it."""
        if isinstance(output_dir, RunFolder) or os.path.isabs(output_dir):
            return output_dir
        folder = cls(os.path.join(os.getcwd(), output_dir))
        folder.address = output_dir
        return folder


class StagingFolder(RunFolder):
    """The path of a local folder, whose content is uploaded to ``address``, such as s3://bucket/run."""

    @classmethod
    def of(cls, address: str, staging_dir: str | None) -> StagingFolder:
        """Return the folder of ``address``: always the same one, so that all processes of a machine share it."""
        digest = hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:12]
        name = re.sub(r"[^\w.-]", "_", address.rstrip("/").rpartition("/")[2]) or "run"
        folder = cls(staging_root(staging_dir) / digest / name)  # trackers name a run after the last part
        folder.address = address.rstrip("/")
        return folder


def is_address(path: object) -> bool:
    """Return whether ``path`` is an address instead of a local path.

    Example:
        >>> is_address("s3://bucket/run"), is_address("out/run")
        (True, False)
    """
    return ADDRESS.match(str(path)) is not None


def address_of(output_dir: str) -> str:
    """Return ``output_dir`` as it was given."""
    return output_dir.address if isinstance(output_dir, RunFolder) else output_dir


def as_given(path: str | Path, output_dir: str) -> str:
    """Return a path as a user knows it: below the relative path that was given for the folder of its run.

    Example:
        >>> folder = RunFolder.of_run("out")
        >>> as_given(f"{folder}/loss_curve.png", folder), as_given("/tmp/curve.png", folder)
        ('out/loss_curve.png', '/tmp/curve.png')
    """
    if isinstance(output_dir, StagingFolder) or not Path(path).is_relative_to(output_dir):
        return str(path)
    return str(Path(address_of(output_dir), Path(path).relative_to(output_dir)))


def staged(output_dir: str, staging_dir: str | None) -> str:
    """Return the local folder for ``output_dir``: that of an address, or the path itself, with ``~`` expanded."""
    given = address_of(output_dir)
    return StagingFolder.of(given, staging_dir) if is_address(given) else os.path.expanduser(given)


def staging_root(staging_dir: str | None) -> Path:
    """Return the folder of all staging folders: ``staging_dir``, or a folder of the user's in the temporary folder."""
    if staging_dir is not None:
        return Path(staging_dir).expanduser()
    return Path(tempfile.gettempdir(), f"trackside-{getpass.getuser()}")
