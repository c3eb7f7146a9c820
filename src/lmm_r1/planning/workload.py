"""A stage -> the tokens of one of its steps: what is sampled, what is read, and how trainers/collate.py packs it into rows.

Leaves out: seconds and bytes. Lengths are means, all replies as long as the mean; the longest one is kept beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmm_r1.algorithms.published import values_of
from lmm_r1.config import Data, Recipe, Stage
from lmm_r1.planning.assumptions import Setting
from lmm_r1.planning.shapes import Shape

#: trainers.collate.MAX_TREE_ROW, kept equal by a test: this package loads no torch.
MAX_TREE_ROW = 4096


@dataclass(frozen=True, slots=True)
class Load:
    """One step. Tokens are means over a step's replies; `picture` is the part of `prompt` that is a picture (0 = none)."""

    prompts: float  # distinct ones
    replies: float
    reply: float
    longest: float
    prompt: float
    picture: float
    minibatches: int
    rows: float  # of the whole step, as packed for training
    row_tokens: float
    row_replies: float
    micro_tokens: int
    worst_tokens: int  # of one forward and backward pass
    worst_pictures: float  # of such a pass, tokens

    @property
    def sampled(self) -> float:
        """Tokens that the engines write."""
        return self.replies * self.reply

    @property
    def trained(self) -> float:
        """Tokens that the trainer's passes read, shared prompts once a row."""
        return self.rows * self.row_tokens

    @property
    def shared(self) -> bool:
        """Whether rows hold several replies, under a mask."""
        return self.row_replies > 1

    @property
    def row_pairs(self) -> float:
        """Queries times keys of a row: under a mask the whole square is computed, else its causal half."""
        return self.row_tokens**2 if self.shared else self.row_tokens * (self.row_tokens + 1) / 2

    @property
    def micro_rows(self) -> int:
        """Rows of one forward and backward pass."""
        return max(1, int(self.micro_tokens // self.row_tokens))


@dataclass(frozen=True, slots=True)
class Passes:
    """Which networks a stage runs."""

    samples: bool  # False: supervised, nothing is sampled
    critic: bool  # a network of its own
    reference: bool  # KL to the start model
    old: bool  # log-probs of the policy before the step's updates
    values: bool

    @property
    def models(self) -> int:
        """Networks that learn."""
        return 2 if self.critic else 1


def passes_of(stage: Stage) -> Passes:
    """As algorithms.named.make_algorithm decides it."""
    values = values_of(stage.algorithm)
    asked = values.ratio != "none" or (values.kl_place == "reward" and values.kl_coef > 0)
    ppo = values.dealt == "gae"
    separate = ppo and (stage.critic is None or stage.critic.trunk == "separate")
    return Passes(
        samples=values.baseline != "imitate",
        critic=separate,
        reference=values.kl_coef > 0,
        old=asked and stage.update.minibatches > 1,
        values=ppo,
    )


def has_pictures(data: Data) -> bool:
    """Whether a source's problems show pictures; prepared rows do, unless they are kept to the domain "text"."""
    if data.source == "game":
        return data.options.get("see") != "text"
    return data.domain != "text"


def load_of(recipe: Recipe, stage: Stage, shape: Shape, setting: Setting) -> Load:
    """The tokens of one step of a stage."""
    rollout, update = stage.rollout, stage.update
    shows = [data.weight for data in stage.data if has_pictures(data)]
    share = sum(shows) / sum(data.weight for data in stage.data)
    cell = shape.vision.token_pixels()
    largest = recipe.model.max_pixels / cell
    picture = min(max(setting.picture_tokens, recipe.model.min_pixels / cell), largest) * share
    prompt = min(setting.prompt_tokens + picture, rollout.max_prompt_tokens)
    reply = min(setting.reply_tokens, rollout.max_new_tokens)
    longest = min(max(setting.longest_tokens or rollout.max_new_tokens, reply), rollout.max_new_tokens)
    turns = setting.turns if any(data.source == "game" for data in stage.data) else 1.0
    siblings = rollout.siblings if passes_of(stage).samples else 1
    prompts = rollout.prompts * turns  # a game's later turns are prompts of their own
    together = 1.0
    if setting.share_prompts:
        limit = min(update.micro_tokens, MAX_TREE_ROW)
        together = float(min(max(1, math.floor((limit - prompt) / reply)), siblings))
    rows_each = math.ceil(siblings / together)
    row_replies = siblings / rows_each
    row = prompt + row_replies * reply
    worst = max(update.micro_tokens, min(rollout.max_prompt_tokens + rollout.max_new_tokens, recipe.engine.max_context))
    return Load(
        prompts=prompts,
        replies=prompts * siblings,
        reply=reply,
        longest=longest,
        prompt=prompt,
        picture=picture,
        minibatches=update.minibatches,
        rows=prompts * rows_each,
        row_tokens=row,
        row_replies=row_replies,
        micro_tokens=update.micro_tokens,
        worst_tokens=worst,
        worst_pictures=largest * max(1.0, worst // row) if shows else 0.0,
    )
