"""Files and data sets of the hub as rows: whatever stands in them, the rows behind a bad one are read."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmm_r1.data.images import ImageStore
from lmm_r1.data.raw import columnar, hub
from lmm_r1.data.raw.rows import MAX_LINE, open_file, rows
from lmm_r1.data.raw.sources import SOURCES, read_problems
from lmm_r1.errors import DataError, Fault

Found = list[tuple[int, Any]]


def read(path: Path, data: bytes | str | None = None) -> Found:
    if data is not None:
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return list(rows(path))


def fault_in(found: Found, number: int, says: str, field: str = "") -> None:
    """The row `number` is a fault that says where it is; all others are good."""
    faults = [(n, row) for n, row in found if isinstance(row, Fault)]
    assert [n for n, _ in faults] == [number], faults
    fault = faults[0][1]
    assert (fault.row, fault.field) == (number, field), fault
    assert says in fault.message and "\n" not in str(fault), fault


GOOD = b'{"a": "1"}'


@pytest.mark.parametrize(
    ("line", "says", "field"),
    [
        (b'{"a": "x\x00y"}', "control character", ""),
        (b'{"a": "x\\u0000y"}', "NUL", "a"),
        (b'{"a": "1", "b": {"c": ["x", "\xff"]}}', "UTF-8", "b.c[1]"),
        (b'{"a": "\\ud800"}', "surrogate", "a"),
        (b'{"a": "1"},', "not JSON", ""),
        (b'{"a": "1",}', "not JSON", ""),
        (b'{"a": NaN}', "NaN", ""),
        (b'{"a": 1e999}', "too large", ""),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON", ""),
        (b'{"a": ' * 5000, "", ""),
        (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", "", ""),
        (b'{"a": "' + b"x" * 10_000_000 + b'"}', "too long", ""),
        (b'["a"]', "not an object", ""),
        (b"\xff\xfe{\x00}\x00", "not JSON", ""),
    ],
    ids=lambda x: str(x[:20]),
)
def test_trial_32_a_bad_line_is_one_fault(tmp_path: Path, line: bytes, says: str, field: str) -> None:
    """Catches trial 32: a NUL, bad UTF-8, trailing comma or 10 MB line that crashes, or takes its neighbours with it."""
    found = read(tmp_path / "x.jsonl", GOOD + b"\n" + line + b"\n\n" + GOOD + b"\n")
    fault_in(found, 2, says, field)
    assert [n for n, _ in found] == [1, 2, 4]


def test_trial_32_a_byte_order_mark_and_crlf_change_nothing(tmp_path: Path) -> None:
    """Catches trial 32: files saved on Windows whose first row, or every row, is refused."""
    rows_ = '{"a": "ä"}\r\n{"a": "2"}\r\n'
    assert read(tmp_path / "x.jsonl", b"\xef\xbb\xbf" + rows_.encode()) == [(1, {"a": "ä"}), (2, {"a": "2"})]
    assert read(tmp_path / "x.json", b'\xef\xbb\xbf\r\n[{"a": "\xc3\xa4"},\r\n{"a": "2"}]\r\n') == [
        (1, {"a": "ä"}),
        (2, {"a": "2"}),
    ]
    assert read(tmp_path / "x.csv", b"\xef\xbb\xbfa,b\r\n1,\r\n") == [(2, {"a": "1", "b": None})]


@pytest.mark.parametrize(
    ("text", "number", "says", "after"),
    [
        ('[{"a": 1}, {"a": 2},]', 3, "comma", 0),
        ('[{"a": 1}, {"a": x}, {"a": 3}]', 2, "not JSON", 1),
        ('[{"a": 1}, {"a": "\x01"}, {"a": 3}]', 2, "not JSON", 1),
        ('[{"a": 1}, {"a": [{"b": 1}, {"b": 2}, {"b" 3}, {"b": 4}]}, {"a": 3}, {"a": 4}]', 2, "not JSON", 2),
        ('[{"a": 1}, {"a": 2', 2, "no row can be found behind it", 0),
        ('[{"a": 1}, {"a": 2}', 3, "not closed", 0),
        ('[{"a": 1},', 2, "not closed", 0),
        ('[{"a": 1} {"a": 2}]', 2, "comma is missing", 1),
        ('[{"a": 1}, 7, {"a": 2}]', 2, "not an object", 1),
        ('[{"a": 1}] {"a": 2}', 2, "behind the array", 0),
        ('[{"a": 1}, {"a": "\\ud800"}, {"a": 3}]', 2, "surrogate", 1),
        ('[{"a": 1}, {"a": NaN}, {"a": 3}]', 2, "NaN", 1),
        ("[1,", 1, "not an object", -1),
    ],
)
def test_a_broken_array_costs_the_broken_rows_alone(
    tmp_path: Path, text: str, number: int, says: str, after: int
) -> None:
    """Catches an array of which one bad element loses all, or whose inner objects are taken for rows."""
    found = read(tmp_path / "x.json", text)
    if after >= 0:
        fault_in(found, number, says, "a" if "surrogate" in says else "")
        assert len([n for n, row in found if n > number and not isinstance(row, Fault)]) == after
        assert all(set(row) == {"a"} for _, row in found if not isinstance(row, Fault))
    else:
        assert all(isinstance(row, Fault) for _, row in found)


def test_an_array_is_read_within_a_bounded_memory(tmp_path: Path) -> None:
    """Catches that MathV360K's 175 MB array is loaded whole: here 24 MB, in rows that cross every boundary."""
    path = tmp_path / "big.json"
    text = "ä" * 700
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n  ")
        for n in range(16_000):
            file.write((",\n  " if n else "") + json.dumps({"n": n, "text": text}, ensure_ascii=False))
        file.write("\n]\n")
    tracemalloc.start()
    count = 0
    for number, row in rows(path):
        assert not isinstance(row, Fault) and (number, row["text"]) == (row["n"] + 1, text)
        count += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 16_000
    assert path.stat().st_size > 22_000_000 and peak < 12_000_000, peak


def test_a_long_element_is_refused_and_the_next_one_read(tmp_path: Path) -> None:
    """Catches a row of tens of megabytes that fills the memory, or ends the file."""
    found = read(tmp_path / "x.json", '[{"a": "' + "x" * (MAX_LINE + 10) + '"}, {"a": "1"}]')
    fault_in(found, 1, "too long")
    assert found[1] == (2, {"a": "1"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(items=st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=3), max_size=5), indent=st.none() | st.integers(0, 2),
       plain=st.booleans())  # fmt: skip
def test_an_array_says_what_the_library_says(
    tmp_path_factory: pytest.TempPathFactory, items: list[Any], indent: int | None, plain: bool
) -> None:
    """Catches a streamed array that differs from the one that json reads whole."""
    text = json.dumps(items, indent=indent, ensure_ascii=plain)
    found = read(tmp_path_factory.mktemp("a") / "x.json", text)
    assert [n for n, _ in found] == list(range(1, len(items) + 1))
    for (_, row), item in zip(found, items, strict=True):
        assert row == item or (isinstance(row, Fault) and "\\u0000" in json.dumps(item)), row


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60), head=st.sampled_from([b"", b"[", b'[{"a": 1}, ', b'{"a": 1}\n', b"\xef\xbb\xbf", b"a,b\n", b"PAR1", b"ARROW1\0\0", b"\xff\xfe", b"\xfe\xff{\0", b'{"data": [', b'{"rows": [{"a": 1}, ', b"sep=;\n", b"a;b\n"]),
       suffix=st.sampled_from([".json", ".jsonl", ".csv", ".tsv", ".parquet"]))  # fmt: skip
def test_no_bytes_crash_a_file(tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes, suffix: str) -> None:
    """Catches anything but rows, faults and DataError from a file of arbitrary bytes."""
    with contextlib.suppress(DataError):
        for number, row in read(tmp_path_factory.mktemp("b") / f"x{suffix}", head + data):
            assert number >= 1
            assert isinstance(row, Fault | dict)
            assert "\n" not in str(row) or isinstance(row, dict)


def test_trial_32_csv_with_mixed_columns(tmp_path: Path) -> None:
    """Catches trial 32: a record with a column too many whose cells slide into the wrong fields."""
    found = read(tmp_path / "x.csv", 'q,a\n"1,\n1",x\n2\n3,4,5\n"a\x00b",6\n\n7,8\n')
    assert found[0] == (2, {"q": "1,\n1", "a": "x"})
    assert [(n, row.field) for n, row in found if isinstance(row, Fault)] == [(4, ""), (5, ""), (6, "q")]
    assert "1 columns, the header 2" in found[1][1].message
    assert found[-1] == (8, {"q": "7", "a": "8"})
    with pytest.raises(DataError, match="different names"):
        read(tmp_path / "x.csv", "q,q\n1,2\n")
    found = read(tmp_path / "x.csv", 'q,a\n1,"' + "x" * 200_000 + '"\n3,4\n')
    fault_in(found, 2, "not CSV")


def test_files_that_are_no_data(tmp_path: Path) -> None:
    """Catches a compressed, missing or empty file, or a folder, that reaches the user as noise."""
    with pytest.raises(DataError, match="compressed \\(gzip\\)"):
        read(tmp_path / "x.jsonl", b"\x1f\x8b\x08\x00")
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)
    assert read(tmp_path / "empty.jsonl", b"") == []
    assert read(tmp_path / "empty.json", b"[]") == []


def test_trial_33_a_data_set_without_rows(tmp_path: Path) -> None:
    """Catches trial 33: an empty data set that is only noticed when a batch is wanted."""
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataError, match="holds no problems"):
        read_problems(tmp_path / "x.json", ImageStore(), strict=True, reader=SOURCES["deepscaler"])


def test_shards_are_one_input(tmp_path: Path) -> None:
    """Catches shards that are read in a random order, or whose row numbers begin again."""
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"from": "{name}"}}\n{{\n')
    found = read(tmp_path / "*.jsonl")
    assert [n for n, _ in found] == [1, 2, 3, 4]
    assert [row["from"] for _, row in found[::2]] == ["a", "b"]
    assert str(found[3][1]).startswith(f"{tmp_path / '*.jsonl'}:4: is not JSON")
    with pytest.raises(DataError, match="no file"):
        read(tmp_path / "*.parquet")


# ---- parquet and arrow


def tables() -> Any:
    return pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'lmm-r1[data]'")


def test_parquet_and_arrow_hold_the_rows_of_the_hub(tmp_path: Path) -> None:
    """Catches pictures that lose their bytes, and the two arrow formats taken for each other."""
    pa = tables()
    import pyarrow.feather
    import pyarrow.parquet

    items = [{"n": n, "image": {"bytes": b"\x89PNG", "path": None}, "images": [{"bytes": b"x", "path": "a.png"}]} for n in range(150)]  # fmt: skip
    table = pa.Table.from_pylist(items)
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=40)
    pyarrow.feather.write_feather(table, tmp_path / "x.arrow")
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("x.parquet", "x.arrow", "stream.arrow"):
        found = read(tmp_path / name)
        assert [n for n, _ in found] == list(range(1, 151))
        assert [row for _, row in found] == items


def test_a_broken_parquet_file_costs_its_broken_rows(tmp_path: Path) -> None:
    """Catches a flipped byte in one row group that loses all others, text that is not UTF-8, and a file cut off."""
    pa = tables()
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    table = pa.table({"a": [f"text {n}" for n in range(30)]})
    pyarrow.parquet.write_table(table, path, row_group_size=10, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    place = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[place + 40 : place + 60] = b"\xff" * 20
    path.write_bytes(data)
    found = read(path)
    fault_in(found, 11, "rows 11 to 20 cannot be read")
    assert [row["a"] for _, row in found if not isinstance(row, Fault)] == [f"text {n}" for n in (*range(10), *range(20, 30))]  # fmt: skip
    assert found[-1][0] == 30

    bad = pa.array([b"good", b"\xff\xfe", b"good"], pa.binary()).view(pa.utf8())
    pyarrow.parquet.write_table(pa.table({"n": [1, 2, 3], "a": bad}), path)
    found = read(path)
    fault_in(found, 2, "cannot be read", "a")
    assert found[2] == (3, {"n": 3, "a": "good"})

    path.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(DataError, match="is not parquet"):
        read(path)


def test_without_the_library_parquet_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback where one line would do, and text files that need pyarrow."""
    monkeypatch.setattr(columnar, "pyarrow", None)
    with pytest.raises(DataError, match=r'need the library pyarrow \(pip install "lmm-r1\[data\]"\)'):
        read(tmp_path / "x.parquet", b"PAR1....PAR1")
    assert read(tmp_path / "x.jsonl", GOOD) == [(1, {"a": "1"})]
    code = "import sys; sys.modules['pyarrow'] = None; sys.modules['datasets'] = None; import lmm_r1.data.raw.hub"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the hub


class FakeHub:
    """Stands for the libraries datasets and huggingface_hub."""

    def __init__(self, items: list[Any], fails: Exception | None = None) -> None:
        self.items, self.fails, self.calls = items, fails, []

    def HfApi(self) -> FakeHub:
        return self

    def dataset_info(self, name: str, revision: str | None, timeout: float) -> Any:
        self.calls.append((name, revision))
        if self.fails:
            raise self.fails
        return SimpleNamespace(sha="c0ffee")

    def load_dataset(self, name: str, **options: Any) -> FakeHub:
        self.calls.append((name, options))
        return self

    def decode(self, enable: bool) -> Any:
        self.calls.append(enable)
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            yield item


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*items: Any, fails: Exception | None = None) -> FakeHub:
        made = FakeHub(list(items), fails)
        monkeypatch.setattr(hub, "datasets", made)
        monkeypatch.setattr(hub, "HfApi", made.HfApi)
        return made

    return install


@pytest.mark.parametrize(
    ("where", "revision", "split"),
    [("o/n", None, "train"), ("o/n:test", None, "test"), ("o/n@v1.0", "v1.0", "train"), ("o/n@refs/pr/2:val", "refs/pr/2", "val")],
)  # fmt: skip
def test_a_data_set_of_the_hub_is_read_at_one_commit(fake: Any, where: str, revision: str | None, split: str) -> None:
    """Catches rows of a moving branch, pictures decoded by another library, and code of a data set that runs."""
    made = fake({"problem": "1+1?", "answer": "2"}, {"problem": "\0", "answer": "2"})
    found = hub.open_input(where)
    assert (found.name, found.revision, found.root) == (where, "c0ffee", None)
    problems, (fault,) = read_problems(found, ImageStore(), reader=SOURCES["deepscaler"])
    assert [p.answer for p in problems] == ["2"]
    assert str(fault) == f"{where}:2 [problem]: holds a NUL character"
    options = {"split": split, "revision": "c0ffee", "streaming": True, "trust_remote_code": False}
    assert made.calls == [("o/n", revision), ("o/n", options), False]


def test_what_the_hub_says_is_one_line_without_a_token(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback when offline, a token in a message, and a fault of ours hidden as one of the hub."""
    fake(fails=OSError("401 for\nhf_abcDEF123456 with Bearer hf_abcDEF123456"))
    with pytest.raises(DataError, match=r"cannot be read from the hub: 401 for .*download its files") as caught:
        hub.open_input("o/n")
    assert "abcDEF" not in str(caught.value) and "\n" not in str(caught.value)
    fake({"a": 1}, ConnectionError("lost"))
    with pytest.raises(DataError, match="o/n:2: cannot be read from the hub: lost"):
        list(hub.open_input("o/n").rows)
    fake(fails=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        hub.open_input("o/n")
    monkeypatch.setattr(hub, "datasets", None)
    with pytest.raises(DataError, match=r"need the library datasets \(pip install"):
        hub.open_input("o/n")
    with pytest.raises(DataError, match="no data set of the hub"):
        hub.open_hub("../n")


def test_a_file_is_not_taken_for_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a mistyped path that goes to the network, and a file that is asked from the hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows").write_text('{"a": 1}\n')
    assert not hub.is_hub_id("data/rows") and not hub.is_hub_id("data/none.jsonl") and not hub.is_hub_id("a/b/c")
    assert hub.is_hub_id("data/none") and hub.is_hub_id("hiyouga/geometry3k@main:test")
    assert list(hub.open_input("data/rows").rows) == [(1, {"a": 1})]
    assert open_file("data/rows").root == Path("data")


def test_the_real_library_streams_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a call that the installed library does not understand."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'lmm-r1[data]'")
    (tmp_path / "x.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "2+2?", "answer": "4"}\n')

    def load(name: str, split: str, revision: str, streaming: bool, trust_remote_code: bool) -> Any:
        options = {"data_files": {"train": str(tmp_path / "x.jsonl")}, "cache_dir": str(tmp_path / "cache")}
        return datasets.load_dataset("json", split=split, streaming=streaming, trust_remote_code=trust_remote_code, **options)  # fmt: skip

    monkeypatch.setattr(hub, "datasets", SimpleNamespace(load_dataset=load))
    monkeypatch.setattr(hub, "HfApi", FakeHub([]).HfApi)
    problems, faults = read_problems(hub.open_input("o/n"), ImageStore(), reader=SOURCES["deepscaler"])
    assert ([p.answer for p in problems], faults) == (["2", "4"], [])
