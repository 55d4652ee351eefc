"""The contract of torch_xla, which a strict stand-in enforces; what ran on torch_xla itself is in test_xla_real.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from support.arrays import accuracy
from support.ranks import Job
from support.torch_models import classified, mlp, weights_of

from trackside import Trainer, TrainerCallback, TrainingArguments
from trackside.callbacks.errors import ArgumentError, UnsupportedError


@pytest.fixture
def xla(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in's memory, as in a new process."""
    for path in reversed(fakes.torch_xla(tmp_path)):
        monkeypatch.syspath_prepend(path)
    fakes.forget("torch_xla")
    from torch_xla import contract

    contract.reset()
    yield contract.state
    fakes.forget("torch_xla")


def in_float64(**values: Any) -> dict[str, Any]:
    data = {"train_dataset": classified(37, dtype=torch.float64), "model": mlp(dtype=torch.float64)}
    return {"tpu_num_cores": 1, "learning_rate": 0.05, "max_steps": 6, "logging_steps": 2, **data, **values}


class Clips(TrainerCallback):
    """Notes in the stand-in's calls what the step does beside them."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["model"].register_forward_hook(lambda *_: self.calls.append("forward"))
        last = next(iter(kwargs["model"].parameters()))  # its gradient comes last
        last.register_post_accumulate_grad_hook(lambda _: self.calls.append("backward"))
        kwargs["optimizer"].register_step_post_hook(lambda *_: self.calls.append("step"))
        self.calls.clear()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.calls.append("clipped")


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_step_is_launched_once_at_the_end_of_each_update(
    accumulation: int, xla: Any, make_trainer: Callable[..., Trainer]
) -> None:
    make_trainer(
        **in_float64(max_steps=2, gradient_accumulation_steps=accumulation, callbacks=[Clips(xla.calls)])
    ).train()

    batches = {1: (1, 1), 3: (3, 2)}[accumulation]  # 37 examples are five batches
    expected = [[*(["forward", "backward"] * count), "clipped", "step", "sync"] for count in batches]
    assert xla.calls == [call for update in expected for call in update]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_weights_and_records_are_those_of_plain_training(
    accumulation: int, xla: Any, make_trainer: Callable[..., Trainer]
) -> None:
    values = {"gradient_accumulation_steps": accumulation, "max_grad_norm": 0.5}
    plain = make_trainer(**in_float64(tpu_num_cores=None, **values))
    plain.train()

    trainer = make_trainer(**in_float64(**values))
    trainer.train()

    torch.testing.assert_close(weights_of(trainer.model), weights_of(plain.model), rtol=0, atol=1e-10)
    losses = [[r["loss"] for r in t.state.log_history if "loss" in r] for t in (plain, trainer)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)


def test_every_evaluation_step_is_launched(xla: Any, make_trainer: Callable[..., Trainer]) -> None:
    data = classified(37, dtype=torch.float64)
    values = in_float64(eval_dataset=data, compute_metrics=accuracy, per_device_eval_batch_size=10)
    plain = make_trainer(**{**values, "tpu_num_cores": None}).evaluate()

    found = make_trainer(**values).evaluate()

    assert xla.calls == ["sync"] * 4
    assert found["eval_loss"] == pytest.approx(plain["eval_loss"], abs=1e-10)
    assert found["eval_accuracy"] == plain["eval_accuracy"]


def test_a_resumed_run_ends_with_the_weights_of_an_uncut_one(xla: Any, make_trainer: Callable[..., Trainer]) -> None:
    values = in_float64(save_strategy="steps", save_steps=3)
    values["model"] = mlp(dropout=0.3, dtype=torch.float64)
    whole = make_trainer(**values)
    whole.train()
    checkpoint = Path(whole.args.output_dir) / "checkpoint-3"
    held = torch.load(checkpoint / "rng_state_0.pt", weights_only=True)
    xla.rng = 7

    resumed = make_trainer(**{**values, "model": mlp(dropout=0.3, dtype=torch.float64)})
    resumed.train(resume_from_checkpoint=str(checkpoint))

    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    assert held["xla"] == xla.rng == 42  # the run's seed, which nothing drew from here


def test_a_checkpoint_of_the_cpu_with_its_fused_optimizer_goes_on_on_cores(
    xla: Any, make_trainer: Callable[..., Trainer]
) -> None:
    whole = make_trainer(**in_float64(tpu_num_cores=None, save_strategy="steps", save_steps=3))
    whole.train()

    resumed = make_trainer(**in_float64())
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / "checkpoint-3"))

    assert whole.optimizer.param_groups[0]["fused"]
    assert not resumed.optimizer.param_groups[0]["fused"]
    torch.testing.assert_close(weights_of(resumed.model), weights_of(whole.model), rtol=0, atol=1e-10)


def test_the_default_optimizer_is_the_unfused_one_of_the_same_arithmetic(
    xla: Any, make_trainer: Callable[..., Trainer]
) -> None:
    trainer = make_trainer(**in_float64())
    trainer.train()

    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert not trainer.optimizer.param_groups[0]["fused"]


def test_the_metrics_report_is_printed_once_when_training_ends(
    xla: Any, make_trainer: Callable[..., Trainer], capsys: pytest.CaptureFixture[str]
) -> None:
    values = in_float64(debug="tpu_metrics_debug", eval_strategy="steps", eval_steps=3)

    make_trainer(**values, eval_dataset=classified(8, dtype=torch.float64)).train()

    assert capsys.readouterr().out.count("Counter: MarkStep") == 1


def test_asking_for_the_report_elsewhere_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="debug='tpu_metrics_debug' has nothing to report"):
        TrainingArguments("out", debug="tpu_metrics_debug")


# -- when it is used --------------------------------------------------------------------------------------------------


def test_pjrt_device_asks_for_it_too(xla: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "TPU")

    args = TrainingArguments("out")
    assert (args.place.launcher, args.parallel_mode) == ("torch_xla", "tpu")
    assert TrainingArguments("out", no_cuda=True).place.launcher is None


def test_pjrt_device_alone_changes_nothing_where_torch_xla_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "torch_xla").exists()])

    assert not TrainingArguments("out").uses_xla


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tpu_num_cores": 8}, "tpu_num_cores=8 is not allowed: 1, the cores that torch_xla.runtime.world_size"),
        ({"no_cuda": True}, "None together with no_cuda=True"),
        ({"fp16": True}, "fp16=True is not allowed: False on TPU cores, which have bf16"),
        ({"auto_find_batch_size": True}, "memory runs out only when the recorded step is launched"),
        ({"torch_compile": True}, "only with a torch_compile_backend that torch_xla has"),
    ],
)
def test_what_cores_cannot_do_is_refused(values: dict[str, Any], message: str, xla: Any) -> None:
    with pytest.raises(ArgumentError, match=message):
        TrainingArguments("out", **{"tpu_num_cores": 1, **values})


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (None, "torch_xla is not installed"),
        ("2.9.0", r"torch_xla 2\.9\.0 works with torch 2\.9 only, and torch 2\..* is installed"),
    ],
)
def test_without_a_fitting_torch_xla_nothing_is_imported_and_the_error_says_what_to_do(
    version: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.__version__.startswith("2.9."):
        pytest.skip("torch is the one that torch_xla 2.9.0 is made for")
    fakes.forget("torch_xla")
    (tmp_path / "torch_xla").mkdir()
    (tmp_path / "torch_xla" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    if version is not None:
        monkeypatch.syspath_prepend(fakes.torch_xla(tmp_path, version)[1])

    with pytest.raises(UnsupportedError, match=rf"{reason}.*The last torch_xla is 2\.9\.0: pip install 'torch==2\.9"):
        TrainingArguments("out", tpu_num_cores=1)


# -- several cores ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_cores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """What two processes found that ran xla_fake_worker.py on the stand-in, in the order of the cores."""
    folder = tmp_path_factory.mktemp("cores")
    names = ("order", "same", "steers", "signalled", "guarded", "saved", "evaluated")
    job = Job("xla_fake_worker.py", 2, folder, names, TORCHELASTIC_RUN_ID="test", PJRT_DEVICE="TPU")
    return folder, list(reversed(job.results()))


def test_gradients_are_reduced_after_the_last_backward_and_before_they_are_clipped(two_cores: Any) -> None:
    update = ["forward", "backward", "forward", "all_reduce", "backward", "reduce gradients", "clipped", "step", "sync"]

    for found in two_cores[1]:
        sizes = ["sync", "rendezvous"]  # of the data, once in an epoch
        inspected = ["forward", "sync", "rendezvous"]  # the first loss of a run, once
        assert found["order"] == [*sizes, *inspected, *update[1:], *update]


def test_two_cores_end_with_the_weights_of_one_process(two_cores: Any, tmp_path: Path) -> None:
    from workers import xla_fake_worker

    alone = xla_fake_worker.same(tmp_path)

    for found in two_cores[1]:
        for name, weights in alone["weights"].items():
            assert found["same"]["weights"][name] == pytest.approx(weights, abs=1e-6), name
        assert found["same"]["losses"] == pytest.approx(alone["losses"], abs=1e-6)


def test_the_first_core_decides_and_tells_the_reason(two_cores: Any) -> None:
    assert [found["steers"] for found in two_cores[1]] == [[3, "the first core said so"]] * 2


def test_a_signal_to_one_core_stops_all_at_the_same_step(two_cores: Any) -> None:
    (step, reason), others = two_cores[1][0]["signalled"], two_cores[1][1]["signalled"]

    assert others == [step, reason]
    assert 3 < step < 40
    assert reason == "received SIGTERM"


def test_an_update_that_is_bad_on_one_core_or_skipped_by_one_is_skipped_by_all(two_cores: Any, tmp_path: Path) -> None:
    from workers import xla_fake_worker

    alone = xla_fake_worker.guarded(tmp_path)

    for found in two_cores[1]:
        assert found["guarded"]["bad"] == alone["bad"] == [3]
        for name in ("losses", "weights"):
            for one, two in zip(alone[name], found["guarded"][name], strict=True):
                assert two == pytest.approx(one, abs=1e-6)
    assert [len(losses) for losses in alone["losses"]] == [5, 5]


def test_a_checkpoint_is_written_by_the_first_core_and_resumed_by_both(two_cores: Any) -> None:
    folder, (first, second) = two_cores

    assert first["saved"]["rank"] == 0
    assert first["saved"]["whole"] == first["saved"]["resumed"] == second["saved"]["resumed"]
    assert len(list((folder / "saved" / "checkpoint-2").glob("rng_state_*.pt"))) == 2


def test_evaluation_on_two_cores_counts_each_example_once(two_cores: Any, tmp_path: Path) -> None:
    from workers import xla_fake_worker

    alone = xla_fake_worker.evaluated(tmp_path)

    for found in two_cores[1]:
        assert found["evaluated"] == pytest.approx(alone, abs=1e-9)
