"""torch_xla.runtime: which core this is."""

from .contract import ordinal as global_ordinal
from .contract import ordinal as local_ordinal
from .contract import world_size

__all__ = ["global_ordinal", "local_ordinal", "world_size"]
