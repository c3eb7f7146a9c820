"""Published data sets, in the layouts they are published in: good rows become problems, bad ones faults with a place."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmm_r1.data.images import ImageStore
from lmm_r1.data.raw.sources import SOURCES, problems_in, read_problems
from lmm_r1.errors import DataError, Fault
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Image, Problem, Text
from tests.data.picture_files import make_folder, make_tar, make_zip, png

Row = dict[str, Any]
CLUSTER = "/apdcephfs_gy2/share_302735770/berlinni/zgr/data/mathv60k/"


def turns(*parts: Any, system: str = "Think. \\boxed{} it.") -> str:
    return json.dumps([{"role": "system", "content": system}, {"role": "user", "content": list(parts)}])


def text(words: str) -> Row:
    return {"type": "text", "text": words}


def asked(human: str, gpt: str, image: str | None = "TabMWP/images/1.png", **more: Any) -> Row:
    said = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"id": "identity_7", "image": image, "conversations": said} | more


def hub_image(shade: int = 1) -> Row:
    return {"bytes": png(shade), "path": None}


OPTIONS = "<image>\nHint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\nQuestion: How long is AB?\nChoices:\n(A) 5 cm\n(B) 12\n(C) 13"  # fmt: skip
PICTURE = {"type": "image", "image": f"file://{CLUSTER}TabMWP/images/1.png"}

#: source, row, and the problem's (id, answer, verifier, domain, source, choices), texts and number of pictures.
GOOD: list[tuple[str, Row, tuple[Any, ...], list[str], int]] = [
    ("deepscaler", {"problem": "What is 1/2+1/3?", "answer": "\\frac{5}{6}", "solution": "Add."},
     ("deepscaler-1", "\\frac{5}{6}", "math", "text", "DeepScaleR-Preview", None), ["What is 1/2+1/3?"], 0),
    ("deepscaler", {"id": "d1", "source": "s", "question": "1+1?", "choices": None, "answer": 2, "image": None},
     ("d1", "2", "math", "text", "s", None), ["1+1?"], 0),
    ("message", {"question": "1+1?", "answer": "$\\boxed{2}$", "message": turns(text("1+1?"))},
     (None, "2", "math", "text", "DeepScaleR-Preview", None), ["Think. \\boxed{} it.", "1+1?"], 0),
    ("message", {"question": "?", "answer": "$\\boxed{B}$", "message": turns(text("Which?\n\nA. A\nB. B\nC. C"), PICTURE)},
     (None, "B", "choice", "perception", "TabMWP", ("A", "B", "C")), ["Think. \\boxed{} it.", "Which?\n\nA. A\nB. B\nC. C"], 1),
    ("message", {"answer": "$4.5$", "datasource": "PlotQA", "message": turns(PICTURE, text("How high?"))},
     (None, "4.5", "numeric", "perception", "PlotQA", None), ["Think. \\boxed{} it.", "How high?"], 1),
    ("mathv360k", asked(OPTIONS, "The answer is B"),
     ("mathv360k-1", "B", "choice", "perception", "TabMWP", ("5 cm", "12", "13")), ["How long is AB?\nA. 5 cm\nB. 12\nC. 13"], 1),
    ("mathv360k", asked(OPTIONS, "The answer is 5 CM.", "GeoQA+/images/2.png"),
     ("mathv360k-1", "A", "choice", "geometry", "GeoQA+", ("5 cm", "12", "13")), ["How long is AB?\nA. 5 cm\nB. 12\nC. 13"], 1),
    ("mathv360k", asked(OPTIONS, "The answer is (C) 13", "UniGeo/3.png"),
     ("mathv360k-1", "C", "choice", "geometry", "UniGeo", ("5 cm", "12", "13")), ["How long is AB?\nA. 5 cm\nB. 12\nC. 13"], 1),
    ("mathv360k", asked("<image>\nHint: An integer.\nQuestion: How many?", "The answer is 4.", "PlotQA/4.png"),
     ("mathv360k-1", "4", "numeric", "perception", "PlotQA", None), ["How many?"], 1),
    ("mathv360k", asked("<image>\nWhat is it?", "The answer is a kitchen", "VQA2.0/5.png"),
     ("mathv360k-1", "a kitchen", "text", "perception", "VQA2.0", None), ["What is it?"], 1),
    ("mathv360k", asked("<image>\nWhat time?\nChoices:\n(A) 7 a.m. (B) 7 p.m.", "The answer is 7 p.m.", "VQA2.0/5.png"),
     ("mathv360k-1", "B", "choice", "perception", "VQA2.0", ("7 a.m.", "7 p.m.")), ["What time?\nA. 7 a.m.\nB. 7 p.m."], 1),
    ("geometry3k", {"images": [hub_image()], "problem": "<image>Find x.", "answer": "2 \\sqrt { 3 }"},
     ("geometry3k-1", "2 \\sqrt { 3 }", "math", "geometry", "hiyouga/geometry3k", None), ["Find x."], 1),
    ("geometry3k", {"id": "17", "images": [hub_image()], "problem": "<image>Find x.", "answer": "3", "choices": ["3", "4"], "ground_truth": "A"},
     ("geometry3k-17", "3", "math", "geometry", "hiyouga/geometry3k", None), ["Find x."], 1),
    ("mmk12", {"id": "ab-1", "question": "In <image>, find angle A.", "answer": "$30^\\circ$", "subject": "math", "image": hub_image()},
     ("mmk12-ab-1", "30^\\circ", "math", "geometry", "MMK12", None), ["In ", ", find angle A."], 1),
    ("mmk12", {"id": "t", "question": "Which force?\nA. 1 N\nB. 2 N", "answer": "B", "subject": "physics", "image": hub_image()},
     ("mmk12-t", "B", "choice", "perception", "MMK12", ("1 N", "2 N")), ["Which force?\nA. 1 N\nB. 2 N"], 1),
    ("virl39k", {"qid": "Q-1", "question": "<image> and <image>: the difference?", "answer": "\\boxed{17}", "image": ["images/1.png", "images/2.png"],
                 "category": "STEM", "source": "Processed", "PassRate_32BTrained": 0.75, "PassRate_7BUntrained": None},
     ("virl39k-Q-1", "17", "math", "perception", "Processed", None), [" and ", ": the difference?"], 2),
    ("virl39k", {"qid": "Q-2", "question": "What changes?", "answer": "\\boxed{increasing}", "image": ["images/1.png"], "category": "c", "source": "s"},
     ("virl39k-Q-2", "increasing", "text", "perception", "s", None), ["What changes?"], 1),
    ("geoqa_r1v", {"image": hub_image(), "problem": "Find angle 1.", "solution": "<answer> 145° </answer>"},
     ("geoqa_r1v-1", "145°", "math", "geometry", "GeoQA", None), ["Find angle 1."], 1),
    ("open_r1_8k", {"image": hub_image(), "problem": "How many?", "solution": "<think>Two, and two.</think><answer>4</answer>", "original_question": "N?", "original_answer": "4"},
     ("open_r1_8k-1", "4", "math", "perception", "open-r1-8k", None), ["How many?"], 1),
    ("openai", {"id": "o", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "images/1.png"}}, text("How many?")]}, {"role": "assistant", "content": "4 of them."}], "answer": 4.0},
     ("o", "4", "math", "perception", "openai", None), ["How many?"], 1),
    ("rows", {"id": "r", "source": "Geometry3K", "question": "Which?", "choices": ["1", "2"], "answer": "B", "image": "images/1.png"},
     ("r", "B", "choice", "geometry", "Geometry3K", ("1", "2")), ["Which?\nA. 1\nB. 2"], 1),
]  # fmt: skip
PATHS = ["TabMWP/images/1.png", "GeoQA+/images/2.png", "UniGeo/3.png", "PlotQA/4.png", "VQA2.0/5.png", "images/1.png", "images/2.png"]  # fmt: skip
PICTURES = {name: png(n) for n, name in enumerate(PATHS)}


def has_bytes(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, bytes) or any(map(has_bytes, inside))


def write(folder: Path, *rows: Row) -> Path:
    """Rows as their data set has them: parquet with pictures inside, one array, or lines."""
    if any(map(has_bytes, rows)):
        pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'lmm-r1[data]'")
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows)), folder / "rows.parquet")
        return folder / "rows.parquet"
    if "conversations" in rows[0]:
        (folder / "rows.json").write_text(json.dumps(list(rows)), "utf-8")
        return folder / "rows.json"
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder / "rows.jsonl"


@pytest.mark.parametrize(("source", "row", "expected", "texts", "pictures"), GOOD, ids=lambda x: x if isinstance(x, str) else "")  # fmt: skip
@pytest.mark.parametrize("where", ["beside", "zip", "tar"])
def test_a_published_row_becomes_a_problem(
    tmp_path: Path, source: str, row: Row, expected: tuple[Any, ...], texts: list[str], pictures: int, where: str
) -> None:
    """Catches a published layout that is read with the wrong answer, verifier, options, picture or domain."""
    images_from = None
    if where == "beside":
        make_folder(tmp_path, PICTURES)
    else:
        images_from = {"zip": make_zip, "tar": make_tar}[where](tmp_path / f"x.{where}", PICTURES)
    (problem,), faults = read_problems(
        write(tmp_path, row), ImageStore(), VERIFIERS, reader=SOURCES[source], images_from=images_from
    )
    assert faults == []
    identity = problem.id if expected[0] is None else expected[0]
    found = (problem.id, problem.answer, problem.verifier, problem.domain, problem.source, problem.choices)
    assert found == (identity, *expected[1:])
    assert [p.text for m in problem.messages for p in m.content if isinstance(p, Text)] == texts
    assert len(problem.images) == pictures


def test_what_is_kept_beside_the_question(tmp_path: Path) -> None:
    """Catches solutions, pass rates and subjects that get lost, and nulls kept as values."""
    make_folder(tmp_path, PICTURES)
    kept = {}
    for source, row, expected, *_ in GOOD:
        (problem,), _ = read_problems(write(tmp_path, row), ImageStore(), reader=SOURCES[source])
        kept[expected[0] or source] = dict(problem.meta)
        json.dumps(kept, allow_nan=False)
    assert kept["deepscaler-1"] == {"solution": "Add."}
    assert kept["mmk12-t"] == {"subject": "physics"}
    assert kept["virl39k-Q-1"] == {"category": "STEM", "PassRate_32BTrained": 0.75}
    assert kept["geometry3k-17"] == {"options": ["3", "4"], "ground_truth": "A"}
    assert kept["open_r1_8k-1"]["solution"].startswith("<think>") and kept["open_r1_8k-1"]["original_answer"] == "4"
    assert kept["o"] == {"solution": "4 of them."}


MESSAGE = {"question": "?", "answer": "$\\boxed{2}$", "message": turns(text("1+1?"))}
VIRL = {"qid": "q", "question": "<image>?", "answer": "\\boxed{1}", "image": ["images/1.png"]}
OPEN = {"image": None, "problem": "?", "solution": "<think>a</think><answer>4</answer>"}
CHAT = {"messages": [{"role": "user", "content": "?"}], "answer": "1"}


@pytest.mark.parametrize(
    ("source", "row", "field", "says"),
    [
        ("deepscaler", {"problem": "?", "answer": None}, "answer", "missing"),
        ("deepscaler", {"problem": "?", "answer": ["1", "2"]}, "answer", "must be text"),
        ("deepscaler", {"problem": "?", "answer": True}, "answer", "must be text"),
        ("deepscaler", {"problem": "?", "answer": "$\\boxed{}$"}, "answer", "empty"),
        ("deepscaler", {"problem": " ", "answer": "1"}, "problem", "empty"),
        ("deepscaler", {"answer": "1"}, "problem", "missing"),
        ("deepscaler", {"problem": "Which?\nA. 1\nB. 2", "answer": "C"}, "answer", "option C of 2"),
        ("message", MESSAGE | {"message": [{"role": "user"}]}, "message", "must be text"),
        ("message", MESSAGE | {"message": "[{"}, "message", "not JSON"),
        ("message", MESSAGE | {"message": "[" * 9000}, "message", "not JSON"),
        ("message", MESSAGE | {"message": '[{"role": "user", "content": "\\u0000"}]'}, "message", "NUL"),
        ("message", MESSAGE | {"message": turns(text("x\ud800"))}, "message", "surrogate"),
        ("message", MESSAGE | {"message": turns(text(" "))}, "message", "asks nothing"),
        ("message", MESSAGE | {"message": '[{"role": "assistant", "content": "x"}]'}, "message", "end with the user"),
        ("message", MESSAGE | {"message": turns(text("?"), {"type": "image", "image": "/srv/1.png"})}, "message[1].content[1]", "outside"),
        ("message", MESSAGE | {"message": turns(text("?"), PICTURE | {"image": f"{CLUSTER}none.png"})}, "message[1].content[1]", "missing"),
        ("message", MESSAGE | {"answer": 3.5, "message": turns(text("<image> <image>"), PICTURE)}, "message[1].content", "2 <image> markers for 1"),
        ("mathv360k", asked(OPTIONS, "The answer is D"), "conversations[1].value", "none of the 3 options"),
        ("mathv360k", asked(OPTIONS, "The answer is (B) 13"), "conversations[1].value", "none of the 3 options"),
        ("mathv360k", asked("<image>\nQuestion: Q\nChoices:\n(A) B\n(B) A", "The answer is A"), "conversations[1].value", "could be several"),
        ("mathv360k", asked("<image>\nQuestion: Q\nChoices:\n(A) 1\n(B) 1", "The answer is 1"), "conversations[1].value", "could be several"),
        ("mathv360k", asked("<image>\nQuestion: Q\nChoices:\n(B) 1\n(C) 2", "The answer is B"), "conversations[0].value", "two options"),
        ("mathv360k", asked("<image>\nHint: only", "The answer is 1"), "conversations[0].value", "asks nothing"),
        ("mathv360k", asked("<image><image>?", "The answer is 1"), "conversations[0].value", "2 <image> markers for 1 pictures"),
        ("mathv360k", asked("<image>?", "The answer is 1", None), "conversations[0].value", "1 <image> markers for 0"),
        ("mathv360k", asked("<image>?", "The answer is "), "conversations[1].value", "no answer"),
        ("mathv360k", asked("<image>?", "Well. " * 40), "conversations[1].value", "does not say"),
        ("mathv360k", asked("?", "1", conversations=[{"from": "human", "value": "?"}]), "conversations", "one question and one answer"),
        ("mathv360k", asked("?", "1", conversations=[{"from": "gpt"}, {"from": "gpt"}]), "conversations[0].from", "human"),
        ("mathv360k", asked("<image>?", "The answer is 1", "TabMWP/none.png"), "image", "TabMWP/none.png: "),
        ("geometry3k", {"images": [], "problem": "<image>?", "answer": "1"}, "problem", "1 <image> markers for 0"),
        ("geometry3k", {"images": [{"bytes": png(1)[:30], "path": None}], "problem": "<image>?", "answer": "1"}, "images", "broken"),
        ("geometry3k", {"images": [{"bytes": None, "path": None}], "problem": "<image>?", "answer": "1"}, "images", "must be"),
        ("mmk12", {"id": "1", "question": "<image>?", "answer": "1", "image": 7}, "image", "must be"),
        ("virl39k", VIRL | {"question": "?", "image": ["images/1.png", "images/2.png"]}, "question", "0 <image> markers for 2"),
        ("virl39k", VIRL | {"question": "<image2> <image2>", "image": ["images/1.png", "images/2.png"]}, "question", "each of 2 pictures once"),
        ("virl39k", VIRL | {"question": "<image1>", "answer": "\\boxed{ }"}, "answer", "empty"),
        ("virl39k", VIRL | {"question": "<image>"}, "question", "empty"),
        ("geoqa_r1v", {"image": None, "problem": "?", "solution": "145"}, "solution", "one <answer>"),
        ("open_r1_8k", OPEN | {"solution": "<answer>1</answer><answer>2</answer>"}, "solution", "one <answer>...</answer>, not 2"),
        ("open_r1_8k", OPEN | {"solution": "<answer> </answer>"}, "solution", "empty"),
        ("openai", CHAT | {"messages": []}, "messages", "at least one"),
        ("openai", CHAT | {"messages": [{"role": ["user"], "content": "?"}]}, "messages[0].role", "must be one of"),
        ("openai", CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]}, "messages[0].content[0]", "a data: URL is not read"),
        ("openai", CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://127.0.0.1/a"}]}]}, "messages[0].content[0]", "nothing is downloaded"),
        ("openai", {"messages": CHAT["messages"]}, "answer", "missing"),
        ("rows", {"id": "1", "question": "?", "choices": "[1", "answer": "1"}, "choices", "list of texts"),
        ("rows", {"id": "", "question": "?", "answer": "1"}, "id", "empty"),
    ],
)  # fmt: skip
def test_trial_31_a_bad_row_names_file_row_and_field(
    tmp_path: Path, source: str, row: Row, field: str, says: str
) -> None:
    """Catches trials 27, 30 and 31 in each layout: a row without one clear answer, or with a shifted or foreign picture."""
    make_folder(tmp_path, PICTURES)
    path = write(tmp_path, row)
    problems, (fault,) = read_problems(path, ImageStore(), VERIFIERS, reader=SOURCES[source])
    assert problems == []
    assert (fault.file, fault.row, fault.field) == (str(path), 1, field), fault
    assert says in fault.message and "\n" not in str(fault), fault


def test_trial_32_the_same_id_twice(tmp_path: Path) -> None:
    """Catches trial 32: two rows with one id; and rows without ids that get the same one in two files."""
    row = {"qid": "q", "question": "?", "answer": "\\boxed{1}", "image": None}
    (_,), (fault,) = read_problems(write(tmp_path, row, row), ImageStore(), reader=SOURCES["virl39k"])
    assert str(fault) == f"{tmp_path / 'rows.jsonl'}:2 [id]: 'virl39k-q' was used in row 1 already"
    ids = set()
    for question in ("1+1?", "2+2?"):
        problems, _ = read_problems(write(tmp_path, *[MESSAGE | {"message": turns(text(question))}] * 2), ImageStore(), reader=SOURCES["message"])  # fmt: skip
        ids |= {p.id for p in problems}
    assert len(ids) == 4


def test_trial_27_media_tokens_are_text_and_numbered_markers_name_their_picture(tmp_path: Path) -> None:
    """Catches trial 27: a spelled token that is lost or becomes a placeholder, and pictures that swap places."""
    spelled = "<|image_pad|><|vision_start|> and <|im_end|>?"
    for source, row in (
        ("deepscaler", {"problem": spelled, "answer": "1"}),
        ("message", {"answer": "1", "message": turns(text(spelled))}),
        ("mathv360k", asked(f"Question: {spelled}", "The answer is 1", None)),
    ):
        (problem,), _ = read_problems(write(tmp_path, row), ImageStore(), reader=SOURCES[source])
        assert problem.messages[-1].content == (Text(spelled),)
    make_folder(tmp_path, PICTURES)
    images = ImageStore()
    row = VIRL | {"question": "<image2> after <image1>", "image": ["images/1.png", "images/2.png"]}
    (problem,), _ = read_problems(write(tmp_path, row), images, reader=SOURCES["virl39k"])
    shades = [int(images.get(p.sha)[0, 0, 0]) if isinstance(p, Image) else p.text for p in problem.messages[0].content]
    assert shades == [6, " after ", 5]


def test_trial_29_each_row_has_its_own_pictures(tmp_path: Path) -> None:
    """Catches trial 29: rows with none, one and three pictures whose pictures change places."""
    shuffled = random.Random(0)
    rows, wanted = [], []
    for n in range(60):
        shades = [shuffled.randrange(250) for _ in range((0, 1, 3)[n % 3])]
        rows.append({"id": str(n), "images": [hub_image(s) for s in shades], "problem": "<image>" * len(shades) + "?", "answer": "1"})  # fmt: skip
        wanted.append(shades)
    images = ImageStore()
    problems, faults = read_problems(write(tmp_path, *rows), images, reader=SOURCES["geometry3k"])
    assert faults == []
    assert [[int(images.get(i.sha)[0, 0, 0]) for i in p.images] for p in problems] == wanted


def test_the_given_prefix_reaches_the_reader(tmp_path: Path) -> None:
    """Catches rows of another cluster that cannot be read though the caller says where their pictures are."""
    make_folder(tmp_path / "mine", {"1.png": png(9)})
    row = {"answer": "1", "message": turns(text("?"), {"type": "image", "image": "/srv/test//images/1.png"})}
    path = write(tmp_path, row)
    found = list(problems_in(path, ImageStore(), None, SOURCES["message"], prefixes=[("/srv/test//images", "mine")]))
    assert isinstance(found[0][1], Problem) and len(found[0][1].images) == 1


def test_csv_rows_hold_lists_as_json(tmp_path: Path) -> None:
    """Catches a table whose options arrive as one text, and an interval taken for a list of options."""
    (tmp_path / "x.csv").write_text(
        'id,question,choices,answer,image\n1,Which?,"[""1"", ""2""]",B,\n2,Where?,,"[0,3)",\n'
    )
    problems, faults = read_problems(tmp_path / "x.csv", ImageStore(), VERIFIERS, reader=SOURCES["rows"])
    assert ([p.choices for p in problems], faults) == ([("1", "2"), None], [])
    assert problems[1].answer == "[0,3)"


KEYS = sorted({key for _, row, *_ in GOOD for key in row} | {"meta", "image_sha", "datasource", "verifier", "env"})
SAMPLES = [row[key] for _, row, *_ in GOOD for key in row if not has_bytes(row[key])]
leaves = (
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(max_size=12) | st.binary(max_size=5)
    | st.sampled_from([datetime.date(2025, 1, 1), Decimal("1.5"), 10**4000, "<image>", "$\\boxed{", "{{", "A", "The answer is", "user", "human", "gpt"])
    | st.sampled_from(SAMPLES)
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "image", "image_url", "url", "role", "content", "from", "value", "bytes", "path"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


def no_picture(item: str | bytes) -> Image:
    raise DataError(Fault("no picture"))


@pytest.mark.parametrize("source", SOURCES)
def test_no_row_raises_anything_but_a_data_error(source: str) -> None:
    """Catches a row of any shape that ends the preparation with a traceback."""
    reader = SOURCES[source]
    good = [row for name, row, *_ in GOOD if name == source] or [
        {"id": "p", "messages": CHAT["messages"], "answer": "1"}
    ]
    strategy = st.dictionaries(st.sampled_from(KEYS), values, max_size=6)

    @settings(max_examples=150, deadline=None, database=None)
    @given(row=strategy, base=st.sampled_from([{}, *good]), put=st.sampled_from([no_picture, lambda item: Image("0" * 64, 9, 9)]))  # fmt: skip
    def run(row: Row, base: Row, put: Any) -> None:
        caught: tuple[Fault, ...] = ()
        try:
            problem = reader(base | row, 1, put)
        except DataError as error:
            caught = error.faults
        if caught:
            assert all(fault.field for fault in caught), caught
            return
        assert problem.id and problem.answer.strip() and problem.messages
        json.dumps(dict(problem.meta), allow_nan=False)

    run()


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("open_r1_8k", OPEN | {"solution": "<answer>" * 900_000}),
        ("mathv360k", asked("Hint:" + " " * 4_000_000 + "x\nChoices:\n" + "(A) " * 500_000, "The answer is " * 300_000, None)),
        ("deepscaler", {"problem": "A. \n" * 1_000_000, "answer": "A"}),
        ("message", {"answer": "$" * 4_000_000, "message": turns(text("<image" * 900_000))}),
        ("virl39k", VIRL | {"image": None, "question": "a" * 5_000_000, "answer": "\\boxed{" * 1_000_000}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_a_long_row_does_not_hang_its_reader(source: str, row: Row) -> None:
    """Catches a pattern whose time grows with the square of a row's length: here it would be hours."""
    with contextlib.suppress(DataError):
        SOURCES[source](row, 1, no_picture)


REAL = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.mark.parametrize("name", ["gsm8k_train_2000", "math_train_2000", "olympiadbench_text", "mathvision_testmini"])
def test_real_rows_pass_or_have_a_reason(name: str) -> None:
    """Catches a reader that fails on text as it is really written: every row is a problem or a fault with its field."""
    path = REAL / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    problems, faults = read_problems(path, ImageStore(), VERIFIERS, reader=SOURCES["rows"])
    count = sum(1 for _ in path.open("rb"))
    assert len(problems) + len(faults) == count
    assert all(fault.row and fault.field for fault in faults)
    # MathVision's copy has rows whose several pictures were merged into one: their markers fit no more.
    assert len(problems) >= (0.8 if "vision" in name else 0.95) * count, faults[:5]
