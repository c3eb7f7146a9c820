"""A tiny random Qwen2.5-VL, an adapter that owes nothing to the package's, made-up rollouts, and the plain forward pass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen2_5_VLForConditionalGeneration

from lmm_r1.models.micro import micro_config, micro_tokenizer
from lmm_r1.types import Encoded, Image, Int32, Message, Problem, Rollout, Turn


class PlainAdapter:
    """Positions from transformers' own get_rope_index; pixels drawn from the sha."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration) -> None:
        self._model = model
        config = model.config
        self.image_id = config.image_token_id
        self.stop_ids = (int(config.text_config.eos_token_id),)
        self.banned_ids = (config.image_token_id, config.video_token_id)
        self.pad_id = int(config.text_config.pad_token_id)

    def encode(self, messages: Sequence[Message]) -> Encoded:
        raise NotImplementedError

    def encode_feedback(self, messages: Sequence[Message]) -> Encoded:
        raise NotImplementedError

    def decode(self, token_ids: Int32) -> str:
        raise NotImplementedError

    def vision_inputs(self, images: Sequence[Image]) -> dict[str, torch.Tensor]:
        pixels, grids = [], []
        for image in images:
            rows, cols = image.height // 14, image.width // 14
            seed = int(hashlib.sha256(image.sha.encode()).hexdigest()[:8], 16)
            pixels.append(torch.randn(rows * cols, 1176, generator=torch.Generator().manual_seed(seed)))
            grids.append([1, rows, cols])
        return {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.tensor(grids)}

    def positions(self, token_ids: Int32, images: Sequence[Image]) -> NDArray[np.int64]:
        ids = torch.from_numpy(token_ids.astype(np.int64))[None]
        if not images:
            return np.broadcast_to(np.arange(len(token_ids)), (3, len(token_ids)))
        grid = self.vision_inputs(images)["image_grid_thw"]
        kinds = (ids == self.image_id).int()
        return self._model.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grid)[0][:, 0].numpy()


def random_model(
    seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: int | bool
) -> Qwen2_5_VLForConditionalGeneration:
    """A tiny model whose weights are large enough for every part to matter."""
    torch.manual_seed(seed)
    small = {"hidden": 64, "layers": 2, "intermediate": 96, "vision_hidden": 64, "vision_layers": 2} | sizes
    model = Qwen2_5_VLForConditionalGeneration(micro_config(micro_tokenizer(), **small))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    return model.to(dtype).eval()


def make_rollout(
    model: Qwen2_5_VLForConditionalGeneration,
    problem: str,
    sibling: int,
    length: int,
    images: Sequence[Image] = (),
    feedback: Sequence[Image] = (),
    prompt_tokens: int = 9,
) -> Rollout:
    """prompt with `images`, a random reply; then, with `feedback`, one untrained turn with pictures and a reply."""
    config = model.config
    prompt_rng = np.random.default_rng(abs(hash_of(problem)))
    rng = np.random.default_rng(abs(hash_of(f"{problem}/{sibling}")))

    def picture(image: Image) -> list[int]:
        count = image.height // 28 * (image.width // 28)
        return [config.vision_start_token_id, *[config.image_token_id] * count, config.video_token_id - 3]

    def words(count: int, source: np.random.Generator) -> list[int]:
        return [int(t) for t in source.integers(0, 200, count)]

    prompt = words(prompt_tokens, prompt_rng)
    for image in images:
        prompt += picture(image) + words(3, prompt_rng)
    reply = words(length, rng)
    tokens, trainable = prompt + reply, [False] * len(prompt) + [True] * len(reply)
    for image in feedback:
        told, again = picture(image) + words(2, rng), words(3, rng)
        tokens, trainable = tokens + told + again, trainable + [False] * len(told) + [True] * len(again)
    flags = np.array(trainable)
    logprobs = np.where(flags, -np.abs(rng.normal(size=len(tokens))), 0.0).astype(np.float32)
    turns = (Turn(len(prompt), len(prompt) + length, ""),)
    owner = Problem(id=problem, messages=(), answer="")
    ids = np.array(tokens, dtype=np.int32)
    return Rollout(owner, sibling, 0, 0, ids, flags, logprobs, (*images, *feedback), turns, "eos", ((0, 0),))


def hash_of(text: str) -> int:
    """A stable seed."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def plain_logprobs(
    model: Qwen2_5_VLForConditionalGeneration, adapter: PlainAdapter, rollout: Rollout, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probs of the trainable tokens through transformers' own forward, one sequence, nothing packed; [n]."""
    ids = torch.from_numpy(rollout.token_ids.astype(np.int64))[None]
    more = {}
    if rollout.images:
        more = adapter.vision_inputs(rollout.images) | {"mm_token_type_ids": (ids == adapter.image_id).int()}
        more["pixel_values"] = more["pixel_values"].to(model.dtype)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more).logits[0]
    logits = logits / temperature
    logits[:, list(adapter.banned_ids)] = -torch.inf
    logprobs = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    return logprobs[torch.from_numpy(rollout.trainable[1:].copy())]


def flat_gradient(model: torch.nn.Module) -> torch.Tensor:
    """The concatenated gradient, float64."""
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])
