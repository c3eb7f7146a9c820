"""The stream: its order is a pure function of seed and position, whoever reads it and however often it is resumed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pil

from lmm_r1.config import AlgorithmConfig, Data, RolloutConfig, Stage
from lmm_r1.data.images import ImageStore
from lmm_r1.data.jsonl_source import JsonlSource, open_rows
from lmm_r1.data.stream import First, ListSource, ProblemStream, Source, with_system
from lmm_r1.data.synthetic.problems import SyntheticSource
from lmm_r1.envs.single_turn import SingleTurn
from lmm_r1.errors import CheckpointError, DataError
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rollout.collect import collect, describe
from lmm_r1.types import Message, Problem, Request, Score, Text, Turn
from tests.fakes import CharAdapter, ScriptedEngine


def problem(name: str, answer: str = "1") -> Problem:
    return Problem(name, (Message("user", (Text(name),)),), answer)


class Endless:
    size = None
    name = "endless"
    fingerprint = "e"

    def __init__(self, name: str = "e") -> None:
        self.letter = name

    def at(self, index: int) -> Problem:
        return problem(f"{self.letter}{index}")

    def rows(self) -> Iterator[tuple[str, bytes]]:
        return iter(())


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


#: (weight, rows or None for an endless one) of each source.
mixtures = st.lists(st.tuples(st.floats(0.05, 20), st.one_of(st.none(), st.integers(1, 12))), min_size=1, max_size=4)


def made(parts: list[tuple[float, int | None]], seed: int) -> ProblemStream:
    sources: list[tuple[float, Source]] = [
        (weight, Endless("xyzw"[at]) if n is None else finite(n, "abcd"[at])) for at, (weight, n) in enumerate(parts)
    ]
    return ProblemStream(sources, seed)


@settings(max_examples=150, deadline=None)
@given(mixtures, st.integers(0, 99), st.lists(st.integers(0, 23), min_size=1, max_size=6), st.integers(1, 7))
def test_the_ranks_together_read_what_one_would(
    parts: list[tuple[float, int | None]], seed: int, steps: list[int], ranks: int
) -> None:
    """Catches a row that two ranks train on or none does, for any mixture, step sizes and number of ranks."""
    whole = made(parts, seed)
    views = [made(parts, seed).shard(rank, ranks) for rank in range(ranks)]
    for n in steps:
        shares = [ids(view.take(n)) for view in views]
        assert [i for share in shares for i in share] == ids(whole.take(n))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert all(view.state() == whole.state() for view in views)


@settings(max_examples=150, deadline=None)
@given(
    mixtures,
    st.integers(0, 99),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), min_size=1, max_size=5),
    st.integers(1, 20),
)
def test_a_run_stopped_anywhere_and_on_other_ranks_reads_on(
    parts: list[tuple[float, int | None]], seed: int, sessions: list[tuple[int, int]], last: int
) -> None:
    """Catches a resume that repeats or skips a row: stopped at any index, several times, each time on other ranks."""
    expected = ids(made(parts, seed).take(sum(n for n, _ in sessions) + last))
    read: list[str] = []
    state = made(parts, seed).state()
    for n, ranks in (*sessions, (last, 1)):
        views = [made(parts, seed).shard(rank, ranks) for rank in range(ranks)]
        for view in views:
            view.restore(json.loads(json.dumps(state)))
        read += [i for view in views for i in ids(view.take(n))]
        state = views[-1].state()
    assert read == expected


@pytest.mark.parametrize("position", [6, 7, 8, 14])
def test_a_resume_at_an_epochs_end_begins_the_next_shuffle(position: int) -> None:
    """Catches an epoch of 7 rows that is shuffled again, or read twice, when the run stops at its end."""
    stream = ProblemStream([(1.0, finite(7))], 5)
    expected = ids(stream.take(28))
    stopped, resumed = ProblemStream([(1.0, finite(7))], 5), ProblemStream([(1.0, finite(7))], 5)
    stopped.take(position)
    resumed.restore(stopped.state())
    assert ids(resumed.take(28 - position)) == expected[position:]
    resumed.restore(stopped.state())  # twice
    assert ids(resumed.take(28 - position)) == expected[position:]


def test_a_rank_that_cannot_be_is_refused() -> None:
    """Catches a rank counted from 1, which would leave the first part unread."""
    with pytest.raises(ValueError, match="rank 2 of 2"):
        mixture().shard(2, 2)


def test_a_shard_reads_only_its_own_rows() -> None:
    """Catches ranks that each draw or parse every row of a step and throw most away."""

    class Counted(Endless):
        read = 0

        def at(self, index: int) -> Problem:
            self.read += 1
            return super().at(index)

    source = Counted()
    ProblemStream([(1.0, source)], 0).shard(1, 4).take(40)
    assert source.read == 10


# ---- data that changed between two sessions (trial 34)


def kept(rows: list[Problem], folder: Path, name: str = "set.jsonl") -> ProblemStream:
    stream = ProblemStream([(1.0, ListSource(rows, name))], 3)
    stream.keep_rows(folder)
    return stream


ROWS = [problem(f"r{k}") for k in range(6)]
CHANGES = {
    "added": ([*ROWS, problem("new")], r"set\.jsonl: since the run began, 1 row \(new\) was added"),
    "removed": (ROWS[:1], r"5 rows \(r1, r2, r3, \.\.\.\) were removed"),
    "answer": ([*ROWS[:5], problem("r5", "2")], r"1 row \(r5\) was changed"),
    "question": ([*ROWS[:5], Problem("r5", (Message("user", (Text("?"),)),), "1")], r"\(r5\) was changed"),
    "verifier": ([*ROWS[:5], Problem("r5", ROWS[5].messages, "1", "choice")], r"\(r5\) was changed"),
    "solution": ([*ROWS[:5], Problem("r5", ROWS[5].messages, "1", meta={"solution": "s"})], r"\(r5\) was changed"),
    "order": (ROWS[::-1], r"its 6 rows were put into another order"),
    "swapped": ([*ROWS[:5], problem("x")], r"(?s)\(x\) was added.*\(r5\) was removed"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_trial_34_changed_data_are_refused_and_named(tmp_path: Path, change: str) -> None:
    """Catches a run that goes on with other rows at the same size, and a refusal that does not say which."""
    rows, says = CHANGES[change]
    state = json.loads(json.dumps(kept(ROWS, tmp_path).state()))
    assert len(json.dumps(state)) < 300, "the checkpoint holds a fingerprint, not the rows"
    with pytest.raises(CheckpointError, match=says):
        kept(rows, tmp_path).restore(state)
    again = kept(list(ROWS), tmp_path)
    again.restore(state)
    assert ids(again.take(6)) == ids(kept(ROWS, tmp_path).take(6))


def test_trial_34_another_picture_under_the_same_name_is_another_row(tmp_path: Path) -> None:
    """Catches a picture file that was exchanged: the row's text is the same, what the model sees is not."""
    states = []
    for seed in (0, 1):
        pixels = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Pil.fromarray(pixels).save(tmp_path / "a.png")
        write(tmp_path / "set.jsonl", [row("a", pictures=["a.png"])])
        stream = ProblemStream([(1.0, JsonlSource(tmp_path / "set.jsonl", ImageStore()))], 0)
        stream.keep_rows(tmp_path / "data")
        states.append(stream.state())
    with pytest.raises(CheckpointError, match=r"1 row \(a\) was changed"):
        stream.restore(states[0])


def test_what_has_no_effect_on_training_may_change(tmp_path: Path) -> None:
    """Catches a refusal for a note that no stage reads."""
    noted = [Problem(p.id, p.messages, p.answer, source="elsewhere", meta={"note": 1}) for p in ROWS]
    kept(noted, tmp_path).restore(kept(ROWS, tmp_path).state())


def test_a_change_is_noticed_without_the_list_of_rows(tmp_path: Path) -> None:
    """Catches a run folder whose data/ was deleted: the refusal must stay, only less exact."""
    state = kept(ROWS, tmp_path).state()
    with pytest.raises(CheckpointError, match=r"set\.jsonl: the data have changed since the run began"):
        ProblemStream([(1.0, ListSource(ROWS[:3], "set.jsonl"))], 3).restore(state)


def test_other_sources_and_seeds_are_noticed() -> None:
    """Catches a mixture that lost a source, and an order that is another one."""
    state = mixture().state()
    with pytest.raises(CheckpointError, match="other data: 3 sources, now 1"):
        ProblemStream([(1.0, finite(7))], 3).restore(state)
    with pytest.raises(CheckpointError, match="another seed: 3, now 4"):
        mixture(seed=4).restore(state)


def test_a_checkpoint_of_an_older_version_is_refused_in_words() -> None:
    """Catches a KeyError, or a resume that trusts sizes alone."""
    old = {"seed": 3, "sizes": [7, None, 3], "cursors": [1, 2, 0]}
    with pytest.raises(CheckpointError, match="older version of lmm-r1 wrote it"):
        mixture().restore(old)


def test_synthetic_problems_have_a_fingerprint_too() -> None:
    """Catches a changed seed or family of drawn problems that a resume takes for the same data."""
    one = SyntheticSource("geometry", ImageStore(), seed=1)
    assert one.fingerprint == SyntheticSource("geometry", ImageStore(), seed=1).fingerprint
    others = [SyntheticSource("geometry", ImageStore(), seed=2), SyntheticSource("text", ImageStore(), seed=1)]
    others.append(SyntheticSource("geometry", ImageStore(), seed=1, families=["segments"]))
    assert len({one.fingerprint, *(o.fingerprint for o in others)}) == 4
    assert First(one, 5).size == 5 and First(one, 5).at(4) == one.at(4)


# ---- rows on disk


def row(name: str, pictures: list[str] | None = None, domain: str = "text") -> dict[str, object]:
    parts = [{"type": "image", "image": p} for p in pictures or []]
    return {
        "id": name,
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": f"Say {name}: é"}]}],
        "answer": "1",
        "domain": domain,
    }


def write(path: Path, rows: list[dict[str, object]], between: str = "\n") -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + between for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("between", ["\n", "\r\n", "\n\n"])
def test_rows_on_disk_are_the_rows_in_memory(tmp_path: Path, between: str) -> None:
    """Catches an offset that is off after a blank line, a \\r or a letter of two bytes."""
    path = write(tmp_path / "p.jsonl", [row(f"r{k}", domain="ab"[k % 2]) for k in range(9)], between)
    disk = JsonlSource(path, ImageStore(), VERIFIERS)
    assert [disk.at(k).id for k in (8, 0, 4)] == ["r8", "r0", "r4"]
    memory = ListSource([disk.at(k) for k in range(9)])
    assert disk.fingerprint == memory.fingerprint and list(disk.rows()) == list(memory.rows())
    some = JsonlSource(path, ImageStore(), domain="b")
    assert some.size == 4 and [some.at(k).id for k in range(4)] == ["r1", "r3", "r5", "r7"]
    path.write_text(json.dumps([row(f"r{k}", domain="ab"[k % 2]) for k in range(9)]))
    assert open_rows(path, ImageStore()).fingerprint == disk.fingerprint, "one JSON array holds the same rows"


def test_a_file_that_changes_under_a_run_is_noticed(tmp_path: Path) -> None:
    """Catches training on whatever now stands at an old offset."""
    path = write(tmp_path / "p.jsonl", [row("a"), row("b")])
    source = JsonlSource(path, ImageStore())
    write(path, [row("a"), row("c")])
    assert source.at(0).id == "a"
    with pytest.raises(DataError, match=r"p\.jsonl:2: has changed while it was in use"):
        source.at(1)
    write(path, [row("a")])
    with pytest.raises(DataError, match="has changed while it was in use"):
        source.at(1)


def test_every_bad_row_is_named_before_anything_is_read(tmp_path: Path) -> None:
    """Catches a fault that shows in the middle of a run."""
    path = write(tmp_path / "p.jsonl", [row("a"), {"id": "b"}, row("c", ["no.png"])])
    with pytest.raises(DataError) as caught:
        JsonlSource(path, ImageStore())
    assert [f.row for f in caught.value.faults] == [2, 3]
    assert "missing" in str(caught.value)


def test_a_million_rows_cost_bytes_not_objects(tmp_path: Path) -> None:
    """Catches rows that are kept in memory: 60,000 of 2 kB may add a few MB to a process, not 120."""
    path = tmp_path / "p.jsonl"
    with path.open("w") as out:
        for k in range(60_000):
            body = json.dumps(row(f"r{k}") | {"meta": {"note": "x" * 1900}})
            out.write(f"{body}\n")
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from lmm_r1.data.images import ImageStore; from lmm_r1.data.jsonl_source import JsonlSource\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "source = JsonlSource(Path(sys.argv[1]), ImageStore())\n"
        "assert source.at(59999).id == 'r59999'\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]
    assert int(done.stdout) < 40_000, f"{int(done.stdout) / 1000:.0f} MB for 60,000 rows"


# ---- loading, by the numbers of the reliability trials


def test_trial_29_each_sample_gets_its_own_pictures(tmp_path: Path) -> None:
    """Catches pictures that slip to a neighbour in a shuffled batch of rows with none, one and three of them."""
    rng, shas, rows = random.Random(1), {}, []
    for k in range(24):
        names = [f"{k}_{n}.png" for n in range((0, 1, 3)[k % 3])]
        for n, name in enumerate(names):
            pixels = np.full((28, 28 + 28 * n, 3), (10 * k, 80 * n, rng.randrange(256)), np.uint8)
            Pil.fromarray(pixels).save(tmp_path / name)
            shas[name] = ImageStore().put(pixels).sha
        rows.append(row(f"r{k}", names))
    store = ImageStore(cache=2)
    stream = ProblemStream([(1.0, JsonlSource(write(tmp_path / "p.jsonl", rows), store))], 7, "Think.")
    seen = Counter()
    for _ in range(6):
        for taken in stream.take(8):
            k = int(taken.id[1:])
            wanted = [shas[f"{k}_{n}.png"] for n in range((0, 1, 3)[k % 3])]
            assert [image.sha for image in taken.images] == wanted
            for image in taken.images:
                assert tuple(store.get(image.sha)[0, 0, :2]) == (10 * k % 256, 80 * wanted.index(image.sha))
            seen[k] += 1
    assert set(seen.values()) == {2}


def test_trial_33_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    """Catches a stage that waits for ever, or starts and divides by zero."""
    path = tmp_path / "p.jsonl"
    for text in ("", "\n\n"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"p\.jsonl: holds no problems"):
            JsonlSource(path, ImageStore())
    write(path, [row("a")])
    with pytest.raises(DataError, match='holds no problems of domain "geometry"'):
        JsonlSource(path, ImageStore(), domain="geometry")
    with pytest.raises(DataError, match="holds no problems"):
        First(Endless(), 0)


@pytest.mark.parametrize("rows", [1, 3])
def test_trial_33_fewer_rows_than_a_batch_are_met_again(rows: int) -> None:
    """Catches a step of 5 problems over 1 or 3 rows that hangs, mixes up the copies or reports NaN."""
    stream = ProblemStream([(1.0, finite(rows))], 0)
    asked: list[Request] = []

    def reply(request: Request) -> str:
        asked.append(request)
        return "1"

    def score(_: Problem, turns: list[Turn], stop: str) -> Score:
        return Score(1.0, {"format": 1.0, "accuracy": 1.0}, {"accuracy": "correct"})

    collected = collect(
        stream.take, ScriptedEngine(reply), CharAdapter(), SingleTurn, score,  # type: ignore[arg-type]
        RolloutConfig(prompts=5, siblings=2), max_context=600, seed=(0,),
    )  # fmt: skip
    names = [group.problem.id for group in collected.groups]
    assert len(names) == len(set(names)) == 5 and {n.split("#")[0] for n in names} == {f"f{k}" for k in range(rows)}
    assert len({request.seed for request in asked}) == 10, "copies of a row are sampled apart"
    assert not any(np.isnan(value) for value in describe(collected.groups).values())


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


def test_trial_33_a_group_of_one_is_refused_where_siblings_are_compared() -> None:
    """Catches a baseline over one reply: every advantage would be 0, or NaN after a division by its spread."""
    data = (Data(domain="text"),)
    with pytest.raises(ValueError, match="a group of one has no baseline"):
        Stage(steps=1, data=data, rollout=RolloutConfig(siblings=1))
    assert Stage(
        steps=1, data=data, rollout=RolloutConfig(siblings=1), algorithm=AlgorithmConfig(name="reinforce_pp")
    ).episodes
