"""The check of trackers: what passes it, and that each kind of fault is found and named."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path

import pytest

from trackside import CSVLoggerCallback, JournalCallback, JSONLinesLoggerCallback, TrainerCallback
from trackside.callbacks.builtin.journal import read_journal
from trackside.callbacks.errors import ArgumentError
from trackside.testing import ConformanceError, check_tracker, installed_frameworks

HERE = Path(__file__).name


def numbers(step, values):
    """Return the points of one record."""
    return [(name, step, value) for name, value in values.items() if type(value) is float and name != "step"]


def read_csv(run):
    points = []
    with (run.folder / "log.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                try:
                    points.append((name, int(row["step"]), float(text)))
                except ValueError:
                    continue
    return [point for point in points if point[0] != "step"]


def read_json_lines(run):
    with (run.folder / "log.jsonl").open() as lines:
        return [point for record in map(json.loads, lines) for point in numbers(record["step"], record)]


def read_journal_points(run):
    """Return the points of the last run in a journal; a resume takes back what came after its checkpoint."""
    points = []
    for event in read_journal(run.folder / "journal.jsonl"):
        if event["event"] == "on_train_begin":
            points = [point for point in points if 0 < point[1] <= event["step"]]
        elif event["event"] in ("on_log", "on_predict"):
            points += numbers(event["step"], event.get("logs") or event.get("metrics") or {})
    return points


def floats(record):
    """Return what of a record is a number with a fraction."""
    return {name: value for name, value in record.items() if type(value) is float and name != "step"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "read", "names"),
    [
        (CSVLoggerCallback, read_csv, "record"),
        (JSONLinesLoggerCallback, read_json_lines, floats),
        (JournalCallback, read_journal_points, floats),
    ],
)
def test_the_loggers_pass_on_both_frameworks(make, read, names):
    check_tracker(make, read=read, names=names)


def test_a_logger_of_lightning_passes():
    pytest.importorskip("lightning")
    from lightning.pytorch.loggers import CSVLogger

    from trackside import LightningLoggerAdapter

    def read(run):
        files = run.folder.parent.glob("logs/lightning_logs/version_*/metrics.csv")
        with max(files, key=lambda path: int(path.parent.name.removeprefix("version_"))).open() as file:
            rows = list(csv.DictReader(file))
        return {(name, int(row["step"])): float(row[name]) for row in rows for name in row if row[name] and "/" in name}

    make = lambda: LightningLoggerAdapter(CSVLogger("logs"))  # noqa: E731
    check_tracker(make, read=read, frameworks=installed_frameworks()[:1])


class Appends(TrainerCallback):
    """Appends every number to one file, whatever run it is of, and all arguments as they are."""

    role = "observer"

    def write(self, args, *points):
        Path(args.output_dir).mkdir(exist_ok=True)
        with Path(args.output_dir, "points.txt").open("a") as file:
            file.writelines(f"{json.dumps(point)}\n" for point in points)

    def on_train_begin(self, args, state, control, **kwargs):
        self.write(args, ["arguments", 0, repr(vars(args))])

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.write(args, *numbers(state.global_step, {**logs, "epoch": None}))


class Improvises(Appends):
    """Takes other names, other steps and other values, and leaves out evaluations."""

    role = "control"

    def on_log(self, args, state, control, logs=None, **kwargs):
        step = state.global_step
        if "loss" in logs:
            self.write(args, ("loss", step, round(logs["loss"], 2)), ("grad_norm", step - 1, logs["grad_norm"]))
            self.write(args, ("Learning Rate", step, logs["learning_rate"]))
        self.write(args, *[(name, step, 0.0) for name in logs if name == "odd_none"])


class Fails(Appends):
    """Believes that every value is a number, and draws from the global random numbers."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        import random

        name = f"{random.random()}"
        self.write(args, *[(key, state.global_step, float(value)) for key, value in logs.items() if key != "step"])
        threading.current_thread().label = name

    def on_predict(self, args, state, control, metrics=None, **kwargs):
        raise OSError("the server takes no predictions")


def read_points(run):
    lines = (run.folder / "points.txt").read_text().splitlines()
    return [point for point in map(json.loads, lines) if point[0] != "arguments"]


FAULTS = {
    Appends: [
        ("Appends.on_log", "eval_first_accuracy and 9 more at step 0, where this run did not log it"),
        ("Appends.on_log", "twice at step 5, in a resumed train()"),
        ("Appends.on_train_begin", "writes the value of the argument tool_api_key into out/points.txt"),
    ],
    Improvises: [
        ("Improvises", 'has the role "control"; declare role = "observer"'),
        ("Improvises.on_log", "shows Learning Rate, which was not logged"),
        ("Improvises.on_log", "does not show eval_first_accuracy and"),
        ("Improvises.on_log", "shows grad_norm at step 0, where this run did not log it"),
        ("Improvises.on_log", "for loss at step 1, where"),
        ("Improvises.on_log", "shows 0.0 for odd_none, where None was logged"),
    ],
    Fails: [
        (
            "Fails.on_log",
            "must be a string or a real number, not 'NoneType', given {'odd_none': None}",
        ),
        ("Fails.on_log", "draws from the global random numbers"),
        ("Fails.on_predict", "raised OSError: the server takes no predictions, in predict()"),
        ("Fails.on_log", "does not show beside_"),
    ],
}


def named_as_in_records(record):
    return {name: value for name, value in record.items() if name not in ("step", "epoch")}


@pytest.mark.parametrize("cls", FAULTS)
def test_every_fault_is_listed_with_its_place_and_what_to_do(cls):
    with pytest.raises(ConformanceError) as raised:
        check_tracker(cls, read=read_points, names=named_as_in_records, frameworks=installed_frameworks()[:1])

    faults = raised.value.faults
    for hook, fault in FAULTS[cls]:
        assert any(f"{hook} (" in found and HERE in found and fault in found for found in faults), (fault, faults)
    assert str(raised.value).startswith(f"{cls.__name__} is not a good tracker:\n- ")


def test_arguments_that_are_missing_or_wrong_are_faults():
    shown = {"learning_rate": "0.5", "max_steps": "6"}

    with pytest.raises(ConformanceError) as raised:
        check_tracker(
            CSVLoggerCallback,
            read=read_csv,
            names="record",
            hyperparameters=lambda run: shown,
            frameworks=installed_frameworks()[:1],
        )

    faults = "\n".join(raised.value.faults)
    assert "writes '0.5' for learning_rate=0.01" in faults
    assert "does not write the argument seed" in faults
    assert "max_steps" not in faults


def test_a_reader_that_returns_something_else_is_a_fault():
    with pytest.raises(ConformanceError, match=r"its reader raised ArgumentError: read=\['loss'\] is not allowed"):
        check_tracker(CSVLoggerCallback, read=lambda run: ["loss"], frameworks=installed_frameworks()[:1])


def test_names_that_do_not_exist_are_an_error():
    with pytest.raises(ArgumentError, match="grouped or record"):
        check_tracker(CSVLoggerCallback, read=read_csv, names="groups")
