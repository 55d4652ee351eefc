"""Several replicas give what one gives: two logical devices, and two processes."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from support.fork_process import Fork
from support.ranks import free_port
from support.tf_models import run_alone

ODD = {"examples": 37, "per_device_train_batch_size": 6, "per_device_eval_batch_size": 10}
HALF = {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 5}


def run(**options):
    call = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return json.loads(run_alone(f"from support import tf_process; tf_process.main({call})").splitlines()[-1])


def assert_alike(one, two):
    for name in ("loss", "grad_norm", "weights", "predictions"):
        np.testing.assert_allclose(two[name], one[name], rtol=2e-5, atol=2e-6)
    assert two["eval"] == pytest.approx(one["eval"], rel=1e-5)
    assert two["learning_rate"] == one["learning_rate"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 3}, {"optim": "adamw_torch", "weight_decay": 0.1, "max_grad_norm": 0.5}],
    ids=["plain", "accumulation", "adamw"],
)
def test_two_logical_devices_give_the_result_of_one(options):
    one = run(**ODD, **options)
    two = run(devices=2, **{**ODD, **HALF}, **options)

    assert two["replicas"] == 2
    assert_alike(one, two)


@pytest.mark.slow
def test_three_devices_train_batch_norm_and_dropout_on_batches_smaller_than_their_number():
    found = run(devices=3, kind="norm", examples=10, per_device_train_batch_size=3, per_device_eval_batch_size=4)

    assert np.isfinite(found["loss"]).all()
    assert found["eval"]["rows"] == 13
    assert found["traces"] == {"update": 1, "predict": 1}


@pytest.mark.slow
def test_float16_on_two_devices_survives_an_injected_inf():
    found = run(devices=2, precision="fp16", inf_at=3, **{**ODD, **HALF})

    assert found["skips"] == [False] * 3 + [True] + [False] * 4
    assert found["scale"] == 2.0**14
    assert np.isfinite(found["weights"]).all()
    rates = found["learning_rate"]
    assert rates[2] > rates[3] == rates[4]  # the schedule stood still with the update


@pytest.mark.slow
def test_two_devices_resume_to_the_bit_and_one_device_goes_on_from_their_checkpoint(tmp_path):
    options = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 4, "folder": str(tmp_path)}
    middle = {"resume_from_checkpoint": str(tmp_path / "checkpoint-4")}

    whole = run(devices=2, **{**ODD, **HALF}, **options)
    resumed = run(devices=2, **{**ODD, **HALF}, **options, **middle)
    alone = run(**ODD, **options, **middle)

    assert (resumed["weights"], resumed["loss"]) == (whole["weights"], whole["loss"])
    assert_alike(whole, alone)


SCOPES = """
import logging, sys
import tensorflow as tf
logging.getLogger("trackside.trainer").addHandler(logging.StreamHandler(sys.stdout))
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from support.arrays import classified
from support.tf_models import LOSS, mlp
from trackside import TFTrainer, TFTrainingArguments

args = TFTrainingArguments("out", max_steps=2, save_strategy="no", disable_tqdm=True, xla=True)
outside = mlp()
with args.strategy.scope():
    inside = mlp()
print("inside:", TFTrainer(inside, args, classified(20), loss_fn=LOSS).train().global_step, args.n_replicas)
try:
    TFTrainer(outside, args, classified(20), loss_fn=LOSS).train()
except ValueError as error:
    print("outside:", error)
"""


@pytest.mark.slow
def test_a_model_made_inside_of_the_scope_trains_and_one_outside_says_what_to_do():
    said = run_alone(SCOPES)

    assert "xla=True is left out: it compiles the step of one replica, and there are several" in said
    assert "inside: 2 2" in said
    assert "outside: the model's variable 'sequential" in said
    assert "with args.strategy.scope():" in said


def run_workers(count, folder, machines=1, **options):
    """Run the same script in processes that TF_CONFIG joins; return what each printed. Each machine has its disk."""
    hosts = ["127.0.0.1", "localhost"][:machines]
    cluster = {"worker": [f"{hosts[index % machines]}:{free_port()}" for index in range(count)]}

    def code(index):
        given = {"folder": str(folder / (f"disk{index}" if machines > 1 else "out")), **options}
        call = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"from support import tf_process; tf_process.main({call})"

    workers = [
        Fork(
            "tensorflow",
            ["-c", code(index)],
            folder,
            {**os.environ, "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})},
            name=f"worker{index}",
            number=index,
        )
        for index in range(count)
    ]
    try:
        for worker in workers:
            assert worker.wait(240) == 0, "\n".join(worker.errors[-2000:] for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
    return [json.loads(worker.output.splitlines()[-1]) for worker in workers]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_workers_give_the_result_of_one(tmp_path, accumulation):
    options = {"gradient_accumulation_steps": accumulation, "save_strategy": "steps", "save_steps": 4}
    options["searches"] = accumulation == 1
    one = run(**ODD, **options)
    two = run_workers(2, tmp_path, **{**ODD, **HALF}, **options)

    assert two[0]["replicas"] == 2
    for found in two:
        assert_alike(one, found)
        if options["searches"]:
            assert found["search"] == {
                **one["search"],
                "objective": pytest.approx(one["search"]["objective"], rel=1e-5),
            }
            assert sorted(steps for _, steps in found["search"]["ended"]) == [4, 8]
    names = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
    assert names == ["checkpoint-4", "checkpoint-8"]
    assert (tmp_path / "out" / "checkpoint-8" / "rng_state_1.json").exists()


@pytest.mark.slow
def test_two_machines_save_each_on_its_own_disk_and_go_on_from_there(tmp_path):
    options = {**ODD, "lr_scheduler_type": "constant"}
    saves = {"save_on_each_node": True, "save_strategy": "steps", "save_steps": 4, "machines": 2}
    run_workers(2, tmp_path, **{**options, **HALF}, max_steps=4, **saves)
    resumed = run_workers(2, tmp_path, **{**options, **HALF}, resume_from_checkpoint=True, **saves)

    one = run(**options)
    for found in resumed:
        assert found["weights"] == pytest.approx(one["weights"], abs=1e-6)
        assert found["loss"][-4:] == pytest.approx(one["loss"][-4:], rel=1e-5)
    for disk in ("disk0", "disk1"):
        names = sorted(path.name for path in (tmp_path / disk).glob("checkpoint-*"))
        assert names == ["checkpoint-4", "checkpoint-8"]


@pytest.mark.slow
def test_two_workers_skip_the_same_updates_and_evaluate_with_the_statistics_that_are_saved(tmp_path):
    options = {**ODD, **HALF, "kind": "norm", "max_steps": 12, "learning_rate": 0.01}
    clean = run(devices=2, **options)
    devices = run(devices=2, bad=20, guards=True, **options)
    workers = run_workers(2, tmp_path, bad=20, guards=True, **options)

    assert len(clean["loss"]) == 12
    for found in (clean, devices, workers[0]):
        assert found["eval"]["loss"] == pytest.approx(found["alone"], rel=1e-5)
    for found in (devices, *workers):
        assert len(found["loss"]) == 9  # one by a callback of the first process, and the bad example in two epochs
        assert_alike(devices, found)
        assert found["eval"]["loss"] == pytest.approx(clean["eval"]["loss"], rel=0.05)
        assert found["again"] == found["eval"]["loss"]
