"""The shape of the trainers: components instead of mixins, one engine for each framework, small files and folders."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from trackside.trainer import engine
from trackside.trainer.train_step import TrainStep

ONLY_PYTORCH = {
    "_torch_util.py": "helpers on torch objects",
    "host_copy.py": "tensors are copied before training goes on; TensorFlow holds values that never change",
    "availability.py": "apex and torch_xla come in kinds and versions; TensorFlow is whole",
}
ONLY_TENSORFLOW = {
    "compiled_step.py": "the tf.functions, which PyTorch, being eager, does not need",
    "tracing.py": "functions of Python as graphs",
    "update_queue.py": "several updates in one call",
}
LIMITS = {"train_step.py": 300, "vulture_whitelist.py": 20}
PARTS = (engine.Engine, TrainStep, engine.EvaluationStep, engine.CheckpointIO)

SHARED_NAMES = [
    *("add_callback", "call_model_init", "callback_report", "compute_loss", "create_optimizer"),
    *("create_optimizer_and_scheduler", "create_scheduler", "evaluate", "floating_point_ops", "gather_objects"),
    *("evaluation_loop", "find_batch_size", "find_learning_rate", "model_summary"),
    *("hyperparameter_search", "is_local_process_zero", "is_world_process_zero", "load_weights", "log", "log_metrics"),
    *(
        "model",
        "num_examples",
        "on",
        "pop_callback",
        "predict",
        "prediction_loop",
        "prediction_step",
        "remove_callback",
    ),
    *("save_metrics", "save_model", "save_state", "store_flos", "train", "training_step"),
]
PUBLIC_NAMES = {
    "pytorch": [
        *(
            "backward",
            "batch_size_of",
            "compute_loss_context_manager",
            "explain_batch",
            "get_eval_dataloader",
            "get_test_dataloader",
        ),
        *("get_train_dataloader", "label_names"),
        # for scripts that were written for the transformers Trainer
        *("accelerator", "callback_handler", "create_model_card", "get_batch_samples", "get_decay_parameter_names"),
        *("get_learning_rates", "get_num_trainable_parameters", "get_optimizer_cls_and_kwargs", "get_optimizer_group"),
        *("get_total_train_batch_size", "is_in_train", "is_model_parallel", "metrics_format", "num_tokens"),
    ],
    "tensorflow": [
        *("apply_gradients", "distributed_prediction_steps", "distributed_training_steps", "get_eval_tfdataset"),
        *("get_test_tfdataset", "get_train_tfdataset", "gradients", "run_model", "trace_counts"),
    ],
}


def package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def folder(framework: str) -> Path:
    return package("trackside.trainer") / framework


def product_files() -> Iterator[Path]:
    roots = [package(f"trackside{room}") for room in ("", ".callbacks", ".integrations", ".trainer")]
    found = {path.resolve() for root in roots for path in root.rglob("*.py")}  # in a checkout, rooms are links
    yield from sorted(path for path in found if "templates" not in path.parts)


def trainer_class(framework: str) -> Any:
    import trackside

    return trackside.Trainer if framework == "pytorch" else trackside.TFTrainer


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


# -- composition ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_trainer_is_made_of_at_most_three_classes_of_ours_and_no_protocol(framework):
    own = [cls for cls in trainer_class(framework).__mro__ if cls.__module__.startswith("trackside")]

    assert len(own) <= 3
    assert not any(getattr(cls, "_is_protocol", False) or Protocol in cls.__bases__ for cls in own)


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_the_public_names_of_a_trainer_are_these(framework):
    names = sorted(name for name in dir(trainer_class(framework)) if not name.startswith("_"))

    assert names == sorted([*SHARED_NAMES, *PUBLIC_NAMES[framework]])


@pytest.mark.parametrize(
    ("part", "missing"), [(part, name) for part in PARTS for name in sorted(part.__abstractmethods__)]
)
def test_a_part_of_an_engine_that_lacks_one_method_cannot_be_made(part, missing):
    methods = {name: lambda self: None for name in part.__abstractmethods__ if name != missing}

    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Lacks", (part,), methods)()


@pytest.mark.parametrize("part", PARTS)
def test_every_method_of_a_part_of_an_engine_is_abstract(part):
    methods = {name for name, value in vars(part).items() if inspect.isfunction(value)}

    assert methods == set(part.__abstractmethods__)


def test_private_attributes_of_a_trainer_are_used_by_its_own_classes_only():
    trainers = {"base_trainer.py", "interface.py", "trainer.py"}
    used = []
    for path in product_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")):
                continue
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if name.strip("_") == "trainer" and path.name not in trainers:
                used.append(f"{path.name}:{node.lineno} {name}.{node.attr}")

    assert used == []


# -- the tree ---------------------------------------------------------------------------------------------------------


def test_files_of_one_framework_alone_have_a_reason():
    pytorch, tensorflow = ({path.name for path in folder(name).glob("*.py")} for name in ("pytorch", "tensorflow"))

    assert pytorch - tensorflow == set(ONLY_PYTORCH), "name the file in ONLY_PYTORCH with a reason, or add its twin"
    assert tensorflow - pytorch == set(ONLY_TENSORFLOW), "name the file in ONLY_TENSORFLOW with a reason"


@pytest.mark.parametrize(
    "name",
    [
        "arguments.py",
        "checkpoint.py",
        "engine.py",
        "evaluation.py",
        "model_io.py",
        "oom_retry.py",
        "seeding.py",
        "snapshot.py",
        "train_step.py",
        "trainer.py",
    ],
)
def test_what_both_frameworks_have_comes_in_the_same_order(name):
    pytorch, tensorflow = (public_names(folder(framework) / name) for framework in ("pytorch", "tensorflow"))

    in_pytorch = [item for item in pytorch if item in tensorflow]
    in_tensorflow = [item for item in tensorflow if item in pytorch]

    assert list(dict.fromkeys(in_pytorch)) == list(dict.fromkeys(in_tensorflow))


def test_no_file_is_longer_than_320_lines_a_step_than_300_and_the_list_of_unused_names_than_20():
    checkout = Path(__file__).resolve().parents[2]
    others = [
        path for name in ("tests", "benchmarks", "docs", "examples", ".ci") for path in (checkout / name).rglob("*.py")
    ]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*product_files(), *others)}
    limits = {path: LIMITS.get(path.name, 320) for path in lengths}

    assert {str(path): length for path, length in lengths.items() if length > limits[path]} == {}


def test_no_folder_has_more_than_15_modules():
    counts: dict[Path, int] = {}
    for path in product_files():
        counts[path.parent] = counts.get(path.parent, 0) + (path.name != "__init__.py")

    assert {str(path): count for path, count in counts.items() if count > 15} == {}
