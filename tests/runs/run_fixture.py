"""A fabricated groups-and-scores world for the run tests: no model, no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from lmm_r1.types import Credit, Group, Image, Message, Problem, Rollout, Score, Text, Turn


class Pictures:
    """A picture source that draws one flat colour per sha."""

    def save_png(self, sha: str, folder: Path) -> Path:
        path = folder / f"{sha}.png"
        PilImage.new("RGB", (28, 28), (200, 30, int(sha[:2], 16))).save(path)
        return path


def decode(token_ids: np.ndarray) -> str:
    return " ".join(str(int(t)) for t in token_ids)


def group(
    number: int, reply: str = "<think>1</think><answer>2</answer>", siblings: int = 2
) -> tuple[Group, list[Credit]]:
    """A group of one-turn rollouts on one picture problem, and its credits (+1 and -1)."""
    image = Image(f"{number:02x}" * 32, 28, 28)
    problem = Problem(f"p{number}", (Message("user", (image, Text("how long?"))),), "2")
    episodes, scores, credits = [], [], []
    for sibling in range(siblings):
        mask = np.array([False, False, True, True, True])
        rollout = Rollout(
            problem,
            sibling,
            0,
            0,
            np.arange(5, dtype=np.int32),
            mask,
            np.where(mask, -0.5, 0.0).astype(np.float32),
            (image,),
            (Turn(2, 5, reply),),
            "eos",
            ((0, 3),),
        )
        episodes.append((rollout,))
        right = float(sibling == 0)
        scores.append(
            Score(0.5 + right, {"format": 1.0, "accuracy": right}, {"accuracy": "correct" if right else "wrong"})
        )
        credits.append(Credit(np.where(mask, 2 * right - 1, 0.0).astype(np.float32)))
    return Group(problem, tuple(episodes), tuple(scores)), credits
