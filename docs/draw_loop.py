"""Draw the training loop, with its events beside it, as an inline picture for the start page.

    python docs/draw_loop.py

writes docs/images/loop.svg. Its colours are those of the page, dark or light.
"""

from __future__ import annotations

from pathlib import Path

PICTURE = Path(__file__).parent / "images" / "loop.svg"
ROW, LEFT, RIGHT, INDENT = 30, 8, 256, 14
LINES = [
    (0, "", "on_train_begin"),
    (1, "each epoch", "on_epoch_begin"),
    (2, "each update", "on_step_begin"),
    (3, "forward and backward", "on_substep_end"),
    (3, "clip gradients", "on_pre_optimizer_step"),
    (3, "step the optimizer", "on_optimizer_step"),
    (2, "", "on_step_end"),
    (2, "log", "on_log"),
    (2, "evaluate", "on_evaluate"),
    (2, "save a checkpoint", "on_save"),
    (1, "", "on_epoch_end"),
    (0, "", "on_train_end"),
]
"""Depth in the loop, what the trainer does, and the event that follows."""


def drawing() -> str:
    """Return the picture as SVG."""
    height = ROW * len(LINES) + 40
    parts = [
        f'<svg class="loop" viewBox="0 0 440 {height}" role="img" aria-labelledby="loop-title">',
        '<title id="loop-title">The training loop, and the events that it sends</title>',
        '<text class="head" x="8" y="18">the track</text>',
        f'<text class="head" x="{RIGHT}" y="18">events, beside it</text>',
    ]
    parts += [_box(depth) for depth in range(3)]
    for row, (depth, does, event) in enumerate(LINES):
        y = 34 + ROW * row + ROW // 2
        if does:
            parts.append(
                f'<text x="{LEFT + INDENT * min(depth, 2) + 12}" y="{y + 4}">{does}</text>'
            )
        parts.append(
            f'<path class="sent" d="M{_edge(min(depth, 2))} {y}H{RIGHT - 8}"/>'
        )
        parts.append(f'<circle cx="{_edge(min(depth, 2))}" cy="{y}" r="3"/>')
        parts.append(f'<text class="event" x="{RIGHT}" y="{y + 4}">{event}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _edge(depth: int) -> int:
    return 236 - INDENT * depth


def _box(depth: int) -> str:
    rows = [row for row, line in enumerate(LINES) if line[0] >= depth]
    top, bottom = 34 + ROW * rows[0] + 3 * depth, 34 + ROW * (rows[-1] + 1) - 3 * depth
    left = LEFT + INDENT * depth
    size = f'width="{_edge(depth) - left}" height="{bottom - top}"'
    return f'<rect class="depth{depth}" x="{left}" y="{top}" {size} rx="12"/>'


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
