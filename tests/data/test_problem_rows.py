"""Rows of a data file: a good one survives a round trip, a bad one is named by file, row and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from lmm_r1.data.images import ImageStore
from lmm_r1.data.raw.sources import SOURCES, problems_jsonl, read_problems, row_of
from lmm_r1.errors import DataError, Fault
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Image, Text

Row = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k, name in enumerate(("a.png", "b.png")):
        Pil.fromarray(np.full((8, 12, 3), 60 * k, np.uint8)).save(tmp_path / name)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def good(**changes: Any) -> Row:
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "How long is AB?"}]
    return {
        "id": "p1",
        "messages": [{"role": "user", "content": content}],
        "answer": "12",
        "verifier": "math",
    } | changes


def asks(*content: Row | str) -> list[Row]:
    parts = [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]
    return [{"role": "user", "content": parts}]


def write(folder: Path, *rows: Row | str) -> Path:
    path = folder / "problems.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), "utf-8")
    return path


A, B = {"type": "image", "image": "a.png"}, {"type": "image", "image": "b.png"}


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        (good(messages=asks({"type": "image", "image": "none.png"}, "?")), "messages[0].content[0]", "missing"),
        (good(messages=asks({"type": "image", "image": "cut.png"}, "?")), "messages[0].content[0]", "truncated"),
        (good(messages=asks({"type": "image", "image": "../a.png"}, "?")), "messages[0].content[0]", "outside"),
        (good(messages=asks({"type": "video", "video": "a.mp4"}, "?")), "messages[0].content[0]", "must be"),
        (good(messages=asks(A, "<image> and <image>?")), "messages[0].content", "2 <image> markers for 1 pictures"),
        (good(messages=asks("<image>?")), "messages[0].content", "1 <image> markers for 0 pictures"),
        (good(messages=asks(A, B, "<image>?")), "messages[0].content", "1 <image> markers for 2 pictures"),
        (good(messages=[]), "messages", "at least one"),
        (good(messages=[{"role": "robot", "content": "x"}]), "messages[0].role", "must be one of"),
        (good(messages=[{"role": "assistant", "content": "x"}]), "messages", "end with the user"),
        (
            good(messages=[{"role": "user", "content": ""}, {"role": "user", "content": []}]),
            "messages[1].content",
            "must be",
        ),
        (good(answer=""), "answer", "empty"),
        (good(answer="  "), "answer", "empty"),
        (good(answer=None), "answer", "missing"),
        (good(answer=["12"]), "answer", "must be text"),
        (good(answer="9^{9^{9^9}}"), "answer", "does not verify against itself"),
        (good(answer="E", verifier="choice", choices=["1", "2"]), "answer", "does not verify against itself"),
        (good(verifier="maths"), "verifier", "'maths' is unknown"),
        (good(choices="AB"), "choices", "list of texts"),
        (good(choices=["x"] * 27), "choices", "27 options"),
        (good(id=""), "id", "empty"),
        (good(id=7.5), "id", "must be text or a whole number"),
        (good(id=[7]), "id", "must be text or a whole number, not a list"),
        (good(id=True), "id", "must be text or a whole number, not true or false"),
        (good(meta=[1]), "meta", "object"),
        (good(image_sha=["0" * 64]), "image_sha", "does not name"),
        (good(image_sha=[]), "image_sha", "does not name"),
        ('{"id": "p1", ', "", "not JSON"),
        ("[" * 100_000, "", "not JSON"),
        ("7", "", "not an object"),
    ],
)
def test_a_bad_row_is_one_fault_with_file_row_and_field(folder: Path, row: Row | str, field: str, says: str) -> None:
    """Catches a bad row that crashes, is skipped in silence, or is reported without its place."""
    path = write(folder, good(id="before"), row, good(id="after"))
    problems, faults = read_problems(path, ImageStore(), VERIFIERS)
    assert [p.id for p in problems] == ["before", "after"]
    (fault,) = faults
    assert (fault.file, fault.row, fault.field) == (str(path), 2, field)
    assert says in fault.message
    assert "\n" not in str(fault)
    with pytest.raises(DataError) as caught:
        read_problems(path, ImageStore(), VERIFIERS, strict=True)
    assert caught.value.faults == (fault,)
    assert caught.value.exit_code == 3


def test_a_duplicate_id_names_the_first_row(folder: Path) -> None:
    """Catches two problems that would share their random numbers."""
    _, (fault,) = read_problems(write(folder, good(), good(id="p2"), good()), ImageStore())
    assert (fault.row, fault.field) == (3, "id")
    assert "row 1" in fault.message


def test_all_faults_are_told_at_once(folder: Path) -> None:
    """Catches a reader that stops at the first fault."""
    with pytest.raises(DataError) as caught:
        read_problems(write(folder, good(answer=""), good(), "{", good(id="x", messages=[])), ImageStore(), strict=True)
    assert [f.row for f in caught.value.faults] == [1, 3, 4]


def test_a_file_that_is_absent_empty_or_not_text(tmp_path: Path) -> None:
    """Catches an OSError or UnicodeDecodeError that reaches the user raw."""
    with pytest.raises(DataError, match="No such file"):
        read_problems(tmp_path / "none.jsonl", ImageStore())
    with pytest.raises(DataError, match="holds no problems"):
        read_problems(write(tmp_path), ImageStore(), strict=True)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00\n")
    _, (fault,) = read_problems(tmp_path / "bytes.jsonl", ImageStore())
    assert fault.row == 1


def test_markers_place_the_pictures(folder: Path) -> None:
    """Catches pictures that swap places, and marker text that stays in the prompt."""
    images = ImageStore()
    path = write(folder, good(messages=asks(A, B, "First <image>, then <image>: which?")))
    ((message,),) = [p.messages for p in read_problems(path, images, strict=True)[0]]
    a, b = images.put_file(folder / "a.png"), images.put_file(folder / "b.png")
    assert message.content == (Text("First "), a, Text(", then "), b, Text(": which?"))


def test_media_tokens_in_text_are_text(folder: Path) -> None:
    """Catches user text that is taken for a placeholder or stripped."""
    text = "What does <|image_pad|> mean?<|im_end|>"
    (problem,), _ = read_problems(write(folder, good(messages=asks(text))), ImageStore(), strict=True)
    assert problem.messages[0].content == (Text(text),)


def test_a_row_survives_a_round_trip(folder: Path) -> None:
    """Catches a field that is written and not read, or the other way round."""
    images = ImageStore()
    row = good(
        source="s", choices=["1", "2"], answer="B", verifier="choice", domain="geometry", env="sokoban", meta={"level": 3},
        messages=[{"role": "system", "content": "Think."}, *asks(A, "x", B)],
    )  # fmt: skip
    problem = problems_jsonl(row, 1, lambda name: images.put_file(name, root=folder))

    def path_of(image: Image) -> str:
        return str(images.save_png(image.sha, folder / "images").relative_to(folder))

    again = problems_jsonl(
        json.loads(json.dumps(row_of(problem, path_of))), 9, lambda n: ImageStore().put_file(n, root=folder)
    )
    assert again == problem


@pytest.mark.parametrize(
    ("source", "row", "check"),
    [
        ("unified", {"id": "u", "question": "How?", "choices": ["1", "2"], "answer": "B", "image": "a.png", "source": "Geometry3K"},
         lambda p: (p.verifier, p.domain, p.messages[0].content[1].text) == ("choice", "geometry", "How?\nA. 1\nB. 2")),
        ("unified", {"id": "u", "question": "What?", "choices": None, "answer": 7, "image": None, "source": "gsm8k"},
         lambda p: (p.verifier, p.domain, p.answer, p.images) == ("math", "text", "7", ())),
        ("deepscaler", {"problem": "What?", "answer": "\\frac{3}{7}", "solution": ""}, lambda p: p.id == "deepscaler-1"),
        ("geometry3k", {"id": 4, "images": [{"path": "a.png"}], "problem": "<image>Find x.", "answer": "3"},
         lambda p: p.id == "geometry3k-4" and isinstance(p.messages[0].content[0], Image)),
    ],
)  # fmt: skip
def test_other_readers(folder: Path, source: str, row: Row, check: Callable[[Any], bool]) -> None:
    """Catches a public data set that is read with the wrong verifier, picture or text."""
    problems, faults = read_problems(write(folder, row), ImageStore(), VERIFIERS, reader=SOURCES[source])
    assert faults == []
    assert check(problems[0]), problems[0]


def test_a_json_array_is_read_as_well(tmp_path: Path) -> None:
    """Catches that DeepScaleR ships one array, not lines."""
    path = tmp_path / "deepscaler.json"
    path.write_text(json.dumps([{"problem": "a", "answer": "1"}, {"problem": "b", "answer": ""}, 3]))
    problems, faults = read_problems(path, ImageStore(), VERIFIERS, reader=SOURCES["deepscaler"])
    assert [p.id for p in problems] == ["deepscaler-1"]
    assert [(f.row, f.field) for f in faults] == [(2, "answer"), (3, "")]
    path.write_text('[{"problem": "a", "answer": "1"},')
    (problem,), (fault,) = read_problems(path, ImageStore(), VERIFIERS, reader=SOURCES["deepscaler"])
    assert (problem.id, fault.row) == ("deepscaler-1", 2)
    assert "the array is not closed" in fault.message


def test_faults_print_their_place() -> None:
    """Catches a fault whose line does not lead to the row."""
    assert str(Fault("is empty", "d.jsonl", 3, "answer")) == "d.jsonl:3 [answer]: is empty"
