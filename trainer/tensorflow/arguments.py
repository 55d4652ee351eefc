"""Training arguments of TensorFlow, which is imported only when a device is read. torch is never imported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from trackside.callbacks.errors import UnsupportedError

from ..arguments.base import BaseTrainingArguments
from ..arguments.enums import ParallelMode, SharedOptimizer
from ..arguments.fields import at_least, option, with_types
from ..arguments.validation import Refusals, refuse
from ..distributed.launcher import ProcessRank
from .distributed.tf_config import detect_tf_config
from .distributed.tpu import tpu_strategy

# fields that only PyTorch supports, with the alternatives
NOT_HERE: Refusals = {
    "optim": (
        lambda value: value not in get_args(SharedOptimizer),
        "only PyTorch has it; use 'adamw_torch'",
    ),
    "optim_target_modules": (bool, "only PyTorch has it; use optim='adafactor' to save memory"),
    "fp16_backend": (lambda value: value == "apex", "only PyTorch has it; 'auto' is Keras' mixed precision"),
    "torch_compile": (bool, "only PyTorch has it; use xla=True"),
    "gradient_checkpointing": (bool, "only PyTorch has it; wrap layers in tf.recompute_grad"),
    "fsdp": (bool, "only PyTorch has it; replicas come from args.strategy"),
    "parallel": (bool, "only PyTorch has it; replicas come from args.strategy"),
    "neftune_noise_alpha": (lambda value: value is not None, "only PyTorch has it; add a GaussianNoise layer"),
    "use_liger_kernel": (bool, "only PyTorch has it; use xla=True"),
    "group_by_length": (bool, "only PyTorch has it; use tf.data's bucket_by_sequence_length in get_train_tfdataset"),
    "include_num_input_tokens_seen": (lambda value: value == "non_padding", "only PyTorch has it; use 'all'"),
    "label_names": (bool, "only PyTorch has it; a dataset gives (features, labels), and labels may be a dict"),
    "past_index": (lambda value: value >= 0, "only PyTorch has it; keep the memory in the model's variables"),
    "tpu_num_cores": (lambda value: value is not None, "only PyTorch has it; use tpu_name"),
    "debug": (bool, "only PyTorch has it; use tf.debugging.enable_check_numerics()"),
}


IN_VAIN = {
    "several processes on PyTorch": (
        *("ddp_backend", "ddp_timeout", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"),
        "ddp_static_graph",
    ),
    "PyTorch; tf.data reads in threads of its own": ("dataloader_num_workers",),
    "PyTorch": (
        *("gradient_checkpointing_kwargs", "fp16_opt_level", "liger_kernel_config", "torch_empty_cache_steps"),
        *("length_column_name", "dataloader_multiprocessing_context"),
    ),
}
"""Fields that TFTrainer does not read, by what they count with."""


@with_types
@dataclass(kw_only=True, repr=False, eq=False)
class TFTrainingArguments(BaseTrainingArguments):
    """Every field of `BaseTrainingArguments`, and the devices of TensorFlow.

    Raises:
        ArgumentError: If a value is not allowed; the message has the field, the value and the allowed values.
        UnsupportedError: If a field requests a feature that only PyTorch has.

    Example:
        >>> TFTrainingArguments("out", xla=True, steps_per_execution=10).steps_per_execution
        10
    """

    counted_within_run = BaseTrainingArguments.counted_within_run | {"xla"}  # in evaluations

    counted_only_with = (
        BaseTrainingArguments.counted_only_with
        | {name: (lambda args: False, needed) for needed, names in IN_VAIN.items() for name in names}
        | {"poly_power": (lambda args: args.lr_scheduler_type == "polynomial", "lr_scheduler_type='polynomial'")}
    )

    tpu_name: str | None = option(None, "Name of the TPU; 'local' for that of this machine.")
    poly_power: float = option(1.0, "Power of the polynomial schedule.", at_least(0))
    xla: bool = option(False, "Compile the step with XLA.")
    steps_per_execution: int = option(1, "Updates in one call, where no callback listens in between.", at_least(1))
    shuffle_buffer_mib: int = option(
        256, "Maximum memory of the examples that wait in the shuffle buffer of a tf.data.Dataset, in MiB.", at_least(1)
    )

    def validate(self) -> None:
        """Check every field, and that the requested features exist in TensorFlow."""
        super().validate()
        refuse(self, NOT_HERE)

    @property
    def global_micro_batch_size(self) -> int:
        """Examples in a training micro-batch of all processes together: ``n_replicas`` counts those of all machines."""
        return self.train_batch_size

    @cached_property
    def place(self) -> ProcessRank:
        """The rank of this process in TF_CONFIG's cluster; without one, that of a single process."""
        return detect_tf_config() or ProcessRank()

    @cached_property
    def strategy(self) -> Any:
        """The tf.distribute.Strategy of the run, built at the first read; to use another one, assign it before.

        It is the strategy in whose scope it is first read; else that of the TPU ``tpu_name``, of TF_CONFIG's cluster,
        of several GPUs (or several logical CPUs, which exist only if a program configures them), or of one device.
        """
        import tensorflow as tf

        if tf.distribute.has_strategy():
            return tf.distribute.get_strategy()
        if self.tpu_name is not None:
            return tpu_strategy(self.tpu_name)
        if self.place.launcher == "tf_config":
            return _cluster_strategy()
        gpus = [] if self.no_cuda else tf.config.list_logical_devices("GPU")
        devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
        if len(devices) > 1:
            return tf.distribute.MirroredStrategy(devices)
        return tf.distribute.OneDeviceStrategy(devices[0])

    @property
    def device(self) -> str:
        """The device type of the replicas: "CPU", "GPU" or "TPU"."""
        return str(self.strategy.extended.worker_devices[0]).rsplit("device:", 1)[-1].split(":")[0]

    @property
    def n_replicas(self) -> int:
        """Number of replicas that train together, on all machines."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def n_gpu(self) -> int:
        """Number of replicas that train together, on any devices."""
        return self.n_replicas

    @property
    def parallel_mode(self) -> ParallelMode:
        """The way in which the run uses its devices."""
        return ParallelMode.TPU if self.tpu_name is not None else super().parallel_mode


def _cluster_strategy() -> Any:
    import tensorflow as tf

    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UnsupportedError(
            f"the processes that TF_CONFIG names cannot be joined any more ({error}). Read args.strategy, or make the "
            "TFTrainer with model_init, before anything of TensorFlow runs in this process"
        ) from error
