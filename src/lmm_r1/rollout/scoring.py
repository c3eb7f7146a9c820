"""Episodes played and scored at once: a reply is judged while the engine still samples the others.

Training, evaluation and the measuring of rows all score this way. A score depends on its episode alone: neither the order
in which episodes end nor the number of workers changes what comes back.
Leaves out: what a score is (rewards/score.py), how an episode is played (play.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

from lmm_r1.rollout.play import Episode, Sampling, play, turns_of
from lmm_r1.seams import MakeEnvironment, ModelAdapter, ParallelScorer, RolloutEngine, Scorer
from lmm_r1.types import FAILED_VERDICTS, Encoded, Failure, Problem, Score

#: Characters of a reply that a failure repeats.
SHOWN = 200


def play_and_score(
    episodes: Sequence[tuple[Problem, int]],
    engine: RolloutEngine,
    adapter: ModelAdapter,
    make: MakeEnvironment,
    score: Scorer,
    sampling: Sampling,
    seed: Sequence[object],
    encoded: Mapping[str, Encoded] | None = None,
) -> tuple[list[Episode], list[Score]]:
    """`play`, and the score of each episode, both in the order asked. Raises what playing or scoring raises."""
    scores: dict[int, Future[Score]] = {}
    lost: list[Future[Score]] = []

    def note(done: Future[Score]) -> None:
        if not done.cancelled() and done.exception() is not None:
            lost.append(done)

    def judge(index: int, episode: Episode) -> None:
        if lost:  # a verifier that is gone is told at once, not when all is sampled
            lost[0].result()
        scores[index] = _submitted(score, episodes[index][0], episode)
        scores[index].add_done_callback(note)

    try:
        played = play(episodes, engine, adapter, make, sampling, seed, encoded, finished=judge)
        return played, [scores[index].result() for index in range(len(played))]
    except BaseException:
        for waiting in scores.values():
            waiting.cancel()
        raise


def _submitted(score: Scorer, problem: Problem, episode: Episode) -> Future[Score]:
    """The score of an episode: later where the scorer works beside its caller, else at once."""
    turns, stop = turns_of(episode), episode[-1].stop
    if isinstance(score, ParallelScorer):
        return score.submit(problem, turns, stop)
    done: Future[Score] = Future()
    done.set_result(score(problem, turns, stop))
    return done


def failures(problem: Problem, episodes: Iterable[Episode], scores: Iterable[Score]) -> list[Failure]:
    """What verifiers failed to judge among the episodes of a problem, one for each part of the reward."""
    return [
        Failure(
            problem.id,
            episode[0].sibling,
            part,
            reason,
            score.details.get(part) or f"verifier {problem.verifier!r}, gold {problem.answer[:SHOWN]!r}",
            turns_of(episode)[-1].reply[:SHOWN],
        )
        for episode, score in zip(episodes, scores, strict=True)
        for part, reason in score.verdicts.items()
        if reason in FAILED_VERDICTS and not problem.is_game  # whose outcomes are words of its own
    ]
