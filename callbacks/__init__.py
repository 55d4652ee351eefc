"""Callbacks: events, state, the signal bus, and the built-in callbacks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .builtin.csv_logger import CSVLoggerCallback as CSVLoggerCallback
    from .builtin.default_flow import DefaultFlowCallback as DefaultFlowCallback
    from .builtin.early_stopping import EarlyStoppingCallback as EarlyStoppingCallback
    from .builtin.jsonl_logger import JSONLinesLoggerCallback as JSONLinesLoggerCallback
    from .builtin.learning_rate_monitor import LearningRateMonitorCallback as LearningRateMonitorCallback
    from .builtin.printer import PrinterCallback as PrinterCallback
    from .builtin.progress import ProgressCallback as ProgressCallback
    from .builtin.straggler_monitor import RankTimeMonitorCallback as RankTimeMonitorCallback
    from .builtin.straggler_monitor import StragglerMonitorCallback as StragglerMonitorCallback
    from .builtin.terminate_on_nan import TerminateOnNaNCallback as TerminateOnNaNCallback
    from .builtin.throughput_monitor import ThroughputMonitorCallback as ThroughputMonitorCallback
    from .builtin.time_limit import TimeLimitCallback as TimeLimitCallback
    from .bus.dispatcher import Dispatcher as Dispatcher
    from .callback import TrainerCallback as TrainerCallback
    from .state import TrainerControl as TrainerControl
    from .state import TrainerState as TrainerState

MODULES = {
    "CSVLoggerCallback": "builtin.csv_logger",
    "DefaultFlowCallback": "builtin.default_flow",
    "Dispatcher": "bus.dispatcher",
    "EarlyStoppingCallback": "builtin.early_stopping",
    "JSONLinesLoggerCallback": "builtin.jsonl_logger",
    "LearningRateMonitorCallback": "builtin.learning_rate_monitor",
    "PrinterCallback": "builtin.printer",
    "ProgressCallback": "builtin.progress",
    "RankTimeMonitorCallback": "builtin.straggler_monitor",
    "StragglerMonitorCallback": "builtin.straggler_monitor",
    "TerminateOnNaNCallback": "builtin.terminate_on_nan",
    "ThroughputMonitorCallback": "builtin.throughput_monitor",
    "TimeLimitCallback": "builtin.time_limit",
    "TrainerCallback": "callback",
    "TrainerControl": "state",
    "TrainerState": "state",
}
"""The module of each public name; imported when the name is first used."""


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
