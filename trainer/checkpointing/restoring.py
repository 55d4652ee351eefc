"""Errors while the files of a checkpoint are restored, told as errors of the checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trackside.callbacks._util.atomic_files import describe
from trackside.callbacks.errors import CheckpointError, TracksideError


@contextlib.contextmanager
def restoring(folder: Path, what: str) -> Iterator[None]:
    """Turn an exception of a library about the content of a file into a CheckpointError that names the file.

    A digest proves that a file is what was written, not that it fits this model, this optimizer or this version of a
    library.

    Args:
        folder: The checkpoint.
        what: The file, or the role of several files.
    """
    try:
        yield
    except TracksideError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what} of {folder} cannot be restored: {describe(error)}") from error
