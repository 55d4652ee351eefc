"""The ground floor: errors, events, state, the base class of callbacks, the dispatcher, and the built-in callbacks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .builtin.csv_logger import CSVLoggerCallback
    from .builtin.default_flow import DefaultFlowCallback
    from .builtin.early_stopping import EarlyStoppingCallback
    from .builtin.jsonl_logger import JSONLinesLoggerCallback
    from .builtin.learning_rate_monitor import LearningRateMonitorCallback
    from .builtin.printer import PrinterCallback
    from .builtin.progress import ProgressCallback
    from .builtin.straggler_monitor import RankTimeMonitorCallback
    from .builtin.terminate_on_nan import TerminateOnNaNCallback
    from .builtin.throughput_monitor import ThroughputMonitorCallback
    from .builtin.time_limit import TimeLimitCallback
    from .bus.dispatcher import Dispatcher
    from .callback import TrainerCallback
    from .state import TrainerControl, TrainerState

WHERE = {
    "CSVLoggerCallback": "builtin.csv_logger",
    "DefaultFlowCallback": "builtin.default_flow",
    "Dispatcher": "bus.dispatcher",
    "EarlyStoppingCallback": "builtin.early_stopping",
    "JSONLinesLoggerCallback": "builtin.jsonl_logger",
    "LearningRateMonitorCallback": "builtin.learning_rate_monitor",
    "PrinterCallback": "builtin.printer",
    "ProgressCallback": "builtin.progress",
    "RankTimeMonitorCallback": "builtin.straggler_monitor",
    "TerminateOnNaNCallback": "builtin.terminate_on_nan",
    "ThroughputMonitorCallback": "builtin.throughput_monitor",
    "TimeLimitCallback": "builtin.time_limit",
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
