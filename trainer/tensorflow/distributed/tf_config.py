"""Cluster detection from TF_CONFIG, without TensorFlow."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.distributed.launcher import ProcessRank

ALLOWED = (
    'JSON like {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}, '
    "with a task that the cluster has"
)


def detect_tf_config(environ: Mapping[str, str] | None = None) -> ProcessRank | None:
    """Return the rank of this process in the cluster of TF_CONFIG, the chief first; None without a cluster.

    Workers with the same host in their addresses count as processes of one machine.

    Raises:
        ArgumentError: If TF_CONFIG is not valid, or its task is not in its cluster.

    Example:
        >>> workers = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
        >>> detect_tf_config({"TF_CONFIG": workers})
        ProcessRank(rank=1, world_size=2, local_rank=0, launcher='tf_config')
    """
    text = (os.environ if environ is None else environ).get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        config = json.loads(text)
        return _place(config["cluster"], config["task"]) if config.get("cluster") else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise ArgumentError("TF_CONFIG", text, ALLOWED) from None


def _place(cluster: Mapping[str, list[str]], task: Mapping[str, str | int]) -> ProcessRank:
    members = [(kind, index) for kind in ("chief", "worker") for index in range(len(cluster.get(kind, ())))]
    rank = members.index((str(task["type"]), int(task["index"])))
    hosts = [cluster[kind][index].rsplit(":", 1)[0] for kind, index in members]
    return ProcessRank(rank, len(members), hosts[:rank].count(hosts[rank]), "tf_config")
