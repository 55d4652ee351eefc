"""TFTrainingArguments: what is only known with TensorFlow."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys

import pytest
from support.ranks import free_port

from trackside.callbacks.errors import ArgumentError, UnsupportedError
from trackside.trainer.arguments.base import BaseTrainingArguments
from trackside.trainer.distributed.launcher import ProcessRank
from trackside.trainer.tensorflow.arguments import TFTrainingArguments
from trackside.trainer.tensorflow.distributed.tf_config import detect_tf_config


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)


def run_alone(code, **environ):
    """Run ``code`` in a process of its own, which has imported nothing."""
    command = [sys.executable, "-c", code]
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", **environ}
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def run_forked(code, **environ):
    """Run ``code`` in a process that has imported TensorFlow."""
    from support.tf_models import run_alone

    return run_alone(code, CUDA_VISIBLE_DEVICES="-1", **environ).split()


def test_the_fields_are_the_shared_ones_and_five_more():
    shared, found = BaseTrainingArguments().to_dict(), TFTrainingArguments().to_dict()

    assert {name: found[name] for name in found if name not in shared} == {
        "tpu_name": None,
        "poly_power": 1.0,
        "xla": False,
        "steps_per_execution": 1,
        "shuffle_buffer_mib": 256,
    }
    assert {name: found[name] for name in shared} == shared


def test_making_arguments_imports_no_framework():
    code = (
        "import sys; from trackside.trainer.tensorflow.arguments import TFTrainingArguments; TFTrainingArguments('o');"
        "print('torch' in sys.modules, 'tensorflow' in sys.modules)"
    )

    assert run_alone(code) == ["False", "False"]


@pytest.mark.parametrize(
    ("field", "value"), [("steps_per_execution", 0), ("shuffle_buffer_mib", 0), ("poly_power", -1), ("xla", "on")]
)
def test_its_own_fields_are_checked(field, value):
    with pytest.raises(ArgumentError, match=f"{field}={value!r} is not allowed"):
        TFTrainingArguments("out", **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("torch_compile", True, "use xla=True"),
        ("fsdp", "full_shard", "args.strategy"),
        ("fp16_backend", "apex", "Keras' mixed precision"),
        ("optim", "adamw_8bit", "use 'adamw_torch'"),
        ("parallel", "dp", "args.strategy"),
        ("tpu_num_cores", 8, "use tpu_name"),
        ("group_by_length", True, "bucket_by_sequence_length"),
        ("label_names", ["tags"], "labels may be a dict"),
        ("past_index", 2, "the model's variables"),
    ],
)
def test_what_only_pytorch_has_fails_and_the_message_says_what_to_use(field, value, advice):
    with pytest.raises(
        UnsupportedError, match=rf"{field}={re.escape(repr(value))} cannot be used: only PyTorch has it.*{advice}"
    ):
        TFTrainingArguments("out", **{field: value})


def cluster(index, kind="worker"):
    members = {"chief": ["a:1"], "worker": ["a:2", "b:1"]}
    return {"TF_CONFIG": json.dumps({"cluster": members, "task": {"type": kind, "index": index}})}


def test_the_place_comes_from_the_cluster_the_chief_first():
    places = [detect_tf_config(cluster(0, "chief")), detect_tf_config(cluster(0)), detect_tf_config(cluster(1))]

    assert [(place.rank, place.world_size, place.local_rank) for place in places] == [(0, 3, 0), (1, 3, 1), (2, 3, 0)]
    assert detect_tf_config({}) is detect_tf_config({"TF_CONFIG": "{}"}) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {"worker": ["a:1"]}}', cluster(7)["TF_CONFIG"]])
def test_a_cluster_that_makes_no_sense_is_named(text):
    with pytest.raises(ArgumentError, match=r"TF_CONFIG=.* is not allowed: JSON like"):
        detect_tf_config({"TF_CONFIG": text})


def test_the_second_worker_neither_saves_nor_reports(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", cluster(0)["TF_CONFIG"])
    args = TFTrainingArguments("out")

    assert args.place == ProcessRank(1, 3, 1, "tf_config")
    assert (args.parallel_mode, args.should_save, args.should_log) == ("distributed", False, False)


def test_launchers_of_pytorch_do_not_count(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    assert TFTrainingArguments("out").world_size == 1


def test_one_device_has_one_replica_and_the_strategy_is_built_once():
    tf = pytest.importorskip("tensorflow")
    args = TFTrainingArguments("out", no_cuda=True, per_device_train_batch_size=4)

    assert isinstance(args.strategy, tf.distribute.OneDeviceStrategy)
    assert args.strategy is args.strategy
    assert (args.n_replicas, args.n_gpu, args.train_batch_size, args.device) == (1, 1, 4, "CPU")
    assert "strategy" not in vars(copy.deepcopy(args))


def test_the_strategy_in_whose_scope_it_is_first_read_is_used():
    tf = pytest.importorskip("tensorflow")
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")

    with strategy.scope():
        assert TFTrainingArguments("out").strategy is strategy


def test_several_devices_are_mirrored_and_torch_stays_out():
    pytest.importorskip("tensorflow")
    code = (
        "import sys, tensorflow as tf; from trackside.trainer.tensorflow.arguments import TFTrainingArguments;"
        "cpu = tf.config.list_physical_devices('CPU')[0];"
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2);"
        "args = TFTrainingArguments('out');"
        "print(type(args.strategy).__name__, args.n_replicas, args.train_batch_size, args.parallel_mode, args.device);"
        "print('torch' in sys.modules)"
    )

    assert run_forked(code) == ["MirroredStrategy", "2", "16", "not_distributed", "CPU", "False"]


def test_a_cluster_is_joined():
    pytest.importorskip("tensorflow")
    config = {"cluster": {"worker": [f"127.0.0.1:{free_port()}"]}, "task": {"type": "worker", "index": 0}}
    code = (
        "from trackside.trainer.tensorflow.arguments import TFTrainingArguments; args = TFTrainingArguments('out');"
        "print(type(args.strategy).__name__, args.n_replicas, args.world_size)"
    )

    found = run_forked(code, TF_CONFIG=json.dumps(config))

    assert found == ["CollectiveAllReduceStrategy", "1", "1"]
