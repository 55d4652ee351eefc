"""TrainingArguments: what is only known with PyTorch."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from trackside.callbacks.errors import ArgumentError, MissingPackageError  # noqa: E402
from trackside.trainer.pytorch import availability as installed  # noqa: E402
from trackside.trainer.pytorch.arguments import TrainingArguments  # noqa: E402
from trackside.trainer.pytorch.availability import has_apex  # noqa: E402


def test_making_arguments_does_not_import_torch():
    code = (
        "import sys; from trackside.trainer.pytorch.arguments import TrainingArguments; TrainingArguments('out');"
        "print('torch' in sys.modules, 'tensorflow' in sys.modules)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.split() == ["False", "False"]


def test_the_default_optimizer_is_fused():
    assert TrainingArguments("out").optim == "adamw_torch_fused"


def test_an_optimizer_whose_package_is_missing_fails_with_its_name(monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingPackageError, match="optim='adamw_8bit' needs the package 'bitsandbytes'"):
        TrainingArguments("out", optim="adamw_8bit")
    for name, instead in (("adamw", "; optim='adamw_torch_fused' does"), ("sgd", "; optim='sgd' does"), ("lamb", "$")):
        with pytest.raises(ArgumentError, match=f"it needs NVIDIA apex, .*: apex is not installed{instead}"):
            TrainingArguments("out", optim=f"{name}_apex_fused")


def test_apex_is_known_by_what_is_inside_and_not_imported(tmp_path, monkeypatch):
    (tmp_path / "apex" / "optimizers").mkdir(parents=True)
    (tmp_path / "apex" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    assert not has_apex("optimizers")
    with pytest.raises(ArgumentError, match=r"apex that is installed is the one of PyPI, .*; optim='sgd' does"):
        TrainingArguments("out", optim="sgd_apex_fused")

    (tmp_path / "apex" / "optimizers" / "__init__.py").write_text("")

    assert has_apex("optimizers")
    assert not has_apex("amp")


def test_options_of_distributed_training_are_accepted_without_it():
    TrainingArguments("out", ddp_backend="gloo", ddp_timeout=60, ddp_find_unused_parameters=True, ddp_bucket_cap_mb=5)


def test_no_cuda_means_the_cpu():
    args = TrainingArguments("out", no_cuda=True, per_device_train_batch_size=4)

    assert args.device == torch.device("cpu")
    assert (args.n_gpu, args.train_batch_size, args.parallel_mode) == (0, 4, "not_parallel")


def test_a_device_that_was_found_is_not_copied_with_the_arguments():
    args = TrainingArguments("out", no_cuda=True)
    assert args.device.type == "cpu"

    copy = pickle.loads(pickle.dumps(args))
    assert copy == args
    assert "device" not in vars(copy)
    assert "device" not in args.to_dict()


class FourGPUs:
    """Stands in for torch.cuda on a machine that has none."""

    @staticmethod
    def use(monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_several_gpus_without_a_launcher_bring_a_warning_that_names_torchrun(monkeypatch):
    FourGPUs.use(monkeypatch)
    args = TrainingArguments("out")

    with pytest.warns(UserWarning, match="4 GPUs are visible and one of them is used. Start with torchrun"):
        device = args.device

    assert device == torch.device("cuda", 0)
    assert (args.n_gpu, args.train_batch_size) == (1, 8)


def test_data_parallel_on_all_gpus_only_when_asked_for(monkeypatch, recwarn):
    FourGPUs.use(monkeypatch)
    args = TrainingArguments("out", parallel="dp")

    assert (args.n_gpu, args.train_batch_size, args.parallel_mode) == (4, 32, "not_distributed")
    assert not recwarn.list


def test_under_a_launcher_each_process_has_the_gpu_of_its_local_rank(monkeypatch, recwarn):
    FourGPUs.use(monkeypatch)
    for name, value in {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    args = TrainingArguments("out")

    assert args.device == torch.device("cuda", 2)
    assert (args.n_gpu, args.parallel_mode) == (1, "distributed")
    assert not recwarn.list


# -- HfArgumentParser, which most fine-tuning scripts use -------------------------------------------------------------


@dataclasses.dataclass
class ScriptArguments(TrainingArguments):
    """A subclass as scripts have it."""

    max_seq_length: int = dataclasses.field(default=128, metadata={"help": "Tokens of an example."})

    def __post_init__(self):
        super().__post_init__()
        self.run_name = self.run_name or f"length {self.max_seq_length}"


LINE = (
    "--output_dir out --learning_rate 1e-3 --bf16 --num_train_epochs 2 --eval_strategy steps --eval_steps 0.1 "
    "--logging-steps 10 --warmup_steps 5 --report_to tensorboard --label_names start end --no_save_async "
    "--optim_args betas=(0.9,0.95) --fsdp_config {} --do_eval --resume_from_checkpoint true --use_cpu"
)


def test_hf_argument_parser_reads_a_typical_command_line():
    parser = pytest.importorskip("transformers").HfArgumentParser(ScriptArguments)

    (args,) = parser.parse_args_into_dataclasses([*LINE.split(), "--max_seq_length", "64"], look_for_args_file=False)

    assert args == ScriptArguments(
        "out",
        learning_rate=1e-3,
        bf16=True,
        num_train_epochs=2,
        eval_strategy="steps",
        eval_steps=0.1,
        logging_steps=10,
        warmup_steps=5,
        report_to=["tensorboard"],
        label_names=["start", "end"],
        save_async=False,
        optim_args={"betas": [0.9, 0.95]},
        fsdp_config={},
        resume_from_checkpoint=True,
        no_cuda=True,
        max_seq_length=64,
    )
    assert args.run_name == "length 64"
    assert "Tokens of an example. (default: 128)" in parser.format_help()


@pytest.mark.filterwarnings("error")
def test_hf_argument_parser_gives_the_defaults_where_nothing_is_said():
    parser = pytest.importorskip("transformers").HfArgumentParser(TrainingArguments)

    (args,) = parser.parse_args_into_dataclasses([], look_for_args_file=False)
    (from_dict,) = parser.parse_dict({"output_dir": "out", "use_cpu": True})

    assert args == TrainingArguments()
    assert (from_dict.output_dir, from_dict.no_cuda) == ("out", True)
