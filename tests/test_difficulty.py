"""Pass rates: measured once, resumed to the same bytes, and what a recipe makes of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmm_r1.build import make_source
from lmm_r1.chain import run_recipe
from lmm_r1.check import check
from lmm_r1.cli import run
from lmm_r1.config import Data, Reward
from lmm_r1.data.curriculum import Graded, graded, rates_of
from lmm_r1.data.fingerprint import row_hash
from lmm_r1.data.images import ImageStore
from lmm_r1.data.stream import ListSource, ProblemStream
from lmm_r1.difficulty import measure, measure_model, rows_to_measure, summary
from lmm_r1.errors import CheckpointError, DataError, RecipeError
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.recipes import load_recipe
from lmm_r1.rewards.score import make_scorer
from lmm_r1.types import Message, Problem, Request, Text
from tests.fakes import CharAdapter, ScriptedEngine

SETTINGS = {"samples": 4, "temperature": 1.0, "max_new_tokens": 90, "max_prompt_tokens": 40, "seed": 0, "weights": "w"}


def problem(name: str, text: str = "") -> Problem:
    return Problem(name, (Message("user", (Text(text or name),)),), "7")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def reply(request: Request) -> str:
    """Right in as many of four cases as the question's first letter says; longer when wrong."""
    asked = chr(int(request.token_ids[0]))
    right = (request.id % 4) < int(asked)
    return f"<think>x</think><answer>{'7' if right else '81'}</answer>"


def measured(out: Path, problems: list[Problem], batch: int = 2, knobs: dict[str, Any] = SETTINGS) -> ScriptedEngine:
    engine = ScriptedEngine(reply)
    measure(ListSource(problems), out, knobs, engine, CharAdapter(), make_scorer(Reward()), batch)  # type: ignore[arg-type]
    return engine


ROWS = [problem(f"r{k}", f"{right} right of 4") for k, right in enumerate((0, 4, 2, 1, 3))]


def test_a_row_gets_the_share_of_its_right_replies(tmp_path: Path) -> None:
    """Catches rates that slip to a neighbour, and lines that miss what a reader of the file needs."""
    out = tmp_path / "deep" / "d.jsonl"
    measured(out, ROWS)
    assert [(line["id"], line["right"], line["n"], line["pass_rate"]) for line in lines(out)] == [
        ("r0", 0, 4, 0.0), ("r1", 4, 4, 1.0), ("r2", 2, 4, 0.5), ("r3", 1, 4, 0.25), ("r4", 3, 4, 0.75)
    ]  # fmt: skip
    third = lines(out)[2]
    assert third["verdicts"] == {"correct": 2, "wrong": 2} and third["truncated"] == 0.0
    assert third["mean_length"] == np.mean([len(f"<think>x</think><answer>{a}</answer>") + 1 for a in (7, 81)])
    assert {name: third[name] for name in SETTINGS} == SETTINGS and third["row"] == row_hash(ROWS[2]).hex()
    told = summary(out, ListSource(ROWS))
    assert (told["rows"], told["never"], told["always"], told["pass_rate"]) == (5, 1, 1, 0.5)
    assert told["by_right"] == {"0": 1, "1": 1, "2": 1, "3": 1, "4": 1}


def test_a_prompt_that_does_not_fit_has_no_rate(tmp_path: Path) -> None:
    """Catches a cut prompt, and a row without a line, which would be measured for ever."""
    rows = [*ROWS[:1], problem("long", "4" * 41), ROWS[1]]
    measured(tmp_path / "d.jsonl", rows, batch=3)
    found = lines(tmp_path / "d.jsonl")
    assert (found[1]["n"], found[1]["pass_rate"], found[1]["mean_length"]) == (0, None, None)
    assert found[2]["pass_rate"] == 1.0
    assert rates_of(ListSource(rows), tmp_path / "d.jsonl").tolist() == [0.0, 0.0, 1.0]
    assert summary(tmp_path / "d.jsonl", ListSource(rows))["too_long"] == 1


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("torn", [False, True])
def test_a_file_cut_anywhere_ends_the_same(tmp_path: Path, cut: int, torn: bool) -> None:
    """Catches a resume that leaves a torn line, measures a row twice, or in other company than the first time."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "d.jsonl"
    first = measured(whole, ROWS)
    text = whole.read_text().splitlines(keepends=True)
    out.write_text("".join(text[:cut]) + (text[cut][:60] if torn else ""))
    second = measured(out, ROWS)
    assert out.read_bytes() == whole.read_bytes()
    assert len(second.requests) == len(first.requests) - 4 * (cut // 2 * 2), "finished batches are not sampled again"
    assert not measured(out, ROWS).requests
    seeds = {request.seed for request in first.requests}
    assert {request.seed for request in second.requests} <= seeds


def test_more_rows_may_come_and_other_settings_may_not(tmp_path: Path) -> None:
    """Catches a file that mixes two temperatures or two models, and a row that was changed since it was measured."""
    out = tmp_path / "d.jsonl"
    measured(out, ROWS[:3])
    assert len(measured(out, ROWS).requests) == 4 * 3  # the batch of the third row again, for the fourth
    assert [line["id"] for line in lines(out)] == [p.id for p in ROWS]
    with pytest.raises(RecipeError, match=r"d\.jsonl:1 \[weights\]: was measured with weights = 'w', now it is 'v'"):
        measured(out, ROWS, knobs={**SETTINGS, "weights": "v"})
    with pytest.raises(DataError, match="row r2 has changed since it was measured"):
        measured(out, [*ROWS[:2], problem("r2", "4 right now"), *ROWS[3:]])


# ---- what a recipe makes of the file


def rated(rates: list[float | None], folder: Path) -> ListSource:
    source = ListSource([problem(f"r{k}") for k in range(len(rates))], "rows")
    entries = [{"id": i, "row": h.hex(), "pass_rate": r} for (i, h), r in zip(source.rows(), rates, strict=True)]
    (folder / "d.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return source


def knobs(**changes: Any) -> Data:
    return Data(source="problems", path="p.jsonl", difficulty="d.jsonl", **changes)


def numbers(problems: list[Problem]) -> list[int]:
    return [int(p.id[1:]) for p in problems]


def test_bounds_are_strict(tmp_path: Path) -> None:
    """Catches rows that are never or always solved inside keep_between = [0, 1]."""
    source = rated([0.0, 0.125, 0.5, 0.875, 1.0, None], tmp_path)
    kept = graded(knobs(keep_between=(0, 1)), source, tmp_path, seed=0)
    assert kept.size == 3 and numbers([kept.at(k) for k in range(3)]) == [1, 2, 3]
    assert graded(knobs(keep_between=(0.125, 0.9)), source, tmp_path, 0).size == 2
    assert graded(knobs(keep_between=(-1, 1)), source, tmp_path, 0).size == 5
    assert graded(knobs(), source, tmp_path, 0).size == 6
    with pytest.raises(DataError, match=r"no row of rows has a pass rate between 0\.9 and 0\.95"):
        graded(knobs(keep_between=(0.9, 0.95)), source, tmp_path, 0)


def test_rows_without_an_entry_are_named_with_the_remedy(tmp_path: Path) -> None:
    """Catches a default rate for rows that nobody measured, or that were changed afterwards."""
    source = rated([0.5] * 8, tmp_path)
    text = (tmp_path / "d.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "d.jsonl").write_text("".join(text[:3]) + text[3][:-1])  # a torn line counts for nothing
    with pytest.raises(DataError, match=r"5 of 8 rows of rows have no pass rate.*: r3, r4, r5, \.\.\.") as caught:
        graded(knobs(), source, tmp_path, 0)
    assert "lmm-r1 difficulty" in caught.value.faults[0].remedy
    changed = ListSource([problem("r0", "another question"), problem("r1"), problem("r2")], "rows")
    with pytest.raises(DataError, match=r"1 of 3 rows.*: r0 "):
        graded(knobs(), changed, tmp_path, 0)
    (tmp_path / "d.jsonl").unlink()
    with pytest.raises(DataError, match="the pass rates are not here"):
        graded(knobs(), source, tmp_path, 0)


@pytest.mark.parametrize(
    ("line", "says"),
    [("{}", "no line of pass rates"), ("[1]", "no line"), ("x", "no line"), ('{"id": "r0", "pass_rate": "x"}', "no line"),
     ('{"id": "r0", "pass_rate": 1.5}', "between 0 and 1"), ('{"id": "r0", "pass_rate": NaN}', "between 0 and 1"),
     ('{"id": "r0", "row": "zz", "pass_rate": 0.5}', "no line")],
)  # fmt: skip
def test_a_broken_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    """Catches a traceback, or a rate of NaN that sorts anywhere."""
    source = rated([0.5], tmp_path)
    (tmp_path / "d.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=rf"d\.jsonl:1.*{says}"):
        graded(knobs(), source, tmp_path, 0)


def test_a_file_of_ones_own_goes_by_ids(tmp_path: Path) -> None:
    """Catches pass rates that come with a data set, and know no row hash, refused."""
    source = rated([0.5, 0.5], tmp_path)
    (tmp_path / "d.jsonl").write_text('{"id": "r1", "pass_rate": 0.25}\n{"id": "r0", "pass_rate": 1}\n')
    assert rates_of(source, tmp_path / "d.jsonl").tolist() == [1.0, 0.25]


RATES = [0.0, 1.0, 0.5, 0.25, 0.75, 0.5, 0.5, 0.125]


def test_easy_to_hard_starts_with_the_highest_rate(tmp_path: Path) -> None:
    """Catches a curriculum upside down, ties in file order for ever, and a pass that misses rows."""
    source = rated(RATES, tmp_path)
    ordered = graded(knobs(order="easy_to_hard"), source, tmp_path, seed=1)
    passes = [numbers([ordered.at(8 * sweep + k) for k in range(8)]) for sweep in range(6)]
    for one in passes:
        assert [RATES[k] for k in one] == sorted(RATES, reverse=True)
    assert len({tuple(one) for one in passes}) > 1
    short = graded(knobs(order="easy_to_hard"), source, tmp_path, seed=1, span=4)
    taken = numbers([short.at(k) for k in range(4)])
    assert [RATES[k] for k in taken] == [1.0, 0.5, 0.5, 0.125], "a short stage sees an even sample, not only easy rows"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.floats(0.01, 1), st.integers(1, 400), st.integers(0, 99))
def test_a_window_moves_from_easy_to_hard_and_resumes(n: int, share: float, span: int, seed: int) -> None:
    """Catches a window that leaves the rows, stands still, repeats a row at one stand, or remembers what it dealt."""
    rates = np.linspace(1, 0, n)
    source = ListSource([problem(f"r{k}") for k in range(n)])
    made = lambda: Graded(source, np.arange(n), rates, "window", share, seed, span)  # noqa: E731
    dealt = numbers([made().at(cursor) for cursor in range(span)])
    inside = max(1, round(share * n))
    stand = min(inside, -(-span // 20))
    stands = [dealt[at : at + stand] for at in range(0, span, stand)]
    for at, one in enumerate(stands):
        low = round(min(1.0, at / max(1, len(stands) - 1)) * (n - inside))
        assert len(set(one)) == len(one) and all(low <= k < low + inside for k in one)
    backwards = made()
    assert [int(backwards.at(cursor).id[1:]) for cursor in reversed(range(span))] == dealt[::-1]
    assert min(numbers([made().at(span + 5)])) >= n - inside, "after the stage's end the hardest rows stay"


def test_a_stream_of_ordered_rows_resumes_and_notices_other_rates(tmp_path: Path) -> None:
    """Catches an order that a resume changes, and new pass rates that a running stage takes silently."""
    source = rated(RATES, tmp_path)

    def stream() -> ProblemStream:
        made = ProblemStream([(1.0, graded(knobs(order="window"), source, tmp_path, 3, span=40))], 0)
        made.keep_rows(tmp_path / "data")
        return made

    whole, stopped = stream(), stream()
    expected = numbers(whole.take(40))
    stopped.take(13)
    resumed = stream()
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert numbers(resumed.take(27)) == expected[13:]
    rated([*RATES[:7], 1.0], tmp_path)
    with pytest.raises(CheckpointError, match=r"1 row \(r7\) was changed"):
        stream().restore(stopped.state())


def test_recipes_that_cannot_be_meant_are_refused() -> None:
    """Catches a bound or an order that silently has no effect."""
    with pytest.raises(ValueError, match="need difficulty"):
        Data(source="problems", path="p", keep_between=(0, 1))
    with pytest.raises(ValueError, match="need difficulty"):
        Data(domain="text", order="window")
    with pytest.raises(ValueError, match="low < high"):
        knobs(keep_between=(1, 0))
    with pytest.raises(ValueError, match="the items and the seed"):
        Data(domain="text", difficulty="d.jsonl")
    with pytest.raises(ValueError, match="belong to source"):
        knobs(items=5)


# ---- the command, with the shipped model


RECIPE = """
name = "graded"
[engine]
slots = 8
max_context = 256
[evaluate]
sets = []
[stage.only]
steps = 2
data = [{ source = "synthetic", domain = "geometry", items = 12, seed = 4, difficulty = "d.jsonl", order = "ORDER" }]
rollout = { prompts = 3, siblings = 2, max_new_tokens = 24, max_prompt_tokens = 128 }
"""


@pytest.fixture(scope="module")
def geometry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pass rates of twelve drawn problems, by the command."""
    out = tmp_path_factory.mktemp("measured") / "d.jsonl"
    asked = ["difficulty", str(MICRO_DIR), "synthetic:geometry", "--items", "12", "--samples", "4", "--seed", "4"]
    told = out.with_name("told.json")
    assert run([*asked, "--out", str(out), "--threads", "1", "--json", str(told)]) == 0
    assert json.loads(told.read_text())["rows"] == len(lines(out)) == 12
    return out


def test_a_killed_measurement_ends_with_the_same_bytes(geometry: Path, tmp_path: Path) -> None:
    """Catches a kill in the middle of a row's line that leaves a row out, or sampled anew."""
    program = (
        "import os, signal, sys\n"
        "import lmm_r1.difficulty as difficulty\n"
        "from lmm_r1.cli import main\n"
        "real, count = difficulty.append_line, [0]\n"
        "def append(path, record):\n"
        "    real(path, record)\n"
        "    count[0] += 1\n"
        "    if count[0] == 5:\n"
        "        open(path, 'a').write('{\"id\": \"torn')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "difficulty.append_line = append\n"
        "main(['difficulty', 'micro', 'synthetic:geometry', '--items', '12', '--samples', '4', '--seed', '4',\n"
        "      '--threads', '1', '--out', sys.argv[1]])\n"
    )
    out = tmp_path / "d.jsonl"
    done = subprocess.run([sys.executable, "-c", program, str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert len(out.read_bytes().splitlines()) == 6
    measure_model("micro", "synthetic:geometry", out, items=12, samples=4, seed=4)
    assert out.read_bytes() == geometry.read_bytes()


def test_a_recipe_trains_on_measured_rows(geometry: Path, tmp_path: Path) -> None:
    """Catches a file that the verb writes and a recipe cannot read: ids, hashes and seeds must meet."""
    (tmp_path / "d.jsonl").write_bytes(geometry.read_bytes())
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.replace("ORDER", "easy_to_hard"))
    assert check(path)["ok"], check(path)["errors"]
    recipe = load_recipe(path)
    run_recipe(recipe, path, tmp_path / "run")
    rates = {line["id"]: line["pass_rate"] for line in lines(geometry)}
    seen = [
        list(
            dict.fromkeys(
                r["problem_id"] for r in lines(tmp_path / "run" / "only" / "rollouts" / f"step_00000{s}.jsonl")
            )
        )
        for s in (1, 2)
    ]
    dealt = [rates[i] for step in seen for i in step]
    assert dealt == sorted(dealt, reverse=True) and len(dealt) == 6
    assert dealt[0] == max(rates.values())


def test_check_finds_what_the_run_would_miss(geometry: Path, tmp_path: Path) -> None:
    """Catches a pass-rate file that is missing or incomplete and shows only after the model was loaded."""
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.replace("ORDER", "window"))
    report = check(path)
    assert not report["ok"] and report["exit_code"] == 3
    assert (
        report["errors"][0]["field"] == "stage.only.data.0.difficulty" and "not here" in report["errors"][0]["message"]
    )
    (tmp_path / "d.jsonl").write_text("".join(geometry.read_text().splitlines(keepends=True)[:9]))
    report = check(path)
    assert "3 of 12 rows of synthetic geometry have no pass rate" in report["errors"][0]["message"]
    assert "goes on where it stopped" in report["errors"][0]["remedy"]
    with pytest.raises(DataError, match="3 of 12 rows"):
        make_source(load_recipe(path).stage["only"].data[0], path, ImageStore(), seed=0)
    (tmp_path / "d.jsonl").write_bytes(geometry.read_bytes())
    assert check(path, ["stage.only.data.0.keep_between=[0.999, 1]"])["errors"][0]["field"].endswith("keep_between")


def test_check_looks_at_the_rates_of_a_prepared_file(tmp_path: Path) -> None:
    """Catches a check that only knows drawn problems."""
    rows = [{"id": f"r{k}", "messages": [{"role": "user", "content": "1+1?"}], "answer": "2"} for k in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "d.jsonl").write_text('{"id": "r0", "pass_rate": 0.5}\n')
    path = tmp_path / "r.toml"
    text = RECIPE.replace("max_context = 256", "max_context = 1024").split("data =")[0]
    text += 'data = [{ source = "problems", path = "p.jsonl", difficulty = "d.jsonl" }]\n'
    path.write_text(text)
    assert "2 of 3 rows" in check(path)["errors"][0]["message"]


def test_the_command_names_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback for a misspelt domain, file or profile; each has its exit code."""
    out = ["--out", str(tmp_path / "d.jsonl")]
    assert run(["difficulty", "micro", "synthetic:geomtry", *out]) == 2
    assert run(["difficulty", "micro", str(tmp_path / "no.jsonl"), *out]) == 3
    assert run(["difficulty", "micro", "synthetic:text", "--prompt", "thnk", *out]) == 2
    said = capsys.readouterr().err
    assert "no synthetic domain" in said and "the data is not here" in said and "no prompt profile" in said


def test_families_and_first_rows_can_be_chosen(tmp_path: Path) -> None:
    """Catches a family list that is ignored, and --items on a file."""
    images = ImageStore()
    some = rows_to_measure("synthetic:text:equation,sequence", 4, 0, images)
    assert Counter(some.at(k).id.split("/")[1] for k in range(4)) == {"equation": 2, "sequence": 2}
    rows = [{"id": f"r{k}", "messages": [{"role": "user", "content": "1+1?"}], "answer": "2"} for k in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert rows_to_measure(str(tmp_path / "p.jsonl"), 2, 0, images).size == 2
    assert rows_to_measure(str(tmp_path / "p.jsonl"), 99, 0, images).size == 3
