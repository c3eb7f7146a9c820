"""Every knob, as frozen pydantic models; a recipe is a TOML file of these. Unknown keys are errors.

A stage names the stage it starts from, so a recipe is a graph: base -> fre_text -> mgt_geo, with
base -> direct_geo as a control arm. Reading files, overrides and messages live in recipes.py.
Sources of the published values: arXiv 2503.07536, Table A7, and section 3.2 for the reward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class Knobs(BaseModel):
    """Base of all tables: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Model(Knobs):
    """Which weights the run starts from."""

    base: str = Field("micro", description='"micro" = the shipped micro LMM, else a Hugging Face folder or hub id')
    min_pixels: Positive = Field(28 * 28, description="smallest canonical picture, pixels")
    max_pixels: Positive = Field(
        14 * 8 * 28 * 28, description="largest canonical picture, pixels; larger ones are resized"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the trained weights and the forward pass")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto = cuda where the run is started on a machine with a device"
    )
    trust_remote_code: bool = Field(False, description="run code that a model folder ships; never on by default")
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")


class Engine(Knobs):
    """The engine that samples replies."""

    kind: Literal["embedded", "vllm"] = Field(
        "embedded",
        description='embedded = the package\'s own; vllm = vLLM in this process, see docs/scale.md (pip install "lmm-r1[vllm]")',
    )
    slots: Positive = Field(128, description="replies decoded at once; finished slots are refilled")
    max_context: Positive = Field(1024, description="tokens of prompt and reply together")
    prefill_tokens: Positive = Field(8192, description="prompt tokens of one prefill batch; vllm: at least max_context")
    gpu_memory_utilization: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="vllm: share of the device's memory for its weights and cache (of the machine's, for the cache alone, on a CPU); "
        "None = 0.4: the trainer needs the rest",
    )
    enforce_eager: bool | None = Field(
        None, description="vllm: no CUDA graphs: starts sooner, samples slower; None = false (a CPU never has them)"
    )

    @model_validator(mode="after")
    def _vllm_fields(self) -> Engine:
        for name in ("gpu_memory_utilization", "enforce_eager"):
            if getattr(self, name) is not None and self.kind != "vllm":
                raise ValueError(f'{name} is of kind "vllm" alone')
        return self


class Data(Knobs):
    """One source of problems; a stage may mix several."""

    source: Literal["synthetic", "problems", "game"] = Field(
        "synthetic", description='"problems" reads a prepared problems.jsonl, "game" makes episodes of `game`'
    )
    domain: Literal["text", "geometry", "perception"] | None = Field(
        None, description="synthetic: which part; problems: keep only rows of this domain"
    )
    families: tuple[str, ...] = Field((), description="synthetic: families of the domain; empty = all")
    game: str = Field("", description='game: "sokoban", "football", or your own as "module:attribute"')
    options: dict[str, bool | int | float | str | list[str] | list[int] | list[float]] = Field(
        {}, description="game: its options, as docs/games.md lists them"
    )
    path: str = Field("", description="problems: the JSONL file, relative to the recipe")
    obtain: str = Field("", description="problems: how a user gets the file when it is absent")
    solutions: bool = Field(False, description="synthetic: with worked solutions, for algorithm sft")
    weight: float = Field(1.0, gt=0, description="share of this source in the mixture, relative")
    items: int = Field(0, ge=0, description="synthetic, game: only the first so many problems; 0 = endless")
    seed: int | None = Field(None, ge=0, description="synthetic, game: of the problems; None = derived from the run's")
    difficulty: str = Field(
        "", description="pass rates of the rows, as `lmm-r1 difficulty` writes them, relative to the recipe"
    )
    keep_between: tuple[float, float] | None = Field(
        None,
        description="keep rows with low < pass rate < high; [0, 1] drops those never and always solved, [-1, 1] only the latter",
    )
    order: Literal["shuffle", "easy_to_hard", "window"] = Field(
        "shuffle",
        description="of the rows: shuffled each epoch, from high pass rates to low, or a window that moves so",
    )
    window: float | None = Field(
        None, gt=0, le=1, description="order window: share of the rows that are in it at one time; None = 0.3"
    )

    @model_validator(mode="after")
    def _source_fields(self) -> Data:
        if self.source == "synthetic" and self.domain is None:
            raise ValueError('source = "synthetic" needs domain = "text", "geometry" or "perception"')
        if self.source == "game" and not self.game:
            raise ValueError('source = "game" needs game = "sokoban", "football" or "module:attribute"')
        if self.source != "game" and (self.game or self.options):
            raise ValueError('game and options belong to source = "game"')
        if self.source == "game" and self.difficulty:
            raise ValueError("pass rates of a game's episodes are not measured: difficulty belongs to rows")
        if self.source == "problems" and not self.path:
            raise ValueError('source = "problems" needs path')
        if self.source == "problems" and (self.items or self.seed is not None):
            raise ValueError('items and seed belong to source = "synthetic" and "game"')
        if (self.keep_between or self.order != "shuffle") and not self.difficulty:
            raise ValueError("keep_between and order need difficulty, the file of pass rates")
        if self.window is not None and self.order != "window":
            raise ValueError('window belongs to order = "window"')
        if self.keep_between and self.keep_between[0] >= self.keep_between[1]:
            raise ValueError("keep_between = [low, high] needs low < high")
        if self.source == "synthetic" and self.difficulty and (not self.items or self.seed is None):
            raise ValueError("synthetic problems with difficulty need the items and the seed that were measured")
        return self


class Window(Knobs):
    """Memory of a game's last turns alone. Published (C.3 of the paper): one picture, five actions."""

    pictures: Positive = Field(1, description="last pictures that a prompt shows, the present one included")
    actions: int = Field(5, ge=0, description="last actions that a prompt tells")


class RolloutConfig(Knobs):
    """How a step's replies are sampled. Paper Table A7: 128 prompts (256 for the others) x 16 samples,
    temperature 1, 8192 new tokens."""

    prompts: Positive = Field(16, description="problems per step")
    siblings: Positive = Field(8, description="replies per problem (group size)")
    max_new_tokens: Positive = Field(64, description="per reply")
    max_prompt_tokens: Positive = Field(512, description="longer prompts are dropped and counted, never truncated")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of every log-prob")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling; 1 = off, as published")
    memory: Literal["full"] | Window = Field(
        "full", description="games: full = one growing stream; { pictures, actions } = a fresh prompt every turn"
    )
    max_turns: Positive | None = Field(None, description="games: turns of an episode at most; None = as the game says")
    slips: Fraction = Field(
        0.0,
        description="games, supervised: share of turns that the random player plays in the expert's episodes: a habit "
        "that RL can weed out",
    )
    max_rounds: Positive | None = Field(
        None, description="sampling rounds to fill a step when groups are discarded; None = 1, with dapo 10"
    )


class Reward(Knobs):
    """r = format * format_ok + accuracy * answer_right (paper section 3.2; 0.5 in the released code)."""

    format: float = Field(0.5, ge=0, description="weight of the format part")
    accuracy: float = Field(1.0, ge=0, description="weight of the accuracy part")
    shuffle: bool = Field(False, description="control arm: deal the scores of a step to its replies at random")
    verifier: str = Field(
        "", description='"" = the one each problem names; else "module:function" or "http://host:port"'
    )
    limit_s: float = Field(1.0, gt=0, le=600, description="seconds a call of your own verifier may take")
    workers: int = Field(2, ge=1, le=64, description="replies that your own verifier judges at a time")
    compat: Literal["none", "paper"] = Field("none", description='"paper": the released accuracy rule with its holes')


#: Algorithms that compare no siblings: a group of one will do.
WITHOUT_GROUPS = ("ppo", "remax", "reinforce_pp", "sft")


class AlgorithmConfig(Knobs):
    """Chosen by name; None = the value of the named algorithm as published."""

    name: Literal[
        "ppo", "grpo", "dr_grpo", "rloo", "remax", "reinforce_pp", "reinforce_pp_baseline", "dapo", "gspo", "cispo", "sft"
    ] = Field("grpo", description="key of algorithms.named.ALGORITHMS")  # fmt: skip
    clip_low: float | None = Field(None, gt=0, lt=1, description="lower clip range of the ratio")
    clip_high: float | None = Field(None, gt=0, description="upper clip range of the ratio")
    dual_clip: float | None = Field(None, gt=1, description="bound on the loss of a token with a negative advantage")
    kl_coef: float | None = Field(None, ge=0, description="KL to the stage's start model; 0 = no reference model")
    kl_place: Literal["loss", "reward"] | None = Field(None, description="where the KL term stands")
    kl_estimator: Literal["k1", "k2", "k3"] | None = Field(None, description="estimator of the KL term")
    kl_target: float | None = Field(
        None,
        gt=0,
        description="KL to the start model, nats a token, that the coefficient is steered towards; None = fixed",
    )
    kl_horizon: Positive | None = Field(
        None, description="episodes over which a steered coefficient moves by its largest step; None = 10000"
    )
    entropy_coef: float | None = Field(None, ge=0, description="weight of an entropy bonus")
    reduction: Literal["token", "sequence", "constant", "sum"] | None = Field(
        None, description="how per-token losses are averaged; constant = over rollout.max_new_tokens"
    )
    overlong_buffer: Fraction | None = Field(
        None, description="share of rollout.max_new_tokens over which a long reply's reward falls by 1 (DAPO)"
    )
    gamma: float | None = Field(None, gt=0, le=1, description="ppo: discount of a later reward, per token")
    lam: Fraction | None = Field(None, description="ppo: lambda of GAE; 1 = rewards alone, 0 = the next value alone")
    value_clip: float | None = Field(
        None, gt=0, description="ppo: how far a value may move from its old one in the loss"
    )
    importance: Literal["auto", "none", "truncate", "mask"] = Field(
        "auto",
        description="correction for a sampler that is not quite the trainer; truncate = TIS; auto = truncate where they "
        "compute differently (another engine, a dtype narrower than float32, 4-bit weights), else none",
    )
    importance_level: Literal["token", "sequence"] = Field("token", description="of that correction's ratio")
    importance_cap: float = Field(2.0, gt=1, description="its largest ratio; mask: and the inverse of its smallest")


class Critic(Knobs):
    """The value model of ppo. Published: a separate LMM, learning rate 9e-6 (Sokoban 5e-6), no warm-up."""

    trunk: Literal["separate", "shared"] = Field(
        "separate", description="separate = an LMM of its own from the stage's start weights; shared = the policy's"
    )
    lr: float = Field(9e-6, gt=0, description="peak learning rate; over the stage like the policy's")
    warmup: int = Field(0, ge=0, description="rollout steps in which the critic learns and the policy stays")
    coef: float | None = Field(
        None, gt=0, description="shared: weight of the value loss beside the policy's; None = 0.1"
    )

    @model_validator(mode="after")
    def _shared(self) -> Critic:
        if self.coef is not None and self.trunk == "separate":
            raise ValueError("a separate critic has a loss of its own: coef weighs that of a shared trunk")
        return self


class Lora(Knobs):
    """Low-rank adapters in place of the weights (LoRA, arXiv 2106.09685; QLoRA, arXiv 2305.14314)."""

    rank: Positive = Field(64, description="of each adapter")
    alpha: float = Field(128.0, gt=0, description="an adapter's product is scaled by alpha / rank")
    parts: tuple[Literal["vision", "merger", "language"], ...] = Field(
        ("language",), min_length=1, description="whose linear layers get adapters; all else is frozen"
    )
    four_bit: bool = Field(False, description="hold the language part in 4 bits (nf4); needs bitsandbytes")


class Update(Knobs):
    """The optimiser. Published: AdamW betas (0.9, 0.95), weight decay 0, clip 1.0, warm-up 0.03, cosine to 10 %."""

    lr: float = Field(1e-6, gt=0, description="peak learning rate")
    minibatches: Positive = Field(1, description="optimiser steps per rollout step; whole groups are dealt to them")
    micro_tokens: Positive = Field(8192, description="tokens (padding included) of one forward and backward pass")
    shuffle: Literal["groups", "samples"] = Field(
        "groups", description='"samples" is the released code: groups are split'
    )
    warmup: Fraction = Field(0.03, description="share of the stage's optimiser steps")
    final_lr: Fraction = Field(0.1, description="share of the peak at the end of the cosine")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="global L2 norm")
    freeze: tuple[Literal["vision", "merger", "language"], ...] = Field(
        (), description="parts not trained, in the policy and in a critic's own trunk"
    )
    lr_scale: dict[Literal["vision", "merger", "language"], Annotated[float, Field(gt=0)]] = Field(
        {},
        description="learning rate of a part as a multiple of lr, for example { vision = 0.1 }; not of a critic's head",
    )
    reference_reset: int = Field(
        0, ge=0, description="rollout steps after which the reference model becomes the current policy; 0 = never"
    )


class Evaluate(Knobs):
    """Held-out sets, evaluated at base and after each stage."""

    sets: tuple[str, ...] = Field(("text", "geometry", "perception"), description="names of evaluation.suites.SUITES")
    items: Positive = Field(500, description="items of each set; the sets are fixed, this takes the first ones")
    every: int = Field(0, ge=0, description="also every so many steps inside a stage; 0 = only at its end")
    blind: int = Field(0, ge=0, description="so many items of each set with pictures are also answered with blank ones")
    prompt: str = Field("think", description="prompt profile")
    also_without_prompt: bool = Field(True, description="evaluate the base without the system prompt too (paper C.2)")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    max_new_tokens: Positive = Field(64, description="per reply")
    memory: Literal["suite", "full"] | Window = Field("suite", description="games: as in rollout; suite = as published")


class Save(Knobs):
    """Checkpoints and kept rollouts."""

    every: int = Field(10, ge=0, description="steps between checkpoints; 0 = only at the stage's end")
    keep: Positive = Field(2, description="checkpoints kept; never fewer than one good one")
    rollout_groups: int = Field(16, ge=0, description="groups of a step kept for the report")


class Cluster(Knobs):
    """Processes beside this one, in a Ray cluster (docs/scale.md); without an address everything runs in one process."""

    address: str = Field(
        "",
        pattern=r"^(|local|auto|[^\s:/]+:\d+)$",
        description='"" = no cluster; "local" = start Ray on this machine; "auto" or "host:port" = one that is running',
    )
    ranks: Positive = Field(1, description="trainer processes")
    engines: Positive = Field(1, description="engine processes")
    layout: Literal["colocated", "split"] = Field(
        "colocated", description="rank i and engine i share a GPU, or each has its own"
    )
    weights: Literal["auto", "store", "shared", "broadcast"] = Field(
        "auto",
        description="how weights reach engines: through Ray's store in the host's memory; from rank to engine on the device that they "
        'share (CUDA IPC); from the first rank to all engines (NCCL); "auto" = on GPUs by the layout, else the store',
    )
    ahead: int = Field(
        0, ge=0, le=1, description="steps that sampling may be ahead of learning; importance weights correct for it"
    )
    sequence: Positive = Field(
        1, description="neighbouring ranks that share every row, so that long replies fit; it divides ranks"
    )
    offload: bool = Field(False, description="keep the ranks' shards in host memory between uses (FSDP2's CPU offload)")
    lost_s: float = Field(60.0, gt=0, description="seconds without a sign of life after which a worker counts as lost")
    stacks_s: float = Field(
        600.0,
        gt=0,
        description="seconds without the end of any call that is waited for after which its workers' stacks are written to workers/",
    )
    restarts: int = Field(3, ge=0, description="how many times lost workers may be started anew in a run")

    @model_validator(mode="after")
    def _elsewhere(self) -> Cluster:
        alone = {"ranks": 1, "engines": 1, "sequence": 1, "ahead": 0, "offload": False, "weights": "auto"}
        odd = [name for name, value in alone.items() if getattr(self, name) != value]
        if odd and not self.address:
            raise ValueError(f"{', '.join(odd)}: only processes of a cluster know it; set cluster.address")
        if self.ahead and self.layout != "split":
            raise ValueError('ahead = 1 keeps engines and ranks busy at once: set cluster.layout = "split"')
        if self.weights == "shared" and (self.layout != "colocated" or self.engines > self.ranks):
            raise ValueError(
                'weights = "shared" needs a rank on the device of every engine: colocated, engines <= ranks'
            )
        if self.weights == "broadcast" and self.layout != "split":
            raise ValueError('weights = "broadcast" needs a device for every engine: set cluster.layout = "split"')
        if self.ranks % self.sequence:
            raise ValueError(f"ranks = {self.ranks} cannot share rows by sequence = {self.sequence}")
        return self


class Guards(Knobs):
    """Numbers that stop a run."""

    max_logprob_gap: float | None = Field(
        None,
        gt=0,
        description="sampler against trainer before the first update of a step, largest per-token difference, nats; "
        "None = 0.05 in float32, 10 in bfloat16, where single tokens scatter",
    )
    mean_logprob_gap: float | None = Field(
        None, gt=0, description="the same in the mean over all tokens that are trained on, nats; None = 0.05"
    )
    max_skipped_share: Fraction = Field(
        0.05,
        description="share of the replies of a step, or of an evaluation, that verifiers may fail on before the run stops",
    )


class Stage(Knobs):
    """One stage of rule-based RL: FRE and MGT are two of these."""

    start: str = Field(
        "base", alias="from", description='"base", or the stage whose final weights this one starts from'
    )
    steps: Positive = Field(..., description="rollout steps")
    rollouts_of: tuple[str, ...] = Field(
        (), description="control arms: the stages whose rollouts together must equal this stage's (checked)"
    )
    prompt: str = Field("think", description="prompt profile")
    data: tuple[Data, ...] = Field(..., min_length=1, description="mixture of sources")
    rollout: RolloutConfig = RolloutConfig()
    reward: Reward = Reward()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    critic: Critic | None = Field(None, description="of ppo; None = the published one")
    lora: Lora | None = Field(None, description="train adapters instead of the weights; None = all weights")
    update: Update = Update()

    @property
    def episodes(self) -> int:
        """Replies sampled over the whole stage."""
        return self.steps * self.rollout.prompts * self.rollout.siblings

    @model_validator(mode="after")
    def _divides(self) -> Stage:
        wrong: list[str] = []
        if self.update.minibatches > self.rollout.prompts:
            wrong.append(
                f"update.minibatches = {self.update.minibatches} needs at least as many rollout.prompts "
                f"(now {self.rollout.prompts}): whole groups are dealt"
            )
        if self.rollout.siblings < 2 and self.algorithm.name not in WITHOUT_GROUPS:
            wrong.append("rollout.siblings must be at least 2: a group of one has no baseline")
        if self.critic is not None and self.algorithm.name != "ppo":
            wrong.append(f"{self.algorithm.name} has no critic: a critic table belongs to ppo")
        if {"vision", "merger", "language"} - set(self.update.freeze) == set():
            wrong.append("update.freeze leaves nothing to train")
        if self.lora is not None and set(self.lora.parts) & set(self.update.freeze):
            wrong.append("lora.parts and update.freeze name the same part: its adapters would never learn")
        if self.lora is not None and self.update.reference_reset:
            wrong.append(
                "update.reference_reset does not go with lora: the start model under the adapters is the reference"
            )
        if self.reward.format == 0 and self.reward.accuracy == 0:
            wrong.append("reward.format and reward.accuracy are both 0: nothing to learn from")
        if wrong:  # all of them at once, a line each
            raise ValueError("\n".join(wrong))
        return self


#: Scripted players of games, which stand beside a model's rows in results.
PLAYERS = ("idle", "random", "expert")


class Recipe(Knobs):
    """A whole run."""

    name: str = Field(..., pattern=r"^[A-Za-z0-9_.-]+$", description="of the run, and of its folder under runs/")
    description: str = Field("", description="one line for the report")
    seed: int = Field(0, ge=0, description="every random number of the run derives from it")
    prompts: dict[str, str] = Field({}, description="prompt profiles: name -> system prompt; adds to the built-in ones")
    model: Model = Model()
    engine: Engine = Engine()
    evaluate: Evaluate = Evaluate()
    save: Save = Save()
    guards: Guards = Guards()
    cluster: Cluster = Cluster()
    compare: tuple[tuple[str, str], ...] = Field((), description="paired differences to report, as [a, b] = a minus b")
    stage: dict[str, Stage] = Field(..., min_length=1, description="stages by name")

    def order(self) -> list[str]:
        """Stage names so that each comes after the one it starts from."""
        done: list[str] = []
        waiting = list(self.stage)
        while waiting:
            ready = [s for s in waiting if self.stage[s].start == "base" or self.stage[s].start in done]
            if not ready:
                raise ValueError(f"stages {', '.join(waiting)} start from each other or from a stage that is missing")
            done.append(ready[0])
            waiting.remove(ready[0])
        return done

    def wanted(self, stage: str | None = None) -> list[str]:
        """Stages to run, in order: all, or one with those it starts from."""
        names = set(self.stage)
        if stage is not None:
            names = {stage}
            while (stage := self.stage[stage].start) != "base":
                names.add(stage)
        return [name for name in self.order() if name in names]

    @model_validator(mode="after")
    def _graph(self) -> Recipe:
        wrong = [message for name, stage in self.stage.items() for message in self._stage_faults(name, stage)]
        if all(stage.start in ("base", *self.stage) for stage in self.stage.values()):
            try:
                self.order()
            except ValueError as error:
                wrong.append(str(error))
        arms = {"base", "base_no_prompt", *PLAYERS, *self.stage}
        for pair in self.compare:
            wrong += [
                f'compare names "{arm}", which is no arm (there are: {", ".join(sorted(arms))})'
                for arm in pair
                if arm not in arms
            ]
        if wrong:  # all of them at once, a line each
            raise ValueError("\n".join(wrong))
        return self

    def _stage_faults(self, name: str, stage: Stage) -> Iterator[str]:
        """What is wrong with a stage among the others, and under the run's engine and cluster."""
        if name in ("base", "base_no_prompt", *PLAYERS):
            yield f'a stage cannot be named "{name}": it is the name of an arm'
        if stage.start != "base" and stage.start not in self.stage:
            yield f'stage.{name}.from = "{stage.start}" names no stage (there are: base, {", ".join(self.stage)})'
        absent = [other for other in stage.rollouts_of if other not in self.stage]
        yield from (f'stage.{name}.rollouts_of names no stage "{other}"' for other in absent)
        wanted = sum(self.stage[other].episodes for other in stage.rollouts_of if not absent)
        if stage.rollouts_of and not absent and stage.episodes != wanted:
            yield f"stage.{name} samples {stage.episodes} replies, but {' + '.join(stage.rollouts_of)} sample {wanted}"
        whole = stage.algorithm.name == "gspo" or stage.algorithm.importance_level == "sequence"
        if whole and self.cluster.sequence > 1:
            yield f"stage.{name}.algorithm weighs whole sequences, which cluster.sequence > 1 splits"
        if stage.lora is not None and stage.lora.four_bit and self.cluster.address:
            yield f"stage.{name}.lora.four_bit: 4-bit weights are not sharded; set it to false, or leave out cluster.address"
        if stage.rollout.max_prompt_tokens + stage.rollout.max_new_tokens > self.engine.max_context:
            yield f"stage.{name}.rollout: max_prompt_tokens + max_new_tokens exceed engine.max_context = {self.engine.max_context}"
