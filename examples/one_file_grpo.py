"""GRPO with pictures in one file: the executable specification of what `lmm_r1` computes.

Everything is written out the slow and obvious way: one sequence at a time, no padding, no packing, no cache of
prompts, plain transformers forward and `generate`. It imports nothing from the package, and tests/oracle
compares its loss and its gradient with those of the package.

    python examples/one_file_grpo.py --steps 2

Axis legend: G = replies to one prompt; T = tokens of prompt and reply together; P = tokens of the prompt;
R = tokens of the reply; V = vocabulary. Log-probs are in nats: element t is log p(token[t] | token[<t]).
Sources: GRPO, DeepSeekMath (arXiv 2402.03300, eq. 3 and 4); reward, LMM-R1 (arXiv 2503.07536, section 3.2).
"""

from __future__ import annotations

import argparse
import copy
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

MICRO = Path(__file__).resolve().parents[1] / "src" / "lmm_r1" / "models" / "micro_base"
SYSTEM = "Think first, then answer, as <think>...</think><answer>...</answer>."
CELL = 28  # pixels: one cell is one image token


@dataclass
class Task:
    """A question about a picture (or about none), and its right answer."""

    question: str
    picture: Image.Image | None
    answer: int


@dataclass
class Sequence:
    """One prompt with one reply, and what the loss needs to know of it."""

    ids: Tensor  # int64[T]
    prompt: int  # P
    pixels: Tensor | None  # float32[patches, 1176]
    grid: Tensor | None  # int64[images, 3]
    advantage: float = 0.0
    old: Tensor | None = None  # float32[R], log-probs before the update
    ref: Tensor | None = None  # float32[R], log-probs of the start model


# ---- problems and rewards ---------------------------------------------------------------------------------


def draw_task(rng: random.Random) -> Task:
    """A sum of two numbers, asked in words or shown in a picture."""
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    if rng.random() < 0.5:
        return Task(f"What is {a} + {b}?", None, a + b)
    picture = Image.new("RGB", (5 * CELL, 3 * CELL), "white")
    pen = ImageDraw.Draw(picture)
    for column, glyph in enumerate(f"{a}+{b}"):
        centre = ((column + 1.5) * CELL, 1.5 * CELL)
        pen.text(centre, glyph, fill="black", font=ImageFont.load_default(24), anchor="mm")
    return Task("What is the sum?", picture, a + b)


def reward(reply: str, answer: int) -> float:
    """0.5 for the format plus 1.0 for the right number in the answer block."""
    well_formed = re.fullmatch(r"<think>(?:(?!</?think>|</?answer>).)*</think><answer>[^<]*</answer>", reply, re.DOTALL)
    block = re.search(r"<answer>\D*(\d+)\D*</answer>", reply)
    return 0.5 * bool(well_formed) + 1.0 * (block is not None and int(block[1]) == answer)


# ---- prompts and sampling ---------------------------------------------------------------------------------


def media_ids(model: Any) -> list[int]:
    """Placeholders: never sampled, and outside every softmax."""
    return [model.config.image_token_id, model.config.video_token_id]


def encode(tokenizer: Any, processor: Any, task: Task) -> Sequence:
    """The chat prompt of a task; an image is one placeholder token for each 2 x 2 block of its patches."""
    content: list[dict[str, str]] = [] if task.picture is None else [{"type": "image"}]
    content.append({"type": "text", "text": task.question})
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    pixels = grid = None
    if task.picture is not None:
        seen = processor(images=[task.picture], return_tensors="pt")
        pixels, grid = seen["pixel_values"], seen["image_grid_thw"]
        text = text.replace("<|image_pad|>", "<|image_pad|>" * (int(grid.prod()) // 4))
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[0]
    return Sequence(ids, len(ids), pixels, grid)


@torch.no_grad()
def sample(model: Any, prompt: Sequence, count: int, max_new_tokens: int) -> list[Sequence]:
    """`count` replies at temperature 1; each ends with its stop token if it wrote one."""
    inputs: dict[str, Tensor] = {"input_ids": prompt.ids.repeat(count, 1)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if prompt.pixels is not None and prompt.grid is not None:
        inputs["pixel_values"], inputs["image_grid_thw"] = prompt.pixels.repeat(count, 1), prompt.grid.repeat(count, 1)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    stops = {model.config.text_config.eos_token_id, model.config.text_config.pad_token_id}
    rows = model.generate(
        **inputs,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        suppress_tokens=media_ids(model),
        eos_token_id=sorted(stops),
        pad_token_id=model.config.text_config.pad_token_id,
    )
    replies = []
    for row in rows.tolist():
        end = next((t + 1 for t in range(prompt.prompt, len(row)) if row[t] in stops), len(row))
        replies.append(Sequence(torch.tensor(row[:end]), prompt.prompt, prompt.pixels, prompt.grid))
    return replies


# ---- GRPO -------------------------------------------------------------------------------------------------


def reply_logprobs(model: Any, sequence: Sequence, temperature: float = 1.0) -> Tensor:
    """float32[R]: log-probs of the reply's tokens. The logits at t - 1 predict token t."""
    inputs: dict[str, Tensor] = {"input_ids": sequence.ids[None]}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if sequence.pixels is not None and sequence.grid is not None:
        inputs["pixel_values"], inputs["image_grid_thw"] = sequence.pixels, sequence.grid
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    logits = model(**inputs, use_cache=False).logits[0].float() / temperature  # [T, V]
    banned = torch.zeros(logits.shape[-1], dtype=torch.bool)
    banned[media_ids(model)] = True
    logprobs = logits.masked_fill(banned, -torch.inf).log_softmax(-1)
    before = logprobs[sequence.prompt - 1 : -1]  # [R, V]
    return before.gather(1, sequence.ids[sequence.prompt :, None])[:, 0]


def group_advantages(rewards: list[float]) -> list[float]:
    """(r - mean) / standard deviation inside one group; 0 for all when all rewards are equal."""
    if len(set(rewards)) == 1:
        return [0.0] * len(rewards)
    values = torch.tensor(rewards, dtype=torch.float64)
    return ((values - values.mean()) / (values.std() + 1e-9)).tolist()


def sequence_loss(model: Any, sequence: Sequence, clip: float, kl_coef: float, temperature: float = 1.0) -> Tensor:
    """Mean over the reply's tokens of -min(ratio * A, clipped ratio * A) + kl_coef * KL(policy || start model)."""
    logprobs = reply_logprobs(model, sequence, temperature)
    old = logprobs.detach() if sequence.old is None else sequence.old
    ratio = torch.exp(logprobs - old)
    gain = torch.minimum(ratio * sequence.advantage, ratio.clamp(1 - clip, 1 + clip) * sequence.advantage)
    if kl_coef == 0:
        return -gain.mean()
    assert sequence.ref is not None, "a KL term needs the start model's log-probs"
    lag = sequence.ref - logprobs
    return (-gain + kl_coef * (torch.exp(lag) - lag - 1)).mean()


def backward(model: Any, sequences: list[Sequence], clip: float, kl_coef: float, temperature: float = 1.0) -> float:
    """Add the gradient of the mean loss over all sequences; returns that loss."""
    total = 0.0
    for sequence in sequences:
        loss = sequence_loss(model, sequence, clip, kl_coef, temperature) / len(sequences)
        loss.backward()
        total += float(loss.detach())
    return total


def step(model: Any, start: Any, tokenizer: Any, processor: Any, optimizer: Any, tasks: list[Task], args: Any) -> None:
    """Sample, score, credit, update: one step of rule-based RL."""
    sequences: list[Sequence] = []
    rewards: list[float] = []
    for task in tasks:
        group = sample(model, encode(tokenizer, processor, task), args.siblings, args.max_new_tokens)
        texts = [tokenizer.decode(s.ids[s.prompt :], skip_special_tokens=True) for s in group]
        scores = [reward(text, task.answer) for text in texts]
        for sequence, advantage in zip(group, group_advantages(scores), strict=True):
            sequence.advantage = advantage
        sequences, rewards = sequences + group, rewards + scores
    with torch.no_grad():
        for sequence in sequences:
            sequence.old = reply_logprobs(model, sequence)
            sequence.ref = reply_logprobs(start, sequence)
    optimizer.zero_grad()
    loss = backward(model, sequences, clip=0.2, kl_coef=args.kl)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    length = sum(len(s.ids) - s.prompt for s in sequences) / len(sequences)
    print(
        f"reward {sum(rewards) / len(rewards):.3f}  length {length:.1f}  loss {loss:+.5f}  gradient {float(norm):.4f}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="GRPO with pictures in one file")
    parser.add_argument("--model", default=str(MICRO), help="a Qwen2.5-VL folder with tokenizer and processor files")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--siblings", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--kl", type=float, default=0.04)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.model)
    processor = Qwen2VLImageProcessorPil.from_pretrained(args.model)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
    start = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0)
    for index in range(args.steps):
        print(f"step {index + 1}: ", end="")
        tasks = [draw_task(rng) for _ in range(args.prompts)]
        step(model, start, tokenizer, processor, optimizer, tasks, args)


if __name__ == "__main__":
    main()
