"""Training arguments of PyTorch. torch is imported only when a device is read."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trackside.callbacks.errors import ArgumentError, check_one_of

from ..arguments.base import BaseTrainingArguments
from ..arguments.elsewhere import OPTIMIZERS_ELSEWHERE
from ..arguments.enums import OptimizerChoice, OptimizerName, ParallelMode
from ..arguments.fields import at_least, choice, option, with_types
from ..arguments.validation import Needs
from ..data.sharding import cut_update
from ..distributed.launcher import ProcessRank, detect_launcher
from .availability import check_apex_amp, check_liger, check_optimizer
from .optim.packaged import check_package, check_targets

if TYPE_CHECKING:
    import torch

logger: logging.Logger = logging.getLogger("trackside.trainer")


PROCESSES = "several processes, such as torchrun starts"
OF_PYTORCH: Needs = {
    "length_column_name": (lambda args: args.group_by_length, "group_by_length=True"),
    "dataloader_multiprocessing_context": (lambda args: args.dataloader_num_workers > 0, "dataloader_num_workers"),
    "gradient_checkpointing_kwargs": (lambda args: args.gradient_checkpointing, "gradient_checkpointing=True"),
    "fp16_backend": (lambda args: args.fp16 or args.fp16_backend == "amp", "fp16=True"),
    "fp16_opt_level": (lambda args: args.fp16 and args.fp16_backend == "apex", "fp16=True and fp16_backend='apex'"),
    **dict.fromkeys(("ddp_backend", "ddp_timeout"), (lambda args: args.place.launcher is not None, PROCESSES)),
    **dict.fromkeys(
        [f"ddp_{name}" for name in ("find_unused_parameters", "bucket_cap_mb", "broadcast_buffers", "static_graph")],
        (lambda args: args.place.launcher is not None and not args.fsdp, f"{PROCESSES}, and without fsdp"),
    ),
}
"""Fields that count only beside others, and are of PyTorch."""


@with_types
@dataclass(kw_only=True, repr=False, eq=False)
class TrainingArguments(BaseTrainingArguments):
    """Every field of `BaseTrainingArguments`, and the devices of PyTorch.

    Creating an instance takes well under a millisecond and does not import torch.

    Raises:
        ArgumentError: If a value is not allowed; the message has the field, the value and the allowed values.
        MissingPackageError: If an optimizer's package is not installed.
        UnsupportedError: If a value is allowed, but not supported here.

    Example:
        >>> TrainingArguments("out", num_train_epochs=2, eval_strategy="epoch").do_eval
        True
    """

    counted_within_run = (
        BaseTrainingArguments.counted_within_run
        | {"label_smoothing_factor", "max_grad_norm", "past_index", "remove_unused_columns", "torch_empty_cache_steps"}
        | {f"dataloader_{name}" for name in ("multiprocessing_context", "num_workers", "persistent_workers")}
        | {"dataloader_pin_memory", "dataloader_prefetch_factor"}  # those of dataloader_ by each evaluation
    )

    counted_only_with = BaseTrainingArguments.counted_only_with | OF_PYTORCH

    optim: OptimizerChoice = choice(  # noqa: RUF009
        "adamw_torch_fused", "Optimizer.", OptimizerName, OPTIMIZERS_ELSEWHERE
    )
    global_batch_size: int | None = option(
        None,
        "Examples of an update, the same on any number of processes; gradient_accumulation_steps follows from it, and "
        "per_device_train_batch_size is the most that a process takes at once.",
        at_least(1),
    )

    def validate(self) -> None:
        """Check every field, and that the requested features are available here."""
        super().validate()
        if self.global_batch_size is not None:
            self._set("gradient_accumulation_steps", self._cut_of_update[0])
        check_package(self.optim)
        check_targets(self)
        check_optimizer(self.optim)
        if self.liger_kernel_config and not self.use_liger_kernel:
            raise ArgumentError("liger_kernel_config", self.liger_kernel_config, "only with use_liger_kernel=True")
        if self.use_liger_kernel:
            check_liger()
        check_processes(self)
        if self.uses_xla:
            check_cores(self)
            self._set("optim", NOT_FUSED.get(self.optim, self.optim))
        elif "tpu_metrics_debug" in self.debug:
            warnings.warn("debug='tpu_metrics_debug' has nothing to report: the run is not on TPU cores", stacklevel=4)
        if self.fp16 and self.fp16_backend == "apex":
            check_apex_amp()
        if self.torch_compile and "underflow_overflow" in self.debug:
            raise ArgumentError("debug", self.debug, "not together with torch_compile, which sees no single layers")

    @property
    def _cut_of_update(self) -> tuple[int, int]:
        assert self.global_batch_size is not None
        most = self.per_device_train_batch_size
        return cut_update(self.global_batch_size, most=most, world_size=self.world_size)

    @property
    def train_batch_size(self) -> int:
        """Examples in a training micro-batch of this process, on all its devices; the maximum, if they differ."""
        if self.global_batch_size is None:
            return super().train_batch_size
        return -(-self.global_micro_batch_size // self.world_size)

    @property
    def global_micro_batch_size(self) -> int:
        """Examples in a training micro-batch of all processes together."""
        return super().global_micro_batch_size if self.global_batch_size is None else self._cut_of_update[1]

    @cached_property
    def uses_xla(self) -> bool:
        """Whether the run uses torch_xla: tpu_num_cores is given, or PJRT_DEVICE is TPU and torch_xla is installed."""
        if self.tpu_num_cores is not None:
            return True
        is_asked_for = os.environ.get("PJRT_DEVICE") == "TPU" and not self.no_cuda
        return is_asked_for and importlib.util.find_spec("torch_xla") is not None

    @cached_property
    def place(self) -> ProcessRank:
        """The rank of this process among those that the launcher started, read once; with torch_xla, its rank."""
        if not self.uses_xla:
            return detect_launcher()
        from .distributed.xla import detect_core

        return detect_core()

    @cached_property
    def device(self) -> torch.device:
        """The device of this process, determined at the first read.

        Several visible GPUs without a launcher cause a warning, since only one of them is used.
        """
        import torch

        if self.uses_xla:
            from .distributed.xla import device_of_core

            return device_of_core()
        if self.no_cuda:
            return torch.device("cpu")
        if torch.cuda.is_available():
            self._warn_of_idle_gpus(torch.cuda.device_count())
            return torch.device("cuda", self.local_process_index % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    @cached_property
    def n_gpu(self) -> int:
        """Number of GPUs that this process uses: one, unless nn.DataParallel is requested."""
        import torch

        if self.device.type != "cuda":
            return 0
        return torch.cuda.device_count() if self.parallel == "dp" and self.world_size == 1 else 1

    @contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """Return a context that the first process goes through before the others, for work that leaves files.

        Args:
            local: The first process of each machine, whose files the others of that machine see, instead of one.
            desc: What is done, for the log.

        Raises:
            RankError: If a process does not come.
        """
        if self.world_size == 1:
            yield
            return
        from .distributed.rendezvous import first_then_others

        is_first = (self.local_process_index if local else self.process_index) == 0
        logger.debug("%s: rank %d is %s", desc, self.process_index, "first" if is_first else "waiting")
        with first_then_others(self, self.device, is_first=is_first):
            yield

    @property
    def parallel_mode(self) -> ParallelMode:
        """The way in which the run uses its devices."""
        return ParallelMode.TPU if self.uses_xla else super().parallel_mode

    def _warn_of_idle_gpus(self, count: int) -> None:
        if count > 1 and self.world_size == 1 and self.parallel is None:
            warnings.warn(
                f"{count} GPUs are visible and one of them is used. Start with torchrun --nproc-per-node={count} to "
                "use all, set CUDA_VISIBLE_DEVICES to choose one, or give parallel='dp' for nn.DataParallel",
                stacklevel=3,
            )


# options of fsdp_config: test and description of their values
FSDP_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "transformer_layer_cls_to_wrap": (lambda value: isinstance(value, (str, list)), "names of module classes"),
    "min_num_params": (lambda value: type(value) is int and value >= 0, "a whole number of parameters"),
    "mixed_precision": (lambda value: isinstance(value, dict), "a map of param_dtype, reduce_dtype, output_dtype"),
}
POLICY = ("param_dtype", "reduce_dtype", "output_dtype")
PRECISIONS = ("fp32", "bf16", "fp16")


def check_processes(args: TrainingArguments) -> None:
    """Raise if ``args`` do not fit the number of processes, or a sharded model.

    Raises:
        ArgumentError: If they do.
    """
    if args.world_size > 1 and args.auto_find_batch_size:
        raise ArgumentError("auto_find_batch_size", True, "only with one process; several would not halve in step")
    if args.global_batch_size is not None and args.parallel == "dp":
        raise ArgumentError("global_batch_size", args.global_batch_size, "None with parallel='dp'; torchrun has both")
    if not args.fsdp:
        return
    if args.place.launcher is None:  # under a launcher, a single process may be the rest of several
        raise ArgumentError("fsdp", args.fsdp, "only with several processes, which torchrun starts")
    for name in ("fp16_full_eval", "bf16_full_eval"):
        if getattr(args, name):
            raise ArgumentError(name, True, "not together with fsdp, whose mixed_precision says in what it computes")
    if args.fp16 and args.fp16_backend == "apex":
        raise ArgumentError("fp16_backend", "apex", "'auto' together with fsdp; apex.amp cannot take a sharded model")
    check_fsdp_config(args.fsdp_config or {})


def check_fsdp_config(config: Any) -> None:
    """Raise if ``config`` holds an option that is not passed to FSDP2.

    Raises:
        ArgumentError: If it does; the message suggests the nearest name.
    """
    for name, value in config.items():
        check_one_of("fsdp_config", name, FSDP_OPTIONS)
        is_right, allowed = FSDP_OPTIONS[name]
        if not is_right(value):
            raise ArgumentError(f"fsdp_config[{name!r}]", value, allowed)
    for name, value in config.get("mixed_precision", {}).items():
        check_one_of("fsdp_config['mixed_precision']", name, POLICY)
        check_one_of(f"fsdp_config['mixed_precision'][{name!r}]", value, PRECISIONS)
    if config.get("min_num_params") and config.get("transformer_layer_cls_to_wrap"):
        raise ArgumentError("fsdp_config", config, "either min_num_params or transformer_layer_cls_to_wrap")


# optimizers with the same arithmetic, for devices on which torch lacks the fused kernel
NOT_FUSED = {"adamw_torch_fused": "adamw_torch"}


def check_cores(args: TrainingArguments) -> None:
    """Raise if ``args`` request features that TPU cores do not support.

    Raises:
        ArgumentError: If they do.
    """
    if args.no_cuda:
        raise ArgumentError("tpu_num_cores", args.tpu_num_cores, "None together with no_cuda=True")
    if args.tpu_num_cores not in (None, args.world_size):
        raise ArgumentError(
            "tpu_num_cores",
            args.tpu_num_cores,
            f"{args.world_size}, the cores that torch_xla.runtime.world_size() tells here; torch_xla.launch(main) or "
            "torchrun starts a process for each, and main makes the arguments",
        )
    if args.world_size > 1 and not args.dataloader_drop_last:
        raise ArgumentError(
            "dataloader_drop_last", False, "True on several TPU cores, which wait for each other unless all do the same"
        )
    for name, allowed in NOT_ON_CORES.items():
        if getattr(args, name):
            raise ArgumentError(name, getattr(args, name), allowed)
    if args.torch_compile and args.torch_compile_backend is None:
        raise ArgumentError("torch_compile", True, "on TPU cores only with a torch_compile_backend that torch_xla has")


NOT_ON_CORES = {
    "fp16": "False on TPU cores, which have bf16",
    "fp16_full_eval": "False on TPU cores, which have bf16_full_eval",
    "fsdp": "'' on TPU cores; FSDP2 is there for torch.distributed only",
    "auto_find_batch_size": "False on TPU cores, where memory runs out only when the recorded step is launched",
}
