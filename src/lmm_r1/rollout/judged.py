"""Which sampled groups are learned from, and what is known of the others: judged replies, discarded groups, solved rows.

A verifier that fails (FAILED_VERDICTS) says nothing about the reply. Such a reply is left out of its group, and a group
that is too small then is dropped; a game is judged by itself. Figures are of all sampled replies, and say what was left out.
Left out: sampling (play.py), metrics of rewards and lengths (collect.describe), the bound that stops a run (guards.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lmm_r1.rollout.scoring import failures
from lmm_r1.types import FAILED_VERDICTS, Failure, Group, Problem, Score

#: Why dynamic sampling discards a group: its replies are all right, all wrong, or equal in another way.
DISCARDED = ("right", "wrong", "equal")


def unjudged(problem: Problem, score: Score) -> bool:
    """Whether a verifier failed on this reply, so that its score means nothing. What a game calls its outcome is no verdict."""
    return not problem.is_game and not FAILED_VERDICTS.isdisjoint(score.verdicts.values())


def judged(group: Group) -> list[Score]:
    """The scores of a group that mean something, in order."""
    return [score for score in group.scores if not unjudged(group.problem, score)]


def parted(group: Group) -> tuple[Group, Group]:
    """(the group's judged replies, the others), both under its problem; either may have no reply."""
    failed = [unjudged(group.problem, score) for score in group.scores]

    def those(wanted: bool) -> Group:
        at = [k for k, found in enumerate(failed) if found == wanted]
        return replace(
            group, episodes=tuple(group.episodes[k] for k in at), scores=tuple(group.scores[k] for k in at)
        )  # fmt: skip

    return those(False), those(True)


def alike(group: Group) -> str:
    """Which of DISCARDED a group is whose rewards teach nothing."""
    accuracies = [score.parts.get("accuracy") for score in group.scores]
    return "right" if set(accuracies) == {1.0} else "wrong" if set(accuracies) == {0.0} else "equal"


@dataclass
class Sorting:
    """The sampled groups of one step, told apart: `groups` are learned from, `rest` is not.

    unjudged: a line for each reply on which a verifier failed; failures: what it said of each part.
    keep: dynamic sampling's rule. least: fewer judged replies are no group. greedy: a group needs the reward of its
    greedy reply.
    """

    keep: Callable[[Group], bool] | None
    least: int
    greedy: bool
    groups: list[Group] = field(default_factory=list)
    rest: list[Group] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    _discarded: Counter[str] = field(default_factory=Counter)
    _sampled: list[Group] = field(default_factory=list)
    _too_small: int = 0
    _best: dict[str, bool] = field(default_factory=dict)

    def add(self, group: Group) -> None:
        """Sort one sampled group."""
        self._sampled.append(group)
        good, failed = group, None
        if any(unjudged(group.problem, score) for score in group.scores):
            good, failed = parted(group)
            self._keep(failed)
        headless = self.greedy and group.greedy is None
        if headless:
            self.unjudged.append(f"problem {group.problem.id}: its greedy reply")
        self._note(good)
        if headless or (failed is not None and len(good.scores) < self.least):
            self._too_small += 1
            self.rest.append(group)
            return
        if failed is not None:
            self.rest.append(failed)
        if self.keep is None or self.keep(good):
            self.groups.append(good)
        else:
            self._discarded[alike(good)] += 1
            self.rest.append(good)

    def counts(self) -> dict[str, float]:
        """Metrics collect/*: what was sampled, and what was not learned from, by reason."""
        found = {
            "collect/groups": len(self._sampled),
            "collect/replies": sum(len(g.scores) for g in self._sampled) + self.greedy * len(self._sampled),
            "collect/discarded": sum(self._discarded.values()),
            "collect/unjudged": len(self.unjudged),
            "collect/dropped_unjudged": self._too_small,
        }
        if self.keep is not None:
            found |= {f"collect/discarded_{why}": self._discarded[why] for why in DISCARDED}
        return {name: float(value) for name, value in found.items()}

    def solved(self) -> dict[str, bool]:
        """Row id -> whether a judged reply of this step had an accuracy above 0; rows that nothing was judged of are left out."""
        return dict(self._best)

    def _keep(self, failed: Group) -> None:
        """Keep why a verifier failed on each of these replies: one line a reply, one failure for each part of its reward."""
        for episode, score in zip(failed.episodes, failed.scores, strict=True):
            found = failures(failed.problem, [episode], [score])
            self.failures += found
            self.unjudged.append(str(found[0]))

    def _note(self, good: Group) -> None:
        """Keep what the group says of its row; a row's second copy in a round is the same row."""
        identity = good.problem.id
        row, mark, _ = identity.rpartition("#")
        identity = row if mark and row in self._best else identity
        if good.scores:
            best = any(score.parts.get("accuracy", score.reward) > 0 for score in good.scores)
            self._best[identity] = self._best.get(identity, False) or best
