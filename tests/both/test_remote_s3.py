"""A run whose output_dir is in a bucket of a real S3 server, on loopback."""

from __future__ import annotations

import shutil
import tempfile

import pytest

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.checkpointing.remote import RemoteFolder

boto3 = pytest.importorskip("boto3")
fsspec = pytest.importorskip("fsspec")
moto = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def server():
    server = moto.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(autouse=True)
def bucket(server, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": server})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket=tmp_path.name.replace("_", "-"))
    return tmp_path.name.replace("_", "-")


def test_a_run_is_uploaded_rotated_and_resumed_in_a_bucket(trainer_factory, bucket):
    address = f"s3://{bucket}/runs/first"
    options = {"output_dir": address, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    trainer = trainer_factory(max_steps=4, **options)
    trainer.train()
    trainer.save_state()
    shutil.rmtree(trainer.args.output_dir)

    remote = RemoteFolder(address)
    assert remote.names() == list(remote.checkpoints()) == ["checkpoint-4"]
    assert "trainer_state.json" in remote.files()

    resumed = trainer_factory(max_steps=6, **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert list(remote.checkpoints()) == ["checkpoint-6"]


def test_a_bucket_that_does_not_exist_is_an_error_before_the_first_step(trainer_factory):
    trainer = trainer_factory(output_dir="s3://no-such-bucket/run", save_strategy="steps")

    with pytest.raises(ArgumentError, match=r"s3://no-such-bucket/run.* is not allowed.*bucket"):
        trainer.train()
    assert trainer.state.global_step == 0
