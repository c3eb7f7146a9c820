"""The published format rule, to the letter, and the reasoning heuristic of reports."""

from __future__ import annotations

import pytest

from lmm_r1.rewards.format import format_ok, reasons


@pytest.mark.parametrize(
    "reply",
    [
        "<think>a</think><answer>b</answer>",
        "  <think>a</think><answer>b</answer>\n",
        "<think></think><answer></answer>",
        "<think>line\nline</think><answer>b\nc</answer>",
        "<think>a</answer>b</think><answer>c</answer>",
    ],
)
def test_the_published_format_passes(reply: str) -> None:
    """Catches a rule stricter than the paper's: empty bodies, newlines and outer white space pass."""
    assert format_ok(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "b",
        "<answer>b</answer>",
        "<think>a</think>\n<answer>b</answer>",
        "<think>a</think> <answer>b</answer>",
        "so <think>a</think><answer>b</answer>",
        "<think>a</think><answer>b</answer>.",
        "<think>a<think>b</think><answer>c</answer>",
        "<think>a</think><answer>b<answer>c</answer>",
        "<think>a</think>b</think><answer>c</answer>",
        "<think>a</think><answer>b</answer>c</answer>",
        "<think>a<answer>b</answer></think>",
        "<think>a</think><answer>b",
        "<think></answer>",
        "<think></think><answer>",
    ],
)
def test_anything_else_fails(reply: str) -> None:
    """Catches a rule looser than the paper's, which would pay for text around the blocks."""
    assert not format_ok(reply)


def test_reasoning_is_a_worked_step_and_not_a_guess() -> None:
    """Catches a reasoning share that counts guesses, or text outside the thoughts."""
    assert reasons("<think>27+36=63; 63-33=30</think><answer>30</answer>")
    assert reasons("<think>x = 3</think><answer>3</answer>")
    assert reasons("<think>the left side is longer than the right one because both share this corner point</think>")
    for thought in ("I guess", "maybe", "not sure", "", "=", "a == b"):
        assert not reasons(f"<think>{thought}</think><answer>30</answer>"), thought
    assert not reasons("1+1=2")
    assert not reasons("<answer>1+1=2</answer>")
    assert not reasons("<think>1+1=2")
