"""Pages in a real browser: no script errors, nothing asked of elsewhere, texts as texts, and buttons that work."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import threading
from pathlib import Path

import pytest

import trackside.report
from trackside import ControlFilesCallback, JournalCallback, TrainerCallback
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer

pytest.importorskip("playwright")
pytest.importorskip("plotly")

SCRIPT = Path(__file__).resolve().parents[3] / "docs/headless.py"
FRAMEWORK = installed_frameworks()[0]
DRAWN = "html[data-drawn]"


def load_headless():
    spec = importlib.util.spec_from_file_location("docs_headless", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_headless"] = module
    spec.loader.exec_module(module)
    return module


headless = load_headless()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(headless.chromium() is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def chromium():
    with headless.browser() as started:
        yield started


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Hostile(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            control.stop("<img src=x onerror=alert(1)>")


@pytest.fixture
def hostile_page(tmp_path):
    """Two runs whose names and metrics are markup."""
    outs = ["<img src=x onerror=alert(1)>", "<b onclick=alert(2)>bold<"]
    for out in outs:
        trainer = tiny_trainer(FRAMEWORK, out, [JournalCallback(), Hostile()])
        trainer.train()
        trainer.log({"</script><script>alert(3)</script>": 1.0, "<a href='javascript:alert(4)'>x</a>": 2.0})
    return trackside.report.write("page.html", *outs).absolute().as_uri()


@pytest.mark.parametrize("scheme", headless.SCHEMES)
@pytest.mark.parametrize("screen", sorted(headless.SCREENS))
def test_a_page_is_drawn_without_errors_and_texts_stay_texts(chromium, hostile_page, screen, scheme):
    problems: list[str] = []
    with headless.opened(chromium, hostile_page, DRAWN, screen, scheme, problems) as page:
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.select_option("#axis", "hours")
        page.check("#log")
        page.fill("#smoothing", "0.9")
        page.wait_for_timeout(300)
        titles = page.locator("figure h3").all_text_contents()
        legends = page.locator(".legendtext").all_text_contents()
        images = page.evaluate("document.querySelectorAll('img, #figures a[href], b').length")
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert problems == []
    assert "</script><script>alert(3)</script>" in titles
    assert any("<img src=x onerror=alert(1)>" in text for text in legends)
    assert images == 0
    assert (back == "rgb(16, 20, 26)") == (scheme == "dark")


def test_a_page_can_be_used_without_a_mouse_and_has_a_text_for_each_picture(chromium, hostile_page):
    with headless.opened(chromium, hostile_page, DRAWN, "wide", "light", []) as page:
        page.keyboard.press("Tab")
        first = page.evaluate("document.activeElement.textContent")
        named = page.locator("[role=img]").evaluate_all("all => all.every(one => one.ariaLabel.includes('from'))")
        count = page.locator("[role=img]").count()
        levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(one => Number(one.tagName[1]))")
        unlabelled = page.evaluate(
            "[...document.querySelectorAll('input, select')].filter(one => !one.labels.length).length"
        )

    assert first == "Skip to the content"
    assert (named, unlabelled) == (True, 0)
    assert count >= 6
    assert levels.count(1) == 1
    assert all(later - before <= 1 for before, later in itertools.pairwise(levels))


@pytest.fixture
def running():
    """A run in a thread of this process, which waits after each step until it is told to end."""
    begun, ends = threading.Event(), threading.Event()

    class Waits(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step > 3:
                begun.set()
                ends.wait(0.1)
            if ends.is_set():
                control.stop("the test is over")

    callbacks = [JournalCallback(), Waits(), ControlFilesCallback(every_s=0.1)]
    options = {"max_steps": 5000, "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
    trainer = tiny_trainer(FRAMEWORK, "out", callbacks, **options)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    assert begun.wait(60)
    yield trainer
    ends.set()
    thread.join(60)


def test_the_buttons_of_a_watched_run_reach_it_and_its_page_follows(chromium, running):
    problems: list[str] = []
    listening = "#listening:has-text('takes requests after')"
    with (
        trackside.report.watch("out", port=0) as address,
        headless.opened(chromium, address, listening, "phone", "dark", problems) as page,
    ):
        page.on("dialog", lambda dialog: dialog.accept())
        address_shown = page.evaluate("location.href")
        before = page.locator("#overview dd").nth(1).text_content()
        page.click("[data-action=save]")
        page.wait_for_selector("#answer:has-text('Asked the run: save')")
        page.wait_for_selector("table.checkpoints:has-text('asked for by .control/save')", state="attached")
        page.click("[data-action=evaluate]")
        page.wait_for_selector("table.evaluations:has-text('asked for by .control/evaluate')", state="attached")
        page.click("[data-action=stop]")
        page.wait_for_selector("#overview:has-text('stopped: asked for by .control/stop')")
        page.wait_for_selector("button:disabled:has-text('Save')")
        after = page.locator("#overview dd").nth(1).text_content()

    assert problems == []
    assert "token" not in address_shown
    assert before != after
    assert running.state.stop_reason == "asked for by .control/stop"


def test_without_the_token_the_page_asks_for_it_and_shows_nothing(chromium, running):
    with trackside.report.watch("out", port=0) as address, chromium.new_context() as context:
        place, _, token = address.partition("#token=")
        page = context.new_page()
        page.goto(place)
        page.wait_for_selector("#sign-in:visible")
        empty = page.locator("#overview .card").count()
        page.fill("#token", token)
        page.click("#sign-in button")
        page.wait_for_selector("#overview:has-text('running')")

    assert empty == 0
