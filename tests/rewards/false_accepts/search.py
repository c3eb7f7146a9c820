"""Cases of all mutations, seeded, each kind with its share; and what a verifier pays of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from tests.rewards.false_accepts import dressed, numbers, others, phrased, shapes
from tests.rewards.false_accepts.cases import FORMS, STYLES, WHOLE, Case, Gold, Mutation
from tests.rewards.false_accepts.crosses import crosses, may_be_equal
from tests.rewards.false_accepts.words import TABLES, worded

#: What a search is made of. A share of all pairs are crosses.
_CROSSES = 0.3
_PLENTY = 4
#: Kinds whose answers another letter or another space could make right: m and M, a gap in a number, a pair in brackets.
_AS_WRITTEN = frozenset(
    {
        "crosses",
        "letters",
        "notation",
        "units",
        "conversions",
        "money",
        "words and names",
        "assignments",
        *shapes.MUTATIONS,
    }
)
#: A verifier under test: whether it pays a case.
Pays = Callable[[Case], bool]


def mutations(golds: list[Gold]) -> dict[str, Mutation]:
    """All mutations by name; the builders of compound golds draw their second number from the golds."""
    return {
        **{kind: worded(kind) for kind in TABLES},
        **shapes.MUTATIONS,
        **dressed.families([gold.text for gold in golds]),
        **dressed.MUTATIONS,
        **numbers.MUTATIONS,
        **phrased.MUTATIONS,
        **others.MUTATIONS,
    }


def generate(golds: Iterable[Gold], pairs: int, seed: int) -> list[Case]:
    """Wrong answers to golds, at most `pairs`, no pair twice. The same golds and seed make the same cases.

    Every kind gets an equal share; what a kind cannot fill goes to the others.
    """
    found = sorted(set(golds), key=repr)
    rng = Random(seed)
    wanted = int(pairs * (1 - _CROSSES))
    by_kind: dict[str, dict[tuple[object, ...], Case]] = defaultdict(dict)
    kinds = mutations(found)
    for name, mutate in kinds.items():
        own = Random(f"{seed} {name}")  # a new mutation does not move the others
        for case in _made(mutate, own.sample(found, len(found)), wanted // len(kinds), own):
            by_kind[case.kind].setdefault((case.gold, case.answer, case.verifier, case.choices, str(case.meta)), case)
    cases = _shared({kind: list(some.values()) for kind, some in sorted(by_kind.items())}, wanted, rng)
    rest = pairs - len(cases)
    pool: dict[tuple[str, str], Case] = {}
    for case in crosses(found, rng, 4 * rest):
        if len(pool) == rest:
            break
        pool.setdefault((case.gold, case.answer), case)
    return [_formed(case, rng) for case in (*cases, *pool.values())]


def _formed(case: Case, rng: Random) -> Case:
    """Half of the cases as a bare answer, the others in a box or in a sentence, some in other letters; words and places stay bare."""
    if case.form == WHOLE or case.verifier in ("text", "boxes") or rng.random() < 0.5:
        return case
    styled = case.kind not in _AS_WRITTEN and rng.random() < 0.4
    answer = rng.choice(STYLES)(case.answer) if styled else case.answer
    return replace(case, answer=answer, form=rng.choice(FORMS))


def _made(mutate: Mutation, golds: list[Gold], share: int, rng: Random) -> Iterator[Case]:
    """Cases of gold after gold, until there are several times as many of each kind as will be taken."""
    made: Counter[str] = Counter()
    for gold in golds:
        for case in mutate(gold, rng):
            made[case.kind] += 1
            yield case
        if made and min(made.values()) > _PLENTY * share:
            return


def _shared(by_kind: Mapping[str, list[Case]], wanted: int, rng: Random) -> list[Case]:
    """An equal share of each kind, the smallest kinds first."""
    chosen: list[Case] = []
    left = len(by_kind)
    for kind in sorted(by_kind, key=lambda k: len(by_kind[k])):
        share = (wanted - len(chosen)) // left
        some = by_kind[kind]
        chosen += rng.sample(some, min(len(some), share))
        left -= 1
    return chosen


@dataclass(slots=True)
class Found:
    """What a search counted: cases tried and paid by kind, and the cases that were paid wrongly."""

    tried: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    wrong: list[Case] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Take in what another part of the search found."""
        self.tried.update(other.tried)
        self.paid.update(other.paid)
        self.wrong += other.wrong

    def by_kind(self) -> Counter[str]:
        """Wrong payments by kind."""
        return Counter(case.kind for case in self.wrong)


def search(cases: Iterable[Case], pays: Pays) -> Found:
    """Try the cases. A paid cross is wrong unless the second opinion reads both golds as the same answer."""
    found = Found()
    for case in cases:
        found.tried[case.kind] += 1
        if pays(case):
            found.paid[case.kind] += 1
            if case.kind != "crosses" or not may_be_equal(case.gold, case.answer):
                found.wrong.append(case)
    return found
