"""The live view on a terminal, in a pipe, and with hostile text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lmm_r1.runs.live import LiveView, sparkline
from lmm_r1.runs.sanitise import one_line, sanitise

METRICS = {
    "reward/accuracy": 0.25,
    "reward/format": 0.5,
    "length/mean": 20.0,
    "seconds/collect": 1.5,
    "seconds/update": 2.5,
    "weights_sha256": "ab",
}


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain é 漢 text\n\tx", "plain é 漢 text\n\tx"),
        ("\x1b[2Ja\x1b[31mb\x1b[0m", "ab"),
        ("\x1b]0;title\x07a", "a"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31ma\x9d0;t\x9cb", "ab"),
        ("\x1bPdcs\x1b\\a\x1bcb", "ab"),
        ("a\u202eb\u2066c\u200fd\u200be\ufefff", "abcdef"),
        ("a\rb\x08c\x7fd\x00e\x85f", "abcdef"),
        ("\ud800x\U000e0041", "x"),
        ("\x1b", ""),
    ],
)
def test_sanitise(raw: str, shown: str) -> None:
    """Catches each known way to drive a terminal, and harm done to plain text."""
    assert sanitise(raw) == shown


def test_one_line_is_cut() -> None:
    """Catches a reply that fills the screen."""
    assert one_line("a\n\n b" + "c" * 50, 10) == "a bcccccc…"


def test_sparkline_uses_fixed_limits() -> None:
    """Catches a share of 0.5 that looks like the maximum, and a curve that dies on NaN or a flat line."""
    assert sparkline([0, 0.5, 1], 10, (0, 1)) == "▁▅█"
    assert sparkline([3, 3], 10) == "▁▁"
    assert sparkline([0, float("nan"), 1], 10) == "▁?█"
    assert sparkline([], 10) == ""
    assert len(sparkline(range(100), 10)) == 10


def _run(view: LiveView) -> None:
    view.start()
    view.stage("fre_text", 2)
    view.step(1, METRICS, "[red]markup[/red] \x1b[2J reply")
    view.step(2, METRICS | {"reward/accuracy": 0.75})
    view.evaluation("fre_text", "text", {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 10})
    view.stop()


def test_pipe_gets_one_plain_line_per_step() -> None:
    """Catches cursor codes in a log file, wrapped lines, and a step without a line."""
    out = io.StringIO()
    _run(LiveView(Console(file=out, width=40)))
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert lines == [
        "fre_text: 2 steps",
        "fre_text 1/2  accuracy 0.25  format 0.5  length 20  4.0s",
        "fre_text 2/2  accuracy 0.75  format 0.5  length 20  4.0s",
        "fre_text on text: 50.0 % [40.0, 60.0]",
    ]


@pytest.mark.parametrize("width", [30, 80, 200])
def test_terminal_view_shows_markup_and_escapes_as_text(width: int) -> None:
    """Catches a reply that is read as rich markup or reaches the terminal raw, and a view that needs a wide one."""
    out = io.StringIO()
    _run(LiveView(Console(file=out, force_terminal=True, width=width, height=40)))
    assert "[red]markup" in out.getvalue().replace("\x1b[0m", "")
    assert "\x1b[2J reply" not in out.getvalue()
    if width >= 80:
        assert "collect" in out.getvalue() and "50.0 % [40.0, 60.0]" in out.getvalue()
