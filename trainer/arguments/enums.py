"""Allowed values of the choices in TrainingArguments: literals for editors, enums at run time."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, get_args

IntervalChoice = Literal["no", "steps", "epoch"]
"""Strategies for logging and evaluation."""

SaveChoice = Literal["no", "steps", "epoch", "best"]
"""Strategies for saving; "best" saves after an evaluation that improved."""

FallingSchedule = Literal["linear", "cosine", "cosine_with_restarts", "cosine_with_min_lr", "polynomial"]
"""Learning-rate schedules that fall from the end of the warm-up to the end of the run."""

OtherSchedule = Literal[
    "constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau", "warmup_stable_decay"
]
SchedulerChoice = Literal[FallingSchedule, OtherSchedule]

SharedOptimizer = Literal["adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adagrad", "rmsprop", "lion"]
"""Optimizers of both frameworks."""

TorchOptimizer = Literal["nadam", "radam"]
"""Optimizers that only PyTorch has."""

ApexOptimizer = Literal[
    "adamw_apex_fused", "lamb_apex_fused", "novograd_apex_fused", "sgd_apex_fused", "adagrad_apex_fused"
]
RMSpropOptimizer = Literal["rmsprop_bnb", "rmsprop_bnb_32bit", "rmsprop_bnb_8bit"]
PagedAdamOptimizer = Literal["paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"]
PagedOptimizer = Literal[PagedAdamOptimizer, "paged_lion_32bit", "paged_lion_8bit"]
AdamOptimizer = Literal["adamw_8bit", "adamw_bnb_8bit", "ademamix", "ademamix_8bit"]
BitsAndBytesOptimizer = Literal[AdamOptimizer, "lion_32bit", "lion_8bit", PagedOptimizer, RMSpropOptimizer]
ScheduleFreeOptimizer = Literal["schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"]
LowBitOptimizer = Literal["adamw_torch_4bit", "adamw_torch_8bit"]
LowRankOptimizer = Literal["apollo_adamw", "galore_adafactor", "galore_adamw", "galore_adamw_8bit"]
PackagedOptimizer = Literal[LowBitOptimizer, LowRankOptimizer, ScheduleFreeOptimizer, "grokadamw", "stable_adamw"]
OptimizerChoice = Literal[SharedOptimizer, TorchOptimizer, ApexOptimizer, BitsAndBytesOptimizer, PackagedOptimizer]

Fp16Backend = Literal["auto", "amp", "apex"]
"""Implementations of mixed precision in float16."""

ApexLevel = Literal["O0", "O1", "O2", "O3"]
"""Optimization levels of apex.amp."""

LogLevel = Literal["passive", "debug", "info", "warning", "error", "critical"]
"""Log levels; "passive" keeps the current level of logging."""

ReportChoice = (
    Literal["all", "none", "codecarbon", "comet", "control_files", "csv", "early_stopping", "ema", "finetune_schedule"]
    | Literal["journal", "jsonl"]
    | Literal["learning_rate_monitor"]
    | Literal["loss_guard", "mlflow", "notebook", "printer", "profiler", "progress", "rank_time_monitor"]
    | Literal["rich_progress", "straggler_monitor", "swa", "tensorboard", "terminate_on_nan", "throughput_monitor"]
    | Literal["time_limit", "trackio", "wandb"]
)
"""Callbacks that trackside registers by name; for type checkers only: ``report_to`` accepts every registered name."""


class StringEnum(StrEnum):
    """An enum whose members equal their strings, so that `"steps"`, our member and another library's are all equal.

    Example:
        >>> IntervalStrategy.STEPS == "steps", f"every {IntervalStrategy.STEPS}"
        (True, 'every steps')
    """

    def __repr__(self) -> str:
        return repr(str(self.value))


class IntervalStrategy(StringEnum):
    """Strategies for logging and evaluation."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"


class ParallelMode(StringEnum):
    """Ways to use the devices of a run."""

    NOT_PARALLEL = "not_parallel"
    NOT_DISTRIBUTED = "not_distributed"
    DISTRIBUTED = "distributed"
    TPU = "tpu"


def _enum_of(name: str, literal: object) -> Any:
    make: Any = StringEnum  # type checkers reject computed members
    return make(name, {value.upper(): value for value in get_args(literal)}, module=__name__)


SaveStrategy: type[StringEnum] = _enum_of("SaveStrategy", SaveChoice)
SchedulerType: type[StringEnum] = _enum_of("SchedulerType", SchedulerChoice)
OptimizerName: type[StringEnum] = _enum_of("OptimizerName", OptimizerChoice)
