"""A data set of the Hugging Face hub -> its rows, streamed: "owner/name", with ":split" (default train) or "@revision".

The library `datasets` does the reading (an extra). The revision is resolved to a commit first and read at that commit,
so that what was prepared can be named. Pictures come as bytes, never decoded here; no code of a data set is run; a
token that the library knows of is used by it and shown by nobody.
Left out: configurations other than the default one, and any cache of rows.
Source: https://huggingface.co/docs/datasets/stream
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from lmm_r1.data.raw.rows import Input, Rows, open_file, unwritable
from lmm_r1.errors import DataError, Fault

try:
    import datasets
except ImportError:  # an extra: files on the disk do not need it
    datasets = None

_ID = re.compile(r"(\w[\w.-]{0,95}/\w[\w.-]{0,95})(?:@(\w[\w./-]{0,99}))?(?::(\w[\w.-]{0,99}))?", re.ASCII)
_FILES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".txt", ".gz", ".zip")
_TOKEN = re.compile(r"hf_\w{4,}|Bearer \S+")
_TIMEOUT = 20.0  # seconds for the answer about the revision
#: Where the exceptions come from that a lost network, a missing data set or a refused one raises.
_LIBRARIES = {
    "aiohttp",
    "datasets",
    "fsspec",
    "httpcore",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "pyarrow",
    "requests",
    "urllib3",
}


def is_hub_id(where: str | Path) -> bool:
    """Whether a text names a data set of the hub rather than a file: "owner/name...", no such file, no file's ending."""
    text = str(where)
    return _ID.fullmatch(text) is not None and not text.lower().endswith(_FILES) and not Path(text).exists()


def open_input(where: str | Path) -> Input:
    """The rows of a file or of a data set of the hub.

    Raises DataError as `rows.rows` does, and when the hub cannot be reached or refuses.
    """
    return open_hub(str(where)) if is_hub_id(where) else open_file(where)


def open_hub(where: str) -> Input:
    """The rows of "owner/name", "owner/name:split", "owner/name@revision" or "owner/name@revision:split".

    `revision` of the result is the commit that is read. Raises DataError without the library, or without the data set.
    """
    parts = _ID.fullmatch(where)
    if parts is None:
        raise DataError(
            Fault("is no data set of the hub (owner/name, owner/name:split, owner/name@revision)", file=where[:200])
        )
    if datasets is None:
        raise DataError(
            Fault("data sets of the hub need the library datasets", file=where, remedy='pip install "lmm-r1[data]"')
        )
    name, revision, split = parts[1], parts[2], parts[3] or "train"
    try:
        commit = str(HfApi().dataset_info(name, revision=revision, timeout=_TIMEOUT).sha)
        table = datasets.load_dataset(name, split=split, revision=commit, streaming=True, trust_remote_code=False)
        records = iter(table.decode(False))
    except Exception as error:
        if _is_of_the_hub(error):
            raise DataError(_fault(error, where)) from None
        raise
    return Input(where, _rows(records, where), commit)


def _rows(records: Iterator[dict[str, Any]], where: str) -> Rows:
    number = 0
    while True:
        number += 1
        try:
            row = next(records, None)
        except Exception as error:
            if _is_of_the_hub(error):
                raise DataError(_fault(error, where, number)) from None
            raise
        if row is None:
            return
        bad = unwritable(row)
        yield number, Fault(bad[1], where, number, bad[0]) if bad else row


def _is_of_the_hub(error: Exception) -> bool:
    made_in = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError | ValueError | TypeError | KeyError | RuntimeError) or bool(made_in & _LIBRARIES)


def _fault(error: Exception, where: str, number: int | None = None) -> Fault:
    text = " ".join(_TOKEN.sub("...", str(error)).split())[:300] or type(error).__name__
    return Fault(
        f"cannot be read from the hub: {text}",
        where,
        number,
        remedy="without a connection, download its files elsewhere and give their path",
    )
