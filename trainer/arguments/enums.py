"""The values that a choice among TrainingArguments may have; each member equals its string and prints as it."""

from __future__ import annotations

from enum import Enum


class StringEnum(str, Enum):
    """An enum whose members are their strings, so that `"steps"`, ours and that of another library are all equal.

    Example:
        >>> IntervalStrategy.STEPS == "steps", f"every {IntervalStrategy.STEPS}"
        (True, 'every steps')
    """

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return repr(str(self.value))

    def __format__(self, format_spec: str) -> str:
        return format(str(self.value), format_spec)


class IntervalStrategy(StringEnum):
    """When to log or to evaluate."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"


class SaveStrategy(StringEnum):
    """When to save; BEST saves after an evaluation that improved."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"
    BEST = "best"


class SchedulerType(StringEnum):
    """How the learning rate goes over a run."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    COSINE_WITH_MIN_LR = "cosine_with_min_lr"
    POLYNOMIAL = "polynomial"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    INVERSE_SQRT = "inverse_sqrt"
    REDUCE_ON_PLATEAU = "reduce_lr_on_plateau"
    WARMUP_STABLE_DECAY = "warmup_stable_decay"


class OptimizerName(StringEnum):
    """The optimizers that go by a name."""

    ADAMW_TORCH = "adamw_torch"
    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    SGD = "sgd"
    ADAFACTOR = "adafactor"
    ADAGRAD = "adagrad"
    RMSPROP = "rmsprop"
    LION = "lion"
    ADAMW_APEX_FUSED = "adamw_apex_fused"
    LAMB_APEX_FUSED = "lamb_apex_fused"
    NOVOGRAD_APEX_FUSED = "novograd_apex_fused"
    SGD_APEX_FUSED = "sgd_apex_fused"
    ADAGRAD_APEX_FUSED = "adagrad_apex_fused"
    ADAMW_8BIT = "adamw_8bit"


class ParallelMode(StringEnum):
    """How many devices a run has, and how they are driven."""

    NOT_PARALLEL = "not_parallel"
    NOT_DISTRIBUTED = "not_distributed"
    DISTRIBUTED = "distributed"
    TPU = "tpu"
