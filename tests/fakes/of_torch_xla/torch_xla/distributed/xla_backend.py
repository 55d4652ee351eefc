"""torch_xla.distributed.xla_backend: importing it makes the backend "xla" and the meeting point "xla://" known.

The cores are numbered backwards here, since their order need not be that of torchrun's ranks.
"""

import os

import torch.distributed as dist
from torch._C._distributed_c10d import ProcessGroupGloo, TCPStore

dist.Backend.register_backend(
    "xla", lambda store, rank, size, timeout: ProcessGroupGloo(store, rank, size, timeout=timeout), devices=["cpu"]
)


def _meet(url, timeout, **kwargs):
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, rank == 0)
    yield store, size - 1 - rank, size


dist.register_rendezvous_handler("xla", _meet)
