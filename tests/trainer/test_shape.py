"""``trainer/pytorch`` and ``trainer/tensorflow`` have one shape: the same files, the same names in the same order."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ONLY_PYTORCH = {
    "apex.py": "NVIDIA's apex knows torch alone",
    "collators.py": "a tf.data.Dataset and arrays need nobody to make a batch of examples",
    "ddp.py": "DistributedDataParallel; tf.distribute is one class for all strategies",
    "fsdp.py": "Keras has no sharded data parallelism",
    "installed.py": "apex and torch_xla come in kinds and versions; TensorFlow is whole",
    "lion.py": "torch has no Lion, Keras has",
    "loader.py": "reads the DataLoaders of others",
    "overflow.py": "looks into the layers; TensorFlow has tf.debugging.enable_check_numerics",
    "rendezvous.py": "torchrun's store; tf.distribute meets by TF_CONFIG",
    "sampler.py": "the order of a DataLoader; a tf.data.Dataset shuffles itself",
    "stream.py": "iterable datasets over ranks and workers",
    "timing.py": "the stopwatch of a GPU; TensorFlow tells no such times",
    "watchdog.py": "ends ranks that hang; tf.distribute does so itself",
    "workers.py": "processes of a DataLoader",
    "xla.py": "torch_xla; tf.distribute drives TPU cores itself",
}
ONLY_TENSORFLOW = {
    "cluster.py": "reads TF_CONFIG",
    "optimizers.py": "Keras' optimizers where torch's do otherwise; PyTorch takes torch's as they are",
    "queue.py": "several updates in one call",
    "step.py": "the tf.functions, which PyTorch, being eager, does not need",
    "tpu.py": "finds a TPU by name",
}


def folder(framework: str) -> Path:
    found = importlib.util.find_spec(f"trackside.trainer.{framework}")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def files(framework: str) -> set[str]:
    return {path.name for path in folder(framework).glob("*.py")}


def public_names(path: Path) -> list[str]:
    """Public classes, functions and methods, in the order in which a reader meets them."""
    names: list[str] = []

    def walk(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                names.append(node.name)
            if isinstance(node, ast.ClassDef):
                walk(node.body)

    walk(ast.parse(path.read_text(encoding="utf-8")).body)
    return names


def test_files_of_one_framework_alone_have_a_reason():
    pytorch, tensorflow = files("pytorch"), files("tensorflow")

    assert pytorch - tensorflow == set(ONLY_PYTORCH), "name the file in ONLY_PYTORCH with a reason, or add its twin"
    assert tensorflow - pytorch == set(ONLY_TENSORFLOW), "name the file in ONLY_TENSORFLOW with a reason"


@pytest.mark.parametrize("name", sorted(files("pytorch") & files("tensorflow")))
def test_what_both_frameworks_have_comes_in_the_same_order(name):
    pytorch, tensorflow = (public_names(folder(framework) / name) for framework in ("pytorch", "tensorflow"))

    in_pytorch = [item for item in pytorch if item in tensorflow]
    in_tensorflow = [item for item in tensorflow if item in pytorch]

    assert list(dict.fromkeys(in_pytorch)) == list(dict.fromkeys(in_tensorflow))


def test_both_backends_have_every_method_that_the_loop_calls():
    loop = folder("pytorch").parent / "loop.py"
    backend = next(
        node
        for node in ast.parse(loop.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "Backend"
    )
    wanted = [node.name for node in backend.body if isinstance(node, ast.FunctionDef)]

    for framework in ("pytorch", "tensorflow"):
        names = public_names(folder(framework) / "backend.py")
        in_loop = [name for name in wanted if name in names]
        assert len(in_loop) >= 15
        assert [name for name in names if name in in_loop] == in_loop
