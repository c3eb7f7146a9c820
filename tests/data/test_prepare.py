"""Preparation: every row is kept or counted, what is written can be read back, and nothing half done is left."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from lmm_r1.cli import run
from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing import golds
from lmm_r1.data.preparing.against import questions_of
from lmm_r1.data.preparing.budget import Budget, cells, shrunk
from lmm_r1.data.preparing.ledger import fault_reason
from lmm_r1.data.preparing.prepare import Options, prepare
from lmm_r1.data.raw.sources import read_problems
from lmm_r1.errors import DataError, Fault, RecipeError
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Message, Problem, Text


def raw(folder: Path, *rows: dict[str, Any] | str) -> Path:
    Pil.fromarray(np.zeros((8, 12, 3), np.uint8)).save(folder / "a.png")
    base = {"source": "s", "choices": None, "answer": "1", "image": None}
    path = folder / "raw.jsonl"
    lines = (
        row if isinstance(row, str) else json.dumps({**base, "id": f"r{n}", "question": f"q{n}?", **row})
        for n, row in enumerate(rows)
    )
    path.write_text("".join(line + "\n" for line in lines))
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


MIXED: Sequence[dict[str, Any] | str] = (
    {},
    {"image": "a.png", "source": "Geometry3K"},
    {"answer": ""},
    {"image": "none.png"},
    {"question": "Prove that x = x."},
    {"choices": ["1", "1 "], "answer": "A"},
    {"answer": "(1) 3 (2) 4"},
    {"answer": "x" * 300},
    {"answer": "9^{9^{9^9}}"},
    {"question": "q0?"},
    {"question": "which?", "answer": "2"},
    {"question": "which?", "answer": "3"},
    "{broken",
    "7",
)


def test_every_row_is_kept_or_counted(tmp_path: Path) -> None:
    """Catches rows that vanish without a reason, and a prepared file that does not read back."""
    out = tmp_path / "out"
    report = prepare("unified", raw(tmp_path, *MIXED), out, VERIFIERS, ImageStore())
    assert (report["rows"], report["kept"]) == (14, 2)
    assert report["dropped"] == {
        "bad answer": 1,
        "bad image": 1,
        "bad row": 2,
        "conflicting gold": 2,
        "duplicate": 1,
        "equal choices": 1,
        "gold does not verify itself": 1,
        "long answer": 1,
        "proof": 1,
        "several parts": 1,
    }
    assert report["by_source"]["Geometry3K"] == {"kept": 1, "dropped": {}}
    assert report["by_source"]["(not read)"] == {"kept": 0, "dropped": {"bad answer": 1, "bad image": 1, "bad row": 2}}
    for name in (None, *report["dropped"]):
        counted = [e["dropped"].get(name, 0) if name else e["kept"] for e in report["by_source"].values()]
        assert sum(counted) == (report["dropped"][name] if name else report["kept"])
    assert "raw.jsonl:3 [answer]" in report["examples"]["bad answer"][0]["why"]
    assert str(tmp_path) not in json.dumps(report)
    assert set(report["reasons"]) == set(report["dropped"])
    assert json.loads((out / "report.json").read_text()) == report
    problems, faults = read_problems(out / "problems.jsonl", ImageStore(), VERIFIERS, strict=True)
    assert faults == []
    assert [p.id for p in problems] == ["r0", "r1"]
    assert len(problems[1].images) == 1
    assert sorted(p.name for p in out.iterdir()) == ["images", "problems.jsonl", "report.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "out", "raw.jsonl"], "nothing else is left"


def test_contamination_counts_before_every_other_reason(tmp_path: Path) -> None:
    """Catches a repeat that is counted as a duplicate, a bad gold or a proof, so that its number is too small."""
    text = "Prove that the sum of all odd numbers below one hundred is two thousand five hundred."
    path = raw(tmp_path, {}, *({"question": text, "answer": a} for a in ("9^{9^{9^9}}", "1", "1", "2")))
    asked = Problem("e", (Message("user", (Text(text),)),), "1")
    against = [questions_of("eval", [asked], ImageStore())]
    report = prepare("rows", path, tmp_path / "out", VERIFIERS, ImageStore(), against=against)
    assert (report["kept"], report["dropped"]) == (1, {"contaminated": 4})
    assert report["against"] == [
        {
            "file": "eval",
            "questions": 1,
            "unread": 0,
            "pictures": 0,
            "rows": 4,
            "word_for_word": 4,
            "questions_repeated": 1,
        }
    ]
    assert "word for word" in report["examples"]["contaminated"][0]["why"]


def test_workers_change_nothing(tmp_path: Path) -> None:
    """Catches a result that depends on how many processes check the golds."""
    draw = random.Random(3)
    golds_of = [str(draw.randrange(50)), "\\frac{1}{2}", "9^{9^{9^9}}", "(1,2)"]
    rows = [
        {"question": f"q{draw.randrange(4000)}?", "answer": draw.choice(golds_of)} for _ in range(2 * golds.CHUNK + 9)
    ]
    path = raw(tmp_path, *rows)
    for workers in (1, 2):
        prepare("rows", path, tmp_path / f"o{workers}", VERIFIERS, ImageStore(), Options(workers=workers, sample=900))
    assert files(tmp_path / "o1") == files(tmp_path / "o2")


def test_what_cannot_be_prepared_is_one_line(tmp_path: Path) -> None:
    """Catches an empty problems.jsonl that a run would trip over later, and what a failure leaves behind."""
    with pytest.raises(RecipeError, match="no data source 'x'"):
        prepare("x", raw(tmp_path, {}), tmp_path / "out", VERIFIERS, ImageStore())
    with pytest.raises(DataError, match=r"none of its 1 rows can be used: bad answer 1; the first fault: .*is empty"):
        prepare("unified", raw(tmp_path, {"answer": ""}), tmp_path / "out", VERIFIERS, ImageStore())
    with pytest.raises(DataError):
        prepare("unified", tmp_path / "none.jsonl", tmp_path / "out", VERIFIERS, ImageStore())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "raw.jsonl"]


def test_an_earlier_result_is_replaced_whole(tmp_path: Path) -> None:
    """Catches pictures of an earlier preparation that stay, files of others that go, and a failure that costs the old."""
    out = tmp_path / "out"
    prepare("rows", raw(tmp_path, {"image": "a.png"}), out, VERIFIERS, ImageStore())
    (out / "notes.txt").write_text("mine")
    before = files(out)
    with pytest.raises(DataError):
        prepare("rows", raw(tmp_path, {"answer": ""}), out, VERIFIERS, ImageStore())
    assert files(out) == before
    prepare("rows", raw(tmp_path, {}), out, VERIFIERS, ImageStore(), page=lambda report: "page")
    assert sorted(files(out)) == ["notes.txt", "problems.jsonl", "report.html", "report.json"]


def test_a_prompt_that_is_too_long_shrinks_its_picture_or_goes(tmp_path: Path) -> None:
    """Catches trial 28: a prompt that is cut, a picture made smaller than it can be read, and one that is larger than allowed."""
    path = raw(tmp_path, {"image": "big.png"}, {"image": "a.png"}, {"question": "x" * 300})
    Pil.effect_noise((560, 280), 60).convert("RGB").save(tmp_path / "big.png")
    out = tmp_path / "out"
    report = prepare("rows", path, out, VERIFIERS, ImageStore(), Options(budget=Budget(100)))
    assert (report["kept"], report["dropped"]) == (2, {"prompt too long": 1})
    problems, _ = read_problems(out / "problems.jsonl", ImageStore(), strict=True)
    (big,), (small,) = (p.images for p in problems)
    assert (small.width, small.height) == (12, 8)
    assert 16 <= cells(big.width, big.height) <= 100
    assert abs(big.width / big.height - 2) < 0.35
    assert len(list((out / "images").iterdir())) == 2
    assert len(report["thumbnails"]) == 2
    assert report["options"]["rows_with_smaller_pictures"] == 1
    report = prepare("rows", path, out, VERIFIERS, ImageStore(), Options(budget=Budget(30)))
    assert report["dropped"] == {"prompt too long": 2}, "16 squares are the least that a large picture may have"


@pytest.mark.parametrize("size", [(560, 280), (3000, 20), (28, 28), (1, 900), (4000, 4000)])
@pytest.mark.parametrize("most", [1, 7, 16, 100])
def test_shrunk_sizes_fit(size: tuple[int, int], most: int) -> None:
    """Catches a size that rounds up beyond its tokens, or down to nothing."""
    wide, high = shrunk(*size, most)
    assert min(wide, high) >= 1
    assert cells(wide, high) <= most
    assert (wide, high) == size or cells(*size) > most


def test_small_pictures_go_where_asked(tmp_path: Path) -> None:
    """Catches --min-side without an effect, or with one by default."""
    path = raw(tmp_path, {"image": "a.png"}, {})
    assert prepare("rows", path, tmp_path / "o", VERIFIERS, ImageStore())["kept"] == 2
    report = prepare("rows", path, tmp_path / "o", VERIFIERS, ImageStore(), Options(min_side=28))
    assert report["dropped"] == {"small picture": 1}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("is missing", field="answer"), "bad answer"),
        (Fault("none.png: image file is missing", field="image"), "bad image"),
        (Fault("none.png: image file is missing", field="images"), "bad image"),
        (Fault("x.png: truncated", field="messages[0].content[1]"), "bad image"),
        (Fault("must be text", field="messages[0].content[1]"), "bad messages"),
        (Fault("must be one of", field="messages[0].role"), "bad messages"),
        (Fault("is not JSON"), "bad row"),
    ],
)
def test_faults_are_counted_by_field(fault: Fault, reason: str) -> None:
    """Catches pictures that are counted as messages, and a reason for every index of a list."""
    assert fault_reason(fault) == reason


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an option of `lmm-r1 prepare` that does not arrive, and figures that no program can read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    path = raw(tmp_path, {"image": "/cluster/x/a.png"}, {"question": "What is 2+2?"}, {}, {"answer": ""})
    (tmp_path / "a.png").rename(folder / "a.png")
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": "what is 2 + 2", "answer": "4"}) + "\n")
    out, result = tmp_path / "out", tmp_path / "result.json"
    code = run(
        ["prepare", "rows", "--input", str(path), "--images", str(folder), "--prefix", "/cluster/x/=", "--out", str(out),
         "--against", str(tmp_path / "eval.jsonl"), "--against", "suite:text", "--seed", "3", "--sample", "1",
         "--workers", "1", "--json", str(result)]
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    report = json.loads(result.read_text())
    assert report["dropped"] == {"bad answer": 1, "contaminated": 1, "not sampled": 1}
    assert {f["file"] for f in report["against"]} == {f"{tmp_path.name}/eval.jsonl", "suite:text"}
    assert said.out.startswith("1 of 4 rows kept, 3 dropped:\n") and "rows kept" not in said.err
    assert f"{out / 'problems.jsonl'}  {out / 'report.html'}\n" in said.out
    assert sorted(p.name for p in out.iterdir()) == ["images", "problems.jsonl", "report.html", "report.json"]
    assert run(["prepare", "rows", "--input", str(path), "--prefix", "nonsense", "--out", str(out)]) == 2
    assert run(["prepare", "rows", "--input", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "o2")]) == 3
    assert not (tmp_path / "o2").exists()
    assert "nonsense" in capsys.readouterr().err


BAD: Sequence[dict[str, Any] | str] = (
    {"image": "none.png"},
    {"image": "none_either.png"},
    {"answer": ""},
    {"question": "Prove that x = x."},
    {"answer": "4*5=20 of them"},
    {"choices": {"A": "1", "C": "2"}, "answer": "A"},
    "{broken",
    {"question": "Is it \x1b[2J red?", "answer": "9^{9^{9^9}}"},
)


def prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    path = raw(tmp_path, {}, *BAD, {"question": "last?"})
    code = run(["prepare", "rows", "--input", str(path), "--out", str(tmp_path / "out"), "--workers", "1", *more])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_summary_names_the_first_fault_of_every_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a reason without its cause: "bad image", and nobody knows which picture of which row."""
    code, out, _ = prepared(tmp_path, capsys)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert code == 0 and "{" not in out.replace("{broken", "").replace("9^{9^{9^9}}", "") and "\x1b" not in out
    lines = out.splitlines()
    assert lines[0] == "2 of 10 rows kept, 8 dropped:"
    assert lines[1].split() == ["2", "bad", "image"]
    assert lines[2].strip() == "first: raw.jsonl:2 [image]: none.png: image file is missing"
    shown = dict(zip((line.split(maxsplit=1)[1] for line in lines[1:-1:2]), lines[2:-1:2], strict=True))
    assert set(shown) == set(report["dropped"]) == set(report["first"])
    for reason, row, field in (
        ("bad answer", 4, "answer"),
        ("proof", 5, "answer"),
        ("gold does not verify itself", 6, "answer"),
        ("bad choices", 7, "choices"),
        ("bad row", 8, ""),
    ):
        first = report["first"][reason]
        assert (first["file"], first["row"], first["field"]) == ("raw.jsonl", row, field)
        assert first["message"] and f"raw.jsonl:{row}" in shown[reason]
    assert (
        "'4*5=20 of them'" in shown["gold does not verify itself"]
        and report["first"]["gold does not verify itself"]["remedy"]
    )


@pytest.mark.parametrize("where", ["-", "result.json"])
def test_json_comes_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Catches JSON that is mixed with words, or words that are lost with it."""
    monkeypatch.chdir(tmp_path)
    code, out, err = prepared(tmp_path, capsys, "--json", where)
    assert code == 0 and not Path("-").exists()
    words = err if where == "-" else out
    assert "2 of 10 rows kept" in words and "first: raw.jsonl:2 [image]" in words
    report = json.loads(out if where == "-" else Path(where).read_text())
    assert (report["rows"], report["kept"], report["first"]["bad image"]["row"]) == (10, 2, 2)


@pytest.mark.parametrize(
    "bad", [({"image": "none.png"}, {"answer": ""}), ({"answer": "4*5=20 of"}, {"answer": "5*5=25 of"})]
)
def test_nothing_kept_is_a_failure_that_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: Sequence[dict[str, Any]]
) -> None:
    """Catches success that is reported for an empty data set, and a failure that hides its cause."""
    path = raw(tmp_path, *bad)
    code = run(["prepare", "rows", "--input", str(path), "--out", str(tmp_path / "out"), "--workers", "1"])
    said = capsys.readouterr()
    assert code == 3 and "none of its 2 rows can be used" in said.err and "raw.jsonl:1 [" in said.err
    assert not (tmp_path / "out").exists()
