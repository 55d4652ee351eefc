"""The PyTorch backend of the loop: what a batch, an update, an evaluation step and a snapshot are here.

The methods stand in the order of `trackside.trainer.loop.Backend` and `trackside.trainer.evaluation.Evaluator`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...callbacks.errors import TracksideValueError
from ..base import BaseTrainer
from ..buffers import map_nested
from ..evaluation import StepResult
from ..memory_metrics import DeviceMemory
from . import data, snapshot
from .arguments import TrainingArguments
from .distributed import processes_of, unwrap
from .loss import LossWindow, count_items
from .memory import retry_smaller
from .objective import Objective
from .precision import DTYPES, full_evaluation, precision_of, set_tf32
from .seeding import set_seed


class TrainBatch(NamedTuple):
    """A micro-batch of this process: its inputs, and its examples here and on all processes together."""

    inputs: Any
    examples: int
    examples_of_all: int


class TorchBackend(Objective, BaseTrainer):
    """Fills in what the loop and the evaluation need."""

    args: TrainingArguments
    get_train_dataloader: Callable[..., Iterable[Any]]
    get_eval_dataloader: Callable[..., Iterable[Any]]
    get_test_dataloader: Callable[..., Iterable[Any]]
    create_optimizer_and_scheduler: Callable[..., None]
    training_step: Callable[..., Tensor]
    prediction_step: Callable[..., tuple[Any, Any, Any]]
    floating_point_ops: Callable[..., int]
    _own_optimizers: tuple[Any, Any]

    def _set_up_backend(self) -> None:
        args = self.args
        self.processes = processes_of(args, args.device)
        self.processes.doing = lambda: f"step {self.state.global_step + 1}"
        self.processes.may_steer = self.dispatcher.may_steer
        self.precision = precision_of(args, args.device)
        self.model_wrapped: nn.Module = self.model
        self._window = LossWindow(
            self.processes,
            args.device,
            float(args.train_batch_size * args.gradient_accumulation_steps),
            replace_non_finite=args.logging_nan_inf_filter,
        )
        self._grad_norm: Tensor | None = None
        self._is_first_update = True
        self._eval_dtype = DTYPES["bf16"] if args.bf16_full_eval else DTYPES["fp16"] if args.fp16_full_eval else None
        self._flos = 0
        self._splits = 1
        set_tf32(args.tf32)
        self._know_model()

    # -- set up ---------------------------------------------------------------------------------------------------

    def prepare_data(self) -> int | None:
        """Build the training loader; return its batches of one epoch, if known."""
        self._train_loader = self.get_train_dataloader()
        self._update_context(train_dataloader=self._train_loader)
        return data.batches_per_epoch(self._train_loader, self.processes.world_size)

    def prepare_model(self, max_steps: int) -> None:
        """Place and wrap the model, create optimizer and schedule."""
        args = self.args
        self.model.to(args.device)
        self._know_model()
        if args.gradient_checkpointing:
            enable_checkpointing(self.model, args.gradient_checkpointing_kwargs)
        if args.torch_compile and getattr(self.model, "_compiled_call_impl", None) is None:
            self.model.compile(backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode)
        self.optimizer, self.lr_scheduler = self._own_optimizers
        self.create_optimizer_and_scheduler(max_steps)
        self.precision = precision_of(args, args.device)
        self.model_wrapped = self.processes.wrap(self._parallel(self.model))
        self._is_first_update = True
        self.model_wrapped.train()
        self.optimizer.zero_grad()
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._window.take()
        self._update_context()

    def _parallel(self, model: nn.Module) -> nn.Module:
        return nn.DataParallel(model) if self.args.parallel == "dp" and self.args.n_gpu > 1 else model

    def seed(self, checkpoint: Path | None) -> None:
        """Set the random number generators: from the checkpoint, or afresh from ``args.seed`` and the rank."""
        path = None if checkpoint is None else checkpoint / snapshot.RNG_FILE.format(rank=self.processes.rank)
        if path is not None and path.exists():
            snapshot.set_random_state(snapshot.read_torch(path))
        else:
            set_seed(self.args.seed + self.processes.rank)

    # -- the epoch ------------------------------------------------------------------------------------------------

    def epoch_batches(self, epoch: int, skip_examples: int) -> Iterator[TrainBatch]:
        """Return the micro-batches of an epoch for this process; the sampler knows its epoch when this returns."""
        skip = 0 if self.args.ignore_data_skip else skip_examples
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._past = None
        rank, world_size = self.processes.rank, self.processes.world_size
        batches = data.iterate_epoch(
            self._train_loader, seed=seed, epoch=epoch, skip_examples=skip, rank=rank, world_size=world_size
        )
        return (TrainBatch(inputs, *counts) for inputs, counts in batches)

    def count_examples(self, window: Sequence[TrainBatch]) -> int:
        """Return the examples in a window, counted over all processes."""
        return sum(batch.examples_of_all for batch in window)

    # -- the update -----------------------------------------------------------------------------------------------

    def micro_step(self, batch: TrainBatch, index: int, count: int) -> None:
        """Take a micro-batch forward and backward."""
        inputs = self.place(batch.inputs)
        self._window.begin(index, count)
        self._is_padding = batch.examples == 0
        if self._counts_flos:
            self._flos += self.floating_point_ops(inputs)
        if isinstance(inputs, dict) and "input_ids" in inputs:
            self.state.num_input_tokens_seen += inputs["input_ids"].numel() * self.processes.world_size
        with self.processes.syncing(self.model_wrapped, index + 1 == count):
            if self.args.auto_find_batch_size:
                loss = retry_smaller(self, inputs)
            else:
                loss = self.training_step(self.model_wrapped, inputs)
        self._window.add(loss)

    def finish_gradients(self) -> Tensor:
        """Normalise, unscale and clip the gradients; return their norm before clipping, still on the device."""
        if self._is_first_update:
            self._is_first_update = False
            self.model_wrapped = self.processes.complete_first_gradients(self.model_wrapped)
        self.precision.unscale(self.optimizer)
        factor = self._window.close()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if isinstance(factor, Tensor) or factor != 1.0:
            torch._foreach_mul_(gradients, factor)
        self._grad_norm = nn.utils.get_total_norm(gradients)
        if self.args.max_grad_norm > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, self.args.max_grad_norm, self._grad_norm)
        return self._grad_norm

    def optimizer_step(self) -> bool:
        """Step optimizer and schedule; return whether the loss scaler held the step back."""
        skipped = self.precision.step(self.optimizer)
        if not skipped and self.lr_scheduler is not None and not self._follows_metric():
            self.lr_scheduler.step()
        return skipped

    def clear_gradients(self) -> None:
        """Forget the gradients: what torch's own zero_grad does, without its 10 microseconds of bookkeeping."""
        if type(self.optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            self.optimizer.zero_grad()
            return
        for parameter in self._parameters:
            parameter.grad = None

    def fused_update(self, window: Sequence[Any]) -> bool:
        """Return False: in PyTorch the update goes piece by piece."""
        return False

    def guarded(self) -> AbstractContextManager[Any]:
        """Return a context in which an error of one process ends all, each with the error that came first."""
        return self.processes.guarded()

    def agree(self, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        """Give every process the flags of the first, and a stop signal that any of them got."""
        return self.processes.agree(self.control, stop_signal, after_update=after_update)

    def place(self, inputs: Any) -> Any:
        """Return a batch on the device of this process."""
        device = self.args.device
        if device.type == "cpu":
            return inputs
        return map_nested(lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf, inputs)

    _prepare_inputs = place

    # -- records --------------------------------------------------------------------------------------------------

    def take_loss(self) -> float:
        """Return the sum of the losses of the updates since the last call. Waits for the device."""
        return self._window.take()

    def training_record(self) -> dict[str, float]:
        """Return gradient norm, learning rate and what callbacks add. Waits for the device."""
        record = {} if self._grad_norm is None else {"grad_norm": float(self._grad_norm)}
        record["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        return {**record, **self.dispatcher.logged_metrics()}

    def store_flos(self) -> None:
        """Add the floating point operations since the last call to ``state.total_flos``."""
        if self._counts_flos:
            self.state.total_flos += float(self.processes.sum(self._flos))
            self._flos = 0

    def evaluate_in_training(self) -> None:
        """Evaluate, note the best model, and tell a schedule that follows a metric."""
        metrics = self.evaluate()
        self.best.note(metrics)
        if self._follows_metric():
            name = self.args.metric_for_best_model or "loss"
            self.lr_scheduler.step(metrics[name if name.startswith("eval_") else f"eval_{name}"])

    def _follows_metric(self) -> bool:
        return isinstance(self.lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)

    # -- evaluation -----------------------------------------------------------------------------------------------

    def evaluation_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of ``dataset``, or of the trainer's own evaluation dataset if it is None."""
        return self.get_eval_dataloader(dataset)

    def test_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of a test dataset."""
        return self.get_test_dataloader(dataset)

    def evaluating(self) -> AbstractContextManager[Any]:
        """Return a context in which the model is in evaluation mode."""
        self.model.to(self.args.device)
        self._know_model()
        self.processes.share_buffers(unwrap(self.model))
        return full_evaluation(self.model, self._eval_dtype)

    def counted(self, batches: Iterable[Any]) -> Iterator[TrainBatch]:
        """Return the batches with the examples of each that count."""
        pairs = data.counted(batches, rank=self.processes.rank, world_size=self.processes.world_size)
        return (TrainBatch(inputs, *counts) for inputs, counts in pairs)

    def evaluation_step(
        self, batch: TrainBatch, prediction_loss_only: bool, ignore_keys: list[str] | None
    ) -> StepResult:
        """Run one batch through the model."""
        inputs = self._lowered(self.place(batch.inputs))
        self._window.begin(0, 2)  # as one of several, so that its items are counted
        self._is_padding = batch.examples == 0
        self._items: Any = None
        loss, logits, labels = self.prediction_step(self.model, inputs, prediction_loss_only, ignore_keys)
        weight = count_items(labels, inputs, is_causal=self._is_causal) if self._items is None else self._items
        kept = inputs if "inputs" in self.args.include_for_metrics else None
        return StepResult(loss, weight, logits, labels, batch.examples, kept)

    def _lowered(self, inputs: Any) -> Any:
        """Return inputs in the precision of a full evaluation in bf16 or fp16."""
        dtype = self._eval_dtype
        if dtype is None:
            return inputs
        lower = map_nested(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)
        return dict(lower) if isinstance(inputs, dict) else lower

    def to_host(self, nested: Any) -> Any:
        """Return nested tensors as numpy arrays; bfloat16, which numpy does not have, as float32."""
        return map_nested(_to_numpy, nested)

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the ``value`` of every process, in the order of the ranks."""
        return self.processes.gather_objects(value)

    def set_seed(self, seed: int) -> None:
        """Seed every random number generator."""
        set_seed(seed, deterministic=self.args.full_determinism)

    def device_memory(self, reset: bool) -> DeviceMemory | None:
        """Return the memory of the GPU, its peak set back first if ``reset``; None without one."""
        device = self.args.device
        if device.type != "cuda":
            return None
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return DeviceMemory(torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device))

    # -- snapshots ------------------------------------------------------------------------------------------------

    def snapshot(self, *, copy: bool) -> snapshot.Writer:
        """Return a function that writes weights, optimizer, schedule, loss scale and random numbers into a folder."""
        weights: dict[str, Any] | None = unwrap(self.model).state_dict() if copy else None
        files: dict[str, Any] = {}
        if not self.args.save_only_model:
            files = {
                snapshot.OPTIMIZER_FILE: self.optimizer.state_dict(),
                snapshot.SCHEDULE_FILE: None if self.lr_scheduler is None else self.lr_scheduler.state_dict(),
                snapshot.SCALER_FILE: self.precision.state_dict() or None,
            }
        states = self.processes.gather_objects(snapshot.random_state())
        if copy:
            weights, files = snapshot.copied((weights, files))
        for rank, state in enumerate(states):
            files[snapshot.RNG_FILE.format(rank=rank)] = state

        def write(folder: Path) -> None:
            self._write_model(folder, weights)
            snapshot.write_torch(folder, files)

        return write

    def _write_model(self, folder: Path, weights: dict[str, Any] | None) -> None:
        snapshot.save_weights(unwrap(self.model), folder, weights)
        if hasattr(self.processing_class, "save_pretrained"):
            self.processing_class.save_pretrained(folder)

    def load_snapshot(self, folder: Path) -> None:
        """Take back what `snapshot` wrote, except the random number generators."""
        self.load_weights(folder)
        for name, target in (
            (snapshot.OPTIMIZER_FILE, self.optimizer),
            (snapshot.SCHEDULE_FILE, self.lr_scheduler),
            (snapshot.SCALER_FILE, self.precision),
        ):
            if (folder / name).exists() and target is not None:
                target.load_state_dict(snapshot.read_torch(folder / name))

    def load_weights(self, folder: Path) -> None:
        """Take the weights, and nothing else, from a checkpoint."""
        snapshot.load_weights(unwrap(self.model), folder)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.processes.barrier()


def _to_numpy(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach()
    return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).cpu().numpy()


def enable_checkpointing(model: Any, options: Any) -> None:
    """Have ``model`` compute activations again in the backward pass instead of keeping them.

    Raises:
        TracksideValueError: If it has no switch for that.
    """
    if not hasattr(model, "gradient_checkpointing_enable"):
        raise TracksideValueError(
            f"gradient_checkpointing=True needs a model with gradient_checkpointing_enable(); {type(model).__name__} "
            "has none. Use torch.utils.checkpoint inside the model instead"
        )
    model.gradient_checkpointing_enable(**({"gradient_checkpointing_kwargs": options} if options else {}))
