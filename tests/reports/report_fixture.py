"""A fabricated run folder with five arms, curves, rollouts and pictures: what the report tests read."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path

from PIL import Image as PilImage
from PIL import ImageDraw

from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.jsonl import append_line, write_lines

SETS = ("text", "geometry", "perception")
#: stage -> (from, steps, domain, accuracy on the three sets)
STAGES = {
    "fre_text": ("base", 40, "text", (0.61, 0.47, 0.35)),
    "mgt_geo": ("fre_text", 30, "geometry", (0.60, 0.66, 0.44)),
    "fre_multi": ("base", 40, "geometry", (0.41, 0.55, 0.46)),
    "direct_geo": ("base", 70, "geometry", (0.42, 0.62, 0.40)),
    "shuffled_reward": ("base", 40, "text", (0.27, 0.30, 0.26)),
}


def _cell(accuracy: float, noise: random.Random, n: int = 500) -> dict[str, object]:
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / n)
    formed = min(0.99, 0.3 + accuracy)
    return {
        "n": n,
        "accuracy": accuracy,
        "low": accuracy - half,
        "high": accuracy + half,
        "format_rate": formed,
        "accuracy_given_format": min(1.0, accuracy / formed),
        "reasoning_share": accuracy * 1.2,
        "mean_length": 14 + 30 * accuracy + noise.random(),
        "verdicts": {"correct": round(n * accuracy), "no_answer": n - round(n * accuracy)},
    }


def _recipe() -> str:
    text = 'name = "quickstart"\ndescription = "FRE-Text, then MGT-Geo, next to the control arms, at micro size"\nseed = 0\n'
    for name, (start, steps, domain, _) in STAGES.items():
        text += f'[stage.{name}]\nfrom = "{start}"\nsteps = {steps}\n[[stage.{name}.data]]\nsource = "synthetic"\ndomain = "{domain}"\n'
        text += f"[stage.{name}.update]\nlr = 1e-4\n"
        text += f"[stage.{name}.reward]\nshuffle = {'true' if name == 'shuffled_reward' else 'false'}\n"
    return text


def _picture(folder: Path, wide: int, high: int) -> str:
    canvas = PilImage.new("RGB", (168, 112), "white")
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((34, 34, 132, 84), outline=(20, 60, 140), width=3, fill=(226, 236, 250))
    draw.text((78, 16), str(wide), fill="black")
    draw.text((140, 52), str(high), fill="black")
    sha = hashlib.sha256(canvas.tobytes()).hexdigest()
    canvas.save(folder / f"{sha}.png")
    return sha


def _rollouts(
    step: int, sha: str | None, wide: int, high: int, gain: float, noise: random.Random
) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    seen = "<|vision_start|>" + "<|image_pad|>" * 24 + "<|vision_end|>" if sha else ""
    ask = "What is the area of the rectangle?" if sha else f"A box holds {wide} rows of {high} eggs. How many eggs?"
    prompt = f"<|im_start|>system\nThink, then answer.<|im_end|>\n<|im_start|>user\n{seen}{ask}<|im_end|>\n<|im_start|>assistant\n"
    for sibling in range(8):
        right, formed = noise.random() < gain, noise.random() < 0.3 + gain
        value = wide * high if right else wide + high
        steps = f"The sides are {wide} and {high}, so {wide} * {high} = {value}." if right else f"{wide} and {high}."
        reply = f"<think>{steps}</think><answer>{value}</answer>" if formed else f"I guess {value}"
        good = float(right and formed)
        lines.append(
            {
                "problem_id": f"step{step}-{wide}x{high}",
                "answer": str(wide * high),
                "episode": sibling,
                "segment": 0,
                "sibling": sibling,
                "prompt": prompt,
                "replies": [reply],
                "images": [sha] if sha else [],
                "token_ids": list(range(30)),
                "trainable": [False] * 10 + [True] * 20,
                "logprobs": [0.0] * 30,
                "reward": 0.5 * formed + good,
                "parts": {"format": float(formed), "accuracy": good},
                "verdicts": {
                    "format": "correct" if formed else "wrong",
                    "accuracy": "correct" if good else "no_answer",
                },
                "advantage": good - gain,
                "stop": "eos",
                "versions": [[0, step]],
            }
        )
    return lines


def fabricate(path: Path, only: tuple[str, ...] = tuple(STAGES)) -> RunFolder:
    """Write a whole run into `path`; metrics and rollouts of the stages in `only`."""
    run, noise = RunFolder(path), random.Random(1)
    run.keep_recipe(_recipe())
    arms = {"base_no_prompt": (0.19, 0.17, 0.2), "base": (0.28, 0.29, 0.27)} | {
        name: stage[3] for name, stage in STAGES.items()
    }
    cells = {arm: {s: _cell(a, noise) for s, a in zip(SETS, values, strict=True)} for arm, values in arms.items()}
    differences = []
    pairs = (("fre_text", "base"), ("mgt_geo", "fre_text"), ("mgt_geo", "direct_geo"), ("shuffled_reward", "base"))
    for a, b in pairs:
        for i, name in enumerate(SETS[:2]):
            mean = arms[a][i] - arms[b][i]
            differences.append(
                {"a": a, "b": b, "set": name, "mean": mean, "low": mean - 0.055, "high": mean + 0.055, "n": 500}
            )
    run.write_json("results.json", {"arms": cells, "differences": differences, "seed": 0, "rollouts": 28160})
    origin = {"started": "2026-11-21T01:02:03+00:00", "command": "lmm-r1 quickstart", "seed": 0, "threads": 2}
    run.write_json(
        "provenance.json", origin | {"versions": {"python": "3.11.7", "torch": "2.13.0"}, "commit": "0" * 40}
    )
    for name in only:
        _, steps, domain, values = STAGES[name]
        folder = run.stage(name)
        goal = values[0 if domain == "text" else 1]
        for step in range(1, steps + 1):
            gain = 0.28 + (goal - 0.28) * (1 - math.exp(-4 * step / steps))
            append_line(folder.metrics, _metrics(name, step, steps, gain, noise))
            if step in (1, steps // 2, steps):
                lines: list[dict[str, object]] = []
                for wide, high in ((7, 4), (12, 3), (9, 5)):
                    sha = _picture(folder.images, wide, high) if domain == "geometry" else None
                    lines += _rollouts(step, sha, wide, high, gain, noise)
                write_lines(folder.rollouts / f"step_{step:06d}.jsonl", lines)
    return run


def _metrics(name: str, step: int, steps: int, gain: float, noise: random.Random) -> dict[str, object]:
    return {
        "step": step,
        "stage": name,
        "reward/mean": 1.5 * gain,
        "reward/accuracy": gain + noise.gauss(0, 0.04),
        "reward/format": min(1.0, 0.35 + gain + noise.gauss(0, 0.03)),
        "length/mean": 14 + 34 * gain + noise.gauss(0, 1),
        "entropy": 1.1 - 0.6 * step / steps + noise.gauss(0, 0.02),
        "kl_ref": 0.2 * step / steps * (1 + 0.1 * noise.random()),
        "clip_share": 0.02 * noise.random(),
        "verdict/correct": gain,
        "verdict/no_answer": 1 - gain,
        "zero_advantage_share": 0.1 + 0.2 * gain,
        "truncated_share": 0.03 * noise.random(),
        "grad_norm": 1.5 + noise.random(),
        "seconds/collect": 1.9,
        "seconds/anchor": 0.6,
        "seconds/update": 1.2,
        "seconds/sync": 0.1,
        "weights_sha256": json.dumps(step),
    }
