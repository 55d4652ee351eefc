"""TensorBoard event files, written with TensorBoard's own protocol buffers.

TensorBoard's EventFileWriter opens files through TensorFlow wherever that is installed, and importing TensorFlow takes
seconds. Here every record is written and flushed at once, in about 40 microseconds: a reader sees it during training, a
killed process loses nothing, and there is no thread to wait for.
"""

from __future__ import annotations

import io
import itertools
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from trackside.callbacks.errors import TracksideValueError

PREFIX = "events.out.tfevents."

_numbers = itertools.count()

_BINS = 30
"""How many bars a histogram has."""


class EventFile:
    """One event file in a run's folder.

    Readers go through the files of a folder in the order of their names, which begin with a time.

    Args:
        folder: Folder of the run; created if it does not exist.
        purge_step: First step whose points in earlier files of the folder readers drop; None: they keep all.
    """

    def __init__(self, folder: str | os.PathLike[str], purge_step: int | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / self._free_name()).open("wb")
        self._writer = RecordWriter(self._file)
        self._write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(event_pb2.Event(wall_time=time.time(), step=purge_step, session_log=start))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each curve."""
        self._add([summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()], step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Add a text in Markdown."""
        metadata = text_metadata.create_summary_metadata(display_name=tag, description="")
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[markdown.encode()])
        tensor.tensor_shape.dim.add(size=1)
        self._add([summary_pb2.Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)], step)

    def hparams(self, values: Mapping[str, bool | int | float | str]) -> None:
        """Add the hyperparameters of the run."""
        info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        for name, value in values.items():
            kind = "bool" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "string"
            setattr(info.hparams[name], f"{kind}_value", value)
        content = plugin_data_pb2.HParamsPluginData(session_start_info=info)
        self._add_hparams(hparams_metadata.SESSION_START_INFO_TAG, content)

    def hparams_end(self, succeeded: bool) -> None:
        """Add whether the run ended without failure."""
        status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
        info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        content = plugin_data_pb2.HParamsPluginData(session_end_info=info)
        self._add_hparams(hparams_metadata.SESSION_END_INFO_TAG, content)

    def histograms(self, values: Mapping[str, Any], step: int) -> None:
        """Add the distribution of the finite numbers of each array; an array without any is left out."""
        summaries = [
            summary_pb2.Summary.Value(tag=tag, histo=histogram)
            for tag, array in values.items()
            if (histogram := _histogram(array)) is not None
        ]
        self._add(summaries, step)

    def images(self, values: Mapping[str, Any], step: int) -> None:
        """Add images.

        Args:
            values: Pixels by tag, of type uint8.
            step: Step of all of them.

        Shapes:
            Each array: (height, width) or (height, width, colours) with 1, 3 or 4 colours.

        Raises:
            TracksideValueError: If an array has another shape or type.
        """
        summaries = [summary_pb2.Summary.Value(tag=tag, image=_image(tag, array)) for tag, array in values.items()]
        self._add(summaries, step)

    def close(self) -> None:
        """Close the file; all records were flushed before."""
        self._file.close()

    def _add_hparams(self, tag: str, content: Any) -> None:
        metadata = hparams_metadata.create_summary_metadata(content)
        self._add([summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)], 0)

    def _add(self, values: Sequence[Any], step: int) -> None:
        if values:
            self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=values)))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._file.flush()

    def _free_name(self) -> str:
        """Return a name that sorts after those of all files in the folder, even of one created within this second."""
        newest = max((_time_in(path.name) for path in self.folder.glob(f"{PREFIX}*")), default=0)
        number = max(int(time.time()), newest + 1)
        return f"{PREFIX}{number:010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"


def _time_in(name: str) -> int:
    digits = name.removeprefix(PREFIX).split(".")[0]
    return int(digits) if digits.isdigit() else 0


def _histogram(array: Any) -> Any:
    import numpy as np

    numbers = np.asarray(array, dtype=np.float64).ravel()
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return None
    counts, edges = np.histogram(numbers, bins=_BINS)
    return summary_pb2.HistogramProto(
        min=numbers.min(),
        max=numbers.max(),
        num=numbers.size,
        sum=numbers.sum(),
        sum_squares=np.square(numbers).sum(),
        bucket_limit=edges[1:].tolist(),
        bucket=counts.tolist(),
    )


def _image(tag: str, array: Any) -> Any:
    import numpy as np
    from PIL import Image

    pixels = np.asarray(array)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.dtype != np.uint8:
        raise TracksideValueError(
            f"the image {tag!r} has shape {pixels.shape} and type {pixels.dtype}; "
            "height, width and 1, 3 or 4 colours of type uint8 are needed"
        )
    height, width, colours = pixels.shape
    png = io.BytesIO()
    Image.fromarray(pixels[..., 0] if colours == 1 else pixels).save(png, "PNG")
    return summary_pb2.Summary.Image(
        height=height, width=width, colorspace=colours, encoded_image_string=png.getvalue()
    )
