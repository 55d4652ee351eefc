"""The ground floor: errors, events, state, the base class of callbacks, the dispatcher, and the built-in callbacks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callback import TrainerCallback
    from .csv_logger import CSVLoggerCallback
    from .dispatcher import Dispatcher
    from .early_stopping import EarlyStoppingCallback
    from .flow import DefaultFlowCallback
    from .jsonl_logger import JSONLinesLoggerCallback
    from .learning_rate_monitor import LearningRateMonitorCallback
    from .printer import PrinterCallback
    from .progress import ProgressCallback
    from .rank_time_monitor import RankTimeMonitorCallback
    from .state import TrainerControl, TrainerState
    from .terminate_on_nan import TerminateOnNaNCallback
    from .throughput_monitor import ThroughputMonitorCallback
    from .time_limit import TimeLimitCallback

WHERE = {
    "CSVLoggerCallback": "csv_logger",
    "DefaultFlowCallback": "flow",
    "Dispatcher": "dispatcher",
    "EarlyStoppingCallback": "early_stopping",
    "JSONLinesLoggerCallback": "jsonl_logger",
    "LearningRateMonitorCallback": "learning_rate_monitor",
    "PrinterCallback": "printer",
    "ProgressCallback": "progress",
    "RankTimeMonitorCallback": "rank_time_monitor",
    "TerminateOnNaNCallback": "terminate_on_nan",
    "ThroughputMonitorCallback": "throughput_monitor",
    "TimeLimitCallback": "time_limit",
    "TrainerCallback": "callback",
    "TrainerControl": "state",
    "TrainerState": "state",
}
"""The module of each public name; imported when the name is first used."""

__all__ = [
    "CSVLoggerCallback",
    "DefaultFlowCallback",
    "Dispatcher",
    "EarlyStoppingCallback",
    "JSONLinesLoggerCallback",
    "LearningRateMonitorCallback",
    "PrinterCallback",
    "ProgressCallback",
    "RankTimeMonitorCallback",
    "TerminateOnNaNCallback",
    "ThroughputMonitorCallback",
    "TimeLimitCallback",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
]


def __getattr__(name: str) -> Any:
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *WHERE})
