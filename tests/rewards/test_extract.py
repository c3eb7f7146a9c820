"""Where the final answer stands: the holes that the released checker has must stay closed."""

from __future__ import annotations

import pytest

from lmm_r1.rewards.extract import MAX_ANSWER, Extracted, extract, last_span


def last_box(text: str) -> str | None:
    """The inside of the last box."""
    found = last_span(text)
    return None if found is None else text[found[0] : found[1]]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>a</think><answer>7</answer>", "7"),
        ("<think>\\boxed{8}</think><answer>$7$</answer>", "$7$"),
        ("<think>so</think><answer> The answer is $\\boxed{2}$ </answer>", "2"),
        ("<answer>The final answer is 12</answer>", "12"),
        ("<answer>Answer: B</answer>", "B"),
        ("<answer>\\boxed{5}, no: \\boxed{7}</answer>", "7"),
        ("so we get \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{\\boxed{6}}", "\\boxed{6}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{5} then \\boxed{6", "5"),
        ("hm</think><answer>7</answer>", "7"),
        ("<think>a</think><answer>7</answer> \\boxed{9}", "7"),
        ("<think>a</think>\\boxed{3}", "3"),
    ],
)
def test_the_answer_is_found(reply: str, answer: str) -> None:
    """Catches a box in the thoughts, or after the block, that overrides the answer block."""
    assert extract(reply) == Extracted(answer)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no_answer"),
        ("7", "no_answer"),
        ("The answer is 7.", "no_answer"),
        ("<think>\\boxed{7}", "no_answer"),
        ("<think>\\boxed{7}</think>", "no_answer"),
        ("<think>so 7</think><answer>\\boxed{7", "no_answer"),
        ("<answer></answer>", "no_answer"),
        ("<answer>The answer is </answer>", "no_answer"),
        ("<answer>1</answer><answer>7</answer>", "ambiguous"),
        ("<think>a</think><answer>1</answer><think>b</think><answer>7</answer>", "ambiguous"),
        ("<answer>7</answer><think>and on", "no_answer"),
        ("\\fbox{7}", "no_answer"),
        (f"<answer>{'1' * (MAX_ANSWER + 1)}</answer>", "too_big"),
    ],
)
def test_no_answer_has_a_reason(reply: str, reason: str) -> None:
    """Catches paying for a cut-off or hedged reply."""
    assert extract(reply) == Extracted("", reason)


def test_boxes_in_great_number_are_one_pass() -> None:
    """Catches a quadratic search: these would take minutes."""
    assert last_box("\\boxed{" * 40_000) is None
    assert last_box("\\boxed{2}" * 10_000) == "2"
    assert last_box("{" * 40_000 + "}" * 40_000) is None


@pytest.mark.parametrize("text", ["\\boxed{7\\}", "\\boxed{x=7\\}"])
def test_an_escaped_brace_closes_no_box(text: str) -> None:
    """Catches a box that was cut off and is read as a whole one."""
    assert extract(text).reason == "no_answer"
