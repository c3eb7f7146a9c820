"""Guards of a stage at every step: what was sampled is what is learned from, and a stage that learned nothing says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lmm_r1.train as train
from lmm_r1.chain import run_recipe
from lmm_r1.config import Guards, Recipe
from lmm_r1.errors import EngineError, NumericError
from lmm_r1.guards import guard_learned, guard_sync, guard_versions, update_bounds
from lmm_r1.recipes import load_recipe
from lmm_r1.rewards.score import RuleScorer
from lmm_r1.rollout.collect import Collected
from lmm_r1.rollout.weights import LocalLink, digest
from lmm_r1.types import Problem, Score, Turn

TOML = """
name = "guards"
seed = 4
[model]
base = "micro"
[engine]
slots = 16
max_context = 256
[evaluate]
sets = []
[save]
every = 0
[guards]
max_skipped_share = {share}
[stage.only]
steps = 3
data = [{{ source = "synthetic", domain = "text" }}]
rollout = {{ prompts = 4, siblings = 4, max_new_tokens = {tokens}, max_prompt_tokens = 128, max_rounds = 2 }}
{more}
update = {{ lr = 1e-3, minibatches = {minibatches} }}
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The number of threads is part of what fixes the bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe_of(
    folder: Path, algorithm: str = "grpo", tokens: int = 24, minibatches: int = 1, share: float = 0.05, more: str = ""
) -> tuple[Recipe, Path, Path]:
    """(recipe, its path, the folder of its run)."""
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.toml"
    more = f'algorithm = {{ name = "{algorithm}" }}\n{more}' + (
        "\ncritic = { lr = 1e-3 }" if algorithm == "ppo" else ""
    )
    path.write_text(TOML.format(tokens=tokens, minibatches=minibatches, share=share, more=more), encoding="utf-8")
    return load_recipe(path), path, folder / "run"


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "only" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("algorithm", "discarded"), [("dapo", 8.0), ("grpo", 0.0)])
def test_a_stage_without_an_update_ends_with_an_error(algorithm: str, discarded: float, tmp_path: Path) -> None:
    """Catches the start model exported as a trained one: every reply is cut off, so all rewards are equal."""
    recipe, path, run = recipe_of(tmp_path, algorithm, tokens=2)
    for _ in range(2):  # the same command does not pass the second time
        with pytest.raises(NumericError, match="only made no update in 3 steps") as stop:
            run_recipe(recipe, path, run)
    assert stop.value.exit_code == 5 and not (run / "only" / "model").exists()
    found = lines(run)
    assert len(found) == 3
    for record in found:
        assert record["reward/accuracy"] == 0.0 and record["truncated_share"] > 0.9 and record["length/mean"] == 2.0
        assert record["collect/discarded"] == discarded and record["zero_advantage_share"] == 1.0
        assert record["collect/replies"] == 4 * record["collect/groups"] == (32 if discarded else 16)
    assert found[-1]["rows/never_solved"] == found[-1]["rows/seen"] > 0
    assert "nothing_learned" in found[-1]["conditions"] and "base_cannot_solve" in found[-1]["conditions"]
    if discarded:
        assert "24 of 24 discarded" in found[-1]["conditions"] and "24 all wrong" in found[-1]["conditions"]


def test_discarded_groups_count_in_every_figure(tmp_path: Path) -> None:
    """Catches figures of kept groups alone: dynamic sampling keeps what is half right, whatever the model can do."""
    recipe, path, run = recipe_of(tmp_path, "dapo", more="# discards some")
    seen: list[float] = []
    real = RuleScorer.__call__

    def score(scorer: RuleScorer, *asked: Any) -> Score:
        if asked[0].id != "check":  # the one that tries the verifier before the run
            seen.append(real(scorer, *asked).parts["accuracy"])
        return real(scorer, *asked)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RuleScorer, "__call__", score)
        run_recipe(recipe, path, run)
    found = lines(run)
    assert sum(record["collect/discarded"] for record in found) > 0
    total = sum(record["reward/accuracy"] * record["collect/replies"] for record in found)
    assert total == pytest.approx(sum(seen)) and len(seen) == sum(record["collect/replies"] for record in found)
    for record in found:
        reasons = sum(record[f"collect/discarded_{why}"] for why in ("right", "wrong", "equal"))
        assert reasons == record["collect/discarded"]


@pytest.mark.parametrize("claims_version", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_a_transfer_that_was_left_out_stops_the_run_at_its_step(
    at: int, claims_version: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an engine that goes on with old weights, whether or not it claims to hold the new ones."""
    recipe, path, run = recipe_of(tmp_path)
    real, last = LocalLink.sync, []

    def sync(link: LocalLink, version: int) -> str:
        if version == at:
            link._engine.version = version if claims_version else link._engine.version
        else:
            last.append(real(link, version))
        return last[-1]

    monkeypatch.setattr(LocalLink, "sync", sync)
    with pytest.raises(EngineError, match=f"weights of version {at} of only did not arrive") as stop:
        run_recipe(recipe, path, run)
    assert stop.value.exit_code == 7 and len(lines(run) if at > 1 else []) == at - 1


def test_an_update_too_small_for_the_dtype_is_no_lost_transfer() -> None:
    """Catches a false alarm: the digest stayed because the trainer's weights did."""
    held, other = [("w", torch.ones(3))], [("w", torch.zeros(3))]
    run: Any = SimpleNamespace(name="s")
    same = digest(held)
    guard_sync(run, 4, 4, (same, same), True, lambda: held)
    with pytest.raises(EngineError, match="does not hold any more"):
        guard_sync(run, 4, 4, (same, same), True, lambda: other)


def changed(step: int, change: Callable[[Collected], Collected]) -> Callable[[train.StageRun, int], Collected]:
    """train.gather whose groups of one step (from 0) are changed."""
    real = train.gather
    return lambda run, at: change(real(run, at)) if at == step else real(run, at)


def with_versions(spans: Callable[[tuple[tuple[int, int], ...]], tuple[tuple[int, int], ...]]) -> Any:
    """Changes what the last reply of a step says of its weights."""

    def change(found: Collected) -> Collected:
        group = found.groups[-1]
        (last,) = group.episodes[-1]
        late = replace(group, episodes=(*group.episodes[:-1], (replace(last, versions=spans(last.versions)),)))
        return replace(found, groups=(*found.groups[:-1], late))

    return change


@pytest.mark.parametrize("off", [-1, 1])
@pytest.mark.parametrize("step", [0, 2])
def test_one_reply_of_another_version_stops_the_run(
    step: int, off: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a late reply, or one of weights that are not there yet, that is learned from."""
    recipe, path, run = recipe_of(tmp_path)
    change = with_versions(lambda spans: tuple((start, version + off) for start, version in spans))
    monkeypatch.setattr(train, "gather", changed(step, change))
    with pytest.raises(EngineError, match=f"step {step + 1} of only.* version {step + off}, and version {step} is due"):
        run_recipe(recipe, path, run)
    saved = run / "only" / "checkpoints" / f"step_{step:06d}"
    assert saved.is_dir() == (step > 0)  # what was finished is kept, though save.every is 0


def test_a_reply_must_name_one_version() -> None:
    """Catches an episode whose turns come from two versions, and one that names none."""
    run: Any = SimpleNamespace(name="s")
    for versions in ((), ((0, 3), (9, 4))):
        rollout: Any = SimpleNamespace(versions=versions, problem=SimpleNamespace(id="p"))
        with pytest.raises(EngineError, match="version 3 is due"):
            guard_versions(run, [rollout], 3, 5)


def off_by(nats: float) -> Callable[[Collected], Collected]:
    """Claims other log-probs than those that were sampled with."""

    def change(found: Collected) -> Collected:
        for group in found.groups:
            for rollout in group.rollouts:
                rollout.logprobs.setflags(write=True)
                rollout.logprobs[rollout.trainable] += nats
        return found

    return change


@pytest.mark.parametrize(("algorithm", "minibatches"), [("grpo", 1), ("grpo", 2), ("remax", 1), ("ppo", 2)])
def test_a_gap_at_a_later_step_stops_the_run_before_weights_move(
    algorithm: str, minibatches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a guard that looks once a session; and the stop must cost nothing: the same command ends at the same bits."""
    recipe, path, run = recipe_of(tmp_path / "stopped", algorithm, minibatches=minibatches)
    with monkeypatch.context() as patched:
        patched.setattr(train, "gather", changed(2, off_by(0.2)))
        with pytest.raises(NumericError, match="step 3 of only") as stop:
            run_recipe(recipe, path, run)
    assert stop.value.exit_code == 5 and "0.2" in str(stop.value)
    assert len(lines(run)) == 2 and (run / "only" / "checkpoints" / "step_000002").is_dir()
    run_recipe(recipe, path, run)
    recipe, path, whole = recipe_of(tmp_path / "whole", algorithm, minibatches=minibatches)
    run_recipe(recipe, path, whole)
    keep = lambda m: {k: v for k, v in m.items() if not k.startswith("seconds/")}  # noqa: E731
    assert list(map(keep, lines(run))) == list(map(keep, lines(whole)))


def test_bounds_of_every_minibatch() -> None:
    """Catches a step that is not bounded, and stale replies held to what fresh ones are."""
    run: Any = SimpleNamespace(
        name="s", recipe=SimpleNamespace(model=SimpleNamespace(dtype="float32"), guards=Guards())
    )
    fresh = update_bounds(run, 0, old=False, sampled=True, stale=False)
    stale = update_bounds(run, 0, old=False, sampled=True, stale=True)
    assert fresh == {"logprob_gap/mean": 0.05, "logprob_gap/max": 0.05}
    assert all(fresh[name] < stale[name] < 100 for name in fresh)
    assert update_bounds(run, 1, old=True, sampled=True, stale=False)["ratio_error/mean"] < 100
    assert update_bounds(run, 0, old=False, sampled=False, stale=False) == {}  # a stage that imitates has no sampler


def test_what_an_update_is() -> None:
    """Catches a stage of gradients at a rate of 0, or of updates that the dtype swallowed, exported as trained."""
    run: Any = SimpleNamespace(name="s")
    moved = [{"step": 1, "grad_norm": 0.0, "lr": 1e-4}, {"step": 2, "grad_norm": 0.5, "lr": 1e-4}]
    guard_learned(run, moved, ("a", "b"))
    guard_learned(run, moved, (None, "b"))  # begun by an older version: its start is not known
    for records, digests in (
        (moved, ("b", "b")),
        (moved[:1], ("a", "b")),
        ([{"step": 1, "grad_norm": 1.0, "lr": 0.0}], ("a", "b")),
    ):
        with pytest.raises(NumericError, match="s made no update"):
            guard_learned(run, records, digests)


def failing(which: Callable[[int], bool], kind: str) -> Callable[..., Score]:
    """A scorer whose verifier fails on some calls, by their number."""
    real, calls = RuleScorer.__call__, iter(range(10**6))

    def score(scorer: RuleScorer, problem: Problem, turns: Sequence[Turn], stop: str) -> Score:
        found = real(scorer, problem, turns, stop)
        if not which(next(calls)):
            return found
        return replace(
            found, reward=0.0, parts={"format": 0.0, "accuracy": 0.0}, verdicts=dict(found.verdicts, accuracy=kind)
        )

    return score


@pytest.mark.parametrize(
    ("algorithm", "minibatches", "kind"),
    [
        ("grpo", 1, "timeout"), ("rloo", 2, "error"), ("dr_grpo", 1, "error"), ("dapo", 2, "timeout"), ("reinforce_pp", 2, "error"),
        ("ppo", 2, "timeout"), ("remax", 1, "error"),
    ],
)  # fmt: skip
def test_a_failed_verdict_is_never_a_wrong_answer(
    algorithm: str, minibatches: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches rewards of 0 for replies that nobody judged: they are in no group, and the others learn on."""
    recipe, path, run = recipe_of(tmp_path, algorithm, minibatches=minibatches, share=0.9)
    learned: list[Score] = []
    real = train.learn

    def learn(stage: train.StageRun, groups: Any, *rest: Any) -> Any:
        learned.extend(score for group in groups for score in group.scores)
        assert all(
            len(g.scores) == len(g.episodes) >= (1 if algorithm in ("reinforce_pp", "ppo", "remax") else 2)
            for g in groups
        )
        return real(stage, groups, *rest)

    monkeypatch.setattr(RuleScorer, "__call__", failing(lambda call: call % 5 == 1 or call % 16 in (4, 5, 6), kind))
    monkeypatch.setattr(train, "learn", learn)
    run_recipe(recipe, path, run)
    assert learned and all(kind not in score.verdicts.values() for score in learned)
    found = lines(run)
    assert all(record["collect/unjudged"] > 0 and record[f"verdict/{kind}"] > 0 for record in found)
    assert "verifier_fails" in found[-1]["conditions"]


@pytest.mark.parametrize(("algorithm", "kind"), [("grpo", "timeout"), ("dapo", "error")])
def test_too_many_failed_verdicts_stop_the_run_and_name_them(
    algorithm: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a bound over kept replies alone, and a stop that does not say which."""
    recipe, path, run = recipe_of(tmp_path, algorithm)
    monkeypatch.setattr(RuleScorer, "__call__", failing(lambda call: call % 10 == 3, kind))
    with pytest.raises(
        EngineError,
        match=rf"step 1 of only: \d+ of \d+ replies could not be verified.*accuracy of problem .*: {kind}: ",
    ):
        run_recipe(recipe, path, run)


@pytest.mark.parametrize("learned", [True, False])
def test_groups_gathered_ahead_are_due_one_version_earlier(learned: bool) -> None:
    """Catches stale groups taken for fresh ones, and the other way round where nothing was learned meanwhile."""
    group: Any = SimpleNamespace(rollouts=())
    found = Collected((group,) if learned else (), {})
    run: Any = SimpleNamespace(
        recipe=SimpleNamespace(cluster=SimpleNamespace(ahead=1)), algorithm=SimpleNamespace(needs=frozenset()),
        stage=SimpleNamespace(steps=3), stream=SimpleNamespace(state=dict), engine=SimpleNamespace(awake=nullcontext),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "gather", lambda run, step: found)
        gathering = train.Gathering(run)
        gathering.take(0, 0)
        assert (gathering.due, gathering.stale) == (0, False)
        gathering.wait()
        version = 1 if learned else 0  # a step that learned nothing sends no weights
        gathering.take(1, version)
        assert (gathering.due, gathering.stale) == (0, learned)
        gathering.wait()
        gathering.take(2, 2)
        assert (gathering.due, gathering.stale) == (version, True)
        gathering.close()
