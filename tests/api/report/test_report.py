"""The page of a run, from real runs of both trainers, read back."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from support.fork_process import Fork
from support.pages import Page

from trackside import EarlyStoppingCallback, JournalCallback, TrainerCallback
from trackside.callbacks._util import imports
from trackside.cli.main import main
from trackside.report import plotting, read_run
from trackside.report.document import contents, script_data, sections
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer

pytest.importorskip("plotly")

FRAMEWORKS = installed_frameworks()
FRAMEWORK = FRAMEWORKS[0]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(out="out", *callbacks, framework=FRAMEWORK, resume=None, **args):
    trainer = tiny_trainer(framework, out, [JournalCallback(), *callbacks], **args)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def report(*outs, name="page.html", **options):
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    assert main(["report", *outs, "--output", name, *words]) == 0
    return Page.of(name)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_page_has_what_the_run_logged_decided_and_cost(framework):
    stopper = EarlyStoppingCallback(1)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    trainer = train("out", stopper, framework=framework, learning_rate=0.0, num_train_epochs=4, **best)

    page = report("out")

    history = trainer.state.log_history
    losses = [(item["step"], item["loss"]) for item in history if "loss" in item]
    assert list(zip(page.curve("loss")["step"], page.curve("loss")["value"], strict=True)) == losses
    rates = [item["learning_rate"] for item in history if "learning_rate" in item]
    assert page.curve("learning_rate")["value"] == rates
    assert all(value > 0 for value in page.curve("updates_per_s")["value"])
    head, *rows = page.tables["evaluations-0-title"]
    shown = [float(row[head.index("loss")]) for row in rows]
    assert shown == pytest.approx([item["eval_loss"] for item in history if "eval_loss" in item], rel=1e-4)
    assert [row[-1] for row in rows] == ["eval_strategy=epoch"] * 2
    (decision,) = [row for row in page.tables["decisions-0-title"] if "stop training" in row]
    assert decision[1] == "12"
    assert "eval_loss has not improved" in decision[-1]
    assert {row[0] for row in page.tables["costs-0-title"]} == {"callback", "journal", "early_stopping"}
    changed = {name: values for name, *values in page.tables["arguments-0-title"]}
    assert changed["learning_rate"] == ["0.0", "5e-05"]
    assert changed["num_train_epochs"][0] == "4.0"
    assert "weight_decay" in {row[0] for row in page.tables["defaults-0-title"]}
    assert [row[0] for row in page.tables["checkpoints-0-title"]][1:] == ["checkpoint-6", "checkpoint-12"]
    assert "stopped: eval_loss has not improved" in page.text
    assert "24 examples in batches of 4" in page.text


def test_the_page_loads_nothing_and_runs_only_the_scripts_that_its_policy_admits():
    train()

    page = report("out")

    assert [value for value in page.loads if not value.startswith("#")] == ["data:,"]
    assert page.handlers == []
    assert "default-src 'none'" in page.policy
    assert "connect-src 'none'" in page.policy
    assert "unsafe" not in page.policy.partition("script-src")[2].partition(";")[0]
    assert page.admitted() == page.digests()
    assert Path("page.html").stat().st_size < 3_000_000


def test_texts_of_a_run_are_never_markup():
    class Hostile(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                control.stop("<img src=x onerror=alert(1)> is enough")

        def on_log(self, args, state, control, **kwargs):
            control.should_log = False

    out = "<script>alert(1)<"
    trainer = tiny_trainer(FRAMEWORK, out, [JournalCallback(), Hostile()], run_name='"><svg onload=alert(1)>')
    trainer.log({"</script><script>alert(2)</script>": 1.0})
    trainer.train()
    trainer.log({"</script><script>alert(2)</script>": 1.0, "<a href='javascript:alert(3)'>x</a>": 2.0})

    page = report(out, title="</title><script>alert(4)</script>")

    assert page.headings[0] == "</title><script>alert(4)</script>"
    assert page.curve("</script><script>alert(2)</script>")["value"] == [1.0]
    assert [kind for kind, _ in page.scripts] == ["application/json", "text/plain", ""]
    assert page.handlers == []
    assert {"img", "svg", "iframe"}.isdisjoint(page.tags)
    assert page.admitted() == page.digests()
    assert "<img src=x onerror=alert(1)> is enough" in page.tables["decisions-0-title"][1]
    assert ["run_name", '"><svg onload=alert(1)>', "null"] in page.tables["arguments-0-title"]


KILLED = """
import os, signal
from trackside import JournalCallback, TrainerCallback
from trackside.testing.tiny_trainer import tiny_trainer

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 9:
            kwargs["trainer"].callback_report["journal"].thread.wait(30)
            os.kill(os.getpid(), signal.SIGKILL)

journal = JournalCallback()
tiny_trainer("pytorch", "out", [journal, Kill()]).train()
"""


@pytest.mark.slow
@pytest.mark.skipif("pytorch" not in FRAMEWORKS, reason="PyTorch is not installed")
def test_a_killed_run_says_where_it_was_cut_off_and_goes_on_as_one_run(tmp_path):
    assert Fork("torch", ["-c", KILLED], tmp_path).wait(60) not in (None, 0)
    journal = Path("out/journal.jsonl")
    with journal.open("a") as file:
        file.write('{"event": "on_step_b')  # what a write is that a kill cuts short

    killed = report("out")
    train("out", framework="pytorch", resume=True, learning_rate=0.003)
    resumed = report("out")

    assert "cut off at step 9" in killed.text
    assert "The last line of the journal is torn" in killed.text
    assert killed.curve("loss")["step"] == [2, 4, 6, 8]
    assert "completed" in resumed.text
    assert "Lines of the journal that were torn are left out: 1." in resumed.text
    assert resumed.curve("loss")["step"] == [2, 4, 6, 8, 10, 12]
    assert resumed.data["runs"][0]["resumed"] == [6]
    _, first, second = resumed.tables["starts-0-title"]
    assert (first[1:3], second[1:3]) == (["the beginning", "0 to 9"], ["checkpoint-6", "6 to 12"])
    assert second[4:6] == ["3", "learning_rate: 0.01 → 0.003"]
    hours = resumed.curve("loss")["hours"]
    assert hours == sorted(hours)


def test_several_runs_are_side_by_side():
    train("narrow")
    train("steep", learning_rate=0.1)

    page = report("narrow", "steep", title="Two rates")

    assert page.headings[0] == "Two rates"
    assert [run["name"] for run in page.data["runs"]] == ["narrow", "steep"]
    assert page.curve("loss", 0)["value"] != page.curve("loss", 1)["value"]
    assert page.tables["differences-compared-title"] == [
        ["argument", "narrow", "steep"],
        ["learning_rate", "0.01", "0.1"],
    ]
    assert [row[0] for row in page.tables["last-compared-title"]] == ["run", "narrow", "steep"]
    assert "evaluations-1-title" in page.tables


def test_without_a_journal_the_page_has_what_the_checkpoints_tell():
    trainer = train()
    Path("out/journal.jsonl").unlink()

    page = report("out")

    assert page.curve("loss")["value"] == [item["loss"] for item in trainer.state.log_history if "loss" in item]
    assert "The folder has no journal.jsonl" in page.text
    assert len(page.tables["evaluations-0-title"]) == 3
    assert "learning_rate" in {row[0] for row in page.tables["arguments-0-title"]}


def test_records_from_before_the_journal_come_from_the_checkpoint():
    train()
    Path("out/journal.jsonl").unlink()
    train(resume=True, num_train_epochs=3)

    assert report("out").curve("loss")["step"] == [2, 4, 6, 8, 10, 12, 14, 16, 18]


def test_a_record_that_journal_and_checkpoint_have_is_there_once():
    train(logging_steps=2, save_steps=4, max_steps=8)
    entries = [json.loads(line) for line in Path("out/journal.jsonl").read_text().splitlines()]
    begins = next(entry for entry in entries if entry["event"] == "on_train_begin")
    rest = [entry for entry in entries if entry["step"] >= 2]
    lines = [{**begins, "step": 2}, *rest]  # as of a journal that was removed at step 2, and began anew there
    Path("out/journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    records = read_run("out").record.records

    assert [record.step for record in records if "loss" in record.values] == [2, 4, 6, 8]


def test_a_second_run_in_the_journal_replaces_the_first_and_is_told():
    train(learning_rate=0.5)
    train(overwrite_output_dir=True)

    page = report("out")

    assert "holds 1 earlier run(s) too" in page.text
    assert page.curve("loss")["step"] == [2, 4, 6, 8, 10, 12]


def test_a_value_that_is_not_finite_leaves_a_gap_and_is_told():
    trainer = train()
    trainer.log({"ratio": math.nan})
    trainer.log({"ratio": 2.0})

    page = report("out")

    assert page.curve("ratio")["value"] == [None, 2.0]
    (words,) = [figure["words"] for figure in page.data["figures"] if figure["key"] == "ratio"]
    assert "1 not finite" in words[0]


def test_a_journal_of_many_steps_is_read_and_thinned_():
    train(save_strategy="no")
    lines = [json.loads(line) for line in Path("out/journal.jsonl").read_text().splitlines()]
    begin = next(line for line in lines if line["event"] == "on_train_begin")
    with Path("out/journal.jsonl").open("w") as file:
        file.write(json.dumps(begin) + "\n")
        for step in range(1, 5_001):
            told = {"time": begin["time"] + step, "step": step, "epoch": step / 100}
            file.write(json.dumps({"event": "on_step_begin", **told}) + "\n")
            logs = {"loss": 9.0 if step == 777 else 1.0}
            file.write(json.dumps({"event": "on_log", **told, "logs": logs}) + "\n")

    page = report("out")

    curve = page.curve("loss")
    assert len(curve["step"]) <= 2002
    assert (max(curve["value"]), curve["count"]) == (9.0, 5_000)
    assert "cut off at step 5,000" in page.text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ot"], "ot: the folder does not exist. Did you mean 'out'?"),
        (["empty"], "empty: the folder has neither journal.jsonl nor a checkpoint, from which a page is made."),
        (["begun"], "begun/journal.jsonl: the journal has no whole event yet, and no checkpoint exists"),
        (["memory://none/run"], "memory://none/run: the address has neither journal.jsonl nor a checkpoint, from"),
        (["s4://bucket/run"], "OUT='s4://bucket/run' is not allowed"),
        (["out", "--output", "empty"], "command line: --output empty: this is a folder; a file is needed"),
    ],
)
def test_wrong_words_are_one_line(argv, message, capsys):
    Path("out").mkdir()
    Path("empty").mkdir()
    Path("begun").mkdir()
    Path("begun/journal.jsonl").write_text('{"event": "on_train_be')

    assert main(["report", *argv]) == 2
    assert message in capsys.readouterr().err


def test_the_file_is_in_the_folder_of_the_run_and_can_be_asked_for_by_its_journal(capsys):
    train()
    assert main(["report", "out"]) == 0
    assert capsys.readouterr().out.startswith("out/report.html (")
    shutil.copy("out/journal.jsonl", "copied.jsonl")

    assert main(["report", "copied.jsonl"]) == 0
    assert Page.of("report.html").curve("loss")["step"] == [2, 4, 6, 8, 10, 12]


def test_a_missing_package_is_told_with_its_extra(monkeypatch, capsys):
    train()
    monkeypatch.setattr(imports, "is_installed", lambda package: False)
    for cached in (plotting.plotly_js, plotting.packed_plotly, plotting.plotly_digest):
        cached.cache_clear()

    assert main(["report", "out"]) == 2
    assert "pip install 'trackside[report]'" in capsys.readouterr().err


ODD = [None, True, -1, 10**400, math.nan, math.inf, "text", "", [], [1, 2], {}, {"a": {"b": [None]}}, "\ud800", "\0"]


@pytest.mark.slow
def test_a_journal_of_odd_values_is_shown_or_refused_but_never_a_crash():
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    train("out", EarlyStoppingCallback(1), learning_rate=0.0, num_train_epochs=4, **best)
    entries = [json.loads(line) for line in Path("out/journal.jsonl").read_text().splitlines()]
    keys = {key for entry in entries for key in entry} | {"differences", "skipped", "exception", "error", "callback"}
    inner = {"costs": ("journal", "seconds"), "logs": ("loss",), "metrics": ("eval_loss",), "args": ("seed",)}
    for key in sorted(keys):
        for odd in ODD:
            changed = [{**entry, key: odd} for entry in entries]
            if key in inner:
                for entry in changed:
                    entry[key] = odd
                    for name in reversed(inner[key]):
                        entry[key] = {name: entry[key]}
            Path("out/journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in changed))

            try:
                run = read_run("out")
                text = script_data(contents([run])) + "".join(sections([run]).values())
            except Exception as error:
                error.add_note(f"{key}: {odd!r}")
                raise

            assert text.encode()
