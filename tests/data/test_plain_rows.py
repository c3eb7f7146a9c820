"""Rows as people have them: what is plain is read, what is not is named exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from lmm_r1.check import check
from lmm_r1.data.images import ImageStore
from lmm_r1.data.jsonl_source import open_rows
from lmm_r1.data.raw.rows import rows
from lmm_r1.data.raw.sources import SOURCES, read_problems
from lmm_r1.errors import DataError, Fault
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Image, Problem

Row = dict[str, Any]


def wrote(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(folder: Path, *items: Row, name: str = "rows.jsonl") -> Path:
    return wrote(folder, name, "".join(json.dumps(item) + "\n" for item in items))


def read(path: Path, source: str = "rows") -> tuple[list[Problem], list[Fault]]:
    return read_problems(path, ImageStore(), VERIFIERS, reader=SOURCES[source])


def asked(**changes: Any) -> Row:
    return {"id": "a", "question": "How many?", "answer": "7"} | changes


# ---- ids, answers, options


@pytest.mark.parametrize(
    ("identity", "known"),
    [(7, "7"), (0, "0"), (7.0, "7"), ("q1", "q1"), (None, "row-2"), (10**20, "1" + "0" * 20)],
)
@pytest.mark.parametrize("source", ["rows", "problems"])
def test_numbers_name_rows_and_so_does_their_place(tmp_path: Path, source: str, identity: Any, known: str) -> None:
    """Catches a whole hub data set that goes since its ids are numbers, or not there."""
    told = {"messages": [{"role": "user", "content": "How many?"}]} if source == "problems" else {}
    path = lines(tmp_path, asked(**told), asked(id=identity, **told))
    problems, faults = read(path, source)
    assert ([p.id for p in problems], faults) == (["a", known], [])


def test_a_row_without_an_id_is_the_same_everywhere(tmp_path: Path) -> None:
    """Catches a source that names its rows in another way than its problems: pass rates would miss them."""
    items = [{"messages": [{"role": "user", "content": f"{n}+1?"}], "answer": n + 1} for n in range(3)]
    items[1]["id"] = 12
    source = open_rows(lines(tmp_path, *items), ImageStore(), VERIFIERS)
    named = [identity for identity, _ in source.rows()]
    assert named == ["row-1", "12", "row-3"] == [source.at(n).id for n in range(3)]


@pytest.mark.parametrize("identity", [12, None])
def test_check_finds_long_prompts_of_rows_with_any_id(tmp_path: Path, identity: Any) -> None:
    """Catches a prompt over the limit that is not told, since its row goes by a number."""
    told = {"messages": [{"role": "user", "content": "How many?"}], "answer": 3, "id": identity}
    lines(tmp_path, told, name="problems.jsonl")
    recipe = wrote(
        tmp_path,
        "r.toml",
        'name = "r"\n[stage.s]\nfrom = "base"\nsteps = 1\n'
        'data = [{ source = "problems", path = "problems.jsonl" }]\nrollout = { max_prompt_tokens = 8 }\n',
    )
    report = check(recipe, count=lambda model, images, problems: [9 for _ in problems])
    assert ["9 tokens" in e["message"] for e in report["errors"] if e["field"] == "messages"] == [True]


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ([3, 4, 5], ("3", "4", "5")),
        ([0.5, 2.0, "x"], ("0.5", "2", "x")),
        ({"A": "red", "B": "blue"}, ("red", "blue")),
        ({"B": 4, "A": 3}, ("3", "4")),
        ({"a": "red", "b": "blue", "c": None}, ("red", "blue")),
        ({"label": ["A", "B"], "text": ["red", "blue"]}, ("red", "blue")),
        ('["red", "blue"]', ("red", "blue")),
        ('{"A": "red", "B": "blue"}', ("red", "blue")),
        ("3|5|6", ("3", "5", "6")),
        ("red | blue", ("red", "blue")),
    ],
)
def test_options_that_are_plain(tmp_path: Path, options: Any, texts: tuple[str, ...]) -> None:
    """Catches options as numbers, under letters or in a cell being refused."""
    (problem,), faults = read(lines(tmp_path, asked(choices=options, answer="B")))
    assert (problem.choices, problem.verifier, faults) == (texts, "choice", [])
    assert f"\nB. {texts[1]}" in problem.messages[0].content[0].text  # type: ignore[union-attr]
    (other,), _ = read(lines(tmp_path, asked(options=options, answer="B")))
    assert other.choices == texts, "a column named options"


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"choices": {"A": "x", "C": "y"}}, "choices", "A, B, C, ... in a row, not A, C"),
        ({"choices": {"1": "x", "2": "y"}}, "choices", "not 1, 2"),
        ({"choices": {"label": ["A", "B"], "text": ["x"]}}, "choices", "2 labels for 1 texts"),
        ({"choices": ["x", None]}, "choices", "option B is"),
        ({"choices": ["x", True]}, "choices", "option B is true or false"),
        ({"choices": "['x', 'y']"}, "choices", "it looks like Python's"),
        ({"choices": "|x||y|"}, "choices", "with | between them"),
        ({"choices": "x, y"}, "choices", "with | between them"),
        ({"choices": ["x", "y"], "answer": 1}, "answer", "1 is none of the 2 options"),
        ({"choices": ["x", "y"], "answer": "0"}, "answer", "0 is none of the 2 options"),
        ({"answer": True}, "answer", "not true or false"),
        ({"answer": ["7"]}, "answer", "not a list"),
        ({"id": {"n": 1}}, "id", "not an object"),
    ],
)
def test_what_is_not_plain_is_named(tmp_path: Path, changes: Row, field: str, says: str) -> None:
    """Catches a guess at what a row means, and a fault that does not say which part of it is unclear."""
    _, (fault,) = read(lines(tmp_path, asked(choices=None), asked(**{"id": "b", **changes})))
    assert (fault.row, fault.field) == (2, field) and says in fault.message


def test_an_answer_that_is_an_option_is_no_position(tmp_path: Path) -> None:
    """Catches the number of an option being refused, or taken for its place."""
    (problem,), _ = read(lines(tmp_path, asked(choices=[2, 1], answer=1)))
    verdicts = [VERIFIERS["choice"](problem, f"<answer>{letter}</answer>").value for letter in "AB"]
    assert verdicts == [0.0, 1.0]


# ---- the kinds of files

FIELDS = ["id", "question", "answer", "choices"]
RECORDS = [["a", "Größe?", "B", "3|5|6"], ["b", "How, many?", "7", ""]]


def table(separator: str, head: str = "", end: str = "\n") -> str:
    quoted = ([f'"{cell}"' if separator in cell else cell for cell in record] for record in [FIELDS, *RECORDS])
    return head + "".join(separator.join(record) + end for record in quoted)


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_any_spreadsheet(tmp_path: Path, name: str, separator: str, encoding: str, end: str) -> None:
    """Catches columns that are not found: a semicolon, a tab in .csv, "Unicode text"."""
    problems, faults = read(wrote(tmp_path, name, table(separator, end=end).encode(encoding)))
    assert ([(p.id, p.answer) for p in problems], faults) == ([("a", "B"), ("b", "7")], [])
    assert problems[0].messages[0].content[0].text.startswith("Größe?")  # type: ignore[union-attr]
    assert problems[0].choices == ("3", "5", "6")


@pytest.mark.parametrize("answer", ["0,5", "-12,75"])
def test_an_answer_with_a_comma_between_semicolons_is_named(answer: str, tmp_path: Path) -> None:
    """Catches 0,5 kept as a pair: 0.5 would be wrong, and 5,0 paid."""
    problems, faults = read(wrote(tmp_path, "a.csv", f"question;answer\nHalf?;{answer}\nTwo?;2\n"))
    assert [p.answer for p in problems] == ["2"]
    assert [(f.row, f.field) for f in faults] == [(2, "answer")] and "may be one number or two" in faults[0].message
    kept, _ = read(wrote(tmp_path, "b.csv", f'question,answer\nWhich?,"{answer}"\n'))
    assert [p.answer for p in kept] == [answer]  # between commas it is what it says


@pytest.mark.parametrize(("separator", "head", "first"), [(";", "sep=;\n", 3), ("\t", "sep=\t\n", 3), (",", "", 2)])
def test_rows_of_a_table_are_numbered_as_an_editor_does(tmp_path: Path, separator: str, head: str, first: int) -> None:
    """Catches a fault that leads to the line above the row."""
    found = list(rows(wrote(tmp_path, "x.csv", table(separator, head) + f'"c\n",{separator}\nd\n')))
    assert [number for number, _ in found] == [first, first + 1, first + 2, first + 4]
    assert "columns, the header 4" in str(found[3][1]) and f"x.csv:{first + 4}" in str(found[3][1])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", "question|answer\n1+1?|2\n", "is the separator '|'?"),
        ("x.csv", "question:answer\n1+1?:2\n", "is the separator ':'?"),
        ("x.csv", '{"question": "1+1?", "answer": 2}\n', "holds no columns but JSON"),
        ("x.xlsx", b"PK\x03\x04", "is a spreadsheet"),
        ("x.parquet", "question,answer\n1+1?,2\n", "is no parquet file: it begins with 'question,answer'"),
        ("x.arrow", '{"a": 1}\n', "is no arrow file: it begins with"),
        ("x.jsonl", '{"question": "ä"}\n'.encode("utf-32"), "UTF-32"),
        ("x.jsonl", '{"question": "a"}\n'.encode("utf-16-le"), "UTF-16 (little-endian) without a byte order mark"),
        ("x.csv", "question,answer\n".encode("utf-16-be"), "UTF-16 (big-endian) without a byte order mark"),
        ("x.json", json.dumps({"questions": [asked()], "n": 1}, indent=1), "an object over several lines, not with rows; it holds 'questions', 'n'"),
        ("x.json", json.dumps({"train": [asked()]}), "is one object, not with rows; it holds 'train'"),
        ("x.json", json.dumps(asked(), indent=1), "an object over several lines, not with rows; it holds 'id'"),
        ("x.jsonl", "\n".join([json.dumps(asked(), indent=1)] * 3), "an object over several lines"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_seems_is_one_fault(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    """Catches a fault for each of a thousand lines, none of which says what is wrong with the file."""
    with pytest.raises(DataError) as caught:
        read(wrote(tmp_path, name, content))
    (fault,) = caught.value.faults
    assert says in fault.message and fault.remedy


@pytest.mark.parametrize("content", ["question,answer\n1+1?,2\n", "question;answer\n1+1?;2\n"])
def test_a_table_by_another_name_is_told(tmp_path: Path, content: str) -> None:
    """Catches a CSV file named .txt or .json whose fault speaks of JSON alone."""
    _, faults = read(wrote(tmp_path, "x.txt", content))
    assert ".csv" in faults[0].remedy


def test_bytes_of_another_encoding_have_a_remedy(tmp_path: Path) -> None:
    """Catches a Latin-1 file whose fault does not say what to do."""
    for name, content in (
        ("x.csv", "id,question,answer\na,Größe?,7\n"),
        ("x.jsonl", '{"id": "a", "question": "ä?"}\n'),
    ):
        _, (fault,) = read(wrote(tmp_path, name, content.encode("latin-1")))
        assert fault.field == "question" and "UTF-8" in fault.message and "UTF-8" in fault.remedy


ITEMS = [asked(id=f"r{n}", question=f"{n}+{n}?", answer=2 * n) for n in range(3)]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"data": ITEMS}),
        json.dumps({"data": ITEMS}, indent=2),
        json.dumps({"rows": ITEMS}) + "\n",
        json.dumps({"version": "1.1", "info": {"n": 3, "data": []}, "data": ITEMS}, indent=1),
        json.dumps({"rows": ITEMS, "license": "mit"}),
        json.dumps({"features": [{"name": "id"}], "rows": [{"row_idx": n, "row": r} for n, r in enumerate(ITEMS)]}),
    ],
    ids=range(6),
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_rows_in_an_object(tmp_path: Path, content: str, encoding: str) -> None:
    """Catches {"data": [...]} read as bad rows, one a line, or as one."""
    problems, faults = read(wrote(tmp_path, "x.json", content.encode(encoding)))
    assert ([(p.id, p.answer) for p in problems], faults) == ([("r0", "0"), ("r1", "2"), ("r2", "4")], [])


def test_a_prepared_file_in_an_object_is_a_source(tmp_path: Path) -> None:
    """Catches rows of an array that are looked for in the lines of the file."""
    items = [{"id": str(n), "messages": [{"role": "user", "content": f"{n}?"}], "answer": "7"} for n in range(3)]
    for name, content in (
        ("w.json", json.dumps({"data": items}, indent=1)),
        ("u.jsonl", "\n".join(map(json.dumps, items))),
    ):
        encoding = "utf-16" if name == "u.jsonl" else "utf-8"
        source = open_rows(wrote(tmp_path, name, content.encode(encoding)), ImageStore(), VERIFIERS)
        assert [source.at(n).id for n in range(source.size or 0)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "items",
    [
        [{"data": [{"a": 1}], "question": "1?", "answer": 1}, {"data": [{"a": 1}], "question": "2?", "answer": 2}],
        [{"id": "a", "question": "1?", "answer": 1, "rows": [{"x": 1}]}],
        [{"question": "1?", "data": [{"x": 1}], "answer": 1}, {"question": "2?", "answer": 2}],
    ],
)
def test_lines_with_a_field_of_that_name_stay_lines(tmp_path: Path, items: list[Row]) -> None:
    """Catches a column named data or rows that is taken for the data set."""
    problems, faults = read(lines(tmp_path, *items))
    assert ([p.answer for p in problems], faults) == ([str(item["answer"]) for item in items], [])


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("How many circles are in <image>?", ["How many circles are in ", None, "?"]),
        ("<image>\nHow many?", [None, "How many?"]),
        ("Compare <image> and <image2> now", None),
        ("Look at this.\n<image>\nHow many?", ["Look at this.", None, "How many?"]),
        ("  In <image>, find x  ", ["In ", None, ", find x"]),
    ],
)
def test_a_space_beside_a_picture_stays(tmp_path: Path, question: str, parts: list[str | None] | None) -> None:
    """Catches "in <image>?" that is shown as "in" and a picture without a space."""
    Pil.fromarray(np.zeros((8, 12, 3), np.uint8)).save(tmp_path / "a.png")
    problems, faults = read(lines(tmp_path, asked(question=question, image="a.png")))
    if parts is None:
        assert faults[0].field == "question"
        return
    assert [None if isinstance(p, Image) else p.text for p in problems[0].messages[0].content] == parts


def test_pictures_under_another_name_or_in_a_cell(tmp_path: Path) -> None:
    """Catches a column "images" that is not looked at: a question about a picture that nobody sees."""
    for name in ("a.png", "b.png"):
        Pil.fromarray(np.full((8, 12, 3), ord(name[0]), np.uint8)).save(tmp_path / name)
    (problem,), _ = read(lines(tmp_path, asked(images=["a.png"])))
    assert len(problem.images) == 1
    path = wrote(tmp_path, "x.csv", 'question,answer,image\n<image> or <image>?,7,"[""a.png"", ""b.png""]"\n')
    (problem,), _ = read(path)
    assert len(problem.images) == 2
