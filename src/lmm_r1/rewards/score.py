"""Verdicts to a Score: r = format * format_ok + accuracy * answer_right (arXiv 2503.07536, section 3.2).

For a game, answer_right is what its turns earned, and format_ok the share of its replies in the right format.

The two parts are paid apart, as published: a right answer in a wrong format pays, and the other way
round. A gold that does not verify against itself pays nothing (the released code pays 1.0 for it).
The built-in verifiers limit sizes before they work and run here; a user's own function runs in a pool whose
calls are killed past their limit, and a remote one stops the run when it cannot be reached. Those two are waited for
in `reward.workers` threads, so that replies are judged beside each other and beside the sampling of others; what a
verdict is depends on problem and reply alone, never on the order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from lmm_r1.config import Reward
from lmm_r1.errors import LmmR1Error, raised
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.format import format_verdict
from lmm_r1.rewards.paper import paper_verdict
from lmm_r1.rewards.pool import VerifierPool
from lmm_r1.rewards.remote import REPLACED_S, TOKEN_VARIABLE, RemoteVerifier
from lmm_r1.seams import Verifier
from lmm_r1.types import Problem, Score, Turn, Verdict


def guarded(verifier: Verifier, problem: Problem, reply: str) -> Verdict:
    """The verdict, or "error" when the verifier itself fails on this reply (counted, and guarded by the loop)."""
    try:
        return verifier(problem, reply)
    except LmmR1Error:
        raise  # a verifier that cannot be reached is no wrong answer
    except Exception as error:  # noqa: BLE001  untrusted model output: one strange reply must not end a run
        return Verdict(0.0, "error", raised(error, verifier))


def make_verifier(cfg: Reward) -> Verifier:
    """The accuracy verifier that a recipe asks for. Raises RecipeError when it cannot be used."""
    if cfg.compat == "paper":
        return paper_verdict
    if cfg.verifier.startswith(("http://", "https://")):
        return RemoteVerifier(cfg.verifier, os.environ.get(TOKEN_VARIABLE, ""), limit_s=cfg.limit_s + REPLACED_S)
    if cfg.verifier:
        return VerifierPool(cfg.verifier, workers=cfg.workers, limit_s=cfg.limit_s)
    return lambda problem, reply: VERIFIERS[problem.verifier](problem, reply)


class RuleScorer:
    """score(problem, turns, stop) -> Score of an episode; `close()` ends the verifier's processes.

    `submit` gives the same as a future. Where the verifier is a user's own or remote, so many futures are worked on at
    a time as there are `reward.workers`; else, and for games, they are done when it returns.

    parts and verdicts have the keys "format" and "accuracy"; parts are unweighted. For a question the last reply counts;
    for a game the part "game" is what its turns earned, and accuracy is its success. Raises KeyError for a
    problem whose verifier is not in VERIFIERS: that is a fault of the data, not of the reply.
    """

    def __init__(self, cfg: Reward) -> None:
        self._cfg, self._verifier = cfg, make_verifier(cfg)
        waits = isinstance(self._verifier, VerifierPool | RemoteVerifier)
        self._threads = ThreadPoolExecutor(cfg.workers, thread_name_prefix="score") if waits else None

    def __call__(self, problem: Problem, turns: Sequence[Turn], stop: str) -> Score:
        """The weighted sum, its parts and their reasons."""
        if problem.is_game:
            return self._of_game(problem, turns)
        if problem.verifier not in VERIFIERS:
            raise KeyError(problem.verifier)
        reply = turns[-1].reply if turns else ""
        written = guarded(format_verdict, problem, reply)
        right = guarded(self._verifier, problem, reply)
        return Score(
            reward=self._cfg.format * written.value + self._cfg.accuracy * right.value,
            parts={"format": written.value, "accuracy": right.value},
            verdicts={"format": written.reason, "accuracy": right.reason},
            details={part: v.detail for part, v in (("format", written), ("accuracy", right)) if v.detail},
        )

    def submit(self, problem: Problem, turns: Sequence[Turn], stop: str) -> Future[Score]:
        """The score when it is there. What a built-in verifier raises is raised here, the rest by the future."""
        if self._threads is not None and not problem.is_game:
            return self._threads.submit(self, problem, turns, stop)
        done: Future[Score] = Future()
        done.set_result(self(problem, turns, stop))
        return done

    def _of_game(self, problem: Problem, turns: Sequence[Turn]) -> Score:
        """What the game paid each turn, and the format of each reply: a turn is rewarded for itself."""
        written = [guarded(format_verdict, problem, turn.reply).value for turn in turns]
        shares = [ok / len(turns) for ok in written]
        per_turn = tuple(
            self._cfg.format * share + self._cfg.accuracy * turn.reward
            for share, turn in zip(shares, turns, strict=True)
        )
        return Score(
            reward=sum(per_turn),
            parts={
                "format": sum(written) / len(turns),
                "accuracy": turns[-1].success,
                "game": sum(turn.reward for turn in turns),
            },
            verdicts={"format": "correct" if all(written) else "wrong", "accuracy": turns[-1].outcome},
            per_turn=per_turn,
        )

    def close(self) -> None:
        """End the worker processes of a user's verifier and the calls of a remote one; the built-in ones have none."""
        if isinstance(self._verifier, VerifierPool | RemoteVerifier):
            self._verifier.close()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)


def make_scorer(cfg: Reward) -> RuleScorer:
    """The scorer that a recipe asks for. Raises RecipeError when its verifier cannot be used."""
    return RuleScorer(cfg)
