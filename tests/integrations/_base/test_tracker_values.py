from __future__ import annotations

from trackside.integrations._base.tracker import Tracker


class Numbers(Tracker):
    background = False

    def __init__(self):
        super().__init__()
        self.written = []

    def open(self, args, state, resume, **kwargs):
        pass

    def write(self, values, step):
        self.written.append(values)

    def close(self, status, state):
        pass


def test_what_a_tracker_cannot_show_is_named_once(track, caplog):
    tracker = Numbers()
    run = track(tracker)
    run.send("on_train_begin")

    for _ in range(3):
        run.step()
        run.log(loss=0.5, text="0.7", rouge={"r1": 0.1}, per_class=[0.1], huge=10**400)
    run.log(other=None)

    assert tracker.written == [{"train/loss": 0.5}] * 3
    assert [record.message for record in caplog.records if "leaves out" in record.message] == [
        "Numbers shows only numbers; it leaves out train/huge, train/per_class, train/rouge, train/text",
        "Numbers shows only numbers; it leaves out train/other",
    ]


def test_a_name_that_utf8_cannot_hold_is_escaped(track):
    run = track(tracker := Numbers())
    run.send("on_train_begin")

    run.log(**{"of \udcff": 1.0, "pr\u00e9cision": 2.0})

    assert tracker.written == [{"train/of \\udcff": 1.0, "train/pr\u00e9cision": 2.0}]
