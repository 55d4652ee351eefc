"""A run is watched, and asked, over HTTP while another process trains."""

from __future__ import annotations

import http.client
import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.fork_process import Fork
from support.pages import Page

from trackside import JournalCallback
from trackside.callbacks.builtin.journal import read_journal
from trackside.cli.main import main
from trackside.report.server import HEADERS, watch
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer

pytest.importorskip("plotly")

FRAMEWORK = installed_frameworks()[0]
TOKEN = Path("out/.control/token")

TRAINS = """
import time
from trackside import ControlFilesCallback, JournalCallback, TrainerCallback
from trackside.testing.tiny_trainer import tiny_trainer

class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(0.05)

callbacks = [JournalCallback(), Slow()] + [ControlFilesCallback(every_s=0.05)] * LISTENS
steps = {"logging_steps": 1, "max_steps": 4000, "save_strategy": "steps", "save_steps": 5000, "eval_strategy": "no"}
tiny_trainer("FRAMEWORK", "out", callbacks, **steps).train()
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Browser:
    """Asks a server as the page does, unless told otherwise."""

    def __init__(self, address):
        parts = urlsplit(address)
        self.place = parts.netloc
        self.token = parts.fragment.removeprefix("token=")

    def ask(self, method, path, body=None, **headers):
        given = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **headers}
        connection = http.client.HTTPConnection(self.place, timeout=30)
        try:
            connection.request(method, path, body, {key: value for key, value in given.items() if value is not None})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text.startswith("{") else text, answer.headers

    def state(self):
        status, state, _ = self.ask("GET", "/state")
        assert status == 200
        return state

    def until(self, holds, seconds=90):
        end = time.monotonic() + seconds
        while not holds(state := self.state()):
            assert time.monotonic() < end, state
            time.sleep(0.2)
        return state

    def request(self, action):
        return self.ask("POST", "/request", json.dumps({"action": action}))[:2]


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(framework, *, listens=True):
        code = TRAINS.replace("FRAMEWORK", framework).replace("LISTENS", str(int(listens)))
        job = Fork({"pytorch": "torch"}.get(framework, framework), ["-c", code], tmp_path)
        started.append(job)
        end = time.monotonic() + 90
        while not (Path("out/journal.jsonl").exists() and "on_log" in Path("out/journal.jsonl").read_text()):
            assert job.poll() is None, job.errors
            assert time.monotonic() < end
            time.sleep(0.1)
        return job

    yield begin
    for job in started:
        job.kill()


@pytest.mark.slow
@pytest.mark.parametrize("framework", installed_frameworks())
def test_a_run_is_seen_as_it_goes_on_and_does_what_it_is_asked(framework, start):
    job = start(framework)
    with watch("out", port=0) as address:
        browser = Browser(address)
        first = browser.until(lambda state: state["listening"])
        later = browser.until(lambda state: state["version"] != first["version"])
        saved = browser.request("save")
        browser.until(lambda state: "asked for by .control/save" in state["content"]["sections"]["details"])
        evaluated = browser.request("evaluate")
        browser.until(lambda state: "asked for by .control/evaluate" in state["content"]["sections"]["details"])
        stopped = browser.request("stop")
        assert job.wait(60) == 0
        last = browser.until(lambda state: not state["content"]["is_running"])

        assert first["content"]["is_running"]
        assert [saved[0], evaluated[0], stopped[0]] == [202, 202, 202]
        assert len(later["content"]["data"]["figures"]) >= 3
        assert last["content"]["status"] == "stopped: asked for by .control/stop"
        assert not last["listening"]
        assert browser.request("save") == (409, {"text": "No run looks at the control files of this folder."})
    entries = list(read_journal("out/journal.jsonl"))
    done = [(entry["event"], entry["because"]) for entry in entries if entry["event"] in ("on_save", "on_evaluate")]
    assert done == [
        ("on_save", "asked for by .control/save"),
        ("on_evaluate", "asked for by .control/evaluate"),
        ("on_save", "asked for by .control/stop"),
    ]
    assert entries[-1]["step"] < 4000


@pytest.mark.slow
def test_a_run_that_does_not_look_at_its_files_is_not_asked(start):
    start(FRAMEWORK, listens=False)
    with watch("out", port=0) as address:
        state = Browser(address).state()
        answer = Browser(address).request("stop")

    assert (state["content"]["is_running"], state["listening"]) == (True, False)
    assert answer[0] == 409
    assert not Path("out/.control/stop").exists()


@pytest.fixture
def browser():
    tiny_trainer(FRAMEWORK, "out", [JournalCallback()]).train()
    with watch("out", port=0) as address:
        yield Browser(address)


@pytest.mark.parametrize("wrong", ["", "wrong", "é", None])
def test_without_the_token_nothing_is_told_and_nothing_done(browser, wrong):
    given = None if wrong is None else f"Bearer {wrong}".encode()
    for method, path in (("GET", "/state"), ("POST", "/request"), ("GET", "/state?version=1")):
        status, answer, _ = browser.ask(
            method, path, '{"action": "stop"}' if method == "POST" else None, Authorization=given
        )

        assert status == 403
        assert answer == {"text": "The token is wrong. It is in the file .control/token of the run."}
    assert not Path("out/.control/stop").exists()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8765"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "[bad"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
    ],
)
def test_other_sites_are_refused_although_they_have_the_token(browser, headers):
    for method, path in (("GET", "/"), ("GET", "/state"), ("POST", "/request")):
        status, answer, _ = browser.ask(method, path, '{"action": "stop"}' if method == "POST" else None, **headers)

        assert (status, answer) == (403, {"text": "This server answers its own page, on loopback, only."})


def test_the_page_itself_holds_nothing_of_the_run(browser):
    status, text, headers = browser.ask("GET", "/", Authorization=None)
    page = Page(text)

    assert status == 200
    assert browser.token not in text
    assert page.data == {"runs": [], "figures": [], "left_out": 0}
    assert "learning_rate" not in page.text
    assert page.admitted() == page.digests()
    assert "connect-src 'self'" in page.policy
    assert {name: headers[name] for name in HEADERS} == HEADERS


def test_the_state_has_what_the_report_has_and_only_what_is_new(browser):
    state = browser.state()
    again = browser.ask("GET", f"/state?version={state['version']}")[1]

    assert main(["report", "out"]) == 0
    report = Page.of("out/report.html")
    assert state["content"]["data"] == report.data
    assert Page(state["content"]["sections"]["details"]).tables == report.tables
    assert again == {"version": state["version"], "listening": False, "waiting": []}


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ('{"action": "explode"}', {}, 400),
        ('{"action": "../../evil"}', {}, 400),
        ('{"action": 1}', {}, 400),
        ("save", {}, 400),
        ("[" * 900, {}, 400),
        ('{"action": "save"}', {"Content-Type": "text/plain"}, 400),
        ("x" * 1001, {}, 413),
        ("", {"Content-Length": "many"}, 413),
    ],
)
def test_a_request_that_is_not_one_is_refused(browser, body, headers, status):
    assert browser.ask("POST", "/request", body, **headers)[0] == status
    assert sorted(path.name for path in Path("out/.control").iterdir()) == ["token"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/journal.jsonl"), ("GET", "/../setup.cfg"), ("POST", "/state")])
def test_there_is_nothing_else_to_ask_for(browser, method, path):
    assert browser.ask(method, path, "{}" if method == "POST" else None)[0] == 404


def test_the_token_is_the_owners_stays_the_same_and_is_made_anew_if_others_could_read_it(browser):
    assert stat.S_IMODE(TOKEN.stat().st_mode) == 0o600
    assert stat.S_IMODE(TOKEN.parent.stat().st_mode) == 0o700
    with watch("out", port=0) as address:
        assert Browser(address).token == browser.token
    TOKEN.chmod(0o644)

    with watch("out", port=0) as address:
        assert Browser(address).token != browser.token
    assert stat.S_IMODE(TOKEN.stat().st_mode) == 0o600


def test_a_folder_of_a_run_that_has_not_begun_can_be_watched():
    Path("out").mkdir()
    with watch("out", port=0) as address:
        before = Browser(address).state()["content"]
        tiny_trainer(FRAMEWORK, "out", [JournalCallback()]).train()
        time.sleep(0.6)
        after = Browser(address).state()["content"]

    assert "neither journal.jsonl nor a checkpoint" in before["nothing"]
    assert after["status"] == "completed"


def test_the_command_prints_the_address_and_ends_with_a_signal():
    Path("out").mkdir()
    command = [sys.executable, "-m", "trackside", "watch", "out", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        lines = [server.stdout.readline() for _ in range(3)]
        assert Browser(lines[0].split()[1]).state()["content"]["title"] == "out"
        server.send_signal(signal.SIGTERM)
        errors = server.communicate(timeout=30)[1]

    assert "ssh -L" in lines[1]
    assert (server.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ot"], "ot: the folder does not exist. Did you mean 'out'?"),
        (
            ["s3://bucket/run"],
            "give it that folder (its staging folder, on the machine where it runs). trackside report",
        ),
        (["out", "--port", "70000"], "port 70000: a number from 0 to 65535 is needed"),
        (["out", "--port", "-1"], "port -1: a number from 0 to 65535 is needed"),
    ],
)
def test_wrong_words_are_one_line(argv, message, capsys):
    Path("out").mkdir()

    assert main(["watch", *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_taken_port_is_told_if_it_was_asked_for(browser, capsys):
    taken = browser.place.rpartition(":")[2]

    assert main(["watch", "out", "--port", taken]) == 2
    assert f"port {taken}: the page cannot be served there: Address already in use" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that cannot be written, by root neither")
def test_a_folder_that_cannot_keep_the_token_is_told(capsys):
    assert main(["watch", "/proc/self"]) == 2
    assert "the token cannot be kept there, so the run cannot be watched" in capsys.readouterr().err
