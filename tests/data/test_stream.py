"""The stream: its order is a pure function of seed and position."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from lmm_r1.data.stream import ListSource, ProblemStream, Source, with_system
from lmm_r1.errors import CheckpointError, DataError
from lmm_r1.types import Message, Problem, Text


def problem(name: str) -> Problem:
    return Problem(name, (Message("user", (Text(name),)),), "1")


class Endless:
    size = None

    def at(self, index: int) -> Problem:
        return problem(f"e{index}")


def finite(n: int, name: str = "f") -> ListSource:
    return ListSource([problem(f"{name}{k}") for k in range(n)])


def ids(problems: list[Problem]) -> list[str]:
    return [p.id for p in problems]


def mixture(seed: int = 3) -> ProblemStream:
    sources: list[tuple[float, Source]] = [(1.0, finite(7)), (2.0, Endless()), (0.5, finite(3, "g"))]
    return ProblemStream(sources, seed, "Think.")


def test_each_epoch_is_a_fresh_shuffle_of_everything() -> None:
    """Catches sampling with replacement, and the same order in every epoch."""
    stream = ProblemStream([(1.0, finite(20))], 1)
    first, second = ids(stream.take(20)), ids(stream.take(20))
    assert sorted(first) == sorted(second) == sorted(f"f{k}" for k in range(20))
    assert first != second
    assert ids(ProblemStream([(1.0, finite(20))], 2).take(20)) != first


def test_how_many_are_taken_at_once_does_not_change_the_order() -> None:
    """Catches an order that depends on the step size."""
    a, b = mixture(), mixture()
    assert ids(a.take(40)) == [i for n in (1, 7, 16, 16) for i in ids(b.take(n))]


@pytest.mark.parametrize("position", [0, 1, 7, 29, 64])
def test_a_resumed_stream_reads_on_exactly(position: int) -> None:
    """Catches a resume that repeats or skips problems; the state goes through JSON as in a checkpoint."""
    whole, stopped = mixture(), mixture()
    expected = ids(whole.take(position + 50))[position:]
    stopped.take(position)
    resumed = mixture()
    resumed.take(5)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert ids(resumed.take(50)) == expected


def test_a_mixture_has_the_wanted_shares_in_every_step() -> None:
    """Catches a mixture that is right only on average."""
    stream = mixture()
    for _ in range(5):
        counts = Counter(i[0] for i in ids(stream.take(14)))
        assert abs(counts["f"] - 4) <= 1
        assert abs(counts["e"] - 8) <= 1
        assert abs(counts["g"] - 2) <= 1


def test_other_data_are_noticed_on_resume() -> None:
    """Catches a data file that was changed between two sessions."""
    state = mixture().state()
    with pytest.raises(CheckpointError, match="other data"):
        ProblemStream([(1.0, finite(8)), (2.0, Endless()), (0.5, finite(3))], 3).restore(state)
    with pytest.raises(CheckpointError, match="seed"):
        mixture(seed=4).restore(state)


def test_the_system_prompt_is_added_only_where_there_is_none() -> None:
    """Catches two system messages, and an empty one for the profile "none"."""
    plain = problem("p")
    assert with_system(plain, "") is plain
    added = with_system(plain, "Think.")
    assert added.messages[0] == Message("system", (Text("Think."),))
    assert with_system(added, "Other.") is added
    assert mixture().take(1)[0].messages[0].role == "system"


def test_a_stream_without_sources_is_refused() -> None:
    """Catches a stage that would wait for ever."""
    with pytest.raises(DataError):
        ProblemStream([], 0)
    with pytest.raises(DataError):
        ListSource([])
    with pytest.raises(DataError):
        ProblemStream([(0.0, finite(1))], 0)
