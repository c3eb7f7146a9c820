"""Strips of episodes: every turn with its frame, both memories, and nothing of it trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PilImage

from lmm_r1.reports.episodes import MAX_TURNS, is_game, strips
from lmm_r1.reports.rollouts import question


def turn(k: int, success: float = 0.0) -> dict[str, Any]:
    return {"action": f"move {k}", "outcome": "solved" if success else "played", "reward": 0.25, "success": success,
            "score": 1.0, "feedback": ""}  # fmt: skip


def frames(folder: Path, count: int) -> list[str]:
    shas = [f"{k:064x}" for k in range(count)]
    for k, sha in enumerate(shas):
        PilImage.new("RGB", (28, 28), (10 * k, 0, 0)).save(folder / f"{sha}.png")
    return shas


def window(shas: list[str], sibling: int = 0, won: bool = True) -> list[dict[str, Any]]:
    return [
        {"episode": sibling, "sibling": sibling, "segment": k, "images": [sha], "replies": [f"reply {k}"], "reward": 1.0,
         "advantage": 0.5, "prompt": "<|im_start|>user\nrules<|im_end|>\n",
         "turns": [turn(k, float(won and k == len(shas) - 1))]}
        for k, sha in enumerate(shas)
    ]  # fmt: skip


def test_every_turn_is_shown_with_its_frame(tmp_path: Path) -> None:
    """Catches turns out of order, a window's segments shown as episodes, and a missing frame."""
    shas = frames(tmp_path, 3)
    windowed = strips(tmp_path, window(shas)[::-1], 3, question)
    full = [{**window(shas)[0], "images": shas, "replies": ["reply 0", "reply 1", "reply 2"],
             "turns": [turn(0), turn(1), turn(2, 1.0)]}]  # fmt: skip
    for page in (windowed, strips(tmp_path, full, 3, question)):
        assert page.count("<img") == 3 and page.count('class="episode"') == 1 and "1 of 1 episodes" in page
        assert page.index("move 0") < page.index("move 1") < page.index("move 2")
        assert page.index("reply 0") < page.index("reply 2") and ">solved<" in page and "3 turns" in page
    assert is_game(full[0]) and not is_game({"replies": ["x"]})


def test_long_episodes_and_many_siblings_are_cut_and_said(tmp_path: Path) -> None:
    """Catches a page of thousands of frames."""
    shas = frames(tmp_path, 2 * MAX_TURNS)
    records = [record for sibling in range(5) for record in window(shas, sibling, won=sibling == 0)]
    page = strips(tmp_path, records, 2, question)
    assert page.count('class="episode"') == 2 and "2 of 5 episodes" in page
    assert page.count("<img") == 2 * MAX_TURNS and page.count("…</div>") == 2


@pytest.mark.parametrize("bad", ["<script>alert(1)</script>", "\x1b[2J", "../../etc/passwd"])
def test_nothing_of_an_episode_is_trusted(bad: str, tmp_path: Path) -> None:
    """Catches a reply, an action or a name of a picture that becomes markup or a path."""
    record = window(frames(tmp_path, 1))[0]
    record["replies"], record["images"] = [bad], [bad]
    record["turns"][0]["action"] = record["turns"][0]["outcome"] = bad
    page = strips(tmp_path, [record], 1, question)
    assert "<script>" not in page and "\x1b" not in page and "picture without a name" in page
