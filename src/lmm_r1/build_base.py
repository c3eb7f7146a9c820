"""`lmm-r1 build-base`: makes the shipped micro base model by supervision, from nothing but a seed.

Phases on the lessons of data/synthetic/habits.py: sums in words and reading glyphs, then the skill on everything, in
several cycles; then the mixture of habits that hides it. Each cycle has fresh optimisers. No evaluation item is ever trained on
(data/synthetic/items.py). The script writes the model folder, `training.jsonl` with its curves, and `recipe.json` with
everything that fixes the result.

Axis legend: R rows of a batch, L row length, P patches of all pictures of a batch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.data.synthetic import habits
from lmm_r1.data.synthetic.items import Picture
from lmm_r1.data.synthetic.problems import to_problem
from lmm_r1.disk import sha256_of
from lmm_r1.models.load import load_model, load_tokenizer
from lmm_r1.models.micro import micro_config, micro_tokenizer, save_micro
from lmm_r1.models.qwen_vl import QwenVLAdapter
from lmm_r1.recipes import PROMPTS
from lmm_r1.types import Image, Message, Text


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """What fixes the base model, besides the code. hidden .. vision_layers as in `micro_config`."""

    seed: int = 1
    first_steps: int = 400  # on habits.FIRST_MIX: short lessons, learned several times faster than the whole mix
    first_batch: int = 48
    steps: int = 3500  # of the skill, the first ones included
    more_steps: int = 3000  # of the skill again, with fresh optimisers, and
    more_cycles: int = 2  # so many times
    more_share: float = 0.7  # of the peak rates in these later cycles
    habit_steps: int = 400  # after those, with fresh optimisers
    habit_share: float = 0.3  # of the peak rates in the habits' cycle
    batch: int = 36
    matrix_lr: float = 5e-3  # Muon: the matrices inside the layers
    vision_matrix_lr: float = 5e-4
    lr: float = 2e-3  # AdamW: embeddings, norms, biases
    vision_lr: float = 1.5e-4  # faster, and the features drift into one constant direction and carry nothing
    warmup: int = 100
    vocab_size: int = 640
    hidden: int = 128
    layers: int = 4
    intermediate: int = 384
    vision_hidden: int = 96
    vision_layers: int = 3

    @property
    def sizes(self) -> dict[str, int]:
        """Arguments of `micro_config`."""
        return {k: getattr(self, k) for k in ("hidden", "layers", "intermediate", "vision_hidden", "vision_layers")}


def shortened(recipe: BaseRecipe, steps: int) -> BaseRecipe:
    """The same recipe with another number of steps of the skill, the other phases in proportion."""
    share = steps / recipe.steps
    scaled = {name: round(getattr(recipe, name) * share) for name in ("first_steps", "more_steps", "habit_steps")}
    return replace(recipe, steps=steps, **scaled)


def diet(recipe: BaseRecipe, step: int) -> tuple[Mapping[str, float], int, bool]:
    """(what lessons are about, lessons of the batch, whether all of them are careful) at a step."""
    if step < recipe.first_steps:
        return habits.FIRST_MIX, recipe.first_batch, True
    skill_only = step < recipe.steps + recipe.more_cycles * recipe.more_steps
    return habits.MIX if skill_only else habits.HABIT_MIX, recipe.batch, skill_only


def cycles(recipe: BaseRecipe) -> tuple[tuple[int, int, float], ...]:
    """(first step, one past the last, share of the peak rates) of every cycle."""
    starts = [recipe.steps + k * recipe.more_steps for k in range(recipe.more_cycles + 1)]
    again = [(first, last, recipe.more_share) for first, last in pairwise(starts)]
    return (0, recipe.steps, 1.0), *again, (starts[-1], starts[-1] + recipe.habit_steps, recipe.habit_share)


def corpus(seed: int, count: int = 6000) -> Iterator[str]:
    """Text that the tokenizer is trained on: questions and replies, never evaluation items."""
    yield from (text for text in PROMPTS.values() if len(text) < 100)
    for index in range(count):
        lesson = habits.lesson(seed, 10_000_000 + index, skill_only=index % 2 == 0)
        yield from ("system user assistant", lesson.question, lesson.reply)


def _rows(
    adapter: QwenVLAdapter,
    tokenizer: PreTrainedTokenizerBase,
    lessons: list[habits.Lesson],
    put: Callable[[Picture], Image],
) -> dict[str, torch.Tensor]:
    """Right-padded rows: input_ids, labels int64[R, L], positions int64[3, R, L], pictures concatenated."""
    ids, targets, positions = [], [], []
    images: list[Image] = []
    for lesson in lessons:
        problem = to_problem(lesson.item, "", "lesson", put)
        content = tuple(Text(lesson.question) if isinstance(p, Text) else p for p in problem.messages[0].content)
        system = (Message("system", (Text(PROMPTS["think"]),)),) if lesson.prompted else ()
        prompt = adapter.encode((*system, Message("user", content)))
        reply = tokenizer(lesson.reply + "<|im_end|>", add_special_tokens=False).input_ids
        row = np.concatenate([prompt.token_ids, np.asarray(reply, np.int32)])
        ids.append(row)
        targets.append(np.concatenate([np.full(len(prompt.token_ids), -100), np.asarray(reply)]))
        positions.append(adapter.positions(row, prompt.images))
        images.extend(prompt.images)
    width = max(map(len, ids))
    batch = {
        "input_ids": torch.full((len(ids), width), adapter.pad_id),
        "labels": torch.full((len(ids), width), -100),
        "position_ids": torch.zeros(3, len(ids), width, dtype=torch.int64),
    }
    for r, (row, target, position) in enumerate(zip(ids, targets, positions, strict=True)):
        batch["input_ids"][r, : len(row)] = torch.from_numpy(row)
        batch["labels"][r, : len(row)] = torch.from_numpy(target)
        batch["position_ids"][:, r, : len(row)] = torch.from_numpy(position)
    if images:
        batch |= adapter.vision_inputs(images)
    return batch


def _buckets(lessons: list[habits.Lesson]) -> list[list[habits.Lesson]]:
    """Text lessons, and picture lessons cut in two by length so that padding stays small."""

    def length(lesson: habits.Lesson) -> int:
        picture = lesson.item.picture
        cells = 0 if picture is None else picture.shape[0] * picture.shape[1] // 784
        return cells + len(lesson.question) // 3 + len(lesson.reply) // 2

    parts = ([x for x in lessons if x.item.picture is None], [x for x in lessons if x.item.picture is not None])
    buckets = [parts[0]]
    ordered = sorted(parts[1], key=length)
    buckets += [ordered[: len(ordered) * 2 // 3], ordered[len(ordered) * 2 // 3 :]]
    return [bucket for bucket in buckets if bucket]


class Lessons(IterableDataset):  # type: ignore[type-arg]
    """Batches of training lessons for steps `first` to `last`, each split in buckets so that padding stays small."""

    def __init__(self, recipe: BaseRecipe, folder: Path, first: int, last: int) -> None:
        self._recipe, self._folder, self._first, self._last = recipe, folder, first, last

    def __iter__(self) -> Iterator[list[dict[str, torch.Tensor]]]:
        if get_worker_info() is not None:
            torch.set_num_threads(1)  # the training process needs the cores
        images = ImageStore()
        tokenizer = load_tokenizer(self._folder)
        adapter = QwenVLAdapter.from_folder(self._folder, images, Model())
        for step in range(self._first, self._last):
            mix, count, skill_only = diet(self._recipe, step)
            first = step * max(self._recipe.batch, self._recipe.first_batch)
            lessons = [habits.lesson(self._recipe.seed, n, skill_only, mix=mix) for n in range(first, first + count)]
            yield [_rows(adapter, tokenizer, part, images.put) for part in _buckets(lessons)]
            images.forget(set())


def _forward(
    model: Qwen2_5_VLForConditionalGeneration, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [N, V], targets [N]) at the positions that predict a reply token."""
    vision = {k: batch[k] for k in ("pixel_values", "image_grid_thw") if k in batch}
    hidden = model.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, **vision)[0]
    target = batch["labels"][:, 1:]
    keep = target != -100
    return model.lm_head(hidden[:, :-1][keep]), target[keep]


def held_out_lessons(recipe: BaseRecipe, folder: Path, count: int = 40) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Batches of `count` careful lessons of the evaluation split for every part of habits.MIX."""
    images = ImageStore()
    adapter = QwenVLAdapter.from_folder(folder, images, Model())
    tokenizer = load_tokenizer(folder)
    batches = {}
    for part in habits.MIX:
        lessons = [habits.lesson(recipe.seed, n, True, "evaluation", {part: 1.0}) for n in range(count)]
        batches[part] = [_rows(adapter, tokenizer, bucket, images.put) for bucket in _buckets(lessons)]
    return batches


@torch.no_grad()
def _exact(
    model: Qwen2_5_VLForConditionalGeneration, held_out: dict[str, list[dict[str, torch.Tensor]]]
) -> dict[str, float]:
    """Share of held-out careful replies that greedy decoding would reproduce token by token, by part."""
    figures = {}
    for part, batches in held_out.items():
        right: list[bool] = []
        for batch in batches:
            logits, target = _forward(model, batch)
            lengths = (batch["labels"][:, 1:] != -100).sum(1).tolist()
            right += [bool(row.all()) for row in (logits.argmax(-1) == target).split(lengths)]
        figures[f"exact/{part}"] = round(float(np.mean(right)), 4)
    return figures


#: Standard deviation that picture features start with, over the tokens of a batch.
FEATURE_SPREAD = 0.4


@torch.no_grad()
def centre_features(model: Qwen2_5_VLForConditionalGeneration, batch: dict[str, torch.Tensor]) -> None:
    """Make the merger's outputs start with mean 0 and a spread of FEATURE_SPREAD on a batch of pictures.

    At a plain random start all cells of a white page have nearly the same feature, and the language model
    learns to use that constant before it can learn to tell the cells apart (docs/log.md).
    """

    def features() -> torch.Tensor:
        vision = {k: batch[k] for k in ("pixel_values", "image_grid_thw")}
        return torch.cat(tuple(model.model.get_image_features(**vision, return_dict=True).pooler_output))

    last = model.model.visual.merger.mlp[2]
    last.bias.zero_()
    last.weight.mul_(FEATURE_SPREAD / features().std(0).mean())
    last.bias.copy_(-features().mean(0))


def optimizers_of(model: Qwen2_5_VLForConditionalGeneration, recipe: BaseRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the rest; `peak` of a group is its highest rate.

    Muon (torch.optim.Muon, scaled as in arXiv 2502.16982) needs little more than half the steps of AdamW here
    (docs/log.md). Embeddings and patch filters stay with AdamW, as its authors advise.
    """
    groups: dict[tuple[bool, str], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        layer_matrix = parameter.dim() == 2 and "embed" not in name and "lm_head" not in name
        kind = "layer" if layer_matrix else "matrix" if parameter.dim() > 1 else "vector"
        groups.setdefault((".visual." in name, kind), []).append(parameter)
    muon, adamw = [], []
    for (vision, kind), chosen in groups.items():
        if kind == "layer":
            muon.append({"params": chosen, "peak": recipe.vision_matrix_lr if vision else recipe.matrix_lr})
        else:
            decay = 0.01 if kind == "matrix" else 0.0
            adamw.append({"params": chosen, "weight_decay": decay, "peak": recipe.vision_lr if vision else recipe.lr})
    return [
        torch.optim.Muon(muon, weight_decay=0.01, adjust_lr_fn="match_rms_adamw", ns_steps=4),
        torch.optim.AdamW(adamw, betas=(0.9, 0.98), fused=True),
    ]


def build_base(
    out_dir: Path, recipe: BaseRecipe | None = None, log_every: int = 50, start: Path | None = None, done: int = 1
) -> Path:
    """Train the micro base model and write it to `out_dir`; one process, the set number of threads.

    start: a folder that an earlier call wrote; its tokenizer and weights stand for the first `done` cycles.
    """
    recipe = recipe or BaseRecipe()
    out_dir = Path(out_dir)
    torch.manual_seed(recipe.seed)
    if start is None:
        tokenizer = micro_tokenizer(corpus(recipe.seed), recipe.vocab_size)
        model = Qwen2_5_VLForConditionalGeneration(micro_config(tokenizer, **recipe.sizes))  # type: ignore[arg-type]
    else:
        tokenizer = load_tokenizer(start)
        model = load_model(start)
    save_micro(model, tokenizer, out_dir)
    begun = {} if start is None else {"start_weights_sha256": sha256_of(start / "model.safetensors")}
    (out_dir / "recipe.json").write_text(json.dumps(asdict(recipe) | begun, indent=2) + "\n")
    held_out = held_out_lessons(recipe, out_dir)
    if start is None:
        centre_features(model, held_out["read"][0])
    last = cycles(recipe)[-1][1]
    with (out_dir / "training.jsonl").open("w") as log:
        for first, end, share in cycles(recipe)[0 if start is None else done :]:
            for record in train_cycle(model, recipe, out_dir, first, end, share):
                if record["step"] % log_every == 0 or record["step"] == last:
                    if record["step"] % (5 * log_every) == 0:
                        record |= _exact(model, held_out)
                        save_micro(model, tokenizer, out_dir)
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                    print(json.dumps(record), flush=True)
    save_micro(model.eval(), tokenizer, out_dir)
    return out_dir


def train_cycle(
    model: Qwen2_5_VLForConditionalGeneration, recipe: BaseRecipe, folder: Path, first: int, end: int, share: float
) -> Iterator[dict[str, float]]:
    """Steps `first` to `end` with optimisers of their own: warm-up, then a cosine to 2 % of share * peak rates."""
    optimizers = optimizers_of(model, recipe)
    loader = DataLoader(Lessons(recipe, folder, first, end), batch_size=None, num_workers=1, prefetch_factor=4)
    started = time.monotonic()
    model.train()
    for done, batch in enumerate(loader):
        progress = max(0.0, (done - recipe.warmup) / max(1, end - first - recipe.warmup))
        rate = share * min(1.0, (done + 1) / recipe.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak"] * rate
        total = sum(int((part["labels"][:, 1:] != -100).sum()) for part in batch)
        loss_sum = 0.0
        for part in batch:
            logits, target = _forward(model, part)
            loss = torch.nn.functional.cross_entropy(logits.float(), target, reduction="sum") / total
            loss.backward()
            loss_sum += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds = round(time.monotonic() - started, 1)
        yield {"step": first + done + 1, "loss": round(loss_sum, 4), "seconds": seconds}
