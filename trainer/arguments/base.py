"""Training arguments shared by all frameworks."""
# ruff: noqa: RUF009  (option() is dataclasses.field with a rule)

from __future__ import annotations

import os
from dataclasses import KW_ONLY, Field, dataclass
from typing import TYPE_CHECKING, Any, Literal

from trackside.callbacks.metrics import is_greater_better

from ..staging import staged
from . import enums
from .aliases import ALIASES, Alias, other_name
from .coercion import convert_fields
from .dev_run import dev_run_values
from .elsewhere import OPTIMIZERS_ELSEWHERE
from .fields import (
    INTERVAL,
    MAX_STEPS,
    NOT_EMPTY,
    TOKENS,
    WARMUP,
    above,
    assignments,
    at_least,
    between,
    choice,
    dict_option,
    from_up_to,
    mapping,
    mapping_or_file,
    option,
    some_of,
    spaced,
    true_or_text,
    with_types,
    words,
)
from .foreign import DECLARED, FOREIGN_FIELDS, KINDS, is_foreign
from .properties import LOGGING_DIR, DerivedArguments
from .validation import check_combinations

if TYPE_CHECKING:
    TrueOrPath = bool | str
    BoolOrNone = bool | None
    Interval = enums.IntervalChoice | enums.IntervalStrategy
    Save = enums.SaveChoice | enums.IntervalStrategy
    MetricInputs = list[Literal["inputs", "loss"]]
    ReportTo = list[enums.ReportChoice] | str | None
else:  # annotations for HfArgumentParser: it refuses most unions, and turns a plain bool into a flag
    TrueOrPath, BoolOrNone, Interval, Save = str, bool, enums.IntervalChoice, enums.SaveChoice
    MetricInputs, ReportTo = list[str], list[str] | str | None

DictOrText = dict[str, Any] | str | None
Sampling = Literal["random", "sequential", "group_by_length"]
Tokens = Literal["no", "all", "non_padding"]
Modules = list[str] | str | None
NAMES, TEXTS, NUMBER = list[str] | None, list[str] | str | None, int | float


@with_types
@dataclass(repr=False, eq=False)
class BaseTrainingArguments(DerivedArguments):
    """Every field that PyTorch and TensorFlow share; each is also a config key and a command-line option.

    Creating an instance has no side effects: no folder, no process group, no device. A field that is changed later is
    not checked until `validate` is called; `replace` makes a checked copy.

    Raises:
        ArgumentError: If a value is not allowed; the message has the field, the value and the allowed values.

    Example:
        >>> BaseTrainingArguments("out", eval_strategy="epoch", learning_rate="3e-4").learning_rate
        0.0003
    """

    # -- what to do, and where ------------------------------------------------------------------------------------
    output_dir: str = option(
        "trainer_output", "Folder of checkpoints, state and final model, or an address such as s3://b/run.", NOT_EMPTY
    )
    _: KW_ONLY
    staging_dir: str | None = option(
        None, "Local folder where the files of a run with a remote output_dir are written first.", NOT_EMPTY
    )
    overwrite_output_dir: bool = option(False, "Start afresh although output_dir holds checkpoints.")
    do_train: bool = option(False, "Train; for scripts and the command line.")
    do_eval: BoolOrNone = option(None, "Evaluate; true when eval_strategy is not 'no'.", kinds=bool | None)
    do_predict: bool = option(False, "Predict on the test set; for scripts and the command line.")

    # -- evaluation and batches -----------------------------------------------------------------------------------
    eval_strategy: Interval = choice("no", "When to evaluate: no, steps, epoch.", enums.IntervalStrategy)
    evaluation_strategy: Interval | None = other_name("Another name of eval_strategy.")
    evaluate_during_training: bool = other_name("Deprecated: eval_strategy='steps'.")
    eval_steps: float | None = option(
        None,
        "Updates between evaluations, or a share of max_steps; logging_steps if not given.",
        INTERVAL,
        kinds=NUMBER | None,
    )
    prediction_loss_only: bool = option(False, "Evaluate the loss only; keep no predictions.")
    per_device_train_batch_size: int = option(8, "Examples per device in a training micro-batch.", at_least(1))
    per_device_eval_batch_size: int = option(8, "Examples per device in an evaluation batch.", at_least(1))
    per_gpu_train_batch_size: int = other_name("Deprecated: per_device_train_batch_size.")
    per_gpu_eval_batch_size: int = other_name("Deprecated: per_device_eval_batch_size.")
    gradient_accumulation_steps: int = option(1, "Micro-batches per update; steps count updates.", at_least(1))
    eval_accumulation_steps: int | None = option(
        None, "Batches after which processes exchange predictions; bounded by itself if not given.", at_least(1)
    )
    eval_delay: float = option(0, "Epochs or updates, as eval_strategy counts, before the first one.", at_least(0))
    eval_on_train: bool = option(False, "Evaluate on the training data too, under names that begin with eval_train.")
    eval_on_start: bool = option(False, "Evaluate before the first update too.")

    # -- ways to try ----------------------------------------------------------------------------------------------
    fast_dev_run: bool = option(False, "One batch through train, evaluate, save, resume and predict; keep nothing.")
    overfit_batches: int | None = option(None, "Train on this many batches, the same in every epoch.", at_least(1))
    limit_train_batches: int | None = option(None, "Train on this many batches of each epoch.", at_least(1))
    limit_eval_batches: int | None = option(None, "Evaluate on the first batches, this many.", at_least(1))

    # -- optimizer and schedule -----------------------------------------------------------------------------------
    learning_rate: float = option(5e-5, "Highest learning rate of the schedule.", at_least(0))
    weight_decay: float = option(0.0, "Decoupled weight decay; biases and norm weights have none.", at_least(0))
    adam_beta1: float = option(0.9, "Decay of Adam's mean of gradients.", from_up_to(0, 1))
    adam_beta2: float = option(0.999, "Decay of Adam's mean of squared gradients.", from_up_to(0, 1))
    adam_epsilon: float = option(1e-8, "Added to Adam's denominator.", at_least(0))
    optim: enums.OptimizerChoice = choice("adamw_torch", "Optimizer.", enums.OptimizerName, OPTIMIZERS_ELSEWHERE)
    adafactor: bool = other_name("Deprecated: optim='adafactor'.")
    optim_args: DictOrText = dict_option("More options of the optimizer: a dict, or 'a=b, c=d'.", assignments)
    optim_target_modules: Modules = option(None, "Layers for GaLore: names, a pattern, all-linear.", kinds=TEXTS)
    lr_scheduler_type: enums.SchedulerChoice = choice("linear", "Learning-rate schedule.", enums.SchedulerType)
    lr_scheduler_kwargs: DictOrText = dict_option("More options of the schedule: a dict, or JSON.", mapping)
    warmup_steps: float = option(0, "Updates of warmup; below 1, a share of the run.", WARMUP, kinds=NUMBER)
    warmup_ratio: float = option(0.0, "Share of the run that is warmup, if warmup_steps is 0.", between(0, 1))
    max_grad_norm: float = option(1.0, "Largest joint norm of the gradients; 0 turns clipping off.", at_least(0, "off"))
    num_train_epochs: float = option(3.0, "Epochs; fractions are allowed.", above(0))
    max_steps: int = option(-1, "Updates; wins over num_train_epochs.", MAX_STEPS)
    label_smoothing_factor: float = option(0.0, "Weight of the uniform distribution in labels.", between(0, 1))

    # -- logging --------------------------------------------------------------------------------------------------
    logging_dir: str | None = option(None, "Folder for trackers; output_dir/runs/<date>_<host> if not given.")
    logging_strategy: Interval = choice("steps", "When to log: no, steps, epoch.", enums.IntervalStrategy)
    logging_steps: float = option(500, "Updates between records, or a share of max_steps.", INTERVAL, kinds=NUMBER)
    logging_first_step: bool = option(False, "Log the first update too.")
    include_num_input_tokens_seen: Tokens = option(
        "no", "Log the number of input tokens trained on: no, all, non_padding.", TOKENS, true_or_text, kinds=str | bool
    )
    logging_nan_inf_filter: bool = option(False, "Log the running mean in place of a loss that is not finite.")

    # -- checkpoints ----------------------------------------------------------------------------------------------
    save_strategy: Save = choice("steps", "When to save: no, steps, epoch, best.", enums.SaveStrategy)
    save_steps: float = option(500, "Updates between checkpoints, or a share of max_steps.", INTERVAL, kinds=NUMBER)
    save_total_limit: int | None = option(None, "Checkpoints to keep; best and newest always stay.", at_least(1))
    save_only_model: bool = option(False, "Save the model only; such a checkpoint cannot be resumed.")
    save_on_each_node: bool = option(False, "Save on each machine, into an output_dir that only this machine sees.")
    save_async: bool = option(True, "Commit off the training thread, unless a callback listens to on_save.")
    load_best_model_at_end: bool = option(False, "End with the weights of the best evaluation.")
    metric_for_best_model: str | None = option(None, "What best means; 'loss' if needed and not given.", NOT_EMPTY)
    greater_is_better: bool | None = option(None, "If not given, False for a loss or an error by name.")
    resume_from_checkpoint: TrueOrPath | None = option(
        None, "Path, or true for the newest valid one in output_dir.", kinds=bool | str | None
    )
    restore_callback_states_from_checkpoint: bool = option(True, "Give callbacks their saved state back.")
    on_stop_signal: Literal["raise", "return"] = choice(
        "raise", "When a stop signal has ended the run: raise, return from train().", Literal["raise", "return"]
    )
    ignore_data_skip: bool = option(False, "Resume at the beginning of the epoch instead of where it stopped.")

    # -- device, seed and precision -------------------------------------------------------------------------------
    no_cuda: bool = option(False, "Use the CPU although there is a GPU.")
    use_cpu: bool = other_name("Another name of no_cuda.")
    seed: int = option(42, "Seed of weights, dropout and data order.", between(0, 2**32 - 1))
    data_seed: int | None = option(None, "Seed of the data order, if another one.", between(0, 2**32 - 1))
    full_determinism: bool = option(False, "Choose deterministic kernels although they are slower.")
    fp16: bool = option(False, "Train in mixed precision with float16.")
    bf16: bool = option(False, "Train in mixed precision with bfloat16.")
    fp16_backend: enums.Fp16Backend = choice("auto", "What does fp16: auto, amp, apex.", enums.Fp16Backend)
    fp16_opt_level: enums.ApexLevel = choice("O1", "Level of apex.amp.", enums.ApexLevel)
    fp16_full_eval: bool = option(False, "Evaluate wholly in float16.")
    bf16_full_eval: bool = option(False, "Evaluate wholly in bfloat16.")
    tf32: bool | None = option(None, "TensorFloat-32 for float32 products; the framework's default if not given.")
    torch_compile: bool = option(False, "Compile the model with torch.compile.")
    torch_compile_backend: str | None = option(None, "Backend of torch.compile; turns torch_compile on.", NOT_EMPTY)
    torch_compile_mode: str | None = option(None, "Mode of torch.compile; turns torch_compile on.", NOT_EMPTY)
    gradient_checkpointing: bool = option(
        False, "Compute activations again in the backward pass to save memory.", kinds=bool | None
    )
    gradient_checkpointing_kwargs: DictOrText = dict_option("Its options.", mapping)
    activation_checkpointing: bool = other_name("Another name of gradient_checkpointing.")
    activation_checkpointing_kwargs: DictOrText = other_name("Another name of gradient_checkpointing_kwargs.")
    neftune_noise_alpha: float | None = option(
        None, "Scale of NEFTune's noise on embeddings in training, such as 5.", above(0)
    )
    use_liger_kernel: bool = option(False, "Replace layers of the model by those of the package liger-kernel.")
    liger_kernel_config: DictOrText = dict_option("Which layers; a dict or JSON.", mapping)
    torch_empty_cache_steps: int | None = option(
        None, "Updates after which unused memory of the device is given back, each time.", at_least(1)
    )
    auto_find_batch_size: bool = option(
        False, "On out-of-memory halve the micro-batch and double the accumulation, as often as needed."
    )

    # -- processes ------------------------------------------------------------------------------------------------
    local_rank: int = option(-1, "Number of this process on its machine; the launcher's wins.", at_least(-1))
    ddp_backend: str | None = option(None, "Backend of torch.distributed, such as nccl or gloo.", NOT_EMPTY)
    ddp_timeout: int = option(1800, "Seconds after which a collective gives up.", at_least(1))
    ddp_find_unused_parameters: bool | None = option(None, "DistributedDataParallel's find_unused_parameters.")
    ddp_bucket_cap_mb: int | None = option(None, "DistributedDataParallel's bucket_cap_mb.", at_least(1))
    ddp_broadcast_buffers: bool | None = option(None, "DistributedDataParallel's broadcast_buffers.")
    ddp_static_graph: bool | None = option(None, "DistributedDataParallel's static_graph.")
    fsdp: list[str] | str | None = option(
        "",
        "Shard with FSDP2: full_shard or shard_grad_op, with offload, auto_wrap.",
        some_of("full_shard", "shard_grad_op", "offload", "auto_wrap"),
        reads=spaced,
    )
    fsdp_config: DictOrText = dict_option("Options of FSDP2: a dict, JSON or a JSON file.", mapping_or_file)
    tpu_num_cores: int | None = option(None, "TPU cores of the run, through torch_xla.", at_least(1))
    debug: str = option(
        "",
        "underflow_overflow: end at the first layer that is not finite; tpu_metrics_debug: torch_xla's report.",
        some_of("underflow_overflow", "tpu_metrics_debug"),
        reads=spaced,
    )
    tpu_metrics_debug: bool = other_name("Deprecated: debug='tpu_metrics_debug'.")

    # -- data -----------------------------------------------------------------------------------------------------
    dataloader_drop_last: bool = option(False, "Drop a last, smaller training batch; evaluation is always complete.")
    dataloader_num_workers: int = option(0, "Processes that load data; 0 loads in the training process.", at_least(0))
    dataloader_multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = choice(
        None, "Start method of loading processes; fork on Linux if not given.", Literal["fork", "spawn", "forkserver"]
    )
    dataloader_pin_memory: bool = option(True, "Load into pinned memory, from which copies to the GPU are quick.")
    dataloader_persistent_workers: bool = option(False, "Keep loading processes from one epoch to the next.")
    dataloader_prefetch_factor: int | None = option(None, "Batches that each loading process is ahead.", at_least(1))
    group_by_length: bool = option(False, "Put examples of similar length into a batch.")
    train_sampling_strategy: Sampling = choice(
        "random", "Order of the training examples: random, sequential, group_by_length.", Sampling
    )
    length_column_name: str = option("length", "Column with lengths that are already known.", NOT_EMPTY)
    remove_unused_columns: bool = option(True, "Drop columns at collation that the model does not take.")
    label_names: list[str] | None = option(None, "Names of the labels; found from the model if not given.", reads=words)
    include_for_metrics: MetricInputs = option(
        [], "What compute_metrics gets too: inputs, loss.", some_of("inputs", "loss"), reads=words
    )
    include_inputs_for_metrics: bool = other_name("Deprecated: include_for_metrics=['inputs'].")
    batch_eval_metrics: bool = option(False, "Call compute_metrics on each batch, and once more for the result.")
    eval_do_concat_batches: bool = option(True, "Join the predictions of all batches; False keeps a list.")
    past_index: int = option(-1, "Output to feed back as mems; -1 for none.", at_least(-1))

    # -- reporting ------------------------------------------------------------------------------------------------
    run_name: str | None = option(None, "Name of the run for trackers.")
    disable_tqdm: bool | None = option(None, "No progress bar; decided by where output goes if not given.")
    report_to: ReportTo = option([], "Integrations by name; 'all'; 'none'.", reads=words, kinds=NAMES)
    callbacks: dict[str, Any] = option({}, "Callbacks: a map from a name to its options.", reads=mapping)
    log_level: enums.LogLevel = choice("passive", "Level of messages on the main process.", enums.LogLevel)
    log_level_replica: enums.LogLevel = choice("warning", "Level of messages on the others.", enums.LogLevel)
    skip_memory_metrics: bool = option(True, "False adds memory used to the metrics, at some cost in time.")
    parallel: Literal["dp"] | None = choice(None, "'dp': nn.DataParallel on all GPUs of one process.", Literal["dp"])

    if not TYPE_CHECKING:  # fields of transformers only, after the others
        __annotations__.update(KINDS)
        locals().update(DECLARED)

    def __post_init__(self) -> None:
        self.validate()

    @classmethod
    def fields(cls) -> tuple[Field[Any], ...]:
        """Return the fields in their order, without aliases and those that only transformers has."""
        return tuple(
            item
            for item in super().fields()
            if not (isinstance(getattr(cls, item.name, None), Alias) or is_foreign(cls, item.name))
        )

    def validate(self) -> None:
        """Check every field, convert each to its type, and infer the fields that follow from others.

        Raises:
            ArgumentError: If a value is not allowed.
            UnsupportedError: If a value is allowed, but not supported here.
        """
        references = convert_fields(self)
        self._infer()
        self._note_references(references)
        check_combinations(self)

    def _infer(self) -> None:
        self.output_dir = staged(self.output_dir, self.staging_dir)
        logging_dir: str | None = self.given("logging_dir")
        self.logging_dir = logging_dir and os.path.expanduser(logging_dir)
        self._inferred: dict[str, tuple[Any, Any]] = {}
        self._set("report_to", self.report_to or [])
        self._set("fsdp", self.fsdp or "")
        self._set("group_by_length", self.group_by_length or self.train_sampling_strategy == "group_by_length")
        self._set("gradient_checkpointing", bool(self.gradient_checkpointing))
        self._set("do_eval", True if self.eval_strategy != "no" else self.do_eval)
        self._set("torch_compile", self.torch_compile or bool(self.torch_compile_backend or self.torch_compile_mode))
        self._set("local_rank", self.local_rank if self.place.local_rank < 0 else self.place.local_rank)
        if self.eval_steps is None and self.eval_strategy == "steps":
            self._set("eval_steps", self.logging_steps)
        follows_metric = self.save_strategy == "best" or self.lr_scheduler_type == "reduce_lr_on_plateau"
        if self.metric_for_best_model is None and (self.load_best_model_at_end or follows_metric):
            self._set("metric_for_best_model", "loss")
        for name, value in dev_run_values(self).items() if self.fast_dev_run else ():
            self._set(name, value)
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self._set("greater_is_better", is_greater_better(self.metric_for_best_model))

    def _set(self, name: str, value: Any) -> None:
        before = self.given(name)
        if before != value:
            self._inferred[name] = (before, value)
            setattr(self, name, value)


# dataclass() has replaced these with defaults
for _name, _property in [("logging_dir", LOGGING_DIR), *((item.name, item) for item in (*ALIASES, *FOREIGN_FIELDS))]:
    setattr(BaseTrainingArguments, _name, _property)
