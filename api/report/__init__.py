"""The page of a run: one self-contained HTML file from its journal and its checkpoints."""

from .document import page as page
from .document import write as write
from .reading import ReadRun as ReadRun
from .reading import read_run as read_run
from .run_record import RunRecord as RunRecord
from .server import watch as watch

__all__ = ["ReadRun", "RunRecord", "page", "read_run", "watch", "write"]
